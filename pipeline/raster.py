"""Rasters: the only module that opens them. A strip of a scene comes in as xarray, a chip goes out as numpy.

A strip is an `xarray.Dataset` with one DataArray (band, y, x) per native resolution, CRS and transform on `.rio`.
Chips are cut from strips: copied where the pixel lattices agree, resampled from the in-memory strip elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.opening import UnreadableRaster, check_window, named, open_raster, options_of, unreadable

if TYPE_CHECKING:
    import rasterio.crs
    import xarray as xr
    from affine import Affine

LATTICE_TOLERANCE_PX = 1e-3
"""Lattices that agree to a thousandth of a pixel are one lattice: catalogues write transforms with float noise."""
MARGIN_PX = 3
"""Pixels read around what is asked, so that a kernel at the edge of a chip sees its neighbours."""


def read_window(
    href: str, bounds: tuple[float, float, float, float], epsg: int | None = None, margin_px: int = MARGIN_PX
) -> xr.DataArray | None:
    """The part of a raster of one band that touches `bounds`, with a margin; None if none does. (band, y, x)

    epsg: CRS of the bounds, where it may not be the raster's own.
    """
    import rasterio
    import rasterio.errors

    with rasterio.Env(**options_of(href)[1]), open_raster(href) as raster:
        if raster.rio.count != 1:
            raise UnreadableRaster(f"{named(href)}: has {raster.rio.count} bands, and one is wanted", lasting=True)
        transform, crs = raster.rio.transform(), raster.rio.crs
        if epsg is not None and crs.to_epsg() != epsg:
            bounds = bounds_in(bounds, epsg, crs)
        left, top, right, low = window_of(transform, (raster.rio.height, raster.rio.width), bounds, margin_px)
        if left >= right or top >= low:
            return None
        try:
            part = raster.isel(x=slice(left, right), y=slice(top, low))
            check_window(part, href)
            part = part.load()
        except (rasterio.errors.RasterioIOError, rasterio.errors.WindowError) as error:
            raise unreadable(href, error) from None
    import affine

    # isel keeps pixel-centre coordinates; writing the transform keeps it exact where the coordinates carry rounding.
    return part.rio.write_transform(transform * affine.Affine.translation(left, top))


def window_of(
    transform: Affine, shape: tuple[int, ...], bounds: tuple[float, float, float, float], margin_px: int
) -> tuple[int, int, int, int]:
    """left, top, right, low of the pixels that touch bounds, with a margin, clipped to the raster (rows, columns)."""
    inverse = ~transform
    corners = [inverse * (x, y) for x in (bounds[0], bounds[2]) for y in (bounds[1], bounds[3])]
    cols, rows = [c for c, _ in corners], [r for _, r in corners]
    left, right = max(0, math.floor(min(cols)) - margin_px), min(shape[1], math.ceil(max(cols)) + margin_px)
    top, low = max(0, math.floor(min(rows)) - margin_px), min(shape[0], math.ceil(max(rows)) + margin_px)
    return left, top, right, low


@dataclass(frozen=True)
class Target:
    """The pixels wanted: a square of one CRS at one resolution."""

    epsg: int
    west: float
    north: float
    resolution_m: float
    side: int

    @property
    def transform(self) -> Affine:
        from affine import Affine

        return Affine(self.resolution_m, 0, self.west, 0, -self.resolution_m, self.north)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        length = self.side * self.resolution_m
        return self.west, self.north - length, self.west + length, self.north


@dataclass(frozen=True)
class Pixels:
    """Values (C, H, W) with their lattice, taken out of a DataArray once: asking `.rio` takes longer than a cut."""

    values: np.ndarray
    transform: Affine
    crs: rasterio.crs.CRS
    epsg: int | None

    @property
    def pixel_m(self) -> float:
        """Size of a pixel in metres; degrees count as 111.32 km."""
        size = abs(self.transform.a)
        return size * 111_320 if self.crs.is_geographic else size

    def around(self, bounds: tuple[float, float, float, float]) -> Pixels | None:
        """The pixels that touch bounds of this CRS, with a margin; None if none does. GDAL copies all it is given."""
        from affine import Affine

        left, top, right, low = window_of(self.transform, self.values.shape[1:], bounds, MARGIN_PX)
        if left >= right or top >= low:
            return None
        moved = self.transform * Affine.translation(left, top)
        return Pixels(self.values[:, top:low, left:right], moved, self.crs, self.epsg)


def pixels_of(array: xr.DataArray) -> Pixels:
    crs = array.rio.crs
    return Pixels(array.values, array.rio.transform(), crs, crs.to_epsg())


def cut(strip: xr.DataArray | Pixels, target: Target, how: str, nodata: float) -> np.ndarray:
    """Pixels (C, side, side) of a target out of a strip, `nodata` where the strip has none.

    `how` is nearest, bilinear or class (nearest, and never averaged). On one lattice pixels are copied. A strip finer
    than the target is averaged down onto it (area-weighted, valid pixels only, rounded for integers). From another CRS
    the chip is warped with XSCALE = YSCALE = 1, because GDAL otherwise picks its kernel from the destination's extent.
    """
    pixels = strip if isinstance(strip, Pixels) else pixels_of(strip)
    same_crs = pixels.epsg == target.epsg
    if same_crs and _one_lattice(pixels.transform, target):
        return _copy(pixels.values, pixels.transform, target, nodata)
    finer = same_crs and pixels.transform.a < target.resolution_m * (1 - 1e-6)
    if not same_crs:
        finer = pixels.pixel_m < target.resolution_m * 0.75
    near = pixels.around(target.bounds if same_crs else bounds_in(target.bounds, target.epsg, pixels.crs))
    if near is None:
        return np.full((pixels.values.shape[0], target.side, target.side), nodata, pixels.values.dtype)
    kernel = "nearest" if how == "class" else "average" if finer else how
    return _warp(near, target, kernel, nodata, same_crs)


def _one_lattice(transform: Affine, target: Target) -> bool:
    if transform.b or transform.d or abs(transform.a - target.resolution_m) > 1e-9 or transform.e != -transform.a:
        return False
    dx, dy = (target.west - transform.c) / transform.a, (target.north - transform.f) / transform.a
    return max(abs(dx - round(dx)), abs(dy - round(dy))) < LATTICE_TOLERANCE_PX


def _copy(values: np.ndarray, transform: Affine, target: Target, nodata: float) -> np.ndarray:
    out = np.full((values.shape[0], target.side, target.side), nodata, values.dtype)
    left = round((target.west - transform.c) / transform.a)
    top = round((transform.f - target.north) / transform.a)
    rows = slice(max(top, 0), min(top + target.side, values.shape[1]))
    cols = slice(max(left, 0), min(left + target.side, values.shape[2]))
    if rows.start < rows.stop and cols.start < cols.stop:
        out[:, rows.start - top : rows.stop - top, cols.start - left : cols.stop - left] = values[:, rows, cols]
    return out


def _warp(pixels: Pixels, target: Target, how: str, nodata: float, same_crs: bool) -> np.ndarray:
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    out = np.full((pixels.values.shape[0], target.side, target.side), nodata, pixels.values.dtype)
    options: dict[str, Any] = {} if same_crs else {"XSCALE": "1", "YSCALE": "1"}
    # Band by band: warped together, GDAL takes a pixel for valid when any of its bands is.
    for source, destination in zip(pixels.values, out, strict=True):
        reproject(
            np.ascontiguousarray(source),
            destination,
            src_transform=pixels.transform,
            src_crs=pixels.crs,
            dst_transform=target.transform,
            dst_crs=pixels.crs if same_crs else f"EPSG:{target.epsg}",
            src_nodata=nodata,
            dst_nodata=nodata,
            resampling=Resampling[how],
            **options,
        )
    return out


def bounds_in(bounds: tuple[float, float, float, float], epsg: int, crs: Any) -> tuple[float, float, float, float]:
    """Bounds of one CRS as the enclosing bounds of another (21 points an edge).

    In degrees, those across 180° go beyond it on the side where their middle is: west stays less than east.
    """
    from rasterio.warp import transform, transform_bounds

    west, south, east, north = transform_bounds(f"EPSG:{epsg}", crs, *bounds, densify_pts=21)
    if west > east:
        middle = [(bounds[0] + bounds[2]) / 2], [(bounds[1] + bounds[3]) / 2]
        (lon,), _ = transform(f"EPSG:{epsg}", crs, *middle)
        west, east = (west, east + 360) if lon > 0 else (west - 360, east)
    return west, south, east, north
