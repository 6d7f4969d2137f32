"""Agreement between two label sources (CORINE against Dynamic World): do they say the same of the same ground?

What is compared are shares of a cell's area, not places in it. So no table of pixels (what one calls crops, the other
calls grass) can be made of them, but bounds of what such a table would hold can: per cell and class at most
min(a, b) is called so by both, and at least a + b - 1 (the greatest and the least matrix of Pontius & Connors 2009,
doi:10.14358/pers.75.8.963). What can be counted is the class that covers most of a cell: one source's against the
other's, cell by cell.

Neither source is the truth: everything here reads the same from either side.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from itertools import combinations, islice
from operator import add
from typing import Any

import numpy as np

from harmonize.labelset import MIN_LABELLED, Evidence, gap_days
from harmonize.vocabulary import BIT, CLASSES

UNIT = 1_000_000
"""Areas are summed in whole millionths of a cell: integers add up to the same in any order and on any machine."""
CHUNK = 65_536
"""Pairs of label maps that are compared at once: 13 MB of shares, some 60 MB while they are."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """What two sources, a and b, say of the same cells. Sums only, so that those of parts can be added.

    Arrays are int64 in vocabulary order, (12,) but for `dominant`; areas are in millionths of a cell.
    """

    cells: int
    """Pairs that were compared."""
    left_out: int
    """Pairs of which one source labels too little of the cell."""
    labelled: int
    """Area that both label: of each cell the smaller labelled area of the two."""
    area_a: np.ndarray
    area_b: np.ndarray
    most: np.ndarray
    """Area that both can call so at most: the sum of min(a, b)."""
    least: np.ndarray
    """Area that both must call so at least: the sum of max(0, a + b - 1)."""
    either: np.ndarray
    """The sum of max(a, b)."""
    both: np.ndarray
    """Cells where the class counts for both (from min_share on)."""
    only_a: np.ndarray
    only_b: np.ndarray
    dominant: np.ndarray
    """(12, 12): cells by the class that covers most of them, a's in rows, b's in columns; of equal ones the first."""

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def iou(self) -> np.ndarray:
        """(12,): sum of min over sum of max, 0-1; NaN where neither says the class. 1 only if all shares are equal:
        ground that one of them does not label counts against the class that the other says there."""
        return _ratio(self.most, self.either)

    @property
    def at_most(self) -> float:
        """Share of the area that both label of which they can say the same, at most; 1 if all shares are equal."""
        return float(_ratio(self.most.sum(), self.labelled))

    @property
    def at_least(self) -> float:
        """Share of it of which they must say the same, wherever in its cell each class lies."""
        return float(_ratio(self.least.sum(), self.labelled))

    @property
    def same_dominant(self) -> float:
        """Share of the cells that both sources see most of the same class in."""
        return float(_ratio(np.trace(self.dominant), self.cells))

    def record(self) -> dict[str, Any]:
        """For a card, as JSON: the whole, and each class that either says. Ratios to 6 places, null for NaN."""
        said = [k for k in range(len(CLASSES)) if self.either[k]]
        return {
            "cells": self.cells,
            "left_out": self.left_out,
            "at_least": _rounded(self.at_least),
            "at_most": _rounded(self.at_most),
            "same_dominant": _rounded(self.same_dominant),
            "classes": {
                CLASSES[k]: {
                    "share_a": _rounded(self.area_a[k] / UNIT / self.cells),
                    "share_b": _rounded(self.area_b[k] / UNIT / self.cells),
                    "both": int(self.both[k]),
                    "only_a": int(self.only_a[k]),
                    "only_b": int(self.only_b[k]),
                    "iou": _rounded(self.iou[k]),
                }
                for k in said
            },
        }


def compare_shares(a: np.ndarray, b: np.ndarray, min_share: float) -> Agreement:
    """Agreement of two sources over N cells.

    a, b: (N, 12) shares of each cell's area, 0-1, in vocabulary order. Cells of which one source labels less than
    MIN_LABELLED are counted and left out. A class counts from `min_share`; 0 means any area, as in `combine`.
    """
    a, b = (np.asarray(shares, np.float64).reshape(-1, len(CLASSES)) for shares in (a, b))
    return merge(_compare(a[k : k + CHUNK], b[k : k + CHUNK], min_share) for k in range(0, len(a), CHUNK))


def merge(parts: Iterable[Agreement]) -> Agreement:
    """The agreement over all cells of some parts; the same whatever their order."""
    nothing = np.zeros((0, len(CLASSES)))
    return reduce(add, parts, _compare(nothing, nothing, 0))


def _compare(a: np.ndarray, b: np.ndarray, min_share: float) -> Agreement:
    enough = np.minimum(a.sum(1), b.sum(1)) >= MIN_LABELLED - 1e-9
    a, b = a[enough], b[enough]
    says_a, says_b = ((shares > 0) & (shares >= min_share) for shares in (a, b))
    in_a, in_b = (np.rint(shares * UNIT).astype(np.int64) for shares in (a, b))
    pairs = in_a.argmax(1) * len(CLASSES) + in_b.argmax(1)
    return Agreement(
        cells=len(a),
        left_out=len(enough) - len(a),
        labelled=int(np.minimum(in_a.sum(1), in_b.sum(1)).sum()),
        area_a=in_a.sum(0),
        area_b=in_b.sum(0),
        most=np.minimum(in_a, in_b).sum(0),
        least=np.clip(in_a + in_b - UNIT, 0, np.minimum(in_a, in_b)).sum(0),
        either=np.maximum(in_a, in_b).sum(0),
        both=(says_a & says_b).sum(0),
        only_a=(says_a & ~says_b).sum(0),
        only_b=(says_b & ~says_a).sum(0),
        dominant=np.bincount(pairs, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), -1),
    )


def agreements(
    cells: Iterable[tuple[Sequence[Evidence], Iterable[dt.date]]], sources: Sequence[str], min_share: float
) -> dict[tuple[str, str], Agreement]:
    """Agreement of every two of `sources` (in their order) that some cell has both of.

    cells: of each cell its evidence, and the days of its chips. Of a dated source the day nearest to the chip's speaks,
    as in `combine`. Two maps of a cell are compared once, however many of its chips they are the nearest to.
    """
    found: dict[tuple[str, str], Agreement] = {}
    # Pairs of all sources come mixed; a chunk is sorted out by its two sources.
    pairs = _pairs(cells, sources)
    while chunk := list(islice(pairs, CHUNK)):
        shares: dict[tuple[str, str], list[tuple[list[float], list[float]]]] = {}
        for a, b in chunk:
            shares.setdefault((a.source, b.source), []).append((_row(a.shares), _row(b.shares)))
        for names, rows in shares.items():
            said = np.array(rows)
            part = compare_shares(said[:, 0], said[:, 1], min_share)
            found[names] = found[names] + part if names in found else part
    return {names: found[names] for names in combinations(sources, 2) if names in found}


def _pairs(
    cells: Iterable[tuple[Sequence[Evidence], Iterable[dt.date]]], sources: Sequence[str]
) -> Iterator[tuple[Evidence, Evidence]]:
    for evidence, days in cells:
        said = [_enough([e for e in evidence if e.source == name]) for name in sources]
        said = [maps for maps in said if maps]
        if len(said) < 2:
            continue
        met = set()
        for day in days:
            nearest = [_nearest(maps, day) for maps in said]
            for a, b in combinations(nearest, 2):
                if (id(a), id(b)) not in met:
                    met.add((id(a), id(b)))
                    yield a, b


def _enough(maps: list[Evidence]) -> list[Evidence]:
    """Those that label enough of the cell, if there are any."""
    return [e for e in maps if e.labelled >= MIN_LABELLED - 1e-9] or maps


def _nearest(maps: list[Evidence], day: dt.date) -> Evidence:
    return maps[0] if len(maps) == 1 else min(maps, key=lambda e: (gap_days(e, day), e.date or dt.date.min))


def _row(shares: Mapping[str, float]) -> list[float]:
    row = [0.0] * len(CLASSES)
    for name, share in shares.items():
        row[BIT[name]] = share
    return row


def agreement_table(
    agreement: Agreement, sources: tuple[str, str], unsaid: tuple[Collection[str], Collection[str]] = ((), ())
) -> str:
    """A small table for a person. unsaid: the classes that each source has no code for (Crosswalk.unsaid)."""
    a, b = sources
    cells = max(agreement.cells, 1)
    wide = [max(14, len(source) + 2) for source in sources]
    only = [width + 5 for width in wide]
    heads = "".join(f"{source:>{width}}" for source, width in zip(sources, wide, strict=True))
    heads += f"{'both':>10}" + "".join(
        f"{'only ' + source:>{width}}" for source, width in zip(sources, only, strict=True)
    )
    lines = [f"{'class':<20}{heads}{'IoU':>7}"]
    for k, name in enumerate(CLASSES):
        if not agreement.either[k]:
            continue
        areas = (agreement.area_a, agreement.area_b)
        means = "".join(f"{sums[k] / UNIT / cells:>{width}.1%}" for sums, width in zip(areas, wide, strict=True))
        counts = f"{agreement.both[k]:>10,}{agreement.only_a[k]:>{only[0]},}{agreement.only_b[k]:>{only[1]},}"
        mute = " and ".join(source for source, names in zip(sources, unsaid, strict=True) if name in names)
        lines.append(f"{name:<20}{means}{counts}{agreement.iou[k]:>7.2f}{f'  {mute} cannot say it' if mute else ''}")
    return "\n".join([*lines, *_whole(agreement, a, b)])


def _whole(agreement: Agreement, a: str, b: str) -> list[str]:
    if not agreement.cells:
        return [f"no cell is labelled by both {a} and {b}; {agreement.left_out:,} too little by one of them"]
    lines = [
        f"{agreement.cells:,} cells compared, {agreement.left_out:,} left out (one source labels too little)",
        f"same class on {agreement.at_least:.1%} to {agreement.at_most:.1%} of the area that both label",
        f"same class covers most of the cell in {agreement.same_dominant:.1%} of cells",
    ]
    apart = agreement.dominant * ~np.eye(len(CLASSES), dtype=bool)
    if apart.any():
        row, column = np.unravel_index(apart.argmax(), apart.shape)
        lines[-1] += f"; most often apart: {a} {CLASSES[row]}, {b} {CLASSES[column]} ({apart.max():,} cells)"
    return lines


def _ratio(above: np.ndarray | int, below: np.ndarray | int) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
