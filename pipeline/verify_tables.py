"""What verify finds in the tables of a region: their schemas, every row counted, keys, captions against labels, and one
table against another."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from harmonize.captions import paper_text
from harmonize.problem import Problem
from harmonize.vocabulary import ALL_MASK, CLASSES, names_of
from pipeline import tables
from pipeline.receipt import Receipt, counted_as
from pipeline.verify_tar import Finding

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store import Store

KEYS = {
    "scenes": ("source", "scene"),
    "chips": ("chip_id",),
    "pixels": ("chip_id",),
    "labels": ("cell", "source", "event", "date", "code"),
    "captions": ("chip_id",),
    "index": ("chip_id",),
}
"""What names a row of a table."""
SAME = {
    "chips": ("cell", "sensor", "scene", "platform", "datetime", "orbit", "size_px", "lon", "lat"),
    "pixels": ("sha256",),
    "captions": ("cell", "block", "split", "label_mask", "known_mask", "caption_paper", "caption_rich", "events"),
}
"""What the index repeats of other tables."""
MOST = 20
"""Rows that are told one by one of what is wrong with many."""
Wrong = tuple[str, str]
"""Row (chip_id or cell, or empty), what is wrong."""


def table_findings(
    store: Store, receipts: Mapping[str, Receipt], damaged: set[str], fix: Callable[[str], str]
) -> Iterator[Finding]:
    """What is wrong with tables whose bytes are those that were written; `damaged` files are told of already.

    Tables are compared where the one was made of the other as it is now.
    """
    found: dict[str, pa.Table] = {}
    for stage, receipt in receipts.items():
        name = "shards/index.parquet" if stage == "shards" else f"{stage}.parquet"
        if stage == "screen":
            yield from _screen(store, receipt, damaged, fix(stage))
        elif name in receipt.outputs and name not in damaged:
            kind = "index" if stage == "shards" else stage
            try:
                table = found[stage] = _whole(tables.read_table(store, name, tables.SCHEMAS[kind]), name)
            except Problem as problem:
                yield Finding(name, "", problem.what, fix(stage))
                continue
            wrong = [*_keys_wrong(table, kind), *_counts_wrong(table, receipt)]
            wrong += _captions_wrong(table) if stage == "captions" else ()
            yield from (Finding(name, row, what, fix(stage)) for row, what in wrong)
    for stage, name, row, what in _compared(found, receipts):
        yield Finding(name, row, what, fix(stage))


def rows_by_part(store: Store, receipt: Receipt) -> dict[str, pa.Table]:
    """Part -> chip_id, row and sha256 of the chips that the pixels table has in it; nothing where that is damaged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    name = "pixels.parquet"
    if not store.exists(name) or hashlib.sha256(store.read(name)).hexdigest() != receipt.outputs.get(name):
        return {}
    try:
        table = tables.read_table(store, name, tables.PIXELS).select(["chip_id", "part", "row", "sha256"])
    except Problem:
        return {}  # told by table_findings
    table = table.filter(pc.is_valid(table["part"])).sort_by("part")
    ends = pc.run_end_encode(table["part"].combine_chunks())
    found, start = {}, 0
    for part, end in zip(ends.values.to_pylist(), ends.run_ends.to_pylist(), strict=True):
        found[part] = pa.table({key: table[key].take(list(range(start, end))) for key in ("chip_id", "row", "sha256")})
        start = end
    return found


def _whole(table: pa.Table, name: str) -> pa.Table:
    import pyarrow as pa

    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise Problem(f"{name} is damaged: {error}", code=4) from None
    return table


def _screen(store: Store, receipt: Receipt, damaged: set[str], fix: str) -> Iterator[Finding]:
    rows = 0
    for name in receipt.outputs:
        if name in damaged:
            return
        try:
            rows += tables.read_table(store, name, tables.SCREEN).num_rows
        except Problem as problem:
            yield Finding(name, "", problem.what, fix)
            return
    if rows != receipt.kept:
        yield Finding("screen", "", f"its files have {rows} rows, the receipt says {receipt.kept}", fix)


def _told(rows: Iterable[Any], what: Callable[[Any], Wrong]) -> Iterator[Wrong]:
    rows = list(rows)
    yield from (what(row) for row in rows[:MOST])
    if len(rows) > MOST:
        yield "", f"and so {len(rows) - MOST} more rows: {what(rows[MOST])[1]}"


def _keys_wrong(table: pa.Table, kind: str) -> Iterator[Wrong]:
    import pyarrow.compute as pc

    key = list(KEYS[kind])
    counts = table.select(key).group_by(key).aggregate([([], "count_all")])
    if counts.num_rows < table.num_rows:
        twice = counts.filter(pc.greater(counts["count_all"], 1)).to_pylist()
        yield from _told(
            twice,
            lambda row: (str(row[key[0]]), f"{_named(row, key)} stands in {row['count_all']} rows"),
        )


def _named(row: Mapping[str, Any], key: list[str]) -> str:
    return ", ".join(f"{name} {row[name]}" for name in key)


