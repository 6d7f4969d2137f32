"""Which ground a scene's pixels see: its grid may be turned against the place's, or lie between its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.grid import transformer
from pipeline.sandbox.acquisitions import Scene
from pipeline.sandbox.landscape import PIXEL_M, Ground
from pipeline.sandbox.places import Place

STEP_PX = 16
"""Positions in another zone are computed every so many pixels and interpolated between: exact to millimetres."""


@dataclass(frozen=True)
class Pixels:
    """For each 10 m pixel of a scene the row and column of the ground below its centre (nearest)."""

    rows: Any
    cols: Any
    shape: tuple[int, int]

    @classmethod
    def of(cls, scene: Scene, ground: Ground, place: Place) -> Pixels:
        shape = (scene.rows, scene.cols)
        if scene.epsg == place.epsg:
            top = int((ground.north - scene.north + PIXEL_M / 2) // PIXEL_M)
            left = int((scene.west + PIXEL_M / 2 - ground.west) // PIXEL_M)
            return cls(slice(top, top + scene.rows), slice(left, left + scene.cols), shape)
        x, y = home_positions(scene, place)
        rows = ((ground.north - y) // PIXEL_M).astype(np.int32).clip(0, ground.cover.shape[0] - 1)
        cols = ((x - ground.west) // PIXEL_M).astype(np.int32).clip(0, ground.cover.shape[1] - 1)
        return cls(rows, cols, shape)

    def take(self, layer: np.ndarray) -> np.ndarray:
        """A ground layer on the scene's pixels."""
        return np.ascontiguousarray(layer[self.rows, self.cols])

    def take_coarse(self, layer: np.ndarray) -> np.ndarray:
        """A layer at half the ground's resolution on the scene's pixels, equal within each 20 m pixel of the scene."""
        if isinstance(self.rows, slice):
            rows = np.arange(self.rows.start, self.rows.stop) // 2
            cols = np.arange(self.cols.start, self.cols.stop) // 2
            found = layer[np.ix_(rows.clip(max=layer.shape[0] - 1), cols.clip(max=layer.shape[1] - 1))]
        else:
            found = layer[(self.rows // 2).clip(max=layer.shape[0] - 1), (self.cols // 2).clip(max=layer.shape[1] - 1)]
        return found[::2, ::2].repeat(2, 0).repeat(2, 1)[: self.shape[0], : self.shape[1]]


def home_positions(scene: Scene, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Easting and northing, in the place's home zone, of a scene's pixel centres; float64 (rows, cols)."""
    if scene.epsg == place.epsg:
        x = scene.west + PIXEL_M * (np.arange(scene.cols) + 0.5)
        y = scene.north - PIXEL_M * (np.arange(scene.rows) + 0.5)
        return np.broadcast_to(x[None, :], (scene.rows, scene.cols)), np.broadcast_to(
            y[:, None], (scene.rows, scene.cols)
        )
    from scipy.interpolate import RectBivariateSpline

    rows = np.arange(0, scene.rows + STEP_PX, STEP_PX)
    cols = np.arange(0, scene.cols + STEP_PX, STEP_PX)
    col, row = np.meshgrid(cols, rows)
    x, y = transformer(scene.epsg, place.epsg).transform(
        scene.west + PIXEL_M * (col + 0.5), scene.north - PIXEL_M * (row + 0.5)
    )
    fine = np.arange(scene.rows), np.arange(scene.cols)
    return RectBivariateSpline(rows, cols, x)(*fine), RectBivariateSpline(rows, cols, y)(*fine)


def edge_distance(scene: Scene, place: Place) -> np.ndarray | None:
    """Metres from a scene's swath edge, positive inside the swath, (rows, cols); None: the swath covers it all."""
    if scene.edge is None:
        return None
    x, y = home_positions(scene, place)
    line = scene.edge[0] + (y - scene.edge[1]) * lean(scene)
    return (line - x) if scene.edge[2] == "west" else (x - line)


def lean(scene: Scene) -> float:
    """Metres a swath edge moves east for each metre north: ascending orbits lean west, descending ones east."""
    return -0.2 if scene.orbit == "ascending" else 0.2


def seen_side(scene: Scene, place: Place) -> np.ndarray:
    """bool (rows, cols): inside the swath; equal within each 60 m pixel."""
    distance = edge_distance(scene, place)
    if distance is None:
        return np.ones((scene.rows, scene.cols), bool)
    coarse = distance[::6, ::6] > 0
    return coarse.repeat(6, 0).repeat(6, 1)[: scene.rows, : scene.cols]
