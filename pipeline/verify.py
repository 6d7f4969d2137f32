"""Verify: whether what was written still is what was written, file by file and sample by sample, against the receipts
of a region, or of shards alone, against shards.json and the index.

Nothing is changed and nothing is run again. Files are read once, in jobs; one sample and the rows of one tar are held.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harmonize.lock import Holder, holder_of
from harmonize.problem import Problem
from pipeline import verify_index
from pipeline.cluster import SERIAL, Scheduler
from pipeline.lease import writer_of
from pipeline.progress import Progress
from pipeline.receipt import Receipt, read_receipt, receipt_name
from pipeline.store import Store
from pipeline.verify_files import FileCheck, check_file, orphans
from pipeline.verify_parts import PartCheck, check_part
from pipeline.verify_tables import rows_by_part, table_findings
from pipeline.verify_tar import Checked, Finding, Place, TarCheck, check_tar, crcs_of

SHARE = 0.05
"""Of the samples whose arrays are hashed, where nobody says another: it costs as much time as the tars' own hash."""


@dataclass(frozen=True)
class Target:
    """What is verified."""

    store: Store
    shards: str
    """Where shards lie in it: `shards/`, or empty where it is a folder of shards."""
    make: str = "REGION=…"
    """What `make redo STAGE=…` wants after it."""

    def fix(self, stage: str) -> str:
        again = f"make redo STAGE={stage} {self.make}"
        return again if self.shards else f"copy it again, or where it was made: {again}"


@dataclass
class Report:
    """What was looked at, and all that is wrong with it."""

    root: str
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    """Tars too."""
    tars: int = 0
    samples: int = 0
    close: int = 0
    """Samples whose arrays were hashed one by one."""
    bytes: int = 0
    seconds: float = 0.0

    def add(self, checked: Checked) -> None:
        self.findings += checked.findings
        self.samples += checked.samples
        self.close += checked.close
        self.bytes += checked.bytes

    def as_json(self) -> dict[str, Any]:
        return {"whole": not self.findings, **asdict(self)}


def target_of(named: str, out: str) -> Target:
    """A region's manifest, a region's folder or a folder of shards."""
    if named.endswith(".toml"):
        from pipeline import runner

        region, store = runner.load(named, out)
        if not store.list("receipts"):
            fix = f"make shards REGION={named}"
            if writer := writer_of(store):
                what = f"nothing is finished here yet; another run is writing it: {writer}"
                raise Problem(what, where=store.root, fix="let it end")
            if store.walk():
                raise Problem("there are files and no receipts that say of them", where=store.root, fix=fix, code=4)
            raise Problem("nothing was made of this region yet", where=store.root, fix=fix)
        return Target(store, "shards/", f"REGION={region.path}" + (f" OUT={out}" if out != "data" else ""))
    store = Store(named)
    if any(store.exists(name) for name in ("shards.json", "index.parquet")):
        return Target(store, "")
    if store.list("receipts") or store.exists("shards/shards.json"):
        return Target(store, "shards/")
    raise Problem(
        "here are neither shards (shards.json) nor a region's tables (receipts/)",
        where=named,
        fix="name a region's manifest, its folder (data/<region>) or a folder of shards (data/<region>/shards)",
    )


