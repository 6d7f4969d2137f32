"""A STAC item as we understand it: each provider's spelling of platform, tile, baseline, orbit, place and hrefs.

Spellings: reference items of the Planetary Computer, Earth Search v0 and v1, and CDSE (tests/test_catalog.py).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from pathlib import Path
from typing import Any

from harmonize.manifest import is_there
from harmonize.problem import Problem, nearest
from pipeline.access import unsigned
from pipeline.catalog import Item
from pipeline.grid import is_known, transformer
from pipeline.radiometry import baseline_number
from pipeline.reach import check_href
from pipeline.region import Imagery
from pipeline.sandbox import href_of
from pipeline.shapes import WORLD_GAP, cut_at_180, polygons_of
from pipeline.source import Source
from pipeline.work import Work


def name_of(item: Item) -> str:
    """Which item, for messages."""
    return f"item {item['id']} in {item['_file']}"


def footprint(item: Item) -> Any:
    """The item's geometry (shapely, EPSG:4326): its polygons, made valid, in two parts where it lies across 180°.

    Raises Problem where it is none, or not in degrees.
    """
    import shapely

    try:
        drawn = shapely.from_geojson(json.dumps(item["geometry"]))
    except (shapely.errors.GEOSException, RecursionError, ValueError):
        raise Problem("an item's geometry is not GeoJSON", where=name_of(item), fix="mend the item") from None
    west, south, east, north = drawn.bounds if not drawn.is_empty else (999.0,) * 4
    # Written so that NaN is outside too.
    if not (-180.001 <= west <= east <= 180.001 and -90.001 <= south <= north <= 90.001):
        raise Problem(
            "an item's geometry is empty or not in degrees",
            where=name_of(item),
            fix="STAC wants longitude and latitude (EPSG:4326) there; reproject it, or leave the item out",
        )
    area = polygons_of(cut_at_180(drawn))
    if area.is_empty:
        raise Problem("an item's geometry is no area", where=name_of(item), fix="STAC wants the footprint there")
    return area


def when(item: Item) -> dt.datetime:
    """Acquisition time, UTC. Catalogues also write a space for the T, and only start_datetime."""
    return _time(item, item["properties"].get("datetime") or item["properties"].get("start_datetime"))


def day_shown(item: Item) -> dt.date | None:
    """The day that a map stands for: the middle of the time it shows, else its one time; None for an undated one.

    A map of a year is written as 2023-01-01 to 2024-01-01: dated by its start, it would rule from July before.
    """
    p = item["properties"]
    if p.get("start_datetime") and p.get("end_datetime"):
        start, end = (_time(item, p[key]) for key in ("start_datetime", "end_datetime"))
        return (start + (end - start) / 2).date()
    return when(item).date() if p.get("datetime") or p.get("start_datetime") else None


def _time(item: Item, text: Any) -> dt.datetime:
    if isinstance(text, dt.datetime):
        found = text
    else:
        try:
            found = dt.datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        except ValueError:
            raise Problem(f"'{text}' is not a time", where=name_of(item), fix="use 2020-04-08T14:37:29Z") from None
    return found.astimezone(dt.UTC) if found.tzinfo else found.replace(tzinfo=dt.UTC)


def platform(p: dict[str, Any]) -> str:
    """sentinel-1a, sentinel-2b: lower case with a hyphen, whatever the provider writes."""
    return str(p.get("platform") or p.get("constellation") or "unknown").lower().replace(" ", "-")


def orbit(p: dict[str, Any]) -> str | None:
    said = str(p.get("sat:orbit_state") or "").lower()
    return said if said in ("ascending", "descending") else None


def _in_product_name(item: Item, pattern: str) -> str | None:
    """What a pattern's group finds in a Sentinel-2 product's name, e.g. S2A_MSIL2A_…_N0214_R123_T28QCH_…."""
    p = item["properties"]
    names = (p.get("s2:product_uri"), p.get("sentinel:product_id"), item["id"])
    return next((m[1] for name in names if (m := re.search(pattern, str(name)))), None)


def tile(item: Item) -> str | None:
    """MGRS tile such as 06VVN, without T or prefix, its zone in two digits: every provider spells it differently."""
    p = item["properties"]
    said = p.get("s2:mgrs_tile")
    if not said and str(p.get("grid:code") or "").startswith("MGRS-"):
        said = str(p["grid:code"]).removeprefix("MGRS-")
    for prefix in ("mgrs", "sentinel"):
        parts = [p.get(f"{prefix}:{key}") for key in ("utm_zone", "latitude_band", "grid_square")]
        if not said and all(parts):
            said = "".join(map(str, parts))
    return str(said).removeprefix("T").zfill(5) if said else _in_product_name(item, r"_T(\d\d[A-Z]{3})(?:_|$)")


def baseline(item: Item) -> str | None:
    """Processing baseline NN.NN of a Sentinel-2 item: from its properties, else from the product's name (…_N0510_…)."""
    p = item["properties"]
    said = p.get("s2:processing_baseline") or p.get("processing:version")
    if said is None:
        named = _in_product_name(item, r"_N(\d{4})_")
        return f"{named[:2]}.{named[2:]}" if named else None
    return "{:02d}.{:02d}".format(*baseline_number(str(said), name_of(item)))


