"""Jobs for the tests of the cluster: workers import them from here."""

from __future__ import annotations

import os
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
