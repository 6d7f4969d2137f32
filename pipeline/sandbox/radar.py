"""Sentinel-1 RTC: gamma0 of the ground on a day, with speckle, slopes, zeros at the swath's edge and nodata beyond."""

from __future__ import annotations

import functools

import numpy as np

from pipeline.sandbox.acquisitions import Scene
from pipeline.sandbox.landscape import BUILT, Ground, generator
from pipeline.sandbox.optical import State
from pipeline.sandbox.places import Place
from pipeline.sandbox.sampling import Pixels, edge_distance
from pipeline.sandbox.signatures import KIND, signatures

ENL = 4.4
"""Equivalent number of looks of IW GRDH, `sar:looks_equivalent_number` of real items."""
NODATA = -32768.0
NOISE_FLOOR = 10 ** (-2.7)
ZERO_BORDER_M = 400
"""Beyond the swath's edge zeros come first, unmarked, then nodata (Planetary Computer discussions 307, 493)."""
SPECKLE_DB = 2.2
"""Standard deviation of Gamma(4.4) speckle in dB."""
PARTS = {"patch": 0.8, "own": 0.58, "scene": 0.15}
"""What the spread of a kind beside speckle is made of; squares sum to 1. Scenes are calibrated: they differ little."""
TABLE_STEPS = 500
MANTISSA_BITS = 11
"""Kept of float32's 23: an error below 0.002 dB, so that files compress."""


def render(scene: Scene, place: Place, ground: Ground, state: State) -> dict[str, np.ndarray]:
    """float32 linear power of VV and VH at 10 m."""
    pixels = Pixels.of(scene, ground, place)
    first, second, weight = (pixels.take(layer) for layer in (state.first, state.second, state.weight))
    vigour = pixels.take(ground.vigour).astype(np.float32)
    draw = generator("radar", scene.place, scene.number)
    mood = draw.standard_normal(3).astype(np.float32)
    slope = np.gradient(pixels.take(ground.height).astype(np.float32), 10.0, axis=1)
    towards = np.clip(slope, -0.4, 0.4) * (6 if scene.orbit == "ascending" else -6)
    bright = _bright_spots(first, draw)
    distance = edge_distance(scene, place)
    tint = pixels.take(ground.tint).astype(np.float32)
    own = {"VV": tint, "VH": 0.6 * tint + 0.8 * vigour[::-1, ::-1]}
    found = {}
    for name, table in (("VV", signatures().vv), ("VH", signatures().vh)):
        spread = _spread_db(table[:, 1])[first]
        water = first == KIND["water"]
        # Wind roughens all water of a scene alike; elsewhere patches differ and the scene hardly matters.
        patch = np.where(water, mood[2], vigour)
        common = np.where(water, vigour, mood[1])
        level = table[first, 0] * (1 - weight) + table[second, 0] * weight
        level += spread * (PARTS["patch"] * patch + PARTS["own"] * own[name] + PARTS["scene"] * common)
        level += towards + 0.3 * mood[0] + bright
        power = 10 ** (level / 10) + NOISE_FLOOR
        power = _rounded((power * speckle(draw, first.shape)).astype(np.float32))
        if distance is not None:
            power[distance < 0] = 0.0
            power[distance < -ZERO_BORDER_M] = NODATA
        found[name] = power
    return found


def _spread_db(measured: np.ndarray) -> np.ndarray:
    """Spread of each kind's patches in dB: the table's was measured on pixels, so speckle is part of it already.

    Never less than half of the table's, so that with speckle on top pixels spread at least as wide as was measured.
    """
    return np.maximum(np.sqrt(np.maximum(measured**2 - SPECKLE_DB**2, 0)), measured / 2)


def _bright_spots(kind: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Extra dB of single buildings that face the radar: 2 % of built pixels, 5-15 dB."""
    spots = (draw.random(kind.shape, dtype=np.float32) < 0.02) & np.isin(kind, (BUILT, KIND["damaged"]))
    return np.where(spots, draw.uniform(5, 15, kind.shape).astype(np.float32), np.float32(0))


def speckle(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Multiplicative speckle of mean 1: Gamma(ENL) at every pixel, neighbours alike as in 20 m cells."""
    import scipy.ndimage

    field = scipy.ndimage.gaussian_filter(draw.standard_normal(shape, dtype=np.float32), 0.6, truncate=3)
    steps = (field * np.float32(TABLE_STEPS / field.std()) + np.float32(5 * TABLE_STEPS + 0.5)).astype(np.int32)
    return _gamma_table()[steps.clip(0, 10 * TABLE_STEPS)]


@functools.cache
def _gamma_table() -> np.ndarray:
    """Gamma(ENL) values of mean 1 at the probabilities of normal values from -5 to 5, in TABLE_STEPS steps to 1."""
    from scipy.stats import gamma, norm

    quantiles = np.linspace(-5, 5, 10 * TABLE_STEPS + 1)
    return (gamma.ppf(norm.cdf(quantiles), ENL) / ENL).astype(np.float32)


def _rounded(power: np.ndarray) -> np.ndarray:
    """Values with the low bits of their mantissa rounded off."""
    drop = 23 - MANTISSA_BITS
    bits = power.view(np.uint32) + np.uint32(1 << (drop - 1))
    return (bits & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)).view(np.float32)
