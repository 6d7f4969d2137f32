"""Rows of labels.parquet as evidence: what each source says about a cell in classes, and what events say near it."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from harmonize.crosswalk import Crosswalk
from harmonize.events import CrisisEvent, Touch, Verdict
from harmonize.labelset import Evidence, LabelSet
from harmonize.vocabulary import BIT, CLASSES
from pipeline import events
from pipeline.receipt import UNREADABLE
from pipeline.region import Region
from pipeline.source import read_crosswalk

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def crosswalks_of(region: Region) -> dict[str, Crosswalk]:
    """Label source -> its crosswalk."""
    return {use.source: read_crosswalk(region.source(use.source), str(region.path)) for use in region.labels}


def evidence_of(labels: pa.Table, crosswalks: dict[str, Crosswalk]) -> dict[str, list[Evidence]]:
    """cell -> what each source says on each of its days, in classes of the vocabulary.

    By columns: as rows, the labels of hundreds of thousands of chips would take some GB.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = labels.filter(pc.and_(pc.is_null(labels["dropped"]), pc.is_null(labels["event"])))
    # One row per (cell, source, date), and per row a share of each class.
    keys = kept.select(["cell", "source", "date"]).append_column("row", pa.array(np.arange(kept.num_rows)))
    groups = keys.group_by(["cell", "source", "date"], use_threads=False).aggregate([("row", "list")])
    group = np.empty(kept.num_rows, np.int64)
    lists = groups["row_list"].combine_chunks()
    group[lists.flatten().to_numpy()] = np.repeat(np.arange(len(groups)), lists.value_lengths().to_numpy())
    bits = _bits_of(kept, crosswalks)
    mapped = bits >= 0
    size = len(groups) * len(CLASSES)
    weights = kept["share"].to_numpy()[mapped]
    said = np.bincount(group[mapped] * len(CLASSES) + bits[mapped], weights, size).reshape(-1, len(CLASSES))
    found: dict[str, list[Evidence]] = defaultdict(list)
    names = [groups[name].to_pylist() for name in ("cell", "source", "date")]
    for cell, source, date, shares in zip(*names, said.tolist(), strict=True):
        shares = {name: share for name, share in zip(CLASSES, shares, strict=True) if share}
        if shares:
            found[cell].append(Evidence(source, date, shares))
    return found


def unreadable(labels: pa.Table) -> dict[str, str]:
    """cell -> why a label source could not be read there."""
    import pyarrow.compute as pc

    failed = labels.filter(pc.starts_with(labels["dropped"].fill_null(""), f"{UNREADABLE}:"))
    return dict(zip(failed["cell"].to_pylist(), failed["dropped"].to_pylist(), strict=True))


def _bits_of(labels: pa.Table, crosswalks: dict[str, Crosswalk]) -> np.ndarray:
    """Bit of every row's class, int64 (N,), -1 where the source says nothing there. An unknown code is a Problem."""
    import numpy as np

    source, code = (labels[name].combine_chunks().dictionary_encode() for name in ("source", "code"))
    pairs = source.indices.to_numpy().astype(np.int64) * len(code.dictionary) + code.indices.to_numpy()
    distinct, place = np.unique(pairs, return_inverse=True)
    bits = []
    for pair in distinct.tolist():
        name, of = divmod(pair, len(code.dictionary))
        class_ = crosswalks[source.dictionary[name].as_py()].classify(code.dictionary[of].as_py())
        bits.append(-1 if class_ is None else BIT[class_])
    return np.array(bits, np.int64)[place]


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
        self._of: dict[int, tuple[str, int, str]] = {}

    def __call__(self, cell: str, labels: LabelSet, day: dt.date) -> str:
        if cell != self._cell:
            self._cell, self._of = cell, {}
        today = day.toordinal()
        said = []
        for evidence in labels.evidence:
            before, shown, after = self._of.get(id(evidence)) or self._spelled(evidence)
            said.append(f"{before}{abs(today - shown)}{after}" if shown else after)
        said += [json.dumps(_by_event(v), sort_keys=True) for v in labels.verdicts]
        return f"[{', '.join(said)}]"

    def _spelled(self, evidence: Evidence) -> tuple[str, int, str]:
        """Text before the days between the chip and what the source shows, its day's number, and the text after; of
        undated evidence all is after, and the number is 0."""
        shares = ", ".join([f'"{name}": {round(share, 6)!r}' for name, share in sorted(evidence.shares.items())])
        source, labelled = json.dumps(evidence.source), round(evidence.labelled, 6)
        text = f'"labelled": {labelled!r}, "shares": {{{shares}}}, "source": {source}}}'
        spelled = "", 0, f"{{{text}"
        if evidence.date is not None:
            spelled = f'{{"date": "{evidence.date}", "gap_days": ', evidence.date.toordinal(), f", {text}"
        self._of[id(evidence)] = spelled
        return spelled


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
