"""Stage scenes: manifest -> the STAC items we may use, one row each, duplicates of one pass and tile removed."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path
from typing import Any

from harmonize.problem import Problem
from pipeline import stac_api, tables
from pipeline.catalog import Item, catalogue_files, checked_item, read_items
from pipeline.item import (
    asset_href,
    baseline,
    check_place,
    footprint,
    generated,
    name_of,
    orbit,
    platform,
    raster_place,
    reference_band,
    stored,
    tile,
    when,
)
from pipeline.receipt import UNREADABLE
from pipeline.region import Imagery, Region
from pipeline.sandbox import VERSION as WORLD_VERSION
from pipeline.sandbox import size_of
from pipeline.source import Source
from pipeline.work import Outcome, Work

PASS_MINUTES = 15
"""One pass: the same platform within this time (DESIGN §3)."""


def params(region: Region) -> dict[str, Any]:
    keys = ("api", "items", "collection", "sensor", "assets", "scene_classes", "baseline_offset")
    worlds = [size for use in region.imagery if (size := size_of(region.source(use.source).api))]
    return {
        **({"world": WORLD_VERSION} if worlds else {}),
        "place": [region.bounds, region.geometry, region.mgrs],
        "dates": [str(region.start), str(region.end)],
        "imagery": [
            {"source": use.source, "orbit": use.orbit} | {key: getattr(region.source(use.source), key) for key in keys}
            for use in region.imagery
        ],
    }


def outside(region: Region) -> list[Path]:
    files = region_files(region)
    for k, use in enumerate(region.imagery):
        source = region.source(use.source)
        if source.items:
            files += catalogue_files(source, f"{region.path}, key 'imagery[{k}].source' ({use.source})")
    return files


def find_scenes(work: Work) -> Outcome:
    """Items of every imagery source that touch the region in its dates; no pixel is read.

    Raises Problem for a source none of whose items has the assets it names, and for a region with no scene at all.
    """
    region, dropped, rows, asked = work.region, Counter[str](), [], 0
    notes: list[str] = []
    with stac_api.serving(region, (region.source(use.source).api for use in region.imagery)) as addresses:
        for k, use in enumerate(region.imagery):
            source = region.source(use.source)
            where = f"{region.path}, key 'imagery[{k}].source' ({use.source})"
            if source.api:
                queries = stac_api.monthly(work.area, region.start, region.end)
                track = _tracking(work, use.source)
                found = stac_api.search(source, addresses[source.api], queries, where, track)
                items = found.items
                notes.append(found.note(use.source))
            else:
                items = read_items(source, where)
            asked += len(items)
            rows += _rows(items, use, work, dropped, notes)
    if any(region.source(use.source).api for use in region.imagery):
        notes.append("an API's newer items are only seen by: make redo STAGE=scenes REGION=…")
    kept = _without_duplicates(rows, dropped)
    if not kept:
        _no_scene(work, dropped, asked)
    kept.sort(key=lambda r: (r["sensor"], r["datetime"], r["scene"], r["source"]))
    return Outcome(asked, tables.table_of(kept, tables.SCENES), dropped=dropped, kept=len(kept), notes=notes)


def _tracking(work: Work, source: str) -> stac_api.Track:
    return lambda queries: work.track(queries, len(queries), source)


def _rows(items: list[Item], use: Imagery, work: Work, dropped: Counter[str], notes: list[str]) -> list[dict[str, Any]]:
    """Rows of the items that are wanted. Nobody can mend an item of an API, so a broken one is left out and told;
    on disk it is a Problem, and so it is where no item of the API is whole. One whose raster cannot be read is left
    out, counted as that, and tried again where it is asked for."""
    from pipeline.opening import UnreadableRaster

    source = work.region.source(use.source)
    rows: list[dict[str, Any]] = []
    broken: list[Problem] = []
    for item in items:
        try:
            reason = _unwanted(checked_item(item, item["_file"]), use, work)
            if reason is None:
                rows.append(_row(item, use, source, work))
        except Problem as problem:
            if not source.api:
                raise
            broken.append(problem)
            reason = "unusable item"
        except UnreadableRaster as error:
            reason = UNREADABLE
            notes.append(f"warning: {UNREADABLE}: {error} ({name_of(item)}): the item is left out")
        if reason:
            dropped[reason] += 1
    if broken and not rows:
        raise broken[0]
    if broken:
        one = broken[0]
        notes.append(f"warning: {len(broken)} items of {use.source} left out; the first: {one.what} ({one.where})")
    return rows


def _no_scene(work: Work, dropped: Counter[str], asked: int) -> None:
    region = work.region
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items())) or "the catalogues are empty"
    west, south, east, north = work.area.bounds
    raise Problem(
        f"the region has no scene: of {asked} items, {reasons}",
        where=f"{region.path}: {west:.3f} {south:.3f} {east:.3f} {north:.3f}, {region.start} to {region.end}",
        fix="check bounds (west, south, east, north), start and end, and the sources' items and collection",
    )


def _unwanted(item: Item, use: Imagery, work: Work) -> str | None:
    """Why an item is not asked for, None when it is."""
    import shapely

    properties, region = item["properties"], work.region
    day = when(item).date()
    if not region.start <= day <= region.end:
        return "outside the dates"
    if not shapely.intersects(footprint(item), work.area):
        return "outside the region"
    if use.orbit != "any" and orbit(properties) != use.orbit:
        return f"orbit is not {use.orbit}"
    said = properties.get("sar:polarizations")
    wanted = set(work.region.source(use.source).assets) if region.source(use.source).sensor == "s1" else set()
    if said and not wanted <= set(said):
        return "polarisation is not VV+VH"
    return None


def _row(item: Item, use: Imagery, source: Source, work: Work) -> dict[str, Any]:
    p = item["properties"]
    hrefs = {band: asset_href(item, key, band, use, work) for band, key in source.assets.items()}
    key = source.scene_classes
    classes = asset_href(item, key, "scene_classes", use, work) if key else None
    epsg, box = raster_place(item, source, hrefs[reference_band(source)], work, use)
    check_place(item, epsg, box)
    return {
        "scene": item["id"],
        "source": use.source,
        "sensor": source.sensor,
        "collection": item.get("collection") or source.collection or "",
        "platform": platform(p),
        "datetime": when(item),
        "orbit": orbit(p),
        "relative_orbit": p.get("sat:relative_orbit"),
        "tile": tile(item),
        "baseline": baseline(item) if source.sensor == "s2" else None,
        "generated": generated(p),
        "cloud": p.get("eo:cloud_cover") / 100 if p.get("eo:cloud_cover") is not None else None,
        "epsg": epsg,
        **dict(zip(("west", "south", "east", "north"), box, strict=True)),
        "assets": json.dumps({b: stored(h, work) for b, h in hrefs.items()}, sort_keys=True),
        "scene_classes": stored(classes, work) if classes else None,
        "geometry": footprint(item).wkb,
    }


def _without_duplicates(rows: list[dict[str, Any]], dropped: Counter[str]) -> list[dict[str, Any]]:
    """One item per platform, pass and tile with agreeing footprints: highest baseline, then newest generation.

    Split tiles (two items that share pass and tile but not their ground) both stay.
    """

    def rank(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["baseline"] or "", row["generated"] or "", row["scene"]

    passes: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=rank, reverse=True):
        place = row["tile"] or (row["epsg"], row["west"], row["north"])
        bucket = passes.setdefault((row["sensor"], row["platform"], place), [])
        if any(_same_pass(other, row) for other in bucket):
            dropped["duplicate"] += 1
        else:
            bucket.append(row)
    return [row for bucket in passes.values() for row in bucket]


def _same_pass(a: dict[str, Any], b: dict[str, Any]) -> bool:
    import shapely

    near = abs(a["datetime"] - b["datetime"]) <= dt.timedelta(minutes=PASS_MINUTES)
    return near and _agree(shapely.from_wkb(a["geometry"]), shapely.from_wkb(b["geometry"]))


def _agree(a: Any, b: Any) -> bool:
    """Footprints agree when they share 90 % of the larger one: a sliver inside a whole tile is no copy of it."""
    larger = max(a.area, b.area)
    return larger > 0 and a.intersection(b).area / larger > 0.9


def region_files(region: Region) -> list[Path]:
    """The geometry file, where the manifest names one that is there (reading it says what is wrong else)."""
    path = region.relative(region.geometry) if region.geometry else None
    return [path] if path and path.exists() else []
