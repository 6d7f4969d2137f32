"""Regions at odd places: which cells they have, against an independent count, and chips that are right to the pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest
import rasterio
import shapely
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin
from shapely import affinity
from world import World

from harmonize.problem import Problem
from pipeline import raster, runner
from pipeline.grid import Cell, cells_of, parse_cell
from pipeline.parts import read_chip
from pipeline.place import area_of
from pipeline.region import Region, load_region
from pipeline.stac_api import boxes_of

SIDE = 1200


def zone_here(lon: float, lat: float) -> int | None:
    """UTM zone of the Sentinel-2 tiles, said in another way than the grid does: that of the nearest central meridian,
    and the exceptions of Norway and Svalbard. None beyond UTM."""
    if not -80 <= lat <= 84:
        return None
    lon = turned(lon)
    if 56 <= lat < 64 and 0 <= lon < 12:
        return 31 if lon < 3 else 32
    if lat >= 72 and 0 <= lon < 42:
        return next(zone for east, zone in ((9, 31), (21, 33), (33, 35), (42, 37)) if lon < east)
    return min(range(1, 61), key=lambda zone: abs(turned(lon - (6 * zone - 183))))


def turned(lon: float) -> float:
    return (lon + 180) % 360 - 180


def is_cell_of(cell: Cell, area: shapely.Geometry) -> bool:
    """The rule of the grid, for one cell: its centre lies in the area (degrees), its corners in its own zone."""
    crs = pyproj.CRS.from_epsg(cell.epsg)
    move = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    west, south, east, north = cell.bounds
    lon, lat = move.transform((west + east) / 2, (south + north) / 2)
    if not area.contains(shapely.Point(lon, lat)):
        return False
    corners = [move.transform(x, y) for x in (west, east) for y in (south, north)]
    return all(zone_here(*corner) == cell.epsg % 100 for corner in corners)


def around(cells: list[Cell]) -> set[Cell]:
    """The cells and their neighbours, three cells wide: what is missing at an edge is among them."""
    steps = range(-3, 4)
    return {
        Cell(c.epsg, c.col + i, c.row + j, c.size_px)
        for c in cells
        for i in steps
        for j in steps
        if c.row + j >= 0 and c.col + i >= 0
    }


def check(area: shapely.Geometry, cells: list[Cell]) -> None:
    assert len(cells) == len(set(cells))
    assert cells == sorted(cells)
    mine = set(cells)
    wrong = [c.name for c in around(cells) if (c in mine) != is_cell_of(c, area)]
    assert not wrong, wrong[:5]


PLACES = {
    "zone border": (11.97, 45.0, 12.03, 45.03),
    "equator": (26.97, -0.03, 27.03, 0.03),
    "southern zone border": (-72.03, -39.02, -71.97, -38.99),
    "Norway's border to the north": (5.8, 63.985, 5.9, 64.015),
    "Norway's border to the west": (2.95, 60.0, 3.05, 60.03),
    "31V and 32V and 31U": (2.95, 55.985, 3.05, 56.015),
    "Svalbard 31 and 33": (8.9, 78.0, 9.1, 78.03),
    "Svalbard 33 and 35": (20.9, 78.0, 21.1, 78.03),
    "Svalbard 35 and 37": (32.9, 78.0, 33.1, 78.03),
    "Svalbard 37 and 38": (41.9, 78.0, 42.1, 78.03),
    "Svalbard's southern end": (5.8, 71.985, 6.2, 72.015),
    "84 N": (10.0, 83.98, 10.3, 84.02),
    "80 S": (10.0, -80.02, 10.2, -79.98),
    "Greenwich": (-0.03, 51.0, 0.03, 51.03),
    "east of 180": (-180.0, -17.02, -179.95, -17.0),
    "west of 180": (179.95, -17.02, 180.0, -17.0),
}


@pytest.mark.parametrize("place", PLACES)
def test_cells_of_odd_places(place: str) -> None:
    area = shapely.box(*PLACES[place])
    cells = cells_of(area, SIDE // 10)
    assert cells
    check(area, cells)


@settings(max_examples=25, deadline=None)
@given(
    lon=st.integers(-30, 30).map(lambda k: 6.0 * k) | st.sampled_from([3.0, 9.0, 21.0, 33.0, 42.0]),
    lat=st.floats(-79.9, 83.8) | st.sampled_from([0.0, 56.0, 64.0, 72.0, 83.99, -79.99]),
    width=st.floats(0.02, 0.08),
    height=st.floats(0.01, 0.03),
    part=st.floats(0, 1),
    turn=st.floats(0, 90),
)
def test_no_cell_is_missing_and_none_too_many(
    lon: float, lat: float, width: float, height: float, part: float, turn: float
) -> None:
    """Rotated rectangles with a hole over zone borders, the equator and the ends of the grid."""
    wide = width / max(0.1, float(np.cos(np.radians(lat))))
    box = shapely.box(lon - part * wide, lat - height, lon + (1 - part) * wide, lat + height)
    area = affinity.rotate(box, turn).difference(shapely.Point(lon, lat).buffer(0.005))
    world = shapely.box(-180, -90, 180, 90)
    parts = [shapely.intersection(affinity.translate(area, t), world) for t in (-360, 0, 360)]
    area = shapely.union_all([p for p in parts if p.area > 0])
    try:
        cells = cells_of(area, SIDE // 10)
    except Problem:
        assert area.intersection(shapely.box(-180, -80, 180, 84)).area == 0
        return
    check(area, cells)


def region(tmp_path: Path, **keys: Any) -> Region:
    """A region of a World's manifest with another place; bounds, geometry or mgrs."""
    world = World(tmp_path, manifest={"bounds": None} | keys)
    (tmp_path / "catalog/s2").mkdir(parents=True, exist_ok=True)
    (tmp_path / "catalog/s1").mkdir(parents=True, exist_ok=True)
    return load_region(world.write_manifest())


