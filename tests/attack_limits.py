"""What every attack must end with: a Problem that says what, where and how to mend it, soon and in little memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harmonize.problem import Problem

SECONDS = 1.0
"""Of the processor: on a machine that does other things too, one second on the clock may be ten."""
WAITED = 10.0
"""Seconds on the clock, which waiting for a network would take."""
MEGABYTES = 200
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def refused(attack: Callable[[], Any], *words: str, code: int = 2) -> Problem:
    """The Problem that an attack ends with, which says these words; within SECONDS, once its libraries are imported,
    and within MEGABYTES."""
    problem, seconds = _ended(attack)
    if seconds > SECONDS:  # the first time also imports libraries
        problem, seconds = min((_ended(attack) for _ in range(2)), key=lambda ended: ended[1])
    assert seconds <= SECONDS, f"refused only after {seconds:.1f} s: {problem}"
    said = str(problem)
    for word in words:
        assert word in said, f"{word!r} is not in: {said}"
    assert problem.what
    assert problem.where, f"it does not say where: {said}"
    assert problem.fix, f"it does not say how to mend it: {said}"
    assert problem.code == code, said
    assert all(c.isprintable() or c == "\n" for c in said)
    return problem


def _ended(attack: Callable[[], Any]) -> tuple[Problem, float]:
    started, clock = time.process_time(), time.monotonic()
    with bounded(), pytest.raises(Problem) as caught:
        attack()
    seconds, waited = time.process_time() - started, time.monotonic() - clock
    return caught.value, seconds if waited <= WAITED else waited


class bounded:
    """In the block the process takes at most MEGABYTES more than it had before (Linux says what it had at the most)."""

    def __enter__(self) -> None:
        self._known = CLEAR.exists()
        if self._known:
            CLEAR.write_text("5")  # the highest memory so far is forgotten
            self._before = _kilobytes("VmRSS")

    def __exit__(self, kind: object, *_: object) -> None:
        if self._known:
            more = (_kilobytes("VmHWM") - self._before) / 1024
            assert more <= MEGABYTES, f"it took {more:.0f} MB"


def _kilobytes(name: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
