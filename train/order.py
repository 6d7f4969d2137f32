"""Order: which sample comes at which position of a run. A function of (seed, position) and of nothing else.

Every sensor has one endless stream of samples. A step takes the next `size` positions of each; of `world` ranks, rank r
takes places [size*r//world, size*(r+1)//world) of them, so the ranks' shares, one after the other, are the batch.
Workers and ranks decide who reads a sample, never which one. The state of a run is therefore one position per stream,
the number of samples consumed, and it holds for any number of ranks and workers, and for another batch size.

    plain                   Each epoch is a new permutation: every sample comes once an epoch. A batch may reach over
                            two epochs (`Shuffle` says why it holds no sample twice); one of more than a third of the
                            samples does not, and the last few samples of the epoch wait for the next one.
    plain, region_weights   Each region is such a stream of its own, and the regions' turns are spread evenly: in any
                            run of positions a region has its share to within a few samples. An epoch has
                            weight x samples of each region. A batch that takes more than a third of a region may
                            hold a sample twice.
    balanced                Each position takes a class, each that occurs equally likely, then one of its samples, so
                            that rare crisis classes are seen as often as crops. Samples come back at random. An epoch
                            counts as many positions as there are samples, and no batch reaches over two.
    balanced, region_weights  The same, but within a class a sample is as likely as its region's weight.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from harmonize.problem import Problem, nearest
from harmonize.views import seed_of
from harmonize.vocabulary import CLASSES
from pipeline.sample import SENSORS
from train.draws import LOW, below, counter, first_words, permuted
from train.recipe import Data

if TYPE_CHECKING:
    from train.shards import Samples

# The first place of a counter says what is drawn. 3 and 4 are the texts' and the steps' (train/batches.py, loop.py).
BALANCED, PLAIN, REGION = 1, 2, 5
MOST_TABLED = 2**20
"""Permutations of up to so many samples are tables (8 MB); those of more are computed place by place."""
MOST_APART = 2**16
"""Longest stretch of two epochs that is kept free of repeats: the largest batch that may reach over both, less one."""
MOST_TURNS = 3 * 10**9
"""Longest epoch of weighted regions: the products in `turns` have 64 bits."""


class Shuffle:
    """Endless order of `count` things, an epoch after the other, each a permutation.

    The first `apart` places of an epoch hold nothing of the last `apart` places of the one before: what would come
    again so soon has changed places with the first things behind that do not. As `apart` is at most a third, there are
    always enough of those, and an epoch's own end never moves. So any `apart + 1` things in a row are different ones.

    Memory: a table and a draft for each of two epochs, 8 bytes a thing up to MOST_TABLED; above, 16 bytes x MOST_APART.
    """

    def __init__(self, count: int, seed: int, *where: int) -> None:
        self.count, self.apart = count, min(count // 3, MOST_APART)
        self._seed, self._where = seed, where
        self._starts: dict[int, np.ndarray] = {}

    def at(self, positions: np.ndarray) -> np.ndarray:
        """(n,) int64 in [0, count) at n positions of 0 or more."""
        epochs, places = np.divmod(positions, self.count)
        found = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = np.flatnonzero(epochs == epoch)
            start, wanted = self._start(int(epoch)), places[here]
            known = wanted < len(start)
            found[here[known]] = start[wanted[known]]
            if not known.all():
                found[here[~known]] = self._drawn(int(epoch), wanted[~known])
        return found

    def _start(self, epoch: int) -> np.ndarray:
        """The first places of an epoch as they are: all of them, where there is a table."""
        starts = self._starts
        if epoch not in starts:
            # Another thread may do the same: it finds the same, and one of the two is kept.
            kept = {epoch - 1: starts[epoch - 1]} if epoch - 1 in starts else {}
            self._starts = starts = {**kept, epoch: self._made(epoch)}
        return starts[epoch]

    def _made(self, epoch: int) -> np.ndarray:
        tabled = self.count <= MOST_TABLED
        start = self._drawn(epoch, np.arange(self.count if tabled else 2 * self.apart))
        if epoch:
            before = self._drawn(epoch - 1, np.arange(self.count - self.apart, self.count))
            again = np.isin(start[: 2 * self.apart], before)
            soon = np.flatnonzero(again[: self.apart])
            free = self.apart + np.flatnonzero(~again[self.apart :])[: len(soon)]
            start[soon], start[free] = start[free], start[soon]
        return start

    def _drawn(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """An epoch's own permutation, its start not yet kept apart from the epoch before."""
        if self.count > MOST_TABLED:
            return permuted(places, self.count, self._seed, *self._where, epoch)
        return counter(self._seed, *self._where, epoch).permutation(self.count)[places]