def share_of(text: str) -> float:
    """A share from 0 to 1, written as 0.05 or as 5%. Raises Problem for what is none."""
    said = text.strip()
    try:
        share = float(said.removesuffix("%")) / (100 if said.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise Problem(f"--sample is a share of the samples from 0 to 1, or in percent, not {text}", fix="--sample 5%")
    return share


Check = FileCheck | PartCheck | TarCheck


def verify(target: Target, share: float = SHARE, scheduler: Scheduler = SERIAL, quiet: bool = False) -> Report:
    """Read all of it. `share` (0-1) of the samples are hashed array by array; a hash of their names decides which."""
    started, report = time.perf_counter(), Report(target.store.root)
    writer = _writer(target)
    receipts = _receipts(target, report)
    files, tars = _from_receipts(target, receipts)
    named = {*files, *tars}
    count, checks = _shards(target, share, files, tars, report)
    report.files, report.tars = len(files) + count, count
    current = _current(receipts, report)
    jobs = _in_turn(_with_parts(target, current, files, share), checks)
    with Progress("verify", report.files, quiet) as progress:
        for checked in scheduler.run(
            check, Place(target.store.absolute()), jobs, report.files, lambda _: progress.advance()
        ):
            report.add(checked)
    if target.shards:
        damaged = {finding.file for finding in report.findings}
        report.findings += table_findings(target.store, current, damaged, target.fix)
        report.findings += _orphans(target, {*named, *files, *damaged}, current)
    if writer := writer or _writer(target):  # perhaps it came while we read
        report.notes.append(f"another run is writing here: {writer}; what is found may be work in progress")
    report.seconds = round(time.perf_counter() - started, 3)
    return report


def _writer(target: Target) -> Holder | None:
    """Who is writing the region now. Its lock lies in its folder, above that of its shards; of shards in a bucket we do
    not look above."""
    if target.shards:
        return writer_of(target.store)
    return None if target.store.remote else holder_of(Path(target.store.absolute().root).parent)


def _in_turn(files: Iterable[FileCheck | PartCheck], tars: Iterator[TarCheck]) -> Iterator[Check]:
    yield from files
    yield from tars


def check(place: Place, one: Check) -> Checked:
    """Job: one file."""
    of = one.file if isinstance(one, PartCheck) else one
    try:
        if isinstance(one, TarCheck):
            return check_tar(place, one)
        return check_part(place, one) if isinstance(one, PartCheck) else check_file(place, one)
    except OSError as error:  # a disk that fails, a folder of that name, no permission
        return Checked([Finding(of.file, "", f"it cannot be read: {error.strerror or error}", of.fix)])


def _receipts(target: Target, report: Report) -> dict[str, Receipt]:
    """Stage -> receipt, of those that are there and whole."""
    from pipeline.stages import STAGES

    found: dict[str, Receipt] = {}
    for stage in STAGES if target.shards else ():
        name = receipt_name(stage)
        receipt = read_receipt(target.store, stage)
        if receipt is None:
            if target.store.exists(name):
                report.findings.append(
                    Finding(name, "", "the receipt cannot be read, or a byte differs", target.fix(stage))
                )
            else:
                report.notes.append(f"{stage} has no receipt: it has not run, or not to its end")
            continue
        found[stage] = receipt
        report.notes += [
            f"{stage} was made of another {needed}: make status tells why"
            for needed, identity in receipt.inputs.items()
            if needed in found and found[needed].identity != identity
        ]
    return found


def _current(receipts: dict[str, Receipt], report: Report) -> dict[str, Receipt]:
    """Those that this program would write. What an older version wrote is whole if its hashes are right; its tables had
    other columns, and its receipts named other files."""
    from pipeline.stages import STAGES

    current = {stage: receipt for stage, receipt in receipts.items() if receipt.version == STAGES[stage].version}
    report.notes += [
        f"{stage} was written by another version of this program: its hashes were looked at, its tables were not"
        for stage in receipts
        if stage not in current
    ]
    return current


def _from_receipts(target: Target, receipts: dict[str, Receipt]) -> tuple[dict[str, FileCheck], dict[str, FileCheck]]:
    """What the receipts say was written: files to hash, and tars, which are looked into where shards.json is good."""
    files = {
        file: FileCheck(file, sha256, receipt.sizes.get(file), target.fix(stage))
        for stage, receipt in receipts.items()
        for file, sha256 in receipt.outputs.items()
    }
    tars = {name: files.pop(name) for name in list(files) if name.startswith("shards/") and name.endswith(".tar")}
    return files, tars


def _with_parts(
    target: Target, receipts: dict[str, Receipt], files: dict[str, FileCheck], share: float
) -> Iterator[FileCheck | PartCheck]:
    """The files, parts of pixels with the chips that the pixels table has in them, where that table is whole."""
    rows = rows_by_part(target.store, receipts["pixels"]) if "pixels" in receipts else {}
    for name, one in files.items():
        yield PartCheck(one, rows[name], share) if name in rows else one


def _orphans(target: Target, named: set[str], receipts: dict[str, Receipt]) -> Iterator[Finding]:
    from pipeline.stages import STAGES

    for name, stage in orphans(target.store, named, {stage: stage in receipts for stage in STAGES}):
        what = "no receipt names this file: it is left over, or not ours"
        yield Finding(name, "", what, target.fix(stage) if stage else "remove it, or keep it elsewhere")


def _shards(
    target: Target, share: float, files: dict[str, FileCheck], tars: dict[str, FileCheck], report: Report
) -> tuple[int, Iterator[TarCheck]]:
    """How many tars there are to look into, and the job of each. Files that shards.json alone names join `files`."""
    name = f"{target.shards}shards.json"
    fix = target.fix("shards")
    if not target.store.exists(name):
        if name not in files and (tars or not target.shards):
            report.findings.append(Finding(name, "", "it is not there", fix))
        files |= tars
        return 0, iter(())
    try:
        about = verify_index.read_about(target.store, name)
    except Problem as problem:
        report.findings.append(Finding(name, "", problem.what, fix))
        files |= tars
        return 0, iter(())
    described = about.get("described_by") or {}
    for one, sha256 in described.items():
        files.setdefault(target.shards + one, FileCheck(target.shards + one, sha256, None, fix))
    report.findings += [
        Finding(target.shards + file, sample, what, fix)
        for file, sample, what in (
            *verify_index.folder_findings(target.store, target.shards, about),
            *verify_index.sums_findings(target.store, target.shards, about),
        )
        if target.shards + file not in files or target.store.exists(target.shards + file)
    ]
    index = _index(target, about, files, report)
    return len(about["shards"]), iter(()) if index is None else _tars(target, about, index, share)


def _index(target: Target, about: dict[str, Any], files: dict[str, FileCheck], report: Report) -> Any:
    """The index, its own faults reported; None where it cannot be read."""
    name = target.shards + "index.parquet"
    fix, sha256 = target.fix("shards"), str(about["index"].get("sha256"))
    files.setdefault(name, FileCheck(name, sha256, None, fix))
    try:
        index = verify_index.read_index(target.store, name)
    except Problem as problem:
        if target.store.exists(name):
            report.findings.append(Finding(name, "", f"it cannot be read: {problem.what}", fix))
        return None
    # A whole index that contradicts itself was written so: what it was written from has to be made again.
    if hashlib.sha256(target.store.read(name)).hexdigest() == sha256:
        fix = target.fix("captions")
    found = verify_index.index_findings(index, about)
    report.findings += [Finding(name, sample, what, fix) for _, sample, what in found]
    return index


def _tars(target: Target, about: dict[str, Any], index: Any, share: float) -> Iterator[TarCheck]:
    shards = about["shards"]
    rows = verify_index.rows_by_tar(index, [shard["url"] for shard in shards])
    for shard, mine in zip(shards, rows, strict=True):
        yield TarCheck(
            file=target.shards + shard["url"],
            bytes=shard["bytes"],
            sha256=shard["sha256"],
            size_px=about["size_px"],
            style=about.get("caption_style"),
            quicklook=about.get("quicklook"),
            share=share,
            rows=mine,
            fix=target.fix("shards"),
            fix_captions=target.fix("captions"),
            crcs=crcs_of(target.store, shard["url"]) if target.shards else {},
        )


def finding_line(finding: Finding) -> str:
    """One line: file, sample, what, fix."""
    parts = [finding.file, finding.sample or "-", finding.what, f"fix: {finding.fix}"]
    return "  ".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in part) for part in parts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def summary(report: Report) -> str:
    """What was looked at, and how it stands."""
    damaged = {finding.file for finding in report.findings}
    state = f"{_counted(len(report.findings), 'finding')} in {_counted(len(damaged), 'file')}" if damaged else "whole"
    looked = f"{report.tars} tars, {report.samples} samples ({report.close} of them array by array), "
    looked += f"{report.files - report.tars} other files, {report.bytes / 1e6:.1f} MB in {report.seconds:.1f} s"
    rate = f" ({report.bytes / 1e6 / report.seconds:.0f} MB/s)" if report.seconds else ""
    return "\n".join([*(f"  {note}" for note in report.notes), f"{report.root}: {state}: {looked}{rate}"])
