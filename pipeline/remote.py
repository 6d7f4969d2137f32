"""Rasters over a network: opened as their source says, tried again, and never by what GDAL remembers of a failure.

GDAL itself tries a request again (`opening.GDAL_OPTIONS`), but keeps what it saw of a file by its address: after a
failed open the next one fails without a question ("not recognized as being in a supported file format", rasterio#2119),
and after a cut answer the file stays cut. So a file that failed is opened under another name for the same address.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from harmonize.secrets import guard_logs
from pipeline import retry
from pipeline.access import reachable

T = TypeVar("T")

PATIENCE = retry.Patience(tries=4, first_wait_s=2.0)
"""For one raster; it ends as rows with a reason, and the run goes on."""
REFUSED = re.compile(r"code: (?:401|403|404|410)\b")
SIGNATURE = re.compile(r"code: (?:401|403)\b")
"""In GDAL's words: `HTTP response code: 403`."""

HTTP = ("http://", "https://")


def most_requests() -> int:
    """Of a raster that fails in one place: GDAL splits a request there once, and tries each part again by itself."""
    from pipeline.opening import GDAL_OPTIONS

    return PATIENCE.tries * 2 * (1 + int(GDAL_OPTIONS["GDAL_HTTP_MAX_RETRY"]))


_FAILED: Counter[str] = Counter()
"""Address without signature -> how often it failed in this process."""
_LOCK = threading.Lock()


def read(href: str, sign: str, reader: Callable[[str], T]) -> T:
    """What `reader` makes of an address that can be opened now; one over the network is tried again.

    Raises UnreadableRaster, which says how often it was tried, at once where trying cannot help, and Problem where the
    signing service does not answer.
    """
    from pipeline.opening import UnreadableRaster, forget

    if "://" not in href:
        return reader(href)
    guard_logs()  # GDAL's warnings name signed addresses
    logging.getLogger("rasterio._env").addFilter(_TRIES)  # a second time changes nothing

    def ask() -> T:
        address = reachable(href, sign)
        try:
            return reader(_renamed(address, _FAILED[href]))
        except UnreadableRaster as error:
            if error.lasting:
                raise
            with _LOCK:
                _FAILED[href] += 1
            if not href.startswith(HTTP):
                forget(address)
            if sign == "planetary-computer" and SIGNATURE.search(error.seen):
                from pipeline.signing import renew

                renew(href, address)
            raise retry.Passing(str(error), hasty=bool(REFUSED.search(error.seen))) from None

    try:
        return retry.insist("raster", ask, PATIENCE)
    except retry.GaveUp as error:
        raise UnreadableRaster(f"{error}, may be tried again") from None


def _renamed(address: str, failures: int) -> str:
    """The same address under a name that GDAL has no memory of: a fragment is not sent to the server (RFC 9110, 4.2.5).

    Addresses of buckets have none; their failures are forgotten by `opening.forget`.
    """
    return f"{address}#{failures}" if failures and address.startswith(HTTP) else address


class _Tries(logging.Filter):
    """Counts how often GDAL tries again by itself: it says so in a warning each time."""

    def filter(self, record: logging.LogRecord) -> bool:
        if "Retrying again" in record.getMessage():
            retry.count("request")
        return True


_TRIES = _Tries()
