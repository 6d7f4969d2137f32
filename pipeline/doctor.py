"""Doctor: whether this machine, its disks and the services a region asks can do the work, and what to do where not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harmonize.problem import Problem

if TYPE_CHECKING:
    from pipeline.region import Region

State = Literal["ok", "warning", "wrong"]
TRAIN_S = 120
"""How long torch may take to be imported, on a busy machine from a slow disk."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    state: State
    said: str
    fix: str = ""


def examine(path: Path | None, out: str, runs: str) -> Iterator[Check]:
    """All checks, one after another as they are made; `path` is a region's manifest."""
    from pipeline import doctor_machine, doctor_services

    region: Region | None = None
    if path:
        region, checks = _region(path)
        yield from checks
    groups: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", doctor_machine.versions),
        ("gdal", doctor_machine.gdal),
        ("rustac", doctor_machine.rustac),
        ("machine", doctor_machine.machine),
        ("OUT", lambda: doctor_machine.place("OUT", out)),
        ("RUNS", lambda: doctor_machine.place("RUNS", runs)),
        ("lock", lambda: doctor_machine.writers(region, out)),
        ("train", train),
        ("credentials", lambda: doctor_services.credentials(region, out)),
        ("api", lambda: doctor_services.apis(region)),
    ]
    for what, group in groups:
        try:
            yield from group()
        except Problem as problem:
            yield Check(
                what, "wrong", f"{problem.what} ({problem.where})" if problem.where else problem.what, problem.fix
            )
        except Exception as error:  # a library that is broken is what a doctor is asked for
            yield Check(what, "wrong", f"{type(error).__name__}: {str(error)[:200]}", "make setup makes .venv anew")


def _region(path: Path) -> tuple[Region | None, list[Check]]:
    """The manifest of a region, and whether what it names is there."""
    from pipeline.label_files import check_named_files
    from pipeline.region import load_region

    try:
        region = load_region(path)
        check_named_files(region)
    except Problem as problem:
        return None, [Check("region", "wrong", f"{problem.what} ({problem.where})", problem.fix)]
    return region, [Check("region", "ok", f"{region.name}: the manifest is good and the files it names are there")]


def train() -> Iterator[Check]:
    """torch and the GPU, as the other half of this project sees them: here torch is never imported."""
    command = [sys.executable, "-m", "train", "doctor", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRAIN_S, check=False)  # noqa: S603
        checks = json.loads(done.stdout)["checks"]
    except subprocess.TimeoutExpired:
        yield Check("torch", "warning", f"was not imported within {TRAIN_S} s", "try again when the machine is idle")
    except (ValueError, KeyError):
        said = done.stderr.strip().splitlines()
        yield Check("torch", "wrong", f"python -m train does not run: {said[-1][:200] if said else ''}", "make setup")
    else:
        yield from (Check(**check) for check in checks)


def report(checks: Iterator[Check], as_json: bool) -> bool:
    """Print the checks; whether nothing is wrong."""
    found = []
    show = _line_printer()
    for check in checks:
        found.append(check)
        if not as_json:
            show(check)
    count = {state: sum(check.state == state for check in found) for state in ("ok", "warning", "wrong")}
    if as_json:
        print(json.dumps({**count, "checks": [asdict(check) for check in found]}, indent=1))
    else:
        print(f"{count['ok']} ok, {count['warning']} warnings, {count['wrong']} wrong")
    return not count["wrong"]


def _line_printer() -> Callable[[Check], Any]:
    """How a check becomes a line: coloured where somebody looks."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    colours = {"ok": "green", "warning": "yellow", "wrong": "bold red"}

    def show(check: Check) -> None:
        line = Text(f"{check.state:<8}", style=colours[check.state]).append(f"{check.what:<12}{check.said}", "default")
        if check.fix and check.state != "ok":
            line.append(f"\n{'':<20}fix: {check.fix}", "dim")
        console.print(line)

    return show
