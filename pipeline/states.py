"""Where the stages of a region stand: up to date, or why they have to run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline import tables
from pipeline.receipt import UNREADABLE, Receipt, canonical, counted_as, look_at, read_receipt, why_none
from pipeline.region import Region
from pipeline.stages import Stage, upto
from pipeline.store import Store

READING = ("scenes", "screen", "pixels", "labels")
"""Stages that read files which may be damaged, and go on without what they could not read."""


@dataclass(frozen=True)
class State:
    """Where a stage stands: its receipt, and why it has to run (None: it is up to date)."""

    receipt: Receipt | None
    reason: str | None


def states(region: Region, store: Store, last: str) -> dict[str, State]:
    """Where every stage up to `last` stands. A stage after a stale one is stale too."""
    found: dict[str, State] = {}
    receipts = {stage.name: read_receipt(store, stage.name) for stage in upto(last)}
    sizes = store.sizes({name for receipt in receipts.values() if receipt for name in receipt.outputs})
    for stage in upto(last):
        upstream = next((name for name in stage.reads if found[name].reason), None)
        receipt = receipts[stage.name]
        reason = f"{upstream} is not up to date" if upstream and receipt else None
        if receipt is None:
            reason = why_none(store, stage.name)
        found[stage.name] = State(receipt, reason or _stale(stage, receipt, region, sizes, found))
    return found


def _stale(
    stage: Stage, receipt: Receipt | None, region: Region, sizes: dict[str, int | None], found: dict[str, State]
) -> str | None:
    """Why a receipt no longer holds, as one short sentence; None when it holds."""
    if receipt is None:
        return "it has not run yet"
    if receipt.version != stage.version:
        return f"stage version {receipt.version} -> {stage.version}"
    wanted = json.loads(canonical(stage.params(region)))
    for key in sorted(set(wanted) | set(receipt.params)):
        if wanted.get(key) != receipt.params.get(key):
            return f"'{key}' changed in the manifest"
    for name, identity in identities(stage, found).items():
        if receipt.inputs.get(name) != identity:
            return f"{name} changed"
    changed = _changed_outside(stage, receipt, region)
    if changed:
        return changed
    return next(filter(None, (_cut_off(name, sizes[name], receipt.sizes.get(name)) for name in receipt.outputs)), None)


def _cut_off(name: str, size: int | None, written: int | None) -> str | None:
    """Whether an output is missing or has another size; its bytes are read by `verify` alone."""
    if size is None:
        return f"{name} is missing"
    return f"{name} has {size} bytes, {written} were written" if written not in (None, size) else None


def identities(stage: Stage, found: dict[str, State]) -> dict[str, str]:
    return {name: r.identity for name in stage.reads if (r := found[name].receipt)}


def base_of(region: Region) -> Path:
    """Where outside files are named from: the manifest's folder, without links, so that `..` leads where it says."""
    return region.path.parent.resolve()


def _changed_outside(stage: Stage, receipt: Receipt, region: Region) -> str | None:
    base = base_of(region)
    recorded = {o.path: base / o.path for o in receipt.outside}
    gone = next((name for name, path in recorded.items() if not path.exists()), None)
    if gone:
        return f"{gone} is gone"
    named = look_at([*stage.outside(region), *recorded.values()], base, receipt)
    before = {o.path: o.sha256 for o in receipt.outside}
    for seen in named:
        if seen.path not in before:
            return f"{seen.path} is new"
        if before[seen.path] != seen.sha256:
            return f"{seen.path} changed"
    return None


def why_run(name: str, state: State, retry_failed: bool) -> str | None:
    """Why a stage is to run: it is not up to date, or rows that failed are to be tried again."""
    own = state.receipt if retry_failed and name in READING else None
    failed = own.dropped.get(UNREADABLE, 0) if own else 0
    return state.reason or (f"{failed} rows could not be read and are tried again" if failed else None)


def failed_rows(store: Store, last: str) -> int:
    """Candidates, chips and labels of cells that could not be read, as opposed to those that a rule dropped. They stay
    so until that stage is redone."""
    receipts = [read_receipt(store, stage.name) for stage in upto(last) if stage.name in READING]
    return sum(receipt.dropped.get(UNREADABLE, 0) for receipt in receipts if receipt)


def failures(store: Store, last: str, most: int = 5) -> list[str]:
    """Reasons of rows that could not be read, the most frequent first, with their number."""
    found: Counter[str] = Counter()
    for stage in upto(last):
        receipt = read_receipt(store, stage.name) if stage.name in READING else None
        name = f"{stage.name}.parquet"
        if not receipt or not receipt.dropped.get(UNREADABLE):
            continue
        if name in receipt.outputs and "dropped" in tables.SCHEMAS[stage.name].names:
            reasons = tables.read_table(store, name, tables.SCHEMAS[stage.name])["dropped"].drop_null().to_pylist()
            found.update(reason for reason in reasons if counted_as(reason) == UNREADABLE)
        else:
            found.update({note.removeprefix("warning: "): 1 for note in receipt.notes if UNREADABLE in note})
    lines = [f"{count} x {reason}" if count > 1 else reason for reason, count in found.most_common(most)]
    return lines + ([f"and {len(found) - most} more reasons"] if len(found) > most else [])
