"""Area shares against exact geometry: rasters and vectors of any CRS and resolution, random cases; bands of codes and
of probabilities."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.transform import from_origin

from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES
from pipeline.grid import Cell
from pipeline.label_files import LabelFile
from pipeline.label_shares import measure
from pipeline.source import Source
from pipeline.vector import cell_shares

CELL = Cell(32632, 500, 4167)
SOUTH = Cell(32718, 300, 1400)
SMALL = Cell(32632, 1001, 8335, 60)


def label_file(path: Path, **keys: Any) -> LabelFile:
    source = Source.model_validate({"kind": "labels", "crosswalk": "corine", **keys})
    return LabelFile(source, str(path), None, "here")


def measured(path: Path, cells: list[Cell], **keys: Any) -> dict[Cell, dict[str, float]]:
    return dict(measure([label_file(path, **keys)], cells))


def write(path: Path, data: np.ndarray, epsg: int, west: float, north: float, size: float, **extra: Any) -> Path:
    """data: (C, H, W)."""
    names = extra.pop("names", ())
    shape = {"count": data.shape[0], "height": data.shape[1], "width": data.shape[2]}
    transform = from_origin(west, north, size, size)
    with rasterio.open(
        path, "w", driver="GTiff", dtype=data.dtype, crs=f"EPSG:{epsg}", transform=transform, **shape, **extra
    ) as out:
        out.write(data)
        for k, name in enumerate(names, 1):
            out.set_band_description(k, name)
    return path


def random_polygons(rng: np.random.Generator, cell: Cell) -> geopandas.GeoDataFrame:
    """A random land-cover map around a cell, without gaps or overlaps: Voronoi polygons with random codes."""
    west, south, east, north = cell.bounds
    around = shapely.box(west - 900, south - 900, east + 900, north + 900)
    points = shapely.MultiPoint(
        rng.uniform((west - 900, south - 900), (east + 900, north + 900), (rng.integers(6, 40), 2))
    )
    parts = shapely.get_parts(shapely.voronoi_polygons(points, extend_to=around))
    codes = rng.choice(["1", "2", "12", "23", "41"], len(parts))
    return geopandas.GeoDataFrame({"code": codes}, geometry=shapely.intersection(parts, around), crs=cell.epsg)


def exact(frame: geopandas.GeoDataFrame, cell: Cell) -> dict[str, float]:
    """By shapely alone, in the cell's own CRS."""
    square = shapely.box(*cell.bounds)
    areas = frame.to_crs(cell.epsg).geometry.intersection(square).area / square.area
    return areas.groupby(frame["code"]).sum().to_dict()


def differences(found: dict[str, float], wanted: dict[str, float]) -> float:
    return max(abs(found.get(code, 0.0) - wanted.get(code, 0.0)) for code in {*found, *wanted})


@pytest.mark.parametrize("cell", [CELL, SOUTH, SMALL], ids=["north", "south", "small"])
@pytest.mark.parametrize("epsg", [None, 3857, 4326], ids=["own", "mercator", "degrees"])
def test_vectors_on_random_maps(cell: Cell, epsg: int | None) -> None:
    for seed in range(6):
        frame = random_polygons(np.random.default_rng(seed), cell)
        # Edges are straight in the file's CRS: the truth is taken of densified ones.
        moved = frame.set_geometry(frame.geometry.segmentize(20)).to_crs(epsg or cell.epsg)
        assert differences(cell_shares(moved, cell.epsg, cell.bounds), exact(frame, cell)) < 1e-4


@pytest.mark.parametrize(
    ("epsg", "size"), [(32632, 10), (32632, 2.5), (32633, 10), (3035, 20), (3035, 100), (4326, 0.0001), (4326, 0.00083)]
)
def test_rasters_on_random_maps(tmp_path: Path, epsg: int, size: float) -> None:
    """The truth is the raster's own pixels as polygons, whatever made them: 10 m, 100 m and degrees, turned or not."""
    for seed in range(4):
        frame = random_polygons(np.random.default_rng(seed), CELL).to_crs(epsg)
        minx, miny, maxx, maxy = frame.total_bounds
        shape = (int((maxy - miny) / size), int((maxx - minx) / size))
        pairs = ((g, int(c)) for g, c in zip(frame.geometry, frame["code"], strict=True))
        data = rasterize(pairs, shape, transform=from_origin(minx, maxy, size, size), dtype="uint8")
        path = write(tmp_path / f"{seed}.tif", data[None], epsg, minx, maxy, size)
        truth = pixels_as_polygons(path)
        found = measured(path, [CELL], nodata=0)[CELL]
        assert differences(found, exact(truth, CELL)) < 0.005, seed
        assert sum(found.values()) == pytest.approx(1, abs=0.005)


