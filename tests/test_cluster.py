"""Jobs on processes: the same bytes, errors as themselves, and nothing left behind."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jobs
import psutil
import pytest
from conftest import ROOT
from test_bad_input import cli
from test_runner import hashes
from world import World

from harmonize.problem import Problem
from pipeline import cluster, job, pixels, progress, runner, worker
from pipeline.cluster import Scheduler
from pipeline.region import Region
from pipeline.store import Store
from pipeline.tars import planned_bytes
from pipeline.work import Work

Score = Callable[[str, int, int], None]


@pytest.fixture(scope="module")
def two() -> Iterator[Scheduler]:
    """A local cluster of two processes, which gives a job up when two of them died over it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "START_S", 0)
        patch.setattr(cluster, "DEATHS", 2)
        patch.setattr(job, "TRIES", 2)
        patch.setattr("dask.system.CPU_COUNT", 2)
        with Scheduler("") as scheduler:
            yield scheduler


@pytest.fixture
def world(tmp_path: Path) -> World:
    dates = ("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z", "2020-08-01T10:00:00Z")
    return World(tmp_path / "w", size_m=1800, dates=dates, tail="[shards]\nshard_mb = 0.2\n")


def build(manifest: Path, out: Path, scheduler: Scheduler = cluster.SERIAL) -> dict[str, str]:
    region, store = runner.load(manifest, str(out))
    runner.run_upto(region, store, "shards", quiet=True, scheduler=scheduler)
    return hashes(out)


def work_in(folder: Path, world: World) -> Work:
    region, _ = runner.load(world.write(), str(folder))
    (folder / "tiny").mkdir(parents=True)
    return Work(region, Store(str(folder / "tiny")), {}, quiet=True)


def test_processes_write_the_same_bytes(world: World, tmp_path: Path, two: Scheduler) -> None:
    manifest = world.write()
    serial = build(manifest, tmp_path / "serial")
    assert serial == build(manifest, tmp_path / "local", two)
    assert sum(name.endswith(".tar") for name in serial) > 4
    assert two._client is not None, "the jobs ran on the cluster"


def test_real_samples_have_the_same_bytes(real_folder: Path, real_run: Path, tmp_path: Path, two: Scheduler) -> None:
    assert build(real_folder / "real-samples.toml", tmp_path / "out", two) == hashes(real_run.parent)


def test_results_come_in_order_and_few_jobs_wait(world: World, tmp_path: Path, two: Scheduler) -> None:
    work, taken, done = work_in(tmp_path / "out", world), 0, 0
    ahead = []

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(60):
            taken += 1
            ahead.append(taken - done)
            yield number

    def count(_: object) -> None:
        nonlocal done
        done += 1

    found = list(two.run(jobs.late, work, numbers(), 60, count))
    assert [number for number, _ in found] == list(range(60))
    assert len({pid for _, pid in found if pid != os.getpid()}) == 2
    assert max(ahead) <= 2 * cluster.AHEAD + 1


@pytest.mark.parametrize("damage", ["baseline", "labels"])
def test_a_problem_arrives_as_itself(damage: str, world: World, tmp_path: Path, two: Scheduler) -> None:
    world.baseline = None if damage == "baseline" else world.baseline
    manifest = world.write()
    if damage == "labels":
        path = world.root / "labels/classes.tif"
        path.write_bytes(path.read_bytes()[:400])
    said = []
    for scheduler in (cluster.SERIAL, two):
        with pytest.raises(Problem) as caught:
            build(manifest, tmp_path / str(len(said)), scheduler)
        said.append((str(caught.value), caught.value.code))
    assert said[0] == said[1]


