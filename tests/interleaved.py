"""Two runs of one region at once, again and again: a process that has all imported and forks them, so that one
interleaving takes a second. `python tests/interleaved.py MANIFEST FOLDER NUMBER SEED` prints a line of JSON for each.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from harmonize.problem import Problem
from pipeline import runner


def build(manifest: Path, out: Path, wait: bool) -> None:
    region, store = runner.load(manifest, str(out))
    runner.run_upto(region, store, "shards", quiet=True, wait=wait)


def forked(manifest: Path, out: Path, delay_s: float, wait: bool) -> int:
    """Process id of a child that builds after a while and ends with 0, or the code of its Problem."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        time.sleep(delay_s)
        with Path(os.devnull).open("w") as sys.stderr:
            build(manifest, out, wait)
        code = 0
    except Problem as problem:
        code = problem.code if "another run is writing here" in problem.what else 1
    finally:
        os._exit(code)


def tree(folder: Path) -> str:
    """Hash of all files but the receipts, which have clocks in them, and of their names: what lies about counts too."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "receipts" not in p.parts):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def main(manifest: Path, folder: Path, number: int, seed: int) -> None:
    started = time.perf_counter()
    build(manifest, folder / "one", wait=False)
    build(manifest, folder / "two", wait=False)  # with all imported: how long a run takes
    expected, started = tree(folder / "one"), time.perf_counter()
    shutil.rmtree(folder / "two")
    build(manifest, folder / "two", wait=False)
    took = time.perf_counter() - started
    assert tree(folder / "two") == expected
    chance = random.Random(seed)
    for _ in range(number):
        out = folder / "out"
        how = chance.choice(("stop", "wait", "killed"))
        first = forked(manifest, out, chance.uniform(0, took), wait=False)
        second = forked(manifest, out, chance.uniform(0, took), wait=how != "stop")
        if how == "killed":
            time.sleep(chance.uniform(0, 2 * took))
            os.kill(first, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in (first, second)]
        equal = tree(out) == expected
        print(json.dumps({"how": how, "codes": codes, "equal": equal}), flush=True)
        shutil.rmtree(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
