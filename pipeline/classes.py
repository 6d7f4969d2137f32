"""Class rasters: codes of a land-cover map on a cell's pixels, from one band of codes or from probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harmonize.problem import Problem
from pipeline.opening import UnreadableRaster, check_window, named, open_raster, options_of, unreadable
from pipeline.raster import MARGIN_PX, Target, bounds_in
from pipeline.source import Source

if TYPE_CHECKING:
    import xarray as xr

OUTSIDE, UNLABELLED = -32768, -32767
"""Stand for pixels beyond the raster and for nodata in it; codes of maps are small numbers."""
NO_CODE = (OUTSIDE, UNLABELLED)


def read_classes(
    href: str, epsg: int, bounds: tuple[float, float, float, float], source: Source, where: str
) -> xr.DataArray | None:
    """Class codes (y, x), int32, around bounds of another CRS; nodata becomes UNLABELLED. None: no overlap.

    `source` says which band holds the codes, or that bands are probabilities; its nodata and the file's are no code.
    Raises Problem where the raster has no such bands, UnreadableRaster where it cannot be read.
    """
    import rasterio
    from rasterio.errors import RasterioIOError
    from rioxarray.exceptions import NoDataInBounds, OneDimensionalRaster

    with rasterio.Env(**options_of(href)[1]), open_raster(href) as opened:
        raster = opened.isel(band=_bands(opened, source, f"{where}: {named(href)}"))
        margin = MARGIN_PX * abs(raster.rio.transform().a)
        west, south, east, north = bounds_in(bounds, epsg, raster.rio.crs)
        try:
            part = raster.rio.clip_box(west - margin, south - margin, east + margin, north + margin)
            check_window(part, href)
            part = part.load()
        except (NoDataInBounds, OneDimensionalRaster):
            return None  # one row or column can only be margin
        except RasterioIOError as error:
            raise unreadable(href, error) from None
    nodata = [v for v in (*source.nodata_values, part.rio.nodata) if v is not None]
    if part.dtype.kind not in "iufb":
        raise UnreadableRaster(f"{named(href)}: holds {part.dtype} values, which are no codes", lasting=True)
    codes = _likeliest(part.values, nodata) if source.probabilities else _coded(part.values[0], nodata)
    if codes is None:
        what = "holds fractions, which are no codes (is probabilities missing?)"
        raise UnreadableRaster(f"{named(href)}: {what}", lasting=True)
    return part.isel(band=0, drop=True).copy(data=codes).rio.write_nodata(OUTSIDE)


def _coded(values: np.ndarray, nodata: list[float]) -> np.ndarray | None:
    """Codes as they stand, int32; None where they are no whole numbers."""
    empty = np.isin(values, nodata) | np.isnan(values)
    if values.dtype.kind == "f" and (values[~empty] != np.round(values[~empty])).any():
        return None
    return np.where(empty, UNLABELLED, np.where(empty, 0, values).astype(np.int32))


def _likeliest(values: np.ndarray, nodata: list[float]) -> np.ndarray:
    """Per pixel the number of the band with the highest value, from 0 (the first of equal ones); UNLABELLED where no
    band says anything: nodata, NaN or 0 in all of them. values: (C, H, W), any unit."""
    said = np.where(np.isin(values, nodata) | np.isnan(values), 0, values)
    return np.where((said > 0).any(0), said.argmax(0), UNLABELLED).astype(np.int32)


def _bands(raster: xr.DataArray, source: Source, where: str) -> list[int]:
    """Places of the bands that are read, from 0."""
    count = raster.sizes["band"]
    if source.probabilities:
        wanted = list(range(source.probabilities))
        if count < len(wanted):
            fix = f"probabilities = {source.probabilities} needs as many bands; for a band of codes give band"
            raise Problem(f"the raster has {count} bands", where=where, fix=fix)
        return wanted
    names = [str(name) for name in np.atleast_1d(raster.attrs.get("long_name") or [])]
    told = f"1 to {count}" + (f" ({', '.join(names)})" if len(names) == count else "")
    if source.band is None and count > 1:
        fix = f"add band = <number or name> to the source, or probabilities = 9 for Dynamic World's; bands: {told}"
        raise Problem(f"the raster has {count} bands, and nothing says which one holds the codes", where=where, fix=fix)
    if isinstance(source.band, str):
        if source.band not in names:
            raise Problem(f"the raster has no band '{source.band}'", where=where, fix=f"bands: {told}")
        return [names.index(source.band)]
    number = source.band or 1
    if number > count:
        raise Problem(f"the raster has no band {number}", where=where, fix=f"bands: {told}")
    return [number - 1]


def class_pixels(classes: xr.DataArray, target: Target) -> np.ndarray:
    """Codes (side, side) on a target's pixels, nearest; OUTSIDE where the raster has none."""
    from rasterio.enums import Resampling

    return classes.rio.reproject(
        f"EPSG:{target.epsg}",
        shape=(target.side, target.side),
        transform=target.transform,
        resampling=Resampling.nearest,
        nodata=OUTSIDE,
    ).values
