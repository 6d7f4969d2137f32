"""Polygons of any size against many squares: exact areas and distances, by small pieces in a search tree."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.grid import Cell, centres

if TYPE_CHECKING:
    import geopandas
    import shapely

PIECE_VERTICES = 256
"""Polygons are halved until they have no more vertices, so that no square is compared with a whole coast."""
WORLD_GAP = 1e-3
"""Degrees: a rectangle that a person drew to both edges of the map but for this is meant to go around the Earth."""
STEP_M, STEP_DEGREES = 200, 0.002
"""Edges are densified to this before a change of CRS: what is left of their curvature is below a millimetre."""


def polygons_of(area: shapely.Geometry) -> shapely.Geometry:
    """The valid polygons of a geometry as one; points and lines are left out."""
    import shapely

    if area.geom_type.endswith("Polygon") and area.is_valid:
        return area
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(area)))
    return shapely.union_all(parts[shapely.area(parts) > 0])


def cut_at_180(area: shapely.Geometry, gap: float = 0.5) -> shapely.Geometry:
    """An area over the antimeridian in two parts (RFC 7946, 3.1.9); many programs draw it around the whole Earth.

    Such a part is wider than 180 degrees as it stands, and at most 60 once its western longitudes are counted on beyond
    180. A map of the world, drawn as a rectangle from one edge to the other but for a gap (degrees), stays as it is.
    Degrees, -180..180.
    """
    import shapely

    west, _, east, _ = area.bounds if not area.is_empty else (0.0,) * 4
    if east - west <= 180:
        return area
    return shapely.union_all([shapely.make_valid(_part_at_180(part, gap)) for part in shapely.get_parts(area)])


def _part_at_180(part: shapely.Geometry, gap: float) -> shapely.Geometry:
    import shapely

    beyond = shapely.transform(part, lambda xy: xy + [360, 0] * (xy[:, :1] < 0))
    width = np.ptp(beyond.bounds[::2])
    is_world = width < gap and part.area > 0.99 * part.envelope.area
    if np.ptp(part.bounds[::2]) <= 180 or width > 60 or is_world:
        return part
    return turned(shapely.make_valid(beyond))


def turned(area: shapely.Geometry) -> shapely.Geometry:
    """Longitudes of -360..360 into -180..180; what lies across 180° in two parts."""
    import shapely
    from shapely import affinity

    west, _, east, _ = area.bounds if not area.is_empty else (0.0,) * 4
    if west >= -180 and east <= 180:
        return area
    world = shapely.box(-180, -90, 180, 90)
    turns = [affinity.translate(area, turn) for turn in (-360, 0, 360)]
    return shapely.union_all([polygons_of(shapely.intersection(one, world)) for one in turns])


def degrees_of(frame: geopandas.GeoDataFrame) -> shapely.Geometry:
    """The polygons of all features as one valid geometry, EPSG:4326. Self-intersections are mended, overlaps merged;
    what lies across 180° has its parts on both sides."""
    import geopandas
    import shapely

    flat = shapely.force_2d(frame.geometry.values)
    if frame.crs.is_geographic:  # before edges are densified: one from 179 to -179 means 2 degrees
        flat = [cut_at_180(shape, WORLD_GAP) for shape in flat]
    mended = shapely.make_valid(flat)
    # 0.002 degrees are about 200 m; a projected CRS may count in feet.
    unit = frame.crs.axis_info[0].unit_conversion_factor or 1.0
    step = STEP_DEGREES if frame.crs.is_geographic else STEP_M / unit
    dense = geopandas.GeoSeries(shapely.segmentize(mended, step), crs=frame.crs).to_crs(4326)
    return union_of([polygons_of(cut_at_180(shape, WORLD_GAP)) for shape in dense.values])


def union_of(shapes: Sequence[shapely.Geometry]) -> shapely.Geometry:
    """The union of valid polygonal geometries; what touches nothing else is taken as it is.

    GEOS builds all of the result anew, at a cost that grows with it: 30,000 buildings took 17 s, so they take 1 s.
    """
    import shapely
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    whole = [shape for shape in shapes if not shape.is_empty]
    if len(whole) < 2:
        return whole[0] if whole else shapely.Polygon()
    parts = shapely.get_parts(whole)
    one, other = shapely.STRtree(parts).query(parts, predicate="intersects")
    touching = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(parts), len(parts)))
    _, cluster = connected_components(touching, directed=False)
    order = np.argsort(cluster, kind="stable")
    clusters = np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)
    merged = [parts[c[0]] if len(c) == 1 else shapely.union_all(parts[c]) for c in clusters]
    polygons = shapely.get_parts(merged)
    return polygons[0] if len(polygons) == 1 else shapely.multipolygons(polygons)


@dataclass(frozen=True, eq=False)
class Squares:
    """The cells of one zone as squares in its metres."""

    cells: list[Cell]
    polygons: np.ndarray
    lon: np.ndarray
    lat: np.ndarray
    """Of their centres, degrees."""

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def epsg(self) -> int:
        return self.cells[0].epsg

    @property
    def side_m(self) -> int:
        return self.cells[0].side_m

    def bounds(self, margin_m: float) -> tuple[float, float, float, float]:
        """In degrees, and a margin: all that lies so near to one of them is inside."""
        return self._wider((self.lon.min(), self.lat.min(), self.lon.max(), self.lat.max()), margin_m)

    def near(self, bounds: tuple[float, ...], margin_m: float) -> Squares:
        """Those around bounds in degrees, also across the antimeridian: all in the margin, and some farther ones."""
        west, south, east, north = self._wider(bounds, margin_m)
        inside = np.zeros(len(self.lon), bool)
        for turn in (-360, 0, 360):
            inside |= (self.lon + turn >= west) & (self.lon + turn <= east)
        mine = np.flatnonzero(inside & (self.lat >= south) & (self.lat <= north))
        return Squares([self.cells[k] for k in mine], self.polygons[mine], self.lon[mine], self.lat[mine])

    def _wider(self, bounds: tuple[float, ...], margin_m: float) -> tuple[float, float, float, float]:
        west, south, east, north = bounds
        # The margin, half a square's diagonal, and a bit.
        more = (margin_m + self.side_m) * 1.1 / 110_000
        wide = more / max(0.05, float(np.cos(np.radians(max(abs(south), abs(north)) + more))))
        return west - wide, south - more, east + wide, north + more


def squares_of(cells: list[Cell]) -> list[Squares]:
    """The cells by zone."""
    import shapely

    found = []
    for _, group in itertools.groupby(sorted(cells, key=lambda cell: cell.epsg), key=lambda cell: cell.epsg):
        mine = list(group)
        polygons = shapely.box(*np.array([cell.bounds for cell in mine], float).T)
        found.append(Squares(mine, polygons, *centres(mine)))
    return found


class Pieces:
    """A polygonal area cut into small pieces; falsy where it is empty."""

    def __init__(self, area: shapely.Geometry) -> None:
        self._area = area

    def __bool__(self) -> bool:
        return not self._area.is_empty

    @functools.cached_property
    def _tree(self) -> shapely.STRtree:
        import shapely

        return shapely.STRtree(_halved(self._area))

    def areas(self, squares: np.ndarray) -> np.ndarray:
        """Area of each square that is covered, in units of the CRS: float (N,)."""
        import shapely

        square, piece = self._tree.query(squares, predicate="intersects")
        area = shapely.area(shapely.intersection(squares[square], self._tree.geometries[piece]))
        return np.bincount(square, area, len(squares))

    def distances(self, squares: np.ndarray, most: float) -> np.ndarray:
        """Distance from each square, 0 where they touch, inf beyond `most`: float (N,)."""
        found = np.full(len(squares), np.inf)
        if self:
            (square, _), distance = self._tree.query_nearest(
                squares, max_distance=most, return_distance=True, all_matches=False
            )
            found[square] = distance
        return found


def _halved(area: shapely.Geometry) -> list[shapely.Geometry]:
    import shapely

    small, large = [], list(shapely.get_parts(area))
    while large:
        part = large.pop()
        if shapely.get_num_coordinates(part) <= PIECE_VERTICES:
            small.append(part)
            continue
        west, south, east, north = part.bounds
        x, y = (west + east) / 2, (south + north) / 2
        wide = east - west > north - south
        halves = (
            [(west, south, x, north), (x, south, east, north)]
            if wide
            else [(west, south, east, y), (west, y, east, north)]
        )
        for half in halves:
            parts = shapely.get_parts(shapely.get_parts(shapely.intersection(part, shapely.box(*half))))
            large += list(parts[shapely.area(parts) > 0])
    return small
