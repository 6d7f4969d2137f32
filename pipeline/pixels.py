"""Stage pixels: chips -> arrays. A strip of a scene is read once, harmonised, cut into chips, hashed and stored.

A part is named by what decides its bytes, so that a killed run goes on where it was, a wider date range reads only
what is not stored, and thresholds change without reading again.
"""

from __future__ import annotations

import contextlib
import functools
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
from pipeline.radiometry import nodata_share, odd_values, offset_of, remove_offset, to_db, to_power
from pipeline.receipt import UNREADABLE, counted_as, digest
from pipeline.region import Region
from pipeline.sample import GROUPS, Group, arrays_sha256
from pipeline.screen import file_stem
from pipeline.work import Outcome, Work

if TYPE_CHECKING:
    import xarray as xr

    from pipeline import raster
    from pipeline.source import Source
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

    from pipeline import raster

    if not members:
        return
    failure, source = "outside the raster", work.region.source(scene["source"])
    _check_seen(scene, work)
    try:
        strip = read_strip(scene, members, source, work)
    except raster.UnreadableRaster as error:
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


def read_strip(scene: dict[str, Any], members: list[dict[str, Any]], source: Source, work: Work) -> xr.Dataset | None:
    """The part of a scene around some chips: one DataArray (band, y, x) per resolution group, CRS on `.rio`.

    attrs: scene, unit, offset (DN that the cutter has still to remove: averages come before the offset).
    None where no chip touches the raster. Raises UnreadableRaster.
    """
    import xarray as xr

    from pipeline import raster

    assets = json.loads(scene["assets"])
    boxes = np.array([[c["west"], c["south"], c["east"], c["north"]] for c in members])
    bounds = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))
    read = functools.partial(raster.read_window, bounds=bounds, epsg=members[0]["epsg"])
    arrays: dict[str, xr.DataArray] = {}
    for group in GROUPS[scene["sensor"]]:
        bands = []
        for band in group.bands:
            part = work.read(assets[band], scene["source"], read)
            if part is None:
                return None
            if odd := _odd(part, scene["sensor"], source, group):
                raise raster.UnreadableRaster(f"{raster.named(assets[band])}: {odd}")
            bands.append(_harmonised(part.isel(band=0, drop=True), scene["sensor"], source))
        arrays |= _stacked(bands, group)
    where = f"item {scene['scene']} of {scene['source']}"
    offset = offset_of(scene["baseline"], source.baseline_offset, where) if scene["sensor"] == "s2" else 0
    # Each group has its own pixels, so each has its own dimensions.
    renamed = {name: a.rename({d: f"{d}_{name}" for d in a.dims}) for name, a in arrays.items()}
    coords = {f"{d}_{name}": renamed[name][f"{d}_{name}"] for name in renamed for d in ("band", "y", "x")}
    strip = xr.Dataset({n: a.drop_vars("spatial_ref", errors="ignore").variable for n, a in renamed.items()}, coords)
    for name, array in arrays.items():
        strip[name].attrs |= {"transform": tuple(array.rio.transform())[:6], "crs": array.rio.crs.to_wkt()}
    return strip.assign_attrs(scene=scene["scene"], unit=source.unit, offset=offset)


def _odd(part: xr.DataArray, sensor: str, source: Source, group: Group) -> str | None:
    """Why a band's pixels cannot be what the source says they are; None where they can."""
    from pipeline import raster

    if odd := odd_values(part.values, sensor, source.unit, source.nodata_values):
        return odd
    pixel_m = raster.pixels_of(part).pixel_m
    if sensor == "s2" and pixel_m > group.resolution_m * 1.25:  # no invented pixels; another CRS may stretch them a bit
        return f"has pixels of {pixel_m:g} m, and these bands are kept at {group.resolution_m} m"
    return None


def group_of(strip: xr.Dataset, name: str) -> xr.DataArray:
    """One resolution group of a strip as a DataArray (band, y, x) with `.rio` CRS and transform."""
    import rioxarray  # noqa: F401  gives DataArrays their .rio
    from affine import Affine

    array = strip[name].rename({f"{d}_{name}": d for d in ("band", "y", "x")})
    array = array.rio.write_crs(array.attrs["crs"], inplace=True)
    return array.rio.write_transform(Affine(*array.attrs["transform"]), inplace=True)


def _harmonised(band: xr.DataArray, sensor: str, source: Source) -> xr.DataArray:
    """S1: linear power, NaN = nodata. S2: uint16 DN, 0 = nodata; the offset goes after any averaging."""
    if sensor == "s1":
        return band.copy(data=to_power(band.values, source.unit, source.nodata_values))
    values = band.values
    for nodata in source.nodata_values:
        values = np.where(values == nodata, 0, values)
    if not np.issubdtype(values.dtype, np.integer):
        values = np.nan_to_num(values, nan=0.0).round()
    return band.copy(data=np.clip(values, 0, 65535).astype(np.uint16))


def _stacked(bands: list[xr.DataArray], group: Group) -> dict[str, xr.DataArray]:
    """Neighbouring bands with the same pixels as one array: some providers have B01 finer than B09."""
    import xarray as xr

    runs: list[list[int]] = []
    for k, band in enumerate(bands):
        last = bands[runs[-1][-1]] if runs else None
        if last is not None and band.shape == last.shape and band.rio.transform() == last.rio.transform():
            runs[-1].append(k)
        else:
            runs.append([k])
    found = {}
    for run in runs:
        names = [group.bands[k] for k in run]
        stacked = xr.concat([bands[k] for k in run], dim="band").assign_coords(band=names)
        first = bands[run[0]]
        # In place: otherwise .rio copies all the pixels, each time.
        stacked = stacked.rio.write_crs(first.rio.crs, inplace=True)
        stacked = stacked.rio.write_transform(first.rio.transform(), inplace=True)
        found[group.name if len(runs) == 1 else f"{group.name}_{names[0]}"] = stacked
    return found


def cut_chip(pixels: dict[str, raster.Pixels], chip: dict[str, Any], sensor: str, offset: int) -> dict[str, np.ndarray]:
    """Arrays of one chip by group: uint16 (C,H,W) reflectance x 10000, or float16 (C,H,W) dB."""
    from pipeline import raster

    arrays = {}
    for group in GROUPS[sensor]:
        side = chip["size_px"] * 10 // group.resolution_m
        target = raster.Target(chip["epsg"], chip["west"], chip["north"], group.resolution_m, side)
        how, nodata = ("bilinear", np.nan) if sensor == "s1" else ("nearest", 0)
        mine = [p for name, p in pixels.items() if name.split("_")[0] == group.name]
        cut = np.concatenate([raster.cut(p, target, how, nodata) for p in mine])
        arrays[group.name] = to_db(cut) if sensor == "s1" else remove_offset(cut, offset)
    return arrays


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
