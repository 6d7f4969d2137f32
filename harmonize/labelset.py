"""LabelSet: what is on the ground in one chip, with the evidence behind it and what we know about at all."""

from __future__ import annotations

import datetime as dt
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harmonize.events import Verdict, crisis_labels, unknown_crises
from harmonize.vocabulary import BIT, CRISIS_MASK, LAND_COVER, LAND_COVER_MASK, mask_of

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
        """Share of the cell that has a class."""
        return sum(self.shares.values())

    @functools.cached_property
    def diversity(self) -> float:
        """Shannon entropy (nats) of the land-cover shares, as parts of what they cover together: 0 for one class, at
        most ln 9. Source: Shannon 1948; landscape ecology's SHDI."""
        parts = [share for name, share in self.shares.items() if name in LAND_COVER and share > 0]
        total = sum(parts)
        return max(0.0, -sum(share / total * math.log(share / total) for share in parts))


@dataclass(frozen=True)
class LabelSet:
    """class -> area share for the classes that count, who says so, and which classes are known about."""

    shares: dict[str, float]
    """Classes that count, in vocabulary order."""
    sources: dict[str, str]
    """class -> the source (or event) that says it is there."""
    known_mask: int
    evidence: tuple[Evidence, ...] = field(default=())
    verdicts: tuple[Verdict, ...] = field(default=())
    """What each event near the cell says."""

    @property
    def ruling(self) -> Evidence | None:
        """The evidence that the land cover comes from; None where no source labels enough."""
        return _ruling(self.evidence)

    @property
    def dominant(self) -> str | None:
        """The land-cover class that counts and covers most (of equal ones the first of the vocabulary)."""
        cover = [name for name in self.shares if name in LAND_COVER]
        return max(cover, key=lambda name: self.shares[name]) if cover else None

    @property
    def diversity(self) -> float | None:
        """Shannon entropy (nats) of the ruling source's land cover, whatever counts; None without a ruling source."""
        ruling = self.ruling
        return None if ruling is None else ruling.diversity

    @property
    def events(self) -> list[str]:
        """Ids of the events whose label the chip bears."""
        return [verdict.event.id for verdict in self.verdicts if verdict.says == "positive"]

    @property
    def label_mask(self) -> int:
        return mask_of(self.shares)

    @property
    def empty(self) -> bool:
        """Neither land cover nor a crisis label."""
        return not self.known_mask & LAND_COVER_MASK and not self.label_mask


def combine(
    evidence: list[Evidence], order: list[str], day: dt.date, min_share: float, verdicts: Sequence[Verdict] = ()
) -> LabelSet:
    """The LabelSet of a chip taken on `day`.

    The first source in `order` that labels at least 75 % of the cell rules; of a dated source the day nearest to the
    chip's (the earlier one of two equally near) that labels enough. The others stay as evidence. A class counts from
    `min_share` of the cell's area; 0 means any pixel. The order of `evidence` and of `verdicts` does not matter.

    A crisis class is there if any event says so, or the ruling source does (CORINE has burnt areas): the event's
    share and id go before the source's. It is unknown if an event says so and nobody says that it is there. Without
    an event nothing says that a crisis happened, and that is known (DESIGN §4: "else negative").
    """
    ordered = evidence
    if len(evidence) > 1:
        ordered = sorted(evidence, key=lambda e: (order.index(e.source), gap_days(e, day), e.date or dt.date.min))
    ruling = _ruling(ordered)
    said = ruling.shares if ruling else {}
    found = {c: (share, ruling.source) for c, share in said.items() if ruling and share > 0 and share >= min_share}
    unknown = 0
    if verdicts:
        found |= {c: (v.touch.share, v.event.id) for c, v in crisis_labels(verdicts).items()}
        unknown = mask_of(unknown_crises(verdicts) - set(found))
    counted = sorted(found, key=BIT.__getitem__)
    return LabelSet(
        shares={c: found[c][0] for c in counted},
        sources={c: found[c][1] for c in counted},
        known_mask=(LAND_COVER_MASK if ruling else 0) | CRISIS_MASK & ~unknown,
        evidence=tuple(ordered),
        verdicts=tuple(sorted(verdicts, key=lambda v: v.event.id)) if verdicts else (),
    )


def _ruling(ordered: Iterable[Evidence]) -> Evidence | None:
    """The first that labels enough."""
    return next((e for e in ordered if e.labelled >= MIN_LABELLED - 1e-9), None)


def gap_days(evidence: Evidence, day: dt.date) -> int:
    """Days between a chip and what a source shows; 0 for an undated source."""
    return abs((evidence.date - day).days) if evidence.date else 0
