"""Samples of tars in buckets by their byte ranges: those of a batch asked for at once, each checked when it came."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harmonize.problem import Problem
from train.bucket import LASTING, TRIES, ask_ranges, file_system, pause, unreachable

if TYPE_CHECKING:
    from train.places import Places
    from train.tar_file import TarFile

AT_ONCE = 64 << 20
"""Bytes that are asked for at once: so much a thread holds besides its batch. 400 samples, and more requests than a
connection serves at a time."""

Check = Callable[[int, list[memoryview]], None]


@dataclass
class Wanted:
    """A sample that a batch needs, and where the batch has it: several times, if it was drawn several times."""

    tar: int
    ks: list[int]
    ranges: list[tuple[int, int]]
    """First and last + 1 byte in the tar for each array: of the first one with the tar header before it."""
    damaged: Problem | None = None
    """What was wrong with it when it came."""
    pieces: list[memoryview] = field(default_factory=list)
    """The ranges' bytes."""

    @property
    def start(self) -> int:
        return self.ranges[0][0]

    @property
    def size(self) -> int:
        return sum(end - start for start, end in self.ranges)


def wanted(places: Places, tar: int, ks: Sequence[int]) -> list[Wanted]:
    """Samples `ks` of a batch, all of one tar: each once."""
    found: dict[int, Wanted] = {}
    for k in ks:
        ranges = places.ranges(k)
        found.setdefault(ranges[0][0], Wanted(tar, [], ranges)).ks.append(k)
    return list(found.values())


def fetched(files: Sequence[TarFile], samples: Sequence[Wanted], check: Check) -> Iterator[list[Wanted]]:
    """The samples with their pieces, some at a time. `check(k, pieces)` raises Problem for what is not sample k.

    Raises Problem, naming chip and tar, for what cannot be had, and for a sample that came damaged twice.
    """
    some: list[Wanted] = []
    size = 0
    for sample in samples:
        if some and size + sample.size > AT_ONCE:
            yield _fetched(files, some, check)
            some, size = [], 0
        some.append(sample)
        size += sample.size
    if some:
        yield _fetched(files, some, check)


def _fetched(files: Sequence[TarFile], samples: list[Wanted], check: Check) -> list[Wanted]:
    left = samples
    for tried in range(1, TRIES + 1):
        again = []
        for sample, error in _asked(files, left):
            error = error or _checked(sample, check)
            if error is None:
                continue
            if tried == TRIES or isinstance(error, (Problem, *LASTING)):
                raise _refused(files[sample.tar], error) from None
            again.append(sample)
        if not again:
            return samples
        left = again
        pause(tried)
    raise AssertionError("the last try ends it")


def _asked(files: Sequence[TarFile], samples: list[Wanted]) -> Iterator[tuple[Wanted, Exception | None]]:
    """The samples with their pieces, or with what kept them off."""
    systems: dict[int, tuple[Any, list[tuple[Wanted, str]]]] = {}
    for sample in samples:
        fs, path = file_system(files[sample.tar].url)
        systems.setdefault(id(fs), (fs, []))[1].append((sample, path))
    for fs, mine in systems.values():
        came = iter(ask_ranges(fs, [(path, *places) for sample, path in mine for places in sample.ranges]))
        for sample, _ in mine:
            pieces = [next(came) for _ in sample.ranges]
            error = next((piece for piece in pieces if isinstance(piece, Exception)), None)
            sample.pieces = [] if error else pieces  # type: ignore[assignment]
            yield sample, error


def _checked(sample: Wanted, check: Check) -> Exception | None:
    """None for a sample that is right. A first damage is an error that may go away, a second one its Problem."""
    try:
        for k in sample.ks:
            check(k, sample.pieces)
    except Problem as problem:
        if sample.damaged:
            return problem
        sample.damaged = problem
        return OSError(problem.what)
    return None


def _refused(file: TarFile, error: Exception) -> Problem:
    problem = error if isinstance(error, Problem) else unreachable(file.url, error)
    if not isinstance(error, LASTING):
        try:
            file.check_size()  # of a tar of another build, bytes are damaged or missing
        except Problem as found:
            return found if found.code == 4 else problem
    return problem


def sha256_of(pieces: Sequence[memoryview]) -> str:
    """sha256 (hex) of the pixels of a sample's arrays one after the other, as its index has it."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
