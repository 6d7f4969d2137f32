"""Shards as others read them, xarray views of chips, and what may be imported where."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from conftest import ROOT
from test_bad_input import cli
from world import World

import pipeline
from pipeline import runner
from pipeline.sample import arrays_sha256, from_npy, stack_canonical


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    world = World(root, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"), tail="[shards]\nshard_mb = 0.5\n")
    region, store = runner.load(world.write(), str(root / "out"))
    runner.run_upto(region, store, "shards", quiet=True)
    return root / "out"


def test_tars_fill_up_to_shard_mb(out: Path) -> None:
    tars = sorted((out / "tiny/shards").glob("*.tar"))
    assert len(tars) > 3
    assert all(tar.stat().st_size < 0.62e6 for tar in tars)
    about = json.loads((out / "tiny/shards/shards.json").read_text())
    assert [s["url"] for s in about["shards"]] == sorted(
        (t.name for t in tars), key=[s["url"] for s in about["shards"]].index
    )
    assert sum(s["nsamples"] for s in about["shards"]) == pq.read_metadata(out / "tiny/shards/index.parquet").num_rows


def test_members_of_a_sample(out: Path) -> None:
    for tar in (out / "tiny/shards").glob("*.tar"):
        with tarfile.open(tar) as opened:
            names = opened.getnames()
            for member in opened:
                assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)
        for key in {n.split(".")[0] for n in names}:
            mine = [n[len(key) + 1 :] for n in names if n.startswith(f"{key}.")]
            arrays = ["10m.npy", "20m.npy", "60m.npy"] if "_s2_" in key else ["10m.npy"]
            assert mine == [*arrays, "txt", "json", "jpg"]


def test_index_hash_is_of_the_arrays(out: Path) -> None:
    for row in pq.read_table(out / "tiny/shards/index.parquet").to_pylist():
        data = (out / "tiny/shards" / row["shard"]).read_bytes()
        arrays = [
            from_npy(data[row[f"offset_{g}"] : row[f"offset_{g}"] + row[f"length_{g}"]])
            for g in ("10m", "20m", "60m")
            if row[f"offset_{g}"] is not None
        ]
        assert arrays_sha256(arrays) == row["sha256"]


def test_order_is_seeded_and_mixes_scenes(out: Path) -> None:
    rows = [
        r
        for r in pq.read_table(out / "tiny/shards/index.parquet").to_pylist()
        if r["sensor"] == "s2" and r["split"] == "train"
    ]
    names = [r["chip_id"] for r in rows]
    assert names != sorted(names)
    assert len({r["scene"] for r in rows[:8]}) == 2


def test_quicklook_can_be_left_out(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200, tail="[shards]\nquicklook = false\n")
    region, store = runner.load(world.write(), str(tmp_path / "out"))
    runner.run_upto(region, store, "shards", quiet=True)
    with tarfile.open(next((tmp_path / "out/tiny/shards").glob("*.tar"))) as tar:
        assert not [n for n in tar.getnames() if n.endswith(".jpg")]


def test_canonical_stack() -> None:
    arrays = {
        "10m": np.arange(4, dtype=np.uint16)[:, None, None] * np.ones((4, 6, 6), np.uint16),
        "20m": (10 + np.arange(6, dtype=np.uint16))[:, None, None] * np.ones((6, 3, 3), np.uint16),
        "60m": (20 + np.arange(2, dtype=np.uint16))[:, None, None] * np.ones((2, 1, 1), np.uint16),
    }
    assert stack_canonical(arrays, "s2")[:, 0, 0].tolist() == [20, 0, 1, 2, 10, 11, 12, 3, 13, 21, 14, 15]


def test_open_chip_and_cell_have_real_coordinates(out: Path, tmp_path: Path) -> None:
    row = next(r for r in pq.read_table(out / "tiny/chips.parquet").to_pylist() if r["sensor"] == "s2")
    chip = pipeline.open_chip(row["chip_id"], out=str(out))
    assert chip["s2"].dims == ("band", "y", "x")
    assert chip.rio.crs.to_epsg() == row["epsg"]
    assert chip["s2"].rio.bounds() == (row["west"], row["south"], row["east"], row["north"])
    assert float(chip.y[0]) == row["north"] - 5
    tif, nc, png = tmp_path / "a.tif", tmp_path / "a.nc", tmp_path / "a.png"
    code, said = cli(
        "show", row["chip_id"], "--out", str(out), "--tif", str(tif), "--netcdf", str(nc), "--png", str(png)
    )
    assert code == 0, said
    assert row["scene"] in said
    with rasterio.open(tif) as source:
        assert (source.read() == chip["s2"].values).all()
        assert source.descriptions[:3] == ("B01", "B02", "B03")
        assert source.bounds == (row["west"], row["south"], row["east"], row["north"])
    import xarray as xr

    with xr.open_dataset(nc, engine="netcdf4") as stored:
        assert (stored["s2"].values == chip["s2"].values).all()
    cell = pipeline.open_cell(row["cell"], out=str(out))
    assert cell["s2"].dims == ("s2_time", "s2_band", "y", "x")
    assert cell.sizes == {"s2_time": 2, "s2_band": 12, "y": 60, "x": 60, "s1_time": 1, "s1_band": 2}
    code, said = cli("show", "p60_32632_1_1_s2_20200601t100000", "--out", str(out))
    assert code == 2
    assert "there is no chip" in said


def test_stages_are_printed_and_quickly() -> None:
    started = time.monotonic()
    found = subprocess.run([sys.executable, "-m", "pipeline"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 10
    assert [line.split()[0] for line in found.stdout.splitlines()[:7]] == [
        "scenes",
        "screen",
        "chips",
        "pixels",
        "labels",
        "captions",
        "shards",
    ]
    heavy = "import sys, pipeline.__main__, pipeline.stages; print([m for m in ('torch','rasterio','xarray','geopandas','dask') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked}:
            raise ModuleNotFoundError(name + ' is blocked')
sys.meta_path.insert(0, Blocker())
{code}
print('fine')
"""


@pytest.mark.parametrize(
    ("blocked", "code"),
    [
        (
            {"torch", "torchvision"},
            "import webdataset, pipeline.sample, pipeline.stages, pipeline.runner, pipeline.show",
        ),
        (
            {"rasterio", "rioxarray", "xarray", "dask", "geopandas", "pystac_client", "pyproj", "shapely"},
            "import train.__main__, train.loop, train.evaluate, train.search, train.report",
        ),
    ],
)
def test_corpus_nodes_need_no_torch_and_gpu_nodes_no_gdal(blocked: set[str], code: str) -> None:
    text = BLOCKER.format(blocked=blocked, code=code)
    found = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.strip() == "fine", found.stderr


def test_nothing_left_to_pack_is_told(tmp_path: Path) -> None:
    """A label map that lies elsewhere drops every chip: no traceback, and the reason by count."""
    from harmonize.problem import Problem
    from pipeline import runner

    world = World(tmp_path, size_m=1200)
    manifest = world.write()
    world.west += 50_000
    world.tif(tmp_path / "labels/classes.tif", np.ones((240, 240), np.uint8), 10)
    region, store = runner.load(manifest, str(tmp_path / "out"))
    with pytest.raises(Problem, match="no chip is left to pack: 8 no labels"):
        runner.run_upto(region, store, "shards", quiet=True)
