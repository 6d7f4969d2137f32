"""Land-cover rasters of the planet: Dynamic World's nine labels at 10 m, CORINE's 44 at 100 m in EPSG:3035.

They agree with the ground up to their own resolution and a little error: ragged edges and wrong patches in Dynamic
World, the most frequent class of each hectare and one wrong pixel in thirty in CORINE.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.grid import transformer
from pipeline.sandbox.landscape import (
    BARE,
    BUILT,
    CROPS,
    GRASS,
    MARSH,
    PIXEL_M,
    SHRUB,
    SNOW,
    TREES,
    WATER,
    Ground,
    above,
    fractal,
    generator,
)  # fmt: skip
from pipeline.sandbox.places import Place, Size

LAEA_EPSG = 3035
CLC_M = 100
CLC_SAMPLE_M = 20
"""A hectare's class is the most frequent one of so many metres' samples."""
CLC_CODES = {
    WATER: (41,), TREES: (23, 24, 25), GRASS: (18, 26), MARSH: (35, 36), CROPS: (12, 20), SHRUB: (27, 28, 29),
    BUILT: (2, 2, 3), BARE: (31, 32), SNOW: (34,),
}  # fmt: skip
"""Raster values (1-44) of CORINE that a class of the ground is mapped as, by parcel (facts: clc_legend.csv)."""


@dataclass(frozen=True)
class Map:
    """A label raster."""

    values: np.ndarray
    """uint8 (rows, cols)."""
    epsg: int
    west: float
    north: float
    resolution_m: int


def dynamic_world(place: Place, size: Size, ground: Ground) -> Map:
    """Labels 0-8 of a place on its home zone's pixels."""
    draw = generator("dynamic world", place.name, size.name)
    labels = np.array(ground.cover)
    rows, cols = np.indices(labels.shape, dtype=np.int32)
    wobble = [np.rint(0.8 * fractal(draw, labels.shape, 3)).astype(np.int32) for _ in range(2)]
    labels = labels[(rows + wobble[0]).clip(0, labels.shape[0] - 1), (cols + wobble[1]).clip(0, labels.shape[1] - 1)]
    wrong = above(fractal(draw, labels.shape, 10), 0.02)
    labels = np.where(wrong, np.roll(labels, (37, 53), (0, 1)), labels)
    return Map(labels.astype(np.uint8), place.epsg, ground.west, ground.north, PIXEL_M)


def corine(place: Place, size: Size, ground: Ground) -> Map:
    """CLC raster values of a place on the European grid of 100 m."""
    west, south, east, north = place.bounds(size)
    corners = transformer(place.epsg, LAEA_EPSG).transform([west, east, east, west], [south, south, north, north])
    left, right = (int(f(corners[0]) // 1000) * 1000 for f in (min, max))
    low, high = (int(f(corners[1]) // 1000) * 1000 for f in (min, max))
    left, low, right, high = left - 1000, low - 1000, right + 2000, high + 2000
    per = CLC_M // CLC_SAMPLE_M
    shape = (high - low) // CLC_SAMPLE_M, (right - left) // CLC_SAMPLE_M
    x, y = np.meshgrid(
        left + CLC_SAMPLE_M * (np.arange(shape[1]) + 0.5), high - CLC_SAMPLE_M * (np.arange(shape[0]) + 0.5)
    )
    there = transformer(LAEA_EPSG, place.epsg).transform(x, y)
    rows = ((ground.north - there[1]) // PIXEL_M).astype(int)
    cols = ((there[0] - ground.west) // PIXEL_M).astype(int)
    inside = (rows >= 0) & (cols >= 0) & (rows < ground.cover.shape[0]) & (cols < ground.cover.shape[1])
    cover = np.full(shape, 255, np.uint8)
    cover[inside] = ground.cover[rows[inside], cols[inside]]
    hectares = cover.reshape(shape[0] // per, per, shape[1] // per, per).transpose(0, 2, 1, 3).reshape(-1, per * per)
    counts = np.stack([(hectares == k).sum(1) for k in range(len(CLC_CODES))], 1)
    most = counts.argmax(1).reshape(shape[0] // per, shape[1] // per)
    draw = generator("corine", place.name, size.name)
    wrong = draw.random(most.shape) < 1 / 30
    most = np.where(wrong, np.roll(most, (2, 3), (0, 1)), most)
    variant = draw.integers(0, 6, most.shape)
    codes = np.zeros(most.shape, np.uint8)
    for kind, choices in CLC_CODES.items():
        codes = np.where(most == kind, np.array(choices, np.uint8)[variant % len(choices)], codes)
    known = counts.sum(1).reshape(most.shape) > per * per // 2
    return Map(np.where(known, codes, 0).astype(np.uint8), LAEA_EPSG, left, high, CLC_M)
