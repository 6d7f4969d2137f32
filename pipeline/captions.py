"""Stage captions: chips + labels -> LabelSet, captions and split of every chip. All judgement is in `harmonize`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harmonize.captions import TEMPLATE_VERSION, write_caption
from harmonize.events import judge
from harmonize.labelset import Evidence, LabelSet, combine
from harmonize.split_report import split_notes
from harmonize.splits import SplitShares, block_of, event_split, spatial_split, stratified_split, torn_from_event
from harmonize.vocabulary import VOCABULARY_VERSION
from pipeline import events, tables
from pipeline.evidence import EvidenceText, crosswalks_of, evidence_of, existing_crosswalk, touched
from pipeline.label_agreement import AGREEMENT, agreement_of, in_short, record
from pipeline.region import Region
from pipeline.splits import SPLIT_REPORT, report_of
from pipeline.work import Outcome, Work

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 50_000
"""Chips that are rows at once; all else of them are columns."""


class Chip(NamedTuple):
    """The columns of chips that a caption and a split depend on."""

    chip_id: str
    cell: str
    epsg: int
    west: float
    south: float
    east: float
    north: float
    lat: float
    sensor: str
    datetime: dt.datetime
    orbit: str | None
    role: str
    dropped: str | None


def params(region: Region) -> dict[str, Any]:
    return {
        "min_share": region.captions.min_share,
        "split": region.split.model_dump(mode="json"),
        "events": events.params(region, "kind", "effect_days", "min_event_share"),
        "order": [use.source for use in region.labels],
        "crosswalks": {use.source: region.source(use.source).crosswalk for use in region.labels},
        "template": TEMPLATE_VERSION,
        "vocabulary": VOCABULARY_VERSION,
    }


def outside(region: Region) -> list[Path]:
    crosswalks = [existing_crosswalk(region, k) for k in range(len(region.labels))]
    return crosswalks + (events.files(region, "href") if _whole(region) else [])


def _whole(region: Region) -> bool:
    """Whether events stay in one split. The stratified protocol knows no events: it deals out cells by their labels."""
    return region.split.method == "spatial" and region.split.events == "whole"


def write_captions(work: Work) -> Outcome:
    """One row per chip. Dropped are chips with neither land cover nor a crisis label (`no labels`), and those of an
    event that belongs to another split than they do (`split: event`)."""
    crosswalks = crosswalks_of(work.region)
    evidence = evidence_of(work.tables["labels"], crosswalks)
    columns, events_of = Columns(), []
    for chip, labels in _label_sets(work, evidence):
        columns.add(chip, labels, work.region.split.block_km)
        events_of.append(_events_of(chip, labels))
    of = columns.of
    of["split"] = _splits(of, work.region)
    split_of_event = _splits_of_events(work.region)
    for k, names in enumerate(events_of):
        torn = torn_from_event(of["split"][k], [split_of_event[name] for name in names if name in split_of_event])
        if torn and of["dropped"][k] is None:
            of["dropped"][k] = "split: event"
    told = [f"event '{name}' belongs to {split}" for name, split in split_of_event.items()]
    agreed = agreement_of(work, evidence)
    table = columns.table()
    report = report_of(work.tables["chips"], table, work.region)
    written = {SPLIT_REPORT: report, AGREEMENT: record(agreed)}
    files = {name: work.store.write_json(name, value) for name, value in written.items()}
    notes = [*told, *split_notes(report), *(in_short(pair, found) for pair, found in agreed.items())]
    return Outcome(table.num_rows, table, files=files, notes=notes)


def _chips(work: Work) -> Iterator[Chip]:
    table = work.tables["chips"].select(list(Chip._fields)).sort_by("chip_id")
    for batch in table.to_batches(max_chunksize=BATCH):
        yield from map(Chip._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _label_sets(work: Work, evidence: dict[str, list[Evidence]]) -> Iterator[tuple[Chip, LabelSet]]:
    """Every chip, by chip_id, with what is known of it."""
    region, near = work.region, touched(work.tables["labels"], work.region)
    order = [use.source for use in region.labels]
    for chip in work.track(_chips(work), work.tables["chips"].num_rows, "captions"):
        day = chip.datetime.date()
        verdicts = [judge(event, touch, day) for event, touch in near.get(chip.cell, ())]
        yield chip, combine(evidence.get(chip.cell, []), order, day, region.captions.min_share, verdicts)


class Columns:
    """captions.parquet, column by column."""

    def __init__(self) -> None:
        self.of: dict[str, list[Any]] = {name: [] for name in tables.CAPTIONS.names if name != "labels"}
        self._ends: list[int] = [0]
        self._labels: list[tuple[str, float, str]] = []
        """Of all chips, one after another: name, share, source."""
        self._evidence = EvidenceText()

    def add(self, chip: Chip, labels: LabelSet, block_km: float) -> None:
        day, of = chip.datetime.date(), self.of
        caption = write_caption(labels, chip.sensor, day, chip.lat, chip.orbit, chip.chip_id)
        of["chip_id"].append(chip.chip_id)
        of["cell"].append(chip.cell)
        middle = (chip.west + chip.east) / 2, (chip.south + chip.north) / 2
        of["block"].append(block_of(chip.epsg, *middle, block_km))
        of["label_mask"].append(labels.label_mask)
        of["known_mask"].append(labels.known_mask)
        of["dominant"].append(labels.dominant)
        of["diversity"].append(labels.diversity)
        of["evidence"].append(self._evidence(chip.cell, labels, day))
        of["caption_paper"].append(caption.paper)
        of["caption_rich"].append(caption.rich)
        of["record"].append(json.dumps(caption.record))
        of["template"].append(caption.template)
        of["events"].append(labels.events)
        of["dropped"].append(chip.dropped or ("no labels" if labels.empty else None))
        self._labels += [(name, round(share, 6), labels.sources[name]) for name, share in labels.shares.items()]
        self._ends.append(len(self._labels))

    def table(self) -> pa.Table:
        import pyarrow as pa

        kind = tables.CAPTIONS.field("labels").type.value_type
        parts = zip(zip(*self._labels, strict=True), kind, strict=True) if self._labels else ((None, f) for f in kind)
        flat = pa.StructArray.from_arrays([pa.array(values or [], f.type) for values, f in parts], fields=list(kind))
        labels = pa.ListArray.from_arrays(pa.array(self._ends, pa.int32()), flat)
        arrays = [labels if f.name == "labels" else pa.array(self.of[f.name], f.type) for f in tables.CAPTIONS]
        return tables.check(pa.Table.from_arrays(arrays, schema=tables.CAPTIONS), tables.CAPTIONS, "captions")


def _events_of(chip: Chip, labels: LabelSet) -> list[str]:
    """The events a chip is one of: those that cover some of its cell, if it is in their window or was taken as their
    `before`."""
    return [
        v.event.id
        for v in labels.verdicts
        if v.touch.share > 0 and (0 <= v.days <= v.event.effect_days or f"before:{v.event.id}" in chip.role.split())
    ]


def _shares(region: Region) -> SplitShares:
    return SplitShares(region.split.train, region.split.val, region.split.test)


def _splits_of_events(region: Region) -> dict[str, str]:
    """Event -> its split; none where events are not kept whole."""
    if not _whole(region):
        return {}
    return {
        mapped.event.id: event_split(events.blocks_of(mapped.shape, region.split.block_km), _shares(region))
        for mapped in events.load_events(region, extents=False)
    }


def _splits(of: dict[str, list[Any]], region: Region) -> list[str]:
    """Split of every chip. Stratified: all dates and sensors of a cell together, by the labels of the kept chips."""
    shares = _shares(region)
    of_block = {block: spatial_split(block, shares) for block in set(of["block"])}
    if region.split.method == "spatial":
        return [of_block[block] for block in of["block"]]
    masks: dict[str, int] = {}
    for cell, mask, dropped in zip(of["cell"], of["label_mask"], of["dropped"], strict=True):
        if dropped is None:
            masks[cell] = masks.get(cell, 0) | mask
    cells = stratified_split(masks, shares)
    return [cells.get(cell) or of_block[block] for cell, block in zip(of["cell"], of["block"], strict=True)]
