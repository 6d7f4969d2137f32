"""Stage pixels: chips -> arrays. A strip of a scene is read once, harmonised, cut into chips, hashed and stored.

A part is named by what decides its bytes, so that a killed run goes on where it was, a wider date range reads only
what is not stored, and thresholds change without reading again.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.problem import Problem
from pipeline import parts, tables
from pipeline.grid import parse_cell
from pipeline.radiometry import nodata_share
from pipeline.receipt import UNREADABLE, counted_as, digest
from pipeline.region import Region
from pipeline.sample import GROUPS, arrays_sha256
from pipeline.screen import file_stem
from pipeline.strip import cut_chip, group_of, read_strip
from pipeline.work import Outcome, Work

if TYPE_CHECKING:
    from pipeline.store import Store

VERSION = 1
"""Of the pixels themselves; a part also carries it in its name."""
STRIP_ROWS_PX = 1024
"""Height of a strip in 10 m pixels: about one row of COG blocks, 22 MB a 10 m band over a whole tile."""
NEEDED = (
    "chip_id", "cell", "size_px", "epsg", "west", "south", "east", "north", "sensor", "source", "scene", "cloud",
    "dropped",
)  # fmt: skip
"""Columns of chips that a strip is planned and cut by."""


def params(region: Region) -> dict[str, Any]:
    keys = ("unit", "nodata", "baseline_offset")
    sources = {use.source: {key: getattr(region.source(use.source), key) for key in keys} for use in region.imagery}
    return {"sources": sources, "max_nodata": region.max_nodata, "max_cloud": region.max_cloud}


def outside(work: Work) -> list[Path]:
    """Local files the chosen chips are cut from."""
    wanted = set(work.tables["chips"].column("scene").to_pylist())
    hrefs = [h for s in work.rows("scenes") if s["scene"] in wanted for h in json.loads(s["assets"]).values()]
    return sorted({Path(work.openable(h)) for h in hrefs if "://" not in h})


@dataclass(frozen=True)
class Strip:
    """What one job needs to write one part."""

    scene: dict[str, Any]
    members: list[dict[str, Any]]
    """Chips with the columns of NEEDED, in the order of the part."""
    name: str
    keys: list[str]
    """Of each chip: all that decides its bytes."""
    stored: dict[str, tuple[str, int]]
    """Key -> part of an earlier plan and row, for chips that need not be read from the source again."""


def cut_pixels(work: Work) -> Outcome:
    """Arrays of every chip, stored in parts; a chip that cannot be read or has too little data gets a reason."""
    columns = ("scene", "source", "sensor", "epsg", "baseline", "assets")
    scenes = {(s["source"], s["scene"]): s for s in work.rows("scenes", columns)}
    chips = [c for c in work.rows("chips", NEEDED) if c["dropped"] is None]
    strips = [_strip(scenes[key[:2]], members, work) for key, members in plan_strips(chips).items()]
    strips = _with_stored(strips, work.store)
    rows: list[dict[str, Any]] = []
    files: dict[str, str] = {}
    work.begin()
    for name, sha256, found in work.jobs(_cut_part, strips, len(strips), "pixels", lambda result: _lost(result[2])):
        files[name] = sha256
        rows += found
    work.store.sweep("pixels", set(files))
    rows += [_inherited(c) for c in work.rows("chips", ("chip_id", "cloud", "dropped")) if c["dropped"] is not None]
    rows.sort(key=lambda r: r["chip_id"])
    return Outcome(len(rows), tables.table_of(rows, tables.PIXELS), files)


def _lost(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(counted_as(row["dropped"]) for row in rows if row["dropped"])


def _strip(scene: dict[str, Any], members: list[dict[str, Any]], work: Work) -> Strip:
    name, keys = _part_name(scene, members, work)
    return Strip(scene, members, name, keys, {})


def _with_stored(strips: list[Strip], store: Store) -> list[Strip]:
    """The strips with the places of those chips that lie in parts which no strip writes any more."""
    planned = {strip.name for strip in strips}
    where: dict[str, tuple[str, int]] = {}
    for name in store.list("pixels"):
        if name not in planned:
            where.update({key: (name, row) for row, key in enumerate(parts.keys_of(store, name))})
    if not where:
        return strips
    return [replace(s, stored={key: where[key] for key in s.keys if key in where}) for s in strips]


def _cut_part(work: Work, strip: Strip) -> tuple[str, str, list[dict[str, Any]]]:
    """Job: write the part of a strip, unless it is there and whole; its name, sha256 and rows of the pixels table."""
    if not parts.is_whole(work.store, strip.name, strip.keys):
        _write_part(work, strip)
    sha256, records = parts.read_part(work.store, strip.name)
    rows = [
        _row(chip, strip.name, k, record, work.region)
        for k, (chip, record) in enumerate(zip(strip.members, records, strict=True))
    ]
    return strip.name, sha256, rows


def plan_strips(chips: list[dict[str, Any]]) -> dict[tuple[str, str, tuple[int, int]], list[dict[str, Any]]]:
    """Chips by (source, scene, strip); a strip is a band of cell rows of one EPSG."""
    strips: dict[tuple[str, str, tuple[int, int]], list[dict[str, Any]]] = {}
    for chip in sorted(chips, key=lambda c: (c["source"], c["scene"], c["chip_id"])):
        cell = parse_cell(chip["cell"])
        band = cell.row // max(1, STRIP_ROWS_PX // cell.size_px)
        strips.setdefault((chip["source"], chip["scene"], (cell.epsg, band)), []).append(chip)
    return strips


def _part_name(scene: dict[str, Any], members: list[dict[str, Any]], work: Work) -> tuple[str, list[str]]:
    """Name of a strip's part, and the key of each chip: all that decides its bytes."""
    source = work.region.source(scene["source"])
    assets = json.loads(scene["assets"])
    content = {b: work.content_of(h) for b, h in assets.items()}
    meaning = [VERSION, source.unit, source.nodata, source.baseline_offset, scene["baseline"], content]
    base = digest([scene["scene"], meaning])
    keys = [f"{base[:24]}/{chip['chip_id']}" for chip in members]
    return f"pixels/{file_stem(scene['scene'])}-{digest(keys)[:16]}.arrow", keys


