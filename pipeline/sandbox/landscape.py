"""What is on the ground of a place: land cover with spatial structure, parcels, relief. Drawn once, the same each time.

All arrays are (rows, cols) of 10 m pixels in the home zone, north up, and reach beyond the place, so that the imagery
of the neighbouring zone, whose grid is turned by some degrees, finds ground everywhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harmonize.vocabulary import BIT
from pipeline.sandbox.places import SEED, Place, Size
from pipeline.sandbox.publish import published

PIXEL_M = 10
MARGIN_M = 600
"""Ground beyond the imagery's own margin."""
WATER, TREES, GRASS, MARSH, CROPS, SHRUB, BUILT, BARE, SNOW = (
    BIT[name]
    for name in (
        "water", "trees", "grass", "flooded vegetation", "crops", "shrub and scrub", "built", "bare", "snow and ice"
    )
)  # fmt: skip
RELIEF_M = {"boreal": 160, "mediterranean": 220, "delta": 6, "arid": 120}
"""Standard deviation of the height of a place."""
LAYERS = ("cover", "parcel", "vigour", "tint", "height")


@dataclass(frozen=True)
class Ground:
    """A place's ground."""

    west: float
    north: float
    cover: np.ndarray
    """uint8: bit number of the land-cover class in the vocabulary."""
    parcel: np.ndarray
    """uint16: hash of the field or patch a pixel belongs to."""
    vigour: np.ndarray
    """float16 N(0,1): how bright or lush a patch is within its class, with texture; fixed over time."""
    tint: np.ndarray
    """float16 N(0,1): colour within its class, independent of `vigour`."""
    height: np.ndarray
    """float16, metres."""


def generator(*where: str | int) -> np.random.Generator:
    """Random numbers of one purpose: nothing depends on what was drawn elsewhere."""
    key = hashlib.blake2b("/".join(map(str, where)).encode(), digest_size=8).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([SEED, int.from_bytes(key, "big")])))


def fractal(draw: np.random.Generator, shape: tuple[int, int], scale_px: float, roughness: float = 0.7) -> np.ndarray:
    """float32 N(0,1) noise whose features are about `scale_px` wide, with ever finer edges (von Karman spectrum)."""
    import scipy.fft

    padded = tuple(scipy.fft.next_fast_len(n, real=True) for n in shape)
    white = draw.standard_normal(padded, dtype=np.float32)
    fy = np.fft.fftfreq(padded[0]).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(padded[1]).astype(np.float32)[None, :]
    power = (1 + (fy * fy + fx * fx) * np.float32(4 * scale_px * scale_px)) ** np.float32(-(roughness + 1) / 2)
    field = scipy.fft.irfft2(scipy.fft.rfft2(white) * power, s=padded)[: shape[0], : shape[1]]
    return ((field - field.mean()) / field.std()).astype(np.float32)


def above(field: np.ndarray, share: float) -> np.ndarray:
    """The mask of the highest `share` of a field."""
    return field > np.quantile(field[::7, ::7], 1 - share)


