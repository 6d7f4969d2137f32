"""Arrays of samples straight out of the tars into batch arrays: byte ranges that the index names, no tar is walked.

Copied out of memory maps: of a warm page cache in two thirds of the time that system calls take (30 and 47 us for a
sample of 160 kB, measured), and other threads run meanwhile. A disk is asked for a tar's share of a batch beforehand. A
map has one danger: a tar that is cut short in its place while it is copied ends the process. Ours are replaced by other
files, never written to, and each is looked at before and after every batch.
"""

from __future__ import annotations

import io
import math
import mmap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from harmonize.problem import Problem
from pipeline.sample import DTYPE, GROUPS, group_shape

if TYPE_CHECKING:
    from train.shards import Samples

HEADER_BYTES = 4096
"""More than an .npy header of ours ever has (128): what the index calls longer than array and this is no such array."""
MOST_ASKED = 16 << 20
"""Bytes that a sample's arrays may lie apart to be asked for in one go."""
AGAIN = "make shards again"


class Reader:
    """Reads samples of shard folders into arrays. May be used by several threads at once."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._lock = threading.Lock()
        self._open: dict[int, mmap.mmap] = {}
        self._most_open = _descriptors() // 2
        self._good: set[tuple[bytes, tuple[int, ...], str]] = set()
        """Headers seen, each with the shape and type it was right for: parsed once."""

    def close(self) -> None:
        self._open.clear()

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
            with self._mapped(tar) as held:
                return [self._is_bad(places, k, held) for k in ks]
        except Problem:  # not one of its samples can be read
            return [True] * len(ks)

    def _is_bad(self, places: _Places, k: int, held: mmap.mmap) -> bool:
        try:
            places.check_ends([k], len(held))
            for group, header in enumerate(places.headers[:, k].tolist()):
                start = int(places.starts[group, k])
                self._check_header(places, group, k, held[start : start + header])
        except Problem:
            return True
        return False

    def _fill(self, samples: Samples, rows: np.ndarray, out: dict[str, np.ndarray]) -> None:
        if not len(rows):
            return
        shapes = {name: array.shape[1:] for name, array in out.items()}
        places = _Places(samples, rows, shapes, next(iter(out.values())).dtype.name)
        places.check_lengths()
        batch = [array.reshape(len(array), -1).view(np.uint8) for array in out.values()]
        for tar, ks in places.by_tar():
            samples.files[tar].local()
            samples.files[tar].check_same()
            try:
                with self._mapped(tar) as held:
                    places.check_ends(ks, len(held))
                    places.ask_for(ks, held)
                    self._copy(places, ks, np.frombuffer(held, np.uint8), batch)
            finally:
                # After the reading, good or bad: a tar that was replaced may look damaged, and is said to be replaced.
                samples.files[tar].check_same()

    def _copy(self, places: _Places, ks: list[int], tar: np.ndarray, batch: list[np.ndarray]) -> None:
        for group, (array, size) in enumerate(zip(batch, places.sizes, strict=True)):
            starts, headers = places.starts[group].tolist(), places.headers[group].tolist()
            for k in ks:
                pixels = starts[k] + headers[k]
                self._check_header(places, group, k, tar[starts[k] : pixels].tobytes())
                array[k] = tar[pixels : pixels + size]

    def _check_header(self, places: _Places, group: int, k: int, header: bytes) -> None:
        key = (header, places.shapes[group], places.dtype)
        if key in self._good:
            return
        shape, kind = _parse_header(header, places.where(k))
        if shape != places.shapes[group] or kind != np.dtype(places.dtype):
            what = f"a sample is {kind} {shape}, not {places.dtype} {places.shapes[group]}"
            raise Problem(what, where=places.where(k), fix=AGAIN, code=4)
        self._good.add(key)

    def _map(self, tar: int) -> mmap.mmap:
        found = self._samples.files[tar]
        try:
            with found.local().open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise Problem(f"a tar cannot be opened: {why}", where=found.name, fix="check the file") from None

    @contextmanager
    def _mapped(self, tar: int) -> Iterator[mmap.mmap]:
        """A tar's map. Tars stay open, as many as half of the files that the system lets a process have."""
        with self._lock:
            held = self._open.get(tar)
            if held is None:
                held = self._map(tar)
                if len(self._open) < self._most_open:
                    self._open[tar] = held
        yield held


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

    def check_ends(self, ks: list[int], size: int) -> None:
        """Raises Problem for a sample that goes beyond its tar's end."""
        for k in np.array(ks)[(self.ends()[:, ks] > size).any(0)]:
            raise Problem("the tar ends before the sample does", where=self.where(k), fix=AGAIN, code=4)

    def ends(self) -> np.ndarray:
        return self.starts + self.headers + np.array(self.sizes)[:, None]

    def ask_for(self, ks: list[int], held: mmap.mmap) -> None:
        """Say what will be read, all at once, so that a disk has something to choose from."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        first = self.starts[:, ks].min(0) // mmap.PAGESIZE * mmap.PAGESIZE
        for start, end in zip(first.tolist(), self.ends()[:, ks].max(0).tolist(), strict=True):
            if end - start <= MOST_ASKED:
                held.madvise(mmap.MADV_WILLNEED, start, end - start)

    def where(self, k: int) -> str:
        row = int(self._rows[k])
        return f"{self._samples['chip_id'][row]} in {self._samples.files[self._samples['tar'][row]].name}"


def _parse_header(header: bytes, where: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that an .npy header says; object arrays (pickles) are refused."""
    stream = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not npy format 1.0")
        shape, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:  # of Python's parser too
        raise Problem(f"a sample is damaged: {error}", where=where, fix=AGAIN, code=4) from None
    if fortran or kind.hasobject or stream.tell() != len(header):
        raise Problem("a sample holds objects or Fortran order, or more than its array", where=where, fix=AGAIN, code=4)
    return shape, kind


def _descriptors() -> int:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 16 if most == resource.RLIM_INFINITY else most
