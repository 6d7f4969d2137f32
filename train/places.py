"""Where the arrays of samples lie in their tars, and whether what lies there can be them."""

from __future__ import annotations

import math
import mmap
import tarfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from harmonize.problem import Problem
from train.folder import AGAIN

if TYPE_CHECKING:
    from train.shards import Samples

HEADER_BYTES = 4096
"""More than an .npy header of ours ever has (128): what the index calls longer than array and this is no such array."""
MOST_ASKED = 16 << 20
"""Bytes that a sample's arrays may lie apart to be asked for in one go."""


class Places:
    """Where the arrays of some samples of one sensor lie. Python's integers: a batch has few samples of each tar, and
    numpy takes longer to begin than to end then."""

    def __init__(self, samples: Samples, rows: np.ndarray, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        self._samples, self._rows, self.dtype = samples, rows, dtype
        self._first = next(iter(shapes))
        self.shapes = list(shapes.values())
        self.sizes = [np.dtype(dtype).itemsize * math.prod(shape) for shape in self.shapes]
        self._tars = samples["tar"][rows]
        starts = np.stack([samples[f"offset_{name}"][rows] for name in shapes])
        lengths = np.stack([samples[f"length_{name}"][rows] for name in shapes])
        headers = lengths - np.array(self.sizes)[:, None]
        self.wrong = (headers <= 10) | (headers > HEADER_BYTES) | (starts < tarfile.BLOCKSIZE)
        """bool (groups, B): where the index cannot be right."""
        self.starts: list[list[int]] = starts.tolist()
        """groups x B: bytes from the tar's start to each .npy member."""
        self.headers: list[list[int]] = headers.tolist()
        """groups x B: bytes of each .npy header, as the index has it."""
        self._low: list[int] = starts.min(0).tolist()
        self._high: list[int] = (starts + lengths).max(0).tolist()

    def by_tar(self) -> Iterator[tuple[int, list[int]]]:
        """Each tar and which of the samples it holds, in the order they have there: so a disk likes it."""
        order = np.lexsort((self.starts[0], self._tars))
        for some in np.split(order, np.flatnonzero(np.diff(self._tars[order])) + 1):
            yield int(self._tars[some[0]]), some.tolist()

    def check_lengths(self) -> None:
        for group, k in np.argwhere(self.wrong):
            what = f"the index has no place for a sample's {self.dtype} {self.shapes[group]}"
            raise Problem(what, where=self.where(k), fix=AGAIN, code=4)

    def check_ends(self, ks: list[int], size: int) -> None:
        """Raises Problem for a sample that goes beyond its tar's end."""
        for k in ks:
            if self._high[k] > size:
                raise Problem("the tar ends before the sample does", where=self.where(k), fix=AGAIN, code=4)

    def tar_header(self, k: int) -> slice:
        """Where the tar header of a sample's first array is."""
        return slice(self.starts[0][k] - tarfile.BLOCKSIZE, self.starts[0][k])

    def ranges(self, k: int) -> list[tuple[int, int]]:
        """First and last + 1 byte of each array of a sample, of the first one with its tar header."""
        ends = zip(self.starts, self.headers, self.sizes, strict=True)
        found = [(starts[k], starts[k] + headers[k] + size) for starts, headers, size in ends]
        return [(self.tar_header(k).start, found[0][1]), *found[1:]]

    def check_pixels(self, k: int, sha256: str) -> None:
        """Raises Problem for other pixels than the index says."""
        if sha256 != self._samples["sha256"][self._rows[k]]:
            what = "a sample is damaged: its pixels are not those that the index names"
            raise Problem(what, where=self.where(k), fix="copy its tar there again, or make shards again", code=4)

    def check_name(self, k: int, header: bytes) -> None:
        """Raises Problem where another sample lies in this one's place: of another build, tars may have the same size
        and arrays the same places. Its tar header, right before its first array, has its name.
        """
        name = f"{self._samples['chip_id'][self._rows[k]]}.{self._first}.npy".encode()
        if header[: len(name) + 1] != name + b"\0":
            found = header[: tarfile.LENGTH_NAME].split(b"\0")[0].decode("ascii", "backslashreplace")
            what = f"the index and its tar do not belong together: '{found}' is in its place"
            raise Problem(what, where=self.where(k), fix="copy the whole folder again, or make shards again", code=4)

    def ask_for(self, ks: list[int], held: mmap.mmap) -> None:
        """Say what will be read, all at once, so that a disk has something to choose from."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for k in ks:
            start = self._low[k] // mmap.PAGESIZE * mmap.PAGESIZE
            if self._high[k] - start <= MOST_ASKED:
                held.madvise(mmap.MADV_WILLNEED, start, self._high[k] - start)

    def where(self, k: int) -> str:
        row = int(self._rows[k])
        return f"{self._samples['chip_id'][row]} in {self._samples.files[self._samples['tar'][row]].name}"
