"""The split of a region's chips as its tables have it: the report on it, and `python -m pipeline splits REGION`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.problem import Problem
from harmonize.split_report import SplitColumns, report_lines, split_report
from harmonize.splits import SplitShares
from pipeline import tables

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from pipeline.region import Region
    from pipeline.store import Store

SPLIT_REPORT = "splits.json"
"""Class balance and leakage of the split, beside the tables."""
PLACE = ("chip_id", "sensor", "scene", "epsg", "lon", "lat")
LABELLED = ("chip_id", "cell", "block", "split", "label_mask", "known_mask", "events", "dropped")
"""Columns of chips and of captions that the report and the map want; captions has long texts besides."""


def report_of(chips: pa.Table, captions: pa.Table, region: Region) -> dict[str, Any]:
    """The report (harmonize.split_report) on the chips that captions keeps."""
    import pyarrow.compute as pc

    share = region.split
    joined = placed(chips, captions)
    kept = joined.filter(pc.is_null(joined["dropped"]))
    return split_report(
        columns_of(kept, region.size_px * 10.0), SplitShares(train=share.train, val=share.val, test=share.test)
    )


def placed(chips: pa.Table, captions: pa.Table) -> pa.Table:
    """The columns LABELLED of captions, row for row, with PLACE of chips."""
    import pyarrow.compute as pc

    rows = pc.index_in(captions["chip_id"], chips["chip_id"].combine_chunks())
    assert not rows.null_count, "captions has a row for each chip and no other"
    captions = captions.select(list(LABELLED))
    for name in PLACE[1:]:
        captions = captions.append_column(name, chips[name].take(rows))
    return captions


def columns_of(kept: pa.Table, side_m: float) -> SplitColumns:
    """The columns of the report, of a table as `placed` makes it."""
    texts: dict[str, Any] = {name: _texts(kept[name]) for name in ("cell", "block", "split", "sensor", "scene")}
    numbers = {name: kept[name].to_numpy() for name in ("label_mask", "known_mask", "lon", "lat", "epsg")}
    return SplitColumns(**texts, **numbers, events=kept["events"].to_pylist(), side_m=side_m)


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    """A column of texts as objects (n,), each text once in memory: scenes have long names and thousands of chips."""
    import numpy as np

    encoded = column.combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), object)[encoded.indices.to_numpy()]


def show_splits(region: Region, store: Store, png: Path | None) -> None:
    """Print the report on a region's split, and draw its map where asked.

    Counted is what captions keeps and, once the pixels are cut, pixels too: what goes into shards.
    """
    import pyarrow.compute as pc

    if not store.exists("captions.parquet"):
        raise Problem(
            f"{region.name} has no captions yet, and so no splits",
            where=store.root,
            fix=f"make corpus REGION={region.path}, or python -m pipeline captions {region.path}",
        )
    chips, captions = (tables.read_table(store, f"{s}.parquet", tables.SCHEMAS[s]) for s in ("chips", "captions"))
    if store.exists("pixels.parquet"):
        captions = _without_pixels(captions, tables.read_table(store, "pixels.parquet", tables.PIXELS))
    lost = Counter(str(reason) for reason in pc.drop_null(captions["dropped"]).to_pylist())
    print(f"{region.name}: {region.split.method} split of {captions.num_rows - lost.total():,} chips")
    if lost:
        print(f"dropped: {', '.join(f'{n} {reason}' for reason, n in sorted(lost.items()))}")
    print("\n".join(report_lines(report_of(chips, captions, region))))
    if png:
        from pipeline.picture import save_picture
        from pipeline.split_map import draw_map

        save_picture(draw_map(placed(chips, captions), region), png)
        print(f"wrote {png}")


def _without_pixels(captions: pa.Table, pixels: pa.Table) -> pa.Table:
    """captions with the reason of pixels for what pixels dropped."""
    import pyarrow.compute as pc

    rows = pc.index_in(captions["chip_id"], pixels["chip_id"].combine_chunks())
    dropped = pc.coalesce(captions["dropped"], pixels["dropped"].take(rows))
    return captions.set_column(captions.schema.get_field_index("dropped"), captions.schema.field("dropped"), dropped)
