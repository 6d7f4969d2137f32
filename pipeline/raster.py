"""Rasters: the only module that opens them. A strip of a scene comes in as xarray, a chip goes out as numpy.

A strip is an `xarray.Dataset` with one DataArray (band, y, x) per native resolution, CRS and transform on `.rio`.
Chips are cut from strips: copied where the pixel lattices agree, resampled from the in-memory strip elsewhere.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.access import PAID, is_there

if TYPE_CHECKING:
    import rasterio.crs
    import xarray as xr
    from affine import Affine

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MULTIRANGE": "SERIAL",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "CPL_VSIL_CURL_CACHE_SIZE": "134217728",
    "GDAL_CACHEMAX": 256,
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_LOW_SPEED_TIME": "20",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
}
"""For remote COGs: no directory listings, few and retried range requests (GDAL user manual, configuration options).

Several ranges of one request (MULTIRANGE=YES) would not be tried again (OSGeo/gdal#12933), so they are asked for one by
one. What is no good after GDAL's tries, `remote.read` tries again as a whole. Slower than 1 kB/s for 20 s is a stall.
"""

DRIVERS = {"GTiff": "GeoTIFF", "JP2OpenJPEG": "JPEG 2000", "HFA": "Erdas Imagine", "AAIGrid": "Arc/Info ASCII Grid"}
"""Formats that are read: those that hold pixels. A VRT, or what else GDAL opens by its text or name, names other files
and addresses, and gives their bytes as pixels."""
MOST_BYTES = 2 << 30
"""Of one window with all its bands: a strip over a whole tile has 22 MB a band, a window of a 1 m label map 1.5 GB."""
MOST_BLOCK_BYTES = 256 << 20
"""Of one block with all its bands, which GDAL reads whole for any pixel of it; a whole tile as one block has 241 MB."""
LATTICE_TOLERANCE_PX = 1e-3
"""Lattices that agree to a thousandth of a pixel are one lattice: catalogues write transforms with float noise."""
MARGIN_PX = 3
"""Pixels read around what is asked, so that a kernel at the edge of a chip sees its neighbours."""


@dataclass(frozen=True)
class Header:
    """What a raster says of itself without reading a pixel."""

    epsg: int | None
    transform: Affine
    shape: tuple[int, int]
    bounds: tuple[float, float, float, float]


def options_of(href: str) -> tuple[str, dict[str, Any]]:
    """The name GDAL opens, and GDAL's options for it: an address marked PAID is read at the reader's cost, and one with
    a fragment (`remote.read`) as it stands, since rasterio would drop it."""
    if "#" in href and href.startswith(("http://", "https://")):
        return f"/vsicurl/{href}", GDAL_OPTIONS
    if href.startswith(PAID):
        return href.removeprefix(PAID), GDAL_OPTIONS | {"AWS_REQUEST_PAYER": "requester"}
    return href, GDAL_OPTIONS


def named(href: str) -> str:
    """A raster's file name for messages, without the query string that may sign it."""
    plain = href.partition("?")[0]
    return Path(plain.partition("#")[0] if "://" in plain else plain).name


class UnreadableRaster(Exception):
    """A raster could not be opened or read; the message says why, without secrets of the address."""

    def __init__(self, message: str, seen: str = "") -> None:
        super().__init__(message)
        self.seen = seen or message
        """All that was said on the way, for a program to look at; it may hold secrets."""


def unreadable(href: str, error: Exception, more: str = "") -> UnreadableRaster:
    """What GDAL could not open or read."""
    return UnreadableRaster(f"{named(href)}: {short(error)}{more}", "\n".join(map(str, _chain(error))))


def _chain(error: BaseException) -> list[BaseException]:
    """An error and those it came from, the first one last."""
    found = [error]
    while (before := found[-1].__cause__ or found[-1].__context__) and before not in found:
        found.append(before)
    return found


def open_raster(href: str) -> xr.DataArray:
    """A raster as a lazy DataArray (band, y, x); nothing is read yet, nothing is cached or locked."""
    import rasterio
    import rasterio.errors
    import xarray

    name, options = options_of(href)
    try:
        with rasterio.Env(**options):
            opened = _opened(name)
    except rasterio.errors.RasterioIOError as error:
        raise unreadable(href, error, _is_text(name)) from None
    except (ValueError, OverflowError, MemoryError) as error:  # NUL in a name; sizes that no array has
        raise unreadable(href, error) from None
    if not isinstance(opened, xarray.DataArray):
        raise UnreadableRaster(f"{named(href)}: has several rasters inside")
    if opened.rio.crs is None:
        raise UnreadableRaster(f"{named(href)}: has no CRS")
    _check_sizes(opened, href)
    if opened.rio.transform().b or opened.rio.transform().d:
        raise UnreadableRaster(f"{named(href)}: its rows do not run from west to east")
    return opened


def _opened(name: str) -> Any:
    """By the first of DRIVERS that knows it: rasterio takes one at a time."""
    import rasterio.errors
    import rioxarray

    for driver in DRIVERS:
        try:
            return rioxarray.open_rasterio(name, cache=False, lock=False, driver=driver)
        except rasterio.errors.RasterioIOError as error:
            if driver == list(DRIVERS)[-1] or "not recognized" not in str(error):
                raise
    raise AssertionError("there is no driver")


def _check_sizes(raster: xr.DataArray, href: str) -> None:
    transform, blocks = raster.rio.transform(), raster.encoding.get("preferred_chunks", {})
    if not all(map(math.isfinite, transform[:6])) or transform.is_degenerate:
        raise UnreadableRaster(f"{named(href)}: its pixels have no size")
    block = math.prod(blocks.values()) * raster.sizes["band"] * raster.dtype.itemsize
    if block > MOST_BLOCK_BYTES:
        raise UnreadableRaster(
            f"{named(href)}: its blocks have {block >> 20} MiB, more than {MOST_BLOCK_BYTES >> 20}; "
            "write it as a Cloud Optimized GeoTIFF"
        )


def check_window(part: xr.DataArray, href: str) -> None:
    """Before it is loaded: a raster may claim more pixels in a chip than there is memory."""
    size = math.prod(part.shape) * part.dtype.itemsize
    if size > MOST_BYTES:
        what = f"{' x '.join(map(str, part.shape))} {part.dtype} pixels in one window, more than {MOST_BYTES >> 30} GiB"
        raise UnreadableRaster(f"{named(href)}: {what}")


def _is_text(name: str) -> str:
    """What else to say of a file that is no raster: it may be one that names rasters."""
    path = Path(name)
    if "://" in name or not is_there(path) or not path.is_file():
        return ""
    with path.open("rb") as file:
        start = file.read(1024).lstrip()
    said = f" (read are {', '.join(DRIVERS.values())}; a VRT is not: write what it shows into a GeoTIFF)"
    return said if start.startswith(b"<") else ""


def forget(href: str) -> None:
    """Drop what GDAL keeps of a file in a bucket: opened with this option, it is forgotten when it is closed."""
    import rasterio
    import rasterio.errors

    name, options = options_of(href)
    scheme, _, path = name.partition("://")
    options = options | {"CPL_VSIL_CURL_NON_CACHED": f"/vsi{scheme}/{path}", "GDAL_HTTP_MAX_RETRY": "0"}
    with rasterio.Env(**options), contextlib.suppress(rasterio.errors.RasterioIOError):
        rasterio.open(name, driver="GTiff").close()


def header(href: str) -> Header:
    """CRS, transform and shape of a raster."""
    with open_raster(href) as raster:
        crs = raster.rio.crs
        return Header(crs.to_epsg(), raster.rio.transform(), (raster.rio.height, raster.rio.width), raster.rio.bounds())


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
            raise UnreadableRaster(f"{named(href)}: has {raster.rio.count} bands, and one is wanted")
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


_ADDRESS = re.compile(r"'?(?:/vsi\w+/|\w+://)[^\s']*'?\s*")


def short(error: Exception) -> str:
    """The first line of a GDAL message without the address (it may be signed); where it points to another one, that."""
    first = _chain(error)[-1]
    text = str(first) or str(error)
    return _ADDRESS.sub("", text.splitlines()[0]).split("?")[0][:200] if text else type(first).__name__


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