def test_bounds_across_the_antimeridian(tmp_path: Path) -> None:
    area = area_of(region(tmp_path, bounds=[179.95, -17.02, -179.95, -17.0]))
    halves = [shapely.box(179.95, -17.02, 180, -17.0), shapely.box(-180, -17.02, -179.95, -17.0)]
    assert area.equals(shapely.union_all(halves))
    cells = cells_of(area, 120)
    assert {c.epsg for c in cells} == {32701, 32760}
    check(area, cells)
    assert set(cells) == {c for half in halves for c in cells_of(half, 120)}
    assert all(box[2] - box[0] < 1 for box in boxes_of(area)), "an API is not asked for the whole Earth"


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ([12.4, 45.2, 11.2, 45.7], "west 12.4 is not less than east 11.2"),
        ([11.2, 45.2, 11.2, 45.7], "is not less than"),
        ([11.2, 45.7, 12.4, 45.2], "south 45.7 is not less than north 45.2"),
        ([179, -18, 181, -17], "outside the world"),
        ([-190, -18, -179, -17], "outside the world"),
        ([1, 85, 2, 86], None),
        ([1, 84, 2, 85], None),
        ([1, -85, 2, -80], None),
    ],
)
def test_bounds_that_are_refused(bounds: list[float], words: str | None, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=words or "beyond 80°S or 84°N"):
        cells_of(area_of(region(tmp_path, bounds=bounds)), 120)


def written(tmp_path: Path, geometry: shapely.Geometry, epsg: int = 4326, name: str = "aoi.geojson") -> Region:
    frame = geopandas.GeoDataFrame(geometry=[geometry], crs=epsg)
    frame.to_file(tmp_path / name)
    return region(tmp_path, geometry=name)


