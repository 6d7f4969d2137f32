"""Shard folders as one set of samples: the rows of their indexes, and which tars they lie in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonize.problem import Problem
from pipeline.sample import SENSORS, SPLITS
from train.bucket import address_of, fetch_small, sizes
from train.folder import AGAIN, COLUMNS, PLACES, read_about, read_index
from train.range_cache import RangeCache, cached_folder, cached_tar, sweep
from train.reader import Reader as Reader  # where others look for it
from train.tar_file import TarFile, wrong_tar

CACHE = Path("runs/cache")
SAME = ("sha256", "label_mask", "known_mask", "split", "cell", "block", "lon", "lat", "caption_paper", "caption_rich")
"""Columns in which a chip of two folders must be the same."""


@dataclass(frozen=True)
class Samples:
    """Samples of one or more shard folders, sorted by chip_id; columns are arrays of equal length."""

    columns: dict[str, np.ndarray]
    tars: tuple[Path, ...]
    """`columns['tar']` counts into these."""
    size_px: int
    regions: tuple[str, ...]
    """`columns['region']` counts into these."""
    sha256: str
    """Of all indexes together: what a run and its cached embeddings belong to."""
    synthetic: bool = False
    """Whether a folder is of the embedded sample world (`"synthetic": true` in its shards.json)."""
    files: tuple[TarFile, ...] = ()
    """The same tars as `tars`, as they were when they were opened."""
    skipped: tuple[str, ...] = ()
    """What `skip_bad` left out, in words: a line per tar."""
    doubles: int = 0
    """Rows of chips that stand in another folder too, with the same pixels and labels: each is one sample."""

    def __len__(self) -> int:
        return len(self.columns["chip_id"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def where(self, keep: np.ndarray) -> Samples:
        """Those samples that a boolean mask or an index array names."""
        columns = {name: column[keep] for name, column in self.columns.items()}
        return replace(self, columns=columns)

    def of(self, split: str | None = None, sensor: str | None = None) -> Samples:
        keep = np.ones(len(self), bool)
        if split:
            keep &= self["split"] == split
        if sensor:
            keep &= self["sensor"] == sensor
        return self.where(keep)


def open_shards(
    folders: Sequence[Path | str], skip_bad: bool = False, cache: Path = CACHE, cache_gb: float | None = None
) -> Samples:
    """The samples of shard folders. The same chip_id with the same pixels and masks is one sample.

    A folder may be in a bucket (`s3://…`): samples are fetched when they are first read, and kept in `cache`, up to
    `cache_gb` (None: half of the disk that is free but for the cache). Raises Problem for a missing or damaged part,
    another format version, chips that contradict each other, and cells that stand in train as well as in val or test.
    skip_bad: tars and samples that cannot be read are left out and told of in `skipped` instead; which ones are left
    decides the order of the others, so it is settled here.
    """
    if not folders:
        raise Problem("no shard folder is named", fix="name one or more, e.g. data/real-samples/shards")
    ranges = RangeCache(cache, None if cache_gb is None else int(cache_gb * 1e9))
    parts = [_open_one(folder, skip_bad, cache, ranges) for folder in folders]
    # The order in which folders were named decides nothing: not which region a chip of two of them counts for either.
    parts.sort(key=lambda part: (part.about["region"], part.about["index"]["sha256"]))
    sizes = {part.about["size_px"] for part in parts}
    if len(sizes) > 1:
        raise Problem(
            f"chips have different sizes: {', '.join(f'{s} px' for s in sorted(sizes))}",
            where=", ".join(str(f) for f in folders),
            fix="train on regions of one size_px",
        )
    files: list[TarFile] = []
    rows: list[dict[str, np.ndarray]] = []
    regions = tuple(dict.fromkeys(part.about["region"] for part in parts))
    for part in parts:
        columns = _columns(part, len(files))
        columns["region"] = np.full(len(columns["tar"]), regions.index(part.about["region"]), np.int16)
        rows.append(columns)
        files += part.files.values()
    merged = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    order = np.argsort(merged["chip_id"].astype(str), kind="stable")
    merged = {name: column[order] for name, column in merged.items()}
    tars = tuple(file.path for file in files)
    rows_of_all = len(merged["tar"])
    merged = _unique(merged, files)
    _check_leak(merged)
    digest = hashlib.sha256("".join(sorted(p.about["index"]["sha256"] for p in parts)).encode()).hexdigest()
    synthetic = any(part.about.get("synthetic") is True for part in parts)
    doubles = rows_of_all - len(merged["tar"])
    samples = Samples(merged, tars, sizes.pop(), regions, digest, synthetic, tuple(files), doubles=doubles)
    return _without_bad(samples, [line for part in parts for line in part.skipped]) if skip_bad else samples


@dataclass(frozen=True)
class _Part:
    """One folder: shards.json, its index, its tars by name, and a line for each tar that is left out."""

    about: dict[str, Any]
    index: pa.Table
    files: dict[str, TarFile]
    skipped: list[str]


def _columns(part: _Part, first_tar: int) -> dict[str, np.ndarray]:
    """The index as arrays; `tar` counts from `first_tar`. Rows of a tar that is left out are left out."""
    place = {name: first_tar + k for k, name in enumerate(part.files)}
    tar = np.array([place.get(name, -1) for name in part.index.column("shard").to_pylist()], np.int64)
    if (tar < 0).any() and not part.skipped:
        name = part.index.column("shard")[int(np.flatnonzero(tar < 0)[0])]
        raise Problem(
            f"the index names {name}, shards.json does not", where=part.about["region"], fix="make shards again", code=4
        )
    columns = {c: part.index.column(c).to_numpy(zero_copy_only=False) for c in COLUMNS}
    # A sensor without such an array has no place for it: -1.
    columns |= {c: pc.fill_null(part.index.column(c), -1).to_numpy().astype(np.int64) for c in PLACES}
    columns["datetime"] = columns["datetime"].astype("datetime64[s]")
    columns["tar"] = tar
    return {name: column[tar >= 0] for name, column in columns.items()}


def _open_one(named: Path | str, skip_bad: bool, cache: Path, ranges: RangeCache) -> _Part:
    url = address_of(named)
    folder = cached_folder(url, cache) if url else Path(named)
    if url and not fetch_small(f"{url}/shards.json", folder / "shards.json"):
        raise Problem("there are no shards here", where=url, fix="make shards REGION=… OUT=…")
    about = read_about(folder)
    path = folder / about["index"]["file"]
    if url:
        fetch_small(f"{url}/{path.name}", path)
    table = read_index(path, about)
    if url:
        return _bucket_part(url, folder, about, table, skip_bad, ranges)
    files, skipped = {}, []
    for shard in about["shards"]:
        name, tar = str(shard["url"]), folder / str(shard["url"])
        wrong = wrong_tar(name, str(folder), tar.stat().st_size if tar.exists() else None, shard["bytes"])
        if wrong and not skip_bad:
            raise wrong
        if wrong:
            skipped.append(_left_out(wrong, shard))
        else:
            files[name] = TarFile(tar, shard["bytes"], shard["sha256"])
    return _Part(about, table, files, skipped)


def _bucket_part(
    url: str, folder: Path, about: dict[str, Any], table: pa.Table, skip_bad: bool, ranges: RangeCache
) -> _Part:
    """A folder in a bucket. Its tars are looked at if bad ones are to be skipped, else when they are read."""
    for shard in about["shards"]:
        # A name in the cache is made of it.
        if not re.fullmatch("[0-9a-f]{64}", str(shard["sha256"])):
            raise Problem(f"shards.json has no sha256 of {shard['url']}", where=url, fix=AGAIN, code=4)
    files, skipped = {}, []
    names = [str(shard["url"]) for shard in about["shards"]]
    found = sizes([f"{url}/{name}" for name in names]) if skip_bad else [shard["bytes"] for shard in about["shards"]]
    for name, shard, bytes_there in zip(names, about["shards"], found, strict=True):
        wrong = wrong_tar(name, url, bytes_there, shard["bytes"])
        if wrong:
            skipped.append(_left_out(wrong, shard))
        else:
            kept = cached_tar(folder, name, shard["sha256"])
            files[name] = TarFile(kept, shard["bytes"], shard["sha256"], f"{url}/{name}", ranges)
    sweep(folder, [file.path for file in files.values()])
    return _Part(about, table, files, skipped)


def _left_out(wrong: Problem, shard: dict[str, Any]) -> str:
    return f"{wrong.what}: {_count(shard['nsamples'])} left out"


def _without_bad(samples: Samples, skipped: list[str]) -> Samples:
    """Without the samples that cannot be read; their run and its caches are others than those of all samples."""
    reader = Reader(samples)
    bad = reader.unreadable()
    reader.close()
    for tar, count in zip(*np.unique(samples["tar"][bad], return_counts=True), strict=True):
        skipped.append(f"{samples.files[tar].name} is damaged: {_count(int(count))} left out")
    if not skipped:
        return samples
    left = samples.where(~bad)
    digest = hashlib.sha256("".join([samples.sha256, *left["chip_id"]]).encode()).hexdigest()
    return replace(left, sha256=digest, skipped=tuple(skipped))


def _count(samples: int) -> str:
    return f"{samples} sample{'' if samples == 1 else 's'}"


def _unique(columns: dict[str, np.ndarray], files: list[TarFile]) -> dict[str, np.ndarray]:
    """Drop a chip's second row; a second row that says something else is an error naming both."""
    ids = columns["chip_id"].astype(str)
    for k in np.flatnonzero(ids[1:] == ids[:-1]) + 1:
        for name in SAME:
            if columns[name][k] != columns[name][k - 1]:
                places = " and ".join(files[columns["tar"][j]].name for j in (k - 1, k))
                fix = "make the shards of both regions with the same sources, labels and split"
                raise Problem(f"{ids[k]} stands twice with another {name}", where=places, fix=fix)
    keep = np.append(True, ids[1:] != ids[:-1]) if len(ids) else np.zeros(0, bool)
    return {name: column[keep] for name, column in columns.items()}


def _check_leak(columns: dict[str, np.ndarray]) -> None:
    train = set(columns["cell"][columns["split"] == "train"])
    both = sorted(train & set(columns["cell"][columns["split"] != "train"]))
    if both:
        raise Problem(
            f"{len(both)} cells stand in train and in val or test, e.g. {both[0]}",
            where="the shard folders together",
            fix="make the shards of all regions with the same split and block_km",
        )


def wanted_split(samples: Samples, split: str) -> Samples:
    """The samples of a split that was asked for; an empty one is a Problem."""
    if split not in SPLITS:
        raise Problem(f"there is no split '{split}'", fix=f"splits: {', '.join(SPLITS)}")
    found = samples.of(split)
    if not len(found):
        counts = ", ".join(f"{s} {len(samples.of(s))}" for s in SPLITS)
        raise Problem(
            f"split {split} is empty", where=f"shards of {', '.join(samples.regions)}: {counts}",
            fix="ask for another split, or change [split] in the region's manifest",
        )  # fmt: skip
    return found


def sensors_of(samples: Samples) -> list[str]:
    return [s for s in SENSORS if (samples["sensor"] == s).any()]
