"""Rows of labels.parquet as evidence: what each source says about a cell in classes, and what events say near it."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.crosswalk import Crosswalk, parse_crosswalk
from harmonize.events import CrisisEvent, Touch, Verdict
from harmonize.labelset import Evidence, LabelSet, gap_days
from harmonize.problem import Problem
from pipeline import events
from pipeline.region import Region
from pipeline.source import crosswalk_path

if TYPE_CHECKING:
    import pyarrow as pa


def crosswalks_of(region: Region) -> dict[str, Crosswalk]:
    """Label source -> its crosswalk."""
    paths = {use.source: crosswalk_path(region.source(use.source)) for use in region.labels}
    return {name: parse_crosswalk(path.read_bytes(), str(path)) for name, path in paths.items()}


def existing_crosswalk(region: Region, k: int) -> Path:
    """The crosswalk's file of the label source `k` of the manifest."""
    source = region.source(region.labels[k].source)
    path = crosswalk_path(source)
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.csv"))) or "none"
        where = f"{region.path}, source '{region.labels[k].source}', key 'crosswalk'"
        raise Problem(
            f"there is no crosswalk '{source.crosswalk}'", where=where, fix=f"there are: {known}; or give a path"
        )
    return path


def evidence_of(labels: pa.Table, crosswalks: dict[str, Crosswalk]) -> dict[str, list[Evidence]]:
    """cell -> what each source says on each of its days, in classes of the vocabulary.

    Columns go through one batch at a time: as rows, those of all labels would take some GB.
    """
    shares: dict[tuple[str, str, dt.date | None], dict[str, float]] = defaultdict(dict)
    classes: dict[tuple[str, str], str | None] = {}
    columns = labels.select(["cell", "source", "date", "code", "share", "dropped", "event"])
    for batch in columns.to_batches(max_chunksize=100_000):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        for cell, source, date, code, share, dropped, event in rows:
            if dropped is not None or event is not None:
                continue
            if (source, code) not in classes:
                classes[source, code] = crosswalks[source].classify(code)
            class_ = classes[source, code]
            if class_ is not None:
                said = shares[cell, source, date]
                said[class_] = said.get(class_, 0.0) + share
    found: dict[str, list[Evidence]] = defaultdict(list)
    for (cell, source, date), said in shares.items():
        found[cell].append(Evidence(source, date, said))
    return found


def touched(labels: pa.Table, region: Region) -> dict[str, list[tuple[CrisisEvent, Touch]]]:
    """cell -> the events near it, and what their maps say about it."""
    import pyarrow.compute as pc

    found: dict[str, list[tuple[CrisisEvent, Touch]]] = defaultdict(list)
    for row in labels.filter(pc.is_valid(labels["event"])).to_pylist():
        found[row["cell"]].append(events.verdict_of(row, region))
    return found


class EvidenceText:
    """JSON of what every source and every event near a cell says, ruling or not: the column `evidence`.

    The chips of a cell share most of it: asked for one cell after another, it is spelled once.
    """

    def __init__(self) -> None:
        self._cell = ""
        self._of: dict[int, str] = {}

    def __call__(self, cell: str, labels: LabelSet, day: dt.date) -> str:
        if cell != self._cell:
            self._cell, self._of = cell, {}
        said = [self._source(e, day) for e in labels.evidence]
        said += [json.dumps(_by_event(v), sort_keys=True) for v in labels.verdicts]
        return f"[{', '.join(said)}]"

    def _source(self, evidence: Evidence, day: dt.date) -> str:
        text = self._of.get(id(evidence))
        if text is None:
            text = self._of[id(evidence)] = _by_source(evidence)
        if evidence.date is None:
            return f"{{{text}"
        return f'{{"date": "{evidence.date}", "gap_days": {gap_days(evidence, day)}, {text}'


def _by_source(evidence: Evidence) -> str:
    """JSON of an undated evidence but its first brace; json.dumps takes three times as long, for millions of them."""
    shares = ", ".join(f'"{name}": {round(share, 6)!r}' for name, share in sorted(evidence.shares.items()))
    source = json.dumps(evidence.source)
    return f'"labelled": {round(evidence.labelled, 6)!r}, "shares": {{{shares}}}, "source": {source}}}'


def _by_event(verdict: Verdict) -> dict[str, Any]:
    """Why a crisis bit is what it is: share, extent, distance in metres, days since the event's first day."""
    touch = verdict.touch
    said = {"event": verdict.event.id, "kind": verdict.event.kind, "says": verdict.says, "days": verdict.days}
    far = touch.distance_m == float("inf")
    return said | {
        "share": round(touch.share, 6),
        "analysed": touch.analysed,
        "distance_m": None if far else round(touch.distance_m, 1),
    }