BOX = shapely.box(9.0, 45.0, 9.1, 45.06)
HOLE = shapely.box(9.03, 45.02, 9.07, 45.04)
GEOMETRIES = {
    "hole": (BOX.difference(HOLE), BOX.difference(HOLE)),
    "parts": (
        shapely.MultiPolygon([BOX, affinity.translate(BOX, 3.0)]),
        shapely.MultiPolygon([BOX, affinity.translate(BOX, 3.0)]),
    ),
    "3D": (shapely.force_3d(BOX, 120.0), BOX),
    "collection": (shapely.GeometryCollection([BOX, shapely.Point(20, 45), shapely.LineString([(0, 0), (9, 9)])]), BOX),
    "collection of collections": (
        shapely.GeometryCollection([shapely.GeometryCollection([shapely.MultiPolygon([BOX])])]),
        BOX,
    ),
    "bow tie": (
        shapely.Polygon([(9.0, 45.0), (9.1, 45.06), (9.1, 45.0), (9.0, 45.06)]),
        shapely.MultiPolygon(
            [
                shapely.Polygon([(9.0, 45.0), (9.05, 45.03), (9.0, 45.06)]),
                shapely.Polygon([(9.1, 45.0), (9.1, 45.06), (9.05, 45.03)]),
            ]
        ),
    ),
    "overlapping parts": (
        shapely.MultiPolygon([BOX, affinity.translate(BOX, 0.05)]),
        shapely.box(9.0, 45.0, 9.15, 45.06),
    ),
    "drawn around the Earth": (
        shapely.Polygon([(179.95, -17.02), (-179.95, -17.02), (-179.95, -17.0), (179.95, -17.0)]),
        shapely.MultiPolygon([shapely.box(179.95, -17.02, 180, -17.0), shapely.box(-180, -17.02, -179.95, -17.0)]),
    ),
    "counted on beyond 180": (
        shapely.box(179.95, -17.02, 180.05, -17.0),
        shapely.MultiPolygon([shapely.box(179.95, -17.02, 180, -17.0), shapely.box(-180, -17.02, -179.95, -17.0)]),
    ),
    "two zones and a hole over the border": (
        shapely.box(11.95, 45.0, 12.05, 45.05).difference(shapely.box(11.98, 45.02, 12.02, 45.03)),
        shapely.box(11.95, 45.0, 12.05, 45.05).difference(shapely.box(11.98, 45.02, 12.02, 45.03)),
    ),
    "an edge on the equator": (
        shapely.Polygon([(27.0, 0.0), (27.04, 0.0), (27.04, -0.03), (27.08, -0.03), (27.08, 0.03), (27.0, 0.03)]),
        shapely.Polygon([(27.0, 0.0), (27.04, 0.0), (27.04, -0.03), (27.08, -0.03), (27.08, 0.03), (27.0, 0.03)]),
    ),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometry_files(name: str, tmp_path: Path) -> None:
    """What is written into a file, and the area it means; GeoJSON is not written by geopandas, which would mend it."""
    drawn, meant = GEOMETRIES[name]
    feature = {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(drawn))}
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    area = area_of(region(tmp_path, geometry="aoi.geojson"))
    assert area.is_valid
    assert area.symmetric_difference(meant).area < 1e-9 * meant.area
    cells = cells_of(area, 120)
    assert cells
    check(meant, cells)


@pytest.mark.parametrize(("epsg", "width"), [(3035, 60_000), (32633, 100_000), (3857, 80_000)])
def test_edges_of_another_crs_are_straight_there(epsg: int, width: int, tmp_path: Path) -> None:
    """An edge of 100 km is an arc in degrees: taken as a line between its ends it is 200 m off, and cells are lost."""
    x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(16.0, 48.0)
    x, y = round(x, -3), round(y, -3)
    square = shapely.box(x, y, x + width, y + 3_000)
    cells = cells_of(area_of(written(tmp_path, square, epsg, "aoi.gpkg")), 120)
    there = pyproj.Transformer.from_crs(cells[0].epsg, epsg, always_xy=True)
    mine = set(cells)
    for cell in around(cells[::7]):
        west, south, east, north = cell.bounds
        centre = shapely.Point(there.transform((west + east) / 2, (south + north) / 2))
        if abs(square.exterior.distance(centre)) > 0.5:
            assert (cell in mine) == square.contains(centre), cell.name


def test_a_projected_geometry_across_the_antimeridian(tmp_path: Path) -> None:
    """EPSG:3832 has its middle at 150°E, so that 180° is nothing odd there."""
    x, y = pyproj.Transformer.from_crs(4326, 3832, always_xy=True).transform(180.0, -17.0)
    square = shapely.box(x - 5_000, y - 3_000, x + 5_000, y)
    area = area_of(written(tmp_path, square, 3832, "aoi.gpkg"))
    assert area.area < 0.01
    cells = cells_of(area, 120)
    assert {c.epsg for c in cells} == {32701, 32760}
    check(area, cells)


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (shapely.Polygon(), "no feature with a geometry"),
        (shapely.Point(9, 45), "has no area"),
        (shapely.LineString([(9, 45), (10, 46)]), "has no area"),
        (shapely.box(600_000, 5_000_000, 601_000, 5_001_000), "says its CRS is WGS 84"),
    ],
)
def test_geometries_that_are_refused(geometry: shapely.Geometry, words: str, tmp_path: Path) -> None:
    feature = {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(geometry))}
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(Problem, match=words):
        area_of(region(tmp_path, geometry="aoi.geojson"))


def in_square(cell: Cell, tile: tuple[int, float, float]) -> bool:
    """Whether a cell's centre lies in a 100 km square, in metres of the square's zone."""
    epsg, west, south = tile
    move = pyproj.Transformer.from_crs(cell.epsg, epsg, always_xy=True)
    left, low, right, high = cell.bounds
    x, y = move.transform((left + right) / 2, (low + high) / 2)
    return west < x < west + 100_000 and south < y < south + 100_000


