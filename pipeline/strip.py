"""A strip of a scene: its bands around some chips, read, harmonised and stacked; and a chip's arrays, cut from it."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.radiometry import odd_values, offset_of, remove_offset, to_db, to_power
from pipeline.sample import GROUPS, Group
from pipeline.source import Source
from pipeline.work import Work

if TYPE_CHECKING:
    import xarray as xr

    from pipeline import raster


def read_strip(scene: dict[str, Any], members: list[dict[str, Any]], source: Source, work: Work) -> xr.Dataset | None:
    """The part of a scene around some chips: one DataArray (band, y, x) per resolution group, CRS on `.rio`.

    attrs: scene, unit, offset (DN that the cutter has still to remove: averages come before the offset).
    None where no chip touches the raster. Raises UnreadableRaster.
    """
    import xarray as xr

    from pipeline import opening, raster

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
                raise opening.UnreadableRaster(f"{opening.named(assets[band])}: {odd}", lasting=True)
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
