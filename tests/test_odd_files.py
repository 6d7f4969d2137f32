"""Odd rasters and items: a reason for each chip that they cost, and all other chips as if nothing had been odd."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.vrt
from rasterio.transform import Affine, from_origin
from test_bad_input import cli
from test_runner import hashes
from world import World

from pipeline import radiometry
from pipeline.receipt import read_receipt
from pipeline.store import Store

SIDE_M = 2400
DATES = ("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z")


def world_of(root: Path) -> World:
    """16 cells, two dates of S2, one of S1, 200 m of label raster a block; the rasters of the second S2 date and of S1
    are deflated in tiles of 64 pixels."""
    world = World(root, size_m=SIDE_M, dates=DATES)
    world.write()
    for name in ("s2_1_B04", "s1_0_vv"):
        again(root / f"cogs/{name}.tif")
    again(root / "labels/classes.tif")
    return world


def again(path: Path, change: Callable[[np.ndarray], np.ndarray] = lambda data: data, **keys: Any) -> None:
    """A raster written again, in deflated tiles of 64 pixels and with other keys."""
    with rasterio.open(path) as file:
        data, profile = file.read(), file.profile
    data = change(data)
    keys = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "dtype": data.dtype} | keys
    keys |= {"count": data.shape[0], "height": data.shape[1], "width": data.shape[2]}
    with rasterio.open(path, "w", **(profile | keys)) as out:
        out.write(data)


def flip_in_block(path: Path, column: int = 0, row: int = 0) -> None:
    """One flipped bit in the middle of one compressed block."""
    with rasterio.open(path) as file:
        at, size = (
            int(file.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE")
        )
    data = bytearray(path.read_bytes())
    data[at + size // 2] ^= 0x10
    path.write_bytes(data)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """chip_id -> sha256 of its arrays."""
    root = tmp_path_factory.mktemp("whole")
    world = world_of(root / "w")
    code, said = cli("build", str(world.root / "tiny.toml"), "--to", "shards", "--out", str(root / "out"))
    assert code == 0, said
    return packed(root / "out/tiny")


def packed(folder: Path) -> dict[str, str]:
    index = pq.read_table(folder / "shards/index.parquet")
    return dict(zip(index["chip_id"].to_pylist(), index["sha256"].to_pylist(), strict=True))


B04, VV = "cogs/s2_1_B04.tif", "cogs/s1_0_vv.tif"
COMPLEX = np.complex64


def crs_less(path: Path) -> None:
    with rasterio.open(path) as file:
        data, profile = file.read(), file.profile
    profile.pop("crs")
    with rasterio.open(path, "w", **profile) as out:
        out.write(data)


def rotated(path: Path) -> None:
    again(path, transform=Affine.translation(600_000, 5_001_600) * Affine.rotation(30) * Affine.scale(10, -10))


def coarser(path: Path) -> None:
    again(path, lambda data: data[:, ::2, ::2], transform=from_origin(600_000, 5_001_600, 20, 20))


FILES: dict[str, tuple[str, Callable[[Path], object], str, int]] = {
    # file, what is done to it, what the reason says, how many of its 16 chips it costs
    "empty": (B04, lambda p: p.write_bytes(b""), "unreadable: s2_1_B04.tif: ", 16),
    "not a raster": (B04, lambda p: p.write_text("<html>404</html>"), "unreadable: s2_1_B04.tif: ", 16),
    "cut off in its header": (B04, lambda p: p.write_bytes(p.read_bytes()[:100]), "unreadable: s2_1_B04.tif: ", 16),
    "a block is damaged": (B04, flip_in_block, "unreadable: s2_1_B04.tif: ", 4),
    "without CRS": (B04, crs_less, "unreadable: s2_1_B04.tif: has no CRS", 16),
    "reflectance": (B04, lambda p: again(p, lambda d: (d / 10_000).astype(np.float32)), "holds float32 values about", 16),
    "complex S2": (B04, lambda p: again(p, lambda d: d.astype(COMPLEX)), "holds complex64 values, which are no DN", 16),
    "three bands": (B04, lambda p: again(p, lambda d: np.repeat(d, 3, 0)), "has 3 bands, and one is wanted", 16),
    "coarser than said": (B04, coarser, "has pixels of 20 m, and these bands are kept at 10 m", 16),
    "rotated": (B04, rotated, "its rows do not run from west to east", 16),
    "elsewhere": (B04, lambda p: again(p, transform=from_origin(700_000, 5_001_600, 10, 10)), "outside the raster", 16),
    "whole numbers of power": (VV, lambda p: again(p, lambda d: d.astype(np.int16)), "unit = 'power' has no whole numbers", 16),
    "complex S1": (VV, lambda p: again(p, lambda d: d.astype(COMPLEX)), "holds complex64 values, which are no back", 16),
    "no data in S1": (VV, lambda p: again(p, lambda d: np.full_like(d, -32768)), "nodata", 16),
    "negative S1": (VV, lambda p: again(p, lambda d: -d), "nodata", 16),
    "infinite S1": (VV, lambda p: again(p, lambda d: np.full_like(d, np.inf)), "nodata", 16),
    "a hole in S1": (VV, lambda p: again(p, hole), "nodata", 1),
}  # fmt: skip
SHORT = (
    "empty",
    "a block is damaged",
    "without CRS",
    "reflectance",
    "three bands",
    "coarser than said",
    "a hole in S1",
)


def hole(data: np.ndarray) -> np.ndarray:
    data = data.copy()
    data[:, 60:120, 60:120] = np.nan
    return data


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=() if name in SHORT else pytest.mark.soak) for name in FILES]
)
def test_an_odd_raster_costs_its_chips_and_no_others(case: str, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    file, change, words, cost = FILES[case]
    world = world_of(tmp_path / "w")
    change(world.root / file)
    code, said = cli("build", str(world.root / "tiny.toml"), "--to", "shards", "--out", str(tmp_path / "out"))
    folder = tmp_path / "out/tiny"
    rows = pq.read_table(folder / "pixels.parquet").to_pylist()
    lost = {row["chip_id"]: row["dropped"] for row in rows if row["dropped"]}
    assert all(words in reason for reason in lost.values()), set(lost.values())
    assert len(lost) == cost
    assert all(("s2_20200701" if file == B04 else "_s1_") in name for name in lost)
    assert packed(folder) == {name: sha256 for name, sha256 in undisturbed.items() if name not in lost}
    receipt = read_receipt(Store(str(folder)), "pixels")
    assert receipt
    failed = any(reason.startswith("unreadable") for reason in lost.values())
    assert code == (3 if failed else 0), said
    assert receipt.dropped == {("unreadable" if failed else next(iter(lost.values()))): cost}
    if failed:
        assert f"{cost} rows could not be read" in said
    assert "Traceback" not in said


def test_a_file_of_another_crs_than_its_item_says_is_read_where_it_lies(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    """The item's place decides which cells are candidates; pixels are taken where the file itself has them."""
    world = world_of(tmp_path / "w")
    warped = world.root / B04
    with rasterio.open(warped) as file:
        data = file.read(1)
    with rasterio.vrt.WarpedVRT(
        rasterio.open(warped), crs="EPSG:32633", resampling=rasterio.enums.Resampling.nearest
    ) as vrt:
        profile, there = vrt.profile | {"driver": "GTiff"}, vrt.read()
    with rasterio.open(warped, "w", **profile) as out:
        out.write(there)
    code, said = cli("build", str(world.root / "tiny.toml"), "--to", "pixels", "--out", str(tmp_path / "out"))
    assert code == 0, said
    from pipeline.parts import read_chip

    store = Store(str(tmp_path / "out/tiny"))
    chips = {c["chip_id"]: c for c in pq.read_table(tmp_path / "out/tiny/chips.parquet").to_pylist()}
    same = []
    for row in pq.read_table(tmp_path / "out/tiny/pixels.parquet").to_pylist():
        chip = chips[row["chip_id"]]
        if chip["scene"] == "S2-1":
            got = read_chip(store, row["part"], row["row"], "s2", 60)["10m"][2]
            left, top = int(chip["west"] - 600_000) // 10, int(5_001_600 - chip["north"]) // 10
            same.append((got == np.maximum(data[top : top + 60, left : left + 60].astype(int) - 1000, 1)).mean())
    assert len(same) == 16
    assert min(same) > 0.35, "twice the nearest pixel: off by one at most, and noise has no two alike"


