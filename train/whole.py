"""Files that others name with their sha256: whether they still are what was written. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harmonize.problem import Problem
from harmonize.record import unsealed

DIFFERS = "a byte differs: it does not have the sha256 that was noted when it was written"


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name -> sha256 of those files that are there; a folder stands for all files in it."""
    found: dict[str, str] = {}
    for name in names:
        path = folder / name
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found |= {p.relative_to(folder).as_posix(): file_digest(p) for p in inside if p.is_file()}
    return found


def wrong_files(folder: Path, files: Any) -> Iterator[tuple[str, str]]:
    """Of files (name -> sha256) those that are not there or not the same any more, and what is wrong."""
    if not isinstance(files, Mapping):
        yield "", "what it says of its files is damaged"
        return
    for name, sha256 in files.items():
        path = folder / name
        try:
            if file_digest(path) != sha256:
                yield name, DIFFERS
        except FileNotFoundError:
            yield name, "it is not there"
        except OSError as error:
            yield name, f"it cannot be read: {error.strerror or error}"


def check_files(folder: Path, files: Any, fix: str) -> None:
    """Raises Problem (code 4) naming the first file that is not what was written. None: an older version noted none."""
    for name, what in wrong_files(folder, {} if files is None else files):
        raise Problem(f"{name or folder.name} is damaged: {what}", where=str(folder / name), fix=fix, code=4)


def read_sealed(path: Path, fix: str) -> dict[str, Any]:
    """A JSON file that has the hash of itself. Raises Problem (code 4) where it is damaged; FileNotFoundError."""
    try:
        return unsealed(path.read_bytes())
    except ValueError as error:
        raise Problem(f"{path.name} is damaged: {error}", where=str(path), fix=fix, code=4) from None
