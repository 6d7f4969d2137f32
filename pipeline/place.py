"""Where a region is: its bounds, geometry file or MGRS tiles as one geometry in EPSG:4326."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harmonize.problem import Problem
from pipeline.event_area import check_degrees
from pipeline.grid import FALSE_NORTHING_M, transformer, zone_of
from pipeline.region import Region
from pipeline.shapes import WORLD_GAP, cut_at_180, degrees_of, turned

if TYPE_CHECKING:
    import shapely

MOST_CELLS = 20_000_000
"""Of one region: all of Europe has 7 million of the default size."""
EARTH_RADIUS_M = 6_371_007
"""Of the sphere with the Earth's area (authalic)."""
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
_COLUMNS = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
TILE_M = 109_800
"""Side of a Sentinel-2 tile: its square and 9.8 km more to the east and south."""


def area_of(region: Region) -> shapely.Geometry:
    """The region's geometry, EPSG:4326."""
    import shapely

    if region.bounds is not None:
        west, south, east, north = region.bounds
        area = shapely.box(west, south, east, north)
        if west > east:
            area = shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))
    elif region.mgrs is not None:
        area = shapely.union_all([mgrs_square(tile, region) for tile in region.mgrs])
    else:
        area = _from_file(region)
    _check_size(area, region)
    return area


def _check_size(area: shapely.Geometry, region: Region) -> None:
    """Before anything is asked of an archive: cells are held in memory, and a world of them is none of one region."""
    import numpy as np
    import shapely

    # Longitude against the sine of latitude keeps areas (Lambert's cylindrical equal-area projection).
    flat = shapely.transform(area, lambda xy: np.column_stack([np.radians(xy[:, 0]), np.sin(np.radians(xy[:, 1]))]))
    count = flat.area * EARTH_RADIUS_M**2 / (region.size_px * 10) ** 2
    if count > MOST_CELLS:
        raise Problem(
            f"the region has {count:.2g} cells of {region.size_px * 10} m, more than {MOST_CELLS:.0e}",
            where=str(region.path),
            fix="make it smaller, build it as several regions, or take a larger size_px",
        )


def _from_file(region: Region) -> shapely.Geometry:
    import shapely

    from pipeline.vector import read_vector

    path = region.relative(region.geometry or "")
    where = f"{region.path}, key 'geometry'"
    frame = read_vector(path, where=where)
    if frame.crs.is_geographic and (abs(frame.total_bounds[::2]) <= 360).all():
        # Programs that draw across the antimeridian go on counting: 179, 180, 181.
        frame = frame.set_geometry([turned(shape) for shape in shapely.force_2d(frame.geometry.values)], crs=frame.crs)
    check_degrees(frame, path, where)
    area = degrees_of(frame)
    if area.is_empty or area.area == 0:
        raise Problem("the geometry has no area", where=str(path), fix="give polygons, not points or lines")
    return area


def mgrs_square(tile: str, region: Region) -> shapely.Geometry:
    """The 100 km square of an MGRS tile such as 32TQR (Sentinel-2 tiles reach 9.8 km further east and south).

    Squares, not tiles, so that naming two neighbours asks for no ground twice. One across 180° is in two parts.
    """
    import numpy as np
    import shapely

    epsg, west, south = mgrs_corner(tile, f"{region.path}, key 'mgrs'")
    square = shapely.segmentize(shapely.box(west, south, west + 100_000, south + 100_000), 5_000)
    degrees = shapely.transform(square, lambda xy: np.column_stack(transformer(epsg, 4326).transform(*xy.T)))
    return cut_at_180(degrees, WORLD_GAP)


def mgrs_corner(tile: str, where: str) -> tuple[int, float, float]:
    """EPSG, easting and northing of the lower left corner of an MGRS tile's 100 km square. Source: NGA.STND.0037."""
    import numpy as np

    match = re.fullmatch(r"T?(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])", tile.upper())
    if not match or not 1 <= int(match[1]) <= 60:
        raise Problem(f"'{tile}' is not an MGRS tile", where=where, fix="a tile looks like 32TQR")
    zone, band = int(match[1]), match[2]
    letters = _COLUMNS[(zone - 1) % 3]
    if match[3] not in letters:
        fix = f"columns of zone {zone} are {letters}"
        raise Problem(f"'{tile}' does not exist", where=where, fix=fix)
    west = (letters.index(match[3]) + 1) * 100_000
    first = (_ROWS.index(match[4]) - (5 if zone % 2 == 0 else 0)) % 20 * 100_000
    south_hemisphere = band < "N"
    epsg = (32700 if south_hemisphere else 32600) + zone
    # Row letters repeat every 2,000 km; the latitude band says which repetition is meant.
    low = -80 + 8 * _BANDS.index(band)
    high = low + (12 if band == "X" else 8)
    middle = zone * 6 - 183
    to_utm = transformer(4326, epsg)
    bottom, top = (to_utm.transform(middle, lat)[1] for lat in (low, high))
    candidates = np.arange(first, FALSE_NORTHING_M + 1, 2_000_000)
    overlap = np.minimum(candidates + 100_000, top) - np.maximum(candidates, bottom)
    south = float(candidates[np.argmax(overlap)])
    if not _reaches(epsg, west, south, low, high):
        fix = f"its square has no ground in zone {zone} and band {band}: check the letters"
        raise Problem(f"'{tile}' does not exist", where=where, fix=fix)
    return epsg, float(west), south


def _reaches(epsg: int, west: float, south: float, low: float, high: float) -> bool:
    """Whether a tile, which is wider than its square, has ground in its zone and between two latitudes (degrees)."""
    import numpy as np

    x, y = np.meshgrid(np.linspace(west, west + TILE_M, 23), np.linspace(south + 100_000 - TILE_M, south + 100_000, 23))
    lon, lat = transformer(epsg, 4326).transform(x, y)
    return bool(((zone_of(lon, lat) == epsg % 100) & (lat >= low) & (lat <= high)).any())
