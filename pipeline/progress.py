"""How far a stage is: a bar on stderr where somebody looks, else a line every half minute so that a log shows life."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

from harmonize.command import doing

T = TypeVar("T")

LINE_S = 30.0
"""Seconds between two lines where nobody looks; shorter stages print none."""


class Progress:
    """Count, rate, time gone and time left of `total` things, and what was dropped so far by reason."""

    def __init__(self, what: str, total: int, quiet: bool = False) -> None:
        self.what, self.total, self.quiet = what, total, quiet
        self.count = 0
        self.dropped: Counter[str] = Counter()
        self._bar: Any = None
        self._told = doing(lambda: f"{self.count} of {self.total} done")
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        self._told.__enter__()
        if not self.quiet and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._bar.add_task(self.what, total=self.total, rate="", dropped="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._told.__exit__(None, None, None)
        if self._bar is not None:
            self._bar.stop()

    def advance(self, dropped: Mapping[str, int] | None = None) -> None:
        """One more is done."""
        self.count += 1
        self.dropped.update(dropped or {})
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(0, advance=1, rate=self._rate(now), dropped=self._drops())
        elif not self.quiet and now - self._said >= LINE_S:
            self._said = now
            print(self.line(now), file=sys.stderr, flush=True)

    def line(self, now: float) -> str:
        """The state as one line of a log."""
        left = (self.total - self.count) * (now - self._started) / self.count
        parts = [f"{self.count} of {self.total}", self._rate(now), f"{_clock(left)} left", self._drops()]
        return f"{self.what}: " + ", ".join(part for part in parts if part)

    def _rate(self, now: float) -> str:
        rate = self.count / max(now - self._started, 1e-9)
        return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"

    def _drops(self) -> str:
        told = ", ".join(f"{n} {reason}" for reason, n in sorted(self.dropped.items()))
        return f"dropped {told}" if told else ""


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>9}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[dropped]}"),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=600,  # a job may take a minute
    )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def track(things: Iterable[T], total: int, what: str, quiet: bool = False) -> Iterator[T]:
    """Yield the things while it is shown how many of `total` are done."""
    with Progress(what, total, quiet) as progress:
        for thing in things:
            yield thing
            progress.advance()
