"""A small archive that fails on demand: a STAC API, a signing service, and files by range, with twelve faults.

Kinds of request: `search` (POST /search), `sign` (/sas/…), `raster` and `download` (/account/container/…). A kind is
broken by `break_(kind, fault, times)`: after `after` good answers its next `times` ones are the fault, then all is well.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import planetary_computer.sas
import planetary_computer.settings
import pytest
from stub_stac import StubStac

from pipeline import opening, remote
from pipeline.retry import Patience

KINDS = ("search", "sign", "raster", "download")
FOREVER = 10**6
STALL_S = 0.6
"""How long a stalled answer stands still; tests give up before."""
GDAL_TRIES = 2
"""GDAL's own tries of a request after the first, in tests."""
CANARY = "C4naryOfTheSignature"
"""Part of every signature: it must appear in no file and no text."""


@dataclass(frozen=True)
class Answer:
    """What is said where nothing is wrong."""

    data: bytes
    code: int = 200
    kind: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    whole: bytes = b""
    """All of a file of which `data` is a part."""


Handler = BaseHTTPRequestHandler


def send(handler: Handler, answer: Answer, said: int | None = None) -> None:
    """An answer; `said` is the Content-Length if it is not the truth."""
    handler.send_response(answer.code)
    length = len(answer.data) if said is None else said
    for key, value in ({"Content-Type": answer.kind, "Content-Length": str(length)} | answer.headers).items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(answer.data)


def _status(code: int, **headers: str) -> Callable[[Handler, Answer], None]:
    def fault(handler: Handler, _: Answer) -> None:
        said = {key.replace("_", "-"): value for key, value in headers.items()}
        send(handler, Answer(b"in trouble", code, "text/plain", said))

    return fault


def _expired(handler: Handler, _: Answer) -> None:
    """As Azure says it."""
    text = (
        b"<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>Signature not valid</Message></Error>"
    )
    send(handler, Answer(text, 403, "application/xml"))


