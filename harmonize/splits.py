"""Splits: which of train, val and test a chip belongs to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
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


def stratified_split(masks: Mapping[str, int], shares: SplitShares) -> dict[str, str]:
    """Split of every cell so that each class has its share in each split (the paper's protocol).

    masks: cell -> the labels of all its chips together. Cells with the same label set are dealt out by whole numbers;
    what remains goes one by one to the split that still wants its rarest class most (Sechidis et al. 2011,
    doi:10.1007/978-3-642-23808-6_10). The result depends on the cells and their labels alone, not on their order.
    """
    wanted = {name: value for name, value in vars(shares).items() if value > 0}
    by_set: dict[int, list[str]] = {}
    for cell in sorted(masks, key=lambda c: (unit_interval(c), c)):
        by_set.setdefault(masks[cell], []).append(cell)
    result: dict[str, str] = {}
    want = {
        name: {k: share * sum(len(c) for m, c in by_set.items() if m >> k & 1) for k in range(len(CLASSES))}
        | {-1: share * len(masks)}
        for name, share in wanted.items()
    }
    left: list[str] = []
    for mask, cells in sorted(by_set.items()):
        start = 0
        for name, share in wanted.items():
            number = int(share * len(cells))
            for cell in cells[start : start + number]:
                _give(result, want, cell, mask, name)
            start += number
        left += cells[start:]
    _deal(left, masks, want, result)
    return result


def _give(result: dict[str, str], want: dict[str, dict[int, float]], cell: str, mask: int, name: str) -> None:
    result[cell] = name
    want[name][-1] -= 1
    for k in range(len(CLASSES)):
        if mask >> k & 1:
            want[name][k] -= 1


def _deal(left: list[str], masks: Mapping[str, int], want: dict[str, dict[int, float]], result: dict[str, str]) -> None:
    """One by one, the rarest class among what is left first."""
    counts = Counter(k for cell in left for k in range(len(CLASSES)) if masks[cell] >> k & 1)
    rarity = {k: place for place, (k, _) in enumerate(sorted(counts.items(), key=lambda item: (item[1], item[0])))}

    def rarest(cell: str) -> int:
        mine = [k for k in rarity if masks[cell] >> k & 1]
        return min(mine, key=lambda k: rarity[k]) if mine else -1

    for cell in sorted(left, key=lambda c: (rarity.get(rarest(c), len(rarity)), unit_interval(c), c)):
        k = rarest(cell)
        name = max(want, key=lambda n: (want[n][k], want[n][-1], n))
        _give(result, want, cell, masks[cell], name)
