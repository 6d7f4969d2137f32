"""The twelve classes every label source is translated into, and their frozen bit order.

The order is part of every mask on disk: it never changes, it is only ever appended to.
Source: the 12 labels of CrisisLandMark (arXiv 2507.10403), nine of them Dynamic World's
(doi:10.1038/s41597-022-01307-4).
"""

from __future__ import annotations

from collections.abc import Iterable

LAND_COVER = (
    "water", "trees", "grass", "flooded vegetation", "crops", "shrub and scrub", "built", "bare", "snow and ice",
)  # fmt: skip
CRISES = ("flooded area", "burned area", "earthquake damage")
CLASSES = LAND_COVER + CRISES
VOCABULARY_VERSION = 1

COLOURS = dict(
    zip(
        CLASSES,
        ("#419bdf", "#397d49", "#88b053", "#7a87c6", "#e49635", "#dfc35a", "#c4281b", "#a59b8f", "#b39fe1",
         "#0a1f8f", "#1a1a1a", "#ff00c8"),
        strict=True,
    )
)  # fmt: skip
"""How maps draw each class: Dynamic World's own nine colours (doi:10.1038/s41597-022-01307-4), and three of ours."""

BIT = {name: k for k, name in enumerate(CLASSES)}
_ONE = {name: 1 << k for k, name in enumerate(CLASSES)}
CRISIS_OF_KIND = {"flood": "flooded area", "fire": "burned area", "earthquake": "earthquake damage"}
LAND_COVER_MASK = (1 << len(LAND_COVER)) - 1
CRISIS_MASK = ((1 << len(CLASSES)) - 1) & ~LAND_COVER_MASK
ALL_MASK = LAND_COVER_MASK | CRISIS_MASK


def mask_of(names: Iterable[str]) -> int:
    """Bit mask of class names; bit k stands for CLASSES[k]."""
    mask = 0
    for name in names:
        mask |= _ONE[name]
    return mask


def names_of(mask: int) -> list[str]:
    """Class names of a bit mask, in vocabulary order."""
    return [name for k, name in enumerate(CLASSES) if mask >> k & 1]
