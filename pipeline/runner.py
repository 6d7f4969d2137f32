"""The one runner: decides what is up to date, reads, checks and writes tables, and writes the receipt last."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harmonize.command import doing
from harmonize.lock import locked
from harmonize.problem import Problem, printable
from pipeline import tables
from pipeline.cluster import SERIAL, Scheduler
from pipeline.lease import only_writer
from pipeline.receipt import (
    Outside,
    Receipt,
    canonical,
    counted_as,
    look_at,
    read_receipt,
    receipt_name,
    versions_here,
    write_receipt,
)
from pipeline.region import Region, load_region
from pipeline.retry import drain, retries_told
from pipeline.sandbox import folder_of
from pipeline.stages import STAGES, Stage, after, upto
from pipeline.states import State, base_of, identities, states, why_run
from pipeline.store import Store
from pipeline.work import Work

if TYPE_CHECKING:
    import pyarrow as pa


class _Tables(Mapping[str, "pa.Table"]):
    """The tables of a stage's inputs, read when asked for, and only as they were written."""

    def __init__(self, store: Store, names: tuple[str, ...], region: Region) -> None:
        self._store, self._names, self._region = store, names, region
        self._read: dict[str, pa.Table] = {}

    def __getitem__(self, name: str) -> pa.Table:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = self._table(name)
        return self._read[name]

    def _table(self, name: str) -> pa.Table:
        receipt = read_receipt(self._store, name)
        # Of screen not whatever lies in its folder: jobs that were given up may have left other files there.
        written = receipt.outputs.items() if receipt else ()
        files = {file: sha256 for file, sha256 in written if file.endswith(".parquet")}
        for file, sha256 in files.items():
            if hashlib.sha256(self._store.read(file)).hexdigest() != sha256:
                fix = f"make redo STAGE={name} REGION={self._region.path}"
                raise Problem(f"{file} is not what stage {name} wrote", where=self._store.root, fix=fix, code=4)
        if name == "screen":
            from pipeline.screen import read_screen

            return tables.check(read_screen(self._store, list(files)), tables.SCREEN, "screen/")
        return tables.read_table(self._store, f"{name}.parquet", tables.SCHEMAS[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_store(out: str, region: Region) -> Store:
    return Store(f"{out.rstrip('/')}/{region.name}")


def run_alone(
    region: Region,
    store: Store,
    name: str,
    quiet: bool = False,
    scheduler: Scheduler = SERIAL,
    wait: bool = False,
    retry_failed: bool = False,
) -> Receipt | None:
    """Run one stage and nothing else; None when it is up to date.

    Refuses on a missing or stale input, and where another run writes the region, unless we `wait` for it: what is
    missing now may then be there.
    """
    found = states(region, store, name) if wait else _ready(region, store, name)  # a stage over a stale one is stale
    if why_run(name, found[name], retry_failed) is None:
        return None  # without the lock: what is done may lie where nothing can be written
    with only_writer(store, wait):
        return _alone(region, store, name, quiet, scheduler, retry_failed)


def _alone(
    region: Region, store: Store, name: str, quiet: bool, scheduler: Scheduler, retry_failed: bool = False
) -> Receipt | None:
    found = _ready(region, store, name)
    if why_run(name, found[name], retry_failed) is None:
        return None
    return _run(STAGES[name], region, store, found, quiet, scheduler)


def _ready(region: Region, store: Store, name: str) -> dict[str, State]:
    """Where a stage and those before it stand. Raises Problem where it has no good input."""
    found = states(region, store, name)
    for needed in STAGES[name].reads:
        if found[needed].reason:
            raise _needs(region, store, name, needed, found[needed].reason)
    return found


def run_upto(
    region: Region,
    store: Store,
    last: str,
    quiet: bool = False,
    scheduler: Scheduler = SERIAL,
    wait: bool = False,
    retry_failed: bool = False,
) -> list[Receipt]:
    """Run whatever is not up to date, from the first stage to `last`; the receipts of what ran. `retry_failed`: also
    what is, but has rows that could not be read. Raises Problem where another run writes, unless we `wait` for it."""
    if not any(why_run(name, state, retry_failed) for name, state in states(region, store, last).items()):
        return []  # without the lock: what is done may lie where nothing can be written
    done = []
    with only_writer(store, wait):
        if states(region, store, "scenes")["scenes"].reason:
            _check_files(region)
        for stage in upto(last):
            found = states(region, store, stage.name)
            reason = why_run(stage.name, found[stage.name], retry_failed)
            if reason:
                say(f"{stage.name}: {reason}")
                done.append(_run(stage, region, store, found, quiet, scheduler))
    return done


def _check_files(region: Region) -> None:
    """What labels and events name is looked at before hours go into an archive. Files of the sample world are not there
    before it is drawn."""
    from pipeline.events import load_events
    from pipeline.label_files import check_named_files

    check_named_files(region)
    if not region.worlds:
        load_events(region)


def redo(
    region: Region,
    store: Store,
    first: str,
    last: str,
    quiet: bool = False,
    scheduler: Scheduler = SERIAL,
    wait: bool = False,
) -> list[Receipt]:
    """Run a stage and everything that depends on it again, nothing before or beside it.

    Raises Problem where one of them needs another stage that is not up to date, and where another run writes.
    """
    scheduler.connect()  # before anything is removed
    with only_writer(store, wait):
        return _redo(region, store, first, last, quiet, scheduler)


def _redo(region: Region, store: Store, first: str, last: str, quiet: bool, scheduler: Scheduler) -> list[Receipt]:
    from pipeline.screen import remove_damaged

    stages = [name for name in after(first) if name in {stage.name for stage in upto(last)}]
    found = states(region, store, last)
    for name in stages:
        for needed in STAGES[name].reads:
            if needed not in stages and found[needed].reason:
                raise _needs(region, store, name, needed, found[needed].reason)
    say(f"redo: {', '.join(stages)}")
    for name in stages:
        if name == "screen" and (receipt := read_receipt(store, name)):
            remove_damaged(store, receipt.outputs)
        store.remove(receipt_name(name))
    done = [_alone(region, store, name, quiet, scheduler) for name in stages]
    return [receipt for receipt in done if receipt]


def _needs(region: Region, store: Store, name: str, needed: str, reason: str | None) -> Problem:
    return Problem(
        f"stage {name} needs {needed}, and {needed} has to run: {reason}",
        where=store.root,
        fix=f"python -m pipeline {needed} {region.path}   (or make corpus REGION={region.path})",
    )


def _run(
    stage: Stage, region: Region, store: Store, found: dict[str, State], quiet: bool, scheduler: Scheduler
) -> Receipt:
    started = time.perf_counter()
    work = Work(region, store, _Tables(store, stage.reads, region), quiet=quiet, scheduler=scheduler, stage=stage.name)
    _ensure_worlds(region, work)
    before = found[stage.name].receipt
    if before and found[stage.name].reason is None:
        store.remove(receipt_name(stage.name))  # its rows are tried again: until they are, it says nothing
    files = [*stage.outside(region), *stage.outside_of_inputs(work)]
    seen = look_at(files, base_of(region), before)
    work.digests = {str((base_of(region) / o.path).resolve()): o.sha256 for o in seen}
    drain()
    with doing(lambda: f"stage {stage.name} of {region.name}"):
        outcome = stage.run(work)
    retried = work.retried + drain()
    seen = look_at([*files, *outcome.outside], base_of(region), _with(before, seen))
    outputs = dict(outcome.files)
    dropped, kept = outcome.dropped, outcome.kept
    if outcome.table is not None:
        name = f"{stage.name}.parquet"
        work.begin()
        if "dropped" in outcome.table.schema.names:
            reasons = [r for r in outcome.table.column("dropped").to_pylist() if r]
            dropped, kept = Counter(map(counted_as, reasons)), outcome.table.num_rows - len(reasons)
        outputs[name] = tables.write_table(store, name, outcome.table, tables.SCHEMAS[stage.name])
    if kept is None or outcome.rows_in != kept + sum(dropped.values()):
        raise AssertionError(f"{stage.name}: {outcome.rows_in} rows in, {kept} kept, {dict(dropped)} dropped")
    receipt = Receipt(
        stage=stage.name,
        version=stage.version,
        params=json.loads(canonical(stage.params(region))),
        inputs=identities(stage, found),
        outside=seen,
        outputs=dict(sorted(outputs.items())),
        rows_in=outcome.rows_in,
        kept=kept,
        dropped=dict(sorted(dropped.items())),
        sizes={name: size for name, size in store.sizes(sorted(outputs)).items() if size is not None},
        losers=dict(sorted((k, v) for k, v in outcome.losers.items() if v)),
        notes=(*outcome.notes, *retries_told(retried)),
        versions=versions_here(),
        seconds=round(time.perf_counter() - started, 3),
    )
    write_receipt(store, receipt)
    say(summary(receipt))
    return receipt


def _ensure_worlds(region: Region, work: Work) -> None:
    """The sample worlds that a region's sources come from: made when a stage wants them and they are not there."""
    for size in region.worlds:
        from pipeline.sandbox.build import build_world, is_built

        if not is_built(region.world, size):
            say(f"sample world '{size}' (synthetic): drawing it in {region.world / size}")
            work.store.make()
            with locked(region.world, wait=True):  # of another region, that draws the same world
                build_world(size, region.world, work.jobs)


def _with(before: Receipt | None, seen: tuple[Outside, ...]) -> Receipt:
    """A receipt that only says which outside files are known, so that none is read twice."""
    old = before.outside if before else ()
    return Receipt("", 0, {}, {}, (*old, *seen), {}, 0, 0, {})


def summary(receipt: Receipt) -> str:
    """What a stage did, for people."""
    lost = ", ".join(f"{n} {reason}" for reason, n in receipt.dropped.items())
    lines = [f"{receipt.stage}: {receipt.kept} of {receipt.rows_in} rows kept, {receipt.seconds:.1f} s"]
    if lost:
        lines.append(f"  dropped: {lost}")
    if receipt.losers:
        lines.append("  not chosen: " + ", ".join(f"{n} {reason}" for reason, n in receipt.losers.items()))
    lines += [f"  {note}" for note in receipt.notes]
    return "\n".join(lines)


def say(text: str) -> None:
    """Summaries go to stderr, so that what a command prints can be piped."""
    print("\n".join(map(printable, text.splitlines())), file=sys.stderr, flush=True)


def load(path: str | Path, out: str) -> tuple[Region, Store]:
    region = load_region(path).model_copy(update={"world": folder_of(out)})
    return region, open_store(out, region)
