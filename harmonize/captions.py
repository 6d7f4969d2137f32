"""Captions: a LabelSet in words. The same input gives the same text in any process.

`paper` is the published caption. `rich` is one or two sentences; a hash of the seed text (the chip_id) chooses frame,
wording and order, so that the place of a class in the text does not tell which one it is: the vocabulary's order is
nowhere in it. The words are in `harmonize.wording`.
"""

from __future__ import annotations

import datetime as dt
import json
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from harmonize.labelset import LabelSet
from harmonize.vocabulary import ALL_MASK, CLASSES, CRISES, names_of
from harmonize.wording import (
    AMOUNTS,
    BARE_FRAME,
    EPSILON,
    FRAMES,
    LARGE,
    LIMITS,
    MAPPED,
    MOSTLY,
    ONE_SENTENCE,
    PHRASES,
    band,
    crisis,
    crisis_size,
    listed,
    season,
    setting,
    upper_first,
)

TEMPLATE_VERSION = 2
"""Raised when the wording changes; stored with every caption."""

_CRISES = frozenset(CRISES)
FIRST, AFTER, MERGED_FIRST, MERGED_LAST = range(4)
"""Where the crises of a chip with land cover are told: in a sentence before or after, or in the same one."""


class Caption(NamedTuple):
    """Both texts, and what they came from."""

    paper: str
    rich: str
    labels: LabelSet
    sensor: str
    day: dt.date
    season: str | None
    orbit: str | None
    frame: int
    """Index of the sentence that the rich text was written in."""
    amounts: dict[str, int]
    """Land-cover class -> index in AMOUNTS."""
    template: int = TEMPLATE_VERSION

    @property
    def record(self) -> dict[str, Any]:
        """What the rich text says, for machines: strings, numbers, lists and None alone, so that JSON holds it.

        season is None in the tropics; classes go from the largest share to the smallest; known and unknown are the
        classes of the vocabulary that we know, or do not know, to be there or not.
        """
        found: dict[str, Any] = json.loads(self.record_json)
        return found

    @property
    def record_json(self) -> str:
        """The record as JSON: spelled at once, since there are hundreds of thousands of chips."""
        labels, shares, amounts = self.labels, self.labels.shares, self.amounts
        cover = sorted(amounts, key=shares.__getitem__, reverse=True)
        said = [
            f'{{"name": "{n}", "share": {round(shares[n], 6)!r}, "amount": "{AMOUNTS[amounts[n]]}"}}' for n in cover
        ]
        crises = "[]"
        if len(cover) < len(shares):
            crises = json.dumps([_crisis_record(labels, name) for name in shares if name in _CRISES])
        diversity = labels.diversity
        return (
            f'{{"template": {self.template}, "frame": {self.frame}, "sensor": "{self.sensor}", '
            f'"season": {_quoted(self.season)}, "year": {self.day.year}, "month": {self.day.month}, '
            f'"orbit": {_quoted(self.orbit)}, "dominant": {_quoted(labels.dominant)}, "classes": [{", ".join(said)}], '
            f'"crises": {crises}, "diversity": {"null" if diversity is None else repr(round(diversity, 6))}, '
            f"{_known(labels.known_mask)}}}"
        )


def write_caption(
    labels: LabelSet, sensor: str, day: dt.date, lat: float, orbit: str | None = None, seed: str = ""
) -> Caption:
    """Both texts of a chip. lat in degrees: it decides the season's hemisphere. orbit: ascending, descending or None.
    seed: any text, say the chip_id, that chooses among the wordings."""
    shares, amounts = labels.shares, _amounts(labels.shares)
    frame, number = _frame(bool(amounts), len(amounts) < len(shares), _number(seed))
    place = setting(sensor, orbit, day.year, day.month, band(lat), FRAMES[frame] if shares else BARE_FRAME)
    rich = _rich(shares, amounts, place, number)
    return Caption(_paper(tuple(shares)), rich, labels, sensor, day, season(day, lat), orbit, frame, amounts)


def paper_text(names: Iterable[str]) -> str:
    """Lower-case class names joined by '. ', without a dot at the end, as CrisisLandMark's captions are
    (arXiv 2507.10403). Its loader joins a Python set, in another order each time; here it is the vocabulary's."""
    return _paper(tuple(names))