def _write_part(work: Work, strip: Strip) -> None:
    """Write a part chip by chip: stored ones are copied, the others cut from the source."""
    own = {key: (strip.name, row) for row, key in enumerate(parts.keys_of(work.store, strip.name))}
    places = strip.stored | own
    kept = [key if key in places and parts.stored(work.store, *places[key]) else None for key in strip.keys]
    missing = [c for c, key in zip(strip.members, kept, strict=True) if not key]
    # Closed here, since it has GDAL's settings as they were when it began, also where the part cannot be written.
    with contextlib.closing(cut_strip(strip.scene, missing, work)) as fresh:
        records = (parts.stored(work.store, *places[key]) if key else next(fresh) for key in kept)
        parts.write_part(work.store, strip.name, strip.keys, records)


def cut_strip(
    scene: dict[str, Any], members: list[dict[str, Any]], work: Work
) -> Generator[dict[str, Any], None, None]:
    """The chips of one strip as records of a part, in the order of `members`, cut as they are taken."""
    import rasterio

    from pipeline import opening, raster

    if not members:
        return
    failure, source = "outside the raster", work.region.source(scene["source"])
    _check_seen(scene, work)
    try:
        strip = read_strip(scene, members, source, work)
    except opening.UnreadableRaster as error:
        if len(members) > 1 and _is_here(scene, work):
            for chip in members:  # what is damaged on a disk may be one block: it costs the chips that touch it
                yield from cut_strip(scene, [chip], work)
            return
        strip, failure = None, f"{UNREADABLE}: {error}"
    if strip is None:
        yield from (_record(chip, None, failure) for chip in members)
        return
    pixels = {str(name): raster.pixels_of(group_of(strip, str(name))) for name in strip.data_vars}
    with rasterio.Env():  # one for all chips, not one a warp
        for chip in members:
            yield _record(chip, cut_chip(pixels, chip, scene["sensor"], strip.attrs["offset"]), None)


def _is_here(scene: dict[str, Any], work: Work) -> bool:
    """Whether a scene's files are on this machine, where reading again asks nothing of a network."""
    return not any("://" in work.openable(href) for href in json.loads(scene["assets"]).values())


def _check_seen(scene: dict[str, Any], work: Work) -> None:
    """Files were there when the run began: what is missing now is not a bad scene but a worker that does not see it."""
    for href in json.loads(scene["assets"]).values():
        path = work.openable(href)
        if "://" not in path and not Path(path).exists():
            raise Problem(
                f"there is no file {path}",
                where=f"scene {scene['scene']}, on {socket.gethostname()}",
                fix="restore it; with SCHEDULER=… all workers must see the imagery under the same path",
            )


def _record(chip: dict[str, Any], arrays: dict[str, np.ndarray] | None, failure: str | None) -> dict[str, Any]:
    record: dict[str, Any] = dict.fromkeys(parts.PART.names) | {"chip_id": chip["chip_id"], "failure": failure}
    if arrays is None:
        return record
    record |= {name: array.astype(array.dtype.newbyteorder("<")).tobytes() for name, array in arrays.items()}
    ordered = [arrays[g.name] for g in GROUPS[chip["sensor"]]]
    return record | {"sha256": arrays_sha256(ordered), "nodata": nodata_share(arrays["10m"], chip["sensor"])}


def _row(chip: dict[str, Any], part: str, row: int, record: dict[str, Any], region: Region) -> dict[str, Any]:
    dropped = record["failure"]
    if dropped is None and record["nodata"] > region.max_nodata:
        dropped = "nodata"
    if dropped is None and chip["cloud"] is not None and chip["cloud"] > region.max_cloud:
        dropped = "cloud"
    stored = {"part": part, "row": row} if record["sha256"] else {"part": None, "row": None}
    return {
        "chip_id": chip["chip_id"],
        **stored,
        "sha256": record["sha256"],
        "nodata": record["nodata"],
        "cloud": chip["cloud"],
        "dropped": dropped,
    }


def _inherited(chip: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(tables.PIXELS.names) | {k: chip[k] for k in ("chip_id", "cloud", "dropped")}
