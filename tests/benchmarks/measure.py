"""Measuring: each measure in a process of its own, several times; medians as a table, and as JSON where asked."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Measure:
    """What is measured: `prepare()` gives what `run` works on and is not timed; `run` gives what it counted."""

    name: str
    limit_s: float
    prepare: Callable[[], Any]
    run: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Ratio:
    """One measure's samples a second by another's, in the same repeat."""

    of: str
    by: str
    wanted: float | None
    """At least; None where it is only reported."""
    note: str = ""


def main(topic: str, measures: list[Measure], ratios: Sequence[Ratio] = ()) -> None:
    """The command line of a benchmark file."""
    parser = argparse.ArgumentParser(description=f"Benchmark {topic}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help=f"keep the numbers in {RESULTS.name}/{topic}.json")
    parser.add_argument("--only", help="one measure, once, in this process")
    asked = parser.parse_args()
    by_name = {measure.name: measure for measure in measures}
    if asked.only:
        print(json.dumps(_once(by_name[asked.only])))
        return
    # Interleaved: what disturbs the machine for a while disturbs all measures alike.
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in by_name}
    for _ in range(asked.repeats):
        for name in by_name:
            said = subprocess.run([sys.executable, sys.argv[0], "--only", name], check=True, stdout=subprocess.PIPE)
            found[name].append(json.loads(said.stdout.splitlines()[-1]))
    rows = [_row(measure, found[measure.name]) for measure in measures]
    print(_table(rows))
    compared = [_compared(ratio, found) for ratio in ratios]
    if compared:
        print(_ratio_table(compared))
    if asked.write:
        RESULTS.mkdir(exist_ok=True)
        about = {"machine": _machine(), "date": str(dt.date.today()), "repeats": asked.repeats, "measures": rows}
        about |= {"ratios": compared} if compared else {}
        (RESULTS / f"{topic}.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")


def _once(measure: Measure) -> dict[str, Any]:
    given = measure.prepare()
    start = time.perf_counter()
    counted = measure.run(given)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds, "peak_mb": peak, "counted": counted}


def _row(measure: Measure, runs: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [run["seconds"] for run in runs]
    return {
        "name": measure.name,
        "seconds": round(statistics.median(seconds), 2),
        "spread_s": [round(min(seconds), 2), round(max(seconds), 2)],
        "limit_s": measure.limit_s,
        "peak_mb": round(max(run["peak_mb"] for run in runs)),
        "counted": runs[-1]["counted"],
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| measure | median s | spread s | wanted s | peak MB | counted |", "|---|---|---|---|---|---|"]
    for row in rows:
        counted = ", ".join(f"{key} {value}" for key, value in row["counted"].items())
        low, high = row["spread_s"]
        lines.append(
            f"| {row['name']} | {row['seconds']} | {low}-{high} | {row['limit_s']:g} | {row['peak_mb']} | {counted} |"
        )
    return "\n".join(lines)


def _compared(ratio: Ratio, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    of, by = ([run["counted"]["samples/s"] for run in found[name]] for name in (ratio.of, ratio.by))
    values = [a / b for a, b in zip(of, by, strict=True)]
    return {
        "of": ratio.of,
        "by": ratio.by,
        "samples/s": [round(statistics.median(of)), round(statistics.median(by))],
        "ratio": round(statistics.median(values), 2),
        "spread": [round(min(values), 2), round(max(values), 2)],
        "wanted": ratio.wanted,
        "note": ratio.note,
    }


def _ratio_table(compared: list[dict[str, Any]]) -> str:
    lines = ["", "| ratio | samples/s | median | spread | wanted | note |", "|---|---|---|---|---|---|"]
    for row in compared:
        (of, by), (low, high) = row["samples/s"], row["spread"]
        wanted = "" if row["wanted"] is None else row["wanted"]
        lines.append(
            f"| {row['of']} / {row['by']} | {of} / {by} | {row['ratio']} | {low}-{high} | {wanted} | {row['note']} |"
        )
    return "\n".join(lines)


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
