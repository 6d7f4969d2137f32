"""How a raster is opened: by which of GDAL's drivers, with which options, and what is told where it cannot be."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.manifest import is_there
from pipeline.access import PAID

if TYPE_CHECKING:
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
_ADDRESS = re.compile(r"'?(?:/vsi\w+/|\w+://)[^\s']*'?\s*")


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
    """A raster could not be opened or read; the message says why, without secrets of the address.

    lasting: it was read and is not what is wanted, so that reading it again would not help.
    """

    def __init__(self, message: str, seen: str = "", *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting
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
        raise UnreadableRaster(f"{named(href)}: has several rasters inside", lasting=True)
    if opened.rio.crs is None:
        raise UnreadableRaster(f"{named(href)}: has no CRS", lasting=True)
    _check_sizes(opened, href)
    if opened.rio.transform().b or opened.rio.transform().d:
        raise UnreadableRaster(f"{named(href)}: its rows do not run from west to east", lasting=True)
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
        raise UnreadableRaster(f"{named(href)}: its pixels have no size", lasting=True)
    block = math.prod(blocks.values()) * raster.sizes["band"] * raster.dtype.itemsize
    if block > MOST_BLOCK_BYTES:
        raise UnreadableRaster(
            f"{named(href)}: its blocks have {block >> 20} MiB, more than {MOST_BLOCK_BYTES >> 20}; "
            "write it as a Cloud Optimized GeoTIFF",
            lasting=True,
        )


def check_window(part: xr.DataArray, href: str) -> None:
    """Before it is loaded: a raster may claim more pixels in a chip than there is memory."""
    size = math.prod(part.shape) * part.dtype.itemsize
    if size > MOST_BYTES:
        what = f"{' x '.join(map(str, part.shape))} {part.dtype} pixels in one window, more than {MOST_BYTES >> 30} GiB"
        raise UnreadableRaster(f"{named(href)}: {what}", lasting=True)


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


def short(error: Exception) -> str:
    """The first line of a GDAL message without the address (it may be signed); where it points to another one, that."""
    first = _chain(error)[-1]
    text = str(first) or str(error)
    return _ADDRESS.sub("", text.splitlines()[0]).split("?")[0][:200] if text else type(first).__name__
