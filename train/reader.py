"""Arrays of samples straight out of the tars into batch arrays: byte ranges that the index names, no tar is walked.

Read with preadv, not through a memory map: one call a sample, which lets other threads run; a tar that was cut off is
an error with a name instead of a signal that ends the process; and a cold disk is asked for whole samples, not pages.
"""

from __future__ import annotations

import io
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.problem import Problem
from pipeline.sample import DTYPE, GROUPS, group_shape

if TYPE_CHECKING:
    from train.shards import Samples

HEADER_BYTES = 4096
"""More than an .npy header of ours ever has (128): what the index calls longer than array and this is no such array."""
GAP_BYTES = 8192
"""Arrays of a sample that lie closer together (a tar header and its padding: 512 to 1535) are read in one call."""
AGAIN = "make shards again"


class Reader:
    """Reads samples of shard folders into arrays. May be used by several threads at once."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._lock = threading.Lock()
        self._open: dict[int, int] = {}
        self._most_open = _descriptors() // 2
        self._good: set[tuple[bytes, tuple[int, ...], str]] = set()
        """Headers seen, each with the shape and type it was right for: parsed once."""
        self._close = weakref.finalize(self, _close_all, self._open)

    def close(self) -> None:
        self._close()

    def buffers(self, sensor: str, count: int) -> dict[str, np.ndarray]:
        """Empty batch arrays by group, (count, C, H, W), in the 16-bit type of the shards."""
        return {name: np.empty((count, *shape), DTYPE[sensor]) for name, shape in self.shapes(sensor).items()}

    def shapes(self, sensor: str) -> dict[str, tuple[int, int, int]]:
        return {group.name: group_shape(group, self._samples.size_px) for group in GROUPS[sensor]}

    def read(self, samples: Samples) -> dict[str, np.ndarray]:
        """Batch arrays by group, (B, C, H, W), of samples that share one sensor."""
        sensors = set(samples["sensor"])
        if len(sensors) != 1:
            raise AssertionError(f"a batch is of one sensor, not of {sorted(sensors)}")
        out = self.buffers(str(sensors.pop()), len(samples))
        self._fill(samples, np.arange(len(samples)), out)
        return out

    def read_into(self, rows: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """Fill batch arrays (see `buffers`) with rows of the reader's samples, all of one sensor, in their order.

        Raises Problem, naming chip and tar, for what is damaged, and for a tar that was replaced since it was opened.
        """
        self._fill(self._samples, rows, out)

    def unreadable(self) -> np.ndarray:
        """bool (N,): samples whose arrays are not where the index says, or are no arrays that `read_into` takes.

        Only the headers are read; whether pixels were changed is for `make verify` to find. Tars of a bucket are not
        looked at: they are checked whole when they are fetched.
        """
        bad = np.zeros(len(self._samples), bool)
        for sensor in set(self._samples["sensor"]):
            rows = np.flatnonzero(self._samples["sensor"] == sensor)
            places = _Places(self._samples, rows, self.shapes(sensor), DTYPE[sensor])
            wrong = np.any(places.wrong_lengths(), axis=0)
            bad[rows[wrong]] = True
            for tar, ks in places.by_tar():
                if not self._samples.files[tar].url:
                    some = [k for k in ks if not wrong[k]]
                    bad[rows[some]] = self._unreadable(places, tar, some)
        return bad

    def _unreadable(self, places: _Places, tar: int, ks: list[int]) -> list[bool]:
        try:
            with self._descriptor(tar) as file:
                size = os.fstat(file).st_size
                return [not self._is_readable(places, k, file, size) for k in ks]
        except Problem:  # not one of its samples can be read
            return [True] * len(ks)

    def _is_readable(self, places: _Places, k: int, file: int, size: int) -> bool:
        for group, header in enumerate(places.headers[:, k].tolist()):
            start = int(places.starts[group, k])
            try:
                self._check_header(places, group, k, os.pread(file, header, start))
            except Problem:
                return False
            if start + header + places.sizes[group] > size:
                return False
        return True

    def _fill(self, samples: Samples, rows: np.ndarray, out: dict[str, np.ndarray]) -> None:
        if not len(rows):
            return
        shapes = {name: array.shape[1:] for name, array in out.items()}
        places = _Places(samples, rows, shapes, next(iter(out.values())).dtype.name)
        places.check_lengths()
        views = [memoryview(array).cast("B") for array in out.values()]  # type: ignore[arg-type]
        starts, layouts = places.starts[0].tolist(), places.layouts()
        for tar, ks in places.by_tar():
            try:
                with self._descriptor(tar) as file:
                    # All at once, so that a disk has something to choose from; of what is in memory it costs nothing.
                    for k in ks if hasattr(os, "posix_fadvise") else ():
                        os.posix_fadvise(file, starts[k], layouts[k].span, os.POSIX_FADV_WILLNEED)
                    for k in ks:
                        layouts[k].read(file, starts[k], views, k, places.where)
                        for group, header in enumerate(layouts[k].headers):
                            self._check_header(places, group, k, bytes(header))
            finally:
                # After the reading, good or bad: a tar that was replaced may look damaged, and is said to be replaced.
                samples.files[tar].check_same()

    def _check_header(self, places: _Places, group: int, k: int, header: bytes) -> None:
        key = (header, places.shapes[group], places.dtype)
        if key in self._good:
            return
        shape, kind = _parse_header(header, places.where(k))
        if shape != places.shapes[group] or kind != np.dtype(places.dtype):
            what = f"a sample is {kind} {shape}, not {places.dtype} {places.shapes[group]}"
            raise Problem(what, where=places.where(k), fix=AGAIN, code=4)
        self._good.add(key)

    def _opened(self, tar: int) -> int:
        found = self._samples.files[tar]
        try:
            return os.open(found.local(), os.O_RDONLY)
        except OSError as error:
            raise Problem(f"a tar cannot be opened: {error.strerror}", where=found.name, fix="check the file") from None

    @contextmanager
    def _descriptor(self, tar: int) -> Iterator[int]:
        """A tar's file descriptor. Tars stay open, as many as half of what the system lets a process have."""
        with self._lock:
            known = self._open.get(tar)
            file = self._opened(tar) if known is None else known
            stays = known is not None or len(self._open) < self._most_open
            if stays:
                self._open[tar] = file
        try:
            yield file
        finally:
            if not stays:
                os.close(file)


