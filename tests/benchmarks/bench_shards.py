"""What the loader's benchmark reads, made once and kept: S2 samples of 160 kB in the layout of the shards (DESIGN §5), the
same pixels as the published corpus stores them (HDF5, a group a sample), and pixels from which tars are written.

Made up: the pixels are noise round a level per class, which is all the same to a reader, since nothing is compressed.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import counted_bucket
from fake_shards import write_fake_shards

from pipeline.parts import write_part
from pipeline.region import load_region
from pipeline.sample import GROUPS, arrays_sha256, stack_canonical
from pipeline.store import Store
from pipeline.tars import PLAN, Tar
from pipeline.work import Work
from train.shards import Reader, Samples, open_shards
from train.tar_file import TarFile

KEPT = Path(tempfile.gettempdir()) / "closp-bench-loader-2"
SAMPLES, TARS, MANY, GROUPS_H5, WRITTEN = 3000, 2, 2600, 600, 1200
SAMPLE_BYTES = 160_000
"""Pixels of a sample: 2 x (4 x 120 x 120 + 6 x 60 x 60 + 2 x 20 x 20)."""
PART = "pixels/bench.arrow"

MANIFEST = """
name = "bench"
bounds = [9, 45, 10, 46]
start = 2020-01-01
end = 2020-12-31
[[imagery]]
source = "pc-sentinel-2-l2a"
[[labels]]
source = "bench-labels"
href = "labels.tif"
[shards]
quicklook = {quicklook}
[sources.bench-labels]
kind = "labels"
crosswalk = "corine"
licence = "none"
"""


def folder() -> Path:
    """A shard folder, 3,000 samples of the train split in two tars."""
    found = KEPT / "a/shards"
    if not (found / "shards.json").exists():
        for k, name in enumerate("ab"[:TARS]):
            count = SAMPLES // TARS
            write_fake_shards(KEPT / name / "shards", {("train", "s2"): count}, 120, name, first_col=k * count)
    return found


def samples() -> Samples:
    folder()
    return open_shards([KEPT / name / "shards" for name in "ab"[:TARS]])


def many_tars() -> Samples:
    """The same samples as if they lay in 2,600 tars, as 650,000 do: links, each of which is opened and mapped alone."""
    found = samples()
    folder = KEPT / "many"
    folder.mkdir(exist_ok=True)
    links = [folder / f"{k:04d}.tar" for k in range(MANY)]
    for k, link in enumerate(links):
        if not link.exists():
            link.hardlink_to(found.tars[k % TARS])
    place = np.random.default_rng(0).integers(MANY // TARS, size=len(found)) * TARS + found["tar"]
    files = tuple(TarFile(link, link.stat().st_size, found.files[k % TARS].sha256) for k, link in enumerate(links))
    return replace(found, columns={**found.columns, "tar": place}, tars=tuple(links), files=files)


def kept() -> Samples:
    """The same samples in a bucket, after an epoch: all of them are in the cache."""
    folder()
    os.environ[counted_bucket.ROOT] = str(KEPT)
    found = open_shards([f"counted://{name}/shards" for name in "ab"[:TARS]], cache=KEPT / "cache")
    reader = Reader(found)
    for k in range(0, len(found), 256):
        reader.read(found.where(np.arange(k, min(k + 256, len(found)))))
    return found


def tars() -> list[Path]:
    return list(samples().tars)


def chips(count: int) -> list[dict[str, np.ndarray]]:
    """Arrays of the first samples."""
    found = samples()
    read = Reader(found).read(found.where(np.arange(count)))
    return [{name: array[k] for name, array in read.items()} for k in range(count)]


def hdf5() -> Path:
    """As the published corpus is (CrisisLandMark): per sample image float32 (12,120,120), coords float32 (2,120,120),
    attributes crs, timestamp and labels; not compressed, which is kind to its reader."""
    import h5py

    path = KEPT / "published.h5"
    if not path.exists():
        draft = path.with_suffix(".tmp")
        with h5py.File(draft, "w") as file:
            for k, arrays in enumerate(chips(GROUPS_H5)):
                group = file.create_group(f"benv2s2_{k}")
                group["image"] = stack_canonical(arrays, "s2").astype(np.float32)
                group["coords"] = np.zeros((2, 120, 120), np.float32)
                group.attrs.update({"crs": "EPSG:32632", "timestamp": "2020-01-01", "labels": ["Water", "Crops"]})
        draft.replace(path)
    return path


def to_write(quicklook: bool) -> tuple[Work, Tar]:
    """What a job of stage shards is given: a tar of 1,200 samples, their pixels stored as stage pixels stores them."""
    root = KEPT / ("looks" if quicklook else "plain")
    root.mkdir(parents=True, exist_ok=True)
    path = root / "bench.toml"
    path.write_text(MANIFEST.format(quicklook=str(quicklook).lower()))
    region, store = load_region(path), Store(str(root / "out"))
    rows = [_row(k) for k in range(WRITTEN)]
    arrays = chips(WRITTEN)
    for row, chip in zip(rows, arrays, strict=True):
        row["sha256"] = arrays_sha256([chip[g.name] for g in GROUPS["s2"]])
    if not store.exists(PART):
        records = (_record(row, chip) for row, chip in zip(rows, arrays, strict=True))
        write_part(store, PART, [row["chip_id"] for row in rows], records)
    store.write(PLAN, b'"bench"')
    store.remove("receipts/tars/train-s2-000000.tar.json")  # else the tar that is there is found to be whole
    return Work(region, store, {}, quiet=True), Tar("train-s2-000000.tar", pa.Table.from_pylist(rows), "bench")


def _record(row: dict[str, Any], chip: dict[str, np.ndarray]) -> dict[str, Any]:
    said = {"chip_id": row["chip_id"], "sha256": row["sha256"], "nodata": 0.0, "failure": None}
    return said | {name: array.tobytes() for name, array in chip.items()}


def _row(k: int) -> dict[str, Any]:
    when = dt.datetime(2020, 6, 1, 10, tzinfo=dt.UTC)
    return {
        "chip_id": f"32632_{k}_4000_s2_20200601t100000", "cell": f"32632_{k}_4000", "size_px": 120, "epsg": 32632,
        "west": 1200.0 * k, "south": 4.8e6, "east": 1200.0 * (k + 1), "north": 4.8e6 + 1200, "lon": 9.5, "lat": 45.5,
        "sensor": "s2", "source": "pc-sentinel-2-l2a", "collection": "sentinel-2-l2a", "scene": "scene",
        "platform": "sentinel-2a", "datetime": when, "orbit": "descending", "block": "32632_b12_0_0", "split": "train",
        "label_mask": 17, "known_mask": 511, "labels": [{"name": "water", "share": 0.5, "source": "bench-labels"}],
        "caption_paper": "water. crops", "caption_rich": "An image.", "template": 1, "events": [], "part": PART, "row": k,
    }  # fmt: skip
