"""STAC items on disk: item JSON files, item collections, stac-geoparquet -> plain dicts, hrefs resolved."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harmonize.problem import Problem
from harmonize.record import from_json
from pipeline.access import unsigned
from pipeline.source import Source

Item = dict[str, Any]
PROPERTIES = frozenset({
    "datetime", "start_datetime", "end_datetime", "platform", "constellation", "eo:cloud_cover",
    "sat:orbit_state", "sat:relative_orbit", "sar:polarizations",
    "proj:code", "proj:epsg", "proj:shape", "proj:transform",
    "s2:product_uri", "s2:mgrs_tile", "s2:processing_baseline", "s2:generation_time", "processing:version",
    "processing:datetime", "grid:code", "mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square",
    "sentinel:product_id", "sentinel:utm_zone", "sentinel:latitude_band", "sentinel:grid_square",
})  # fmt: skip
"""All that `item` and `scenes` read of an item's properties and of its assets' fields, besides href."""
_PARQUET_TOP = {"type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets", "collection"}


def catalogue_files(source: Source, where: str) -> list[Path]:
    """Files a source's `items` names; nothing found is a Problem."""
    pattern = source.path_of(source.items or "")
    if Path(pattern).is_dir():
        raise Problem(f"'{source.items}' is a folder", where=where, fix=f"write items = '{source.items}/*.json'")
    files = sorted(Path(p) for p in glob.glob(pattern))  # noqa: PTH207  Path.glob cannot take an absolute pattern
    if not files:
        raise Problem(
            f"the catalogue path matches nothing: {source.items}",
            where=where,
            fix=f"there is no file at {pattern}; paths are relative to the manifest's folder",
        )
    return files


def read_items(source: Source, where: str) -> list[Item]:
    """All items of the source's collection in its catalogue files, sorted by id."""
    items: list[Item] = []
    for path in catalogue_files(source, where):
        found = _from_parquet(path) if path.suffix == ".parquet" else _from_json(path)
        items += [_resolved(item, path) for item in found]
    mine = [i for i in items if source.collection is None or i.get("collection") == source.collection]
    if items and not mine:
        held = ", ".join(sorted({str(i.get("collection")) for i in items}))
        raise Problem(
            f"no item of collection '{source.collection}' in {source.items}",
            where=where,
            fix=f"collections there: {held}",
        )
    return sorted(mine, key=lambda i: i["id"])


def _from_json(path: Path) -> list[Item]:
    try:
        data = from_json(path.read_bytes())
    except ValueError as error:
        raise Problem(f"this is not valid JSON: {error}", where=str(path), fix="mend or remove the file") from None
    if isinstance(data, dict) and data.get("type") == "Feature":
        return [checked_item(data, str(path))]
    if isinstance(data, dict) and isinstance(data.get("features"), list):
        return [checked_item(item, str(path)) for item in data["features"]]
    if isinstance(data, list):
        return [checked_item(item, str(path)) for item in data]
    raise Problem(
        "this is neither a STAC item nor an item collection", where=str(path), fix="name item files in 'items'"
    )


def checked_item(item: Any, where: str) -> Item:
    """`item` if it has what every STAC item has; else Problem."""
    needed = ("id", "geometry", "properties", "assets")
    if not isinstance(item, dict) or any(not item.get(key) for key in needed):
        missing = ", ".join(k for k in needed if not isinstance(item, dict) or not item.get(k))
        name = f"item {item['id']} in {where}" if isinstance(item, dict) and item.get("id") else where
        raise Problem(f"a STAC item lacks {missing}", where=name, fix="mend the item, or leave it out of 'items'")
    for key, value, kind in _odd_values(item):
        raise Problem(
            f"a STAC item's {key} is {unsigned(str(value))[:60]!r}, not {kind}",
            where=f"item {item['id']} in {where}",
            fix="mend the item, or leave it out of 'items'",
        )
    return item


def _odd_values(item: Item) -> Iterator[tuple[str, Any, str]]:
    """Key, value and what it must be, for values of a kind that STAC does not know there."""
    for key in ("id", "collection"):
        if item.get(key) is not None and not _is_name(item[key]):
            yield key, item[key], f"text of at most {LONGEST_NAME} letters that can be seen"
    for key in ("geometry", "properties", "assets"):
        if not isinstance(item[key], dict):
            yield key, item[key], "an object"
            return
    for name, asset in item["assets"].items():
        if not isinstance(asset, dict):
            yield f"assets.{name}", asset, "an object"
        elif not _is_text(asset.get("href", "")):
            yield f"assets.{name}.href", asset["href"], "text"
        elif "\0" in asset.get("href", ""):
            yield f"assets.{name}.href", asset["href"], "an address"
    places = {"properties": item["properties"]} | {f"assets.{k}": a for k, a in item["assets"].items()}
    for place, fields in places.items():
        for key, (kind, is_right) in _KINDS.items():
            if fields.get(key) is not None and not is_right(fields[key]):
                yield f"{place}.{key}", fields[key], kind


LARGEST = 1e15
"""Of numbers that we count with: metres, pixels, days. Larger ones fit into no column."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _is_whole(value: Any) -> bool:
    """Also small: the numbers of orbits and of CRS have up to six digits."""
    return _is_number(value) and value == int(value) and abs(value) < 1e9


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_NAME


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


LONGEST_NAME = 1000
"""Characters of an id; those of archives have up to 120."""
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "platform": ("a name", _is_name),
    "eo:cloud_cover": ("a number", _is_number),
    "sat:relative_orbit": ("a whole number", _is_whole),
    "sar:polarizations": ("a list of texts", lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v)),
    "proj:epsg": ("a whole number", _is_whole),
    "proj:shape": ("two numbers", lambda v: isinstance(v, list) and len(v) == 2 and all(map(_is_number, v))),
    "proj:transform": ("six numbers", lambda v: isinstance(v, list) and len(v) >= 6 and all(map(_is_number, v))),
}
"""What properties that we count with must be, where they are given."""


def _from_parquet(path: Path) -> list[Item]:
    """Items of a stac-geoparquet file: properties stand as columns, empty assets as nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Problem(f"this is not a readable Parquet file: {error}", where=str(path), fix="write it again") from None
    items = []
    for row in rows:
        assets = {k: _without_nulls(v) for k, v in (row.get("assets") or {}).items() if v}
        item = {key: row.get(key) for key in ("id", "collection", "bbox")} | {"type": "Feature", "assets": assets}
        if isinstance(row.get("geometry"), bytes):
            try:
                item["geometry"] = json.loads(shapely.to_geojson(shapely.from_wkb(row["geometry"])))
            except (shapely.errors.GEOSException, ValueError) as error:
                where = f"item {row.get('id')} in {path}"
                raise Problem(f"an item's geometry is no WKB: {error}", where=where, fix="write it again") from None
        item["properties"] = {k: v for k, v in row.items() if k not in _PARQUET_TOP and v is not None}
        items.append(checked_item(item, str(path)))
    return items


def _without_nulls(asset: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in asset.items() if v is not None}


def _resolved(item: Item, path: Path) -> Item:
    """A copy of an item whose relative hrefs start at its own file (STAC's rule)."""
    assets = {}
    for key, asset in item["assets"].items():
        href = str(asset.get("href", ""))
        if href and "://" not in href and not href.startswith("/"):
            href = str((path.parent / href).resolve())
        assets[key] = {**asset, "href": href}
    return {**item, "assets": assets, "_file": str(path)}
