"""Serving a world: a real STAC API (`rustac serve`) over its items, on a free port, for as long as it is wanted."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from harmonize.problem import Problem
from pipeline.sandbox import SCHEME, path_of

START_SECONDS = 20


@contextlib.contextmanager
def serving(size: str, folder: Path, files: str | None = None) -> Iterator[str]:
    """The address of a STAC API over the world of a size below `folder`, for as long as the block runs.

    Items name their files by absolute path or, with `files`, below that address. The world must be built.
    """
    with tempfile.TemporaryDirectory(prefix="closp-stac-") as scratch:
        text = (folder / size / "items.json").read_text()
        items = json.loads(text)["features"]
        for item in items:
            for asset in item["assets"].values():
                inside = asset["href"].removeprefix(SCHEME)
                asset["href"] = f"{files}/{inside}" if files else str(path_of(asset["href"], folder))
        collections = json.loads((folder / size / "collections.json").read_text())
        names = []
        for k, thing in enumerate([*collections, {"type": "FeatureCollection", "features": items}]):
            path = Path(scratch) / f"{k}.json"
            path.write_text(json.dumps(thing))
            names.append(str(path))
        with _running(names) as address:
            yield address


@contextlib.contextmanager
def _running(files: list[str]) -> Iterator[str]:
    """`rustac serve` over JSON files, on a free port of this machine, until the block ends."""
    program = _program()
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([program, "serve", "--addr", f"127.0.0.1:{port}", *files], stdout=log, stderr=log)  # noqa: S603
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(server, address, log)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _program() -> str:
    beside = Path(sys.executable).with_name("rustac")
    program = str(beside) if beside.exists() else shutil.which("rustac")
    if program is None:
        raise Problem("the sample world's STAC server is not installed", fix="make setup (it installs rustac)")
    return program


def _wait(server: subprocess.Popen[bytes], address: str, log: Any) -> None:
    """Until the server answers; it takes about 0.2 s."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            with urlopen(address, timeout=2):  # noqa: S310  our own address
                return
        except OSError:
            time.sleep(0.05)
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines()
    raise Problem(
        "the sample world's STAC server does not start" + (f": {said[-1][:200]}" if said else ""),
        where="rustac serve on 127.0.0.1",
        fix="try again; if it stays, check that programs may listen on 127.0.0.1",
        code=1,
    )
