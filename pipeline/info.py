"""What a folder of shards holds, from shards.json and the index alone: no tar is opened and nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES
from pipeline.sample import SENSORS, SPLITS
from pipeline.verify_index import read_about, read_index

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store import Store

COLUMNS = ["split", "sensor", "cell", "block", "scene", "datetime", "label_mask", "known_mask", "events"]


def shards_info(store: Store, prefix: str = "") -> list[str]:
    """Lines that say what is in the shards below `prefix` of a store. Raises Problem where there are none."""
    name = f"{prefix}shards.json"
    if not store.exists(name):
        where = f"{store.root}/{prefix}".rstrip("/")
        raise Problem("there are no shards here", where=where, fix="make shards REGION=…")
    about = read_about(store, name)
    index = read_index(store, f"{prefix}index.parquet").select(COLUMNS)
    return [*_head(about, index), "", *_samples(about, index), "", *_classes(index), *_events(index), *_terms(about)]


def _head(about: dict[str, Any], index: pa.Table) -> list[str]:
    shards, days = about["shards"], index["datetime"].to_numpy()
    distinct = {name: len(set(index[name].to_pylist())) for name in ("cell", "block", "scene")}
    when = f", taken {np.datetime_as_string(days.min(), 'D')} to {np.datetime_as_string(days.max(), 'D')}"
    lines = [
        f"{about.get('region', '')}: {index.num_rows} samples of {about['size_px']} px in {len(shards)} tars, "
        f"{_size(sum(shard['bytes'] for shard in shards))}",
        f"{distinct['cell']} cells in {distinct['block']} blocks, {distinct['scene']} scenes"
        + (when if len(days) else ""),
        f"format version {about['format_version']}, vocabulary version {about.get('vocabulary_version', '?')}, "
        f".txt holds the caption '{about.get('caption_style', '?')}', {_looks(about)}",
    ]
    return lines + (["SYNTHETIC: made of the sample world, nothing in it is real"] if about.get("synthetic") else [])


def _looks(about: dict[str, Any]) -> str:
    return {True: "with quick looks", False: "without quick looks"}.get(
        about.get("quicklook", ""), "quick looks unsaid"
    )


def _samples(about: dict[str, Any], index: pa.Table) -> list[str]:
    """By split and sensor: samples, tars and bytes."""
    counts = Counter(zip(index["split"].to_pylist(), index["sensor"].to_pylist(), strict=True))
    rows = []
    for split in SPLITS:
        for sensor in SENSORS:
            tars = [s for s in about["shards"] if (s["split"], s["sensor"]) == (split, sensor)]
            if counts[split, sensor] or tars:
                rows.append([split, sensor, counts[split, sensor], len(tars), _size(sum(s["bytes"] for s in tars))])
    return _columns([["split", "sensor", "samples", "tars", "bytes"], *rows])


def _classes(index: pa.Table) -> list[str]:
    """By class and split: samples that have it; and samples of which nobody knows."""
    label, known, split = (index[name].to_numpy(zero_copy_only=False) for name in ("label_mask", "known_mask", "split"))
    rows = []
    for k, name in enumerate(CLASSES):
        has, unknown = label >> k & 1 == 1, known >> k & 1 == 0
        rows.append([name, *(int((has & (split == s)).sum()) for s in SPLITS), int(unknown.sum())])
    return _columns([["class", *SPLITS, "unknown"], *rows])


def _events(index: pa.Table) -> list[str]:
    counts = Counter(name for names in index["events"].to_pylist() for name in names)
    return ["", *_columns([["event", "samples"], *sorted(counts.items())])] if counts else []


def _terms(about: dict[str, Any]) -> list[str]:
    licences = about.get("licences")
    if licences is None:
        return ["", "licences: these shards are older than their list; README.md beside them has it"]
    return ["", *_columns([["source", "licence"], *([name, said or "unknown"] for name, said in licences.items())])]


def _columns(rows: list[Sequence[Any]]) -> list[str]:
    """Rows as columns: numbers to the right, words to the left."""
    table = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    right = [all(isinstance(row[k], int) for row in rows[1:]) for k in range(len(table[0]))]
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    return [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in table
    ]


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
