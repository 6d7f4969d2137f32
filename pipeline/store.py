"""Where outputs live: a folder or a bucket, written so that a file is whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from harmonize.disk import disk_problem, disk_told
from harmonize.problem import Problem
from pipeline.bucket import open_bucket


class Store:
    """Files under one root, `data/<region>` or `s3://bucket/<region>`; names inside are relative with `/`."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.remote = "://" in root
        self.writer = ""
        """Part of a draft's name: a job that was given up may still be writing the file that another one writes."""
        self.taken_by = ""
        """Who has taken over the lease (pipeline.lease) under which this process writes here."""
        self._fs: Any = None
        if self.remote:
            self._fs, self.root = open_bucket(self.root)

    def absolute(self) -> Store:
        """The same place for a process with another working directory."""
        if self.remote:
            return self
        return Store(str(Path(self.root).resolve()))

    def check_held(self) -> None:
        """Raises Problem (code 1) where another run has taken over while we were writing."""
        if self.taken_by:
            fix = "let it end, then call again: it goes on where that one was"
            raise Problem(f"another run has taken over: {self.taken_by}", where=self.root, fix=fix, code=1)

    def path(self, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise Problem(
                f"'{name}' would leave its folder", where=self.root, fix="use names without .. and without a leading /"
            )
        return self.root if name == "." else f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        return self._fs.exists(self.path(name)) if self.remote else Path(self.path(name)).exists()

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return int(self._fs.size(self.path(name)) if self.remote else Path(self.path(name)).stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, name: str) -> BinaryIO:
        """A file to read from its start to its end, without holding all of it."""
        if self.remote:
            return cast("BinaryIO", self._fs.open(self.path(name)))
        return Path(self.path(name)).open("rb", buffering=0)

    def read(self, name: str) -> bytes:
        return bytes(self._fs.cat_file(self.path(name))) if self.remote else Path(self.path(name)).read_bytes()

    def write_json(self, name: str, value: Any) -> str:
        """A JSON file, its keys sorted; its sha256."""
        return self.write(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def write(self, name: str, data: bytes) -> str:
        """Write a file whole (tmp, fsync, rename) and give its sha256."""
        if self.remote:
            self._fs.pipe_file(self.path(name), data)
        else:
            with self.drafting(name) as draft, draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        return hashlib.sha256(data).hexdigest()

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object of a bucket where there is none of that name; whether we did. Stores that cannot create
        if absent write over it when they do not see it."""
        return bool(self._fs.create_file(self.path(name), data))

    def draft(self, name: str) -> Path:
        """A local file to write a large output into before `adopt` puts it in its place."""
        if self.remote:
            import tempfile

            return Path(tempfile.mkdtemp(prefix="closp-")) / Path(name).name
        target = Path(self.path(name))
        self._folder(target.parent)
        # One name per file and writer: what a killed run left is written over or swept, not left lying.
        return target.with_name(f".{target.name}{self.writer}.tmp")

    def make(self) -> None:
        """The root itself, so that workers can see that they share it."""
        if not self.remote:
            self._folder(Path(self.root))

    def _folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if problem := disk_problem(error, self.root):
                raise problem from None
            raise Problem(f"cannot write here: {error.strerror}", where=self.root, fix="name another OUT") from None

    @contextlib.contextmanager
    def drafting(self, name: str) -> Iterator[Path]:
        """A draft to write and fsync in the block; it is put in its place at the end, or removed if the block fails.

        Raises Problem (code 1) where the disk takes no more.
        """
        draft = self.draft(name)
        with disk_told(self.root):
            try:
                yield draft
            except BaseException:
                draft.unlink(missing_ok=True)
                if self.remote:
                    draft.parent.rmdir()
                raise
            self.adopt(draft, name)

    def adopt(self, draft: Path, name: str) -> None:
        """Put a finished draft in its place; it must have been fsynced."""
        if self.remote:
            try:
                self._fs.put_file(str(draft), self.path(name))
            finally:
                shutil.rmtree(draft.parent)
        else:
            draft.replace(self.path(name))

    def local(self, name: str) -> Path:
        """A local path of a file; of a bucket's file a copy, which is renewed when the file has other content."""
        return self._fs.copy_of(self.path(name)) if self.remote else Path(self.path(name))

    def walk(self) -> list[str]:
        """Names of all files below the root, drafts and hidden ones too, sorted."""
        if self.remote:
            root = self.root.strip("/") + "/"
            names = [str(p).lstrip("/") for p in self._fs.find(self.root)] if self._fs.exists(self.root) else []
            return sorted(name.removeprefix(root) for name in names)
        root_path = Path(self.root)
        return sorted(p.relative_to(root_path).as_posix() for p in root_path.rglob("*") if not p.is_dir())

    def list(self, folder: str) -> list[str]:
        """Names of the finished files directly in a folder, sorted."""
        if self.remote:
            names = self._fs.files(self.path(folder))
        else:
            where = Path(self.path(folder))
            names = [p.name for p in where.iterdir() if p.is_file()] if where.is_dir() else []
        return sorted(f"{folder}/{n}" for n in names if not n.startswith("."))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.remote:
            if self.exists(name):
                self._fs.rm_file(self.path(name))
        else:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                Path(self.path(name)).unlink()

    def sweep(self, folder: str, keep: set[str]) -> int:
        """Remove what is in a folder and not in `keep`, drafts of killed runs too; how many files went."""
        stale = [name for name in self.list(folder) if name not in keep]
        for name in stale:
            self.remove(name)
        where = Path(self.root) / folder
        if not self.remote and where.is_dir():
            for draft in where.glob(".*.tmp"):
                draft.unlink()
        return len(stale)


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a local file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
