"""A bucket as Store sees it: fsspec's file system, asked afresh each time, and its failures told in words.

An object appears whole or not at all, so nothing is renamed. What has to be minded is fsspec's memory of listings,
which does not see what other processes write, and copies on this disk, which must not outlive the object's content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from harmonize.disk import disk_problem, disk_told
from harmonize.problem import Problem

STAMP = 16
"""Digits in front of a copy's name that stand for the object's content."""
SAYS_CONTENT = ("ETag", "etag", "md5Hash", "generation")
"""What stores give that changes with an object's content; where there is none of it, all that is told of it counts."""


def open_bucket(url: str) -> tuple[Bucket, str]:
    """The bucket of an address, and the path of the address in it."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        fix = "make setup EXTRAS=dev,minilm,s3 (or azure)"
        raise Problem(f"this OUT needs a package that is not installed: {error}", where=url, fix=fix) from None
    except ValueError as error:
        fix = "use a folder, s3://…, az://… or gs://…"
        raise Problem(f"this OUT is not understood: {error}", where=url, fix=fix) from None
    return Bucket(fs, url), str(root)


class Bucket:
    """The requests that Store makes, under fsspec's names. Paths are those of fsspec: bucket and key, no scheme."""

    def __init__(self, fs: Any, url: str) -> None:
        self._fs, self._url = fs, url

    @contextlib.contextmanager
    def _fresh(self) -> Iterator[Any]:
        """The file system without remembered listings. A missing object stays FileNotFoundError; all else that it may
        raise (no credentials, no network, no such bucket) is a Problem: its libraries share no kind of error. A disk
        of this machine that takes no more is told as such."""
        self._fs.invalidate_cache()
        try:
            yield self._fs
        except (FileNotFoundError, Problem):
            raise
        except Exception as error:
            if told := disk_problem(error, self._url):
                raise told from None
            said = (str(error).splitlines() or [type(error).__name__])[0]
            fix = "check the address, your credentials and the network, then call again: it goes on where it was"
            raise Problem(f"the bucket does not answer: {said}", where=self._url, fix=fix, code=1) from None

    @contextlib.contextmanager
    def _writing(self, path: str) -> Iterator[Any]:
        try:
            with self._fresh() as fs:
                yield fs
        except FileNotFoundError:
            fix = "make the bucket, or name another OUT"
            raise Problem("there is no such bucket, or no right to write there", where=path, fix=fix, code=1) from None

    def exists(self, path: str) -> bool:
        with self._fresh() as fs:
            return bool(fs.exists(path))

    def size(self, path: str) -> int:
        """Bytes of an object. Raises FileNotFoundError, for a folder too."""
        with self._fresh() as fs:
            told = fs.info(path)
        if told["type"] != "file":
            raise FileNotFoundError(path)
        return int(told["size"])

    def open(self, path: str, mode: str = "rb") -> BinaryIO:
        with self._fresh() as fs:
            return cast("BinaryIO", fs.open(path, mode))

    def cat_file(self, path: str) -> bytes:
        with self._fresh() as fs:
            return bytes(fs.cat_file(path))

    def pipe_file(self, path: str, data: bytes) -> None:
        with self._writing(path) as fs:
            fs.pipe_file(path, data)
        self._check_arrived(path, len(data))

    def create_file(self, path: str, data: bytes) -> bool:
        """Write an object where there is none of that name; whether we did. What a store answers to a condition that
        does not hold is an error of its own kind, so what is there then decides."""
        with self._writing(path) as fs:
            try:
                fs.pipe_file(path, data, mode="create")
            except Exception:
                fs.invalidate_cache()
                if fs.exists(path):
                    return False
                raise
        return True

    def put_file(self, local: str, path: str) -> None:
        with self._writing(path) as fs:
            fs.put_file(local, path)
        self._check_arrived(path, Path(local).stat().st_size)

    def _check_arrived(self, path: str, sent: int) -> None:
        found = self.size(path)
        if found != sent:
            what = f"{sent} bytes were sent and {found} are there"
            raise Problem(what, where=path, fix="call again: it goes on where it was", code=1)

    def rm_file(self, path: str) -> None:
        with self._fresh() as fs:
            fs.rm_file(path)

    def files(self, folder: str) -> list[str]:
        """Names of the objects directly in a folder; none where there is no such folder."""
        try:
            with self._fresh() as fs:
                told = fs.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        names = [str(one["name"]).rpartition("/")[2] for one in told if one["type"] == "file"]
        return [name for name in names if name]  # some programs leave an object "folder/"

    def sizes(self, folder: str) -> dict[str, int]:
        """Path and bytes of all objects below a folder, by one listing."""
        try:
            with self._fresh() as fs:
                found = fs.find(folder, detail=True)
        except FileNotFoundError:
            return {}
        return {str(path): int(told["size"] or 0) for path, told in found.items()}

    def find(self, folder: str) -> list[str]:
        """Paths of all objects below a folder."""
        with self._fresh() as fs:
            return [str(path) for path in fs.find(folder)]

    def copy_of(self, path: str) -> Path:
        """An object as it is now, on this disk; fetched when it is not there yet or has other content since."""
        with self._fresh() as fs:
            told = fs.info(path)
        content = [told[key] for key in SAYS_CONTENT if told.get(key)] or sorted(told.items(), key=str)
        stamp = hashlib.sha256(str([told["size"], content]).encode()).hexdigest()[:STAMP]
        folder, name = self._copies() / path.strip("/").rpartition("/")[0], path.rpartition("/")[2]
        copy = folder / f"{stamp}-{name}"
        if not copy.exists():
            self._fetch(path, int(told["size"]), copy)
            for other in folder.glob(f"{'?' * STAMP}-{name}"):
                if other != copy:
                    other.unlink(missing_ok=True)
        return copy

    def _copies(self) -> Path:
        kind = self._fs.protocol if isinstance(self._fs.protocol, str) else self._fs.protocol[0]
        folder = Path(tempfile.gettempdir()) / f"closp-cache-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / kind

    def _fetch(self, path: str, size: int, copy: Path) -> None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(copy.parent).free < size:
            fix = "free disk space, or set TMPDIR to a larger disk"
            raise Problem(f"no room for a copy of {size / 1e6:.0f} MB", where=str(copy.parent), fix=fix, code=1)
        part = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
        try:
            with self._fresh() as fs, disk_told(str(copy.parent)):
                fs.get_file(path, str(part))
            found = part.stat().st_size
            if found != size:
                what = f"{found} of {size} bytes arrived"
                raise Problem(what, where=path, fix="call again: it goes on where it was", code=1)
            part.replace(copy)
        finally:
            part.unlink(missing_ok=True)
