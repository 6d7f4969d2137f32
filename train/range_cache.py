"""Samples of tars in buckets, kept on this machine when they were fetched once: a sparse file per tar.

The file has the tar's bytes where the tar has them, so that it is read as a tar is, and behind them a mark for every
512 bytes: the sample that begins there is in the file, checked. One file, not two: who removes it removes both.

Several processes may write one: what they write is the same, and a mark is written after its bytes. A process that is
killed between them leaves no mark. The marks are of this start of the machine: after a power failure a mark may have
reached the disk and its bytes may not, so those of an earlier start say only that a sample may be there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import mmap
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

BLOCK = 512
SUFFIX = ".ranges"
HASH = 16
"""Digits of a tar's sha256 in front of its name in the cache: a tar that was made anew is another file there."""
SHARE = 0.5
"""Of the disk that is free but for the cache: what the cache may take unless a person says how much."""
LEFT = 1 << 30
"""Bytes of the disk that are left free in any case: a run writes its checkpoints too."""
STEP = 256 << 20
"""Bytes, at most a twentieth of the bound, that a process may keep before it looks again at what all of them keep: the
bound may be passed by as much for each process."""
FULL_S = 30.0
"""Seconds before a full cache is looked at again."""
OPENINGS = 100
"""Of a file that other processes remove meanwhile: more are no chance."""


class KeptTar:
    """What is kept of one tar of `size` bytes. May be used by several threads at once."""

    def __init__(self, path: Path, size: int) -> None:
        self._marks_at = -(-size // BLOCK) * BLOCK
        blocks = size // BLOCK + 1
        self._file = _opened(path, self._marks_at + 4 * blocks)
        self.bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        """The tar's bytes, as far as they are there; what is not is zero."""
        self._marks = np.frombuffer(self.bytes, np.uint32, blocks, self._marks_at)

    def has(self, start: int) -> bool | None:
        """Whether the sample that begins at a byte of the tar is there; None: it may be, its bytes must be checked."""
        mark = int(self._marks[start // BLOCK])
        return True if mark == _this_start() else None if mark else False

    def keep(self, start: int, pieces: Iterable[tuple[int, memoryview]]) -> None:
        """Write a sample's checked bytes, (place in the tar, bytes) each. Raises OSError where the disk is full."""
        for place, data in pieces:
            _write(self._file.fileno(), data, place)
        self.mark(start)

    def mark(self, start: int) -> None:
        """Say that the sample that begins here is there."""
        # Not by the map: on a full disk that ends the process.
        mark = memoryview(_this_start().to_bytes(4, sys.byteorder))
        _write(self._file.fileno(), mark, self._marks_at + 4 * (start // BLOCK))


class RangeCache:
    """A folder of kept tars and its bound. Which go first when it is full: those not used for longest, by any process;
    one that is in use stays, since batches of shuffled samples use all tars of their split all the time."""

    def __init__(self, root: Path, most: int | None = None) -> None:
        """most: bytes; None: half of the disk that is free but for the cache."""
        self._root, self._most = root, most
        self._lock = threading.Lock()
        self._allowed = 0
        """Bytes that may be written before the folder is looked at again."""
        self._full_since = -FULL_S
        self._why, self._told = "", False

    def open(self, path: Path, size: int) -> KeptTar | None:
        """What is kept of a tar; None where nothing can be kept: it is read without."""
        if self._most == 0:
            return None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return KeptTar(path, size)
        except OSError as error:
            self.refused(error)
            return None

    def room(self, count: int) -> bool:
        """Whether `count` bytes may be written; tars that are not in use make room for them."""
        with self._lock:
            if count > self._allowed and time.monotonic() - self._full_since >= FULL_S:
                self._allowed = self._look(count)
            if count <= self._allowed:
                self._allowed -= count
                return True
            self._full(self._why)
            return False

    def refused(self, error: OSError) -> None:
        """The disk took no more, whatever was thought of it: nothing is kept for a while."""
        with self._lock:
            self._full(error.strerror or str(error))

    def _full(self, why: str) -> None:
        if time.monotonic() - self._full_since >= FULL_S:
            self._full_since = time.monotonic()
        self._allowed = 0
        if not self._told:
            self._told = True
            more = "what is not in it is fetched each time it is read"
            print(f"cache {self._root}: {why}; {more} (--cache-gb)", file=sys.stderr, flush=True)

    def _look(self, count: int) -> int:
        """Bytes that may be written before the next look; for `count` of them at least, if it can be had, tars that are
        not in use are removed, those first whose use is longest ago."""
        found = sorted(_kept(self._root))
        used = sum(size for _, size, _ in found)
        self._root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._root).free
        most = int(SHARE * (free + used)) if self._most is None else self._most
        wanted = max(count, min(STEP, most // 20))
        for _, size, path in found:
            if min(most - used, free - LEFT) >= wanted or count > most:
                break
            if _removed(path):
                used, free = used - size, free + size
        self._why = "its bound is reached" if most - used < count else f"its disk has {free / 1e9:.1f} GB left"
        return max(0, min(wanted, most - used, free - LEFT))


def cached_folder(url: str, cache: Path) -> Path:
    """Where what is kept of a bucket's folder lies."""
    return cache / url.replace("://", "/").strip("/")


def cached_tar(folder: Path, name: str, sha256: str) -> Path:
    return folder / f"{sha256[:HASH]}-{name}{SUFFIX}"


def sweep(folder: Path, tars: Iterable[Path]) -> None:
    """Remove what is kept of tars that are not the folder's any more, unless a process is using it."""
    stay = set(tars)
    for path in folder.glob(f"*{SUFFIX}"):
        if path not in stay:
            _removed(path)


def _kept(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Last use, bytes on the disk and path of each kept tar."""
    for path in root.rglob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            found = path.stat()
            yield found.st_mtime, found.st_blocks * 512, path


def _opened(path: Path, whole: int) -> BinaryIO:
    """The file of a kept tar, made where it is not there, with a lock that says that it is in use."""
    for _ in range(OPENINGS):
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            _lock(file, fcntl.LOCK_SH)
            found = os.fstat(file.fileno())
            if found.st_size not in (0, whole):  # of another version of this program
                path.unlink(missing_ok=True)
            elif _is_at(path, found):
                os.ftruncate(file.fileno(), whole)
                os.utime(file.fileno())
                return cast("BinaryIO", file)
        except BaseException:
            file.close()
            raise
        file.close()  # removed by another process, between its opening and its lock
    raise OSError(errno.EAGAIN, "its files are removed as they are made", str(path))


def _removed(path: Path) -> bool:
    """Remove a kept tar that no process is using; whether it is gone."""
    try:
        file = path.open("r+b")  # a lock against others needs it, over a network
    except FileNotFoundError:
        return True
    with file:
        if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
        if _is_at(path, os.fstat(file.fileno())):
            path.unlink(missing_ok=True)
        return True


def _lock(file: Any, kind: int) -> bool:
    """Whether the lock was got. Where files have no locks nobody gets one, and nothing is removed."""
    try:
        fcntl.flock(file.fileno(), kind)
    except OSError:
        return False
    return True


def _is_at(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), found)
    except FileNotFoundError:
        return False


def _write(file: int, data: memoryview, place: int) -> None:
    while len(data):
        count = os.pwrite(file, data, place)
        data, place = data[count:], place + count


@functools.cache
def _this_start() -> int:
    """A number, not 0, that is another one after the machine was started again; where it does not say, per process."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        name = secrets.token_bytes(16)
    return int.from_bytes(hashlib.sha256(name).digest()[:4], "big") | 1
