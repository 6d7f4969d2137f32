"""Sentinel-2: the ground on a day as reflectance, clouds with their shadows, the scene classes that go with them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.sample import CANONICAL_BANDS, GROUPS
from pipeline.sandbox.acquisitions import Scene
from pipeline.sandbox.disasters import Scar
from pipeline.sandbox.landscape import BARE, CROPS, Ground, fractal, generator
from pipeline.sandbox.places import Place, Size
from pipeline.sandbox.sampling import Pixels, seen_side
from pipeline.sandbox.signatures import KIND, crop_growth, seasonal_means, signatures

PARTS = {"patch": 0.8, "tint": 0.45, "scene": 0.2, "pixel": 0.35}
"""Standard deviation of a kind's reflectance in parts whose squares sum to 1: what the table's spread is made of."""
VEGETATION = ("trees", "grass", "flooded vegetation", "crops growing")


@dataclass(frozen=True)
class State:
    """What the ground is on a day: a mix of two kinds, (1 - weight) of `first` and weight of `second`."""

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray


def state_of(ground: Ground, scars: Sequence[Scar], place: Place, day: dt.date) -> State:
    """The kinds on a place's ground on a day: crops grow, fields flood, forests burn and grow again."""
    first = np.array(ground.cover)
    if place.name == "delta":
        first[first == BARE] = KIND["sand"]
    second = np.where(first == CROPS, KIND["crops growing"], first).astype(np.uint8)
    chance = generator("crop", place.name).random(65_536)
    green = crop_growth(chance, day.month, place.epsg // 100 == 327).astype(np.float32)
    weight = np.where(first == CROPS, green[ground.parcel], np.float32(0))
    for scar in scars:
        age = (day - scar.disaster.start).days
        if age >= 0:
            _scarred(scar, age, first, second, weight, ground)
    return State(first, second, weight)


def _scarred(scar: Scar, age: int, first: np.ndarray, second: np.ndarray, weight: np.ndarray, ground: Ground) -> None:
    """Change the ground where a disaster was `age` days ago."""
    kind = scar.disaster.kind
    if kind == "flood":
        # Water goes field by field: after three weeks nothing is left of it.
        left = max(0.0, min(1.0, (24 - age) / 14))
        wet = scar.mask & (generator("drain", scar.disaster.id).random(65_536)[ground.parcel] < left)
        first[wet] = second[wet] = KIND["flooded"]
        weight[wet] = 0
        return
    mask, days = scar.mask, {"fire": 350, "earthquake": 150}[kind]
    second[mask] = KIND["grass"] if kind == "fire" else KIND["built"]
    first[mask] = KIND["burned"] if kind == "fire" else KIND["damaged"]
    weight[mask] = 1 - np.exp(-age / days)


@dataclass(frozen=True)
class Weather:
    """Clouds over a place's ground at 20 m: `cover` is how opaque (0-1), `shadow` where the sun does not come."""

    cover: np.ndarray
    shadow: np.ndarray


def weather_of(place: Place, size: Size, number: int, ground: Ground) -> Weather:
    """Clouds of one pass; every tile of the pass sees the same ones."""
    draw = generator("weather", place.name, size.name, number)
    shape = (ground.cover.shape[0] // 2, ground.cover.shape[1] // 2)
    large = 0.25 + 0.75 * min(1.0, size.side_m / 18_000)
    field = fractal(draw, shape, 110 * large, 0.8)
    share = draw.choice([0.0, 0.06, 0.14, 0.26], p=[0.2, 0.35, 0.3, 0.15])
    edge = np.quantile(field, 1 - share) if share else np.inf
    cover = np.clip((field - edge) / 0.5 + 0.05, 0, 1) * (field > edge)
    height_px = int(draw.integers(20, 45) * large)
    shadow = np.zeros(shape, bool)
    shadow[: shape[0] - height_px, : shape[1] - height_px // 2] = (cover > 0.3)[height_px:, height_px // 2 :]
    return Weather(cover.astype(np.float32), shadow & (cover < 0.08))


def render(
    scene: Scene, place: Place, size: Size, ground: Ground, state: State, weather: Weather
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """DN of every band at its native resolution, and the scene classes (SCL) at 20 m.

    uint16 (H, W) by band; 0 outside the swath. Clouds cover the ground, shadows darken it, the scene classes say so.
    """
    pixels = Pixels.of(scene, ground, place)
    seen = seen_side(scene, place)
    draw = generator("pixels", scene.place, scene.number, scene.tile or "")
    means = seasonal_means(scene.when.month, place.dry_months, cold=place.name == "boreal")
    mix = [pixels.take(layer) for layer in (state.first, state.second, state.weight)]
    cover = pixels.take_coarse(weather.cover)
    dark = np.where(pixels.take_coarse(weather.shadow), np.float32(0.45), np.float32(1))
    light = dark * _light(pixels.take(ground.height).astype(np.float32))
    look = [*(pixels.take(layer).astype(np.float32) for layer in (ground.vigour, ground.tint)), light, cover]
    mood = generator("scene", scene.place, scene.number).standard_normal(2).astype(np.float32)
    bands: dict[str, np.ndarray] = {}
    for group in GROUPS["s2"]:
        step = group.resolution_m // 10
        # Every second pixel, a little blurred, stands for a 20 m pixel: a third of the work of averaging four.
        thin = 2 if step == 2 else 1
        fields = [np.ascontiguousarray(layer[::thin, ::thin]) for layer in (*mix, *look)]
        shared = 0.95 * draw.standard_normal((scene.rows // step, scene.cols // step), dtype=np.float32)
        for band in group.bands:
            k = CANONICAL_BANDS["s2"].index(band)
            clear, spread = _ground_reflectance(k, fields, means[:, k], mood)
            cloud = signatures().cloud[k] * (0.85 + 0.1 * fields[3])
            value = _observed(clear + (cloud - clear) * fields[6], step // thin)
            grain = shared + 0.31 * draw.standard_normal(value.shape, dtype=np.float32)
            value += PARTS["pixel"] * _coarser(spread, step // thin) * grain
            dn = np.clip(np.rint(value), 1, 20_000).astype(np.uint16) + np.uint16(scene.offset)
            dn[~seen[::step, ::step]] = 0
            bands[band] = dn
    return bands, _scene_classes(mix, cover, dark, seen, draw)


def _ground_reflectance(
    band: int, fields: list[np.ndarray], means: np.ndarray, mood: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance x 10000 below the clouds, and the spread of its kinds, of one band (number in canonical order)."""
    first, second, weight, vigour, tint, light, _ = fields
    mean = means[first] * (1 - weight) + means[second] * weight
    spread = signatures().sd[:, band][first]
    turned = -1 if 5 <= band <= 9 else 1  # lusher is darker in the visible and brighter in the infrared
    patch = PARTS["patch"] * vigour + (PARTS["tint"] * turned) * tint + PARTS["scene"] * mood[0]
    haze = abs(mood[1]) * (40 if band < 4 else 8)
    # The table's spreads are wide for snow: no patch of a kind is darker than a third of the kind.
    return np.maximum(mean + spread * patch, mean * np.float32(0.35)) * light + haze, spread


def _light(height: np.ndarray) -> np.ndarray:
    """Brightness of slopes under a sun in the south-east: 1 on flat ground."""
    down_row, down_col = np.gradient(height, 10.0)
    return np.clip(1 + 0.9 * (-down_col * 0.6 - down_row * 0.8), 0.55, 1.35)


def _coarser(field: np.ndarray, step: int) -> np.ndarray:
    if step == 1:
        return field
    return field.reshape(field.shape[0] // step, step, field.shape[1] // step, step).mean((1, 3))


def _observed(field: np.ndarray, step: int) -> np.ndarray:
    """A 10 m field as the sensor sees it at `step` x 10 m: pixels are mixed, and at 10 m a little blurred."""
    if step > 1:
        return _coarser(field, step)
    import scipy.ndimage

    return scipy.ndimage.gaussian_filter(field, 0.55, truncate=3)


def _scene_classes(
    mix: list[np.ndarray], cover: np.ndarray, dark: np.ndarray, seen: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """SCL (uint8, 20 m): clouds by opacity, shadow, then water, snow, vegetation or bare by what is most of the mix."""
    every = (slice(None, None, 2), slice(None, None, 2))
    kind = np.where(mix[2] > 0.5, mix[1], mix[0])[every]
    classes = np.full(kind.shape, 5, np.uint8)
    classes[np.isin(kind, [KIND[name] for name in VEGETATION])] = 4
    classes[np.isin(kind, [KIND["water"], KIND["flooded"]])] = 6
    classes[kind == KIND["snow and ice"]] = 11
    classes[draw.random(kind.shape) < 0.004] = 7
    opaque = cover[every]
    classes[dark[every] < 1] = 3
    for lowest, code in ((0.05, 10), (0.3, 8), (0.6, 9)):
        classes[opaque > lowest] = code
    classes[~seen[every]] = 0
    return classes
