"""A small STAC API that misbehaves on demand: landing page, collections, POST search with pages, faults in order."""

from __future__ import annotations

import datetime as dt
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Item = dict[str, Any]
CORE = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]


def item(
    name: str, when: str | None = "2020-06-01T10:00:00Z", box: tuple[float, ...] = (11, 45, 12, 46), **more: Any
) -> Item:
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "aa", "bbox": list(box), "links": [],
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"datetime": when},
        "assets": {"data": {"href": f"https://example.org/{name}.tif"}},
    } | more  # fmt: skip


Fault = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, text: str = "in trouble", **headers: str) -> Fault:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, text.encode(), code, **{k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def body(text: str, kind: str = "application/json") -> Fault:
    return status(200, text, Content_Type=kind)


def stall(seconds: float) -> Fault:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return answer


def reset(handler: BaseHTTPRequestHandler) -> None:
    """The connection is torn down without an answer (RST)."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def half(handler: BaseHTTPRequestHandler) -> None:
    """Less than the Content-Length says, then the end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"type": "FeatureColl')
    handler.close_connection = True


def send(handler: BaseHTTPRequestHandler, data: bytes, code: int = 200, **headers: str) -> None:
    handler.send_response(code)
    for key, value in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | headers).items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)


@dataclass
class StubStac:
    """`with StubStac(items) as stub:` serves at stub.url; change the fields for another behaviour."""

    items: list[Item] = field(default_factory=list)
    collections: tuple[str, ...] = ("aa",)
    page_size: int = 1000
    faults: list[Fault] = field(default_factory=list)
    """Used up one by one by requests to /search; then all is well."""
    landing: dict[str, Any] = field(default_factory=dict)
    """Keys that replace those of the landing page."""
    endless: bool = False
    """The next link always leads to the same page."""
    hide_next: bool = False
    """Pages are cut, and there is no next link."""
    matched: bool = False
    """Say numberMatched."""
    obey: bool = True
    """False: `collections` is ignored."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The body of every search that was answered or failed."""
    paths: list[str] = field(default_factory=list)

    def __enter__(self) -> StubStac:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def do_HEAD(self) -> None:
                stub.get(self)

            def do_GET(self) -> None:
                stub.get(self)

            def do_POST(self) -> None:
                stub.post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        self.paths.append(path)
        every = [{"type": "Collection", "id": name} for name in self.collections]
        if path == "/":
            send(handler, json.dumps(self._landing()).encode())
        elif path == "/collections":
            send(handler, json.dumps({"collections": every, "links": []}).encode())
        elif path.removeprefix("/collections/") in self.collections:
            send(handler, json.dumps({"type": "Collection", "id": path.rpartition("/")[2]}).encode())
        else:
            status(404, json.dumps({"code": "NotFound", "description": "no such thing"}))(handler)

    def _landing(self) -> dict[str, Any]:
        links = [{"rel": "self", "href": self.url + "/"}, {"rel": "data", "href": self.url + "/collections"}]
        links += [{"rel": "search", "method": "POST", "type": "application/geo+json", "href": self.url + "/search"}]
        page = {"type": "Catalog", "stac_version": "1.0.0", "id": "stub", "description": "a stub", "links": links}
        return page | {"conformsTo": CORE} | self.landing

    def post(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.asked.append(wanted)
        if self.faults:
            self.faults.pop(0)(handler)
            return
        query = dict(parse_qsl(urlsplit(handler.path).query))
        send(handler, json.dumps(self._page(wanted, int(query.get("skip", 0)))).encode())

    def _page(self, wanted: dict[str, Any], skip: int) -> dict[str, Any]:
        hits = [i for i in self.items if self._hit(i, wanted)]
        size = min(self.page_size, wanted["limit"])
        page: dict[str, Any] = {"type": "FeatureCollection", "features": hits[skip : skip + size], "links": []}
        if self.matched:
            page["numberMatched"] = len(hits)
        more = skip + size < len(hits)
        if (more or self.endless) and not self.hide_next:
            href = f"{self.url}/search?skip={0 if self.endless else skip + size}"
            page["links"] = [{"rel": "next", "method": "POST", "href": href, "merge": True, "body": {}}]
        return page

    def _hit(self, item: Item, wanted: dict[str, Any]) -> bool:
        """As a real server: collection, box and time; an item with a span of time counts with all of it."""
        if self.obey and item.get("collection") not in wanted["collections"]:
            return False
        a, b = wanted["bbox"], item["bbox"]
        if a[0] > b[2] or a[2] < b[0] or a[1] > b[3] or a[3] < b[1]:
            return False
        if not wanted.get("datetime"):
            return True
        p = item["properties"]
        if not isinstance(p, dict):
            return True
        first, last = (dt.datetime.fromisoformat(t) for t in wanted["datetime"].split("/"))
        start, end = (p.get("start_datetime"), p.get("end_datetime")) if p["datetime"] is None else (p["datetime"],) * 2
        return dt.datetime.fromisoformat(start) <= last and dt.datetime.fromisoformat(end) >= first
