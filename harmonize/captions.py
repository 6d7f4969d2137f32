"""Captions: a LabelSet in words. The same input gives the same text in any process."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from harmonize.labelset import LabelSet
from harmonize.vocabulary import CLASSES, CRISES

TEMPLATE_VERSION = 1
"""Raised when the wording changes; stored with every caption."""

SENSOR_WORDS = {"s1": "Sentinel-1 radar image", "s2": "Sentinel-2 optical image"}
SEASONS = ("winter", "spring", "summer", "autumn")
AMOUNTS = ((0.9, "almost entirely"), (0.5, "mostly"), (0.25, "a good part"), (0.1, "some"), (0.0, "a little"))
"""Words of area share, from this share on."""
CRISIS_WORDS = {
    "flooded area": "a flooded area",
    "burned area": "a burned area",
    "earthquake damage": "earthquake damage",
}


@dataclass(frozen=True)
class Caption:
    """Text, the LabelSet it came from, the version of the template."""

    paper: str
    rich: str
    labels: LabelSet
    template: int = TEMPLATE_VERSION


def write_caption(labels: LabelSet, sensor: str, day: dt.date, lat: float) -> Caption:
    """Both texts of a chip. lat in degrees: it decides the season's hemisphere."""
    return Caption(paper_text(list(labels.shares)), rich_text(labels, sensor, day, lat), labels)


def paper_text(names: list[str]) -> str:
    """Lower-case class names joined by '. ' in vocabulary order, as CrisisLandMark's captions are."""
    return ". ".join(name for name in CLASSES if name in names)


def season(day: dt.date, lat: float) -> str:
    """Meteorological season; it turns around south of the equator."""
    return SEASONS[(day.month % 12 // 3 + (2 if lat < 0 else 0)) % 4]


def rich_text(labels: LabelSet, sensor: str, day: dt.date, lat: float) -> str:
    """One or two sentences: sensor, season and year, land cover by amount (largest first), then the crisis."""
    text = f"{SENSOR_WORDS[sensor]}, {season(day, lat)} {day.year}"
    cover = sorted((n for n in labels.shares if n not in CRISES), key=lambda n: (-labels.shares[n], CLASSES.index(n)))
    if cover:
        text += ": " + _listed([f"{_amount(labels.shares[n])} {n}" for n in cover])
    crises = [CRISIS_WORDS[n] for n in CRISES if n in labels.shares]
    return text + "." + (f" It shows {_listed(crises)}." if crises else "")


def _amount(share: float) -> str:
    return next(word for limit, word in AMOUNTS if share >= limit)


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
