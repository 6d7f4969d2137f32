"""How an href can be opened: signed where its source says so, at read time only. No signed address is ever stored."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from harmonize.problem import Problem

PAID = "requester-pays+"
"""Before a scheme: the reader pays for what he reads, and GDAL has to say so (see `raster.options_of`)."""

_SIGNATURES = {
    "sig", "se", "sp", "sv", "sr", "st", "skoid",  # Azure shared access signatures
    "signature", "expires", "key-pair-id", "policy", "awsaccesskeyid", "googleaccessid",
    "token", "access_token", "subscription-key", "apikey", "api_key", "key",
}  # fmt: skip
_USER = re.compile(r"://[^/?#]*@")
"""`user:password@` before a host."""
_LOCK = threading.Lock()
"""The SDK's cache of tokens has none: threads that start together would each ask for a token, and be told 429."""


def is_there(path: Path) -> bool:
    """Whether a file or folder is there; no for what cannot be a name (NUL in it, too long for a disk)."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_signed(href: str) -> bool:
    """Whether an address carries a signature or a key in its query string."""
    query = href.partition("?")[2].partition("#")[0]
    names = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    return bool(names & _SIGNATURES) or any(name.startswith(("x-amz-", "x-goog-")) for name in names)


def without_secrets(href: str | None) -> str | None:
    """What a manifest names, as it is: it stands in receipts. ValueError (what | fix) where it holds a secret."""
    if href and not href.isprintable():
        raise ValueError("a path or address holds a character that is not seen | write it anew")
    if href and (is_signed(href) or _USER.search(href)):
        raise ValueError(
            "an address with a signature, key or password would be written into receipts | give the plain address; "
            "sign = 'planetary-computer' signs it when it is opened, passwords belong into ~/.netrc"
        )
    return href


def unsigned(href: str) -> str:
    """An href as it may stand in a table: one that arrives signed loses its query string, one with a user's name and
    password loses them, `file://` is a path."""
    if href.startswith("file://"):
        with contextlib.suppress(ValueError):  # no address at all: told where it is checked
            return urlsplit(href).path
    href = _USER.sub("://", href)
    return href.partition("?")[0] if "?" in href and is_signed(href) else href


def reachable(href: str, sign: str) -> str:
    """An href as GDAL can open it now, by its source's `sign`. The result is not to be stored or said.

    Raises Problem where the signing service does not answer.
    """
    if sign == "planetary-computer" and "://" in href:
        return _signed(href)
    if sign == "requester-pays" and href.startswith("s3://"):
        return PAID + href
    return href


def _signed(href: str) -> str:
    import planetary_computer
    import pydantic
    import requests

    try:
        with _LOCK:
            return planetary_computer.sign_url(href)
    except (requests.RequestException, pydantic.ValidationError, ValueError) as error:
        answer = getattr(getattr(error, "response", None), "status_code", None)
        why = f"HTTP {answer}" if answer else type(error).__name__
        raise Problem(
            f"the Planetary Computer's signing service gives no token ({why})",
            where=href.partition("?")[0],
            fix="run the same command again later; PC_SDK_SUBSCRIPTION_KEY raises the rate limit",
        ) from None
