"""Contour lines of a field -> the ground where it is at least so high."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from pipeline.shapes import polygons_of

if TYPE_CHECKING:
    import shapely

SNAP_DEGREES = 2e-3
"""Ends of lines that lie this near to each other, or to the map's edge, meet: coordinates are rounded, and a cell of a
ShakeMap's grid is 0.008-0.02 degrees."""
AGREE = 0.98
"""Share of the length of the other contours that must lie on the right side; contours of one field never cross."""


class UnclearContours(Exception):
    """What is wrong with the lines, in words."""


def ground_above(contours: dict[float, shapely.Geometry], level: float) -> shapely.Geometry:
    """Where the field is at least `level`, within the map: polygons. contours: level -> its lines, in degrees.

    Whoever crosses a contour changes sides, and the map's edge is no contour. So every line is closed to a ring, those
    that the map's edge cuts off along that edge (whichever way round), and the places inside an odd number of rings are
    one side, the rest of the map the other: a ring in a ring is a hole, or a peak in a hole. Which of the two sides is
    the high one, all other contours say: higher ones lie in it, lower ones do not. Without any other contour closed
    rings are taken for peaks.

    The map's edge is the box around all lines: where a line is cut off it reaches the edge, and none reaches farther.
    Raises UnclearContours where the lines do not tell.
    """
    import shapely

    box = shapely.box(*shapely.total_bounds(list(contours.values())).tolist())
    lines = shapely.get_parts(shapely.line_merge(contours[level]))
    cut = [line for line in lines if not _is_closed(line)]
    rings = [_ring(line, box) for line in cut]
    rings += [shapely.Polygon(_closed(line)) for line in lines if _is_closed(line) and len(line.coords) > 3]
    area = polygons_of(functools.reduce(shapely.symmetric_difference, map(polygons_of, rings), shapely.Polygon()))
    right, wrong = _votes({value: lines for value, lines in contours.items() if value != level}, level, area)
    if right + wrong == 0 and cut:
        raise UnclearContours("a line is cut off by the map's edge, and no other contour says which side is higher")
    if max(right, wrong) < AGREE * (right + wrong):
        share = min(right, wrong) / (right + wrong)
        raise UnclearContours(
            f"{share:.0%} of the other contours lie on the wrong side of it: lines cross, or one lacks"
        )
    if right < wrong:
        area = polygons_of(shapely.difference(box, area))
    _check_edges(area, contours, level, box)
    return area


def _check_edges(
    area: shapely.Geometry, contours: dict[float, shapely.Geometry], level: float, box: shapely.Geometry
) -> None:
    """High ground may end where the map does: on a side at which some line is cut off. On any other side of the box the
    lines end and the map may go on. An end in a corner says nothing: it may be the corner because it ends there."""
    import shapely

    sides = _sides(np.array(box.exterior.coords))
    lines = [line for mine in contours.values() for line in shapely.get_parts(shapely.line_merge(mine))]
    ends = [shapely.Point(line.coords[k]) for line in lines if not _is_closed(line) for k in (0, -1)]
    at = np.array([shapely.dwithin(side, ends, SNAP_DEGREES) for side in sides.values()], bool)
    cut = [bool(row.any()) for row in at[:, at.sum(0) == 1]]
    free = shapely.difference(shapely.boundary(area), shapely.buffer(contours[level], SNAP_DEGREES / 10))
    for (name, side), is_cut in zip(sides.items(), cut, strict=True):
        reached = shapely.intersection(free, shapely.buffer(side, SNAP_DEGREES / 10)).length > 2 * SNAP_DEGREES
        if reached and not is_cut:
            raise UnclearContours(f"the high ground reaches the lines' end in the {name}, and the map may go on there")


def _sides(corners: np.ndarray) -> dict[str, shapely.Geometry]:
    """The sides of a box, by its corners."""
    import shapely

    (west, south), (east, north) = corners.min(0), corners.max(0)
    ring = [(east, south), (east, north), (west, north), (west, south), (east, south)]
    return {name: shapely.LineString(ring[k : k + 2]) for k, name in enumerate(("east", "north", "west", "south"))}


def _votes(others: dict[float, shapely.Geometry], level: float, area: shapely.Geometry) -> tuple[float, float]:
    """Length of the other contours that is where it should be if `area` is the high side, and of the rest."""
    import shapely

    right = wrong = 0.0
    for value, lines in others.items():
        inside = shapely.intersection(lines, area).length
        high, low = inside, lines.length - inside
        right, wrong = (right + high, wrong + low) if value > level else (right + low, wrong + high)
    return right, wrong


def _is_closed(line: shapely.Geometry) -> bool:
    first, last = np.array(line.coords)[[0, -1], :2]
    return bool(np.hypot(*(first - last)) <= SNAP_DEGREES)


def _closed(line: shapely.Geometry) -> np.ndarray:
    xy = np.array(line.coords)[:, :2]
    return np.vstack([xy, xy[:1]])


def _ring(line: shapely.Geometry, box: shapely.Geometry) -> shapely.Geometry:
    """An open line, closed along the map's edge."""
    import shapely
    from shapely import ops

    xy = np.array(line.coords)[:, :2]
    edge = box.exterior
    for end in (xy[0], xy[-1]):
        if shapely.distance(shapely.Point(end), edge) > SNAP_DEGREES:
            raise UnclearContours(f"a line of it ends inside the map, at {end[0]:.3f} east, {end[1]:.3f} north")
    first, last = (shapely.line_locate_point(edge, shapely.Point(end)) for end in (xy[0], xy[-1]))
    along = np.array(ops.substring(edge, last, first).coords)
    return shapely.Polygon(np.vstack([xy, along, xy[:1]]))
