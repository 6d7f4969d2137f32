"""The fixed world grid: square cells of each UTM zone and hemisphere, their names and who owns them.

Columns count from easting 0. Rows count from the equator outwards and are never negative, so that in both hemispheres
the 60 m pixels of Sentinel-2 tiles nest in the cells (DESIGN §3).
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harmonize.problem import Problem

if TYPE_CHECKING:
    import shapely
    from pyproj import Transformer

FALSE_NORTHING_M = 10_000_000
"""Northing of the equator in the southern zones (EPSG:327zz)."""
DEFAULT_SIZE_PX = 120
SOUTH_END, NORTH_END = -80.0, 84.0
"""UTM, and so the MGRS tiling of Sentinel-2, covers these latitudes."""

_NAME = re.compile(r"(?:p(?P<size>\d+)_)?(?P<epsg>32[67]\d\d)_(?P<col>\d+)_(?P<row>\d+)")


@dataclass(frozen=True, order=True)
class Cell:
    """One square of the grid."""

    epsg: int
    col: int
    row: int
    size_px: int = DEFAULT_SIZE_PX

    @property
    def name(self) -> str:
        prefix = "" if self.size_px == DEFAULT_SIZE_PX else f"p{self.size_px}_"
        return f"{prefix}{self.epsg}_{self.col}_{self.row}"

    @property
    def side_m(self) -> int:
        return self.size_px * 10

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """west, south, east, north in metres of the zone."""
        west = self.col * self.side_m
        if is_south(self.epsg):
            north = FALSE_NORTHING_M - self.row * self.side_m
            return west, north - self.side_m, west + self.side_m, north
        south = self.row * self.side_m
        return west, south, west + self.side_m, south + self.side_m


def is_south(epsg: int) -> bool:
    return epsg // 100 == 327


def parse_cell(name: str) -> Cell:
    """The cell of a name such as `32632_500_4167` or `p60_32718_1197_7167`."""
    match = _NAME.fullmatch(name)
    if not match:
        raise Problem(f"'{name}' is not a cell", fix="a cell looks like 32632_500_4167 or p60_32718_1197_7167")
    return Cell(int(match["epsg"]), int(match["col"]), int(match["row"]), int(match["size"] or DEFAULT_SIZE_PX))


def cell_at(epsg: int, easting: float, northing: float, size_px: int = DEFAULT_SIZE_PX) -> Cell:
    """The cell a point of a zone lies in; a point on a southern cell's northern edge belongs to the cell below it."""
    side = size_px * 10
    row = (FALSE_NORTHING_M - northing) // side if is_south(epsg) else northing // side
    return Cell(epsg, int(easting // side), int(row), size_px)


def chip_id(cell: str, sensor: str, datetime_utc: object) -> str:
    """`<cell>_<s1|s2>_<yyyymmddthhmmss>`."""
    return f"{cell}_{sensor}_{datetime_utc:%Y%m%dt%H%M%S}"


def zone_of(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """UTM zone number as MGRS and the Sentinel-2 tiles have it, with Norway's and Svalbard's exceptions.

    lon, lat in degrees, any shape. Source: NGA.STND.0037 (MGRS), the widened zones 32V and 31X, 33X, 35X, 37X.
    """
    lon, lat = np.asarray(lon, float), np.asarray(lat, float)
    wrapped = (lon + 180) % 360 - 180
    zone = np.floor((wrapped + 180) / 6).astype(int) + 1
    zone = np.where((lat >= 56) & (lat < 64) & (wrapped >= 3) & (wrapped < 12), 32, zone)
    svalbard = (lat >= 72) & (lat <= NORTH_END)
    for west, east, number in ((0, 9, 31), (9, 21, 33), (21, 33, 35), (33, 42, 37)):
        zone = np.where(svalbard & (wrapped >= west) & (wrapped < east), number, zone)
    return zone


@functools.lru_cache(maxsize=256)
def transformer(source: int, target: int) -> Transformer:
    """Always x, y order. The cache is per process; pyproj transformers are safe to reuse within a thread."""
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


@functools.lru_cache(maxsize=256)
def is_known(epsg: int) -> bool:
    """Whether there is a CRS of this number."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        CRS.from_epsg(epsg)
    except CRSError:
        return False
    return True


def centres(cells: list[Cell]) -> tuple[np.ndarray, np.ndarray]:
    """lon, lat (degrees) of the centres of cells that share one EPSG."""
    bounds = np.array([c.bounds for c in cells], float).reshape(-1, 4)
    return transformer(cells[0].epsg, 4326).transform(bounds[:, [0, 2]].mean(1), bounds[:, [1, 3]].mean(1))


def cells_of(area: shapely.Geometry, size_px: int) -> list[Cell]:
    """All cells whose centre lies in `area` (EPSG:4326) and whose corners lie in their own zone, sorted.

    Raises Problem where the area lies wholly beyond 80°S or 84°N, where UTM ends.
    """
    import shapely

    covered = _polygons(shapely.intersection(area, shapely.box(-180, SOUTH_END, 180, NORTH_END)))
    if not len(covered):
        raise Problem("the region lies beyond 80°S or 84°N, where the grid ends", fix="choose a region between them")
    found: list[Cell] = []
    for part in covered:
        for epsg in _zones_touching(part):
            found += _cells_of_zone(part, epsg, size_px)
    return sorted(set(found))


def _polygons(area: shapely.Geometry) -> np.ndarray:
    """The polygons of a geometry: where two share an edge as well as ground, their intersection holds lines too."""
    import shapely

    parts = shapely.get_parts(shapely.get_parts(area))
    return parts[shapely.area(parts) > 0]


def _zones_touching(part: shapely.Geometry) -> list[int]:
    west, south, east, north = part.bounds
    lons = np.unique(np.clip(np.append(np.arange(math.floor(west), east + 1, 1.0), [west, east]), west, east))
    lats = np.unique(np.clip(np.append(np.arange(math.floor(south), north + 1, 1.0), [south, north]), south, north))
    lon, lat = np.meshgrid(lons, lats)
    zones = zone_of(lon, np.clip(lat, SOUTH_END, NORTH_END - 1e-9))
    hemispheres = ([327] if south < 0 else []) + ([326] if north >= 0 else [])
    return [h * 100 + int(z) for h in hemispheres for z in np.unique(zones)]


def _cells_of_zone(part: shapely.Geometry, epsg: int, size_px: int) -> list[Cell]:
    import shapely

    zone, side = epsg % 100, size_px * 10
    # Six degrees each side of the zone's own band hold its widened forms; beyond, UTM is not wanted anyway.
    middle = zone * 6 - 183
    half = (-90, 0) if is_south(epsg) else (0, 90)
    clipped = shapely.multipolygons(
        _polygons(shapely.intersection(part, shapely.box(middle - 9, half[0], middle + 9, half[1])))
    )
    if clipped.is_empty:
        return []
    shapely.prepare(clipped)
    outline = shapely.segmentize(clipped, 0.05)
    x, y = transformer(4326, epsg).transform(*shapely.get_coordinates(outline).T)
    y = FALSE_NORTHING_M - y if is_south(epsg) else y
    cols = np.arange(int(x.min() // side) - 1, int(x.max() // side) + 2)
    rows = np.arange(max(0, int(y.min() // side) - 1), int(y.max() // side) + 2)
    col, row = (a.ravel() for a in np.meshgrid(cols, rows))
    col, row = col[col >= 0], row[col >= 0]
    to_degrees = transformer(epsg, 4326)
    north = FALSE_NORTHING_M - row * side if is_south(epsg) else (row + 1) * side
    lon, lat = to_degrees.transform((col + 0.5) * side, north - 0.5 * side)
    keep = shapely.contains_xy(clipped, lon, lat)
    col, row, north = col[keep], row[keep], north[keep]
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        lon, lat = to_degrees.transform((col + dx) * side, north - dy * side)
        inside = (zone_of(lon, lat) == zone) & (lat >= SOUTH_END) & (lat <= NORTH_END)
        col, row, north = col[inside], row[inside], north[inside]
    return [Cell(epsg, int(c), int(r), size_px) for c, r in zip(col, row, strict=True)]
