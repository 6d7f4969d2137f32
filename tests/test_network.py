"""Twelve faults x {search, sign, raster, label download}: a fault that passes is retried, one that stays is told.

Every cell runs the stage that asks, against an archive that fails on demand, and compares with an undisturbed run.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fault_server import CANARY, FAULTS, FOREVER, GDAL_TRIES, KINDS, FaultServer, forget_tokens, hurried, served_region
from world import World

from harmonize.problem import Problem
from pipeline import opening, raster, remote, runner
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
    world = World(root, size_m=1200, manifest={"start": "2020-06-01", "end": "2020-06-30"})
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
        assert problem.code == (2 if fault in HASTY else 1), "an outage is no mistake of a person's"
        assert CANARY not in str(problem)
        assert not list((tmp_path / "downloads").rglob("*")), "nothing that is half there"
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
            assert bed.server.host not in row["dropped"]
            assert CANARY not in row["dropped"]
            assert row["sha256"] is None


def test_scene_classes_are_tried_again_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays costs the scene's candidates, which are counted as failed, and are tried again when that is asked for."""
    world = World(tmp_path, size_m=1200, manifest={"start": "2020-06-01", "end": "2020-06-30", "max_cloud": 0.5})
    manifest = world.write()
    world.tif(tmp_path / "cogs/scl.tif", np.full((60, 60), 4, np.uint8), 20)
    path = tmp_path / "catalog/s2/S2-0.json"
    path.write_text(path.read_text().replace('"assets": {', '"assets": {"SCL": {"href": "../../cogs/scl.tif"}, '))
    manifest.write_text(manifest.read_text().replace('sensor = "s2"', 'sensor = "s2"\nscene_classes = "SCL"'))
    with FaultServer(root=tmp_path) as server:
        hurried(monkeypatch, server.host)
        region, store = runner.load(served_region(server, manifest), str(tmp_path / "out"))
        runner.run_alone(region, store, "scenes", quiet=True)
        server.break_("raster", "404")
        receipt = runner.run_alone(region, store, "screen", quiet=True)
        assert receipt
        assert (receipt.rows_in, receipt.dropped) == (8, {"unreadable": 4})
        assert re.search(r"unreadable: scl\.tif: .*404; tried 3 times", receipt.notes[0])
        server.break_("raster", "short body", times=2)
        receipt = runner.run_alone(region, store, "screen", quiet=True, retry_failed=True)
    assert receipt
    assert receipt.notes == ("tried again after a failure: raster once",), "one reading met both faults"
    screened = [r for r in store.list("screen") if "S2" in r]
    assert [r["scl_4"] for r in pq.read_table(store.local(screened[0])).to_pylist()] == [1.0] * 4


def test_a_file_is_fetched_once_and_by_its_address(bed: Bed, tmp_path: Path) -> None:
    region, store = bed.again("labels", tmp_path)
    runner.run_alone(region, store, "labels", quiet=True)
    assert bed.server.asked_of["download"] == 1
    (copy,) = (tmp_path / "downloads").iterdir()
    assert copy.read_bytes() == (bed.server.root / "labels/classes.gpkg").read_bytes()
    assert copy.name.endswith("-classes.gpkg")
    runner.redo(region, store, "labels", "labels", quiet=True)
    assert bed.server.asked_of["download"] == 1
    copy.unlink()
    assert runner.run_alone(region, store, "labels", quiet=True) is None, "its address stands for it"
    runner.redo(region, store, "labels", "labels", quiet=True)
    assert bed.server.asked_of["download"] == 2
    assert same(bed, tmp_path, "labels")


# One reading, with the fault at each of its requests


BOX = (602_000, 4_996_000, 608_000, 5_003_000)
"""Of the 4.8 km file below: 6 requests, the header's and those of nine tiles."""


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultServer, dict[str, np.ndarray]]]:
    """A server of tiled files that a window is read of in several requests, and the window's pixels by file."""
    import rasterio
    from rasterio.transform import from_origin

    data = np.random.default_rng(1).integers(1, 4000, (1200, 1200)).astype(np.uint16)
    files = {"plain": None, "packed": "deflate"}
    for name, compress in files.items():
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", driver="GTiff", height=1200, width=1200, count=1, dtype="uint16", tiled=True,
            crs="EPSG:32632", transform=from_origin(600_000, 5_006_400, 10, 10), blockxsize=256, blockysize=256,
            **({"compress": compress} if compress else {}),
        ) as out:  # fmt: skip
            out.write(data, 1)
    with FaultServer(root=tmp_path) as server:
        hurried(monkeypatch, server.host)
        yield server, dict.fromkeys(files, data[337:1043, 197:803])


