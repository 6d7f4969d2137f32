"""Requests to a STAC API: every one has a timeout, is retried with patience, and fails with words.

pystac-client's own retries cover neither POST (searches and their next pages) nor a total time, so they are off.
"""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from pystac_client.stac_api_io import StacApiIO
from requests.adapters import HTTPAdapter

from harmonize.problem import Problem
from harmonize.record import from_json
from pipeline.reach import check_page, reach_of
from pipeline.retry import HASTY_TRIES, PATIENCE, RETRIED, Patience, broken, count, retry_after
from pipeline.sandbox import size_of

MOST_BYTES, PIECE_BYTES = 64 << 20, 1 << 16
"""Of one answer: a page of 250 items has 12 MB at the most; and what is taken of it at once."""
PASSING = frozenset({401, 403, 404})
"""Refusals that a server which answered well before may take back."""


class Refused(Problem):
    """The server understood and said no (4xx)."""


def public(address: str) -> str:
    """An address without user, password and query string: what may stand in a message or a table."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class GuardedAdapter(HTTPAdapter):
    """Each request of a session, redirected ones too, goes where its API may send us (see `reach`)."""

    def __init__(self, most: int, where: str) -> None:
        super().__init__()
        self._most, self._where = most, where

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        check_page(str(request.url), self._most, self._where)
        return super().send(request, *args, **kwargs)


class PatientIO(StacApiIO):
    """pystac-client's reader with our retries; each failure is a Problem that names the address."""

    def __init__(self, api: str, where: str, patience: Patience | None = None, most: int | None = None) -> None:
        super().__init__(max_retries=None)
        self.api, self.where = api, where
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, GuardedAdapter(reach_of(api) if most is None else most, where))
        if size_of(api):
            self.session.trust_env = False  # a proxy of the environment does not know this machine's own addresses
        self.patience = patience or PATIENCE
        self.address = api
        self.answered = False
        self.proven = False
        """It has answered as an API does: a refusal or a web page now comes from a proxy or a restart, and may pass."""

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """The text of a page. pystac-client would open a file of this machine where a link names no address."""
        if isinstance(source, str) and not source.lower().startswith(("http://", "https://")):
            raise self.odd(f"a link names no address: {source.partition('?')[0][:80]}")
        return super().read_text(source, *args, **kwargs)

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The text of a good answer. Raises Problem when the server refuses or does not give one in time."""
        self.address, method = href, (method or "GET").upper()
        body = {"json": parameters} if method == "POST" else {"params": parameters or None}
        started, wait, seen = time.monotonic(), self.patience.first_wait_s, "no answer"
        for attempt in range(1, self.patience.tries + 1):
            response, seen = self._try(method, href, headers, body)
            self.answered = self.answered or response is not None
            hasty = not self.answered
            if response is not None and response.status_code not in RETRIED:
                hasty = self.proven and (response.status_code in PASSING or _is_page(response))
                if not hasty or attempt >= min(HASTY_TRIES, self.patience.tries):
                    return self._text(response)
            asked = retry_after(response)
            pause = max(min(wait, self.patience.longest_wait_s), asked)
            left = self.patience.budget_s - (time.monotonic() - started)
            last = min(HASTY_TRIES, self.patience.tries) if hasty else self.patience.tries
            if attempt == last or pause > left:
                raise self._gave_up(attempt, seen, asked)
            count("search")
            self.patience.sleep(pause)
            wait *= 2
        raise AssertionError("a request is tried at least once")

    def _try(
        self, method: str, href: str, headers: dict[str, str] | None, body: dict[str, Any]
    ) -> tuple[requests.Response | None, str]:
        """One try: the answer, if there is one, and what was seen in a few words."""
        timeout = self.patience.connect_s, self.patience.read_s
        try:
            response = self.session.request(method, href, headers=headers, timeout=timeout, stream=True, **body)
            self._take(response)
        except requests.Timeout:
            return None, f"no answer within {self.patience.read_s:g} s"
        except requests.exceptions.SSLError:
            return None, "its certificate is not accepted"
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            return None, broken(error)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
            fix = "an API's address looks like https://earth-search.aws.element84.com/v1"
            raise Problem(f"this is no address of a STAC API: {public(href)}", where=self.where, fix=fix) from None
        except requests.RequestException as error:
            return None, type(error).__name__
        if response.history and response.request.method != method:
            # Followed as a GET without its body (RFC 9110, 15.4.2): the answer would be every item there is.
            first = response.history[0]
            raise Refused(
                f"the STAC API sends a search elsewhere: {public(href)} (HTTP {first.status_code})",
                where=self.where,
                fix=f"give the address it has moved to as api; the search goes to {public(response.url)}",
            )
        return response, f"HTTP {response.status_code} {response.reason}"

    def _take(self, response: requests.Response) -> None:
        """Take in an answer's body up to MOST_BYTES, whatever it is packed into: some bytes may unpack to gigabytes."""
        body = bytearray()
        for piece in response.iter_content(PIECE_BYTES):
            body += piece
            if len(body) > MOST_BYTES:
                response.close()
                raise self.odd(f"an answer has more than {MOST_BYTES >> 20} MiB")
        response._content = bytes(body)  # what .content and .text give from here on

    def _gave_up(self, tries: int, seen: str, asked: float) -> Problem:
        if asked > self.patience.budget_s:
            seen += f", and it asks to wait for {asked / 60:.0f} minutes"
        return Problem(
            f"the STAC API does not answer: {public(self.address)} ({seen}; tried {tries} times)",
            where=self.where,
            fix="check the address and the network; if the service is in trouble, run the same command again later",
        )

    def _text(self, response: requests.Response) -> str:
        status = response.status_code
        if not 200 <= status < 300:
            raise Refused(
                f"the STAC API refuses: {public(self.address)} (HTTP {status}: {_message(response)})",
                where=self.where,
                fix="check api and collection of the source",
            )
        if _is_page(response):
            raise Problem(
                f"a web page came instead of JSON: {public(self.address)}",
                where=self.where,
                fix="check api: it is the API's own address, not its browser page; a proxy or log-in page may answer",
            )
        return response.content.decode("utf-8", "replace")

    def json_loads(self, txt: str, *_: Any, **__: Any) -> dict[str, Any]:
        """A JSON object; pystac calls this on every text it reads."""
        try:
            found = from_json(txt)
        except ValueError as error:
            raise self.odd(f"broken JSON came ({str(error)[:80]})") from None
        if not isinstance(found, dict):
            raise self.odd("the answer is no JSON object")
        return found

    def odd(self, what: str) -> Problem:
        """A Problem for an answer that no STAC API gives."""
        return Problem(
            f"the STAC API's answer cannot be used: {what}: {public(self.address)}",
            where=self.where,
            fix="check api; if it is right, tell the service's operator, or use another source",
        )


def _is_page(response: requests.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "") or response.content.lstrip()[:1] == b"<"


def _message(response: requests.Response) -> str:
    """The server's own message in one short line, without query strings."""
    text = response.text
    try:
        said = from_json(text)
        keys = ("description", "detail", "message", "title", "error")
        text = next((str(said[k]) for k in keys if isinstance(said, dict) and said.get(k)), text)
    except ValueError:
        text = "a web page" if "<" in text[:200] else text
    return re.sub(r"\?\S*", "", " ".join(text.split()))[:200] or response.reason
