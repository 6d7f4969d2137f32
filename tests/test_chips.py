"""Which acquisitions are kept: clouds from the scene classes, one chip a pass, S1 near S2, time spread."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from world import World

from pipeline import runner, states
from pipeline.chips import Candidate, _choose_for_cell
from pipeline.receipt import read_receipt
from pipeline.region import load_region


def with_scene_classes(world: World, classes: np.ndarray) -> Path:
    """The world with an SCL raster of 20 m in its first S2 item; the manifest's path."""
    manifest = world.write()
    manifest.write_text(manifest.read_text().replace('sensor = "s2"', 'sensor = "s2"\nscene_classes = "SCL"'))
    world.tif(world.root / "cogs/scl.tif", classes, 20)
    path = world.root / "catalog/s2/S2-0.json"
    item = json.loads(path.read_text())
    item["assets"]["SCL"] = {"href": "../../cogs/scl.tif"}
    path.write_text(json.dumps(item))
    return manifest


def test_scene_classes_screen_cell_by_cell(tmp_path: Path) -> None:
    """Four cells: one clear, one 9 % cirrus, one 50 % cloud, one 50 % without data."""
    classes = np.full((60, 60), 4, np.uint8)
    classes[:9, 30:40] = 10
    classes[30:, :15] = 9
    classes[30:, 30:45] = 0
    manifest = with_scene_classes(World(tmp_path, size_m=1200, manifest={"max_cloud": 0.10}), classes)
    region, store = runner.load(manifest, str(tmp_path / "out"))
    runner.run_upto(region, store, "pixels", quiet=True)
    s2 = {c["cell"]: c for c in pq.read_table(tmp_path / "out/tiny/chips.parquet").to_pylist() if c["sensor"] == "s2"}
    assert {cell: round(chip["cloud"], 3) for cell, chip in s2.items()} == {
        "p60_32632_1000_8335": 0.0,
        "p60_32632_1001_8335": 0.1,
    }
    receipt = read_receipt(store, "chips")
    assert receipt
    assert receipt.losers == {"cloud": 1, "not covered": 1}
    screened = [r for n in store.list("screen") if "S2" in n for r in pq.read_table(store.local(n)).to_pylist()]
    for row in screened:
        assert row["screened"]
        assert abs(sum(row[f"scl_{k}"] for k in range(12)) - 1) < 1e-6
    assert {(r["cell"], r["scl_9"], r["scl_0"]) for r in screened} >= {
        ("p60_32632_1000_8334", 0.5, 0.0),
        ("p60_32632_1001_8334", 0.0, 0.5),
    }


def test_other_scene_classes_are_screened_again(tmp_path: Path) -> None:
    """A clear SCL, overwritten by one that is all cloud: the S2 chips go."""
    world = World(tmp_path, size_m=1200, manifest={"max_cloud": 0.10})
    manifest = with_scene_classes(world, np.full((60, 60), 4, np.uint8))
    region, store = runner.load(manifest, str(tmp_path / "out"))

    def sensors() -> set[str]:
        runner.run_upto(region, store, "pixels", quiet=True)
        return set(pq.read_table(tmp_path / "out/tiny/chips.parquet").column("sensor").to_pylist())

    assert sensors() == {"s1", "s2"}
    assert states.states(region, store, "chips")["screen"].reason is None
    world.tif(tmp_path / "cogs/scl.tif", np.full((60, 60), 9, np.uint8), 20)
    assert states.states(region, store, "chips")["screen"].reason == "cogs/scl.tif changed"
    assert sensors() == {"s1"}
    manifest.write_text(manifest.read_text().replace("max_cloud = 0.1", "max_cloud = 1"))
    region, store = runner.load(manifest, str(tmp_path / "out"))
    assert sensors() == {"s1", "s2"}
    receipt = read_receipt(store, "screen")
    assert receipt
    assert receipt.outside == (), "not read, not watched"


def test_a_manifest_in_a_linked_folder(tmp_path: Path) -> None:
    """Outside files are known by their real paths, so that the second call of a linked manifest does nothing."""
    world = World(tmp_path / "deep/real", size_m=1200, manifest={"max_cloud": 0.10})
    with_scene_classes(world, np.full((60, 60), 4, np.uint8))
    (tmp_path / "link").symlink_to(world.root)
    region, store = runner.load(tmp_path / "link/tiny.toml", str(tmp_path / "out"))
    assert len(runner.run_upto(region, store, "captions", quiet=True)) == 6
    assert runner.run_upto(region, store, "captions", quiet=True) == []


def seen(scene: str, day: int, sensor: str = "s2", hour: int = 10, **more: Any) -> Candidate:
    facts = {
        "cloud": 0.0,
        "own_epsg": True,
        "coverage": 1.0,
        "nodata": 0.0,
        "platform": "a",
        "orbit": "ascending",
    } | more
    row = {
        "scene": scene, "source": f"{sensor}-here", "sensor": sensor, "platform": facts.pop("platform"),
        "datetime": dt.datetime(2020, 6, day, hour, tzinfo=dt.UTC), "orbit": facts.pop("orbit"),
    }  # fmt: skip
    return Candidate(cell="c", scene=row, **facts)


def chosen(tmp_path: Path, *candidates: Candidate) -> tuple[list[str], Counter[str]]:
    region = load_region(World(tmp_path).write_manifest())
    losers: Counter[str] = Counter()
    return [c.scene["scene"] for c, _ in _choose_for_cell(list(candidates), region, losers)], +losers


def test_one_chip_a_pass_the_cells_own_zone_first(tmp_path: Path) -> None:
    names, losers = chosen(
        tmp_path,
        seen("other zone", 1, own_epsg=False),
        seen("half", 1, coverage=0.97, nodata=0.03),
        seen("b", 1),
        seen("c", 1),
    )
    assert names == ["b"]
    assert losers == {"same pass": 3}


def test_the_clearest_and_then_the_farthest_in_time(tmp_path: Path) -> None:
    names, losers = chosen(
        tmp_path, seen("a", 1, cloud=0.05), seen("b", 10), seen("c", 12, cloud=0.01), seen("d", 25, cloud=0.09)
    )
    assert names == ["b", "d"]
    assert losers == {"more than per_cell": 2}


def test_s1_goes_with_s2(tmp_path: Path) -> None:
    names, losers = chosen(
        tmp_path,
        seen("s2", 10),
        seen("far", 20, "s1", platform="s"),
        seen("near", 12, "s1", platform="s"),
        seen("later", 15, "s1", platform="s"),
    )
    assert names == ["s2", "near"]
    assert losers == {"more than per_cell": 1, "too far in time from S2": 1}


def test_a_cell_with_one_sensor_only_is_normal(tmp_path: Path) -> None:
    assert chosen(tmp_path, seen("one", 3, "s1"), seen("two", 9, "s1"))[0] == ["one", "two"]
