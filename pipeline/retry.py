"""Trying again: which failures of a network may pass, how long to wait for that, and how often it was needed."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

RETRIED = frozenset({429, 500, 502, 503, 504})
"""Answers that a later try may not give: too many requests, and a server or gateway in trouble."""
HASTY_TRIES = 3
"""Tries of what seldom passes: a refusal (a proxy or a restart may be behind it), or a server that never answered."""


@dataclass(frozen=True)
class Patience:
    """How long one request is tried for."""

    tries: int = 8
    first_wait_s: float = 1.0
    """Doubled after every try; a Retry-After of the server is waited for even where it is longer."""
    longest_wait_s: float = 60.0
    budget_s: float = 600.0
    """For one request with all its tries and waits."""
    connect_s: float = 10.0
    read_s: float = 60.0
    """Longest silence of the server; the Planetary Computer's search gives up by itself after 30 s."""
    sleep: Callable[[float], None] = time.sleep


PATIENCE = Patience()
"""For a request whose failure ends the run: a token, a file of labels."""


class Passing(Exception):
    """An answer that is no good, but the next one may be; the message says what was seen, without secrets."""

    def __init__(self, seen: str, *, wait_s: float = 0.0, hasty: bool = False) -> None:
        super().__init__(seen)
        self.seen, self.wait_s, self.hasty = seen, wait_s, hasty


class GaveUp(Exception):
    """No try was good; the message says what was seen last and how often it was tried.

    code: what a command leaves with that ends by it: 2 where it was refused, which a person may mend, else 1.
    """

    def __init__(self, seen: str, code: int = 1) -> None:
        super().__init__(seen)
        self.code = code


def insist(what: str, ask: Callable[[], T], patience: Patience | None = None) -> T:
    """What `ask` gives, as soon as it raises no Passing. Raises GaveUp; every try after the first is counted."""
    patience = patience or PATIENCE
    started, wait, tried = time.monotonic(), patience.first_wait_s, 0
    while True:
        tried += 1
        try:
            return ask()
        except Passing as passing:
            seen = passing
        pause = max(min(wait, patience.longest_wait_s), seen.wait_s)
        left = patience.budget_s - (time.monotonic() - started)
        if tried >= min(patience.tries, HASTY_TRIES if seen.hasty else patience.tries) or pause > left:
            raise GaveUp(f"{seen.seen}; tried {told(tried)}", 2 if seen.hasty else 1)
        count(what)
        patience.sleep(pause)
        wait *= 2


def told(tries: int) -> str:
    return "once" if tries == 1 else f"{tries} times"


def check_answer(response: requests.Response) -> None:
    """Passing for an answer that is not what was asked for: an error, or a web page. Its text is not told."""
    status = response.status_code
    if not 200 <= status < 300:
        raise Passing(f"HTTP {status} {response.reason}", wait_s=retry_after(response), hasty=status not in RETRIED)
    if "html" in response.headers.get("Content-Type", ""):
        raise Passing("a web page came", hasty=True)


def retry_after(response: requests.Response | None) -> float:
    """Seconds a server asks to wait for: Retry-After is a number of seconds or an HTTP date (RFC 9110, 10.2.3)."""
    said = (response.headers.get("Retry-After") or "").strip() if response is not None else ""
    if re.fullmatch(r"\d+(\.\d+)?", said):
        return float(said)
    try:
        when = email.utils.parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=dt.UTC)
    return max(0.0, (when - dt.datetime.now(dt.UTC)).total_seconds())


def broken(error: Exception) -> str:
    """Why there was no connection; the errors' own texts hold addresses with their query strings."""
    text = str(error)
    known = {
        "NameResolution": "its name is not known here",
        "getaddrinfo": "its name is not known here",
        "refused": "connection refused",
        "reset": "connection reset",
        "unreachable": "the network is unreachable",
    }
    return next((said for key, said in known.items() if key in text), "the connection broke")


_COUNTS = threading.local()
"""Per thread, as jobs are: a job tells its own."""


def count(what: str) -> None:
    """One request of a kind (search, token, raster, download) is tried again."""
    _counts()[what] += 1


def drain() -> Counter[str]:
    """What this thread has counted since it was last asked."""
    found = Counter(_counts())
    _counts().clear()
    return found


def _counts() -> Counter[str]:
    if not hasattr(_COUNTS, "counts"):
        _COUNTS.counts = Counter[str]()
    counts: Counter[str] = _COUNTS.counts
    return counts


def retries_told(counts: Counter[str]) -> list[str]:
    """A line for a stage's summary, if anything had to be asked for more than once."""
    said = ", ".join(f"{what} {told(n)}" for what, n in sorted(counts.items()))
    return [f"tried again after a failure: {said}"] if said else []