def turns(positions: np.ndarray, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Whose turn each position is, and the number of its turns before: (n,) int64 each.

    Of any sum(counts) positions in a row, `counts[k]` are k's, spread as evenly as whole turns allow: one after the
    other, each k takes its share of those that are left. The sum is at most MOST_TURNS.
    """
    owner = np.full(len(positions), len(counts) - 1, np.int64)
    turn, left = np.empty(len(positions), np.int64), np.asarray(positions, np.int64)
    open_, total = np.arange(len(positions)), sum(counts)
    for k, count in enumerate(counts[:-1]):
        before, after = (place // total * count + place % total * count // total for place in (left, left + 1))
        mine = after > before
        owner[open_[mine]], turn[open_[mine]] = k, before[mine]
        open_, left, total = open_[~mine], (left - before)[~mine], total - count
    turn[open_] = left
    return owner, turn


class Order:
    """The endless stream of one sensor's samples: rows by position."""

    def __init__(self, samples: Samples, sensor: str, data: Data, seed: int) -> None:
        self.mine = np.flatnonzero(samples["sensor"] == sensor)
        self._seed, self._number = seed, SENSORS.index(sensor)
        names = np.array(samples.regions)[samples["region"][self.mine]] if data.region_weights else np.array([])
        self.regions = dict(sorted(Counter(names.tolist()).items()))
        """Samples of each region, where regions have weights."""
        weights = {name: data.region_weights.get(name, 1.0) for name in self.regions}
        self._counts = [len(self.mine)]
        masks = samples["label_mask"][self.mine].astype(np.int64)
        holders = [np.flatnonzero(masks >> k & 1) for k in range(len(CLASSES))] if data.sampling == "balanced" else []
        holders = [h for h in holders if len(h)]
        self.balanced = bool(holders)
        if self.balanced:
            self._sizes = np.array([len(h) for h in holders])
            self._holders, self._first = np.concatenate(holders), np.cumsum(self._sizes) - self._sizes
            each = np.array([weights[name] for name in names.tolist()])
            self._likely = [np.cumsum(each[h]) for h in holders] if len(weights) > 1 else []
        elif len(weights) > 1:
            # By name: neither the order of folders nor a region that comes later changes a region's own stream.
            own = [(name, np.flatnonzero(names == name)) for name in weights]
            self._shuffles = [(rows, Shuffle(len(rows), seed, REGION, self._number, seed_of(n))) for n, rows in own]
            self._counts = [max(1, round(len(rows) * weights[name])) for name, rows in own]
            if self.length > MOST_TURNS:
                what = f"region_weights make an epoch of {self.length} samples, more than {MOST_TURNS}"
                raise Problem(what, where="recipe, key 'data.region_weights'", fix="divide all weights by a number")
        else:
            self._shuffles = [(np.arange(len(self.mine)), Shuffle(len(self.mine), seed, PLAIN, self._number))]

    @property
    def length(self) -> int:
        """Positions of an epoch."""
        return sum(self._counts)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Rows of the samples at these positions."""
        return self.mine[self._drawn(positions) if self.balanced else self._shuffled(positions)]

    def reaches(self, size: int) -> bool:
        """Whether a batch may reach over two epochs; otherwise the last samples of an epoch wait."""
        return not self.balanced and (len(self._shuffles) > 1 or size <= self._shuffles[0][1].apart + 1)

    def position(self, steps: int, size: int, start: int = 0) -> int:
        """Position of the batch that comes `steps` batches after position `start`."""
        left = (self.length - start % self.length) // size
        if self.reaches(size) or steps < left:
            return start + steps * size
        epochs, place = divmod(steps - left, self.length // size)
        return (start // self.length + 1 + epochs) * self.length + place * size

    def steps(self, epochs: int, size: int) -> int:
        """Batches until so many epochs are over."""
        return -(-epochs * self.length // size) if self.reaches(size) else epochs * (self.length // size)

    def _shuffled(self, positions: np.ndarray) -> np.ndarray:
        owner, turn = turns(positions, self._counts)
        found = np.empty(len(positions), np.int64)
        for k, (rows, shuffle) in enumerate(self._shuffles):
            here = owner == k
            found[here] = rows[shuffle.at(turn[here])]
        return found

    def _drawn(self, positions: np.ndarray) -> np.ndarray:
        """Class, then sample: the lower and the upper half of one word, as numpy's `integers` takes them one by one."""
        if self._likely or self._seed >= 2**32 or positions.max(initial=0) >= 2**32:
            return np.array([self._one(int(p)) for p in positions], np.int64)
        words = first_words(self._seed, BALANCED, self._number, positions)
        lower, upper = words & LOW, words >> np.uint64(32)
        if len(self._sizes) == 1:  # numpy draws nothing where there is no choice
            upper = lower
        which, unfair = below(lower, np.uint64(len(self._sizes)))
        drawn, unfair_too = below(upper, self._sizes[which].astype(np.uint64))
        found = self._holders[self._first[which] + drawn]
        for k in np.flatnonzero(unfair | unfair_too):
            found[k] = self._one(int(positions[k]))
        return found

    def _one(self, position: int) -> int:
        draw = counter(self._seed, BALANCED, self._number, position)
        k = int(draw.integers(len(self._sizes)))
        if self._likely:
            likely = self._likely[k]
            place = int(np.searchsorted(likely, draw.random() * likely[-1], side="right"))
        else:
            place = int(draw.integers(self._sizes[k]))
        return int(self._holders[self._first[k] + place])


def batch_sizes(counts: dict[str, int], data: Data) -> dict[str, int]:
    """Samples of each sensor in a step, of the whole world; `counts`: samples of each sensor there is.

    Without `s1_share` a batch is never more than its sensor has samples. Raises Problem for a share that the samples
    do not allow.
    """
    if data.s1_share is None:
        return {sensor: min(data.batch_size, count) for sensor, count in counts.items()}
    missing = [sensor for sensor in SENSORS if not counts.get(sensor)]
    if missing:
        what = f"s1_share = {data.s1_share:g} wants both sensors, and no training sample is of {missing[0]}"
        raise Problem(what, where="recipe, key 'data.s1_share'", fix="leave s1_share out")
    s1 = round(2 * data.batch_size * data.s1_share)
    sizes = {sensor: s1 if sensor == "s1" else 2 * data.batch_size - s1 for sensor in counts}
    for sensor, size in sizes.items():
        if not 0 < size <= counts[sensor]:
            what = f"s1_share = {data.s1_share:g} wants {size} {sensor} samples a step, and there are {counts[sensor]}"
            fix = "bring s1_share nearer to 0.5" if not size else "lower batch_size, or change s1_share"
            raise Problem(what, where="recipe, key 'data.s1_share'", fix=fix)
    return sizes


def check_order(samples: Samples, data: Data) -> None:
    """Whether training samples can come as a recipe wants them; else a Problem, before anything heavy starts."""
    for name in data.region_weights:
        where = f"recipe, key 'data.region_weights.{name}'"
        if name not in samples.regions:
            raise Problem(f"these shards have no region '{name}'", where=where, fix=nearest(name, samples.regions))
        if not (samples["region"] == samples.regions.index(name)).any():
            raise Problem(f"region '{name}' has no training sample", where=where, fix="leave it out")
    batch_sizes({s: int((samples["sensor"] == s).sum()) for s in SENSORS if (samples["sensor"] == s).any()}, data)
