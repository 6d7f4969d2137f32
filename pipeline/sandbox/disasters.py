"""Where each disaster of a place is: its mask on the ground, its outline and analysed extent as polygons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.sandbox.landscape import BARE, BUILT, MARGIN_M, PIXEL_M, SNOW, WATER, Ground, fractal, generator
from pipeline.sandbox.places import Disaster, Place, Size

if TYPE_CHECKING:
    import shapely


@dataclass(frozen=True)
class Scar:
    """A disaster on the ground of its place."""

    disaster: Disaster
    mask: np.ndarray
    """bool, as the ground's arrays: the pixels that look different."""
    outline: shapely.Geometry
    """What is published: the mask as polygons, smaller than 0.3 ha left out; metres of the home zone."""
    analysed: shapely.Geometry | None


def scars_of(place: Place, size: Size, ground: Ground) -> list[Scar]:
    """The disasters of a place, drawn on its ground."""
    return [_scar(disaster, place, size, ground) for disaster in place.disasters]


def _scar(disaster: Disaster, place: Place, size: Size, ground: Ground) -> Scar:
    import shapely

    mask = _mask(disaster, place, size, ground)
    outline = shapely.union_all(_polygons(mask, ground))
    west, south, _, _ = place.bounds(size)
    middle = west + disaster.at[0] * size.side_m, south + disaster.at[1] * size.side_m
    return Scar(disaster, mask, outline, _analysed(disaster, outline, middle))


def _mask(disaster: Disaster, place: Place, size: Size, ground: Ground) -> np.ndarray:
    """Pixels inside a ragged circle that the disaster can touch."""
    shape, cover = ground.cover.shape, ground.cover
    reach = (size.margin_m + MARGIN_M) // PIXEL_M
    side = size.side_m // PIXEL_M
    cols = (np.arange(shape[1]) - reach) / side - disaster.at[0]
    rows = (shape[0] - 1 - reach - np.arange(shape[0])) / side - disaster.at[1]
    ragged = fractal(generator("event", disaster.id, size.name), shape, 60, 0.8)
    inside = np.hypot(cols[None, :], rows[:, None]) < disaster.radius * (1 + 0.15 * ragged)
    if disaster.kind == "fire":
        return inside & ~np.isin(cover, (WATER, BUILT, BARE, SNOW))
    if disaster.kind == "earthquake":
        return inside & (cover == BUILT) & (ragged > -0.9)
    return _flooded(inside & ~np.isin(cover, (WATER, BUILT, SNOW)), cover == WATER, ragged)


def _flooded(candidates: np.ndarray, water: np.ndarray, ragged: np.ndarray) -> np.ndarray:
    """The half of the candidates that lies nearest to open water, with a ragged edge."""
    import scipy.ndimage

    distance = scipy.ndimage.distance_transform_edt(~water).astype(np.float32) + 12 * ragged
    return candidates & (distance < np.quantile(distance[candidates], 0.55)) if candidates.any() else candidates


def _polygons(mask: np.ndarray, ground: Ground) -> list[Any]:
    import rasterio.features
    import shapely
    from affine import Affine

    transform = Affine(PIXEL_M, 0, ground.west, 0, -PIXEL_M, ground.north)
    found = rasterio.features.shapes(mask.astype(np.uint8), mask=mask, transform=transform)
    shapes = [shapely.geometry.shape(geometry) for geometry, _ in found]
    return [shape for shape in shapes if shape.area >= 3_000]


def _analysed(disaster: Disaster, outline: shapely.Geometry, middle: tuple[float, float]) -> shapely.Geometry | None:
    """A turned rectangle around the outline; a `cut` one ends at the middle of the event."""
    import shapely
    from shapely import affinity

    if disaster.analysed == "none" or outline.is_empty:
        return None
    west, south, east, north = outline.bounds
    room = 400 + 0.1 * (east - west)
    right = middle[0] if disaster.analysed == "cut" else east + room
    rectangle = shapely.box(west - room, south - room, right, north + room)
    return affinity.rotate(rectangle, 7, origin=middle)
