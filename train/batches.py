"""Batches: which samples, which text, in which order. All of it a function of (seed, sensor, position).

A position counts the samples of one sensor since the start of the run (train/order.py says what comes where). So a run
resumes by one number per sensor, and reads exactly the samples it had not read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harmonize.problem import Problem
from harmonize.views import half_view, seed_of, subset_view
from pipeline.sample import SENSORS
from train.draws import counter, first_words
from train.order import Order, batch_sizes
from train.recipe import Data
from train.shards import Reader, Samples

VIEWS = 3
"""The first place of the texts' counters (train/order.py has the others)."""


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


class Batches:
    """Batches of the train split, one per sensor and step: the share that one rank of `world` reads.

    Steps count from 0. `resume` says which samples a step has if the run did not come here in these very batches.
    """

    def __init__(self, samples: Samples, data: Data, seed: int, rank: int = 0, world: int = 1) -> None:
        assert 0 <= rank < world
        self.samples, self._data, self._seed = samples, data, seed
        self._reader = Reader(samples)
        self._orders = {s: Order(samples, s, data, seed) for s in SENSORS if (samples["sensor"] == s).any()}
        self._sizes = batch_sizes({s: len(order.mine) for s, order in self._orders.items()}, data)
        _check_world(self._sizes, world)
        self._rank, self._world = rank, world
        self._origin, self._starts = 0, dict.fromkeys(self._orders, 0)

    @property
    def sensors(self) -> list[str]:
        return list(self._orders)

    def size(self, sensor: str) -> int:
        """Samples of a sensor in a step, those of all ranks together."""
        return self._sizes[sensor]

    @property
    def weights(self) -> dict[str, float]:
        """Of each sensor's loss in a step: all the same, or by samples where their proportion was chosen."""
        if self._data.s1_share is None:
            return dict.fromkeys(self._orders, 1.0)
        return {sensor: self.size(sensor) / self._data.batch_size for sensor in self._orders}

    @property
    def steps_per_epoch(self) -> int:
        """Steps until the sensor with the most batches has been seen once; the others repeat."""
        return self.steps(1)

    def steps(self, epochs: int) -> int:
        """Steps of so many epochs of the sensor with the most batches."""
        return max(order.steps(epochs, self.size(sensor)) for sensor, order in self._orders.items())

    def positions(self, sensor: str, step: int) -> np.ndarray:
        """Positions, int64, in a sensor's stream of what this rank reads at a step."""
        size = self.size(sensor)
        start = self._orders[sensor].position(step - self._origin, size, self._starts[sensor])
        return start + np.arange(size * self._rank // self._world, size * (self._rank + 1) // self._world)

    def state(self, step: int) -> dict[str, Any]:
        """Where the streams are after the first `step` steps: for JSON, the same on every rank."""
        ends = dict(self._starts)
        if step > self._origin:
            ends = {
                s: order.position(step - 1 - self._origin, self.size(s), self._starts[s]) + self.size(s)
                for s, order in self._orders.items()
            }
        return {"step": step, "positions": ends, "stream": self._stream}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state, whatever the ranks, workers and batch size it was saved with.

        Raises Problem for a state of other streams: a position says nothing about them.
        """
        if state["stream"] != self._stream:
            was, now = (json.dumps(stream, sort_keys=True) for stream in (state["stream"], self._stream))
            what = f"the run's samples came in another order: {was}, and now {now}"
            raise Problem(what, fix="use the recipe and the shards that the run began with, or begin another run")
        self._origin, self._starts = int(state["step"]), {s: int(state["positions"][s]) for s in self._orders}

    @property
    def _stream(self) -> dict[str, Any]:
        """What the streams are made of, besides the samples themselves (run.json holds these by hash)."""
        found: dict[str, Any] = {
            "seed": self._seed, "sampling": self._data.sampling, "region_weights": self._data.region_weights,
            "samples": {s: len(order.mine) for s, order in self._orders.items()},
        }  # fmt: skip
        if self._data.region_weights:  # each region is a stream of its own: which of them a sample counts for matters
            found["regions"] = {s: order.regions for s, order in self._orders.items()}
        return found

    def batch(self, sensor: str, step: int) -> Batch:
        """This rank's share of a sensor's batch at a step, read."""
        plan = self.plan(sensor, step)
        return replace(plan, arrays=self._reader.read(self.samples.where(plan.rows)))

    def plan(self, sensor: str, step: int) -> Batch:
        """The same batch without its arrays: what it holds is decided, no tar is touched."""
        positions = self.positions(sensor, step)
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
        texts, masks = [str(caption) for caption in full], labels.copy()
        if self._data.views == "caption":
            return texts, masks
        for k in np.flatnonzero(self._changed(number, positions)).tolist():
            where = (self._seed, VIEWS, number, int(positions[k]))
            if self._data.views == "subsets":
                texts[k], masks[k] = subset_view(texts[k], int(labels[k]), counter(*where))
            else:
                texts[k], masks[k] = half_view(texts[k], int(labels[k]), self._data.views, seed_of(*where))
        return texts, masks

    def _changed(self, number: int, positions: np.ndarray) -> np.ndarray:
        """bool (n,): where a view may be another text than the caption. The generators of `subset_view` leave it as it
        is where their first number is below a half, and to make one takes longer than all the rest."""
        if self._data.views != "subsets" or max(self._seed, int(positions.max(initial=0))) >= 2**32:
            return np.ones(len(positions), bool)
        found: np.ndarray = first_words(self._seed, VIEWS, number, positions) >> np.uint64(63) == 1
        return found


def _check_world(sizes: dict[str, int], world: int) -> None:
    for sensor, size in sizes.items():
        if size < world:
            what = f"{world} ranks cannot share a batch of {size} {sensor} samples"
            raise Problem(what, fix="use fewer ranks, or a larger data.batch_size")
