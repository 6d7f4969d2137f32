"""How an href can be opened: signed where its source says so, at read time only. No signed address is ever stored."""

from __future__ import annotations

import contextlib
import re
from urllib.parse import parse_qsl, urlsplit

from harmonize.secrets import SIGNATURES

PAID = "requester-pays+"
"""Before a scheme: the reader pays for what he reads, and GDAL has to say so (see `opening.options_of`)."""

_USER = re.compile(r"://[^/?#]*@")
"""`user:password@` before a host."""


def is_signed(href: str) -> bool:
    """Whether an address carries a signature or a key in its query string."""
    query = href.partition("?")[2].partition("#")[0]
    names = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    return bool(names & SIGNATURES) or any(name.startswith(("x-amz-", "x-goog-")) for name in names)


def without_secrets(href: str | None) -> str | None:
    """What a manifest names, as it is: it stands in receipts. ValueError (what | fix) where it holds a secret."""
    if href and not href.isprintable():
        raise ValueError("a path or address holds a character that is not seen | write it anew")
    from pipeline.reach import is_never

    if href and is_never(href):
        raise ValueError("machines keep their credentials at this address | give the address of the file itself")
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
        from pipeline.signing import signed

        return signed(href)
    if sign == "requester-pays" and href.startswith("s3://"):
        return PAID + href
    return href
