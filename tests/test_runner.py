"""The runner: equal bytes, nothing needless, crash safety, and what an edit redoes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from test_bad_input import cli
from world import World

from pipeline import runner, tables
from pipeline.receipt import read_receipt
from pipeline.stages import STAGES
from pipeline.store import Store


def build(manifest: Path, out: Path, last: str = "shards") -> list[str]:
    """Run up to a stage; names of the stages that ran."""
    region, store = runner.load(manifest, str(out))
    return [receipt.stage for receipt in runner.run_upto(region, store, last, quiet=True)]


def hashes(folder: Path, receipts: bool = False) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and (receipts or "receipts" not in p.parts)
    }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "w", size_m=1200, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))


def test_twice_is_byte_identical_and_then_nothing_runs(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    assert build(manifest, tmp_path / "a") == list(STAGES)
    assert build(manifest, tmp_path / "a") == []
    assert build(manifest, tmp_path / "b") == list(STAGES)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    moved = Path(shutil.copytree(tmp_path / "w", tmp_path / "elsewhere" / "deep"))
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "build",
        str(moved / "tiny.toml"),
        "--to",
        "shards",
        "--out",
        str(tmp_path / "c"),
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    ours, theirs = hashes(tmp_path / "a"), hashes(tmp_path / "c")
    assert {k: v for k, v in ours.items() if "scenes" not in k} == {
        k: v for k, v in theirs.items() if "scenes" not in k
    }
    assert ours == theirs, "hrefs are relative to the manifest, so a moved catalogue has the same tables"


def test_editing_a_crosswalk_redoes_captions_and_shards_only(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "out")
    path = world.root / "labels/classes.csv"
    path.write_text(path.read_text().replace("1,a,water", "1,a,trees"))
    assert build(manifest, tmp_path / "out") == ["captions", "shards"]
    captions = pq.read_table(tmp_path / "out/tiny/captions.parquet").to_pylist()
    assert {x["name"] for c in captions for x in c["labels"]} == {"trees", "crops"}
    fresh = tmp_path / "fresh"
    build(manifest, fresh)
    assert hashes(fresh) == hashes(tmp_path / "out")


def test_a_touched_file_redoes_nothing(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "out")
    for path in world.root.rglob("*"):
        os.utime(path)
    assert build(manifest, tmp_path / "out") == []


def test_a_wider_date_range_reads_only_what_is_not_stored(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.manifest = {"end": "2020-06-15"}
    manifest = world.write()
    build(manifest, tmp_path / "out")
    before = set((tmp_path / "out/tiny/pixels").iterdir())
    world.manifest = {}
    world.write_manifest()
    from pipeline import pixels

    read = []
    plain = pixels.read_strip
    monkeypatch.setattr(pixels, "read_strip", lambda scene, *rest: read.append(scene["scene"]) or plain(scene, *rest))
    assert build(manifest, tmp_path / "out")[:2] == ["scenes", "screen"]
    assert read == ["S2-1"]
    assert before < set((tmp_path / "out/tiny/pixels").iterdir())
    build(manifest, tmp_path / "fresh")
    assert hashes(tmp_path / "fresh") == hashes(tmp_path / "out")


def test_a_threshold_reads_no_pixel_again(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "out")
    world.manifest = {"max_nodata": 0.5}
    world.write_manifest()
    monkeypatch.setattr("pipeline.pixels.read_strip", lambda *_: pytest.fail("pixels were read again"))
    assert build(manifest, tmp_path / "out")[0] == "chips"


def test_a_changed_raster_is_cut_again(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "out")
    world.tif(world.root / "cogs/s2_0_B02.tif", world.pixels(4242, 10), 10)
    assert build(manifest, tmp_path / "out") == ["pixels", "shards"]
    build(manifest, tmp_path / "fresh")
    assert hashes(tmp_path / "fresh") == hashes(tmp_path / "out")


def test_a_new_item_is_noticed(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "out")
    world.item(
        "s2",
        "S2-9",
        "2020-08-01T10:00:00Z",
        {
            b: f"cogs/s2_1_{b}.tif"
            for b in ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
        },
        {"platform": "Sentinel-2B", "s2:processing_baseline": "05.10"},
    )
    assert build(manifest, tmp_path / "out")[0] == "scenes"


def test_another_region_changes_nothing_of_the_first(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "out")
    before = hashes(tmp_path / "out/tiny", receipts=True)
    west, south, east, north = world.bounds
    world.name, world.manifest = "other", {"bounds": [west, south, (west + east) / 2, north]}
    build(world.write_manifest(), tmp_path / "out")
    assert hashes(tmp_path / "out/tiny", receipts=True) == before
    splits = [
        {c["chip_id"]: c["split"] for c in pq.read_table(tmp_path / f"out/{name}/captions.parquet").to_pylist()}
        for name in ("tiny", "other")
    ]
    assert splits[1]
    assert all(splits[0][chip] == split for chip, split in splits[1].items())


CHILD = """
import os, sys
from pipeline import runner
from pipeline.store import Store
die, count = int(sys.argv[3]), 0
def counted(plain):
    def call(self, *args):
        global count
        count += 1
        if count == die:
            os._exit(9)
        return plain(self, *args)
    return call
