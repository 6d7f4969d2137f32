"""Ctrl-C and SIGTERM at any moment: code 130, one line that says how far it is, nothing left, and the same call goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from fake_shards import write_fake_shards
from test_lock import RECIPE
from test_runner import build, hashes
from world import World

Score = Callable[[str, int, int], None]
BUILD = """
import sys
from harmonize.command import stop_on_interrupt
if __name__ == "__main__":
    stop_on_interrupt()
    print("ready", flush=True)
    import dask.system
    from pipeline import cluster
    from pipeline.__main__ import main
    cluster.START_S, dask.system.CPU_COUNT = 0, 2
    main()
"""
FIT = """
from harmonize.command import stop_on_interrupt
stop_on_interrupt()
print("ready", flush=True)
from train.__main__ import main
main()
"""


def stopped(
    program: Path, words: list[str], after: float | Path, number: signal.Signals, tmp_path: Path
) -> tuple[int, str]:
    """Exit code and standard error of a program whose process group gets a signal after some seconds, or when a file is
    there; checks that none of its processes and none of its scratch folders stays."""
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(program), *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    end = time.monotonic() + (after if isinstance(after, float) else 60)
    while time.monotonic() < end and not (isinstance(after, Path) and after.exists()):
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if process.poll() is None:
        os.killpg(process.pid, number)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert not [path.name for path in scratch.iterdir() if path.name.startswith("closp-")]
    return process.returncode, said


DONE = "/tiny/shards; next: make verify, or make train"
"""The last line of a build."""


def check_stop(code: int, said: str) -> bool:
    """Whether a run ended as it should; one that was faster than the signal ends with 0, or, in the milliseconds in which
    Python ends and no handler is called any more, by the signal."""
    if code == 0:
        return "stopped" not in said
    if code in (-signal.SIGINT, -signal.SIGTERM) and said.rstrip().endswith(DONE):
        return True
    last = said.strip().splitlines()[-1] if said.strip() else ""
    return code == 130 and "Traceback" not in said and last.startswith("stopped") and said.count("stopped") == 1


def check_builds(moments: list[float], scheduler: str, tmp_path: Path, score: Score) -> None:
    """A build that is stopped at each of these moments, and then goes on to its end."""
    world = World(tmp_path / "w", size_m=1200, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))
    manifest = world.write()
    build(manifest, tmp_path / "straight")
    expected = hashes(tmp_path / "straight")
    program = tmp_path / "program.py"
    program.write_text(BUILD)
    bad = []
    for k, moment in enumerate(moments):
        out = tmp_path / f"out-{k}"
        words = ["build", str(manifest), "--to", "shards", "--out", str(out), "--scheduler", scheduler]
        number = (signal.SIGINT, signal.SIGTERM)[k % 2]
        code, said = stopped(program, words, moment, number, tmp_path)
        build(manifest, out)
        if not check_stop(code, said) or hashes(out) != expected:
            bad.append((moment, number, code, said, set(hashes(out).items()) ^ set(expected.items())))
    score("stops at any moment", len(moments) - len(bad), len(moments))
    assert not bad


def moments(number: int, longest_s: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [chance.uniform(0, longest_s) for _ in range(number)]


def test_a_build_stops_at_any_moment(tmp_path: Path, score: Score) -> None:
    check_builds(moments(3, 3.0, 0), "serial", tmp_path, score)


def test_a_build_on_processes_stops_at_any_moment(tmp_path: Path, score: Score) -> None:
    check_builds(moments(2, 8.0, 3), "", tmp_path, score)


@pytest.mark.soak
def test_builds_stop_at_many_moments(tmp_path: Path, score: Score) -> None:
    check_builds(moments(60, 4.0, 1), "serial", tmp_path, score)


@pytest.mark.soak
def test_builds_on_processes_stop_at_many_moments(tmp_path: Path, score: Score) -> None:
    check_builds(moments(40, 12.0, 2), "", tmp_path, score)


def check_trainings(moments: list[float | Path], tmp_path: Path, score: Score) -> None:
    shards = write_fake_shards(tmp_path / "shards", {("train", "s2"): 20, ("train", "s1"): 20})
    recipe = tmp_path / "short.toml"
    recipe.write_text("checkpoint_steps = 5\n" + RECIPE.replace("steps = 1\n", "steps = 100000\n"))
    program = tmp_path / "program.py"
    program.write_text(FIT)
    bad = []
    for k, moment in enumerate(moments):
        number = (signal.SIGTERM, signal.SIGINT)[k % 2]
        words = ["fit", str(recipe), str(shards), "--runs", str(tmp_path), "--run", "r", "--workers", "2"]
        code, said = stopped(program, words, moment, number, tmp_path)
        if not check_stop(code, said) or code != 130:
            bad.append((moment, number, code, said))
    score("stops at any moment", len(moments) - len(bad), len(moments))
    assert not bad


def test_training_stops_and_keeps_its_checkpoint(tmp_path: Path, score: Score) -> None:
    check_trainings([0.5, tmp_path / "r/checkpoints/step-00000005/state.json"], tmp_path, score)
    kept = sorted(path.name for path in (tmp_path / "r/checkpoints").glob("step-*"))
    assert kept
    assert not (tmp_path / "r/.lock").exists()


@pytest.mark.soak
def test_training_stops_at_many_moments(tmp_path: Path, score: Score) -> None:
    check_trainings(moments(20, 15.0, 5), tmp_path, score)


def said_by(program: str, number: signal.Signals, times: int = 1) -> tuple[int, str, float]:
    """Exit code, standard error and seconds from the signal to the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.2)
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, said, time.monotonic() - started


HEAD = """
import time
from harmonize import command
from harmonize.command import doing, stop_on_interrupt
stop_on_interrupt()
"""


def test_the_line_says_how_far_it_is() -> None:
    program = (
        HEAD
        + """
with doing(lambda: "stage pixels of veneto"), doing(lambda: "3 of 7 done"):
    print("ready", flush=True)
    time.sleep(30)
"""
    )
    code, said, _ = said_by(program, signal.SIGTERM)
    assert (code, said) == (
        130,
        "stopped in stage pixels of veneto, 3 of 7 done; the same command goes on from there\n",
    )


def test_a_stop_that_python_drops_comes_again() -> None:
    """An exception in a finaliser is printed and forgotten; this one is not."""
    program = (
        HEAD
        + """
class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(2)
slow = Slow()
del slow
time.sleep(30)
"""
    )
    code, said, took = said_by(program, signal.SIGINT)
    assert code == 130
    assert said == "stopped; the same command goes on from there\n"
    assert took < 10


@pytest.mark.parametrize(("end_s", "times"), [(0.5, 1), (60, 2)])
def test_a_library_that_does_not_come_back(end_s: float, times: int) -> None:
    """No handler of Python runs inside a library (here it waits for a lock that it has itself): the process ends in
    time, and at once when it is asked twice."""
    program = f"""{HEAD}
import ctypes
command.END_S = {end_s}
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
print("ready", flush=True)
libc.pthread_mutex_lock(mutex)
"""
    code, said, took = said_by(program, signal.SIGINT, times)
    assert code == 130
    assert said == "stopped; the same command goes on from there\n"
    assert took < 10
