"""Death at a call that changes the disk: the calls are counted, and at the one that is asked for the process ends.

Counted below one folder are the opens for writing, the write(2) calls of Python's files (after its buffers, so that
what a dying process had not flushed is lost), fsync, rename, unlink, mkdir and rmdir. Arrow writes its parts through
Python's files, so they are among them. What C code would write by itself (GDAL, SQLite, Arrow by a file's name) cannot
be seen; `Life.written` holds the bytes of every file, so that a test can show that there is no such file.

A death is before its call; `torn` does half of a write first. It is what SIGKILL is to a process, not what a power cut
is to a disk: what was written before stays.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

CODE = 137
"""Exit code of a process that SIGKILL has ended, as a shell tells it."""


class Died(BaseException):
    """The end of a process that goes on in truth: whatever it would still change on the disk raises this again."""


def leave() -> NoReturn:
    """No `finally`, no flush, nothing of Python's ending."""
    os._exit(CODE)


def fall() -> NoReturn:
    raise Died


@dataclass
class Life:
    """One run, up to its end or its death."""

    root: Path
    """Calls below it are counted."""
    die_at: int = 0
    """Number of the call it dies at; 0: it lives."""
    torn: bool = False
    die: Callable[[], NoReturn] = leave
    dead: bool = False
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Kind and path below the root of every call that was begun."""
    written: dict[str, int] = field(default_factory=dict)
    """Path below the root -> bytes of the file, by its writes and renames."""
    elsewhere: set[str] = field(default_factory=set)
    """Paths outside the root that were opened for writing, renamed or removed."""
    open_files: dict[int, str] = field(default_factory=dict)

    def name(self, path: Any) -> str | None:
        """A path below the root; None for others, which are noted."""
        full = Path(path).absolute()
        if full.is_relative_to(self.root):
            return full.relative_to(self.root).as_posix()
        if full != Path(os.devnull):
            self.elsewhere.add(str(full))
        return None

    def step(self, kind: str, name: str, half: Callable[[], Any] | None = None) -> None:
        """One more call. `half` does half of it, where it can be torn."""
        if self.dead:
            self.die()
        self.calls.append((kind, name))
        if len(self.calls) == self.die_at:
            if self.torn and half is not None:
                half()
            self.dead = True
            self.die()

    @contextlib.contextmanager
    def lived(self) -> Iterator[Life]:
        """The calls in this block are counted."""
        places: list[tuple[Any, str, Any]] = [(builtins, "open", _opening(self)), (io, "open", _opening(self))]
        places += [(os, name, _changing(self, name)) for name in ("unlink", "remove", "rmdir", "truncate")]
        places += [(os, name, _moving(self, name)) for name in ("rename", "replace")]
        places += [(os, "fsync", _syncing(self)), (os, "mkdir", _making(self))]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        try:
            for owner, name, call in places:
                setattr(owner, name, call)
            yield self
        finally:
            for owner, name, call in before:
                setattr(owner, name, call)


class _File(io.FileIO):
    """A file open for writing whose life is counted."""

    def __init__(self, life: Life, path: str, name: str, mode: str) -> None:
        life.step("open", name)
        super().__init__(path, mode)
        self._life, self._name = life, name
        life.open_files[self.fileno()] = name
        life.written[name] = Path(path).stat().st_size

    def write(self, data: Any) -> int:
        if self._life.dead:
            return len(data)  # a buffer that is let go after the end: nowhere
        self._life.step("write", self._name, lambda: super(_File, self).write(memoryview(data)[: len(data) // 2]))
        count = super().write(data)
        self._life.written[self._name] += count
        return count

    def truncate(self, size: int | None = None) -> int:
        self._life.step("truncate", self._name)
        return super().truncate(size)

    def close(self) -> None:
        if not self.closed:
            self._life.open_files.pop(self.fileno(), None)
        super().close()


def _opening(life: Life) -> Callable[..., Any]:
    plain = io.open

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        writes = not isinstance(file, int) and set(mode) & set("wax+")
        name = life.name(file) if writes else None
        if name is None:
            return plain(file, mode, buffering, *rest, **more)
        raw = _File(life, os.fspath(file), name, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else os.fstat(raw.fileno()).st_blksize
        buffered: Any = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **more)

    return opened


def _changing(life: Life, kind: str) -> Callable[..., Any]:
    plain = getattr(os, kind)

    def changed(path: Any, *rest: Any, **more: Any) -> Any:
        where = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path
        name = life.name(where)
        if name is not None and os.path.lexists(where):
            life.step("unlink" if kind == "remove" else kind, name)
            life.written.pop(name, None)
        return plain(path, *rest, **more)

    return changed


def _moving(life: Life, kind: str) -> Callable[..., Any]:
    plain = getattr(os, kind)

    def moved(source: Any, target: Any, **more: Any) -> None:
        old, new = life.name(source), life.name(target)
        if old is not None and new is not None:
            life.step("rename", new)
        plain(source, target, **more)
        if old is not None and new is not None and old in life.written:
            life.written[new] = life.written.pop(old)

    return moved


def _syncing(life: Life) -> Callable[[int], None]:
    plain = os.fsync

    def synced(file: int) -> None:
        life.step("fsync", life.open_files.get(file, "?"))
        plain(file)

    return synced


def _making(life: Life) -> Callable[..., None]:
    plain = os.mkdir

    def made(path: Any, *rest: Any, **more: Any) -> None:
        name = life.name(path) if not Path(path).is_dir() else None
        if name is not None:
            life.step("mkdir", name)
        plain(path, *rest, **more)

    return made
