"""A training job without a model: ranks that read batches, write down what they got, and are killed. For test_order."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import torch

from pipeline.sample import SENSORS
from train.batches import Batches
from train.checkpoint import write_whole
from train.loader import Loading, training_loader
from train.recipe import Data
from train.shards import open_shards

# One clean process has the imports (pyarrow takes pandas along when it reads dates); ranks are forked from it at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "pandas", "train.loader", "train.batches", "train.checkpoint"])
SAVE_STEPS = 3


@dataclass(frozen=True)
class Ran:
    """What a job did until its end."""

    steps: list[list[str]]
    """Of each step, from the one it began with: the cells of all ranks' samples, sensor by sensor, rank by rank."""
    seconds: float
    """The slowest rank's, from the opened shards to its first batch."""
    codes: list[int | None]
    """The ranks' exit codes."""


def run_job(
    folder: Path,
    shards: Path,
    data: Data,
    world: int,
    workers: int,
    end: int,
    state: dict[str, Any] | None = None,
    kill_at: int | None = None,
) -> Ran:
    """Ranks that read shards of both sensors, from a state until step `end`, and save their state in the folder every few steps.

    kill_at: the rank that is given this sample (counted from the run's first) is killed at once, and then the others.
    """
    folder.mkdir()
    barrier = FORKS.Barrier(world)
    common = (shards, data, workers, end, state, kill_at, barrier)
    ranks = [FORKS.Process(target=_rank, args=(folder, rank, world, *common)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    while any(r.is_alive() for r in ranks) and all(r.exitcode in (None, 0) for r in ranks):
        time.sleep(0.002)
    for rank in ranks:
        if any(r.exitcode for r in ranks):
            rank.kill()
        rank.join()
    logs = [(folder / f"rank-{rank}").read_text().splitlines() for rank in range(world)]
    each = len(SENSORS)
    whole = min(len(log) for log in logs) // each
    return Ran(
        steps=[
            [cell for line in range(step * each, (step + 1) * each) for log in logs for cell in json.loads(log[line])]
            for step in range(whole)
        ],
        seconds=max((float(path.read_text()) for path in folder.glob("first-*")), default=0.0),
        codes=[rank.exitcode for rank in ranks],
    )


def saved_state(folder: Path) -> dict[str, Any] | None:
    path = folder / "state.json"
    return json.loads(path.read_text()) if path.exists() else None


def _rank(
    folder: Path,
    rank: int,
    world: int,
    shards: Path,
    data: Data,
    workers: int,
    end: int,
    state: dict[str, Any] | None,
    kill_at: int | None,
    barrier: Any,
) -> None:
    samples = open_shards([shards]).of("train")
    begun = time.perf_counter()
    batches = Batches(samples, data, 0, rank, world)
    if state:
        batches.resume(state)
    first = int(state["step"]) if state else 0
    loading = Loading(workers=workers, ahead=max(2, workers))
    coming = training_loader(batches, range(first, end), torch.device("cpu"), loading)
    with coming, (folder / f"rank-{rank}").open("a", buffering=1) as log:
        for step in range(first, end):
            seen = step * sum(batches.size(s) for s in batches.sensors)
            for sensor in batches.sensors:
                batch = next(coming)
                if step == first and sensor == batches.sensors[0]:
                    (folder / f"first-{rank}").write_text(str(time.perf_counter() - begun))
                mine = seen + batches.size(sensor) * rank // world
                if kill_at is not None and mine <= kill_at < mine + len(batch.cells):
                    os.kill(os.getpid(), signal.SIGKILL)
                log.write(json.dumps(batch.cells.tolist()) + "\n")
                seen += batches.size(sensor)
            try:
                barrier.wait(60)  # as the ranks' gradients wait for each other
            except BrokenBarrierError:
                return
            if rank == 0 and (step + 1) % SAVE_STEPS == 0:
                write_whole(folder / "state.json", json.dumps(batches.state(step + 1)).encode())
