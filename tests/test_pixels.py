"""Pixels: copies, averages and warps against independent arithmetic; offset and decibel rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from conftest import ROOT
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject
from world import World

from harmonize.problem import Problem
from pipeline import raster, runner
from pipeline.grid import Cell, cells_of
from pipeline.radiometry import baseline_number, nodata_share, offset_of, remove_offset, to_db, to_power


@pytest.mark.parametrize(
    ("baseline", "offset"),
    [("02.12", 0), ("03.99", 0), ("04.00", 1000), ("05.10", 1000), ("5.9", 1000), ("10.00", 1000)],
)
def test_the_offset_is_decided_by_baseline(baseline: str, offset: int) -> None:
    assert offset_of(baseline, True, "here") == offset
    assert offset_of(baseline, False, "here") == 0


def test_a_baseline_that_is_none() -> None:
    with pytest.raises(Problem, match="is not a processing baseline"):
        baseline_number("N0510", "here")
    with pytest.raises(Problem, match="no s2:processing_baseline"):
        offset_of(None, True, "here")


def test_offset_keeps_nodata_and_never_makes_it() -> None:
    dn = np.array([0, 1, 999, 1000, 1001, 11000, 65535], np.uint16)
    assert remove_offset(dn, 1000).tolist() == [0, 1, 1, 1, 1, 10000, 64535]
    assert remove_offset(dn, 0) is dn


def test_power_and_decibel() -> None:
    raw = np.array([0.1, 1.0, 0.0, -5.0, -32768.0, np.inf, np.nan], np.float32)
    power = to_power(raw, "power", (-32768.0,))
    assert np.isnan(power).tolist() == [False, False, True, True, True, True, True]
    assert to_db(power)[:2].tolist() == [-10.0, 0.0]
    assert to_power(np.array([-10.0, 0.0, -32768.0], np.float32), "db", (-32768.0,))[:2] == pytest.approx([0.1, 1.0])
    assert np.isnan(to_power(np.array([-32768.0], np.float32), "db", (-32768.0,)))
    assert to_power(np.array([3.0, 0.0], np.float32), "amplitude", ())[0] == 9
    assert np.isnan(to_power(np.array([0], np.uint16), "amplitude", (0.0,)))


def test_nodata_shares() -> None:
    s2 = np.ones((4, 2, 2), np.uint16)
    s2[:, 0, 0] = 0
    s2[:3, 1, 1] = 0
    assert nodata_share(s2, "s2") == 0.25
    s1 = np.zeros((2, 2, 2), np.float16)
    s1[1, 0, 0] = np.nan
    assert nodata_share(s1, "s1") == 0.25


def strip_of(path: Path, data: np.ndarray, epsg: int, west: float, north: float, size: float) -> str:
    with rasterio.open(
        path, "w", driver="GTiff", height=data.shape[0], width=data.shape[1], count=1, dtype=data.dtype,
        crs=f"EPSG:{epsg}", transform=from_origin(west, north, size, size),
    ) as out:  # fmt: skip
        out.write(data, 1)
    return str(path)


def weighted_mean(data: np.ndarray, west: float, north: float, size: float, target: raster.Target) -> np.ndarray:
    """Area-weighted mean of valid (non-zero) pixels in each target pixel, in plain numpy."""

    def overlap(start: float, count: int, first: float) -> np.ndarray:
        left = first + target.resolution_m * np.arange(target.side)[:, None]
        edge = start + size * np.arange(count)[None]
        return np.clip(np.minimum(left + target.resolution_m, edge + size) - np.maximum(left, edge), 0, None)

    rows, cols = overlap(-north, data.shape[0], -target.north), overlap(west, data.shape[1], target.west)
    valid = (data > 0).astype(float)
    total, weight = rows @ (data * valid) @ cols.T, rows @ valid @ cols.T
    return np.where(weight > 0, np.floor(total / np.maximum(weight, 1e-9) + 0.5), 0)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (0.165, 3.33), (5, 5), (9.9, 0.1)])
@pytest.mark.parametrize("resolution", [20, 60])
def test_finer_files_are_averaged_down(tmp_path: Path, dx: float, dy: float, resolution: int) -> None:
    data = np.random.default_rng(0).integers(1, 5000, (150, 150)).astype(np.uint16)
    data[40:60, 40:70] = 0
    west, north = 600_000 - 120 - dx, 5_001_600 + 120 + dy
    window = raster.read_window(
        strip_of(tmp_path / "a.tif", data, 32632, west, north, 10), (600_000, 5_000_400, 601_200, 5_001_600)
    )
    assert window is not None
    target = raster.Target(32632, 600_000, 5_001_600, resolution, 1200 // resolution)
    got = raster.cut(window, target, "nearest", 0)[0].astype(int)
    expected = weighted_mean(data, west, north, 10, target)
    assert ((got == 0) == (expected == 0)).all()
    assert np.abs(got - expected).max() <= 1


def test_a_lattice_is_copied_and_half_a_pixel_is_noticed(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(1, 5000, (200, 200)).astype(np.uint16)
    target = raster.Target(32632, 600_000, 5_001_600, 10, 120)
    on = raster.read_window(strip_of(tmp_path / "on.tif", data, 32632, 599_600, 5_002_000, 10), target.bounds)
    assert (raster.cut(on, target, "nearest", 0)[0] == data[40:160, 40:160]).all()
    # Shifted by 0.6 px: another pixel is the nearest one.
    off = raster.read_window(strip_of(tmp_path / "off.tif", data, 32632, 599_606, 5_001_994, 10), target.bounds)
    assert (raster.cut(off, target, "nearest", 0)[0] == data[39:159, 39:159]).mean() > 0.99


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_a_chip_is_the_same_from_a_large_and_a_small_strip(tmp_path: Path, how: str) -> None:
    data = np.random.default_rng(0).gamma(4, 0.02, (400, 400)).astype(np.float32)
    path = strip_of(tmp_path / "a.tif", data, 32632, 599_003.3, 5_003_001.7, 10)
    target = raster.Target(32632, 600_000, 5_001_600, 10, 120)
    large = raster.read_window(path, (599_100, 4_999_100, 602_900, 5_002_900))
    small = raster.read_window(path, target.bounds)
    assert large.size > 2 * small.size
    one, two = raster.cut(large, target, how, np.nan), raster.cut(small, target, how, np.nan)
    assert np.array_equal(one, two) if how == "nearest" else np.allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_another_crs_is_warped_chip_by_chip(tmp_path: Path, how: str) -> None:
    """A tile of zone 33 under a cell of zone 32, as at the border of two zones."""
    cell = cells_of(__import__("shapely").box(11.9, 45.0, 11.95, 45.05), 120)[3]
    data = np.random.default_rng(0).gamma(4, 0.02, (900, 900)).astype(np.float32)
    from pipeline.raster import bounds_in

    west, south, east, north = bounds_in(cell.bounds, cell.epsg, "EPSG:32633")
    path = strip_of(tmp_path / "z.tif", data, 32633, round(west, -1) - 3000, round(north, -1) + 3000, 10)
    strip = raster.read_window(path, (west, south, east, north))
    target = raster.Target(cell.epsg, cell.bounds[0], cell.bounds[3], 10, 120)
    got = raster.cut(strip, target, how, np.nan)[0]
    expected = np.full((120, 120), np.nan, np.float32)
    with rasterio.open(path) as source:
        reproject(
            source.read(1), expected, src_transform=source.transform, src_crs=source.crs, dst_transform=target.transform,
            dst_crs=f"EPSG:{cell.epsg}", src_nodata=np.nan, dst_nodata=np.nan, resampling=Resampling[how],
            XSCALE="1", YSCALE="1",
        )  # fmt: skip
    assert not np.isnan(got).any()
    assert (
        (got == expected).mean() > 0.999
        if how == "nearest"
        else np.allclose(10 * np.log10(got), 10 * np.log10(expected), atol=0.02)
    )


def test_zero_borders_do_not_bleed(tmp_path: Path) -> None:
    data = np.full((200, 200), 0.05, np.float32)
    data[:, :100] = 0.0
    strip = raster.read_window(
        strip_of(tmp_path / "s1.tif", data, 32632, 599_605, 5_002_000, 10), (600_000, 5_000_400, 601_200, 5_001_600)
    )
    strip = strip.copy(data=to_power(strip.values, "power", (-32768.0,)))
    db = to_db(raster.cut(strip, raster.Target(32632, 600_000, 5_001_600, 10, 120), "bilinear", np.nan))[0]
    valid = db[~np.isnan(db)]
    assert np.abs(valid - 10 * np.log10(0.05)).max() < 0.02, "the border's zeros must not pull its neighbours down"
    assert 0.4 < np.isnan(db).mean() < 0.6


@pytest.mark.parametrize("south", [False, True])
def test_s2_on_the_lattice_is_copied_in_both_hemispheres(tmp_path: Path, south: bool) -> None:
    world = World(tmp_path, epsg=32735, north=9_998_800.0) if south else World(tmp_path)
    region, store = runner.load(world.write(), str(tmp_path / "out"))
    runner.run_upto(region, store, "pixels", quiet=True)
    seen = 0
    for name in store.list("pixels"):
        if "S2" not in name:
            continue
        for record in pa.ipc.open_file(store.local(name)).read_all().to_pylist():
            cell = Cell(world.epsg, *map(int, record["chip_id"].split("_")[2:4]), world.size_px)
            col, row = int(cell.bounds[0] - world.west), int(world.north - cell.bounds[3])
            for j, band in enumerate(["B02", "B03", "B04", "B08"]):
                raw = world.pixels({"B02": 1, "B03": 2, "B04": 3, "B08": 7}[band], 10)
                got = np.frombuffer(record["10m"], "<u2").reshape(4, 60, 60)[j]
                assert (got == raw[row // 10 : row // 10 + 60, col // 10 : col // 10 + 60] - 1000).all()
            raw = world.pixels(0, 60)
            got = np.frombuffer(record["60m"], "<u2").reshape(2, 10, 10)[0]
            assert (got == raw[row // 60 : row // 60 + 10, col // 60 : col // 60 + 10] - 1000).all()
            seen += 1
    assert seen == 16


MANY_PARTS = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline import parts
from pipeline.sample import arrays_sha256
from pipeline.store import Store
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
store = Store(sys.argv[1])
array = np.ones((2, 6, 6), np.float16)
record = dict.fromkeys(parts.PART.names) | {"10m": array.tobytes(), "sha256": arrays_sha256([array])}
for k in range(100):
    parts.write_part(store, f"pixels/{k}.arrow", ["key"], [record])
reader = parts.Parts(store)
for k in [*range(100), 0, 1]:
    assert (reader.read_chip(f"pixels/{k}.arrow", 0, "s1", 6)["10m"] == array).all()
"""


def test_more_parts_than_a_process_may_have_files(tmp_path: Path) -> None:
    """An ordinary shell allows 1024 open files, and the samples of one tar may come from 1000 parts."""
    command = [sys.executable, "-c", MANY_PARTS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
