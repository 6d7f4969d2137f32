"""Stage captions: chips + labels -> LabelSet, captions and split of every chip. All judgement is in `harmonize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.agreement import Agreement, merge
from harmonize.captions import TEMPLATE_VERSION
from harmonize.split_report import split_notes
from harmonize.splits import SplitShares, event_split, spatial_split, stratified_split, torn_from_event
from harmonize.vocabulary import VOCABULARY_VERSION
from pipeline import events, tables
from pipeline.caption_rows import Batch, Captioned, Chip, caption
from pipeline.evidence import crosswalks_of
from pipeline.label_agreement import AGREEMENT, in_short, record
from pipeline.region import Region
from pipeline.source import crosswalk_path
from pipeline.splits import SPLIT_REPORT, report_of
from pipeline.work import Outcome, Work

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 20_000
"""Chips of one job, and some more: a cell's stay together."""


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
    crosswalks = [crosswalk_path(region.source(use.source)) for use in region.labels]
    return crosswalks + (events.files(region, "href") if _whole(region) else [])


def _whole(region: Region) -> bool:
    """Whether events stay in one split. The stratified protocol knows no events: it deals out cells by their labels."""
    return region.split.method == "spatial" and region.split.events == "whole"


def write_captions(work: Work) -> Outcome:
    """One row per chip. Dropped are chips with neither land cover nor a crisis label (`no labels`), and those of an
    event that belongs to another split than they do (`split: event`)."""
    import pyarrow as pa

    batches = _batches(work)
    done = list(work.jobs(caption, batches, len(batches), "captions"))
    of_event = _splits_of_events(work.region)
    table = pa.concat_tables([tables.CAPTIONS.empty_table(), *(one.table for one in done)])
    table = _with_splits(table, [names for one in done for names in one.events_of], of_event, work.region)
    report = report_of(work.tables["chips"], table, work.region)
    agreed = _agreed(done)
    written = {SPLIT_REPORT: report, AGREEMENT: record(agreed)}
    work.begin()
    files = {name: work.store.write_json(name, value) for name, value in written.items()}
    told = [f"event '{name}' belongs to {split}" for name, split in of_event.items()]
    notes = [*told, *split_notes(report), *(in_short(pair, found) for pair, found in agreed.items())]
    return Outcome(table.num_rows, table, files=files, notes=notes)


def _batches(work: Work) -> list[Batch]:
    """All chips, by cells, with the labels of their cells."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    chips, labels, crosswalks = work.tables["chips"], work.tables["labels"], crosswalks_of(work.region)
    columns = [chips["datetime"].cast(pa.date32()) if name == "day" else chips[name] for name in Chip._fields]
    chips = pa.table(columns, names=list(Chip._fields))
    # A cell's name and _ begin the chip_id of each of its chips, so that this is the order of chip_ids too; of imported
    # chips it is not, and a cell's must stay together all the same.
    place = pc.binary_join_element_wise(chips["cell"], "", "_")
    chips = chips.append_column("place", place).sort_by([("place", "ascending"), ("chip_id", "ascending")])
    chips = chips.drop_columns(["place"])
    cells = pc.unique(chips["cell"])
    of_chip, of_label = (pc.index_in(t["cell"], cells).fill_null(-1).to_numpy() for t in (chips, labels))
    order = np.argsort(of_label, kind="stable")
    firsts = np.flatnonzero(np.diff(of_chip, prepend=-1))
    starts = firsts[np.unique(np.searchsorted(firsts, np.arange(0, len(of_chip), BATCH)).clip(max=len(firsts) - 1))]
    found = []
    for start, end in zip(starts, [*starts[1:], len(of_chip)], strict=True):
        low, high = np.searchsorted(of_label[order], [of_chip[start], of_chip[end - 1] + 1])
        # Taken, since a slice would travel with the buffers of the whole table.
        mine = labels.take(pa.array(order[low:high])).combine_chunks()
        found.append(Batch(chips.take(pa.array(np.arange(start, end))).combine_chunks(), mine, crosswalks))
    return found


def _agreed(done: list[Captioned]) -> dict[tuple[str, str], Agreement]:
    pairs = dict.fromkeys(pair for one in done for pair in one.agreed)
    return {pair: merge(one.agreed[pair] for one in done if pair in one.agreed) for pair in pairs}


def _with_splits(table: pa.Table, events_of: list[list[str]], of_event: dict[str, str], region: Region) -> pa.Table:
    """The rows by chip_id, with the split of each, and `split: event` where it is not that of the chip's event."""
    import pyarrow as pa
    import pyarrow.compute as pc

    splits, dropped = _splits(table, region), table["dropped"].to_pylist()
    for k, names in enumerate(events_of):
        if dropped[k] is None and torn_from_event(splits[k], [of_event[name] for name in names if name in of_event]):
            dropped[k] = "split: event"
    for name, values in (("split", splits), ("dropped", dropped)):
        place = tables.CAPTIONS.get_field_index(name)
        table = table.set_column(place, tables.CAPTIONS.field(name), pa.array(values, pa.string()))
    names = table["chip_id"].combine_chunks()
    in_order = pc.all(pc.less_equal(names[:-1], names[1:])).as_py()
    return table.combine_chunks() if in_order is not False else table.sort_by("chip_id").combine_chunks()


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


def _splits(table: pa.Table, region: Region) -> list[str]:
    """Split of every chip. Stratified: all dates and sensors of a cell together, by the labels of the kept chips."""
    shares, blocks = _shares(region), table["block"].to_pylist()
    of_block = {block: spatial_split(block, shares) for block in set(blocks)}
    if region.split.method == "spatial":
        return [of_block[block] for block in blocks]
    masks: dict[str, int] = {}
    cells, label_masks, dropped = (table[name].to_pylist() for name in ("cell", "label_mask", "dropped"))
    for cell, mask, reason in zip(cells, label_masks, dropped, strict=True):
        if reason is None:
            masks[cell] = masks.get(cell, 0) | mask
    dealt = stratified_split(masks, shares)
    return [dealt.get(cell) or of_block[block] for cell, block in zip(cells, blocks, strict=True)]