def _counts_wrong(table: pa.Table, receipt: Receipt) -> Iterator[Wrong]:
    """In = kept + dropped, in the receipt and in the table."""
    lost = sum(receipt.dropped.values())
    if receipt.rows_in != receipt.kept + lost:
        yield "", f"the receipt has {receipt.rows_in} rows in, {receipt.kept} kept and {lost} dropped"
    kept, dropped = table.num_rows, receipt.dropped
    if "dropped" in table.schema.names:
        dropped = Counter(map(counted_as, table["dropped"].drop_null().to_pylist()))
        kept -= sum(dropped.values())
    if kept != receipt.kept:
        yield "", f"it has {kept} rows that are kept, the receipt says {receipt.kept}"
    for reason in sorted(set(dropped) | set(receipt.dropped)):
        if dropped.get(reason, 0) != receipt.dropped.get(reason, 0):
            what = f"it has {dropped.get(reason, 0)} rows dropped as '{reason}'"
            yield "", f"{what}, the receipt says {receipt.dropped.get(reason, 0)}"


def _captions_wrong(table: pa.Table) -> Iterator[Wrong]:
    """Captions of kept rows fit their labels, and a cell stands in one split."""
    import pyarrow.compute as pc

    kept = table.filter(pc.is_null(table["dropped"]))
    columns = ("chip_id", "label_mask", "known_mask", "labels", "caption_paper")
    wrong = []
    for chip, label, known, labels, text in zip(*(kept[name].to_pylist() for name in columns), strict=True):
        named = {one["name"] for one in labels or ()}
        if label & ~known or known & ~ALL_MASK:
            wrong.append((chip, f"label_mask {label} has classes that known_mask {known} does not know"))
        elif text != paper_text(names_of(label)):
            wrong.append((chip, f"caption_paper is {text!r}, label_mask {label} says {paper_text(names_of(label))!r}"))
        elif named != set(names_of(label)):
            said = ", ".join(name for name in CLASSES if name in named)
            wrong.append((chip, f"its labels ({said}) are not those of label_mask {label}"))
    yield from _told(wrong, lambda one: one)
    pairs = kept.group_by(["cell", "split"]).aggregate([])
    splits = pairs.group_by("cell").aggregate([("split", "list")])
    both = splits.filter(pc.greater(pc.list_value_length(splits["split_list"]), 1)).to_pylist()
    yield from _told(both, lambda row: (row["cell"], f"this cell stands in {' and '.join(sorted(row['split_list']))}"))


def _compared(found: Mapping[str, pa.Table], receipts: Mapping[str, Receipt]) -> Iterator[tuple[str, str, str, str]]:
    """Stage, its table, row and what is wrong: rows never vanish from chips on, and the index repeats what they say."""
    import pyarrow.compute as pc

    for stage in ("pixels", "captions"):
        if stage in found and "chips" in found and _made_of(receipts, stage, "chips"):
            mine, chips = (found[name]["chip_id"].combine_chunks() for name in (stage, "chips"))
            for ids, other, what in (
                (chips, mine, f"chips has it, {stage} does not"),
                (mine, chips, f"{stage} has it, chips does not"),
            ):
                missing = ids.filter(pc.invert(pc.is_in(ids, other))).to_pylist()
                for row, said in _told(missing, lambda chip, what=what: (chip, what)):  # type: ignore[misc]
                    yield stage, f"{stage}.parquet", row, said
    if "shards" in found:
        for stage in SAME:
            if stage in found and _made_of(receipts, "shards", stage):
                for row, said in _index_against(found["shards"], found[stage], stage):
                    yield "shards", "shards/index.parquet", row, said


def _made_of(receipts: Mapping[str, Receipt], stage: str, needed: str) -> bool:
    return {stage, needed} <= set(receipts) and receipts[stage].inputs.get(needed) == receipts[needed].identity


def _index_against(index: pa.Table, table: pa.Table, stage: str) -> Iterator[Wrong]:
    """Rows of the index that another table does not have, has dropped, or has otherwise."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = pc.index_in(index["chip_id"], table["chip_id"].combine_chunks())
    chips = index["chip_id"].to_pylist()
    if place.null_count:
        gone = [chip for chip, at in zip(chips, place.to_pylist(), strict=True) if at is None]
        yield from _told(gone, lambda chip: (chip, f"{stage}.parquet does not have it"))
        return
    rows = table.take(place)
    dropped = [chip for chip, why in zip(chips, rows["dropped"].to_pylist(), strict=True) if why]
    yield from _told(dropped, lambda chip: (chip, f"{stage}.parquet has it as dropped"))
    for name in SAME[stage]:
        mine, theirs = (pa.chunked_array([side[name].combine_chunks()]) for side in (index, rows))
        if mine.equals(theirs):
            continue
        pairs = zip(chips, mine.to_pylist(), theirs.to_pylist(), strict=True)
        differ = [(chip, a, b) for chip, a, b in pairs if a != b]
        yield from _told(
            differ,
            lambda one, name=name: (one[0], f"{name} is {one[1]!r}, {stage}.parquet has {one[2]!r}"),  # type: ignore[misc]
        )