def _reset(handler: Handler, answer: Answer) -> None:
    """Half of the body, then the connection is torn down (RST)."""
    send(handler, dataclasses.replace(answer, data=answer.data[: len(answer.data) // 2]), len(answer.data))
    handler.wfile.flush()
    time.sleep(0.02)  # the half arrives before the end does
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def _short(handler: Handler, answer: Answer) -> None:
    """Half of the body, then an orderly end."""
    send(handler, dataclasses.replace(answer, data=answer.data[: len(answer.data) // 2]), len(answer.data))
    handler.close_connection = True


def _stall(handler: Handler, answer: Answer) -> None:
    """Half of the body, and then nothing."""
    send(handler, dataclasses.replace(answer, data=answer.data[: len(answer.data) // 2]), len(answer.data))
    handler.wfile.flush()
    time.sleep(STALL_S)
    handler.close_connection = True


def _no_ranges(handler: Handler, answer: Answer) -> None:
    """The whole file, whatever was asked for."""
    send(handler, Answer(answer.whole or answer.data, 200, answer.kind))


def _page(handler: Handler, _: Answer) -> None:
    send(
        handler,
        Answer(b"<!doctype html><title>Log in</title>" + b"<p>Welcome to this network.</p>" * 50, 200, "text/html"),
    )


FAULTS: dict[str, Callable[[Handler, Answer], None]] = {
    "429 with Retry-After": _status(429, Retry_After="1"),
    "500": _status(500),
    "502": _status(502),
    "503": _status(503),
    "504": _status(504),
    "403 expired signature": _expired,
    "404": _status(404),
    "reset mid-body": _reset,
    "short body": _short,
    "stall": _stall,
    "200 without ranges": _no_ranges,
    "200 with a page": _page,
}


@dataclass
class Plan:
    fault: str
    times: int
    after: int
    only: str


@dataclass
class FaultServer(StubStac):
    """`with FaultServer(items, root=folder) as server:`; files lie below server.files."""

    root: Path = Path()
    lives_s: float = 3600.0
    """Of a token."""
    needs_signature: bool = False
    """Files want a signature of a token that is not over."""
    tokens: int = 0
    refused_tokens: int = 0
    """The first so many tokens are not accepted any more."""
    keys: list[str | None] = field(default_factory=list)
    """Subscription keys that came with requests for a token."""
    asked_of: Counter[str] = field(default_factory=Counter)
    """Requests by kind, and by kind and file."""
    plans: dict[str, Plan] = field(default_factory=dict)
    reads: int = 0
    """Files that a test has read, each under a name of its own."""

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def files(self) -> str:
        return f"{self.url}/container"

    def break_(self, kind: str, fault: str, times: int = FOREVER, after: int = 0, only: str = "") -> None:
        """`only`: requests whose path holds this."""
        self.plans[kind] = Plan(fault, times, after, only)

    def mend(self) -> None:
        self.plans.clear()
        self.asked_of.clear()

    def get(self, handler: Handler) -> None:
        path = urlsplit(handler.path).path
        if path.startswith("/sas/"):
            self.keys.append(handler.headers.get("Ocp-Apim-Subscription-Key"))
            self._answer(handler, "sign", path, self._token)
        elif path.startswith("/container/"):
            kind = "raster" if path.endswith(".tif") else "download"
            self._answer(handler, kind, path, lambda: self._file(handler))
        else:
            super().get(handler)

    def post(self, handler: Handler) -> None:
        wanted = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.asked.append(wanted)

        def page() -> Answer:
            return Answer(json.dumps(self._page(wanted, 0)).encode(), kind="application/geo+json")

        self._answer(handler, "search", handler.path, page)

    def _answer(self, handler: Handler, kind: str, path: str, good: Callable[[], Answer]) -> None:
        self.asked_of[kind] += 1
        self.asked_of[f"{kind} {path.rpartition('/')[2]}"] += 1
        plan = self.plans.get(kind)
        answer = good()
        if plan and plan.only in path:
            if plan.after > 0:
                plan.after -= 1
            elif plan.times > 0:
                plan.times -= 1
                self.asked_of["faults"] += 1
                FAULTS[plan.fault](handler, answer)
                return
        send(handler, answer)

    def _token(self) -> Answer:
        self.tokens += 1
        end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.lives_s)
        text = f"st=2026&se={end:%Y-%m-%dT%H:%M:%SZ}&sp=rl&sig={CANARY}{self.tokens}%3D"
        return Answer(json.dumps({"msft:expiry": end.isoformat(), "token": text}).encode(), kind="application/json")

    def _file(self, handler: Handler) -> Answer:
        url = urlsplit(handler.path)
        path = self.root / url.path.removeprefix("/container/")
        if not path.is_file():
            return Answer(b"none", 404, "text/plain")
        if self.needs_signature and not self._is_valid(parse_qs(url.query)):
            return Answer(b"<Error><Code>AuthenticationFailed</Code></Error>", 403, "application/xml")
        data, wanted = path.read_bytes(), handler.headers.get("Range")
        if not wanted:
            return Answer(data, headers={"Accept-Ranges": "bytes"})
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last or len(data)) + 1]
        said = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"}
        return Answer(part, 206, headers=said, whole=data)

    def _is_valid(self, query: dict[str, list[str]]) -> bool:
        signature = query.get("sig", [""])[0]
        number = signature.removeprefix(CANARY).removesuffix("=")
        if not signature.startswith(CANARY) or not number.isdigit() or int(number) <= self.refused_tokens:
            return False
        return dt.datetime.fromisoformat(query["se"][0]) > dt.datetime.now(dt.UTC)


def served_region(server: FaultServer, manifest: Path, **source: Any) -> Path:
    """A World's manifest with its catalogue behind the server: items of its API, files at signed addresses."""
    text = manifest.read_text()
    for path in sorted((manifest.parent / "catalog").rglob("*.json")):
        found = json.loads(path.read_text())
        for asset in found["assets"].values():
            asset["href"] = asset["href"].replace("../..", server.files)
        server.items.append(found)
    server.collections = ("s1", "s2")
    for name in ("s1", "s2"):
        text = text.replace(
            f'items = "catalog/{name}/*.json"',
            f'api = "{server.url}"\ncollection = "{name}"\nsign = "planetary-computer"',
        )
    manifest.write_text(text)
    return manifest


def forget_tokens() -> None:
    planetary_computer.settings.Settings.get.cache_clear()
    planetary_computer.sas.TOKEN_CACHE.clear()


def hurried(patch: pytest.MonkeyPatch, host: str) -> None:
    """Small timeouts, no waits, and the signing service of a stub."""
    patience = Patience(read_s=0.3, connect_s=2, sleep=lambda _: None)
    patch.setattr("pipeline.stac_io.PATIENCE", patience)
    patch.setattr("pipeline.retry.PATIENCE", patience)
    patch.setattr("pipeline.remote.PATIENCE", Patience(tries=remote.PATIENCE.tries, sleep=lambda _: None))
    quick = {"GDAL_HTTP_RETRY_DELAY": "0.01", "GDAL_HTTP_TIMEOUT": "0.3", "GDAL_HTTP_MAX_RETRY": str(GDAL_TRIES)}
    for key, value in quick.items():
        patch.setitem(opening.GDAL_OPTIONS, key, value)
    patch.setattr("planetary_computer.sas.BLOB_STORAGE_DOMAIN", host)
    patch.setenv("PC_SDK_SAS_URL", f"http://{host}/sas")
    patch.setattr("pipeline.signing.YOUNG_S", 0.0)
