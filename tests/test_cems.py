"""Copernicus EMS packages: names and versions, what counts as the event, as analysed and as unknown, and when."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from cems_packages import AREA, DEL, SCENE, START, WET, event, product, read, same, source, write
from pyproj import Geod
from shapely import affinity

from harmonize.events import CrisisEvent, judge
from harmonize.problem import Problem
from pipeline.cems_images import image_time
from pipeline.cems_names import parse_layer
from pipeline.cems_observed import DAMAGE_RADIUS_M
from pipeline.event import Event
from pipeline.events import EventMap, touches
from pipeline.grid import cells_of
from pipeline.shapes import squares_of

EAST = affinity.translate(WET, 0.05)
"""A second place in the image."""
LOOKED_AT = shapely.intersection(AREA, SCENE)


@pytest.mark.parametrize(
    ("name", "product_key", "layer", "released", "version", "kind"),
    [
        ("EMSR332_02PADOVA_DEL_MONIT01_v1_observed_event_a", "emsr332_02padova_del_monit01", "observedeventa", (0, 1), (0, 0), "DEL"),
        ("EMSR314_04OTUOCHAAGULERI_01DELINEATION_MAP_v2_area_of_interest_a", "emsr314_04otuochaaguleri_01delineation_map", "areaofinteresta", (0, 2), (0, 0), "DEL"),
        ("EMSR332_02PADOVA_DEL_v1_source", "emsr332_02padova_del", "source", (0, 1), (0, 0), "DEL"),
        ("EMSR517_AOI15_GRA_MONIT01_observedEventA_r1_v3", "emsr517_aoi15_gra_monit01", "observedeventa", (0, 0), (1, 3), "GRA"),
        ("EMSR884_AOI02_FEP_PRODUCT_notAnalysedA_v1", "emsr884_aoi02_fep_product", "notanalyseda", (0, 0), (0, 1), "FEP"),
        ("EMSR884_AOI02_GRA_PRODUCT_builtUpP_v12", "emsr884_aoi02_gra_product", "builtupp", (0, 0), (0, 12), "GRA"),
    ],
)  # fmt: skip
def test_names_of_three_generations(
    name: str, product_key: str, layer: str, released: Any, version: Any, kind: str
) -> None:
    found = parse_layer(name)
    assert found is not None
    assert (found.product, found.layer, found.released, found.version) == (product_key, layer, released, version)
    assert found.kind == kind
    assert found.area == "_".join(product_key.split("_")[:2])


@pytest.mark.parametrize("name", ["observedEventA", "EMSR884_observedEventA", "EMSR884_AOI01_DEL_PRODUCT_hydrographyA_v1",
                                  "EMSR884_AOI01_DEL_PRODUCT_modelledEventA_v1", "EMSR1_v1", "EMSR1"])  # fmt: skip
def test_names_of_other_things(name: str) -> None:
    assert parse_layer(name) is None


@pytest.mark.parametrize("suffix", [".shp", ".json", ".gpkg"])
def test_layers_in_any_format(tmp_path: Path, suffix: str) -> None:
    found = read(product(tmp_path / "x", suffix=suffix))
    assert same(found.shape, WET)
    assert same(found.analysed, LOOKED_AT)
    assert found.start == START
    assert beside(found) == ()


def beside(found: Any) -> tuple[str, ...]:
    """Its notes without what was read."""
    assert found.notes[0].startswith("read: ")
    return found.notes[1:]


def test_one_geopackage_of_all_layers(tmp_path: Path) -> None:
    path = tmp_path / "x" / f"{DEL}_v1.gpkg"
    write(path, [event()], layer="observedEventA")
    write(path, [(AREA, {"name": "x"})], layer="areaOfInterestA")
    write(path, [(AREA, {"name": "x"})], layer="hydrographyA")
    found = read(tmp_path / "x")
    assert same(found.shape, WET)
    assert same(found.analysed, AREA)


def test_the_same_layer_in_two_formats_is_one(tmp_path: Path) -> None:
    product(tmp_path / "x")
    product(tmp_path / "x", suffix=".json", observedEventA=[event(EAST)])
    assert same(read(tmp_path / "x").shape, WET), "the shapefile goes before the GeoJSON"


def test_monitorings_are_united_and_the_newest_version_counts(tmp_path: Path) -> None:
    monitoring = DEL.replace("PRODUCT", "MONIT01")
    product(tmp_path / "x")
    product(tmp_path / "x", monitoring, observedEventA=[event(EAST)])
    both = shapely.union(WET, EAST)
    assert same(read(tmp_path / "x").shape, both)
    far = affinity.translate(WET, 0.02)
    write(tmp_path / "x" / f"{monitoring}_observedEventA_v2.shp", [event(far)])
    write(tmp_path / "x" / f"{monitoring}_observedEventA_v10.shp", [event()])
    assert same(read(tmp_path / "x").shape, WET), "10 is newer than 2"
    write(tmp_path / "x" / f"{monitoring}_observedEventA_r2_v1.shp", [event(far)])
    assert same(read(tmp_path / "x").shape, shapely.union(WET, far)), "a second release is newer than all of the first"


def test_the_version_of_a_product_is_that_of_its_folder(tmp_path: Path) -> None:
    """Layers of version 2 of a product may well be of version 1, and what it has no more is gone."""
    unseen = {"notAnalysedA": [(EAST, {})]}
    product(tmp_path / "x" / f"{DEL}_v1", observedEventA=[event(EAST)], **unseen)
    product(tmp_path / "x" / f"{DEL}_v2")
    found = read(tmp_path / "x")
    assert same(found.shape, WET)
    assert same(found.analysed, LOOKED_AT)
    assert beside(found) == (f"not read: {DEL}: 1 older version",)


def test_old_names_say_the_version_of_the_product(tmp_path: Path) -> None:
    for version, shape in (("v1", EAST), ("v2", WET)):
        write(tmp_path / f"x/EMSR99_01PO_DEL_{version}_observed_event_a.shp", [event(shape)])
    write(tmp_path / "x/EMSR99_01PO_DEL_v1_area_of_interest_a.shp", [(AREA, {"name": "x"})])
    found = read(tmp_path / "x")
    assert same(found.shape, WET)
    assert found.analysed is None, "the second version has no area of interest"


def test_first_estimates_and_reference_maps(tmp_path: Path) -> None:
    """A first estimate counts until there is something better; what was there before the event never does."""
    product(tmp_path / "x", "EMSR884_AOI01_FEP_PRODUCT", observedEventA=[event(EAST)])
    product(tmp_path / "x", "EMSR884_AOI02_REF_PRODUCT", observedEventA=None)
    found = read(tmp_path / "x")
    assert same(found.shape, EAST)
    assert beside(found) == ("not read: EMSR884_AOI02_REF_PRODUCT: shows the time before the event",)
    product(tmp_path / "x")
    found = read(tmp_path / "x")
    assert same(found.shape, WET)
    assert "not read: EMSR884_AOI01_FEP_PRODUCT: a first estimate, and a later product is there" in found.notes


@pytest.mark.parametrize("notation", ["Flooded area", "", None, "Not Applicable"])
def test_what_is_flooded(tmp_path: Path, notation: str | None) -> None:
    assert same(read(product(tmp_path / "x", observedEventA=[event(notation=notation)])).shape, WET)


def test_a_flood_trace_is_neither_water_nor_dry(tmp_path: Path) -> None:
    found = read(product(tmp_path / "x", observedEventA=[event(), event(EAST, "Flood trace")]))
    assert same(found.shape, WET)
    assert same(found.analysed, shapely.difference(LOOKED_AT, EAST))
    assert beside(found) == ("unknown: 1 features 'flood trace'",)
    product(tmp_path / "only", observedEventA=[event(notation="Flood trace")])
    with pytest.raises(Problem, match="only shows no area of the flood"):
        read(tmp_path / "only")


def test_a_trace_under_water_is_flooded(tmp_path: Path) -> None:
    """Wet in one observation, a trace in the next: it was flooded."""
    product(tmp_path / "x")
    product(tmp_path / "x", DEL.replace("PRODUCT", "MONIT01"), observedEventA=[event(notation="Flood trace")])
    assert same(read(tmp_path / "x").shape, WET)


@pytest.mark.parametrize("notation", ["Flooded areas", "Possibly flooded area", "Burnt area", "Dike breach"])
def test_other_notations_stop(tmp_path: Path, notation: str) -> None:
    product(tmp_path / "x", observedEventA=[event(), event(EAST, notation)])
    with pytest.raises(Problem) as caught:
        read(tmp_path / "x")
    assert f"notation '{notation.lower()}'" in caught.value.what
    assert f"{DEL}_observedEventA_v1.shp" in caught.value.what
    assert "known: 'flooded area', 'not applicable', 'flood trace'" in caught.value.fix


def graded(*grades: str, points: bool = False) -> list:
    """Buildings 0.01 degrees apart from west to east, one of each grade."""
    shapes = [shapely.Point(11.01 + 0.01 * k, 45.05) for k in range(len(grades))]
    if not points:
        shapes = [shapely.box(p.x, p.y, p.x + 1e-4, p.y + 1e-4) for p in shapes]
    return [(shape, {"obj_type": "11-Residential", "damage_gra": g}) for shape, g in zip(shapes, grades, strict=True)]


def square_metres(shape: shapely.Geometry) -> float:
    return abs(Geod(ellps="WGS84").geometry_area_perimeter(shape)[0])


GRA = "EMSR884_AOI01_GRA_PRODUCT"
ALL_GRADES = ("Destroyed", "Damaged", "Possibly damaged", "No visible damage", "Not Analysed", "Not Applicable")


@pytest.mark.parametrize("points", [True, False])
def test_grades_of_damage_are_compared_whole(tmp_path: Path, points: bool) -> None:
    layer = {"builtUpP" if points else "builtUpA": graded(*ALL_GRADES, points=points)}
    found = read(product(tmp_path / "x", GRA, observedEventA=None, **layer), "earthquake")
    buildings = [shape for shape, _ in graded(*ALL_GRADES, points=points)]
    assert [found.shape.intersects(b) for b in buildings] == [True, True, False, False, False, False]
    assert found.analysed is not None
    assert [not found.analysed.intersects(b) for b in buildings] == [False, False, True, False, True, False]
    assert beside(found) == ("unknown: 1 features 'not analysed'", "unknown: 1 features 'possibly damaged'")
    width, height = (0.0, 0.0) if points else (7.88, 11.11)  # metres of 1e-4 degrees at 45 N
    expected = width * height + 2 * (width + height) * DAMAGE_RADIUS_M + np.pi * DAMAGE_RADIUS_M**2
    assert square_metres(found.shape) == pytest.approx(2 * expected, rel=0.01)


def test_other_grades_stop(tmp_path: Path) -> None:
    product(tmp_path / "x", GRA, observedEventA=None, builtUpP=graded("Damaged", "Highly damaged", points=True))
    with pytest.raises(Problem, match="damage_gra 'highly damaged'"):
        read(tmp_path / "x", "earthquake")


def test_a_map_of_buildings_without_grades_says_nothing(tmp_path: Path) -> None:
    """Its product was not looked at for damage: its extent is no analysed one."""
    product(tmp_path / "x", GRA, observedEventA=None, builtUpP=graded("Damaged", points=True))
    other = "EMSR884_AOI02_DEL_PRODUCT"
    far = [(affinity.translate(AREA, 0, 0.2), {"name": "x"})]
    product(tmp_path / "x", other, observedEventA=None, areaOfInterestA=far, builtUpA=graded("Not Applicable"))
    assert same(read(tmp_path / "x", "earthquake").analysed, LOOKED_AT)


def test_polygons_of_an_earthquake_count_too(tmp_path: Path) -> None:
    product(tmp_path / "x", observedEventA=[event(notation="Not Applicable", kind="1-Earthquake")])
    assert same(read(tmp_path / "x", "earthquake").shape, WET)


def test_a_burnt_area(tmp_path: Path) -> None:
    product(tmp_path / "x", observedEventA=[event(notation="Burnt area", kind="8-Wildfire")])
    assert same(read(tmp_path / "x", "fire").shape, WET)


def test_what_was_not_analysed(tmp_path: Path) -> None:
    cloud, gap = shapely.box(11.0, 45.08, 11.05, 45.1), shapely.box(11.0, 45.0, 11.01, 45.01)
    before = shapely.box(11.0, 44.0, 12.0, 46.0)
    footprints = [
        (SCENE, {"obj_type": "Image Footprint", "or_src_id": 2}),
        (before, {"obj_type": "Image Footprint", "or_src_id": 1}),
        (cloud, {"obj_type": "Not Analysed", "or_src_id": 2}),
    ]
    layers = {"imageFootprintA": footprints, "notAnalysedA": [(gap, {"area": 1.0})]}
    product(tmp_path / "x", **layers)
    left = shapely.union(cloud, gap)
    assert same(read(tmp_path / "x").analysed, AREA.difference(left)), "without a table, any image may be the one"
    source(
        tmp_path / "x" / f"{DEL}_source_v1.dbf",
        ("1", "Pre-event", "01/04/2024", ""),
        ("2", "Post-event", "03/05/2024", ""),
    )
    assert same(read(tmp_path / "x").analysed, LOOKED_AT.difference(left))


def test_extents_that_a_product_lacks(tmp_path: Path) -> None:
    assert same(read(product(tmp_path / "a", imageFootprintA=None)).analysed, AREA)
    assert same(read(product(tmp_path / "b", areaOfInterestA=None)).analysed, SCENE)
    assert read(product(tmp_path / "c", areaOfInterestA=None, imageFootprintA=None)).analysed is None
    assert read(product(tmp_path / "d"), extents=False).analysed is None, "not asked for"


def test_the_manifests_extent_goes_first(tmp_path: Path) -> None:
    path = write(tmp_path / "seen.geojson", [(WET, {})])
    assert same(read(product(tmp_path / "x"), analysed=str(path)).analysed, WET)


def test_looked_and_found_nothing(tmp_path: Path) -> None:
    """An empty layer is a finding: its extent is analysed. A product without the layer says nothing."""
    north = affinity.translate(AREA, 0, 0.2)
    product(tmp_path / "x")
    other = DEL.replace("AOI01", "AOI02")
    product(tmp_path / "x", other, observedEventA=[], areaOfInterestA=[(north, {"name": "y"})])
    both = shapely.union(LOOKED_AT, shapely.intersection(north, SCENE))
    assert same(read(tmp_path / "x").analysed, both)
    for path in (tmp_path / "x").glob(f"{other}_observedEventA_v1.*"):
        path.unlink()
    assert same(read(tmp_path / "x").analysed, LOOKED_AT)
    product(tmp_path / "none", observedEventA=[])
    with pytest.raises(Problem, match="none shows no area of the flood"):
        read(tmp_path / "none")


def test_another_kind_of_event(tmp_path: Path) -> None:
    landslide = event(EAST, "Not Applicable", "6-Mass Movement")
    product(tmp_path / "x", observedEventA=[event(), landslide])
    found = read(tmp_path / "x")
    assert same(found.shape, WET)
    assert beside(found) == ("left out: 1 features of event_type 6-mass movement",)
    with pytest.raises(Problem) as caught:
        read(tmp_path / "x", "fire")
    assert "shows no fire; it shows 5-flood (1 features), 6-mass movement (1 features)" in caught.value.what
    assert caught.value.fix == "write kind = 'flood'"
    write(tmp_path / "x" / f"{DEL}_builtUpP_v1.shp", graded("Damaged", points=True))
    with pytest.raises(Problem, match="shows no earthquake"):
        read(tmp_path / "x", "earthquake")


def test_nothing_left_to_look_at(tmp_path: Path) -> None:
    """All under cloud: every cell in reach is unknown, but what was seen all the same."""
    found = read(product(tmp_path / "x", notAnalysedA=[(AREA.buffer(0.1), {})]))
    assert found.analysed is not None
    assert found.analysed.is_empty
    flood = CrisisEvent("x", "flood", START, 20, 0.05)
    mapped = EventMap(Event(kind="flood", source="cems", href="x"), flood, found.shape, found.analysed)
    cells = cells_of(AREA, 120)
    said = {judge(flood, touch, START).says for touch in touches(mapped, squares_of(cells)).values()}
    assert said == {"positive", "unknown"}
    assert len(touches(mapped, squares_of(cells))) == len(cells)


@pytest.mark.parametrize("kind", ["8-Flood", "Flood", "", "5 Flood"])
def test_types_that_nobody_knows(tmp_path: Path, kind: str) -> None:
    product(tmp_path / "x", observedEventA=[event(kind=kind)])
    with pytest.raises(Problem, match=f"event_type '{kind.lower()}'"):
        read(tmp_path / "x")
    assert same(read(product(tmp_path / "y", observedEventA=[event(kind="5 - Flood")])).shape, WET), (
        "as the manual has it"
    )


def activation(folder: Path, **keys: Any) -> None:
    told = {"code": "EMSR884", "category": "Earthquake", "eventTime": "2024-04-30T23:30:00-02:00"} | keys
    (folder / "activation.json").write_text(json.dumps({"results": [told]}))


def test_the_activation_says_kind_and_first_day(tmp_path: Path) -> None:
    product(tmp_path / "x", GRA, observedEventA=None, builtUpP=graded("Damaged", points=True))
    activation(tmp_path / "x")
    assert read(tmp_path / "x", "earthquake", start=None).start == dt.date(2024, 5, 1), "UTC"
    activation(tmp_path / "x", eventTime="2024-04-30T23:30:00")
    assert read(tmp_path / "x", "earthquake", start=None).start == dt.date(2024, 4, 30), "without a zone it is UTC"
    assert read(tmp_path / "x", "earthquake").start == START, "the manifest goes first"
    activation(tmp_path / "x", category="Flood")
    with pytest.raises(Problem, match="shows no earthquake; it shows Flood"):
        read(tmp_path / "x", "earthquake")
    activation(tmp_path / "x", eventTime="yesterday")
    with pytest.raises(Problem, match="'yesterday' in the field eventTime of the activation is no day"):
        read(tmp_path / "x", "earthquake", start=None)
    activation(tmp_path / "x", code="EMSR883")
    with pytest.raises(Problem, match=r"activation\.json tells of EMSR883, and the products are of EMSR884"):
        read(tmp_path / "x", "earthquake")


@pytest.mark.parametrize(
    ("day", "time", "expected"),
    [
        ("02/11/2018", "05:18:16", "2018-11-02T05:18:16+00:00"),
        ("02/11/2018", "05:18 UTC", "2018-11-02T05:18:00+00:00"),
        ("02/11/2018", "T05:18:16Z", "2018-11-02T05:18:16+00:00"),
        ("02/11/2018", "Not Applicable", "2018-11-02T00:00:00+00:00"),
        ("2006", "Not Applicable", None),
        ("31/02/2018", "05:18", None),
        ("Not Applicable", "05:18", None),
    ],
)
def test_times_as_files_write_them(day: str, time: str, expected: str | None) -> None:
    found = image_time(day, time)
    assert (found and found.isoformat()) == expected


def test_the_first_day_is_told_by_somebody(tmp_path: Path) -> None:
    product(tmp_path / "x")
    with pytest.raises(Problem, match="no start") as caught:
        read(tmp_path / "x", start=None)
    assert "first image" not in caught.value.fix
    rows = [("1", "Pre-event", "01/04/2024", "T10:00:00Z"), ("2", "Post-event", "04/05/2024", "05:18 UTC")]
    source(tmp_path / "x" / f"{DEL}_source_v1.dbf", *rows, ("3", "Post-event", "03/05/2024", "17:05:00"))
    with pytest.raises(Problem, match="no start") as caught:
        read(tmp_path / "x", start=None)
    assert "of 2024-05-03 17:05 UTC" in caught.value.fix
    assert read(tmp_path / "x", start=dt.date(2024, 5, 3)).start == dt.date(2024, 5, 3)
    with pytest.raises(Problem, match="starts on 2024-05-04, after an image that shows it"):
        read(tmp_path / "x", start=dt.date(2024, 5, 4))


def test_geometries_are_mended_and_moved(tmp_path: Path) -> None:
    """A bow-tie in metres of UTM: its two triangles are half of its square."""
    metres = geopandas.GeoSeries([WET], crs=4326).to_crs(32632).iloc[0].bounds
    west, south, east, north = metres
    bow = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    assert not bow.is_valid
    path = tmp_path / "x" / f"{DEL}_observedEventA_v1.shp"
    path.parent.mkdir()
    geopandas.GeoDataFrame([event()[1]], geometry=[bow], crs=32632).to_file(path)
    found = read(tmp_path / "x").shape
    assert found.is_valid
    assert square_metres(found) == pytest.approx((east - west) * (north - south) / 2, rel=2e-3)


def test_a_shapefile_without_a_crs(tmp_path: Path) -> None:
    product(tmp_path / "x")
    (tmp_path / "x" / f"{DEL}_observedEventA_v1.prj").unlink()
    with pytest.raises(Problem, match=f"{DEL}_observedEventA_v1.shp does not say its CRS") as caught:
        read(tmp_path / "x")
    assert ".prj" in caught.value.fix


def test_metres_that_are_called_degrees(tmp_path: Path) -> None:
    product(tmp_path / "x", observedEventA=[event(affinity.translate(WET, 600_000, 5_000_000))])
    with pytest.raises(Problem, match=r"observedEventA_v1\.shp says its CRS is"):
        read(tmp_path / "x")


def test_folders_that_are_no_package(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(Problem, match="x has no layer of a Rapid Mapping package"):
        read(tmp_path / "x")
    product(tmp_path / "x")
    product(tmp_path / "x", DEL.replace("884", "885"))
    with pytest.raises(Problem, match="several activations: EMSR884, EMSR885"):
        read(tmp_path / "x")


def test_polygons_without_a_type(tmp_path: Path) -> None:
    product(tmp_path / "x", observedEventA=[(WET, {"name": "river"})])
    with pytest.raises(Problem, match="has no field event_type") as caught:
        read(tmp_path / "x")
    assert "source = 'geojson'" in caught.value.fix


@pytest.mark.filterwarnings("ignore:Non closed ring")
@pytest.mark.parametrize("suffix", [".shp", ".dbf", ".prj"])
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    """A ring that is not closed, a header that tells of 2^31 records, a CRS that is none."""
    product(tmp_path / "x")
    source(tmp_path / "x" / f"{DEL}_source_v1.dbf", ("2", "Post-event", "03/05/2024", "05:18 UTC"))
    layer = "source" if suffix == ".dbf" else "observedEventA"
    path = tmp_path / "x" / f"{DEL}_{layer}_v1{suffix}"
    data = bytearray(path.read_bytes())
    data[{".shp": 160, ".dbf": 7, ".prj": 20}[suffix]] = 0x7F
    path.write_bytes(data)
    told = path.with_suffix(".shp") if suffix == ".prj" else path
    with pytest.raises(Problem, match=f"{told.stem}{told.suffix} cannot be read"):
        read(tmp_path / "x")


def test_a_layer_that_is_no_vector_file(tmp_path: Path) -> None:
    product(tmp_path / "x")
    (tmp_path / "x" / f"{DEL.replace('AOI01', 'AOI02')}_observedEventA_v1.json").write_text('{"tiles": []}')
    with pytest.raises(Problem, match=r"AOI02_DEL_PRODUCT_observedEventA_v1\.json cannot be read"):
        read(tmp_path / "x")


def test_a_shapefile_that_was_cut_off(tmp_path: Path) -> None:
    """GDAL gives the features behind the end without geometry: wet ground would be known to be dry."""
    product(tmp_path / "x", observedEventA=[event(affinity.translate(WET, k / 100)) for k in range(4)])
    path = tmp_path / "x" / f"{DEL}_observedEventA_v1.shp"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Problem, match=rf"{path.name} was cut off: it has \d+ of {len(whole)} bytes") as caught:
        read(tmp_path / "x")
    assert caught.value.fix == "fetch the package again"
    path.write_bytes(whole)
    index = path.with_suffix(".shx")
    index.write_bytes(index.read_bytes()[:-8])
    with pytest.raises(Problem, match=rf"{index.name} was cut off"):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "words"), [(None, "its .dbf is missing"), (b"", r"\.dbf was cut off: it has 0 bytes")]
)
def test_a_layer_without_its_table(tmp_path: Path, data: bytes | None, words: str) -> None:
    product(tmp_path / "x")
    path = tmp_path / "x" / f"{DEL}_observedEventA_v1.dbf"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(Problem, match=words):
        read(tmp_path / "x")


def test_features_without_a_place_are_told(tmp_path: Path) -> None:
    """The file is whole: its makers gave them none."""
    nowhere = (None, {"event_type": "5-Flood", "notation": "Flooded area"})
    point = (WET.centroid, {"event_type": "5-Flood", "notation": "Flooded area"})
    found = read(product(tmp_path / "x", suffix=".json", observedEventA=[event(), nowhere, nowhere, point]))
    assert same(found.shape, WET)
    name = f"{DEL}_observedEventA_v1.json"
    assert f"left out: 2 of 4 features of {name}, which have no geometry" in found.notes
    assert f"left out: 1 of 2 features of {name}, which are points or lines" in found.notes
    found = read(product(tmp_path / "y", suffix=".json", notAnalysedA=[(None, {"obj_type": "x"}), (WET, {})]))
    assert any("of 2 features of" in note and "notAnalysedA" in note for note in found.notes)


def test_coordinates_that_are_no_numbers(tmp_path: Path) -> None:
    product(tmp_path / "x", suffix=".gpkg", observedEventA=[event(), event(shapely.Polygon(
        [(11.02, 45.02), (float("nan"), 45.03), (11.03, 45.03), (11.02, 45.02)]
    ))])  # fmt: skip
    with pytest.raises(Problem, match=r"feature 2 of .*observedEventA.* with a coordinate that is no number"):
        read(tmp_path / "x")


def test_odd_files_of_the_activation(tmp_path: Path) -> None:
    product(tmp_path / "x")
    path = tmp_path / "x" / "a.json"
    path.write_text('{"results": null, "eventTime": "2024-05-02T10:00:00"}')
    assert read(tmp_path / "x", start=None).start == dt.date(2024, 5, 2)
    path.write_text("[" * 200_000 + '"eventTime"')
    with pytest.raises(Problem, match="no file of the activation that says one"):
        read(tmp_path / "x", start=None)
    path.write_text('{"eventTime": "9999-12-31"}')
    with pytest.raises(Problem, match="'9999-12-31' in the field eventTime of the activation is no day of an event"):
        read(tmp_path / "x", start=None)


def test_a_version_of_many_digits_is_none() -> None:
    assert parse_layer(f"EMSR884_AOI01_DEL_PRODUCT_v{'9' * 5000}_observedEventA_v1") is not None
    assert parse_layer(f"EMSR884_AOI01_DEL_PRODUCT_observedEventA_v{'9' * 5000}") is None
