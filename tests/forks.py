"""Runs that die, each in a process of its own that costs no imports: this program has them done and forks for each.

    python tests/forks.py        a job as JSON on stdin, its outcome as JSON on stdout, line by line

It must stay a process of one thread that has opened no raster and no table: what a fork leaves of other threads, their
locks, would stop the child.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
ALONE = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


class Forks:
    """The program, from a test's side. `with Forks() as forks: forks.run(manifest, out, die_at=7)`."""

    def __enter__(self) -> Forks:
        path = os.pathsep.join([str(HERE.parent), str(HERE)])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "forks.py")],
            env={**os.environ, **ALONE, "PYTHONPATH": path},
            cwd=HERE.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)

    def warm(self, manifest: Path, out: Path) -> dict[str, Any]:
        """A whole run, counted; what it imports is imported for those that follow."""
        return self._ask(manifest=str(manifest), out=str(out), warm=True)

    def run(
        self, manifest: Path, out: Path, die_at: int = 0, torn: bool = False, kill_after_s: float | None = None
    ) -> dict[str, Any]:
        """A run that dies at a call, or is killed after some seconds: exit `code` (negative: a signal), `seconds`; of
        one that got to its end also `calls`, `written`, `elsewhere`."""
        return self._ask(manifest=str(manifest), out=str(out), die_at=die_at, torn=torn, kill_after_s=kill_after_s)

    def _ask(self, **job: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(job), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the forking program has ended"
        found: dict[str, Any] = json.loads(answer)
        return found


def _child(job: dict[str, Any], report: int) -> None:
    from deaths import Life

    from pipeline import runner

    life = Life(Path(job["out"]), job.get("die_at", 0), job.get("torn", False))
    with life.lived():
        region, store = runner.load(job["manifest"], job["out"])
        runner.run_upto(region, store, "shards", quiet=True)
    said: dict[str, Any] = {"calls": life.calls, "written": life.written, "elsewhere": sorted(life.elsewhere)}
    if job.get("warm"):
        said["modules"] = sorted(name for name in sys.modules if name.split(".")[0] not in ("__main__", "__mp_main__"))
    with os.fdopen(report, "w") as pipe:
        json.dump(said, pipe)


def _fork(job: dict[str, Any]) -> dict[str, Any]:
    ear, mouth = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(ear)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(f"{job['out']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            _child(job, mouth)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(mouth)
    if job.get("kill_after_s") is not None:
        time.sleep(job["kill_after_s"])
        os.kill(child, signal.SIGKILL)
    with os.fdopen(ear) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    outcome = {"code": os.waitstatus_to_exitcode(status), "seconds": time.perf_counter() - started}
    return outcome | (json.loads(said) if said.endswith("}") else {})


def main() -> None:
    importlib.import_module("pipeline.runner")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        outcome = _fork(job)
        for name in outcome.pop("modules", ()):
            with contextlib.suppress(ImportError):  # parts of a package that go by another name there
                importlib.import_module(name)
        threads = len([*Path("/proc/self/task").glob("*")]) or threading.active_count()  # no /proc: Python's own
        print(json.dumps(outcome | {"threads": threads}), file=answers, flush=True)


if __name__ == "__main__":
    main()