Store.write, Store.adopt = counted(Store.write), counted(Store.adopt)
region, store = runner.load(sys.argv[1], sys.argv[2])
runner.run_upto(region, store, "shards", quiet=True)
print(count)
"""


def test_dying_before_any_write_ends_with_the_same_bytes(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "straight")
    expected = hashes(tmp_path / "straight")

    def child(out: Path, die: int) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", CHILD, str(manifest), str(out), str(die)], cwd=ROOT, capture_output=True, text=True
        )

    whole = child(tmp_path / "count", 0)
    writes = int(whole.stdout)
    assert writes > 15
    for die in range(1, writes + 1, 7):
        out = tmp_path / f"die-{die}"
        assert child(out, die).returncode == 9
        build(manifest, out)
        assert hashes(out) == expected, f"died before write {die}"


def test_redo_runs_a_stage_and_what_follows(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "out")
    region, store = runner.load(manifest, str(tmp_path / "out"))
    assert [r.stage for r in runner.redo(region, store, "labels", "shards", quiet=True)] == [
        "labels",
        "captions",
        "shards",
    ]
    assert [r.stage for r in runner.redo(region, store, "pixels", "shards", quiet=True)] == ["pixels", "shards"]


def test_a_stage_alone_refuses_on_a_stale_input(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "out")
    code, said = cli("captions", str(manifest), "--out", str(tmp_path / "out"))
    assert code == 0
    assert "up to date" in said
    world.manifest = {"size_px": 120}
    world.write_manifest()
    code, said = cli("captions", str(manifest), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "needs chips" in said
    code, said = cli("status", str(manifest), "--out", str(tmp_path / "out"))
    assert code == 0
    assert "'size_px' changed in the manifest" in said


def test_every_row_is_accounted_for(world: World, tmp_path: Path) -> None:
    manifest = world.write()
    build(manifest, tmp_path / "out")
    store = Store(str(tmp_path / "out/tiny"))
    for name in STAGES:
        receipt = read_receipt(store, name)
        assert receipt
        assert receipt.rows_in == receipt.kept + sum(receipt.dropped.values())
        for file, sha256 in receipt.outputs.items():
            assert hashlib.sha256(store.read(file)).hexdigest() == sha256


def test_tables_say_what_their_columns_mean(world: World, tmp_path: Path) -> None:
    build(world.write(), tmp_path / "out")
    for name in ("scenes", "chips", "pixels", "labels", "captions"):
        schema = pq.read_schema(tmp_path / f"out/tiny/{name}.parquet")
        assert schema.names == tables.SCHEMAS[name].names
        assert all(b"meaning" in (field.metadata or {}) for field in schema)
    geo = pq.read_schema(tmp_path / "out/tiny/chips.parquet").metadata[b"geo"]
    assert b'"primary_column": "geometry"' in geo
    import geopandas

    chips = geopandas.read_parquet(tmp_path / "out/tiny/chips.parquet")
    assert chips.crs.to_string() == "OGC:CRS84"
    # UTM squares in degrees: their area back in metres is the cell's.
    assert chips.to_crs(32632).area.round(-2).eq(600 * 600).all()
