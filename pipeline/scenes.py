"""Stage scenes: manifest -> the STAC items we may use, one row each, duplicates of one pass and tile removed."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from harmonize.problem import Problem, nearest
from pipeline import tables
from pipeline.catalog import Item, catalogue_files, read_items
from pipeline.radiometry import baseline_number
from pipeline.region import Imagery, Region
from pipeline.source import Source
from pipeline.work import Outcome, Work

PASS_MINUTES = 15
"""One pass: the same platform within this time (DESIGN §3)."""


def params(region: Region) -> dict[str, Any]:
    keys = ("api", "items", "collection", "sensor", "assets", "scene_classes", "baseline_offset")
    return {
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

    Raises Problem for an item without an asset the source names, and for a region with no scene at all.
    """
    region, dropped, rows, asked = work.region, Counter[str](), [], 0
    for k, use in enumerate(region.imagery):
        source = region.source(use.source)
        where = f"{region.path}, key 'imagery[{k}].source' ({use.source})"
        if source.api:
            raise Problem(
                f"source '{use.source}' is a STAC API; this version reads catalogues on disk",
                where=where,
                fix="use a source with items = '…' until the STAC API reader is there",
            )
        items = read_items(source, where)
        asked += len(items)
        for item in items:
            reason = _unwanted(item, use, work)
            if reason:
                dropped[reason] += 1
            else:
                rows.append(_row(item, use, source, work))
    kept = _without_duplicates(rows, dropped)
    if not kept:
        _no_scene(work, dropped, asked)
    kept.sort(key=lambda r: (r["sensor"], r["datetime"], r["scene"], r["source"]))
    return Outcome(asked, tables.table_of(kept, tables.SCENES), dropped=dropped, kept=len(kept))


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
    day = _when(item).date()
    if not region.start <= day <= region.end:
        return "outside the dates"
    if not shapely.intersects(_footprint(item), work.area):
        return "outside the region"
    if use.orbit != "any" and properties.get("sat:orbit_state") != use.orbit:
        return f"orbit is not {use.orbit}"
    said = properties.get("sar:polarizations")
    wanted = set(work.region.source(use.source).assets) if region.source(use.source).sensor == "s1" else set()
    if said and not wanted <= set(said):
        return "polarisation is not VV+VH"
    return None


def _footprint(item: Item) -> Any:
    import shapely

    try:
        shape = shapely.from_geojson(json.dumps(item["geometry"]))
    except shapely.errors.GEOSException:
        raise Problem("an item's geometry is not GeoJSON", where=_name(item), fix="mend the item") from None
    return shapely.make_valid(shape)


def _name(item: Item) -> str:
    return f"item {item['id']} in {item['_file']}"


def _when(item: Item) -> dt.datetime:
    """Acquisition time, UTC. Catalogues also write a space for the T, and only start_datetime."""
    text = item["properties"].get("datetime") or item["properties"].get("start_datetime")
    if isinstance(text, dt.datetime):
        when = text
    else:
        try:
            when = dt.datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        except ValueError:
            raise Problem(f"'{text}' is not a time", where=_name(item), fix="use 2020-04-08T14:37:29Z") from None
    return when.astimezone(dt.UTC) if when.tzinfo else when.replace(tzinfo=dt.UTC)


def _row(item: Item, use: Imagery, source: Source, work: Work) -> dict[str, Any]:
    p = item["properties"]
    hrefs = {band: _asset(item, key, band, use, work) for band, key in source.assets.items()}
    classes = _asset(item, source.scene_classes, "scene_classes", use, work) if source.scene_classes else None
    baseline = p.get("s2:processing_baseline") or p.get("processing:version")
    if source.sensor == "s2" and baseline is not None:
        baseline = "{:02d}.{:02d}".format(*baseline_number(str(baseline), _name(item)))
    epsg, box = _raster_place(item, source, hrefs, work)
    return {
        "scene": item["id"],
        "source": use.source,
        "sensor": source.sensor,
        "collection": item.get("collection") or source.collection or "",
        "platform": str(p.get("platform") or p.get("constellation") or "unknown").lower().replace(" ", "-"),
        "datetime": _when(item),
        "orbit": p.get("sat:orbit_state") if p.get("sat:orbit_state") in ("ascending", "descending") else None,
        "relative_orbit": p.get("sat:relative_orbit"),
        "tile": _tile(p),
        "baseline": baseline if source.sensor == "s2" else None,
        "generated": _text(p.get("s2:generation_time") or p.get("processing:datetime")),
        "cloud": p.get("eo:cloud_cover") / 100 if p.get("eo:cloud_cover") is not None else None,
        "epsg": epsg,
        **dict(zip(("west", "south", "east", "north"), box, strict=True)),
        "assets": json.dumps({b: _stored(h, work) for b, h in hrefs.items()}, sort_keys=True),
        "scene_classes": _stored(classes, work) if classes else None,
        "geometry": _footprint(item).wkb,
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _tile(p: dict[str, Any]) -> str | None:
    """MGRS tile without its T or prefix: Planetary Computer, Earth Search and CDSE spell it differently."""
    if p.get("s2:mgrs_tile"):
        return str(p["s2:mgrs_tile"]).removeprefix("T")
    code = str(p.get("grid:code") or "")
    return code.removeprefix("MGRS-") if code.startswith("MGRS-") else None


def _asset(item: Item, key: str, band: str, use: Imagery, work: Work) -> str:
    where = f"{_name(item)}, key 'assets.{key}'"
    href = item["assets"].get(key, {}).get("href")
    if not href:
        fix = f"{nearest(key, item['assets'])}; source '{use.source}' says {band} = \"{key}\""
        raise Problem(f"asset '{key}' ({band}) is missing", where=where, fix=fix)
    if "://" not in href and not Path(href).exists():
        raise Problem(
            f"the file of asset '{key}' is not there: {href}", where=where, fix="restore it, or mend the href"
        )
    return href


def _stored(href: str, work: Work) -> str:
    """Hrefs go into tables unsigned, local ones relative to the manifest: tables name no path of one machine."""
    if "://" in href:
        return href
    return Path(os.path.relpath(href, work.region.path.resolve().parent)).as_posix()


def _raster_place(item: Item, source: Source, hrefs: dict[str, str], work: Work) -> tuple[int, list[float]]:
    """EPSG and bounds of the reference band's raster, from proj:* or else from the file's header."""
    band = "B02" if source.sensor == "s2" else "VV"
    asset = item["assets"][source.assets[band]]
    p = {**item["properties"], **asset}
    code = str(p.get("proj:code") or "")
    epsg = p.get("proj:epsg") or (int(code.removeprefix("EPSG:")) if code.startswith("EPSG:") else None)
    t, shape = p.get("proj:transform"), p.get("proj:shape")
    if epsg and t and shape:
        return int(epsg), [t[2], t[5] + t[4] * shape[0], t[2] + t[0] * shape[1], t[5]]
    from pipeline import raster

    try:
        head = raster.header(hrefs[band])
    except raster.UnreadableRaster as error:
        raise Problem(f"a raster's header cannot be read: {error}", where=_name(item), fix="mend the file") from None
    if head.epsg is None:
        raise Problem("a raster's CRS has no EPSG code", where=_name(item), fix="add proj:epsg to the item")
    return head.epsg, list(head.bounds)


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
