"""A bucket that writes down what it is asked for: a folder of this machine behind an address `counted://…`.

Other processes see the same folder (its root is in the environment) and write into the same list.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

ROOT = "COUNTED_BUCKET"
DELAY = "COUNTED_BUCKET_DELAY"
"""Seconds that a request takes."""


class CountedBucket(AbstractFileSystem):
    protocol = "counted"
    fault: Callable[[str, int, bytes], bytes] | None = None
    """What comes instead of the bytes of a range of a tar, by its path and start; or what it raises."""

    def _file(self, path: str) -> Path:
        return Path(os.environ[ROOT]) / self._strip_protocol(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        data = self._file(path).read_bytes()[start:end]
        if not path.endswith(".tar"):
            return data
        with requests_file().open("a") as file:
            file.write(f"{path} {start} {end}\n")
        time.sleep(float(os.environ.get(DELAY, "0")))
        return type(self).fault(path, start or 0, data) if type(self).fault else data

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self._file(path).stat().st_size, "type": "file"}


def requests_file() -> Path:
    return Path(os.environ[ROOT]) / "requests.txt"


def requests() -> list[tuple[str, int, int]]:
    """(path, start, end) of the ranges of tars that were asked for, by any process."""
    lines = requests_file().read_text().splitlines() if requests_file().exists() else []
    return [(path, int(start), int(end)) for path, start, end in map(str.split, lines)]


def asked_bytes() -> int:
    return sum(end - start for _, start, end in requests())


def forget() -> None:
    requests_file().unlink(missing_ok=True)


fsspec.register_implementation("counted", CountedBucket, clobber=True)