def generated(p: dict[str, Any]) -> str | None:
    said = p.get("s2:generation_time") or p.get("processing:datetime")
    return None if said is None else str(said)


def asset_href(item: Item, key: str, band: str, use: Imagery, work: Work) -> str:
    """The href of an asset; a local file must be there. Raises Problem naming item and key."""
    where = f"{name_of(item)}, key 'assets.{key}'"
    href = unsigned(str(item["assets"].get(key, {}).get("href") or ""))
    if not href:
        fix = f"{nearest(key, item['assets'])}; source '{use.source}' says {band} = \"{key}\""
        raise Problem(f"asset '{key}' ({band}) is missing", where=where, fix=fix)
    check_href(href, work.region.source(use.source), where)
    local = work.openable(href)
    if "://" not in local and not is_there(Path(local)):
        raise Problem(
            f"the file of asset '{key}' is not there: {href[:200]}", where=where, fix="restore it, or mend the href"
        )
    return href


def stored(href: str, work: Work) -> str:
    """An href as it stands in tables, which name no path of one machine: unsigned, a file of the sample world as
    `sandbox://…`, any other local one relative to the manifest."""
    if "://" in href:
        return href
    return href_of(href, work.region.world) or Path(os.path.relpath(href, work.region.path.resolve().parent)).as_posix()


def raster_place(item: Item, source: Source, href: str, work: Work, use: Imagery) -> tuple[int, list[float]]:
    """EPSG and bounds of the reference band's raster, from proj:* or else from the file's header.

    Raises UnreadableRaster, and Problem for an item that says what cannot be.
    """
    from pipeline import opening

    asset = item["assets"][source.assets[reference_band(source)]]
    p = item["properties"] | {k: v for k, v in asset.items() if v is not None}
    code = str(p.get("proj:code") or "")
    epsg = p.get("proj:epsg") or (int(code.removeprefix("EPSG:")) if re.fullmatch(r"EPSG:\d{4,6}", code) else None)
    if epsg and not is_known(int(epsg)):
        raise Problem(f"there is no CRS EPSG:{epsg}", where=name_of(item), fix="mend the item, or leave it out")
    t, shape = p.get("proj:transform"), p.get("proj:shape")
    if epsg and t and shape:
        return int(epsg), [t[2], t[5] + t[4] * shape[0], t[2] + t[0] * shape[1], t[5]]

    head = work.read(href, use.source, opening.header)
    if head.epsg is None:
        raise Problem("a raster's CRS has no EPSG code", where=name_of(item), fix="add proj:epsg to the item")
    return head.epsg, list(head.bounds)


def check_place(item: Item, epsg: int, box: list[float]) -> None:
    """Problem where the raster that proj:* tells of (bounds in units of `epsg`) lies elsewhere than the geometry."""
    import numpy as np
    import shapely
    from pyproj.exceptions import CRSError

    where, west_south_east_north = name_of(item), " ".join(f"{v:g}" for v in box)
    try:
        move = transformer(epsg, 4326)
    except CRSError:
        raise Problem(f"there is no EPSG:{epsg}", where=where, fix="mend proj:epsg (or proj:code)") from None
    try:
        outline = shapely.segmentize(shapely.box(*box), max(abs(box[2] - box[0]), abs(box[3] - box[1]), 1e-9) / 16)
        lon, lat = move.transform(*shapely.get_coordinates(outline).T)
        degrees = np.column_stack([lon, lat])
        found = np.isfinite(degrees).all() and cut_at_180(shapely.Polygon(degrees), WORLD_GAP).intersects(
            footprint(item)
        )
    except shapely.errors.GEOSException:  # of a box without extent, or one that no float can divide
        found = False
    if not found:
        raise Problem(
            f"an item's raster ({west_south_east_north} in EPSG:{epsg}) does not lie where its geometry is",
            where=where,
            fix="mend proj:epsg, proj:transform and proj:shape, or the geometry",
        )


def reference_band(source: Source) -> str:
    return "B02" if source.sensor == "s2" else "VV"
