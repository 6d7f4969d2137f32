"""A tar of a shard folder as the reader sees it: beside us, or in a bucket and then read by byte ranges."""

from __future__ import annotations

from pathlib import Path

from harmonize.problem import Problem
from train.bucket import size
from train.range_cache import RangeCache

REPLACED = "let one run at a time write a region's shards, then call this again"


class TarFile:
    """One tar: where it is, and what it was when its index was opened.

    In a bucket it has a `url` and the cache for its ranges; `path` is the file that they lie in.
    """

    def __init__(self, path: Path, size: int, sha256: str, url: str = "", cache: RangeCache | None = None) -> None:
        self.path, self.size, self.sha256, self.url, self.cache = path, size, sha256, url, cache
        self._stamp = None if url else _stamp(path)

    @property
    def name(self) -> str:
        """What a person knows it by."""
        return self.url or str(self.path)

    def check_same(self) -> None:
        """Raises Problem if the file is not the one that was there when its index was opened."""
        found = _stamp(self.path)
        if found != self._stamp:
            what = f"{self.path.name} was {'replaced' if found else 'removed'} after its index was opened"
            raise Problem(what, where=self.name, fix=REPLACED, code=4)

    def check_size(self) -> None:
        """The same for a tar in a bucket by its size there; Problem also if the bucket does not say."""
        found = size(self.url, tries=1)
        if found != self.size:
            now = f"has {found} bytes now, not {self.size}" if found is not None else "is not there any more"
            raise Problem(f"the tar is not the one shards.json names: it {now}", where=self.url, fix=REPLACED, code=4)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def wrong_tar(name: str, folder: str, found: int | None, size: int) -> Problem | None:
    """What is wrong with a tar that has `found` bytes (None: it is missing) where shards.json says `size`."""
    if found is None:
        fix = "copy it there, or make shards again"
        return Problem(f"the tar {name} is missing", where=folder, fix=fix)
    if found != size:
        what = f"{name} has {found} bytes, shards.json says {size}"
        return Problem(what, where=folder, fix="copy it again, or make shards again", code=4)
    return None