TILES = {
    "32TQR": (32632, 700_000, 5_000_000),
    "32tqr": (32632, 700_000, 5_000_000),
    "T32TQR": (32632, 700_000, 5_000_000),
    "35MNM": (32735, 500_000, 9_100_000),
    "60KYF": (32760, 700_000, 8_000_000),
    "01KAB": (32701, 100_000, 8_100_000),
}


@pytest.mark.parametrize("tile", [pytest.param(t, marks=pytest.mark.soak if t[1:4] == "32T" else ()) for t in TILES])
def test_a_tile_has_the_cells_of_its_square(tile: str, tmp_path: Path) -> None:
    area = area_of(region(tmp_path, mgrs=[tile], size_px=600))
    assert area.area < 1.2, "square degrees"
    cells = cells_of(area, 600)
    mine, candidates = set(cells), around(cells)
    assert len(cells) > 200
    for cell in candidates:
        corners_here = is_cell_of(cell, shapely.box(-180, -90, 180, 90))
        assert (cell in mine) == (corners_here and in_square(cell, TILES[tile])), cell.name


def test_neighbouring_tiles_have_no_cell_twice(tmp_path: Path) -> None:
    """Sentinel-2 tiles overlap by 9.8 km, and over a zone border by more; squares share no ground, and cells neither."""
    one, other, both = (
        set(cells_of(area_of(region(tmp_path / "x", mgrs=names, size_px=600)), 600))
        for names in (["32TQR"], ["32TPR"], ["32TQR", "32TPR"])
    )
    assert not one & other
    assert one | other == both


@pytest.mark.parametrize(
    ("tile", "words"),
    [
        ("32TQ", "is not an MGRS tile"),
        ("61TQR", "is not an MGRS tile"),
        ("00TQR", "is not an MGRS tile"),
        ("32IQR", "is not an MGRS tile"),
        ("32TQRX", "is not an MGRS tile"),
        ("", "is not an MGRS tile"),
        ("32TAR", "columns of zone 32 are JKLMNPQR"),
        ("32XNG", "does not exist"),
        ("34XDG", "does not exist"),
        ("36XVM", "does not exist"),
        ("32TJR", "does not exist"),
        ("32TQA", "does not exist"),
        ("31VFH", "does not exist"),
    ],
)
def test_tiles_that_do_not_exist(tile: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=words) as caught:
        area_of(region(tmp_path, mgrs=["32TQR", tile]))
    assert "'mgrs'" in caught.value.where


def test_no_tile_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="mgrs"):
        region(tmp_path, mgrs=[])


def odd_world(tmp_path: Path, epsg: int, lon: float, lat: float) -> World:
    """Imagery of 2.4 km of one zone around a place, its corner on the lattice of 60 m."""
    x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    base = 40 if epsg > 32700 else 0
    return World(
        tmp_path, epsg=epsg, west=round((x - 1200) / 60) * 60.0, north=round((y + 1200 - base) / 60) * 60.0 + base,
        manifest={"bounds": [lon - 0.03, lat - 0.03, lon + 0.03, lat + 0.03], "max_nodata": 0.0},
    )  # fmt: skip


CORNERS = {
    "antimeridian, from the east": (32701, 180.0, -17.0),
    "antimeridian, from the west": (32760, 180.0, -17.0),
    "zone border": (32632, 12.0, 45.0),
    "southern zone border": (32719, -66.0, -39.0),
    "Svalbard": (32633, 21.0, 78.0),
    "Norway": (32632, 3.0, 60.0),
    "84 N": (32633, 15.0, 83.985),
    "80 S": (32733, 15.0, -79.985),
}


LONG = ("antimeridian, from the west", "zone border", "southern zone border", "Norway")


