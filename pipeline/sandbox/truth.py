"""The answers: what is on the ground of every cell, in every scene and of every event. For tests alone.

Computed from the ground's own arrays and pyproj, without GDAL and without any code of the stages but the grid's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harmonize.vocabulary import LAND_COVER
from pipeline.grid import Cell, cells_of, transformer
from pipeline.sandbox.acquisitions import Scene
from pipeline.sandbox.disasters import Scar
from pipeline.sandbox.landscape import PIXEL_M, Ground
from pipeline.sandbox.places import Place, Size

CLOUDED = (3, 8, 9, 10)
SAMPLE_M = 20


def place_outline(place: Place, size: Size) -> Any:
    """A place's square in degrees."""
    import shapely

    square = shapely.segmentize(shapely.box(*place.bounds(size)), size.side_m / 8)
    return shapely.transform(square, lambda xy: np.column_stack(transformer(place.epsg, 4326).transform(*xy.T)))


def cells_in(place: Place, size: Size) -> list[Cell]:
    return cells_of(place_outline(place, size), size.size_px)


def _positions(cell: Cell, step_m: int, epsg: int) -> tuple[np.ndarray, np.ndarray]:
    """Easting and northing, in `epsg`, of the centres of a cell's pixels of `step_m`, (n, n), north up."""
    west, south, east, north = cell.bounds
    x, y = np.meshgrid(np.arange(west + step_m / 2, east, step_m), np.arange(north - step_m / 2, south, -step_m))
    return (x, y) if cell.epsg == epsg else transformer(cell.epsg, epsg).transform(x, y)


def cell_rows(place: Place, size: Size, ground: Ground, scars: Sequence[Scar]) -> list[dict[str, Any]]:
    """Per cell: share of each land-cover class, and of each event's mask, by its 10 m pixels."""
    rows = []
    for cell in cells_in(place, size):
        x, y = _positions(cell, PIXEL_M, place.epsg)
        where = ((ground.north - y) // PIXEL_M).astype(int), ((x - ground.west) // PIXEL_M).astype(int)
        shares = np.bincount(ground.cover[where].ravel(), minlength=len(LAND_COVER)) / x.size
        touched = {scar.disaster.id: float(scar.mask[where].mean()) for scar in scars}
        rows.append(
            {
                "cell": cell.name,
                "place": place.name,
                "cover": [float(s) for s in shares],
                "events": [{"event": name, "share": share} for name, share in sorted(touched.items()) if share > 0],
            }
        )
    return rows


def scene_rows(
    scene: Scene, place: Place, size: Size, classes: np.ndarray | None, valid: np.ndarray
) -> list[dict[str, Any]]:
    """Per cell that a scene touches: share without data (20 m sampling), and for S2 share of cloud, shadow and cirrus.

    classes: SCL (20 m); valid: bool (10 m), of the scene's own grid.
    """
    rows = []
    for cell in cells_in(place, size):
        x, y = _positions(cell, SAMPLE_M, scene.epsg)
        r, c = ((scene.north - y) // SAMPLE_M).astype(int), ((x - scene.west) // SAMPLE_M).astype(int)
        inside = (r >= 0) & (c >= 0) & (r < scene.rows // 2) & (c < scene.cols // 2)
        seen = np.zeros(x.shape, bool)
        seen[inside] = valid[::2, ::2][r[inside], c[inside]]
        if not seen.any():
            continue
        cloud = None
        if classes is not None:
            codes = np.zeros(x.shape, np.uint8)
            codes[inside] = classes[r[inside], c[inside]]
            cloud = float(np.isin(codes, CLOUDED).mean())
        rows.append({"cell": cell.name, "scene": scene.id, "nodata": float(1 - seen.mean()), "cloud": cloud})
    return rows