def pixels_as_polygons(path: Path) -> geopandas.GeoDataFrame:
    from rasterio.features import shapes

    with rasterio.open(path) as opened:
        data = opened.read(1)
        parts = [
            (shapely.geometry.shape(g), str(int(v))) for g, v in shapes(data, data > 0, transform=opened.transform)
        ]
        crs = opened.crs
    return geopandas.GeoDataFrame({"code": [c for _, c in parts]}, geometry=[g for g, _ in parts], crs=crs)


def test_a_cell_of_nodata_is_told_apart_from_one_beyond_the_raster(tmp_path: Path) -> None:
    west, south, _, north = CELL.bounds
    data = np.full((1, 120, 120), 7, "uint8")
    far = Cell(32632, 510, 4167)
    for extra, keys in (({"nodata": 7}, {}), ({}, {"nodata": 7})):
        path = write(tmp_path / "n.tif", data, 32632, west, north, 10, **extra)
        assert measured(path, [CELL, far], **keys) == {CELL: {}}
    assert south < north


def probabilities(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nine bands whose highest is the code's, sum 1."""
    said = rng.uniform(0, 0.05, (9, *codes.shape))
    np.put_along_axis(said, codes[None], 0.6, 0)
    return said / said.sum(0)


def test_dynamic_world_from_its_label_band_or_from_probabilities(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    west, _, _, north = CELL.bounds
    codes = rng.integers(0, 9, (12, 12)).repeat(10, 0).repeat(10, 1)
    said = probabilities(codes, rng)
    names = (
        "water",
        "trees",
        "grass",
        "flooded_vegetation",
        "crops",
        "shrub_and_scrub",
        "built",
        "bare",
        "snow_and_ice",
    )
    both = np.concatenate([said, codes[None]]).astype("float32")
    path = write(tmp_path / "dw.tif", both, 32632, west, north, 10, names=(*names, "label"))
    wanted = {str(k): float((codes == k).mean()) for k in range(9)}
    for keys in ({"band": "label"}, {"band": 10}, {"probabilities": 9}):
        assert measured(path, [CELL], **keys)[CELL] == pytest.approx(wanted)
    scaled = write(tmp_path / "u8.tif", (said * 200).astype("uint8"), 32632, west, north, 10)
    assert measured(scaled, [CELL], probabilities=9)[CELL] == pytest.approx(wanted)


@pytest.mark.parametrize("empty", [0, np.nan, -9999.0])
def test_pixels_without_probabilities_are_unlabelled(tmp_path: Path, empty: float) -> None:
    west, _, _, north = CELL.bounds
    said = probabilities(np.full((120, 120), 4), np.random.default_rng(2)).astype("float32")
    said[:, :, :30] = empty
    path = write(tmp_path / "p.tif", said, 32632, west, north, 10, nodata=-9999.0)
    assert measured(path, [CELL], probabilities=9)[CELL] == {"4": 0.75}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "nothing says which one"),
        ({"band": 4}, "no band 4"),
        ({"band": "label"}, "no band 'label'"),
        ({"probabilities": 9}, "has 3 bands"),
    ],
)
def test_a_raster_without_the_bands_asked_for(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "b.tif", np.zeros((3, 120, 120), "uint8"), 32632, *CELL.bounds[0::3], 10)
    with pytest.raises(Problem, match=said) as raised:
        measured(path, [CELL], **keys)
    assert "b.tif" in str(raised.value)
    assert raised.value.fix


def test_band_and_probabilities_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        Source.model_validate({"kind": "labels", "crosswalk": "dynamic-world", "band": 1, "probabilities": 9})


