"""Rasters behind a signature or a bill: signed when opened, through one lock, and never in a table or a message."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import planetary_computer.sas
import planetary_computer.settings
import pyarrow.parquet as pq
import pytest
from world import World

from harmonize.problem import Problem
from pipeline import opening, raster, runner
from pipeline.access import PAID, is_signed, reachable, unsigned
from pipeline.retry import Patience

BLOB = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/32/T/QR/B02.tif"


class Files:
    """Serves files by range, under any first folder, and tokens under /sas; counts and remembers what was asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.tokens, self.payers, self.needs = root, 0, [], ""
        self.sas_status = 200
        files = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def do_HEAD(self) -> None:
                files.answer(self)

            def do_GET(self) -> None:
                files.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        if url.path.startswith("/sas/"):
            self.tokens += 1
            token = {"msft:expiry": "2099-01-01T00:00:00Z", "token": "se=2099&sig=SECRET%2Fx"}
            send(handler, self.sas_status, json.dumps(token).encode())
            return
        self.payers.append(handler.headers.get("x-amz-request-payer"))
        path = self.root / url.path.lstrip("/").partition("/")[2]
        if not path.is_file() or self.needs not in url.query:
            send(handler, 403 if path.is_file() else 404, b"")
            return
        data, wanted = path.read_bytes(), handler.headers.get("Range")
        if not wanted:
            send(handler, 200, data)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last or len(data)) + 1]
        send(handler, 206, part, **{"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"})


def send(handler: BaseHTTPRequestHandler, code: int, data: bytes, **headers: str) -> None:
    handler.send_response(code)
    for key, value in ({"Content-Length": str(len(data)), "Accept-Ranges": "bytes"} | headers).items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    found = Files(tmp_path)
    monkeypatch.setenv("PC_SDK_SAS_URL", f"http://{found.host}/sas")
    patient = Patience(sleep=lambda _: None)
    monkeypatch.setattr("pipeline.retry.PATIENCE", patient)
    monkeypatch.setattr("pipeline.remote.PATIENCE", patient)
    planetary_computer.settings.Settings.get.cache_clear()
    planetary_computer.sas.TOKEN_CACHE.clear()
    yield found
    found.server.shutdown()
    found.server.server_close()
    planetary_computer.settings.Settings.get.cache_clear()
    planetary_computer.sas.TOKEN_CACHE.clear()


def test_what_counts_as_signed() -> None:
    assert unsigned(f"{BLOB}?st=2026&se=2027&sp=rl&sv=2021&sr=c&sig=a%2Fb") == BLOB
    assert (
        unsigned("https://b.s3.amazonaws.com/k.tif?X-Amz-Signature=1&X-Amz-Date=2")
        == "https://b.s3.amazonaws.com/k.tif"
    )
    assert unsigned("https://x.org/get?file=a.tif&page=2") == "https://x.org/get?file=a.tif&page=2", (
        "a query that names the file"
    )
    assert unsigned("https://me:SECRET@x.org/a@b.tif?page=2") == "https://x.org/a@b.tif?page=2"
    assert unsigned("https://[x.org/a.tif?sig=1") == "https://[x.org/a.tif", "no address, and no traceback"
    assert unsigned("file:///data/a.tif") == "/data/a.tif"
    assert unsigned("data/what?.tif") == "data/what?.tif"
    assert is_signed("https://x.org/a.tif?access_token=1")
    assert not is_signed("s3://bucket/a.tif")


def test_one_token_for_all_threads(files: Files) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: reachable(BLOB.replace("B02", f"B{k:02d}"), "planetary-computer"), range(32)))
    assert files.tokens == 1
    assert found[2] == f"{BLOB}?se=2099&sig=SECRET%2Fx"
    assert reachable(BLOB, "none") == BLOB
    assert reachable("https://example.org/a.tif", "planetary-computer") == "https://example.org/a.tif", (
        "not theirs to sign"
    )


def test_a_signing_service_that_refuses_is_told(files: Files) -> None:
    files.sas_status = 401
    with pytest.raises(Problem, match=r"gives no token \(HTTP 401 .*; tried 3 times\)") as caught:
        reachable(BLOB, "planetary-computer")
    assert caught.value.where == BLOB


def test_messages_of_unreadable_rasters_hold_no_signature(files: Files) -> None:
    with pytest.raises(opening.UnreadableRaster) as caught:
        opening.open_raster(f"http://{files.host}/c/none.tif?se=1&sig=SECRET/and/more")
    assert "SECRET" not in str(caught.value)
    assert "more" not in str(caught.value)
    assert "none.tif" in str(caught.value)


def test_a_region_of_signed_rasters_is_built_and_no_signature_is_kept(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planetary_computer.sas.BLOB_STORAGE_DOMAIN", files.host)
    files.needs = "sig=SECRET"
    world = World(tmp_path, size_m=1200, manifest={"max_cloud": 0.5})
    manifest = world.write()
    world.tif(tmp_path / "cogs/scl.tif", np.full((60, 60), 4, np.uint8), 20)
    path = tmp_path / "catalog/s2/S2-0.json"
    path.write_text(path.read_text().replace('"assets": {', '"assets": {"SCL": {"href": "../../cogs/scl.tif"}, '))
    text = manifest.read_text().replace('sensor = "s2"', 'sensor = "s2"\nscene_classes = "SCL"')
    text = text.replace('kind = "imagery"', 'kind = "imagery"\nsign = "planetary-computer"')
    manifest.write_text(text.replace('kind = "labels"', 'kind = "labels"\nsign = "planetary-computer"'))
    for path in (tmp_path / "catalog").rglob("*.json"):
        path.write_text(path.read_text().replace("../../cogs", f"http://{files.host}/account/cogs"))
    text = manifest.read_text().replace(
        'href = "labels/classes.tif"', f'href = "http://{files.host}/account/labels/classes.tif"'
    )
    manifest.write_text(text)
    region, store = runner.load(manifest, str(tmp_path / "out"))
    runner.run_upto(region, store, "captions", quiet=True)
    assert {r["dropped"] for r in pq.read_table(tmp_path / "out/tiny/pixels.parquet").to_pylist()} == {None}
    assert {r["dropped"] for r in pq.read_table(tmp_path / "out/tiny/labels.parquet").to_pylist()} == {None}
    assert files.tokens == 1
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len(written) > 10
    assert not [p for p in written if b"SECRET" in p.read_bytes()]


def test_reading_at_the_readers_cost_is_said_to_the_bucket(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.tif(tmp_path / "a.tif", world.pixels(1, 10), 10)
    for key, value in {
        "AWS_S3_ENDPOINT": files.host, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-west-2",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    href = reachable("s3://bucket/a.tif", "requester-pays")
    assert href == f"{PAID}s3://bucket/a.tif"
    part = raster.read_window(href, (600_000, 5_000_000, 600_100, 5_000_100))
    assert part is not None
    assert set(files.payers) == {"requester"}
    files.payers.clear()
    world.tif(tmp_path / "b.tif", world.pixels(1, 10), 10)
    opening.header(reachable("s3://bucket/b.tif", "none"))
    assert set(files.payers) == {None}, "nobody pays who has not said so"
