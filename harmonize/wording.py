"""The words of rich captions: what sensors, seasons, amounts and classes are called, and the frames of the sentences.

Every phrase of a class has the class's own name in it, so that the labels can be read back from a text. No content
word of the paraphrases that evaluation keeps to itself (query_families), nor another form of one, may stand here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache

from harmonize.vocabulary import LAND_COVER

SEASONS = ("winter", "spring", "summer", "autumn")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
TROPIC_DEG = 23.44
"""Latitude of the tropics (the obliquity of the ecliptic, 23°26'): between them a year has no four seasons."""

IMAGES = {"s1": "Sentinel-1 radar image", "s2": "Sentinel-2 optical image"}
INSTRUMENTS = {"s1": "Sentinel-1 radar", "s2": "the optical sensor of Sentinel-2"}
PASSES = ("ascending", "descending")
"""Told of radar images alone: an optical satellite takes its pictures by day, always on the same leg."""

AMOUNTS = ("a little", "some", "large areas", "mostly", "almost entirely")
LIMITS = (0.1, 0.25, 0.5, 0.9)
"""The share of the cell from which on the next amount is said. Our judgement."""
LARGE, MOSTLY = 2, 3
CRISIS_SMALL, CRISIS_LARGE = 0.1, 0.5
"""A crisis of less, or at least, this share of the cell is called small, or large."""

NOUNS = {"built": "built-up land", "bare": "bare ground"}
"""Class names that are no nouns, as one; the others stand as they are."""
QUANTIFIERS = (
    ("a little", "small patches of"),
    ("some", "patches of"),
    ("large areas of", "wide stretches of"),
    ("mostly", "mostly"),
    ("almost entirely", "almost entirely"),
)
"""By amount: two wordings of each. Every class has its own, so that no list stands inside a list."""
COUNTED = {("trees", "a little"): "a few", ("crops", "a little"): "small patches of"}
"""Plural nouns take no `a little`."""
MAPPED = "a landscape mapped as {}"
"""Land cover beside a crisis. The map is mostly the older one: without saying so, `almost entirely trees` would
contradict `a large burned area`."""
EPSILON = 1e-9
"""Sums of shares miss a limit by their last bits."""

ONE_SENTENCE = (
    "{image}, {when}: {shown}.",
    "{an_image} from {when} showing {shown}.",
    "{an_image} of {shown}, taken in {when}.",
    "{shown}: {an_image} from {when}.",
    "in {when}, {an_image} shows {shown}.",
    "{shown}, as seen by {instrument} in {when}.",
    "taken in {when}, this {image} shows {shown}.",
    "{when}: {an_image} of {shown}.",
    "seen by {instrument} in {when}: {shown}.",
)
TWO_SENTENCES = (
    "this {image} was taken in {when}. It shows {shown}.",
    "{shown}. {An_image}, taken in {when}.",
)
FRAMES = ONE_SENTENCE + TWO_SENTENCES
BARE_FRAME = "{image}, {when}{shown}."
"""Where nothing is to be shown."""


def season(day: dt.date, lat: float) -> str | None:
    """Meteorological season; it turns around south of the equator, and the tropics have none. lat in degrees."""
    return _season(day.month, band(lat))


def band(lat: float) -> int:
    """1 north of the tropics, -1 south of them, 0 between them."""
    return 0 if -TROPIC_DEG < lat < TROPIC_DEG else 1 if lat > 0 else -1


def _season(month: int, band: int) -> str | None:
    return SEASONS[(month % 12 // 3 + (2 if band < 0 else 0)) % 4] if band else None


def _when(year: int, month: int, band: int) -> str:
    """`summer 2020`; in the tropics `July 2020`. A season that goes over New Year has both years: `winter 2019/20`."""
    name = _season(month, band)
    if name is None:
        return f"{MONTHS[month - 1]} {year}"
    first = year - 1 if month < 3 else year
    return f"{name} {first}/{(first + 1) % 100:02d}" if month in (12, 1, 2) else f"{name} {year}"


@lru_cache(65536)
def setting(sensor: str, orbit: str | None, year: int, month: int, band: int, frame: str) -> tuple[str, str]:
    """What stands before and after the phrase of what is shown. An unknown pass is not told."""
    image, instrument, article = IMAGES[sensor], INSTRUMENTS[sensor], "a"
    if sensor == "s1" and orbit in PASSES:
        article = "an" if orbit == "ascending" else "a"
        image, instrument = f"{orbit}-pass {image}", f"{instrument} on {article} {orbit} pass"
    text = frame.format(
        image=image,
        an_image=f"{article} {image}",
        An_image=f"{article.capitalize()} {image}",
        instrument=instrument,
        when=_when(year, month, band),
        shown="\0",
    )
    before, after = text.split("\0")
    return upper_first(before), after


def _phrase(name: str, amount: int, variant: int) -> str:
    quantifier = QUANTIFIERS[amount][variant]
    return f"{COUNTED.get((name, quantifier), quantifier)} {NOUNS.get(name, name)}"


PHRASES = {name: tuple((_phrase(name, k, 0), _phrase(name, k, 1)) for k in range(len(AMOUNTS))) for name in LAND_COVER}
"""Class -> by amount, its two wordings: `some grass`, `patches of grass`."""


@lru_cache(1024)
def crisis(names: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """Crises in words: `a large flooded area and earthquake damage`. sizes: -1 small, 0, 1 large."""
    size = {-1: "a small ", 0: "a ", 1: "a large "}
    return listed([n if n == "earthquake damage" else size[s] + n for n, s in zip(names, sizes, strict=True)])


def crisis_size(name: str, share: float) -> int:
    """-1, 0 or 1. An earthquake's share is that of the shaken or mapped area, which says nothing of the damage."""
    if name == "earthquake damage":
        return 0
    return 1 if share + EPSILON >= CRISIS_LARGE else -1 if share + EPSILON < CRISIS_SMALL else 0


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, and c`."""
    if len(parts) < 3:
        return " and ".join(parts)
    return ", ".join(parts[:-1]) + ", and " + parts[-1]


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]
