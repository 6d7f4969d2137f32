"""Verify a run: whether what was written still is what was written, by the hashes that its own files have. Nothing is
changed, computed again or loaded as a model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harmonize.problem import Problem, nearest
from harmonize.record import HASH, from_json, unsealed
from train.vectors import check_vectors
from train.whole import wrong_files

AGAIN = "remove the run and train again"
SEARCHED = "remove it: it is made again when it is asked for"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    file: str
    """Below the run's folder."""
    what: str
    fix: str


@dataclass
class RunReport:
    """What was looked at, and all that is wrong with it."""

    root: str
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {"whole": not self.findings, **asdict(self)}


def runs_of(runs: Path, names: list[str]) -> list[Path]:
    """The folders of the runs that are named; of none: of all that are there."""
    known = {path.parent.name: path.parent for path in sorted(runs.glob("*/run.json"))}
    if not known:
        raise Problem("there is no run", where=str(runs), fix="make train REGION=… RECIPE=…")
    for name in names:
        if name not in known:
            raise Problem(f"there is no run '{name}'", where=str(runs), fix=nearest(name, known))
    return [known[name] for name in names or known]


def verify_run(run: Path) -> RunReport:
    """Read all files of a run that others name, and say which are not what was written."""
    started, report = time.perf_counter(), RunReport(str(run))
    seen: set[str] = set()
    _record(run / "run.json", run, report, seen, AGAIN)
    for state in sorted((run / "checkpoints").glob("step-*/state.json")):
        fix = f"remove {state.parent}: the same call then goes on from the checkpoint before it"
        _record(state, run, report, seen, fix)
    if (run / "config.json").exists():
        _record(run / "config.json", run, report, seen, AGAIN)
    for path in sorted((run / "eval").rglob("metrics.json")):
        _record(path, run, report, seen, f"make evaluate RUN={run.name}")
    for path in sorted((run / "search").glob("*.json")):
        _record(path, run, report, seen, SEARCHED)
    for path in sorted((run / "embeddings").glob("*.safetensors")):
        seen.add(path.relative_to(run).as_posix())
        try:
            check_vectors(path)
        except Problem as problem:
            _add(report, path.relative_to(run).as_posix(), problem.what, problem.fix)
    _lines(run, report)
    there = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    report.files, report.bytes = len(seen & there), sum((run / name).stat().st_size for name in seen & there)
    if others := sorted(there - seen):
        report.notes.append(f"{len(others)} files are named by no other and were not looked at, e.g. {others[0]}")
    report.seconds = round(time.perf_counter() - started, 3)
    return report


def _add(report: RunReport, file: str, what: str, fix: str) -> None:
    finding = Finding(file, what, fix)
    if (file, what) not in {(one.file, one.what) for one in report.findings}:  # run.json and config.json name the model
        report.findings.append(finding)


def _record(path: Path, run: Path, report: RunReport, seen: set[str], fix: str) -> None:
    """A file with the hash of itself, and those that it names."""
    name = path.relative_to(run).as_posix()
    seen.add(name)
    try:
        data = path.read_bytes()
        about, hashed = unsealed(data), HASH in from_json(data)
    except (ValueError, OSError) as error:
        _add(report, name, str(error), fix)
        return
    if not hashed or "files" not in about:
        report.notes.append(f"{name} was written by an older version: it has no hashes")
    files = about.get("files", {})
    seen.update((path.parent / one).relative_to(run).as_posix() for one in files)
    for one, what in wrong_files(path.parent, files):
        _add(report, (path.parent / one).relative_to(run).as_posix(), what, fix)


def _lines(run: Path, report: RunReport) -> None:
    """metrics.jsonl and speed.jsonl of a run that is not finished: nobody has their hash yet."""
    for name in ("metrics.jsonl", "speed.jsonl"):
        path = run / name
        for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
            try:
                from_json(line)
            except ValueError as error:
                _add(report, name, f"line {number} is no JSON: {error}", "remove the line")


def finding_lines(report: RunReport) -> Iterator[str]:
    """One line for each: file, what, fix."""
    for finding in report.findings:
        yield f"{report.root}/{finding.file}  {finding.what}  fix: {finding.fix}"


def summary(report: RunReport) -> str:
    """What was looked at, and how it stands."""
    damaged = {finding.file for finding in report.findings}
    state = f"{len(report.findings)} findings in {len(damaged)} files" if damaged else "whole"
    looked = f"{report.files} files, {report.bytes / 1e6:.1f} MB in {report.seconds:.1f} s"
    return "\n".join([*(f"  {note}" for note in report.notes), f"{report.root}: {state}: {looked}"])
