"""What each kind of ground looks like to the two sensors: signatures.csv, and how they change with the season.

Figures: measured on public Sentinel-1/2 samples where the status column says M, engineering estimates where it says E.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np

from harmonize.vocabulary import LAND_COVER
from pipeline.sample import CANONICAL_BANDS

KINDS = (
    *({"crops": "crops bare", "bare": "bare soil"}.get(name, name) for name in LAND_COVER),
    "crops growing", "sand", "flooded", "burned", "damaged",
)  # fmt: skip
"""The land-cover classes in the vocabulary's order, so that a cover code is a kind, and what they turn into."""
KIND = {name: k for k, name in enumerate(KINDS)}


@dataclass(frozen=True)
class Signatures:
    """Arrays by kind."""

    mean: np.ndarray
    """(kinds, 12) reflectance x 10000, canonical band order."""
    sd: np.ndarray
    vv: np.ndarray
    """(kinds, 2): mean and standard deviation of gamma0 VV in dB, without speckle."""
    vh: np.ndarray
    cloud: np.ndarray
    """(12,) reflectance x 10000."""


@functools.cache
def signatures() -> Signatures:
    text = resources.files("pipeline.sandbox").joinpath("signatures.csv").read_text("utf-8")
    rows = {row["kind"]: row for row in csv.DictReader(text.splitlines())}

    def spectrum(kind: str, what: str) -> list[float]:
        return [float(rows[kind][f"{what}_{band}"]) for band in CANONICAL_BANDS["s2"]]

    def radar(kind: str, band: str) -> list[float]:
        return [float(rows[kind][f"{band}_mean_db"]), float(rows[kind][f"{band}_sd_db"])]

    return Signatures(
        mean=np.array([spectrum(kind, "mean") for kind in KINDS], np.float32),
        sd=np.array([spectrum(kind, "sd") for kind in KINDS], np.float32),
        vv=np.array([radar(kind, "vv") for kind in KINDS], np.float32),
        vh=np.array([radar(kind, "vh") for kind in KINDS], np.float32),
        cloud=np.array(spectrum("cloud", "mean"), np.float32),
    )


def seasonal_means(month: int, dry_months: tuple[int, ...], cold: bool) -> np.ndarray:
    """(kinds, 12) mean reflectance x 10000 in a month: dry grass, leaves off (factors: the signature table's notes)."""
    means = signatures().mean.copy()
    visible, red, infrared, swir = slice(0, 4), 3, slice(5, 10), slice(10, 12)
    if month in dry_months:
        for kind in ("grass", "shrub and scrub"):
            strength = 1.0 if kind == "grass" else 0.1
            means[KIND[kind], red] *= 1 + strength
            means[KIND[kind], visible] *= 1 + 0.2 * strength
            means[KIND[kind], infrared] *= 1 - 0.25 * strength
            means[KIND[kind], swir] *= 1 + 0.3 * strength
    if cold and month in (5, 10, 11):
        means[KIND["trees"], infrared] *= 0.85
        means[KIND["trees"], red] *= 1.25
        means[KIND["trees"], swir] *= 1.08
    return means


def crop_growth(chance: np.ndarray, month: int, south: bool) -> np.ndarray:
    """How green the crops of a parcel are, 0-1, from the parcel's chance in [0, 1): winter or summer crops."""
    season = (month + 6 - 1) % 12 + 1 if south else month
    peak = np.where(chance < 0.45, 5.0, 7.8)
    width = 1.3 + 0.8 * (chance * 37 % 1)
    apart = np.abs(season + (chance * 91 % 1) - 0.5 - peak)
    return np.exp(-((apart / width) ** 2)).astype(np.float32)
