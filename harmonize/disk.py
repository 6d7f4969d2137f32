"""A disk that takes no more, told as what it is: what is wrong, where, and how to go on."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from harmonize.problem import Problem

SAID = {
    errno.ENOSPC: ("the disk is full", "free space there"),
    errno.EDQUOT: ("the quota on this disk is used up", "free space there, or ask for more"),
    errno.EFBIG: ("a file is larger than may be written here", "raise the limit (ulimit -f), or use another disk"),
    errno.EROFS: ("this disk can only be read", "make it writable, or write elsewhere (OUT=…, --runs)"),
}
"""Numbers of the system's errors -> what they mean, and what to do."""


def disk_problem(error: BaseException, where: str = "") -> Problem | None:
    """The Problem (code 1) of an error that says that a disk takes no more; None for any other error.

    where: used where the error itself names no file.
    """
    number = getattr(error, "errno", None)
    if not isinstance(error, OSError) or number not in SAID:
        return None
    what, fix = SAID[number]
    place = str(error.filename or where)
    return Problem(what, where=place, fix=f"{fix}, then call the same again: it goes on where it was", code=1)


@contextlib.contextmanager
def disk_told(where: str) -> Iterator[None]:
    """In the block, an error of a disk that takes no more is a Problem."""
    try:
        yield
    except OSError as error:
        problem = disk_problem(error, where)
        if problem is None:
            raise
        raise problem from None
