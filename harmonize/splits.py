"""Splits: which of train, val and test a chip belongs to."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harmonize.vocabulary import CLASSES

SALT = "closp-split-1"
"""Frozen: with another salt every chip of every corpus would move."""
MOST_PAIRS = 128
"""Label sets whose pairs are tried in one go: more is a matter of memory, not of the result's quality."""
RARE = 10
"""Cells of a class below which an error of one cell weighs more than twice as much as in a frequent class."""
LEAST_GAIN = 1e-9
"""Of the objective; smaller gains are rounding, and would let the search go in circles."""


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


@functools.lru_cache(maxsize=1 << 16)
def _of_block(block: str) -> float:
    """A block's number. A block has up to a hundred cells and each of them some dates: hashed once for all of them."""
    return unit_interval(block)


def spatial_split(block: str, shares: SplitShares) -> str:
    """Split of a block: test below val below train, so changing shares nests and no new region moves a chip."""
    u = _of_block(block)
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
    """Split of every cell so that each class has its share in each split.

    masks: cell -> the labels of all its chips together. First test is dealt out, then val out of what is left, so the
    searched split is the same whatever part of train is set aside. A label set's cells are dealt by whole numbers; of
    those that remain (less than one a label set) the label sets of the rarest class are asked first, as iterative
    stratification does (Sechidis et al. 2011, doi:10.1007/978-3-642-23808-6_10), and the answers are then improved
    singly and by pairs until none lowers the squared error of all classes' numbers and of the split's size.

    Every label set is within one cell of its share in test and in train + val, hence within two in val and train. A
    class in n cells cannot be nearer to its share s than s * n is to a whole number; measured: every class and the
    sizes within 0.6 cells on 237,871 rows of BigEarthNet (182 label sets), within 5 on 650,000 rows with all 4,096.

    The result depends on the cells and their labels alone: not on their order, the machine or PYTHONHASHSEED. But on
    all of them: another cell can move up to three cells of any label set, and a cell with other labels is dealt anew.
    It holds within one region and does not nest; spatial_split is the one that never moves a cell.
    """
    cells = sorted(masks)
    labels = np.fromiter((masks[cell] for cell in cells), np.int64, len(cells))
    # The sort is stable: two cells of the same number stand in the order of their names.
    order = np.lexsort((_numbers(cells), labels))
    sets, counts = np.unique(labels, return_counts=True)
    total = shares.train + shares.val + shares.test
    tests = deal(sets, counts, shares.test / total)
    rest = counts - tests
    vals = deal(sets, rest, shares.val / (shares.train + shares.val) if shares.train + shares.val else 0.0)
    given = np.stack([tests, vals, rest - vals], 1)
    splits = np.repeat(np.tile(np.array(["test", "val", "train"]), len(sets)), given.ravel())
    return {cells[k]: split for k, split in zip(order.tolist(), splits.tolist(), strict=True)}


def _numbers(cells: list[str]) -> np.ndarray:
    """A fixed number of each cell, free of where it lies, uint64 (n,): their order within a label set."""
    digests = (hashlib.blake2b(f"{SALT}:{cell}".encode(), digest_size=8).digest() for cell in cells)
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def deal(sets: np.ndarray, counts: np.ndarray, share: float) -> np.ndarray:
    """How many cells of each label set go to a split of this share, int64 (n,): share * counts rounded down or up.

    sets: label masks, ascending, each once (n,). counts: cells of each (n,).
    """
    exact = share * counts
    # A share such as 0.29 of 100 cells is 28.999…: rounding is no reason for a choice.
    floor = np.floor(exact + 1e-9).astype(np.int64)
    part = exact - floor
    free = np.flatnonzero(part > 1e-9)
    if not len(free):
        return floor
    has = _classes_of(sets)
    totals = (has * counts).sum(1)
    weights = 1 + RARE / np.maximum(totals, 1)
    missing = (has * part).sum(1)
    floor[free] += _round(has[:, free], missing, weights)
    return floor


def _classes_of(sets: np.ndarray) -> np.ndarray:
    """Bool (classes + 1, n): which classes each label set has; last a class that all have, so that sizes count too."""
    bits = [sets >> k & 1 == 1 for k in range(len(CLASSES))]
    return np.stack([*bits, np.ones(len(sets), bool)])


def _round(has: np.ndarray, missing: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Which label sets give one cell more, int64 0 or 1 (n,), so that classes get what they miss.

    has: bool (classes, n). missing: cells each class still lacks. Minimises sum of weights * (missing - given)².
    """
    chosen = np.zeros(has.shape[1], np.int64)
    for j in _rarest_first(has):
        if _gains(has[:, [j]], missing, weights, np.ones(1))[0] > LEAST_GAIN:
            chosen[j] = 1
            missing = missing - has[:, j]
    while True:
        step = 1 - 2 * chosen
        gains = _gains(has, missing, weights, step)
        best = int(np.argmax(gains))
        moved = [best] if gains[best] > LEAST_GAIN else _best_pair(has, gains, weights, step)
        if not moved:
            return chosen
        for j in moved:
            missing = missing - step[j] * has[:, j]
            chosen[j] += step[j]


def _rarest_first(has: np.ndarray) -> np.ndarray:
    """Label sets by the number of label sets that have their rarest class; among equals by their own order."""
    number = has.sum(1)
    return np.argsort(np.where(has, number[:, None], has.shape[1] + 1).min(0), kind="stable")


def _gains(has: np.ndarray, missing: np.ndarray, weights: np.ndarray, step: np.ndarray) -> np.ndarray:
    """By how much the error falls when each label set alone gives `step` (1 or -1) cells more, (n,).

    Class after class, not by a matrix product: its sums differ between machines in the last digit, and with them a
    choice between two equally good sets.
    """
    gains = np.zeros(has.shape[1])
    for k in range(len(has)):
        gains += has[k] * (weights[k] * (2 * step * missing[k] - 1))
    return gains


def _best_pair(has: np.ndarray, gains: np.ndarray, weights: np.ndarray, step: np.ndarray) -> list[int]:
    """The two label sets that lower the error most when both change; none if no pair does."""
    near = np.sort(np.argsort(-gains, kind="stable")[:MOST_PAIRS])
    both = gains[near][:, None] + gains[near][None, :]
    for k in range(len(has)):
        signed = has[k, near] * step[near]
        both -= 2 * weights[k] * signed[:, None] * signed[None, :]
    np.fill_diagonal(both, -np.inf)
    i, j = np.unravel_index(int(np.argmax(both)), both.shape)
    return [int(near[i]), int(near[j])] if both[i, j] > LEAST_GAIN else []
