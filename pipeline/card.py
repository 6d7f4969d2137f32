"""The dataset card beside the shards (README.md): what is inside, from where, under which licences."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harmonize.vocabulary import CLASSES, names_of
from pipeline.region import Region
from pipeline.sample import SENSORS, SPLITS
from pipeline.sandbox import SYNTHETIC


def text(region: Region, index: list[dict[str, Any]], shards: list[dict[str, Any]]) -> str:
    """Markdown of the card."""
    size = sum(s["bytes"] for s in shards) / 1e6
    days = sorted(row["datetime"] for row in index)
    parts = [
        f"# {region.name}",
        "",
        f"{len(index)} Sentinel-1/2 chips of {region.size_px * 10 / 1000:g} km "
        f"({region.size_px} px at 10 m) in {len(shards)} WebDataset tars, {size:.1f} MB, "
        f"taken from {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}.",
        "",
        "S2: uint16 reflectance x 10000, baseline offset removed, 0 = nodata. S1: gamma0 in dB, float16, NaN = nodata.",
        "Bands stay at their native resolution; `shards.json` names them, `index.parquet` says where each array lies.",
        "",
        "## Samples",
        "",
        *_table(["split", *SENSORS], [[s, *(_count(index, s, sensor) for sensor in SENSORS)] for s in SPLITS]),
        "",
        "## Classes",
        "",
        *_table(["class", *SPLITS], _classes(index)),
        "",
        *_events(region, index),
        "## Sources and licences",
        "",
        *_table(["source", "kind", "licence"], _sources(region)),
        "",
        SYNTHETIC if region.worlds else "Contains modified Copernicus Sentinel data.",
        "",
        "## Known limits",
        "",
        f"A class counts from {region.captions.min_share:g} of a cell's area. Splits: {region.split.method}"
        + (f", blocks of {region.split.block_km:g} km." if region.split.method == "spatial" else ", by cell."),
        "",
    ]
    return "\n".join(parts)


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, *rows]]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def _count(index: list[dict[str, Any]], split: str, sensor: str) -> int:
    return sum(row["split"] == split and row["sensor"] == sensor for row in index)


def _classes(index: list[dict[str, Any]]) -> list[list[Any]]:
    counts = Counter((name, row["split"]) for row in index for name in names_of(row["label_mask"]))
    return [[name, *(counts[name, split] for split in SPLITS)] for name in CLASSES]


def _events(region: Region, index: list[dict[str, Any]]) -> list[str]:
    """The section on crisis events, with the samples that bear each one's label."""
    if not region.events:
        return []
    counts = Counter(name for row in index for name in row["events"])
    rows = [[e.id, e.kind, e.start or "as its file says", e.effect_days, counts[e.id]] for e in region.events]
    return ["## Events", "", *_table(["event", "kind", "first day", "days of effect", "samples"], rows), ""]


def _sources(region: Region) -> list[list[Any]]:
    rows = [[name, region.source(name).kind, region.source(name).licence] for name in region.used]
    return rows + [[event.id, "event", event.licence] for event in region.events]
