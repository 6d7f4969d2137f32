"""Shard folders as one set of samples: index rows, and arrays by offset out of memory-mapped tars."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES
from pipeline.sample import DTYPE, FORMAT_VERSION, GROUPS, SENSORS, SPLITS, group_shape

COLUMNS = (
    "chip_id", "cell", "block", "sensor", "scene", "datetime", "split", "shard", "size_px", "label_mask", "known_mask",
    "caption_paper", "caption_rich", "lon", "lat", "sha256",
)  # fmt: skip
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


def open_shards(folders: list[Path]) -> Samples:
    """The samples of shard folders. The same chip_id with the same pixels and masks is one sample.

    Raises Problem for a missing or damaged part, another format version, chips that contradict each other, and cells
    that stand in train as well as in val or test.
    """
    if not folders:
        raise Problem("no shard folder is named", fix="name one or more, e.g. data/real-samples/shards")
    parts = [_open_one(Path(folder)) for folder in folders]
    sizes = {about["size_px"] for about, _, _ in parts}
    if len(sizes) > 1:
        raise Problem(
            f"chips have different sizes: {', '.join(f'{s} px' for s in sorted(sizes))}",
            where=", ".join(str(f) for f in folders),
            fix="train on regions of one size_px",
        )
    tars: list[Path] = []
    rows: list[dict[str, np.ndarray]] = []
    regions = tuple(dict.fromkeys(about["region"] for about, _, _ in parts))
    for about, table, names in parts:
        start = len(tars)
        tars += names
        place = {name.name: start + k for k, name in enumerate(names)}
        columns = {c: table.column(c).to_numpy(zero_copy_only=False) for c in (*COLUMNS, *PLACES)}
        columns["datetime"] = columns["datetime"].astype("datetime64[s]")
        columns["tar"] = np.array([place[s] for s in columns["shard"]], np.int64)
        columns["region"] = np.full(len(table), regions.index(about["region"]), np.int16)
        rows.append(columns)
    merged = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    order = np.argsort(merged["chip_id"].astype(str), kind="stable")
    merged = {name: column[order] for name, column in merged.items()}
    merged = _unique(merged, tars)
    _check_leak(merged)
    digest = hashlib.sha256("".join(sorted(a["index"]["sha256"] for a, _, _ in parts)).encode()).hexdigest()
    synthetic = any(about.get("synthetic") is True for about, _, _ in parts)
    return Samples(merged, tuple(tars), sizes.pop(), regions, digest, synthetic)


def _open_one(folder: Path) -> tuple[dict[str, Any], pa.Table, list[Path]]:
    about = read_about(folder)
    path = folder / about["index"]["file"]
    if not path.exists():
        raise Problem("the index is missing", where=str(path), fix="make shards again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != about["index"]["sha256"]:
        raise Problem("the index is not the one shards.json names", where=str(path), fix="make shards again", code=4)
    try:
        table = pq.ParquetFile(path).read()  # by name: see pipeline.tables.read_parquet
    except pa.ArrowInvalid as error:
        raise Problem(f"the index is damaged: {error}", where=str(path), fix="make shards again", code=4) from None
    tars = []
    for shard in about["shards"]:
        tar = folder / str(shard["url"])
        if tar.parent != folder:
            raise Problem(
                f"'{shard['url']}' is not a tar beside shards.json", where=str(folder), fix="make shards again"
            )
        if not tar.exists():
            raise Problem(
                f"the tar {tar.name} is missing", where=str(folder), fix="copy it there, or make shards again"
            )
        if tar.stat().st_size != shard["bytes"]:
            size = tar.stat().st_size
            what = f"{tar.name} has {size} bytes, shards.json says {shard['bytes']}"
            raise Problem(what, where=str(folder), fix="copy it again, or make shards again", code=4)
        tars.append(tar)
    return about, table, tars


def read_about(folder: Path) -> dict[str, Any]:
    """shards.json of a folder, its format version checked."""
    path = folder / "shards.json"
    if not path.exists():
        raise Problem("there are no shards here", where=str(folder), fix="make shards REGION=…")
    try:
        about: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
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
    return about


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


class Reader:
    """Arrays of samples straight out of the tars: memory map plus offset, no tar is walked."""

    def __init__(self, samples: Samples) -> None:
        self._tars = samples.tars
        self._maps: dict[int, np.ndarray] = {}
        self._headers: dict[bytes, tuple[tuple[int, ...], np.dtype]] = {}

    def read(self, samples: Samples) -> dict[str, np.ndarray]:
        """Batch arrays by group, (B, C, H, W), of samples that share one sensor."""
        sensors = set(samples["sensor"])
        if len(sensors) != 1:
            raise AssertionError(f"a batch is of one sensor, not of {sorted(sensors)}")
        sensor = sensors.pop()
        arrays = {}
        for group in GROUPS[sensor]:
            shape = group_shape(group, samples.size_px)
            batch = np.empty((len(samples), *shape), DTYPE[sensor])
            for k in range(len(samples)):
                tar, offset, length = (
                    int(samples[c][k]) for c in ("tar", f"offset_{group.name}", f"length_{group.name}")
                )
                member = self._map(tar)[offset : offset + length]
                batch[k] = self._array(member, shape, DTYPE[sensor], f"{samples['chip_id'][k]} in {self._tars[tar]}")
            arrays[group.name] = batch
        return arrays

    def _map(self, tar: int) -> np.ndarray:
        if tar not in self._maps:
            self._maps[tar] = np.memmap(self._tars[tar], np.uint8, "r")
        return self._maps[tar]

    def _array(self, member: np.ndarray, shape: tuple[int, ...], dtype: str, where: str) -> np.ndarray:
        """The array of an .npy member; headers are parsed once each, object arrays are never read."""
        start = 10 + int.from_bytes(member[8:10].tobytes(), "little") if len(member) > 10 else 0
        header = member[:start].tobytes()
        if header not in self._headers:
            self._headers[header] = _parse_header(header, where)
        said, kind = self._headers[header]
        if said != shape or kind != np.dtype(dtype) or member.size - start != kind.itemsize * int(np.prod(shape)):
            raise Problem(
                f"a sample is {kind} {said}, not {dtype} {shape}", where=where, fix="make shards again", code=4
            )
        return member[start:].view(kind).reshape(shape)


def _parse_header(header: bytes, where: str) -> tuple[tuple[int, ...], np.dtype]:
    stream = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not npy format 1.0")
        shape, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise Problem(f"a sample is damaged: {error}", where=where, fix="make shards again", code=4) from None
    if fortran or kind.hasobject:
        raise Problem("a sample holds objects or Fortran order", where=where, fix="make shards again", code=4)
    return shape, kind


def sensors_of(samples: Samples) -> list[str]:
    return [s for s in SENSORS if (samples["sensor"] == s).any()]
