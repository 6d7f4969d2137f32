"""Arrays of samples straight out of the tars into batch arrays: byte ranges that the index names, no tar is walked.

Copied out of memory maps: of a warm page cache in two thirds of the time that system calls take (30 and 47 us for a
sample of 160 kB, measured), and other threads run meanwhile. A disk is asked for a tar's share of a batch beforehand. A
map has one danger: a tar that is cut short in its place while it is copied ends the process. Ours are replaced by other
files, never written to, and each is looked at before and after every batch.
"""

from __future__ import annotations

import contextlib
import mmap
import tarfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.problem import Problem
from pipeline.sample import DTYPE, GROUPS, group_shape, npy_shape
from train.folder import AGAIN
from train.places import Places
from train.ranges import Wanted, fetched, sha256_of, wanted

if TYPE_CHECKING:
    from train.range_cache import KeptTar
    from train.shards import Samples


class Reader:
    """Reads samples of shard folders into arrays. May be used by several threads at once."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._lock = threading.Lock()
        self._open: dict[int, Any] = {}
        """Maps of tars, and what is kept of those in buckets; the last used one last."""
        self._most_open = _descriptors() // 3  # of which a kept one takes two
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
        looked at: their samples are checked, pixels and all, when they are fetched.
        """
        bad = np.zeros(len(self._samples), bool)
        for sensor in set(self._samples["sensor"]):
            rows = np.flatnonzero(self._samples["sensor"] == sensor)
            places = Places(self._samples, rows, self.shapes(sensor), DTYPE[sensor])
            wrong = places.wrong.any(0)
            bad[rows[wrong]] = True
            for tar, ks in places.by_tar():
                if not self._samples.files[tar].url:
                    some = [k for k in ks if not wrong[k]]
                    bad[rows[some]] = self._unreadable(places, tar, some)
        return bad

    def _unreadable(self, places: Places, tar: int, ks: list[int]) -> list[bool]:
        try:
            held = self._mapped(tar)
            return [self._is_bad(places, k, held) for k in ks]
        except Problem:  # not one of its samples can be read
            return [True] * len(ks)

    def _is_bad(self, places: Places, k: int, held: mmap.mmap) -> bool:
        try:
            places.check_ends([k], len(held))
            places.check_name(k, held[places.tar_header(k)])
            for group, (starts, headers) in enumerate(zip(places.starts, places.headers, strict=True)):
                self._check_header(places, group, k, held[starts[k] : starts[k] + headers[k]])
        except Problem:
            return True
        return False

    def _fill(self, samples: Samples, rows: np.ndarray, out: dict[str, np.ndarray]) -> None:
        if not len(rows):
            return
        shapes = {name: array.shape[1:] for name, array in out.items()}
        places = Places(samples, rows, shapes, next(iter(out.values())).dtype.name)
        places.check_lengths()
        batch = [array.reshape(len(array), -1).view(np.uint8) for array in out.values()]
        missing: list[Wanted] = []
        for tar, ks in places.by_tar():
            if samples.files[tar].url:
                missing += wanted(places, tar, self._copy_kept(places, tar, ks, batch))
                continue
            samples.files[tar].check_same()
            try:
                held = self._mapped(tar)
                places.check_ends(ks, len(held))
                places.ask_for(ks, held)
                for k in ks:
                    places.check_name(k, held[places.tar_header(k)])
                self._copy(places, ks, np.frombuffer(held, np.uint8), batch)
            finally:
                # After the reading, good or bad: a tar that was replaced may look damaged, and is said to be replaced.
                samples.files[tar].check_same()
        self._copy_fetched(places, missing, batch)

    def _copy_kept(self, places: Places, tar: int, ks: list[int], batch: list[np.ndarray]) -> list[int]:
        """Copy the samples of a tar in a bucket that its cache has; those that it has not."""
        places.check_ends(ks, self._samples.files[tar].size)
        kept = self._kept(tar)
        if kept is None:
            return ks
        there: list[int] = []
        missing: list[int] = []
        for k in ks:
            (there if self._is_kept(places, k, kept) else missing).append(k)
        places.ask_for(there, kept.bytes)
        try:
            self._copy(places, there, np.frombuffer(kept.bytes, np.uint8), batch)
        except Problem:  # the file was damaged since: what it should have is fetched again
            return ks
        return missing

    def _is_kept(self, places: Places, k: int, kept: KeptTar) -> bool:
        start = places.ranges(k)[0][0]
        has = kept.has(start)
        if has is None:
            view = memoryview(kept.bytes)
            try:
                self._check_sample(places, k, [view[first:end] for first, end in places.ranges(k)])
            except Problem:
                return False
            with contextlib.suppress(OSError):  # a full disk: it is checked again the next time
                kept.mark(start)
        return has is not False

    def _copy_fetched(self, places: Places, missing: list[Wanted], batch: list[np.ndarray]) -> None:
        """Fetch samples, copy them, and keep them for the next time where there is room."""
        files = self._samples.files
        for some in fetched(files, missing, lambda k, pieces: self._check_sample(places, k, pieces)):
            for sample in some:
                for group, (piece, array) in enumerate(zip(sample.pieces, batch, strict=True)):
                    for k in sample.ks:
                        array[k] = np.frombuffer(piece, np.uint8)[-places.sizes[group] :]
                self._keep(sample)
                sample.pieces = []

    def _keep(self, sample: Wanted) -> None:
        cache, kept = self._samples.files[sample.tar].cache, self._kept(sample.tar)
        if cache is not None and kept is not None and cache.room(sample.size):
            try:
                kept.keep(sample.start, zip((first for first, _ in sample.ranges), sample.pieces, strict=True))
            except OSError as error:
                cache.refused(error)

    def _check_sample(self, places: Places, k: int, pieces: list[memoryview]) -> None:
        """Raises Problem for the bytes of `places.ranges(k)` that are not sample k, to the last pixel."""
        places.check_name(k, bytes(pieces[0][: tarfile.BLOCKSIZE]))
        pixels = []
        for group, (piece, size) in enumerate(zip(pieces, places.sizes, strict=True)):
            self._check_header(places, group, k, bytes(piece[tarfile.BLOCKSIZE if group == 0 else 0 : -size]))
            pixels.append(piece[-size:])
        places.check_pixels(k, sha256_of(pixels))

    def _copy(self, places: Places, ks: list[int], tar: np.ndarray, batch: list[np.ndarray]) -> None:
        for group, (array, size) in enumerate(zip(batch, places.sizes, strict=True)):
            starts, headers = places.starts[group], places.headers[group]
            for k in ks:
                pixels = starts[k] + headers[k]
                self._check_header(places, group, k, tar[starts[k] : pixels].tobytes())
                array[k] = tar[pixels : pixels + size]

    def _check_header(self, places: Places, group: int, k: int, header: bytes) -> None:
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
            with found.path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise Problem(f"a tar cannot be opened: {why}", where=found.name, fix="check the file") from None

    def _mapped(self, tar: int) -> mmap.mmap:
        """A tar's map."""
        found: mmap.mmap = self._held(tar, self._map)
        return found

    def _kept(self, tar: int) -> KeptTar | None:
        """What is kept of a tar in a bucket; None where nothing can be."""
        file = self._samples.files[tar]
        return self._held(tar, lambda _: file.cache and file.cache.open(file.path, file.size))

    def _held(self, tar: int, opening: Callable[[int], Any]) -> Any:
        """Tars stay open, as many as the system lets a process have."""
        with self._lock:
            held = self._open.pop(tar, None)
        held = opening(tar) if held is None else held
        with self._lock:
            if held is not None:
                self._open[tar] = held
            while len(self._open) > self._most_open:
                del self._open[next(iter(self._open))]  # a batch that is using it keeps it
        return held


def _parse_header(header: bytes, where: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that an .npy header says; object arrays (pickles) are refused."""
    try:
        shape, fortran, kind, length = npy_shape(header)
    except ValueError as error:
        raise Problem(f"a sample is damaged: {error}", where=where, fix=AGAIN, code=4) from None
    if fortran or kind.hasobject or length != len(header):
        raise Problem("a sample holds objects or Fortran order, or more than its array", where=where, fix=AGAIN, code=4)
    return shape, kind


def _descriptors() -> int:
    """Files that this process may have open: as many as it may ask for, since a corpus has thousands of tars."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 16 if hard == resource.RLIM_INFINITY else hard
    if soft not in (resource.RLIM_INFINITY, most) and soft < most:
        with contextlib.suppress(ValueError, OSError):  # a system may allow less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most if soft == resource.RLIM_INFINITY else min(soft, 1 << 16)