def draw_ground(place: Place, size: Size) -> Ground:
    """The ground of a place, from the seed alone."""
    west, south, east, north = place.bounds(size)
    reach = size.margin_m + MARGIN_M
    shape = ((north - south + 2 * reach) // PIXEL_M, (east - west + 2 * reach) // PIXEL_M)
    canvas = _Canvas(place, size, shape)
    cover = {"boreal": _boreal, "mediterranean": _mediterranean, "delta": _delta, "arid": _arid}[place.name](canvas)
    patches = canvas.patches
    layers = [canvas.variation(purpose, cover) for purpose in ("vigour", "tint")]
    return Ground(
        west=west - reach,
        north=north + reach,
        cover=cover,
        parcel=patches.astype(np.uint16),
        vigour=layers[0].astype(np.float16),
        tint=layers[1].astype(np.float16),
        height=canvas.height.astype(np.float16),
    )


class _Canvas:
    """What the four landscapes are drawn with."""

    def __init__(self, place: Place, size: Size, shape: tuple[int, int]) -> None:
        self.place, self.size, self.shape = place, size, shape
        self.side_px = size.side_m // PIXEL_M
        self.reach_px = (size.margin_m + MARGIN_M) // PIXEL_M
        # Features keep their size in metres but for the largest, which must fit into a tiny place.
        self.large = 0.25 + 0.75 * min(1.0, size.side_m / 18_000)
        self.x = ((np.arange(shape[1]) - self.reach_px) / self.side_px).astype(np.float32)[None, :]
        self.y = ((shape[0] - 1 - self.reach_px - np.arange(shape[0])) / self.side_px).astype(np.float32)[:, None]
        self.height = RELIEF_M[place.name] * self.noise("height", 300 * self.large, 1.4)
        self.patches = self._parcels()

    def noise(self, purpose: str, scale_px: float, roughness: float = 0.7) -> np.ndarray:
        return fractal(generator(purpose, self.place.name, self.size.name), self.shape, scale_px, roughness)

    def _parcels(self) -> np.ndarray:
        """Hash (0..65535) of fields: bricks of some 200 x 140 m, turned and bent from one valley to the next."""
        angle = 0.5 * self.noise("angle", 400 * self.large)
        rows = np.arange(self.shape[0], dtype=np.float32)[:, None] + 12 * self.noise("bend rows", 60)
        cols = np.arange(self.shape[1], dtype=np.float32)[None, :] + 12 * self.noise("bend cols", 60)
        along = cols * np.cos(np.round(angle, 1)) + rows * np.sin(np.round(angle, 1))
        across = rows * np.cos(np.round(angle, 1)) - cols * np.sin(np.round(angle, 1))
        band = np.floor(across / 14).astype(np.int64)
        length = 14 + 12 * (band * 7919 % 5)
        brick = np.floor(along / length + band * 0.37).astype(np.int64)
        turned = np.round(angle * 10).astype(np.int64)
        mixed = (band * 73_856_093) ^ (brick * 19_349_663) ^ (turned * 83_492_791)
        mixed = (mixed ^ (mixed >> 13)) * 1_274_126_177
        return ((mixed ^ (mixed >> 16)) & 0xFFFF).astype(np.int64)

    def parcel_chance(self, purpose: str) -> np.ndarray:
        """A number in [0, 1) for each parcel."""
        return generator(purpose, self.place.name).random(65_536, dtype=np.float32)[self.patches]

    def channel_distance(self, purpose: str, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
        """Distance in metres of every pixel to a meandering line."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = float(np.hypot(dx, dy))
        along = ((self.x - start[0]) * dx + (self.y - start[1]) * dy) / length
        across = ((self.y - start[1]) * dx - (self.x - start[0]) * dy) / length
        draw = generator(purpose, self.place.name)
        swing = np.zeros_like(along)
        for waves, amplitude in ((1.5, 0.05), (4, 0.018), (9, 0.008)):
            swing = swing + amplitude * np.sin(2 * np.pi * waves * along + draw.uniform(0, 6.28))
        return np.abs(across - swing * self.large) * self.size.side_m

    def variation(self, purpose: str, cover: np.ndarray) -> np.ndarray:
        """N(0,1) within a class: field by field on farmland and in towns, in soft patches elsewhere, with texture."""
        level = generator(purpose, self.place.name).standard_normal(65_536).astype(np.float32)[self.patches]
        soft = np.where(
            np.isin(cover, (WATER, SNOW)), self.noise(f"open {purpose}", 200), self.noise(f"wild {purpose}", 40)
        )
        patch = np.where(np.isin(cover, (CROPS, BUILT)), level, soft)
        return 0.75 * patch + 0.5 * self.noise(purpose, 25) + 0.43 * self.noise(f"fine {purpose}", 3)

    def towns(self) -> np.ndarray:
        """Mask of the place's towns, and of villages here and there."""
        draw = generator("towns", self.place.name)
        ragged = 1 + 0.35 * self.noise("ragged", 40)
        mask = np.zeros(self.shape, bool)
        villages = [(draw.random(), draw.random(), draw.uniform(0.008, 0.02)) for _ in range(14)]
        for fx, fy, radius in (*self.place.towns, *villages):
            mask |= np.hypot(self.x - fx, self.y - fy) < radius * ragged
        return mask

    def built(self, cover: np.ndarray, towns: np.ndarray) -> np.ndarray:
        """Towns drawn over the cover: mostly built, with parks and empty plots."""
        inside = self.parcel_chance("plots")
        cover = np.where(towns & (inside < 0.80), BUILT, cover)
        return np.where(towns & (inside > 0.93), GRASS, cover)


def _fields(canvas: _Canvas, cover: np.ndarray, farmed: np.ndarray, mix: tuple[tuple[int, float], ...]) -> np.ndarray:
    """Farmland: each parcel one of the classes of `mix` (class, share)."""
    chance = canvas.parcel_chance("use")
    low = 0.0
    for kind, share in mix:
        cover = np.where(farmed & (chance >= low) & (chance < low + share), kind, cover)
        low += share
    return cover


def _boreal(canvas: _Canvas) -> np.ndarray:
    """Forest, lakes, mires, a little farmland, and an ice cap in the north-west with bare rock and heath around it."""
    cold = canvas.noise("cold", 220 * canvas.large, 0.8) + 3.1 * (0.45 + canvas.y - canvas.x)
    wet = canvas.noise("wet", 110, 0.9)
    cover = np.full(canvas.shape, TREES, np.uint8)
    cover = np.where(above(canvas.noise("heath", 90, 1.0), 0.10), SHRUB, cover)
    farmed = above(canvas.noise("farms", 150 * canvas.large, 0.9) + 1.5 * (canvas.x - canvas.y), 0.24)
    cover = _fields(canvas, cover, farmed, ((CROPS, 0.66), (GRASS, 0.28)))
    cover = np.where(above(wet, 0.13), MARSH, cover)
    for kind, share in ((SHRUB, 0.36), (BARE, 0.27), (SNOW, 0.18)):
        cover = np.where(above(cold, share), kind, cover)
    lakes = above(wet + 0.35 * canvas.noise("shore", 12), 0.055)
    river = canvas.channel_distance("river", (-0.2, 0.35), (1.2, 0.95)) < 55
    cover = canvas.built(cover, canvas.towns())
    return np.where((lakes | river) & ~above(cold, 0.2), WATER, cover).astype(np.uint8)


def _mediterranean(canvas: _Canvas) -> np.ndarray:
    """Fields in the plain, woods and scrub on the hills, a river, a lake, towns."""
    hills = canvas.height / RELIEF_M["mediterranean"] + 0.3 * canvas.noise("hills", 40)
    cover = np.full(canvas.shape, SHRUB, np.uint8)
    cover = np.where(above(canvas.noise("woods", 130 * canvas.large, 1.0) + 0.6 * hills, 0.46), TREES, cover)
    cover = np.where(above(canvas.noise("pasture", 110, 1.0), 0.13), GRASS, cover)
    cover = np.where(above(hills + 0.5 * canvas.noise("rock", 60, 1.0), 0.05), BARE, cover)
    farmed = above(-hills + 0.4 * canvas.noise("farms", 120, 1.0), 0.50)
    cover = _fields(canvas, cover, farmed, ((CROPS, 0.90), (GRASS, 0.03), (TREES, 0.03)))
    lake = np.hypot(canvas.x - 0.25, canvas.y - 0.40) < 0.09 * (1 + 0.3 * canvas.noise("lake", 60))
    river = canvas.channel_distance("river", (-0.2, 0.45), (1.2, 0.52))
    cover = canvas.built(cover, canvas.towns())
    cover = np.where(river < 150, np.where(river < 70, WATER, BARE), cover)
    return np.where(lake, WATER, cover).astype(np.uint8)


def _delta(canvas: _Canvas) -> np.ndarray:
    """A river's arms between fields and swamps, mangroves and beaches towards the sea in the east."""
    sea = canvas.x + 0.035 * canvas.noise("coast", 80) * canvas.large
    cover = np.full(canvas.shape, GRASS, np.uint8)
    cover = np.where(above(canvas.noise("bush", 120, 1.0), 0.20), SHRUB, cover)
    cover = np.where(above(canvas.noise("woods", 130 * canvas.large, 1.0), 0.26), TREES, cover)
    farmed = above(canvas.noise("farms", 150 * canvas.large, 0.9) - 0.8 * canvas.x, 0.42)
    cover = _fields(canvas, cover, farmed, ((CROPS, 0.90), (GRASS, 0.03), (TREES, 0.03)))
    ends = ((1.1, 0.95), (1.1, 0.55), (1.1, 0.12))
    near = np.minimum.reduce([canvas.channel_distance(f"arm {k}", (-0.2, 0.45), end) for k, end in enumerate(ends)])
    cover = np.where(above(canvas.noise("swamp", 90, 1.0) - near / 900 + 0.9 * canvas.x, 0.22), MARSH, cover)
    mangrove = (sea > 0.78) & (canvas.noise("mangrove", 60) > -0.6)
    cover = np.where(mangrove, np.where(canvas.noise("which", 90, 1.0) > 0, TREES, MARSH), cover)
    cover = canvas.built(cover, canvas.towns())
    cover = np.where(sea > 0.835, BARE, cover)
    return np.where((near < 70) | (sea > 0.87), WATER, cover).astype(np.uint8)


def _arid(canvas: _Canvas) -> np.ndarray:
    """Bare ground and scrub, an irrigated oasis along a river, a reservoir, towns."""
    cover = np.full(canvas.shape, BARE, np.uint8)
    cover = np.where(above(canvas.noise("scrub", 140 * canvas.large, 1.0), 0.34), SHRUB, cover)
    cover = np.where(above(canvas.noise("steppe", 110, 1.0), 0.10), GRASS, cover)
    river = canvas.channel_distance("river", (-0.2, 0.75), (1.2, 0.30))
    oasis = river / canvas.size.side_m + 0.05 * canvas.noise("oasis", 90, 1.0) < 0.12
    cover = _fields(canvas, cover, oasis, ((CROPS, 0.74), (TREES, 0.13)))
    cover = canvas.built(cover, canvas.towns())
    lake = np.hypot((canvas.x - 0.60) * 0.8, canvas.y - 0.82) < 0.085 * (1 + 0.3 * canvas.noise("lake", 60))
    return np.where(lake | (river < 45), WATER, cover).astype(np.uint8)


def save_ground(ground: Ground, folder: Path) -> None:
    """One .npy a layer; other processes map them."""
    for name in LAYERS:
        with published(folder / f"{name}.npy") as draft, draft.open("wb") as file:
            np.save(file, getattr(ground, name), allow_pickle=False)


def load_ground(folder: Path, place: Place, size: Size) -> Ground:
    west, _, _, north = place.bounds(size)
    reach = size.margin_m + MARGIN_M
    layers = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in LAYERS}
    return Ground(west - reach, north + reach, **layers)
