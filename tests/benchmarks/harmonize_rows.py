"""Harmonization at real scale: 237,871 label rows of BigEarthNet v2 (see bigearthnet.py for what of them is made up).

python tests/benchmarks/harmonize_rows.py [--repeats 5] [--write]
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import bigearthnet
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.captions import write_captions
from pipeline.region import load_region
from pipeline.store import Store
from pipeline.work import Work

KEPT = Path(tempfile.gettempdir()) / "closp-bench-bigearthnet"
TWO_GB = 2000


def tables() -> dict[str, pa.Table]:
    """The input, made once and kept: making it is not what is measured."""
    if not (KEPT / "labels.parquet").exists():
        KEPT.mkdir(exist_ok=True)
        for name, table in bigearthnet.load().items():
            pq.write_table(table, KEPT / f"{name}.parquet")
    return {name: pq.read_table(KEPT / f"{name}.parquet") for name in ("chips", "labels")}


def work(method: str = "spatial") -> Work:
    path = KEPT / "ben.toml"
    made = tables()
    path.write_text(bigearthnet.MANIFEST.format(name="ben", method=method))
    return Work(load_region(path), Store(str(KEPT / "out")), made, quiet=True)


def captions(of: Work) -> dict[str, Any]:
    table = write_captions(of).table
    return {"captions": table.num_rows, "distinct rich": len(table["caption_rich"].unique())}
