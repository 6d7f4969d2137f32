"""LabelSet: what is on the ground in one chip, with the evidence behind it and what we know about at all."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from harmonize.vocabulary import CLASSES, CRISIS_MASK, LAND_COVER_MASK, mask_of

MIN_LABELLED = 0.75
"""Share of the cell a source must label to rule: reBEN drops patches with 25 % or more unlabelled (2407.03653)."""


@dataclass(frozen=True)
class Evidence:
    """What one source says about one cell on one day."""

    source: str
    date: dt.date | None
    shares: dict[str, float]
    """class -> share of the cell's area, 0-1."""

    @property
    def labelled(self) -> float:
        return sum(self.shares.values())


@dataclass(frozen=True)
class LabelSet:
    """class -> area share for the classes that count, who says so, and which classes are known about."""

    shares: dict[str, float]
    """Classes that count, in vocabulary order."""
    sources: dict[str, str]
    """class -> the source (or event) that says it is there."""
    known_mask: int
    evidence: tuple[Evidence, ...] = field(default=())

    @property
    def label_mask(self) -> int:
        return mask_of(self.shares)

    @property
    def empty(self) -> bool:
        """Neither land cover nor a crisis label."""
        return not self.known_mask & LAND_COVER_MASK and not self.label_mask


def combine(evidence: list[Evidence], order: list[str], day: dt.date, min_share: float) -> LabelSet:
    """The LabelSet of a chip taken on `day`.

    The first source in `order` that labels at least 75 % of the cell rules; of a dated source the day nearest to the
    chip's (the earlier one of two equally near) that labels enough. The others stay as evidence. A class counts from
    `min_share` of the cell's area; 0 means any pixel. The order of `evidence` does not matter.
    """
    ordered = sorted(evidence, key=lambda e: (order.index(e.source), gap_days(e, day), e.date or dt.date.min))
    ruling = next((e for e in ordered if e.labelled >= MIN_LABELLED - 1e-9), None)
    # Without an event nothing says that a crisis happened, and that is known (DESIGN §4: "else negative").
    known = CRISIS_MASK
    if ruling is None:
        return LabelSet({}, {}, known, tuple(ordered))
    counted = {c: ruling.shares[c] for c in CLASSES if ruling.shares.get(c, 0) > 0 and ruling.shares[c] >= min_share}
    return LabelSet(counted, dict.fromkeys(counted, ruling.source), known | LAND_COVER_MASK, tuple(ordered))


def gap_days(evidence: Evidence, day: dt.date) -> int:
    """Days between a chip and what a source shows; 0 for an undated source."""
    return abs((evidence.date - day).days) if evidence.date else 0