def reading(server: FaultServer, name: str) -> np.ndarray | str:
    """The window of a file that GDAL has not seen yet, or why it cannot be read."""
    alias = f"{name}-{server.reads}.tif"
    server.reads += 1
    (server.root / alias).symlink_to(server.root / f"{name}.tif")
    try:
        found = remote.read(f"{server.files}/{alias}", "none", lambda href: raster.read_window(href, BOX))
    except opening.UnreadableRaster as error:
        return str(error)
    assert found is not None
    return found.values[0]


def check_reading(server: FaultServer, name: str, good: np.ndarray, fault: str, after: int, times: int) -> None:
    server.mend()
    server.break_("raster", fault, times=times, after=after)
    found = reading(server, name)
    if isinstance(found, str):
        assert "may be tried again" in found
        assert server.host not in found, "a reason in a table names no address"
        assert times > 2, "what passes is tried again"
    else:
        assert (found == good).all(), f"wrong pixels: {fault} at request {after}"
    assert server.asked_of["faults"] <= remote.most_requests()


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "stall"])
def test_a_fault_in_the_middle_of_a_reading_gives_no_wrong_pixel(
    fault: str, large: tuple[FaultServer, dict[str, np.ndarray]]
) -> None:
    server, pixels = large
    for after, times in ((1, 2), (3, FOREVER), (4, 1)):
        check_reading(server, "plain", pixels["plain"], fault, after, times)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["plain", "packed"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_request_of_a_reading_gives_no_wrong_pixel(
    fault: str, name: str, large: tuple[FaultServer, dict[str, np.ndarray]], score: Callable[[str, int, int], None]
) -> None:
    server, pixels = large
    assert np.array_equal(reading(server, name), pixels[name])
    requests = server.asked_of["raster"]
    assert requests > 3
    for after in range(requests + 1):
        for times in (1, 2, 3, FOREVER):
            check_reading(server, name, pixels[name], fault, after, times)
            score("readings with a fault at one request", 1, 1)


def test_what_a_second_reading_cannot_mend_is_told_at_once(
    large: tuple[FaultServer, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import rasterio

    server, _ = large
    three = {"driver": "GTiff", "height": 8, "width": 8, "count": 3, "dtype": "uint16"}
    georeferenced = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 602_000, 0, -10, 5_003_000)}
    for name, more in {"bands": georeferenced, "nowhere": {"transform": georeferenced["transform"]}}.items():
        with rasterio.open(server.root / f"{name}.tif", "w", **three, **more) as out:
            out.write(np.ones((3, 8, 8), np.uint16))
    assert reading(server, "bands") == "bands-0.tif: has 3 bands, and one is wanted"
    assert reading(server, "nowhere") == "nowhere-1.tif: has no CRS"
    monkeypatch.setattr(opening, "MOST_BYTES", 1000)
    assert "pixels in one window, more than" in str(reading(server, "plain"))
    for alias in ("bands-0.tif", "nowhere-1.tif", "plain-2.tif"):
        assert server.asked_of[f"raster {alias}"] <= 2, "a HEAD and the header"


@pytest.mark.parametrize("fault", ["404", "503", "short body", "200 with a page"])
def test_a_failure_of_a_bucket_is_not_remembered(
    fault: str, large: tuple[FaultServer, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL's own schemes have no fragments: what it keeps of the file is dropped."""
    server, pixels = large
    for key, value in {
        "AWS_S3_ENDPOINT": server.host, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-west-2",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    server.break_("raster", fault, times=2)
    found = remote.read("s3://container/plain.tif", "none", lambda href: raster.read_window(href, BOX))
    assert found is not None
    assert (found.values[0] == pixels["plain"]).all()
    assert server.asked_of["faults"] == 2
