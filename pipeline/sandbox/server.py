"""Serving a world: a real STAC API (`rustac serve`) over its items, on a free port, for as long as it is wanted."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from harmonize.problem import Problem
from pipeline.sandbox import SCHEME, path_of
from pipeline.sandbox.guard import Guard, guarded

START_SECONDS = 20


@contextlib.contextmanager
def serving(size: str, folder: Path, files: str | None = None) -> Iterator[str]:
    """The address of a STAC API over the world of a size below `folder`, for as long as the block runs.

    Items name their files by absolute path or, with `files`, below that address. The world must be built.
    """
    with guarded("closp-stac-") as guard:
        text = (folder / size / "items.json").read_text()
        items = json.loads(text)["features"]
        for item in items:
            for asset in item["assets"].values():
                inside = asset["href"].removeprefix(SCHEME)
                asset["href"] = f"{files}/{inside}" if files else str(path_of(asset["href"], folder))
        collections = json.loads((folder / size / "collections.json").read_text())
        names = []
        for k, thing in enumerate([*collections, {"type": "FeatureCollection", "features": items}]):
            path = guard.folder / f"{k}.json"
            path.write_text(json.dumps(thing))
            names.append(str(path))
        yield _start(guard, names)


def _start(guard: Guard, files: list[str]) -> str:
    """`rustac serve` over JSON files, on a free port of this machine: its address, once it answers."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    guard.start([_program(), "serve", "--addr", f"127.0.0.1:{port}", *files])
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + START_SECONDS  # it takes about 0.2 s
    while not guard.ended and time.monotonic() < end:
        # Another program may have taken the port meanwhile: then ours ends, and the answer does not name this port.
        if address in _landing_page(address) and not guard.ended:
            return address
        time.sleep(0.05)
    said = guard.said.strip().splitlines()
    raise Problem(
        "the sample world's STAC server does not start" + (f": {said[-1][:200]}" if said else ""),
        where="rustac serve on 127.0.0.1",
        fix="try again; if it stays, check that programs may listen on 127.0.0.1",
        code=1,
    )


def _landing_page(address: str) -> str:
    """What answers at an address of this machine, never by way of a proxy; nothing where nobody does."""
    try:
        with build_opener(ProxyHandler({})).open(address, timeout=2) as answer:
            return answer.read().decode(errors="replace")
    except (OSError, HTTPException):
        return ""


def _program() -> str:
    beside = Path(sys.executable).with_name("rustac")
    program = str(beside) if beside.exists() else shutil.which("rustac")
    if program is None:
        raise Problem("the sample world's STAC server is not installed", fix="make setup (it installs rustac)")
    return program