class _Places:
    """Where the arrays of some samples of one sensor lie."""

    def __init__(self, samples: Samples, rows: np.ndarray, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        self._samples, self._rows, self.dtype = samples, rows, dtype
        self.shapes = list(shapes.values())
        self.sizes = [np.dtype(dtype).itemsize * math.prod(shape) for shape in self.shapes]
        self.tars = samples["tar"][rows]
        self.starts = np.stack([samples[f"offset_{name}"][rows] for name in shapes])
        """(groups, B) bytes from the tar's start to each .npy member."""
        lengths = np.stack([samples[f"length_{name}"][rows] for name in shapes])
        self.headers = lengths - np.array(self.sizes)[:, None]
        """(groups, B) bytes of each .npy header, as the index has it."""

    def by_tar(self) -> Iterator[tuple[int, list[int]]]:
        """Each tar and which of the samples it holds, in the order they have there: so a disk likes it."""
        order = np.lexsort((self.starts[0], self.tars))
        for some in np.split(order, np.flatnonzero(np.diff(self.tars[order])) + 1):
            yield int(self.tars[some[0]]), some.tolist()

    def wrong_lengths(self) -> np.ndarray:
        """bool (groups, B): where the index cannot be right."""
        return (self.headers <= 10) | (self.headers > HEADER_BYTES) | (self.starts < 0)

    def check_lengths(self) -> None:
        for group, k in np.argwhere(self.wrong_lengths()):
            what = f"the index has no place for a sample's {self.dtype} {self.shapes[group]}"
            raise Problem(what, where=self.where(k), fix=AGAIN, code=4)

    def layouts(self) -> list[_Layout]:
        """How each sample lies in its tar; those that lie alike, nearly always all, share one."""
        keys = np.concatenate([self.starts - self.starts[0], self.headers]).T.tolist()
        known: dict[tuple[int, ...], _Layout] = {}
        for key in set(map(tuple, keys)):
            known[key] = _Layout(key[: len(self.sizes)], key[len(self.sizes) :], self.sizes)
        return [known[tuple(key)] for key in keys]

    def where(self, k: int) -> str:
        row = int(self._rows[k])
        return f"{self._samples['chip_id'][row]} in {self._samples.files[self._samples['tar'][row]].name}"


class _Layout:
    """A sample's arrays in a tar, and the scratch bytes for what lies between them. Of one batch and thread."""

    def __init__(self, starts: Sequence[int], headers: Sequence[int], sizes: Sequence[int]) -> None:
        self.headers = [bytearray(size) for size in headers]
        self._sizes = sizes
        self._calls: list[_Call] = []
        end = 0
        for group, (start, header, size) in enumerate(zip(starts, self.headers, sizes, strict=True)):
            if not self._calls or not 0 <= start - end <= GAP_BYTES:
                self._calls.append(_Call(start))
            elif start > end:
                self._calls[-1].pieces.append(bytearray(start - end))
            call, end = self._calls[-1], start + len(header) + size
            call.arrays.append((len(call.pieces) + 1, group))
            call.pieces += [header, b""]
            call.length = end - call.start
        self.span = max(0, end)
        """Bytes from the first array's start to the last one's end."""

    def read(self, file: int, start: int, views: list[memoryview], k: int, where: Callable[[int], str]) -> None:
        """Sample k of a batch: its arrays into the batch's bytes, its headers into `headers`."""
        for call in self._calls:
            for piece, group in call.arrays:
                size = self._sizes[group]
                call.pieces[piece] = views[group][k * size : (k + 1) * size]
            try:
                got = os.preadv(file, call.pieces, start + call.start)
            except OSError as error:
                what = f"a sample cannot be read: {error.strerror}"
                raise Problem(what, where=where(k), fix="check the disk", code=4) from None
            if got != call.length:
                raise Problem("the tar ends before the sample does", where=where(k), fix=AGAIN, code=4)


@dataclass
class _Call:
    """One preadv."""

    start: int
    """From the sample's first array on."""
    pieces: list[Any] = field(default_factory=list)
    arrays: list[tuple[int, int]] = field(default_factory=list)
    """Which piece is which array."""
    length: int = 0


def _parse_header(header: bytes, where: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that an .npy header says; object arrays (pickles) are refused."""
    stream = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not npy format 1.0")
        shape, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise Problem(f"a sample is damaged: {error}", where=where, fix=AGAIN, code=4) from None
    if fortran or kind.hasobject or stream.tell() != len(header):
        raise Problem("a sample holds objects or Fortran order, or more than its array", where=where, fix=AGAIN, code=4)
    return shape, kind


def _descriptors() -> int:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 16 if most == resource.RLIM_INFINITY else most


def _close_all(files: dict[int, int]) -> None:
    for file in files.values():
        os.close(file)
    files.clear()
