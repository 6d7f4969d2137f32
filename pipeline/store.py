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

from harmonize.problem import Problem


class Store:
    """Files under one root, `data/<region>` or `s3://bucket/<region>`; names inside are relative with `/`."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.remote = "://" in root
        self.writer = ""
        """Part of a draft's name: a job that was given up may still be writing the file that another one writes."""
        self._fs: Any = None
        if self.remote:
            self._fs, self.root = _bucket(self.root)

    def absolute(self) -> Store:
        """The same place for a process with another working directory."""
        if self.remote:
            return self
        return Store(str(Path(self.root).resolve()))

    def path(self, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise Problem(f"'{name}' would leave {self.root}", fix="use names without .. and without a leading /")
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self.path(name))) if self.remote else Path(self.path(name)).exists()

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return int(self._fs.size(self.path(name)) if self.remote else Path(self.path(name)).stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, name: str) -> BinaryIO:
        """A file to read from its start to its end, without holding all of it."""
        if self.remote:
            return cast("BinaryIO", self._fs.open(self.path(name), "rb"))
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
            target = Path(self.path(name))
            draft = self.draft(name)
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        return hashlib.sha256(data).hexdigest()

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
            raise Problem(f"cannot write here: {error.strerror}", where=self.root, fix="name another OUT") from None

    @contextlib.contextmanager
    def drafting(self, name: str) -> Iterator[Path]:
        """A draft to write and fsync in the block; it is put in its place at the end, or removed if the block fails."""
        draft = self.draft(name)
        try:
            yield draft
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        self.adopt(draft, name)

    def adopt(self, draft: Path, name: str) -> None:
        """Put a finished draft in its place; it must have been fsynced."""
        if self.remote:
            self._fs.put_file(str(draft), self.path(name))
            shutil.rmtree(draft.parent)
        else:
            draft.replace(self.path(name))

    def local(self, name: str) -> Path:
        """A local path of a file; a remote file is copied once into a temporary folder."""
        if not self.remote:
            return Path(self.path(name))
        import tempfile

        copy = Path(tempfile.gettempdir()) / "closp-cache" / self.path(name).strip("/")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            part = copy.with_name(f"{copy.name}.{os.getpid()}.tmp")
            self._fs.get_file(self.path(name), str(part))
            part.replace(copy)
        return copy

    def list(self, folder: str) -> list[str]:
        """Names of the finished files directly in a folder, sorted."""
        if self.remote:
            if not self._fs.exists(self.path(folder)):
                return []
            names = [str(p).rsplit("/", 1)[-1] for p in self._fs.ls(self.path(folder), detail=False)]
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


def _bucket(url: str) -> tuple[Any, str]:
    """File system and path of a bucket's address."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        fix = "make setup EXTRAS=dev,minilm,s3 (or azure)"
        raise Problem(f"this OUT needs a package that is not installed: {error}", where=url, fix=fix) from None
    except ValueError as error:
        fix = "use a folder, s3://…, az://… or gs://…"
        raise Problem(f"this OUT is not understood: {error}", where=url, fix=fix) from None
    return fs, str(root)


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a local file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
