"""Shard folders as one set of samples: the rows of their indexes, and which tars they lie in."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES
from pipeline.sample import FORMAT_VERSION, SENSORS, SPLITS
from train.reader import Reader as Reader  # where others look for it
from train.tar_file import CACHE, TarFile, address_of, cached_folder, cached_tar, fetch_small

COLUMNS = (
    "chip_id", "cell", "block", "sensor", "scene", "datetime", "split", "shard", "size_px", "label_mask", "known_mask",
    "caption_paper", "caption_rich", "lon", "lat", "sha256",
)  # fmt: skip
LARGEST_PX = 6000
"""Side of a chip, as manifests allow it."""
PLACES = tuple(f"{what}_{group}" for group in ("10m", "20m", "60m") for what in ("offset", "length"))


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


def open_shards(folders: Sequence[Path | str], skip_bad: bool = False, cache: Path = CACHE) -> Samples:
    """The samples of shard folders. The same chip_id with the same pixels and masks is one sample.

    A folder may be in a bucket (`s3://…`): its tars are fetched into `cache` when they are first read. Raises Problem
    for a missing or damaged part, another format version, chips that contradict each other, and cells that stand in
    train as well as in val or test. skip_bad: tars and samples that cannot be read are left out and told of in
    `skipped` instead; which ones are left decides the order of the others, so it is settled here.
    """
    if not folders:
        raise Problem("no shard folder is named", fix="name one or more, e.g. data/real-samples/shards")
    parts = [_open_one(folder, skip_bad, cache) for folder in folders]
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
    merged = _unique(merged, list(tars))
    _check_leak(merged)
    digest = hashlib.sha256("".join(sorted(p.about["index"]["sha256"] for p in parts)).encode()).hexdigest()
    synthetic = any(part.about.get("synthetic") is True for part in parts)
    samples = Samples(merged, tars, sizes.pop(), regions, digest, synthetic, tuple(files))
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


def _open_one(named: Path | str, skip_bad: bool, cache: Path) -> _Part:
    url = address_of(named)
    folder = cached_folder(url, cache) if url else Path(named)
    if url and not fetch_small(f"{url}/shards.json", folder / "shards.json"):
        raise Problem("there are no shards here", where=url, fix="make shards REGION=… OUT=…")
    about = read_about(folder)
    path = folder / about["index"]["file"]
    if url:
        fetch_small(f"{url}/{path.name}", path)
    table = _read_index(path, about["index"]["sha256"], sum(shard["bytes"] for shard in about["shards"]))
    files, skipped = {}, []
    for shard in about["shards"]:
        name = str(shard["url"])
        if (folder / name).parent != folder:
            raise Problem(f"'{name}' is not a tar beside shards.json", where=str(folder), fix="make shards again")
        if url:
            tar = cached_tar(folder, name, shard["sha256"])
            files[name] = TarFile(tar, shard["bytes"], shard["sha256"], f"{url}/{name}")
            continue
        wrong = _wrong_tar(folder / name, shard["bytes"])
        if wrong and not skip_bad:
            raise wrong
        if wrong:
            skipped.append(f"{wrong.what}: {shard['nsamples']} samples left out")
        else:
            files[name] = TarFile(folder / name, shard["bytes"], shard["sha256"])
    return _Part(about, table, files, skipped)


def _read_index(path: Path, sha256: str, tar_bytes: int) -> pa.Table:
    if not path.exists():
        raise Problem("the index is missing", where=str(path), fix="make shards again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Problem("the index is not the one shards.json names", where=str(path), fix="make shards again", code=4)
    try:
        index = pq.ParquetFile(path)  # by name: see pipeline.tables.read_parquet
        if index.metadata.num_rows * SMALLEST_SAMPLE > tar_bytes:  # before they are read: some bytes may be any number
            raise pa.ArrowInvalid(f"its {index.metadata.num_rows} rows are more than tars of {tar_bytes} bytes hold")
        return _check_rows(index.read(), path)
    except (pa.ArrowException, OSError, MemoryError, KeyError) as error:
        raise Problem(f"the index is damaged: {error}", where=str(path), fix="make shards again", code=4) from None


NAME = {"chip_id": "[A-Za-z0-9_-]", "cell": "[A-Za-z0-9_-]", "block": "[A-Za-z0-9_.-]"}
"""Characters of what becomes words of files and names of others, where a blank or a line break would make it two."""


def _check_rows(index: pa.Table, path: Path) -> pa.Table:
    """The index, if its rows are of samples as this program writes them; else Problem (code 4)."""
    columns = {name: index.column(name).combine_chunks() for name in (*NAME, "sensor", "split", "scene")}
    # RE2's $ is the end of the text; a block's name has the dot of its size (b1.2).
    right = {name: pc.match_substring_regex(columns[name], f"^{NAME[name]}{{1,200}}$") for name in NAME}
    right |= {"sensor": pc.is_in(columns["sensor"], pa.array(SENSORS))}
    right |= {"split": pc.is_in(columns["split"], pa.array(SPLITS)), "scene": pc.utf8_is_printable(columns["scene"])}
    for name, good in right.items():
        if not pc.all(pc.fill_null(good, False), min_count=0).as_py():
            odd = columns[name].filter(pc.invert(pc.fill_null(good, False)))[0].as_py()
            what = f"the index is damaged: a sample's {name} is {str(odd)[:60]!r}"
            raise Problem(what, where=str(path), fix="make shards again", code=4)
    return index


def _wrong_tar(tar: Path, size: int) -> Problem | None:
    if not tar.exists():
        fix = "copy it there, or make shards again"
        return Problem(f"the tar {tar.name} is missing", where=str(tar.parent), fix=fix)
    found = tar.stat().st_size
    if found != size:
        what = f"{tar.name} has {found} bytes, shards.json says {size}"
        return Problem(what, where=str(tar.parent), fix="copy it again, or make shards again", code=4)
    return None


def _without_bad(samples: Samples, skipped: list[str]) -> Samples:
    """Without the samples that cannot be read; their run and its caches are others than those of all samples."""
    reader = Reader(samples)
    bad = reader.unreadable()
    reader.close()
    for tar, count in zip(*np.unique(samples["tar"][bad], return_counts=True), strict=True):
        skipped.append(f"{samples.files[tar].name} is damaged: {count} samples left out")
    if not skipped:
        return samples
    left = samples.where(~bad)
    digest = hashlib.sha256("".join([samples.sha256, *left["chip_id"]]).encode()).hexdigest()
    return replace(left, sha256=digest, skipped=tuple(skipped))


def read_about(folder: Path) -> dict[str, Any]:
    """shards.json of a folder, its format version checked."""
    path = folder / "shards.json"
    if not path.exists():
        raise Problem("there are no shards here", where=str(folder), fix="make shards REGION=…")
    try:
        about: dict[str, Any] = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise Problem(f"shards.json is damaged: {error}", where=str(path), fix="make shards again", code=4) from None
    if about.get("format_version") != FORMAT_VERSION:
        raise Problem(
            f"these shards are of format version {about.get('format_version')}, this program reads {FORMAT_VERSION}",
            where=str(path),
            fix="make shards again with this version",
        )
    if about.get("vocabulary") != list(CLASSES):
        raise Problem(
            "these shards have another vocabulary", where=str(path), fix="make shards again with this version"
        )
    if wrong := _wrong_about(about):
        raise Problem(f"shards.json is damaged: {wrong}", where=str(path), fix="make shards again", code=4)
    return about


SMALLEST_SAMPLE = 4 * 512
"""Bytes in a tar: headers and data of an array and of a text."""


def _wrong_about(about: dict[str, Any]) -> str | None:
    """What of shards.json cannot be as this program writes it; its names become those of files and folders."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", str(about.get("region"))):
        return "its region is no name"
    index = about.get("index")
    if not isinstance(index, dict) or not all(isinstance(index.get(key), str) for key in ("file", "sha256")):
        return "it does not name its index"
    if Path(index["file"]).name != index["file"]:
        return "its index lies elsewhere"
    shards, size_px = about.get("shards"), about.get("size_px")
    if type(size_px) is not int or not 0 < size_px <= LARGEST_PX:
        return f"its size_px is {str(size_px)[:20]}"
    kinds = {"url": str, "sha256": str, "nsamples": int, "bytes": int}
    for shard in shards if isinstance(shards, list) else [None]:
        if not isinstance(shard, dict) or any(type(shard.get(key)) is not kind for key, kind in kinds.items()):
            return f"each tar has {', '.join(kinds)}"
        if not 0 <= shard["nsamples"] * SMALLEST_SAMPLE <= shard["bytes"] < 2**63:
            return f"{shard['url'][:80]} cannot have {shard['nsamples']} samples in {shard['bytes']} bytes"
    return None


def _unique(columns: dict[str, np.ndarray], tars: list[Path]) -> dict[str, np.ndarray]:
    """Drop a chip's second row; a second row that says something else is an error naming both."""
    ids = columns["chip_id"].astype(str)
    for k in np.flatnonzero(ids[1:] == ids[:-1]) + 1:
        for name in ("sha256", "label_mask", "known_mask", "split"):
            if columns[name][k] != columns[name][k - 1]:
                places = " and ".join(str(tars[columns["tar"][j]]) for j in (k - 1, k))
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
