"""Batches: which samples, which text, in which order. All of it a function of (seed, sensor, position).

A position counts the samples of one sensor since the start of the run; epoch and place in the epoch follow from it.
So a run resumes by its step number alone, and reads exactly the samples it had not read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harmonize.views import seed_of, subset_view, synonym_view
from harmonize.vocabulary import CLASSES
from pipeline.sample import SENSORS
from train.recipe import Data
from train.shards import Reader, Samples


@dataclass(frozen=True)
class Batch:
    """B samples of one sensor."""

    sensor: str
    rows: np.ndarray
    """(B,) of the samples that batches are made of."""
    arrays: dict[str, Any]
    """group -> (B, C, H, W), native resolution, uint16 (s2) or float16 (s1); numpy's or, where they are on a device
    already, torch's. None are there yet in a plan."""
    texts: list[str]
    text_masks: np.ndarray
    """(B,) classes that each text names."""
    label_masks: np.ndarray
    known_masks: np.ndarray
    lonlat: np.ndarray
    """(B, 2) degrees, float64."""
    cells: np.ndarray


def counter(seed: int, *where: int) -> np.random.Generator:
    """A generator of its own for one place of a run: nothing depends on how many numbers were drawn before."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *where])))


class Order:
    """Endless order of one sensor's samples.

    plain: every epoch a new permutation. balanced: each draw takes a class uniformly among those that occur, then one
    of its samples uniformly, so that rare crisis classes are seen as often as crops.
    """

    def __init__(self, samples: Samples, sensor: str, data: Data, seed: int) -> None:
        self.mine = np.flatnonzero(samples["sensor"] == sensor)
        self._number, self._data, self._seed = SENSORS.index(sensor), data, seed
        masks = samples["label_mask"][self.mine].astype(np.int64)
        holders = [np.flatnonzero(masks >> k & 1) for k in range(len(CLASSES))]
        self._holders = [h for h in holders if len(h)]
        self._epoch, self._permutation = -1, np.zeros(0, np.int64)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Rows of the samples at these positions."""
        return self.mine[np.array([self._one(int(p)) for p in positions], np.int64)]

    def _one(self, position: int) -> int:
        epoch, place = divmod(position, len(self.mine))
        if self._data.sampling == "balanced" and self._holders:
            draw = counter(self._seed, 1, self._number, position)
            holder = self._holders[int(draw.integers(len(self._holders)))]
            return int(holder[int(draw.integers(len(holder)))])
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = counter(self._seed, 2, self._number, epoch).permutation(len(self.mine))
        return int(self._permutation[place])


class Batches:
    """Batches of the train split, one per sensor and step."""

    def __init__(self, samples: Samples, data: Data, seed: int) -> None:
        self.samples, self._data, self._seed = samples, data, seed
        self._reader = Reader(samples)
        self._orders = {s: Order(samples, s, data, seed) for s in SENSORS if (samples["sensor"] == s).any()}

    @property
    def sensors(self) -> list[str]:
        return list(self._orders)

    def size(self, sensor: str) -> int:
        """Batch size of a sensor: never more than it has samples."""
        return min(self._data.batch_size, len(self._orders[sensor].mine))

    @property
    def steps_per_epoch(self) -> int:
        """Steps until the sensor with the most batches has been seen once; the others repeat."""
        return max(self._per_epoch(sensor) for sensor in self._orders)

    def _per_epoch(self, sensor: str) -> int:
        """Whole batches in an epoch. Its last few samples wait for the next one, which has another order: a batch
        never reaches over two epochs, so without balanced sampling it holds no sample twice."""
        return len(self._orders[sensor].mine) // self.size(sensor)

    def batch(self, sensor: str, step: int) -> Batch:
        """The batch of a sensor at a step, read; steps count from 0."""
        plan = self.plan(sensor, step)
        return replace(plan, arrays=self._reader.read(self.samples.where(plan.rows)))

    def plan(self, sensor: str, step: int) -> Batch:
        """The same batch without its arrays: what it holds is decided, no tar is touched."""
        size = self.size(sensor)
        epoch, place = divmod(step, self._per_epoch(sensor))
        start = epoch * len(self._orders[sensor].mine) + place * size
        positions = np.arange(start, start + size)
        rows = self._orders[sensor].at(positions)
        chosen = self.samples.where(rows)
        texts, masks = self._texts(chosen, SENSORS.index(sensor), positions)
        return Batch(
            sensor=sensor,
            rows=rows,
            arrays={},
            texts=texts,
            text_masks=masks,
            label_masks=chosen["label_mask"].astype(np.int64),
            known_masks=chosen["known_mask"].astype(np.int64),
            lonlat=np.column_stack([chosen["lon"], chosen["lat"]]).astype(np.float64),
            cells=chosen["cell"],
        )

    def _texts(self, chosen: Samples, number: int, positions: np.ndarray) -> tuple[list[str], np.ndarray]:
        full = chosen[f"caption_{self._data.style}"]
        labels = chosen["label_mask"].astype(np.int64)
        if self._data.views == "caption":
            return [str(t) for t in full], labels
        texts, masks = [], []
        for caption, label, position in zip(full, labels, positions, strict=True):
            where = (self._seed, 3, number, int(position))
            if self._data.views == "synonyms":
                text, mask = synonym_view(str(caption), int(label), seed_of(*where))
            else:
                text, mask = subset_view(str(caption), int(label), counter(*where))
            texts.append(text)
            masks.append(mask)
        return texts, np.array(masks, np.int64)
