"""Crisis events in time and space: what an event's map says about one chip. Dates are UTC days.

The effect window runs from `start` to `start + effect_days`, both days included. For as many days again the ground may
still show what happened, and nobody looked: then a chip that would bear the label, or might, is unknown.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harmonize.vocabulary import CRISIS_OF_KIND

NEARBY_M = 10_000.0
"""Without an analysed extent, what lies this near to an event's geometry may be affected too (DESIGN §4)."""
REACH_M = 100_000.0
"""With an analysed extent, what lies this near to an event's geometry, and was not looked at, may be affected too: a
disaster does not stop at the frame that somebody drew around a part of it. A continent away it does, and a corpus of
several continents would know nothing of a kind of crisis in the window of any of its events."""

Says = Literal["positive", "unknown", "negative"]


@dataclass(frozen=True)
class CrisisEvent:
    """What happened, when, and how long it can be seen."""

    id: str
    kind: str
    start: dt.date
    effect_days: int
    min_share: float
    """Share of a cell that the event must cover for its label."""

    @property
    def label(self) -> str:
        """The class of the vocabulary."""
        return CRISIS_OF_KIND[self.kind]

    @property
    def last(self) -> dt.date:
        """Last day of the effect window."""
        return self.start + dt.timedelta(days=self.effect_days)

    def in_window(self, day: dt.date) -> bool:
        return self.start <= day <= self.last

    def fading(self, day: dt.date) -> bool:
        """Within one more effect_days after the window."""
        return self.last < day <= self.last + dt.timedelta(days=self.effect_days)

    def began(self, day: dt.date) -> bool:
        """The side of the event that a day lies on: False before its first day, True from it on."""
        return day >= self.start


@dataclass(frozen=True)
class Touch:
    """What an event's map says about one cell."""

    share: float
    """Share of the cell's area that the event covers, 0-1."""
    analysed: float | None
    """Share of the cell inside the analysed extent, 0-1; None where no extent is given. Cells that are neither within
    REACH_M of the event's geometry nor within NEARBY_M of the extent have no touch: the event is none of theirs."""
    distance_m: float
    """From the cell to the event's geometry; inf beyond NEARBY_M, where nobody measures."""


@dataclass(frozen=True)
class Verdict:
    """What one event says about one chip, and why."""

    event: CrisisEvent
    touch: Touch
    says: Says
    days: int
    """From the event's first day to the chip's; negative before it."""


def judge(event: CrisisEvent, touch: Touch, day: dt.date) -> Verdict:
    """The verdict of one event on a chip of this cell and day (DESIGN §4).

    In the window: positive where the event covers at least `min_share` of the cell, whatever the extent; unknown where
    it covers less than that but some, where the cell is not wholly inside the analysed extent (of the cells in the
    event's reach, see Touch), or where no extent is given and the event is within 10 km; else negative. Within one more
    `effect_days` after the window, what would be positive or unknown in it is unknown: a cell that the event cannot
    have reached stays negative. Any other day is negative.
    """
    says: Says = "negative"
    if event.in_window(day):
        says = _in_window(touch, event.min_share)
    elif event.fading(day) and _in_window(touch, event.min_share) != "negative":
        says = "unknown"
    return Verdict(event, touch, says, (day - event.start).days)


def _in_window(touch: Touch, min_share: float) -> Says:
    if touch.share >= min_share:
        return "positive"
    outside = touch.distance_m <= NEARBY_M if touch.analysed is None else touch.analysed < 1
    return "unknown" if touch.share > 0 or outside else "negative"


def crisis_labels(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    """Crisis class -> the event whose label the chip bears: of several positive ones, the one that covers most."""
    best: dict[str, Verdict] = {}
    for verdict in sorted(verdicts, key=lambda v: (-v.touch.share, v.event.id)):
        if verdict.says == "positive":
            best.setdefault(verdict.event.label, verdict)
    return best


def unknown_crises(verdicts: Sequence[Verdict]) -> set[str]:
    """Crisis classes that an event says are unknown and none says are there.

    One disaster is often mapped in parts, each an event of its own: a cell that one of them did not look at is known
    all the same where another one of its kind did.
    """
    unknown = {v.event.label for v in verdicts if v.says == "unknown" and not any(_looked(w, v) for w in verdicts)}
    return unknown - set(crisis_labels(verdicts))


def _looked(seen: Verdict, unseen: Verdict) -> bool:
    """Whether an event saw that nothing of another one's is there: a chip is unknown to that one for no other reason
    than that nobody looked, this one is of the same kind, looked at the whole cell, found nothing, and began no earlier
    than that one, so that its image shows what that one did; and the chip is no later than it can tell."""
    event, other = seen.event, unseen.event
    return (
        unseen.touch.share == 0
        and seen.says == "negative"
        and seen.touch.share == 0
        and (seen.touch.analysed or 0) >= 1
        and event.kind == other.kind
        and event.start >= other.start
        and 0 <= seen.days <= 2 * event.effect_days
    )
