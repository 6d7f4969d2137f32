"""Vector files that are damaged or say too little: told by name, never a traceback, never all memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely

from harmonize.problem import Problem
from pipeline.vector import cell_shares, read_codes, read_vector

SQUARE = geopandas.GeoDataFrame(
    {"code": ["1"]}, geometry=[shapely.box(600_000, 5_000_400, 601_200, 5_001_600)], crs=32632
)


def shapefile(tmp_path: Path) -> Path:
    path = tmp_path / "land.shp"
    SQUARE.to_file(path)
    return path


def no_prj(path: Path) -> None:
    path.with_suffix(".prj").unlink()


def bad_prj(path: Path) -> None:
    path.with_suffix(".prj").write_text("PROJCS[nonsense")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [no_prj, bad_prj, cut, empty])
def test_a_damaged_shapefile_is_told(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = shapefile(tmp_path)
    damage(path)
    with pytest.raises(Problem, match=r"land\.shp|CRS") as raised:
        read_vector(path, "events[0]")
    assert raised.value.fix


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.geojson", "", "cannot be read"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "no geometry|no feature"),
        ("a.geojson", "<html>not found</html>", "cannot be read"),
        ("a.gpkg", "not a database", "cannot be read"),
        ("a.parquet", "PAR1", "cannot be read"),
    ],
)
def test_a_file_that_is_no_vector_file_is_told(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(Problem, match=said):
        read_vector(path, "here")


def test_a_missing_layer_and_attribute_are_told_with_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "land.gpkg"
    SQUARE.to_file(path, layer="clc")
    with pytest.raises(Problem, match="other"):
        read_vector(path, "here", "other")
    with pytest.raises(Problem, match="CODE_18") as raised:
        read_codes(path, "CODE_18", "here", "clc")
    assert "code" in raised.value.fix


def test_self_intersecting_polygons_are_mended_and_overlaps_go_to_the_first(tmp_path: Path) -> None:
    """A bow tie over the cell's diagonals covers half of it; what lies under it counts only where it is free."""
    west, south, east, north = SQUARE.total_bounds
    bow = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    assert not bow.is_valid
    path = tmp_path / "land.gpkg"
    frame = geopandas.GeoDataFrame({"code": ["7", "1"]}, geometry=[bow, SQUARE.geometry[0]], crs=32632)
    frame.to_file(path)
    shares = cell_shares(read_codes(path, "code", "here"), 32632, (west, south, east, north))
    assert shares == {"7": pytest.approx(0.5), "1": pytest.approx(0.5)}
    frame[::-1].to_file(path)
    shares = cell_shares(read_codes(path, "code", "here"), 32632, (west, south, east, north))
    assert shares == {"1": pytest.approx(1.0)}


EIGHT = geopandas.GeoDataFrame(
    {"code": [str(k) for k in range(8)]},
    geometry=[shapely.box(600_000 + 100 * k, 5_000_400, 600_100 + 100 * k, 5_001_600) for k in range(8)],
    crs=32632,
)
CELL = (600_000.0, 5_000_400.0, 601_200.0, 5_001_600.0)
READ = {
    "whole": lambda path: read_codes(path, "code", "here"),
    "around a cell": lambda path: read_codes(path, "code", "here", around=(32632, CELL)),
}


@pytest.mark.parametrize("way", READ)
@pytest.mark.parametrize("suffix", [".shp", ".shx", ".dbf", ".gpkg", ".fgb", ".geojson", ".parquet"])
def test_a_file_that_was_cut_off_is_told(tmp_path: Path, suffix: str, way: str) -> None:
    """Of a .shp and of a .fgb that is searched, GDAL gives the features that are left, and says nothing."""
    damaged = tmp_path / f"land{suffix}"
    path = damaged.with_suffix(".shp") if suffix in (".shx", ".dbf") else damaged
    if suffix == ".parquet":
        EIGHT.to_parquet(path)
    else:
        EIGHT.to_file(path)
    assert len(READ[way](path)) == 8
    half(damaged)
    with pytest.raises(Problem, match=r"land\.\w+ cannot be read") as raised:
        READ[way](path)
    assert raised.value.fix


