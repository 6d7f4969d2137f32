"""Harmonization at real scale: 237,871 label rows of BigEarthNet v2 (see bigearthnet.py for what of them is made up).

python tests/benchmarks/harmonize_rows.py [--repeats 5] [--write]
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import bigearthnet
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import Measure, main

from harmonize.captions import write_caption
from harmonize.queries import DistinctLabels
from harmonize.query_families import MIN_RELEVANT, MOST
from harmonize.query_file import corpus_digest, queries_record
from harmonize.splits import SplitShares, block_of, spatial_split, stratified_split
from harmonize.vocabulary import CLASSES
from pipeline.caption_rows import _label_sets
from pipeline.captions import _batches, write_captions
from pipeline.evidence import evidence_of
from pipeline.region import load_region
from pipeline.splits import report_of
from pipeline.store import Store
from pipeline.work import Work

KEPT = Path(tempfile.gettempdir()) / "closp-bench-bigearthnet"
SPATIAL, PAPER = SplitShares(0.7, 0.1, 0.2), SplitShares(0.18, 0.02, 0.8)


def work() -> Work:
    """The input of stage captions, made once and kept: making it is not what is measured."""
    if not (KEPT / "labels.parquet").exists():
        KEPT.mkdir(exist_ok=True)
        for name, table in bigearthnet.load().items():
            pq.write_table(table, KEPT / f"{name}.parquet")
    path = KEPT / "ben.toml"
    path.write_text(bigearthnet.MANIFEST.format(name="ben", method="spatial"))
    tables = {name: pq.read_table(KEPT / f"{name}.parquet") for name in ("chips", "labels")}
    return Work(load_region(path), Store(str(KEPT / "out")), tables, quiet=True)


def captioned() -> pa.Table:
    """What stage captions makes of it."""
    path = KEPT / "captions.parquet"
    if not path.exists():
        table = write_captions(work()).table
        assert table is not None
        pq.write_table(table, path)
    return pq.read_table(path)


def captions(of: Work) -> dict[str, Any]:
    """Labels -> LabelSet -> both captions of every row, and nothing else."""
    texts: set[str] = set()
    count = 0
    for batch in _batches(of):
        evidence = evidence_of(batch.labels, batch.crosswalks)
        for chip, labels in _label_sets(batch, evidence, of.region):
            said = write_caption(labels, chip.sensor, chip.day, chip.lat, chip.orbit, chip.chip_id)
            texts.add(said.rich)
            count += bool(said.paper)
    return {"captions": count, "distinct": len(texts)}


def stage(of: Work) -> dict[str, Any]:
    """Stage captions as it is run: also evidence and record as JSON, splits, the split report, the table."""
    table = write_captions(of).table
    assert table is not None
    return {"captions": table.num_rows, "distinct": len(table["caption_rich"].unique())}


def masks() -> dict[str, int]:
    """Every row's labels under a name of its own, as the issue asks: all rows are dealt, not cells."""
    table = captioned()
    return dict(zip(table["chip_id"].to_pylist(), table["label_mask"].to_pylist(), strict=True))


def stratified(of: dict[str, int]) -> dict[str, Any]:
    points, relative = _worst(of, stratified_split(of, PAPER), PAPER)
    return {"worst class: points off": points, "of its target, %": relative}


def _worst(of: dict[str, int], split: dict[str, str], shares: SplitShares) -> tuple[float, float]:
    """Largest difference of a class's share in a split from its target: percentage points, and % of the target."""
    bits = np.array(list(of.values()))
    chosen = np.array([split[name] for name in of])
    points = relative = 0.0
    for k in range(len(CLASSES)):
        holders = chosen[bits >> k & 1 == 1]
        for name, share in vars(shares).items():
            if len(holders):
                off = abs((holders == name).mean() - share)
                points, relative = max(points, off), max(relative, off / share)
    return round(100 * points, 3), round(100 * relative, 2)


def places() -> list[tuple[int, float, float]]:
    table = work().tables["chips"]
    west, south = (table[name].to_numpy() + 600 for name in ("west", "south"))
    return list(zip(table["epsg"].to_pylist(), west.tolist(), south.tolist(), strict=True))


def spatial(of: list[tuple[int, float, float]]) -> dict[str, Any]:
    found = [spatial_split(block_of(*place, 12), SPATIAL) for place in of]
    return {"rows": len(found), "test %": round(100 * found.count("test") / len(found), 1)}


def columns() -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    table = captioned()
    known, label = (table[name].to_numpy().astype(np.int64) for name in ("known_mask", "label_mask"))
    return table["chip_id"].to_pylist(), ["s2"] * table.num_rows, label, known


def queries(of: tuple[list[str], list[str], np.ndarray, np.ndarray]) -> dict[str, Any]:
    names, sensors, label, known = of
    digest = corpus_digest(names, sensors, label, known)
    record = queries_record(DistinctLabels.of(label, known, np.array(sensors)), digest, "all", MIN_RELEVANT, MOST)
    relevant = sum(n for query in record["queries"] for grade, n in query["grades"].items() if int(grade) > 0)
    return {"queries": len(record["queries"]), "qrels": relevant}


def reported() -> tuple[pa.Table, pa.Table, Any]:
    given = work()
    return given.tables["chips"], captioned(), given.region


def report(of: tuple[pa.Table, pa.Table, Any]) -> dict[str, Any]:
    return {"touching train %": round(100 * report_of(*of)["leakage"]["test"]["touching"], 1)}


if __name__ == "__main__":
    main(
        "harmonize_rows",
        [
            Measure("labels to captions", 10, work, captions),
            Measure("stage captions, all of it", 30, work, stage),
            Measure("stratified split", 60, masks, stratified),
            Measure("spatial split", 10, places, spatial),
            Measure("queries and qrels counts", 20, columns, queries),
            Measure("split report", 10, reported, report),
        ],
    )
