"""Tokens of the Planetary Computer: asked for behind one lock and with a timeout, renewed before they end.

The SDK (`planetary_computer`) knows which addresses are theirs and how one is signed. Its own request for a token has
no timeout and its cache no lock, so tokens are asked for here and put into its cache.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harmonize.problem import Problem
from pipeline import retry
from pipeline.retry import GaveUp, Passing, broken, check_answer, insist

if TYPE_CHECKING:
    from planetary_computer.sas import SASToken

MARGIN_S = 300.0
"""A token is renewed when less is left of it: a strip with all its tries takes minutes. Tokens last 45 minutes or more
(microsoft/PlanetaryComputer#388)."""
YOUNG_S = 30.0
"""A token younger than this is not asked for again: not where it is refused (that is not the token's fault), and not
where the service gives one that is nearly over."""
LEAST_S = 65.0
"""What must be left of a token: with less than 60 s the SDK would ask for another by itself."""
PUBLIC = "ai4edatasetspublicassets.blob.core.windows.net"
"""Thumbnails, which the SDK does not sign."""

_LOCK = threading.Lock()
"""Threads that start together would each ask for a token, and be told 429 (microsoft/PlanetaryComputer#457)."""
_ASKED: dict[str, float] = {}
"""Address of a token -> when it came, or was asked for in vain while the one before holds (monotonic seconds)."""


def signed(href: str) -> str:
    """An address with a token that holds for MARGIN_S, if it is one of the Planetary Computer's; else as it is.

    The result is not to be stored or said. Raises Problem where the service gives no token.
    """
    import planetary_computer

    address = _token_address(href)
    if address is None:
        return href
    with _LOCK:
        left = _left_s(address)
        if LEAST_S <= left < MARGIN_S and _age_s(address) >= YOUNG_S:
            _renew_early(address)
        if _left_s(address) < LEAST_S:
            _remember(address, href)
        return planetary_computer.sign_url(href)


def renew(href: str, refused: str) -> None:
    """Forget the token that `refused` (the href as it was signed) was not opened with, unless it is a new one."""
    from planetary_computer.sas import TOKEN_CACHE

    address = _token_address(href)
    with _LOCK:
        token = TOKEN_CACHE.get(address or "")
        if address and token and token.token in refused and _age_s(address) >= YOUNG_S:
            del TOKEN_CACHE[address]


def _token_address(href: str) -> str | None:
    """Where the token of an address is asked for; None for an address that is not theirs, or is public or signed."""
    from planetary_computer import sas
    from planetary_computer.settings import Settings
    from planetary_computer.utils import parse_blob_url

    from pipeline.access import is_signed

    try:
        url = urlsplit(href)
        if not url.netloc.endswith(sas.BLOB_STORAGE_DOMAIN) or url.netloc == PUBLIC or is_signed(href):
            return None
        return "/".join([str(Settings.get().sas_url), *parse_blob_url(url)])
    except ValueError:
        return None  # no address, or none of a file in a container: whoever opens it says so


def _left_s(address: str) -> float:
    from planetary_computer.sas import TOKEN_CACHE

    token = TOKEN_CACHE.get(address)
    return token.ttl() if token else 0.0


def _age_s(address: str) -> float:
    return time.monotonic() - _ASKED.get(address, -1e9)


def _renew_early(address: str) -> None:
    """Ask once: where the service does not answer, the present token is gone on with, and it is asked again later."""
    from planetary_computer.sas import TOKEN_CACHE

    try:
        TOKEN_CACHE[address] = _ask(address)
    except Passing:
        retry.count("token")
    _ASKED[address] = time.monotonic()


def _remember(address: str, href: str) -> None:
    """Put a fresh token into the SDK's cache."""
    from planetary_computer.sas import TOKEN_CACHE

    try:
        TOKEN_CACHE[address] = insist("token", lambda: _ask(address))
    except GaveUp as error:
        raise Problem(
            f"the Planetary Computer's signing service gives no token ({error})",
            where=href.partition("?")[0],
            fix="run the same command again later; PC_SDK_SUBSCRIPTION_KEY raises the rate limit",
            code=error.code,
        ) from None
    _ASKED[address] = time.monotonic()


def _ask(address: str) -> SASToken:
    """One request. Raises Passing. The subscription key goes into a header of this address and of no other."""
    import pydantic
    import requests
    from planetary_computer.sas import SASToken
    from planetary_computer.settings import Settings

    key = Settings.get().subscription_key
    timeout = retry.PATIENCE.connect_s, retry.PATIENCE.read_s
    headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
    try:
        response = requests.get(address, headers=headers, timeout=timeout, allow_redirects=False)
        check_answer(response)
        token = SASToken(**response.json())
    except requests.Timeout:
        raise Passing(f"no answer within {retry.PATIENCE.read_s:g} s") from None
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise Passing(broken(error)) from None
    except (requests.RequestException, pydantic.ValidationError, ValueError, TypeError) as error:
        raise Passing(f"its answer is no token: {type(error).__name__}", hasty=True) from None
    if token.ttl() < LEAST_S:
        raise Passing("the token has already ended, by this machine's clock", hasty=True)  # PlanetaryComputer#463
    return token