def test_a_job_outlives_its_worker(
    world: World, tmp_path: Path, two: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = world.write()
    expected = build(manifest, tmp_path / "serial")
    monkeypatch.setattr(pixels, "_cut_part", jobs.cut_part_after_a_death)
    found = build(manifest, tmp_path / "local", two)
    assert found.pop("died"), "a worker died"
    assert found == expected, "and left nothing"


def test_a_job_that_kills_its_workers_is_given_up(world: World, tmp_path: Path, two: Scheduler) -> None:
    with pytest.raises(Problem, match=r"4 workers died over one job, die 1: out of") as caught:
        list(two.run(jobs.die, work_in(tmp_path / "out", world), [1], 1))
    assert caught.value.code == 1


def test_workers_that_end_in_three_ways(
    world: World, tmp_path: Path, two: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exit, one that says good-bye, and a segmentation fault, each in the middle of a part."""
    manifest = world.write()
    expected = build(manifest, tmp_path / "serial")
    monkeypatch.setattr(pixels, "_cut_part", jobs.cut_part_among_deaths)
    found = build(manifest, tmp_path / "local", two)
    assert all(found.pop(f"died-{how}") for how in ("exit", "graceful", "segfault"))
    assert found == expected


class Killer(threading.Thread):
    """Ends each worker of a local cluster when its life is over, some `life_s` seconds after it has come up, in one of
    three ways, until told to stop or `most` have gone."""

    def __init__(self, scheduler: Scheduler, life_s: float, seed: int, most: int) -> None:
        super().__init__(daemon=True)
        self.scheduler, self.life_s, self.random = scheduler, life_s, random.Random(seed)
        self.ended, self.count, self.most = threading.Event(), 0, most
        self._ends: dict[int, float] = {}

    def run(self) -> None:
        while not self.ended.wait(0.02) and self.count < self.most:
            for pid in self._up():
                if time.monotonic() > self._ends.setdefault(pid, self._end()):
                    number = self.random.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                    self._ends[pid] = float("inf")
                    self.count += 1

    def _end(self) -> float:
        return time.monotonic() + self.random.expovariate(1 / self.life_s)

    def _up(self) -> list[int]:
        """Process ids of the workers that have come up."""
        nannies = list(self.scheduler._cluster.workers.values()) if self.scheduler._cluster else []
        return [n.process.pid for n in nannies if n.process and n.process.status.name == "running" and n.process.pid]


def build_among_deaths(manifest: Path, out: Path, seed: int, most: int) -> tuple[dict[str, str], int]:
    """The files of a build whose workers live 2 s on the average, and how many were ended."""
    with Scheduler("") as scheduler:
        killer = Killer(scheduler, 2.0, seed, most)
        killer.start()
        try:
            found = build(manifest, out, scheduler)
        finally:
            killer.ended.set()
            killer.join()
    return found, killer.count


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local clusters start at once, with two processes."""
    monkeypatch.setattr(cluster, "START_S", 0)
    monkeypatch.setattr(cluster, "DEATHS", 3)
    monkeypatch.setattr(job, "TRIES", 4)
    monkeypatch.setattr("dask.system.CPU_COUNT", 2)


def test_workers_that_live_two_seconds(
    eager: None, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Score
) -> None:
    """Fewer end than it takes to give up a job, so that this holds on a busy machine, where lives are shorter, too."""
    manifest = world.write()
    expected = build(manifest, tmp_path / "serial")
    monkeypatch.setattr(pixels, "_cut_part", jobs.cut_part_leisurely)
    found, deaths = build_among_deaths(manifest, tmp_path / "local", 1, most=3)
    score("builds whose workers live 2 s", int(found == expected), 1)
    assert found == expected
    assert deaths


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_many_builds_whose_workers_live_two_seconds(
    seed: int, eager: None, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Score
) -> None:
    manifest = world.write()
    manifest.write_text(manifest.read_text().replace('"s2-here"\n', '"s2-here"\nper_cell = 9\n', 1))
    expected = build(manifest, tmp_path / "serial")
    monkeypatch.setattr(pixels, "_cut_part", jobs.cut_part_leisurely)
    found, deaths = build_among_deaths(manifest, tmp_path / "local", 100 + seed, most=100)
    score("builds whose workers live 2 s", int(found == expected), 1)
    score("workers ended while they worked", deaths, deaths)
    assert found == expected


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "ftp://127.0.0.1:9"])
def test_an_address_where_nobody_answers(
    address: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_S", 1)
    manifest = world.write()
    code, said = cli("build", str(manifest), "--out", str(tmp_path / "out"), "--scheduler", address)
    assert code == 2
    assert "no dask scheduler answers" in said
    assert address in said


def test_a_scheduler_without_workers(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "WORKERS_S", 1)
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty:
        address = empty.scheduler_address
        with Scheduler(address) as scheduler, pytest.raises(Problem, match="no workers"):
            list(scheduler.run(jobs.late, work_in(tmp_path / "out", world), [1], 1))


def test_a_worker_with_other_code_or_other_disks_is_told(world: World, tmp_path: Path) -> None:
    import pickle

    work = work_in(tmp_path / "out", world)
    late = pickle.dumps((jobs.late, work, 1))
    assert worker.perform(worker.about(), late)[0] == 1
    other = worker.perform(worker.about() | {"pyarrow": "1.0"}, late)
    assert isinstance(other, Problem)
    assert re.search(r"another version: pyarrow .* \(here 1\.0\)", other.what)
    work.store.root = str(tmp_path / "elsewhere")
    elsewhere = worker.perform(worker.about(), pickle.dumps((jobs.late, work, 1)))
    assert isinstance(elsewhere, Problem)
    assert "does not see" in elsewhere.what


CHILD = """
import sys
sys.path.insert(0, "tests")
import jobs
from pipeline import cluster, pixels
from pipeline.__main__ import main
from harmonize.command import stop_on_interrupt
if __name__ == "__main__":
    cluster.START_S = 0
    pixels._cut_part = jobs.cut_part_slowly
    stop_on_interrupt()
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_process(number: signal.Signals, world: World, tmp_path: Path) -> None:
    """The whole process group gets Ctrl-C, as from a terminal; kill -9 hits the parent alone."""
    manifest, out = world.write(), tmp_path / "out"
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, str(tmp_path / "child.py"), "build", str(manifest), "--to", "shards", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (out / "started").exists():
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(child.pid).children(recursive=True)
    assert len(workers) >= 2
    (os.killpg if number == signal.SIGINT else os.kill)(child.pid, number)
    said = child.communicate()[1]
    assert child.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
    (out / "started").unlink()
    assert not (out / "tiny/receipts/pixels.json").exists()
    build(manifest, out)
    assert not list(out.rglob(".*.tmp"))


def test_tars_are_as_large_as_planned(real_run: Path) -> None:
    import json

    for tar in json.loads((real_run / "shards/shards.json").read_text())["shards"]:
        planned = tar["nsamples"] * planned_bytes(tar["sensor"], 60, quicklook=True)
        assert abs(tar["bytes"] / planned - 1) < 0.1


def test_full_tars_are_near_shard_mb(tmp_path: Path) -> None:
    world = World(tmp_path / "w", size_m=4800, tail="[shards]\nshard_mb = 0.5\nquicklook = false\n")
    build(world.write(), tmp_path / "out")
    tars = sorted((tmp_path / "out/tiny/shards").glob("train-*.tar"))
    full = [a for a, b in itertools.pairwise(tars) if a.name[:8] == b.name[:8]]
    assert len(full) > 4
    assert all(abs(tar.stat().st_size / 0.5e6 - 1) < 0.1 for tar in full)


def test_whole_tars_of_a_killed_run_are_not_written_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = world.write()
    expected = build(manifest, tmp_path / "out")
    tars = sorted((tmp_path / "out/tiny/shards").glob("*.tar"))
    (tmp_path / "out/tiny/receipts/shards.json").unlink()
    tars[0].write_bytes(tars[0].read_bytes()[:-1] + b"x")
    before = {tar: tar.stat().st_mtime_ns for tar in tars}
    assert build(manifest, tmp_path / "out") == expected
    assert [tar for tar in tars if tar.stat().st_mtime_ns != before[tar]] == tars[:1], "the damaged one alone"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_tells_rate_and_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress.Progress("pixels", 4) as bar:
        bar.advance({"cloud": 2})
        assert log.getvalue() == "", "a short stage says nothing to a log"
        bar._started -= 60
        bar._said -= 60
        bar.advance({"cloud": 1, "unreadable": 1})
    assert log.getvalue() == "pixels: 2 of 4, 30.0 s each, 0:01:00 left, dropped 3 cloud, 1 unreadable\n"
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.Progress("pixels", 2) as bar:
        bar.advance({"cloud": 2})
        bar._bar.refresh()
    assert "1/2" in screen.getvalue()
    assert "2 cloud" in screen.getvalue()


def test_jobs_see_absolute_paths_and_no_tables(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = world.write()
    monkeypatch.chdir(tmp_path)
    region, store = runner.load(manifest.relative_to(tmp_path), "out")
    work = Work(region, store, {"scenes": None}).for_jobs()  # type: ignore[dict-item]
    assert isinstance(work.region, Region)
    assert (work.region.path, work.store.root, work.tables) == (manifest, str(tmp_path / "out/tiny"), {})