@pytest.mark.parametrize(
    "place", [pytest.param(name, marks=pytest.mark.soak if name in LONG else ()) for name in CORNERS]
)
def test_chips_are_right_to_the_pixel(place: str, tmp_path: Path) -> None:
    """A pixel's value is the number of its own place in the file: where a chip has it, PROJ says it belongs.

    In the zone of the imagery pixels are copied; in the neighbouring zone they are the nearest ones.
    """
    epsg, lon, lat = CORNERS[place]
    world = odd_world(tmp_path, epsg, lon, lat)
    bounds = world.manifest["bounds"]
    bounds[0], bounds[2] = (turned(v) for v in (bounds[0], bounds[2]))
    bounds[1], bounds[3] = max(bounds[1], -80), min(bounds[3], 84)
    # Decided by the item's own outline: a box of degrees around it would reach around the Earth.
    world.offset = False
    manifest = world.write()
    side = world.size_m // 10
    index = (np.arange(side * side, dtype=np.uint32) % 65_000 + 1).astype(np.uint16).reshape(side, side)
    world.tif(tmp_path / "cogs/s2_0_B02.tif", index, 10)
    mend_item(world)
    whole_earth_labels(tmp_path)
    region, store = runner.load(manifest, str(tmp_path / "out"))
    runner.run_upto(region, store, "labels", quiet=True)
    pixels = pq.read_table(tmp_path / "out/tiny/pixels.parquet").to_pylist()
    chips = {c["chip_id"]: c for c in pq.read_table(tmp_path / "out/tiny/chips.parquet").to_pylist()}
    s2 = [(chips[p["chip_id"]], p) for p in pixels if chips[p["chip_id"]]["sensor"] == "s2" and p["part"]]
    zones = set()
    for chip, row in s2:
        cell = parse_cell(chip["cell"])
        zones.add(cell.epsg)
        got = read_chip(store, row["part"], row["row"], "s2", chip["size_px"])["10m"][0]
        col, line = np.meshgrid(np.arange(chip["size_px"]) + 0.5, np.arange(chip["size_px"]) + 0.5)
        x, y = chip["west"] + 10 * col, chip["north"] - 10 * line
        x, y = pyproj.Transformer.from_crs(cell.epsg, epsg, always_xy=True).transform(x, y)
        dx, dy = (x - world.west) / 10, (world.north - y) / 10
        right = index[np.clip(np.floor(dy).astype(int), 0, side - 1), np.clip(np.floor(dx).astype(int), 0, side - 1)]
        at_edge = (np.abs(dx - np.round(dx)) < 0.13) | (np.abs(dy - np.round(dy)) < 0.13)
        inside = (dx > 0) & (dx < side) & (dy > 0) & (dy < side)
        sure = inside & (~at_edge | (cell.epsg == epsg))
        assert sure.mean() > 0.3
        assert (got == right)[sure].all(), f"{chip['chip_id']}: {(got != right)[sure].mean():.3f} are wrong"
    assert epsg in zones, "cells of the imagery's own zone"
    if lat not in (83.985, -79.985):
        assert len(zones) == 2, "and of its neighbour"
    labels = pq.read_table(tmp_path / "out/tiny/labels.parquet").to_pylist()
    assert {row["cell"] for row in labels if row["dropped"] is None} == {c["cell"] for c in chips.values()}
    assert {row["code"] for row in labels} == {"1"}


def mend_item(world: World) -> None:
    """The footprint of an item as its own outline in degrees, in two parts where it lies across 180°."""
    move = pyproj.Transformer.from_crs(world.epsg, 4326, always_xy=True)
    square = shapely.segmentize(
        shapely.box(world.west, world.north - world.size_m, world.west + world.size_m, world.north), 100
    )
    ring = np.array(move.transform(*shapely.get_coordinates(square).T)).T
    for path in (world.root / "catalog").glob("*/*.json"):
        item = json.loads(path.read_text())
        item["geometry"] = {"type": "Polygon", "coordinates": [ring.tolist()]}
        path.write_text(json.dumps(item))


def whole_earth_labels(root: Path) -> None:
    """A land-cover map of the whole Earth in degrees: 1 everywhere."""
    with rasterio.open(
        root / "labels/classes.tif", "w", driver="GTiff", height=720, width=1440, count=1, dtype="uint8",
        crs="EPSG:4326", transform=from_origin(-180, 90, 0.25, 0.25), compress="deflate",
    ) as out:  # fmt: skip
        out.write(np.ones((720, 1440), np.uint8), 1)


def test_a_region_that_reaches_beyond_the_grid_says_so(tmp_path: Path) -> None:
    world = odd_world(tmp_path, 32633, 15.0, 83.985)
    manifest = world.write()
    mend_item(world)
    found = run("pipeline", "build", str(manifest), "--to", "screen", "--out", str(tmp_path / "out"))
    assert found.returncode == 0, found.all
    assert "reaches beyond 80°S or 84°N" in found.all


@pytest.mark.parametrize(("epsg", "lon"), [(32760, 179.999), (32701, -179.999)])
def test_bounds_beside_the_antimeridian_stay_in_order(epsg: int, lon: float) -> None:
    """GDAL turns those that cross it inside out, and a map of the Earth would not meet them."""
    x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, -40.0)
    west, south, east, north = raster.bounds_in((x - 3000, y - 3000, x + 3000, y + 3000), epsg, "EPSG:4326")
    assert (west < east, south < north, east - west < 0.1) == (True, True, True)
    assert west < lon < east
