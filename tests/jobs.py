"""Jobs for the tests of the cluster: workers import them from here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from pipeline import pixels
from pipeline.work import Work


def late(_: Work, number: int) -> tuple[int, int]:
    """Later jobs are faster: what is done first is not what was asked first."""
    time.sleep(0.05 if number % 4 == 0 else 0.005)
    return number, os.getpid()


def die(_: Work, __: int) -> None:
    os._exit(9)


def cut_part_after_a_death(work: Work, strip: Any) -> Any:
    """`pixels._cut_part` that takes its worker with it the first time, with half a file written."""
    marker = Path(work.store.root).parent / "died"
    if not marker.exists():
        marker.touch()
        work.store.draft(strip.name).write_bytes(b"half")
        os._exit(9)
    return pixels._cut_part(work, strip)


def cut_part_slowly(work: Work, strip: Any) -> Any:
    with work.store.drafting(strip.name) as draft:
        draft.write_bytes(b"half")
        (Path(work.store.root).parent / "started").touch()
        time.sleep(1)
        draft.unlink()
        result = pixels._cut_part(work, strip)
        draft.write_bytes(work.store.read(strip.name))
    return result


def cut_part_among_deaths(work: Work, strip: Any) -> Any:
    """`pixels._cut_part` that ends its worker in one of three ways the first time it comes to each of three strips."""
    time.sleep(0.1)
    for how in ("exit", "graceful", "segfault"):
        try:
            (Path(work.store.root).parent / f"died-{how}").touch(exist_ok=False)
        except FileExistsError:
            continue
        work.store.draft(strip.name).write_bytes(b"half")
        _end_worker(how)
    return pixels._cut_part(work, strip)


def _end_worker(how: str) -> None:
    if how == "exit":
        os._exit(9)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    from distributed import get_worker

    here = get_worker()
    here.loop.add_callback(here.close, nanny=False, executor_wait=False)
    time.sleep(60)  # the worker leaves, and its threads with it


def cut_part_leisurely(work: Work, strip: Any) -> Any:
    """`pixels._cut_part` that takes as long as that of a larger region."""
    time.sleep(0.4)
    return pixels._cut_part(work, strip)