def test_of_files_of_one_day_the_first_counts_and_the_next_fills_its_gaps(tmp_path: Path) -> None:
    west, _, _, north = CELL.bounds
    first = np.full((1, 120, 120), 5, "uint8")
    first[:, :60] = 0
    one = write(tmp_path / "1.tif", first, 32632, west, north, 10, nodata=0)
    two = write(tmp_path / "2.tif", np.full((1, 120, 120), 6, "uint8"), 32632, west, north, 10)
    files = [LabelFile(label_file(p).source, str(p), dt.date(2020, 6, 1), "here") for p in (one, two)]
    assert dict(measure(files, [CELL])) == {CELL: {"5": 0.5, "6": 0.5}}


@pytest.mark.parametrize("suffix", ["gpkg", "fgb", "geojson"])
def test_a_file_asked_by_place_gives_the_same_shares(tmp_path: Path, suffix: str) -> None:
    """Of a geopackage only what is near is read; overlaps are still won by the first of the file."""
    rng = np.random.default_rng(5)
    frames = [random_polygons(rng, Cell(32632, 500 + k, 4167)) for k in range(0, 60, 3)]
    frame = pd.concat(frames, ignore_index=True).set_crs(32632).to_crs(3035)
    path = tmp_path / f"land.{suffix}"
    frame.to_crs(4326 if suffix == "geojson" else 3035).to_file(path)
    cells = [Cell(32632, col, 4167) for col in (500, 501, 528, 557, 600)]
    stored = geopandas.read_file(path)  # FlatGeobuf has its own order
    for cell in cells:
        found = measured(path, [cell], attribute="code").get(cell, {})
        assert found == pytest.approx(cell_shares(stored, cell.epsg, cell.bounds), abs=1e-9)
    assert measured(path, cells, attribute="code").keys() == set(cells[:-1]), "the last one is beyond the file"


def test_a_geopackage_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [random_polygons(np.random.default_rng(k), Cell(32632, 500 + k, 4167)) for k in range(0, 60, 3)]
    path = tmp_path / "land.gpkg"
    pd.concat(frames, ignore_index=True).set_crs(32632).to_file(path)
    read: list[int] = []
    before = geopandas.read_file
    monkeypatch.setattr(geopandas, "read_file", lambda *a, **k: read.append(len(f := before(*a, **k))) or f)
    measured(path, [CELL], attribute="code")
    assert 0 < sum(read) < sum(map(len, frames)) / 4


@pytest.mark.parametrize("suffix", ["gpkg", "shp"])
def test_real_corine_shares_equal_exact_geometry(real_folder: Path, tmp_path: Path, suffix: str) -> None:
    """CORINE 2018 around Lanjarón (EPSG:25830): every whole cell of it, all its codes mapped."""
    from conftest import ROOT

    from harmonize.crosswalk import parse_crosswalk

    path = real_folder / "labels/clc2018_lanjaron.gpkg"
    frame = geopandas.read_file(path, layer="clc")
    if suffix == "shp":
        path = tmp_path / "clc.shp"
        frame.to_file(path)
    local = frame.to_crs(32630)
    local["geometry"] = local.geometry.make_valid()
    covered = local.union_all()
    west, south, east, north = (int(v // 1200) for v in covered.bounds)
    cells = [Cell(32630, col, row) for col in range(west, east + 1) for row in range(south, north + 1)]
    whole = [cell for cell in cells if covered.contains(shapely.box(*cell.bounds))]
    assert len(whole) > 20
    crosswalk = parse_crosswalk((ROOT / "manifests/labels/corine.csv").read_text(), "corine.csv")
    found = measured(path, whole, attribute="CODE_18", **({"layer": "clc"} if suffix == "gpkg" else {}))
    for cell in whole:
        square = shapely.box(*cell.bounds)
        areas = local.geometry.intersection(square).area.groupby(local["CODE_18"]).sum() / square.area
        truth = {str(code): share for code, share in areas.items() if share > 0}
        assert differences(found[cell], truth) < 5e-4
        assert sum(found[cell].values()) == pytest.approx(1, abs=1e-6)
    assert {crosswalk.classify(str(code)) for code in frame["CODE_18"].unique()} <= set(CLASSES)