def test_a_table_of_another_shapefile_is_told(tmp_path: Path) -> None:
    EIGHT.to_file(tmp_path / "land.shp")
    EIGHT[:5].to_file(tmp_path / "other.shp")
    (tmp_path / "other.dbf").replace(tmp_path / "land.dbf")
    with pytest.raises(Problem, match=r"land\.dbf has 5 records, and land\.shx has 8 shapes"):
        read_vector(tmp_path / "land.shp", "here")


@pytest.mark.parametrize("way", READ)
@pytest.mark.parametrize("suffix", [".shp", ".gpkg", ".geojson", ".parquet"])
def test_land_cover_without_a_geometry_cannot_be_counted(tmp_path: Path, suffix: str, way: str) -> None:
    path = tmp_path / f"land{suffix}"
    holes = EIGHT.set_geometry([None if k in (2, 5) else shape for k, shape in enumerate(EIGHT.geometry)], crs=32632)
    holes.to_parquet(path) if suffix == ".parquet" else holes.to_file(path)
    said = (
        "2 features of land" if (suffix, way) == (".gpkg", "around a cell") else r"features 3, 6 of land\S+ \(2 of 8\)"
    )
    with pytest.raises(Problem, match=said):
        READ[way](path)


def test_a_geopackage_without_a_search_tree(tmp_path: Path) -> None:
    path = tmp_path / "land.gpkg"
    EIGHT.to_file(path, SPATIAL_INDEX="NO")
    assert len(READ["around a cell"](path)) == 8
    EIGHT.set_geometry([None, *EIGHT.geometry[1:]], crs=32632).to_file(path, SPATIAL_INDEX="NO")
    with pytest.raises(Problem, match=r"1 feature of land\.gpkg without geometry"):
        READ["around a cell"](path)


@pytest.mark.parametrize("way", READ)
@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_coordinates_that_are_no_numbers_are_told(tmp_path: Path, suffix: str, number: float, way: str) -> None:
    path = tmp_path / f"land{suffix}"
    odd = shapely.Polygon([(600_000, 5_000_400), (number, 5_001_600), (601_200, 5_000_400), (600_000, 5_000_400)])
    frame = EIGHT.set_geometry([*EIGHT.geometry[:6], odd, EIGHT.geometry[7]], crs=32632)
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_file(path)
    with pytest.raises(Problem, match=r"feature 7 of land\.\w+ with a coordinate that is no number"):
        READ[way](path)


@pytest.mark.parametrize("way", READ)
@pytest.mark.parametrize("codes", [["1", None, "3", " "], [1.0, np.nan, 3.0, np.nan]])
def test_polygons_without_a_code_are_told(tmp_path: Path, codes: list, way: str) -> None:
    path = tmp_path / "land.gpkg"
    EIGHT[:4].assign(code=codes).to_file(path)
    with pytest.raises(Problem, match=r"features 2, 4 of land\.gpkg without a code in the field code"):
        READ[way](path)


def test_the_geometry_is_no_attribute(tmp_path: Path) -> None:
    EIGHT.to_file(tmp_path / "land.gpkg")
    with pytest.raises(Problem, match="'geometry' is no field") as raised:
        read_codes(tmp_path / "land.gpkg", "geometry", "here")
    assert raised.value.fix == "set attribute; known: code"


@pytest.mark.parametrize("way", READ)
def test_a_layer_of_several_is_named_or_told(tmp_path: Path, way: str) -> None:
    """A table without geometry, as QGIS keeps its styles in, is none of them."""
    path = tmp_path / "land.gpkg"
    pyogrio.write_dataframe(EIGHT.drop(columns="geometry"), path, layer="layer_styles")
    EIGHT[:3].to_file(path, layer="old", mode="a")
    assert len(READ[way](path)) == 3
    EIGHT.to_file(path, layer="new", mode="a")
    with pytest.raises(Problem, match=r"land\.gpkg has 2 layers, and none is named") as raised:
        READ[way](path)
    assert "old, new" in raised.value.fix
    assert len(read_codes(path, "code", "here", "new")) == 8


def test_a_folder_is_no_shapefile(tmp_path: Path) -> None:
    (tmp_path / "land.shp").mkdir()
    with pytest.raises(Problem, match=r"land\.shp cannot be read"):
        read_vector(tmp_path / "land.shp", "here")