# Scene classes.


def with_scene_classes(world: World, change: Callable[[Path], object], **keys: Any) -> Path:
    """The manifest, screening by an SCL of both S2 items: the first one whole, the second one changed."""
    text = (world.root / "tiny.toml").read_text()
    text = text.replace('sensor = "s2"', 'sensor = "s2"\nscene_classes = "SCL"').replace(
        "max_cloud = 1.0", "max_cloud = 0.1"
    )
    (world.root / "tiny.toml").write_text(text)
    for k in (0, 1):
        path = world.root / f"cogs/scl_{k}.tif"
        world.tif(path, np.full((SIDE_M // 20,) * 2, 4, np.uint8), 20)
        again(path)
        item_path = world.root / f"catalog/s2/S2-{k}.json"
        item = json.loads(item_path.read_text())
        item["assets"]["SCL"] = {"href": f"../../cogs/scl_{k}.tif"}
        item_path.write_text(json.dumps(item))
    change(world.root / "cogs/scl_1.tif")
    return world.root / "tiny.toml"


SCENE_CLASSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "unreadable: scl_1.tif: "),
    "damaged": (flip_in_block, "unreadable: scl_1.tif: "),
    "fractions": (lambda p: again(p, lambda d: d.astype(np.float32)), "holds float32 values, which are no classes"),
}


@pytest.mark.parametrize("case", ["damaged", pytest.param("empty", marks=pytest.mark.soak), "fractions"])
def test_scene_classes_that_cannot_be_read_cost_their_scene(
    case: str, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    change, words = SCENE_CLASSES[case]
    world = world_of(tmp_path / "w")
    manifest, out = with_scene_classes(world, change), tmp_path / "out"
    code, said = cli("build", str(manifest), "--to", "shards", "--out", str(out))
    assert (code, words in said, "S2-1" in said) == (3, True, True), said
    receipt = read_receipt(Store(str(out / "tiny")), "screen")
    assert receipt
    assert receipt.dropped == {"unreadable": 16}
    assert packed(out / "tiny") == {name: sha for name, sha in undisturbed.items() if "s2_20200701" not in name}
    world.tif(world.root / "cogs/scl_1.tif", np.full((SIDE_M // 20,) * 2, 4, np.uint8), 20)
    code, said = cli("build", str(manifest), "--to", "shards", "--out", str(out))
    assert code == 0, said
    assert packed(out / "tiny") == undisturbed, "a mended file is seen, and nothing else is needed"


def test_scene_classes_that_are_none_count_as_no_data(tmp_path: Path) -> None:
    """Codes beyond 11 (255 is a common one for no data) in 40 % of one cell, finer pixels than SCL has, a missing asset."""
    world = world_of(tmp_path / "w")

    def change(path: Path) -> None:
        data = np.full((SIDE_M // 10,) * 2, 4, np.uint8)
        data[:24, :60] = 255
        data[:24, 60:120] = 12
        data[120:, ::2], data[120:, 1::2] = 4, 9  # averaged, vegetation and cloud would be water
        world.tif(path, data, 10)

    manifest = with_scene_classes(world, change)
    assert cli("build", str(manifest), "--to", "screen", "--out", str(tmp_path / "out"))[0] == 0
    store = Store(str(tmp_path / "out/tiny"))
    rows = {
        row["cell"]: row
        for name in store.list("screen")
        for row in pq.read_table(store.local(name)).to_pylist()
        if row["scene"] == "S2-1"
    }
    assert rows["p60_32632_1000_8335"]["scl_0"] == pytest.approx(0.4, abs=0.02)
    assert rows["p60_32632_1001_8335"]["scl_0"] == pytest.approx(0.4, abs=0.02)
    assert all(row["scl_11"] == 0 and row["scl_6"] == 0 for row in rows.values())
    assert all(sum(row[f"scl_{k}"] for k in range(12)) == pytest.approx(1) for row in rows.values())
    item = json.loads((world.root / "catalog/s2/S2-1.json").read_text())
    del item["assets"]["SCL"]
    (world.root / "catalog/s2/S2-1.json").write_text(json.dumps(item))
    code, said = cli("build", str(manifest), "--to", "screen", "--out", str(tmp_path / "out"))
    assert (code, "S2-1" in said, "asset 'SCL' (scene_classes) is missing" in said) == (2, True, True), said


# Maps.


@pytest.mark.parametrize(
    ("change", "words", "cost"),
    [
        (flip_in_block, "unreadable: classes.tif: ", 4),
        (lambda p: again(p, lambda d: d + np.float32(0.5)), "holds fractions, which are no codes", 16),
        (lambda p: again(p, lambda d: d.astype(COMPLEX)), "holds complex64 values, which are no codes", 16),
    ],
    ids=["damaged", "fractions", "complex"],
)
def test_an_odd_map_costs_the_chips_of_its_cells(
    change: Callable[[Path], object], words: str, cost: int, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    world = world_of(tmp_path / "w")
    change(world.root / "labels/classes.tif")
    out = tmp_path / "out"
    code, said = cli("build", str(world.root / "tiny.toml"), "--to", "captions", "--out", str(out))
    assert (code, f"{cost} rows could not be read" in said) == (3, True), said
    rows = pq.read_table(out / "tiny/labels.parquet").to_pylist()
    lost = {row["cell"]: row["dropped"] for row in rows if row["dropped"]}
    assert len(lost) == cost
    assert all(words in reason for reason in lost.values())
    captions = pq.read_table(out / "tiny/captions.parquet").to_pylist()
    assert {c["chip_id"] for c in captions if c["dropped"]} == {c["chip_id"] for c in captions if c["cell"] in lost}
    receipts = [read_receipt(Store(str(out / "tiny")), stage) for stage in ("labels", "captions")]
    assert [r.dropped for r in receipts if r] == [{"unreadable": cost}, {"unreadable": 3 * cost}]
    if cost < 16:
        assert cli("build", str(world.root / "tiny.toml"), "--to", "shards", "--out", str(out))[0] == 3
        kept = {c["chip_id"] for c in captions if not c["dropped"]}
        assert packed(out / "tiny") == {name: sha for name, sha in undisturbed.items() if name in kept}


# Items.


def edit(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Replace what an item has; None removes it. Keys of its properties with `:` written as `__`."""

    def change(item: dict[str, Any]) -> None:
        for key, value in changes.items():
            place = item if key in ("geometry", "assets", "id") else item["properties"]
            place.pop(key.replace("__", ":"), None)
            if value is not None:
                place[key.replace("__", ":")] = value

    return change


ITEMS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no datetime": (edit(datetime=None), "'None' is not a time"),
    "no geometry": (edit(geometry=None), "a STAC item lacks geometry"),
    "no assets": (edit(assets=None), "a STAC item lacks assets"),
    "a point": (edit(geometry={"type": "Point", "coordinates": [10.3, 45.15]}), "an item's geometry is no area"),
    "in metres": (edit(geometry={"type": "Polygon", "coordinates": [[[6e5, 5e6], [6.1e5, 5e6], [6e5, 5.1e6], [6e5, 5e6]]]}), "not in degrees"),
    "zone 33": (edit(proj__epsg=32633), "does not lie where its geometry is"),
    "the south": (edit(proj__epsg=32732), "does not lie where its geometry is"),
    "no such EPSG": (edit(proj__epsg=999_999), "there is no CRS EPSG:999999"),
    "a transform of another place": (edit(proj__transform=[10, 0, 100_000, 0, -10, 5_001_600]), "does not lie where"),
}  # fmt: skip


@pytest.mark.parametrize("case", ITEMS)
def test_an_odd_item_is_named(case: str, tmp_path: Path) -> None:
    change, words = ITEMS[case]
    world = World(tmp_path / "w", size_m=1200, dates=DATES)
    manifest = world.write()
    path = world.root / "catalog/s2/S2-1.json"
    item = json.loads(path.read_text())
    change(item)
    path.write_text(json.dumps(item))
    code, said = cli("build", str(manifest), "--to", "scenes", "--out", str(tmp_path / "out"))
    assert (code, words in said, "S2-1" in said, "fix:" in said) == (2, True, True, True), said
    assert "Traceback" not in said


def test_an_item_whose_header_cannot_be_read_is_left_out_and_tried_again(tmp_path: Path) -> None:
    """Its place is known from its raster alone: the other scenes go on, code 3, and it comes when the file is mended."""
    world = World(tmp_path / "w", size_m=1200, dates=DATES)
    manifest, out = world.write(), str(tmp_path / "out")
    path = world.root / "catalog/s2/S2-1.json"
    item = json.loads(path.read_text())
    for fields in (item["properties"], *item["assets"].values()):
        for key in [key for key in fields if key.startswith("proj:")]:
            del fields[key]
    path.write_text(json.dumps(item))
    assert cli("build", str(manifest), "--to", "shards", "--out", str(tmp_path / "whole"))[0] == 0
    file = world.root / "cogs/s2_1_B02.tif"
    whole = file.read_bytes()
    file.write_bytes(whole[:20])
    code, said = cli("build", str(manifest), "--to", "shards", "--out", out)
    assert (code, "Traceback" in said) == (3, False), said
    assert re.search(rf"unreadable: {file.name}: .*S2-1", said)
    assert cli("build", str(manifest), "--to", "shards", "--out", out)[0] == 3
    file.write_bytes(whole)
    assert cli("build", str(manifest), "--to", "shards", "--out", out, "--retry-failed")[0] == 0
    assert hashes(tmp_path / "out/tiny") == hashes(tmp_path / "whole/tiny")


def test_a_bow_tie_has_the_chips_of_its_halves(tmp_path: Path) -> None:
    """A footprint drawn as a bow tie with a tail: what its polygons cover is seen, and no line or point is in the way."""
    world = World(tmp_path / "w", size_m=SIDE_M)
    manifest = world.write()
    path = world.root / "catalog/s2/S2-0.json"
    item = json.loads(path.read_text())
    west, south, east, north = world.bounds
    tie = [
        [west, south],
        [east, north],
        [east, south],
        [west, north],
        [west, south],
        [west - 0.1, south],
        [west, south],
    ]
    item["geometry"] = {"type": "Polygon", "coordinates": [tie]}
    path.write_text(json.dumps(item))
    code, said = cli("build", str(manifest), "--to", "chips", "--out", str(tmp_path / "out"))
    assert code == 0, said
    cells = {c["cell"] for c in pq.read_table(tmp_path / "out/tiny/chips.parquet").to_pylist() if c["sensor"] == "s2"}
    assert cells == {f"p60_32632_{col}_{row}" for col in (1000, 1003) for row in (8333, 8334)}


def test_what_pixels_cannot_be() -> None:
    """DN stored as floats are DN; float amplitude and whole decibels are what they say."""
    odd = radiometry.odd_values
    assert odd(np.array([[0, 1500.0, 3000.0, np.nan]], np.float32), "s2", "power", (0,)) is None
    assert odd(np.array([[1500, 3000]], np.int16), "s2", "power", (0,)) is None
    assert "reflectance" in str(odd(np.array([[0.15, 0.3, 1.1]]), "s2", "power", (0,)))
    assert odd(np.zeros((2, 2), np.float32), "s2", "power", (0,)) is None, "all no data: the chips say so"
    assert odd(np.array([[-12, -8]], np.int16), "s1", "db", ()) is None
    assert odd(np.array([[300, 200]], np.uint16), "s1", "amplitude", ()) is None
    assert "whole numbers" in str(odd(np.array([[0, 1]], np.int16), "s1", "power", ()))
    assert "no backscatter" in str(odd(np.array([[1j]]), "s1", "power", ()))
