"""The one exception for mistakes a person can fix: what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Problem(Exception):
    """A mistake in a manifest, an input or a command.

    Commands print it without a traceback and leave with `code`: 2 for a person's mistake, 4 for damaged data.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "", code: int = 2) -> None:
        super().__init__(what)
        self.what, self.where, self.fix, self.code = what, where, fix, code

    def __str__(self) -> str:
        lines = [printable(self.what)]
        if self.where:
            lines.append(f"  where: {printable(self.where)}")
        if self.fix:
            lines.append(f"  fix:   {printable(self.fix)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple:
        return _rebuild, (self.what, self.where, self.fix, self.code)


def _rebuild(what: str, where: str, fix: str, code: int) -> Problem:
    """Let a Problem cross a process border (dask and multiprocessing pickle exceptions by their args)."""
    return Problem(what, where=where, fix=fix, code=code)


def printable(text: object) -> str:
    """A text on one line as a terminal may show it: names of files and items come from others, and could move the
    cursor, hide letters or forge the next line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(str(text).splitlines()))


MOST = 40
"""Of what is known, so many are listed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean …?` for the known word most like `word`, else the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    more = f" and {len(known) - MOST} more" if len(known) > MOST else ""
    return f"known: {', '.join(known[:MOST])}{more}"
