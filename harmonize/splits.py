"""Splits: which of train, val and test a chip belongs to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harmonize.vocabulary import CLASSES

SALT = "closp-split-1"
"""Frozen: with another salt every chip of every corpus would move."""


@dataclass(frozen=True)
class SplitShares:
    train: float
    val: float
    test: float


def block_of(epsg: int, easting_m: float, northing_m: float, block_km: float) -> str:
    """The square of the zone's grid a point lies in; southern squares count from the equator too."""
    side = block_km * 1000
    outwards = 10_000_000 - northing_m if epsg // 100 == 327 else northing_m
    return f"{epsg}_b{block_km:g}_{int(easting_m // side)}_{int(outwards // side)}"


def unit_interval(text: str) -> float:
    """A text's place in [0, 1): the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{SALT}:{text}".encode(), digest_size=8).digest(), "big") / 2**64


def spatial_split(block: str, shares: SplitShares) -> str:
    """Split of a block: test below val below train, so changing shares nests and no new region moves a chip."""
    u = unit_interval(block)
    if u < shares.test:
        return "test"
    return "val" if u < shares.test + shares.val else "train"


def event_split(blocks: Mapping[str, float], shares: SplitShares) -> str:
    """Split of an event: the one that holds most of its geometry.

    blocks: block -> area of the event's geometry in it, over all blocks that it touches, wherever the region ends, so
    that no region moves an event. Of equal splits the first of train, val, test counts.
    """
    held = dict.fromkeys(("train", "val", "test"), 0.0)
    for block in sorted(blocks):
        held[spatial_split(block, shares)] += blocks[block]
    return max(held, key=lambda name: held[name])


def torn_from_event(split: str, events: Iterable[str]) -> bool:
    """Whether a chip of this split belongs to an event of another split (`events`: their splits): it is dropped then.

    A chip that two events of different splits claim is dropped in any case. None is ever moved.
    """
    return any(event != split for event in events)


def stratified_split(masks: Mapping[str, int], shares: SplitShares) -> dict[str, str]:
    """Split of every cell so that each class has its share in each split (the paper's protocol).

    masks: cell -> the labels of all its chips together. Cells with the same label set are dealt out by whole numbers;
    what remains goes one by one, rarest class first (Sechidis et al. 2011, doi:10.1007/978-3-642-23808-6_10), to the
    split that lowers the squared error of all its classes' shares most. The result depends on the cells and their
    labels alone, not on their order.
    """
    wanted = {name: value for name, value in vars(shares).items() if value > 0}
    by_set: dict[int, list[str]] = {}
    for cell in sorted(masks, key=lambda c: (unit_interval(c), c)):
        by_set.setdefault(masks[cell], []).append(cell)
    counts = {k: sum(len(c) for m, c in by_set.items() if k in _bits(m)) for k in (ALL, *range(len(CLASSES)))}
    dealer = _Dealer(wanted, counts)
    left: list[str] = []
    for mask, cells in sorted(by_set.items()):
        start = 0
        for name, share in wanted.items():
            number = int(share * len(cells))
            for cell in cells[start : start + number]:
                dealer.give(cell, mask, name)
            start += number
        left += cells[start:]
    rarity = Counter(k for cell in left for k in _bits(masks[cell]))
    for cell in sorted(left, key=lambda c: (min(rarity[k] for k in _bits(masks[c])), unit_interval(c), c)):
        dealer.give(cell, masks[cell], dealer.best(masks[cell]))
    return dealer.result


ALL = -1
"""Stands for a class that every cell has, so that the splits' sizes count too."""


def _bits(mask: int) -> list[int]:
    return [ALL, *(k for k in range(len(CLASSES)) if mask >> k & 1)]


class _Dealer:
    """How many cells of each class every split still wants."""

    def __init__(self, shares: dict[str, float], counts: dict[int, int]) -> None:
        self.result: dict[str, str] = {}
        self._counts, self._shares = counts, shares
        self._want = {name: {k: share * n for k, n in counts.items()} for name, share in shares.items()}

    def give(self, cell: str, mask: int, name: str) -> None:
        self.result[cell] = name
        for k in _bits(mask):
            self._want[name][k] -= 1

    def best(self, mask: int) -> str:
        """The split where one more cell lowers the squared relative error of its classes, summed, most."""

        def fall(name: str) -> float:
            return sum((2 * self._want[name][k] - 1) / (self._shares[name] * self._counts[k] ** 2) for k in _bits(mask))

        return max(self._shares, key=lambda name: (fall(name), self._shares[name], name))