@lru_cache(4096)
def _known(mask: int) -> str:
    return f'"known": {json.dumps(names_of(mask))}, "unknown": {json.dumps(names_of(ALL_MASK & ~mask))}'


@lru_cache(256)
def _quoted(word: str | None) -> str:
    return json.dumps(word)


@lru_cache(4096)
def _paper(names: tuple[str, ...]) -> str:
    return ". ".join(name for name in CLASSES if name in names)


def _rich(shares: dict[str, float], amounts: dict[str, int], place: tuple[str, str], number: int) -> str:
    """One or two sentences: sensor, pass, season and year (both in `place`), land cover in words of amount, crises.

    shares: class -> area share, in vocabulary order. The wording of one template version never changes.
    """
    number, last = divmod(number, 2)
    if len(amounts) == len(shares):
        return _inside(place, _cover(amounts, bool(last), number))
    number, where = divmod(number, 4)
    crises, number = _crises(shares, number)
    if not amounts:
        return _inside(place, crises)
    # In one phrase with crises the ruling class goes first: `but mostly trees` would seem to contrast with them.
    cover = MAPPED.format(_cover(amounts, bool(last) and where in (FIRST, AFTER), number))
    if where == FIRST:
        return f"There is {crises}. {_inside(place, cover)}"
    if where == AFTER:
        return f"{_inside(place, cover)} There is also {crises}."
    merged = f"{crises} in {cover}" if where == MERGED_FIRST else f"{cover}, and in it {crises}"
    return _inside(place, merged)


def _number(seed: str) -> int:
    """64 bits of a hash of the seed, from which every choice is drawn as a remainder (fewer than 2**30 ways)."""
    return int.from_bytes(blake2b(b"caption:" + seed.encode(), digest_size=8).digest(), "big")


def _frame(covered: bool, troubled: bool, number: int) -> tuple[int, int]:
    """Index in FRAMES, and what is left of the number. Land cover and crises may need a sentence each."""
    number, frame = divmod(number, len(ONE_SENTENCE if covered and troubled else FRAMES))
    return frame, number


def _amounts(shares: dict[str, float]) -> dict[str, int]:
    """Land-cover class -> index in AMOUNTS. Of two halves neither is `mostly` there."""
    found = {name: bisect_right(LIMITS, share + EPSILON) for name, share in shares.items() if name not in _CRISES}
    ruling = [name for name, amount in found.items() if amount >= MOSTLY]
    if len(ruling) > 1:
        found |= dict.fromkeys(ruling, LARGE)
    return found


def _cover(amounts: dict[str, int], last: bool, number: int) -> str:
    """The land cover as one phrase. The class that rules is first or last, the others in an order drawn from the
    number."""
    number, variant = divmod(number, 2)
    names, number = _shuffled(list(amounts), number)
    ruling, parts = "", list[str]()
    for name in names:
        if amounts[name] >= MOSTLY:
            ruling = PHRASES[name][amounts[name]][0]
        else:  # The two wordings of an amount take turns.
            parts.append(PHRASES[name][amounts[name]][(variant + len(parts)) & 1])
    if not ruling or not parts:
        return ruling or listed(parts)
    minor = listed(parts)
    return f"{minor}, but {ruling}" if last else f"{ruling}, with {minor}"


def _crises(shares: dict[str, float], number: int) -> tuple[str, int]:
    """The crises as one phrase, and what is left of the number."""
    names, number = _shuffled([name for name in shares if name in _CRISES], number)
    return crisis(tuple(names), tuple(crisis_size(name, shares[name]) for name in names)), number


def _shuffled(items: list[str], number: int) -> tuple[list[str], int]:
    """Fisher and Yates, in place, with remainders of the number as draws; and what is left of the number."""
    for k in range(len(items) - 1, 0, -1):
        number, j = divmod(number, k + 1)
        items[k], items[j] = items[j], items[k]
    return items, number


def _inside(place: tuple[str, str], shown: str) -> str:
    """A frame filled in: sentences begin with a capital letter."""
    before, after = place
    return before + shown + after if before else upper_first(shown) + after


def _crisis_record(labels: LabelSet, name: str) -> dict[str, Any]:
    """A crisis, its share, who says so, and the events of its kind whose label the chip bears."""
    events = [v.event.id for v in labels.verdicts if v.says == "positive" and v.event.label == name]
    return {"name": name, "share": round(labels.shares[name], 6), "source": labels.sources.get(name), "events": events}
