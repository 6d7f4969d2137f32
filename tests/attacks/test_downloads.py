"""Label files at addresses of others: where these lead, how much comes, and what is kept of it."""

from __future__ import annotations

import errno
import gzip
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attack_limits import refused
from fault_server import FAULTS, Answer, FaultServer, Handler, hurried, send
from world import World

from harmonize.problem import Problem
from pipeline import download, retry
from pipeline.download import fetched
from pipeline.region import load_region

RING = [[11.0, 45.0], [12.0, 45.0], [12.0, 46.0], [11.0, 45.0]]
MAP = json.dumps({"type": "FeatureCollection", "features": [
    {"type": "Feature", "properties": {"code": 1}, "geometry": {"type": "Polygon", "coordinates": [RING]}}
]}).encode()  # fmt: skip
Fault = Callable[[Handler, Answer], None]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served/a.geojson").write_bytes(MAP)
    with FaultServer(root=tmp_path / "served") as found:
        hurried(monkeypatch, found.host)
        yield found


def fetch(server: FaultServer, folder: Path, trusted: bool = False) -> Path:
    return fetched(f"{server.files}/a.geojson", "none", folder, "the manifest", trusted)


def answering(server: FaultServer, patch: pytest.MonkeyPatch, fault: Fault, times: int = 10**6) -> None:
    patch.setitem(FAULTS, "attack", fault)
    server.break_("download", "attack", times=times)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("place", "words"),
    [("http://169.254.169.254/x.geojson", "keep their credentials"), ("http://[64:ff9b::a9fe:a9fe]/x", "credentials")],
)
def test_a_redirect_to_credentials(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, place: str, words: str
) -> None:
    answering(server, monkeypatch, lambda h, _: send(h, Answer(b"", status, headers={"Location": place})))
    refused(lambda: fetch(server, tmp_path / "d", trusted=True), words)
    assert left(tmp_path / "d") == []


def test_a_redirect_of_a_label_file(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a public name to this machine: refused, but for a source that is trusted."""
    (server.root / "b.geojson").write_bytes(MAP)
    inside = f"{server.files}/b.geojson"
    monkeypatch.setitem(FAULTS, "moved", lambda h, _: send(h, Answer(b"", 302, headers={"Location": inside})))
    server.break_("download", "moved", only="a.geojson")
    usual = socket.getaddrinfo
    here = {"labels.example.org": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **keys: usual(here.get(host, host), *more, **keys))
    named = f"{server.files}/a.geojson".replace("127.0.0.1", "labels.example.org")
    assert named != f"{server.files}/a.geojson"
    refused(lambda: fetched(named, "none", tmp_path / "d", "the manifest"), "an address of this machine", "trusted")
    assert left(tmp_path / "d") == []
    assert server.asked_of["download b.geojson"] == 0
    assert fetched(named, "none", tmp_path / "d", "the manifest", trusted=True).read_bytes() == MAP


@pytest.mark.parametrize("href", ["http://169.254.169.254/x.geojson", "/vsicurl/http://169.254.169.254/x.tif"])
@pytest.mark.parametrize("key", ["label", "event"])
def test_a_manifest_that_names_credentials(tmp_path: Path, href: str, key: str) -> None:
    path = World(tmp_path).write_manifest()
    event = f'[[events]]\nkind = "flood"\nsource = "geojson"\nhref = "{href}"\n[split]'
    text = path.read_text()
    changed = text.replace("[split]", event, 1) if key == "event" else text.replace("labels/classes.tif", href)
    assert changed != text
    path.write_text(changed)
    refused(lambda: load_region(path), "credentials", "href")


@pytest.mark.parametrize("kind", ["told", "not told", "packed", "packed otherwise"])
def test_a_file_that_is_too_large(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def flood(handler: Handler, _: Answer) -> None:
        if kind == "told":
            return send(handler, Answer(b"{"), 10**12)
        if kind == "not told":
            return unframed(handler, bytes(3 << 20))
        coding = "gzip" if kind == "packed" else "zstd"
        return send(handler, Answer(gzip.compress(bytes(64 << 20)), headers={"Content-Encoding": coding}))

    monkeypatch.setattr(download, "MOST_BYTES", 2 << 20)
    answering(server, monkeypatch, flood)
    words = "packed in a way that is not read" if kind == "packed otherwise" else "more than"
    refused(lambda: fetch(server, tmp_path / "d"), words)
    assert left(tmp_path / "d") == []


def unframed(handler: Handler, data: bytes) -> None:
    """A body that ends with the connection (HTTP/1.0): nobody knows whether it is whole."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + data)


def test_a_body_that_was_cut_unseen(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(server, monkeypatch, lambda h, _: unframed(h, MAP[: len(MAP) // 2]))
    refused(lambda: fetch(server, tmp_path / "d"), "may have been cut")
    assert left(tmp_path / "d") == []
    answering(server, monkeypatch, lambda h, _: unframed(h, MAP[: len(MAP) // 2]), times=1)
    assert fetch(server, tmp_path / "d").read_bytes() == MAP, "it is asked for again"
    answering(server, monkeypatch, lambda h, _: unframed(h, MAP))
    assert fetch(server, tmp_path / "e").read_bytes() == MAP, "and one that is whole is kept"


@pytest.mark.parametrize("change", [MAP[:-9], MAP.replace(b"45", b"44"), b""])
def test_a_copy_that_was_changed(server: FaultServer, tmp_path: Path, change: bytes) -> None:
    copy = fetch(server, tmp_path / "d")
    assert fetch(server, tmp_path / "d") == copy
    assert server.asked_of["download"] == 1
    copy.write_bytes(change)
    retry.drain()
    assert fetch(server, tmp_path / "d").read_bytes() == MAP
    assert server.asked_of["download"] == 2
    assert retry.drain() == {"download of a changed copy": 1}, "and told"


def test_drafts_of_killed_runs(server: FaultServer, tmp_path: Path) -> None:
    folder, stem, host = tmp_path / "d", "0" * 16, socket.gethostname()[:64]
    folder.mkdir()
    alive = f".{stem}-{host}-{os.getpid()}.tmp.geojson"
    far, old = f".{stem}-far-away-1.tmp.gpkg", f".{stem}-far-away-2.tmp.gpkg"
    for name in (alive, far, old, f".{stem}-{host}-{2**22 + 1}.tmp.geojson"):
        (folder / name).write_bytes(b"half")
    os.utime(folder / old, (0, 0))
    fetch(server, folder)
    assert [name for name in left(folder) if name.startswith(".")] == sorted([alive, far])


@pytest.mark.parametrize(
    ("number", "code", "words"), [(errno.ENOSPC, 1, "the disk is full"), (errno.EACCES, 2, "a right that is missing")]
)
def test_a_disk_that_takes_nothing(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, words: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(download, "_keep", fail)
    with pytest.raises(Problem) as caught:
        fetch(server, tmp_path / "d")
    assert caught.value.code == code
    assert words in str(caught.value)
