"""Twelve faults x {search, sign, raster, label download}: a fault that passes is retried, one that stays is told.

Every cell runs the stage that asks, against an archive that fails on demand, and compares with an undisturbed run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fault_server import CANARY, FAULTS, FOREVER, GDAL_TRIES, KINDS, FaultServer, forget_tokens, hurried, served_region
from world import World

from harmonize.problem import Problem
from pipeline import remote, runner
from pipeline.receipt import receipt_name
from pipeline.retry import HASTY_TRIES

STAGE = {"search": "scenes", "sign": "pixels", "raster": "pixels", "download": "labels"}
BROKEN = "s2_0_B04.tif"
HASTY = {"403 expired signature", "404", "200 with a page"}
"""Faults that seldom pass: tried three times."""
UNSEEN = ("raster", "200 with a page")
"""GDAL does not say that it was a page."""
HARMLESS = {"200 without ranges"}
"""Of answers that have no ranges anyway; a small file comes whole."""
BUDGET = {"search": 8, "sign": 8, "raster": remote.PATIENCE.tries * 2 * (1 + GDAL_TRIES), "download": 8}
"""Requests for one thing that is never answered well."""


@dataclass
class Bed:
    server: FaultServer
    manifest: Path
    out: Path
    """Of the undisturbed run."""

    def again(self, stage: str, out: Path) -> tuple[Any, Any]:
        """Region and store of a copy of the undisturbed run in which a stage has not run; a new token is wanted."""
        shutil.copytree(self.out / "tiny", out / "tiny")
        (out / "tiny" / receipt_name(stage)).unlink()
        (out / f"tiny/{stage}.parquet").unlink()
        if stage == "pixels":
            shutil.rmtree(out / "tiny/pixels")
        forget_tokens()
        self.server.mend()
        return runner.load(self.manifest, str(out))


def draw_classes(world: World) -> None:
    """The world's label raster as polygons."""
    import geopandas
    import shapely

    west, south, east, north = world.west, world.north - world.size_m, world.west + world.size_m, world.north
    middle = (west + east) / 2
    squares = [shapely.box(west, south, middle, north), shapely.box(middle, south, east, north)]
    frame = geopandas.GeoDataFrame({"code": [1, 2]}, geometry=squares, crs=world.epsg)
    frame.to_file(world.root / "labels/classes.gpkg")


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    root = tmp_path_factory.mktemp("archive")
    world = World(root, size_m=1200)
    with FaultServer(root=root) as server, pytest.MonkeyPatch.context() as patch:
        hurried(patch, server.host)
        server.needs_signature = True
        manifest = served_region(server, world.write())
        draw_classes(world)
        text = manifest.read_text().replace(
            'href = "labels/classes.tif"',
            f'href = "{server.files}/labels/classes.gpkg"\nattribute = "code"\nsign = "planetary-computer"',
        )
        manifest.write_text(text)
        forget_tokens()
        out = root / "out"
        region, store = runner.load(manifest, str(out))
        runner.run_upto(region, store, "captions", quiet=True)
        yield Bed(server, manifest, out)
    forget_tokens()


def rows(out: Path, stage: str) -> list[dict[str, Any]]:
    return pq.read_table(out / f"tiny/{stage}.parquet").to_pylist()


def same(bed: Bed, out: Path, stage: str) -> bool:
    """Byte for byte what the undisturbed run wrote."""
    name = f"tiny/{stage}.parquet"
    return (out / name).read_bytes() == (bed.out / name).read_bytes()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_passes_is_tried_again(
    kind: str, fault: str, bed: Bed, tmp_path: Path, score: Callable[[str, int, int], None]
) -> None:
    stage = STAGE[kind]
    region, store = bed.again(stage, tmp_path)
    bed.server.break_(kind, fault, times=2, only=BROKEN if kind == "raster" else "")
    receipt = runner.run_alone(region, store, stage, quiet=True)
    assert receipt
    assert same(bed, tmp_path, stage)
    assert bed.server.asked_of["faults"] > 0
    if fault not in HARMLESS:
        assert any("tried again after a failure" in note for note in receipt.notes), "and told"
    score("network cells, fault passes", 1, 1)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_stays_is_told_within_a_budget(
    kind: str, fault: str, bed: Bed, tmp_path: Path, score: Callable[[str, int, int], None]
) -> None:
    stage = STAGE[kind]
    region, store = bed.again(stage, tmp_path)
    bed.server.break_(kind, fault, times=FOREVER, only=BROKEN if kind == "raster" else "")
    problem = None
    try:
        runner.run_alone(region, store, stage, quiet=True)
    except Problem as caught:
        problem = caught
    if fault in HARMLESS and problem is None:
        assert same(bed, tmp_path, stage)
        assert bed.server.asked_of["faults"] > 0
    elif kind == "raster":
        assert problem is None, "it costs its chips alone"
        check_rows(bed, tmp_path, fault)
    else:
        assert problem is not None
        assert not (tmp_path / f"tiny/{stage}.parquet").exists()
        assert problem.where
        assert "again" in problem.fix or "check api" in problem.fix
        assert CANARY not in str(problem)
    if fault not in HARMLESS:
        budget = HASTY_TRIES if fault in HASTY and (kind, fault) != UNSEEN else BUDGET[kind]
        assert 0 < bed.server.asked_of["faults"] <= budget
    bed.server.mend()
    runner.redo(region, store, stage, stage, quiet=True)
    assert same(bed, tmp_path, stage), "the same files are read once they are back: no failure is remembered"
    score("network cells, fault stays", 1, 1)


def check_rows(bed: Bed, out: Path, fault: str) -> None:
    """S2 chips have a reason that says how often it was tried, S1 chips have their pixels."""
    for row, good in zip(rows(out, "pixels"), rows(bed.out, "pixels"), strict=True):
        if "_s1_" in row["chip_id"]:
            assert row["sha256"] == good["sha256"]
        else:
            assert row["dropped"].startswith(f"unreadable: {BROKEN}: ")
            assert "times, may be tried again" in row["dropped"]
            assert row["sha256"] is None
