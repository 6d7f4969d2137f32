"""One writer at a time: a lock on a file of the folder that is written, which says who has it.

The kernel holds the lock for the process and lets go of it when that ends, however it ends, so that a killed run blocks
nobody; the file that it leaves is taken over. On NFS (Linux) the lock holds between machines too, and a machine that
went down holds it until its server notices; a file system that knows no locks is told of, and written without one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from harmonize.problem import Problem
from harmonize.record import from_json

LOCK = ".lock"
POLL_S = 0.2
"""How often who waits looks again."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that has no locks."""


@dataclass(frozen=True)
class Holder:
    """Who is writing."""

    host: str
    pid: int
    since: str
    """UTC, ISO 8601."""
    command: str

    def as_json(self) -> bytes:
        return (json.dumps(asdict(self), sort_keys=True) + "\n").encode()

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid} on {self.host}, since {self.since})"


def this_process() -> Holder:
    """This process as a holder."""
    now = dt.datetime.now(dt.UTC).isoformat(sep=" ", timespec="seconds")
    return Holder(socket.gethostname(), os.getpid(), now, command_line(sys.argv))


def command_line(words: list[str]) -> str:
    """What was typed, without what may be secret of an address: its user and its query string."""
    program = Path(words[0] if words else "")
    said = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name or "python"]
    plain = [re.sub(r"(://)[^/@\s]*@", r"\1", word).partition("?")[0] if "://" in word else word for word in words[1:]]
    return shlex.join([*said, *plain])


def parse_holder(text: bytes) -> Holder | None:
    """Who a lock file names; None where it is empty or says nothing of use."""
    try:
        return Holder(**from_json(text))
    except (ValueError, TypeError):
        return None


def taken(holder: Holder | None, place: str, fix: str = "") -> Problem:
    """Somebody else is writing there."""
    stop = f"; kill {holder.pid} on {holder.host} ends that run" if holder else ""
    return Problem(
        f"another run is writing here: {holder or 'it has not said which'}",
        where=place,
        fix=fix or f"let it end, or add --wait (make …: ARGS=--wait) to go on after it{stop}",
    )


def say_waiting(holder: Holder | None, place: str) -> None:
    print(f"waiting for another run in {place}: {holder or 'it has not said which'}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the folder's lock in the block; the folder is made for it.

    Raises Problem where another process (or thread) has it and we do not wait, and where the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = _acquire(folder, wait)
    try:
        yield
    finally:
        try:
            (folder / LOCK).unlink(missing_ok=True)  # before it is let go: who opened this file sees that it is gone
        finally:
            os.close(file)
        with contextlib.suppress(OSError):  # where something was written, or somebody else came, they stay
            for path in made:
                path.rmdir()


def holder_of(folder: Path) -> Holder | None:
    """Who is writing in a folder now; None where nobody is."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(folder / LOCK) or Holder("an unknown machine", 0, "?", "a run")
    except OSError:
        return None
    return None


def _acquire(folder: Path, wait: bool) -> int:
    """File descriptor that holds the lock."""
    path, told = folder / LOCK, False
    while True:
        file = _open(path)
        if file is None:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            holder = _read(path)
            if not wait:
                raise taken(holder, str(folder)) from None
            if not told:
                say_waiting(holder, str(folder))
                told = True
            time.sleep(POLL_S)
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{folder}: this file system has no locks; run one command at a time", file=sys.stderr)
        if _is_file(file, path):
            try:
                os.truncate(file, 0)
                os.write(file, this_process().as_json())
            except BaseException:
                os.close(file)
                raise
            return file
        os.close(file)  # whoever had it removed it while we opened it: there is another one now, or none


def _open(path: Path) -> int | None:
    """The lock file; None where the one before has just removed the folder that it had made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    except OSError as error:
        where, fix = str(path), "name another folder (OUT=…, RUNS=…), or let this user write there"
        raise Problem(f"cannot write here: {error.strerror}", where=where, fix=fix) from None


def _is_file(file: int, path: Path) -> bool:
    """Whether an open file still is the one of that name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read(path: Path) -> Holder | None:
    """Who a lock file names. It is written a moment after it is locked, so an empty one is read again."""
    for _ in range(10):
        with contextlib.suppress(OSError):
            if holder := parse_holder(path.read_bytes()):
                return holder
        time.sleep(0.02)
    return None
