"""Two runs at once: the second stops or waits and says for whom, a killed one blocks nobody, reading needs no lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import fsspec
import pytest
from commands import run
from conftest import ROOT
from fake_shards import write_fake_shards
from test_bad_input import cli
from test_runner import hashes
from world import World

from harmonize import lock
from harmonize.command import Stopped
from harmonize.lock import LOCK, command_line, holder_of, locked
from harmonize.problem import Problem
from pipeline import lease, runner
from pipeline.lease import only_writer
from pipeline.receipt import read_receipt, write_receipt
from pipeline.store import Store
from pipeline.work import Work


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "w", size_m=1200)


HOLDER = """
import sys, time
from pathlib import Path
from harmonize.lock import locked
sys.argv = ["/x/pipeline/__main__.py", "build", "a.toml", "--out", "s3://me:S3CRET@x/b?sig=S3CRET"]
with locked(Path(FOLDER)):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes `out/tiny`."""
    program = HOLDER.replace("FOLDER", repr(str(tmp_path / "out/tiny")))
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("words", [["build"], ["scenes"], ["redo", "scenes"]])
def test_the_second_run_stops_and_says_who_writes(
    words: list[str], other: subprocess.Popen[str], world: World, tmp_path: Path
) -> None:
    code, said = cli(*words, str(world.write()), "--out", str(tmp_path / "out"))
    assert code == 2
    assert (
        f"another run is writing here: python -m pipeline build a.toml --out s3://x/b (process {other.pid} on " in said
    )
    assert "since 20" in said
    assert "--wait" in said
    assert "S3CRET" not in said + (tmp_path / "out/tiny/.lock").read_text()
    assert [p.name for p in (tmp_path / "out/tiny").iterdir()] == [LOCK], "nothing was written"


def test_a_killed_run_blocks_nobody(other: subprocess.Popen[str], world: World, tmp_path: Path) -> None:
    other.kill()
    other.wait()
    assert (tmp_path / "out/tiny/.lock").exists()
    code, said = cli("build", str(world.write()), "--out", str(tmp_path / "out"))
    assert code == 0, said
    assert not (tmp_path / "out/tiny/.lock").exists()


def test_waiting(other: subprocess.Popen[str], world: World, tmp_path: Path) -> None:
    threading.Timer(1.0, other.kill).start()
    code, said = cli("build", str(world.write()), "--out", str(tmp_path / "out"), "--wait")
    assert code == 0
    assert said.startswith(f"waiting for another run in {tmp_path / 'out/tiny'}: python -m pipeline build a.toml")


def test_reading_and_what_is_done_need_no_lock(world: World, tmp_path: Path) -> None:
    manifest, out = world.write(), tmp_path / "out"
    assert cli("build", str(manifest), "--to", "shards", "--out", str(out))[0] == 0
    with locked(out / "tiny"):
        assert "another run is writing here: " in cli("verify", str(manifest), "--out", str(out))[1]
        assert "may be work in progress" in cli("verify", str(out / "tiny/shards"))[1]
        for words in (["status"], ["verify"], ["build"], ["captions"], ["splits"], ["agreement"]):
            code, said = cli(*words, str(manifest), "--out", str(out))
            assert code == 0, said
        assert cli("redo", "captions", str(manifest), "--out", str(out))[0] == 2
        assert holder_of(out / "tiny") == lock.parse_holder((out / "tiny/.lock").read_bytes())
    assert holder_of(out / "tiny") is None
    assert "work in progress" not in cli("verify", str(manifest), "--out", str(out))[1]


def test_verifying_what_has_just_begun(other: subprocess.Popen[str], world: World, tmp_path: Path) -> None:
    code, said = cli("verify", str(world.write()), "--out", str(tmp_path / "out"))
    assert code == 2, "no damage"
    assert f"another run is writing it: python -m pipeline build a.toml --out s3://x/b (process {other.pid}" in said


def test_one_stage_waits_for_the_run_that_makes_its_inputs(world: World, tmp_path: Path) -> None:
    region, store = runner.load(world.write(), str(tmp_path / "out"))
    runner.run_upto(region, store, "labels", quiet=True)
    receipts, aside = tmp_path / "out/tiny/receipts", tmp_path / "aside"
    receipts.rename(aside)
    done: list[Any] = []
    words = (region, store, "captions", True)
    waiting = threading.Thread(target=lambda: done.append(runner.run_alone(*words, wait=True)))
    with locked(tmp_path / "out/tiny"):
        with pytest.raises(Problem, match="captions needs"):
            runner.run_alone(*words)
        waiting.start()
        time.sleep(0.3)
        aside.rename(receipts)
    waiting.join(timeout=60)
    assert [receipt.stage for receipt in done] == ["captions"]
    receipts.rename(aside)
    with pytest.raises(Problem, match="captions needs"):
        runner.run_alone(*words, wait=True)


def test_a_lock_nested_without_end(tmp_path: Path) -> None:
    assert lock.parse_holder(b"[" * 200_000) is None


def test_a_run_that_fails_at_once_leaves_no_folder(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    (world.root / "cogs/s2_0_B11.tif").unlink()
    assert cli("scenes", str(manifest), "--out", str(tmp_path / "a/b/out"))[0] in (0, 2)
    world.manifest = {"start": "2021-01-01", "end": "2021-12-31"}
    assert cli("scenes", str(world.write_manifest()), "--out", str(tmp_path / "c/d/out"))[0] == 2
    assert not (tmp_path / "c").exists()


def test_where_nothing_can_be_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    code, said = cli("scenes", str(world.write()), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "cannot write here" in said


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "out"):
        assert (tmp_path / "out/.lock").exists()
    assert "no locks; run one command at a time" in capsys.readouterr().err


def test_many_at_once_never_meet(tmp_path: Path) -> None:
    """Threads that all wait for one lock, whose file and folder come and go."""
    inside, met, turns = 0, [], 0

    def work() -> None:
        nonlocal inside, turns
        for _ in range(20):
            with locked(tmp_path / "a/b", wait=True):
                inside += 1
                met.append(inside)
                turns += 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "POLL_S", 0.001)
        patch.setattr(lock, "say_waiting", lambda *_: None)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert turns == 80
    assert set(met) == {1}
    assert not list(tmp_path.rglob(".lock"))


def test_what_was_typed() -> None:
    assert command_line(["/c/train/__main__.py", "fit", "a b.toml"]) == "python -m train fit 'a b.toml'"
    assert command_line(["/c/bin/pytest", "https://u:p@x.org/a?b=c"]) == "pytest https://x.org/a"
    assert command_line([]) == "python"


# Two runs at once, at random moments.


def interleavings(tmp_path: Path, number: int, seed: int) -> list[dict[str, Any]]:
    manifest = World(tmp_path / "w", size_m=600).write()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/interleaved.py"), str(manifest), str(tmp_path), str(number), str(seed)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_interleavings(found: list[dict[str, Any]], score: Callable[[str, int, int], None]) -> None:
    allowed = {"stop": ([0, 0], [0, 2], [2, 0]), "wait": ([0, 0],), "killed": ([0, 0], [-9, 0], [2, 0])}
    allowed["wait"] = (*allowed["wait"], [2, 0])  # the first does not wait for the second
    good = [one["equal"] and one["codes"] in allowed[one["how"]] for one in found]
    score("two runs at once", sum(good), len(good))
    assert all(good), [one for one, fine in zip(found, good, strict=True) if not fine]


def test_two_runs_at_random_moments(tmp_path: Path, score: Callable[[str, int, int], None]) -> None:
    found = interleavings(tmp_path, 8, 0)
    check_interleavings(found, score)
    assert any(2 in one["codes"] for one in found), "some met"


@pytest.mark.soak
def test_a_hundred_pairs_of_runs(tmp_path: Path, score: Callable[[str, int, int], None]) -> None:
    check_interleavings(interleavings(tmp_path, 100, 1), score)


# A bucket has no locks.


@pytest.fixture
def bucket() -> Iterator[Store]:
    store = Store("memory://bucket/tiny")
    yield store
    fsspec.filesystem("memory").store.clear()


def test_a_lease_keeps_others_out_and_ends(bucket: Store, capsys: Any) -> None:
    with only_writer(bucket):
        with pytest.raises(Problem, match="another run is writing here: ") as caught, only_writer(bucket):
            pass
        assert "not renewed it for 3 minutes" in caught.value.fix
    assert not bucket.exists(LOCK)
    with only_writer(bucket):
        done = threading.Timer(0.5, bucket.remove, [LOCK])
        done.start()
        with only_writer(bucket, wait=True):
            pass
    assert "waiting for another run" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["old", "gone", "broken", "deep", "no number"])
def test_a_dead_lease_is_taken_over(how: str, bucket: Store) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    about = {"host": "elsewhere", "pid": 1, "since": "?", "command": "x", "token": "t", "renewed": time.time()}
    about |= {"old": {"renewed": time.time() - 200}, "gone": {"host": lock.socket.gethostname(), "pid": gone.pid}}.get(
        how, {}
    )
    about |= {"pid": "1"} if how == "no number" else {}
    bucket.write(LOCK, {"broken": b"{", "deep": b"[" * 200_000}.get(how) or json.dumps(about).encode())
    with only_writer(bucket):
        assert json.loads(bucket.read(LOCK))["pid"] == os.getpid()
        assert bucket.walk() == [LOCK], "no claim is left"


def test_a_lease_is_renewed_until_it_is_lost(bucket: Store, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.02)
    with only_writer(bucket):
        first = json.loads(bucket.read(LOCK))["renewed"]
        time.sleep(0.3)
        renewed = json.loads(bucket.read(LOCK))
        assert renewed["renewed"] > first
        bucket.write(LOCK, json.dumps(renewed | {"token": "another", "command": "theirs"}).encode())
        time.sleep(0.3)
    assert json.loads(bucket.read(LOCK))["token"] == "another", "theirs stays"  # noqa: S105
    assert "another run has taken over" in capsys.readouterr().err


def test_a_run_that_has_lost_its_lease_stops(bucket: Store, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.02)
    region, _ = runner.load(world.write(), "memory://bucket")
    runner.run_upto(region, bucket, "scenes", quiet=True)
    receipt = read_receipt(bucket, "scenes")
    assert receipt
    work = Work(region, bucket, {}, quiet=True, stage="scenes")
    with only_writer(bucket):
        work.begin()
        write_receipt(bucket, receipt)
        jobs = work.jobs(_job, range(3), 3, "")
        assert next(jobs) == 0
        bucket.write(LOCK, json.dumps({**lock.this_process().__dict__, "token": "x", "command": "theirs"}).encode())
        time.sleep(0.3)
        for again in (work.begin, lambda: write_receipt(bucket, receipt), lambda: next(jobs)):
            with pytest.raises(Problem, match="another run has taken over: theirs") as caught:
                again()
            assert caught.value.code == 1
    bucket.remove(LOCK)
    with only_writer(bucket):
        work.begin()


def _job(_: Work, argument: int) -> int:
    return argument


@pytest.mark.parametrize("error", [Stopped(130), Problem("its own", code=4)])
def test_a_store_in_trouble_does_not_hide_why_a_run_ends(
    error: BaseException, bucket: Store, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def no_answer(*_: object) -> bytes:
        raise Problem("the bucket does not answer", code=1)

    def run() -> None:
        with only_writer(bucket):
            monkeypatch.setattr(bucket, "read", no_answer)
            raise error

    with pytest.raises(type(error)) as caught:
        run()
    assert caught.value is error
    assert "the lease could not be removed: the bucket does not answer" in capsys.readouterr().err


def test_a_late_renewal_does_not_put_the_lease_back(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    write, writing, go_on = bucket.write, threading.Event(), threading.Event()

    def slow(name: str, data: bytes) -> str:
        writing.set()
        go_on.wait(10)
        return write(name, data)

    with only_writer(bucket):
        monkeypatch.setattr(bucket, "write", slow)
        assert writing.wait(10)
    go_on.set()
    for thread in [t for t in threading.enumerate() if t.name == "lease"]:
        thread.join(10)
    assert not bucket.exists(LOCK)


class Slow:
    """A store in memory whose answers and deeds take their time, each its own."""

    remote, taken_by, root = True, "", "slow"

    def __init__(self, objects: dict[str, bytes], guard: threading.Lock, seed: str) -> None:
        self._objects, self._guard, self._chance = objects, guard, random.Random(seed)

    def _later(self, deed: Callable[[], Any]) -> Any:
        time.sleep(self._chance.uniform(0.0025, 0.03))
        with self._guard:
            done = deed()
        time.sleep(self._chance.uniform(0.0025, 0.03))
        return done

    def create(self, name: str, data: bytes) -> bool:
        return self._later(lambda: self._objects.setdefault(name, data) is data)

    def read(self, name: str) -> bytes:
        found = self._later(lambda: self._objects.get(name))
        if found is None:
            raise FileNotFoundError(name)
        return found

    def write(self, name: str, data: bytes) -> None:
        self._later(lambda: self._objects.update({name: data}))

    def remove(self, name: str) -> None:
        if self._later(lambda: name in self._objects):
            self._later(lambda: self._objects.pop(name, None))


def test_a_dead_lease_has_one_heir(monkeypatch: pytest.MonkeyPatch, score: Callable[[str, int, int], None]) -> None:
    """Three start at once over a dead lease, in 40 buckets of 5 to 60 ms: never two that write, and always one."""
    trials, starters, seed = 40, 3, 6
    monkeypatch.setattr(lease, "POLL_S", 0.02)
    writers: list[list[int]] = [[] for _ in range(trials)]
    buckets: list[dict[str, bytes]] = [{LOCK: b"{}"} for _ in range(trials)]
    over = threading.Barrier(trials * starters)

    def start(trial: int, starter: int, guard: threading.Lock) -> None:
        store = cast("Store", Slow(buckets[trial], guard, f"{seed} {trial} {starter}"))
        with contextlib.ExitStack() as held:
            with contextlib.suppress(Problem):
                held.enter_context(only_writer(store))
                writers[trial].append(starter)
            over.wait(30)

    guards = [threading.Lock() for _ in range(trials)]
    threads = [threading.Thread(target=start, args=(t, s, guards[t])) for t in range(trials) for s in range(starters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    score("heirs of a dead lease", sum(len(found) == 1 for found in writers), trials)
    assert [len(found) for found in writers] == [1] * trials
    assert buckets == [{}] * trials, "neither a lease nor a claim is left"


def test_a_bucket_is_built_under_a_lease(bucket: Store, world: World) -> None:
    region, _ = runner.load(world.write(), "memory://bucket")
    with only_writer(bucket), pytest.raises(Problem, match="another run"):
        runner.run_upto(region, bucket, "scenes", quiet=True)
    assert runner.run_upto(region, bucket, "scenes", quiet=True)
    assert not bucket.exists(LOCK)


# Training.


RECIPE = """
name = "short"
log_steps = 1
[vision]
s2 = "test_resnet"
s1 = "test_resnet"
[text]
tower = "open_clip"
weights = "none"
pooling = "eot"
context = 16
width = 32
layers = 1
heads = 2
[optim]
steps = 1
"""


def test_one_call_trains_a_run(tmp_path: Path) -> None:
    shards = write_fake_shards(tmp_path / "shards", {("train", "s2"): 20, ("train", "s1"): 20})
    (tmp_path / "short.toml").write_text(RECIPE)
    words = ["train", "fit", str(tmp_path / "short.toml"), str(shards), "--runs", str(tmp_path), "--run", "r"]
    with locked(tmp_path / "r"):
        said = run(*words)
        assert said.returncode == 2
        assert "another run is writing here" in said.stderr
        release = threading.Timer(1.0, (tmp_path / "r/.lock").unlink)
        release.start()
        said = run(*words, "--wait")
        assert said.returncode == 0, said.stderr
        assert "waiting for another run" in said.stderr
    assert not (tmp_path / "r/.lock").exists()
    with locked(tmp_path / "r"):
        assert "finished" in run(*words).stderr, "what is done needs no lock"


def test_hashes_see_a_lock(tmp_path: Path) -> None:
    """The comparison above would see a lock that is left."""
    with locked(tmp_path):
        assert LOCK in hashes(tmp_path)


class Jittered:
    """A bucket whose every request takes a while, another one each time."""

    remote, root, taken_by = True, "memory://jittered", ""

    def __init__(self, seed: int) -> None:
        self._draw, self._objects, self._lock = random.Random(seed), dict[str, bytes](), threading.Lock()

    def _wait(self) -> None:
        with self._lock:
            pause = self._draw.choice([0.001, 0.001, 0.001, 0.06])
        time.sleep(pause)

    def read(self, name: str) -> bytes:
        self._wait()
        with self._lock:
            if name not in self._objects:
                raise FileNotFoundError(name)
            data = self._objects[name]
        self._wait()
        return data

    def write(self, name: str, data: bytes) -> str:
        self._wait()
        with self._lock:
            self._objects[name] = data
        self._wait()
        return ""

    def create(self, name: str, data: bytes) -> bool:
        self._wait()
        with self._lock:
            made = name not in self._objects
            self._objects.setdefault(name, data)
        self._wait()
        return made

    def remove(self, name: str) -> None:
        self._wait()
        with self._lock:
            self._objects.pop(name, None)
        self._wait()


def starters(seed: int, wrong: list[str]) -> list[threading.Thread]:
    """Three runs that find the same dead lease at once."""
    store, writing = Jittered(seed), set[int]()
    store.write(lease.LOCK, json.dumps({"host": "gone", "pid": 1, "since": "?", "command": "?", "renewed": 0}).encode())

    def run(k: int) -> None:
        try:
            with lease.only_writer(cast(Store, store)):
                writing.add(k)
                if len(writing) > 1:
                    wrong.append(f"seed {seed}: two wrote at once")
                time.sleep(0.2)
                writing.discard(k)
        except Problem as problem:
            if "another run is writing" not in str(problem):
                wrong.append(f"seed {seed}: {problem}")

    return [threading.Thread(target=run, args=(k,)) for k in range(3)]


def test_one_of_those_that_find_a_dead_lease_takes_it_over() -> None:
    """To look and then to remove would remove what another one has put there in between."""
    wrong = list[str]()
    threads = [thread for seed in range(40) for thread in starters(seed, wrong)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_who_has_lost_the_lease_writes_no_receipt(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.check_held()
    store.taken_by = "vm: make corpus (process 7)"
    with pytest.raises(Problem, match="another run has taken over: vm") as caught:
        store.check_held()
    assert caught.value.code == 1
