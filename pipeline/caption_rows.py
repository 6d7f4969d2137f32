"""The rows of captions.parquet for the chips of some cells: a job, from columns to columns. Splits come later."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from harmonize.agreement import Agreement
from harmonize.captions import write_caption
from harmonize.crosswalk import Crosswalk
from harmonize.events import judge
from harmonize.labelset import Evidence, LabelSet, combine
from harmonize.splits import block_of
from pipeline import tables
from pipeline.evidence import EvidenceText, evidence_of, touched, unreadable
from pipeline.label_agreement import agreement_of

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.region import Region
    from pipeline.work import Work


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
    day: dt.date
    """Of the acquisition, UTC."""
    orbit: str | None
    role: str
    dropped: str | None


@dataclass(frozen=True, eq=False)
class Batch:
    """All chips of some cells, and all labels of them."""

    chips: pa.Table
    """Columns of Chip."""
    labels: pa.Table
    crosswalks: dict[str, Crosswalk]


@dataclass(frozen=True, eq=False)
class Captioned:
    """Their captions."""

    table: pa.Table
    """Rows of captions.parquet in the order of the batch; `split` is empty."""
    events_of: list[list[str]]
    """Per row the events that the chip is one of."""
    agreed: dict[tuple[str, str], Agreement]


def caption(work: Work, batch: Batch) -> Captioned:
    """Job: the captions of one batch."""
    region = work.region
    columns, events_of = Columns(), []
    with _no_garbage():
        evidence = evidence_of(batch.labels, batch.crosswalks)
        unread = unreadable(batch.labels)
        for chip, labels in _label_sets(batch, evidence, region):
            columns.add(chip, labels, region.split.block_km, unread.get(chip.cell))
            events_of.append(_events_of(chip, labels))
        agreed = agreement_of(region, zip(columns.of["cell"], batch.chips["day"].to_pylist(), strict=True), evidence)
        return Captioned(columns.table(), events_of, agreed)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Without the search for objects that refer to each other in circles: millions of small ones that do not are made
    here, and looking through them took a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _label_sets(batch: Batch, evidence: dict[str, list[Evidence]], region: Region) -> Iterator[tuple[Chip, LabelSet]]:
    """Every chip with what is known of it."""
    near, order = touched(batch.labels, region), [use.source for use in region.labels]
    least, nothing = region.captions.min_share, list[Evidence]()
    for row in zip(*(batch.chips[name].to_pylist() for name in Chip._fields), strict=True):
        chip = Chip._make(row)
        verdicts = [judge(event, touch, chip.day) for event, touch in near.get(chip.cell, ())]
        yield chip, combine(evidence.get(chip.cell, nothing), order, chip.day, least, verdicts)


def _events_of(chip: Chip, labels: LabelSet) -> list[str]:
    """The events a chip is one of: those that cover some of its cell, if it is in their window or was taken as their
    `before`."""
    return [
        v.event.id
        for v in labels.verdicts
        if v.touch.share > 0 and (0 <= v.days <= v.event.effect_days or f"before:{v.event.id}" in chip.role.split())
    ]


class Columns:
    """captions.parquet, column by column."""

    def __init__(self) -> None:
        self.of: dict[str, list[Any]] = {name: [] for name in tables.CAPTIONS.names if name not in ("labels", "split")}
        self._add = {name: column.append for name, column in self.of.items()}
        self._ends: list[int] = [0]
        self._names: list[str] = []
        self._shares: list[float] = []
        self._sources: list[str] = []
        """Of the labels of all chips, one after another."""
        self._evidence = EvidenceText()

    def add(self, chip: Chip, labels: LabelSet, block_km: float, unread: str | None = None) -> None:
        """unread: why a label source could not be read there: what it would have said may rule."""
        add = self._add
        said = write_caption(labels, chip.sensor, chip.day, chip.lat, chip.orbit, chip.chip_id)
        add["chip_id"](chip.chip_id)
        add["cell"](chip.cell)
        middle = (chip.west + chip.east) / 2, (chip.south + chip.north) / 2
        add["block"](block_of(chip.epsg, *middle, block_km))
        add["label_mask"](labels.label_mask)
        add["known_mask"](labels.known_mask)
        add["dominant"](labels.dominant)
        add["diversity"](labels.diversity)
        add["evidence"](self._evidence(chip.cell, labels, chip.day))
        add["caption_paper"](said.paper)
        add["caption_rich"](said.rich)
        add["record"](said.record_json)
        add["template"](said.template)
        add["events"](labels.events)
        add["dropped"](chip.dropped or unread or ("no labels" if labels.empty else None))
        self._names += labels.shares
        self._shares += labels.shares.values()
        self._sources += labels.sources.values()
        self._ends.append(len(self._names))

    def table(self) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        kind = tables.CAPTIONS.field("labels").type.value_type
        parts: Sequence[Any] = (self._names, np.round(np.array(self._shares, np.float64), 6), self._sources)
        flat = pa.StructArray.from_arrays(
            [pa.array(values, field.type) for values, field in zip(parts, kind, strict=True)], fields=list(kind)
        )
        made = {"labels": pa.ListArray.from_arrays(pa.array(self._ends, pa.int32()), flat)}
        made["split"] = pa.array([""] * (len(self._ends) - 1), pa.string())
        arrays = [made[f.name] if f.name in made else pa.array(self.of[f.name], f.type) for f in tables.CAPTIONS]
        return pa.Table.from_arrays(arrays, schema=tables.CAPTIONS)
