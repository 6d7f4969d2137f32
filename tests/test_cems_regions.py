"""Copernicus EMS packages through the stages: the real flood of Veneto 2018, and a package of the tests' own."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from cems_packages import DEL, event, product, write, zipped
from test_bad_input import cli
from test_event_runs import bit, cell_box, name, table
from test_runner import build
from world import World

from harmonize.events import judge
from pipeline import events
from pipeline.events import load_events
from pipeline.grid import Cell, cells_of
from pipeline.region import Region, load_region

TOWNS = {"Padova": (11.5, 45.18, 12.2, 45.59), "Venezia": (12.2, 45.4, 12.76, 45.83)}
"""The areas of interest, and a bit: degrees. Padova's lies in two UTM zones."""
OBSERVED = ("02PADOVA_DEL", "02PADOVA_DEL_MONIT01", "09VENEZIA_DEL")


def veneto(root: Path, folder: Path) -> World:
    """16 cells north of Padova, at the edge of the area of interest; the event is the real package."""
    world = World(
        root, west=696_000.0, north=5_020_800.0,
        dates=("2018-10-20T10:10:00Z", "2018-11-02T10:10:00Z", "2018-11-25T10:10:00Z"),
        s1_dates=("2018-10-21T05:20:00Z", "2018-11-02T05:18:16Z"),
        manifest={"start": "2018-10-01", "end": "2018-12-15"},
    )  # fmt: skip
    world.tail = f'[[events]]\nkind = "flood"\nsource = "cems"\nhref = "{folder}"\nstart = 2018-10-29\n'
    return world


@pytest.fixture(scope="module")
def package(real_folder: Path) -> Path:
    return real_folder / "events/EMSR332"


@pytest.fixture(scope="module")
def region(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Region:
    return load_region(veneto(tmp_path_factory.mktemp("veneto"), package).write())


def shares_of(package: Path, layer: str, cells: list[Cell]) -> dict[str, float]:
    """Share of each cell that the union of a layer over the products covers, by shapely and none of our code."""
    found = {}
    for epsg in {cell.epsg for cell in cells}:
        frames = [geopandas.read_file(package / f"EMSR332_{key}_v1_{layer}.shp") for key in OBSERVED]
        # Sides of areas of interest are parallels, which are no straight lines in UTM.
        moved = [f.set_geometry(f.make_valid().segmentize(0.001)).to_crs(epsg).geometry for f in frames]
        union = shapely.union_all(shapely.make_valid(np.concatenate([m.values for m in moved])))
        parts = shapely.get_parts(union)
        tree = shapely.STRtree(parts[shapely.area(parts) > 0])
        for cell in (c for c in cells if c.epsg == epsg):
            square = shapely.box(*cell.bounds)
            near = tree.geometries[tree.query(square)]
            found[cell.name] = float(shapely.area(shapely.intersection(near, square)).sum() / square.area)
    return found


@pytest.mark.parametrize("town", TOWNS)
def test_flooded_shares_of_the_real_package(region: Region, package: Path, town: str) -> None:
    """Exact for every cell of the area of interest. All of it was seen: the images are larger on every side."""
    cells = cells_of(shapely.box(*TOWNS[town]), 120)
    rows = {row["cell"]: row for row in events.rows_of(load_events(region), cells)}
    flooded = shares_of(package, "observed_event_a", cells)
    analysed = shares_of(package, "area_of_interest_a", cells)
    assert len(rows) == len(cells) > 1000
    for cell, row in rows.items():
        assert row["share"] == pytest.approx(flooded[cell], abs=1e-6)
        assert row["analysed"] == pytest.approx(analysed[cell], abs=1e-4)
    assert sum(share > 0 for share in flooded.values()) > (200 if town == "Padova" else 3)


def test_the_real_package_in_time_and_space(region: Region, package: Path) -> None:
    """Before the flood nobody is flooded; on the day of the image what it covers is; outside the extent is unknown."""
    (mapped,) = load_events(region)
    assert mapped.shape.is_valid
    assert (mapped.event.id, mapped.event.start) == ("emsr332", dt.date(2018, 10, 29))
    assert mapped.use.licence.startswith("Copernicus Emergency Management Service")
    cells = cells_of(shapely.box(11.5, 45.4, 12.3, 45.65), 60)
    said: dict[str, Counter[tuple[str, str]]] = {"2018-10-20": Counter(), "2018-11-02": Counter()}
    for row in events.rows_of([mapped], cells):
        crisis, touch = events.verdict_of(row, region)
        where = "wet" if row["share"] >= 0.05 else "partly" if row["share"] else "out" if row["analysed"] < 1 else "dry"
        for day, counts in said.items():
            counts[where, judge(crisis, touch, dt.date.fromisoformat(day)).says] += 1
    assert {says for _, says in said["2018-10-20"]} == {"negative"}
    expected = {("wet", "positive"), ("partly", "unknown"), ("out", "unknown"), ("dry", "negative")}
    assert set(said["2018-11-02"]) == expected
    assert min(said["2018-11-02"].values()) > 10


def test_chips_of_the_real_flood(package: Path, tmp_path: Path) -> None:
    """The same through chips, labels and captions."""
    manifest = veneto(tmp_path, package).write()
    text = manifest.read_text()
    manifest.write_text(text.replace('source = "s2-here"', 'source = "s2-here"\nper_cell = 3', 1))
    build(manifest, tmp_path / "out", "captions")
    out = tmp_path / "out/tiny"
    chips = {c["chip_id"]: c for c in table(out, "chips")}
    rows = {r["cell"]: r for r in table(out, "labels") if r["event"]}
    days: dict[str, Counter[str]] = {}
    for row in table(out, "captions"):
        day = f"{chips[row['chip_id']]['datetime']:%m-%d}"
        days.setdefault(day, Counter())[bit(row)] += 1
        seen = rows[row["cell"]]
        if day == "11-02":
            expected = (
                "positive"
                if seen["share"] >= 0.05
                else "unknown"
                if seen["share"] or seen["analysed"] < 1
                else "negative"
            )
            assert bit(row) == expected
    assert days["10-20"] == {"negative": 16}
    assert days["10-21"] == {"negative": 16}
    assert days["11-02"] == {"positive": 6, "unknown": 12, "negative": 14}, "S1 and S2"
    assert days["11-25"] == {"unknown": 9, "negative": 7}, "the window is over, and nobody looked"


def own_package(world: World, folder: Path) -> Path:
    """The upper left cell flooded, a trace in the one below; a cloud over the right column; all in the image."""

    def degrees(shape: shapely.Geometry) -> shapely.Geometry:
        return geopandas.GeoSeries([shapely.segmentize(shape, 100)], crs=world.epsg).to_crs(4326).iloc[0]

    whole = degrees(cell_box(0, 0).union(cell_box(3, 3)).envelope.buffer(300))
    product(
        folder,
        observedEventA=[event(degrees(cell_box(0, 0))), event(degrees(cell_box(0, 1)), "Flood trace")],
        areaOfInterestA=[(whole, {"name": "x"})],
        imageFootprintA=None,
        notAnalysedA=[(degrees(cell_box(3, 0).union(cell_box(3, 3)).envelope.buffer(-1)), {})],
    )
    return folder


def own_world(root: Path, href: str, **keys: Any) -> World:
    world = World(root, dates=("2020-06-05T10:00:00Z", "2020-06-12T10:00:00Z"), s1_dates=("2020-06-12T05:00:00Z",))
    told = {"kind": '"flood"', "source": '"cems"', "href": f'"{href}"', "start": "2020-06-10"} | keys
    world.tail = "[[events]]\n" + "".join(f"{k} = {v}\n" for k, v in told.items() if v is not None)
    return world


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_package_through_the_stages(tmp_path: Path, as_zip: bool) -> None:
    world = own_world(tmp_path, "EMSR884.zip" if as_zip else "EMSR884")
    own_package(world, tmp_path / "EMSR884")
    if as_zip:
        zipped(tmp_path / "EMSR884", tmp_path / "EMSR884.zip")
    manifest = world.write()
    build(manifest, tmp_path / "out")
    out = tmp_path / "out/tiny"
    assert {(r["source"], r["event"]) for r in table(out, "labels") if r["event"]} == {("cems", "emsr884")}
    chips = {c["chip_id"]: c for c in table(out, "chips")}
    said: dict[str, set[str]] = {}
    for row in table(out, "captions"):
        if chips[row["chip_id"]]["datetime"].day == 12:
            said.setdefault(row["cell"], set()).add(bit(row))
        else:
            assert bit(row) == "negative", "before the event"
    unknown = {name(0, 1), *(name(3, row) for row in range(4))}
    assert said == {
        name(c, r): {"positive" if (c, r) == (0, 0) else "unknown" if name(c, r) in unknown else "negative"}
        for c in range(4)
        for r in range(4)
    }
    receipt = json.loads((out / "receipts/chips.json").read_text())
    assert "event 'emsr884': unknown: 1 features 'flood trace'" in receipt["notes"]
    assert "| emsr884 | event | [Copernicus Emergency Management Service" in (out / "shards/README.md").read_text()


def test_a_changed_package_is_read_again(tmp_path: Path) -> None:
    world = own_world(tmp_path, "EMSR884")
    own_package(world, tmp_path / "EMSR884")
    manifest = world.write()
    build(manifest, tmp_path / "out", "captions")
    assert build(manifest, tmp_path / "out", "captions") == []
    (tmp_path / "EMSR884/map.pdf").write_bytes(b"%PDF")
    assert build(manifest, tmp_path / "out", "captions") == []
    write(tmp_path / "EMSR884" / f"{DEL.replace('PRODUCT', 'MONIT01')}_observedEventA_v1.shp", [event()])
    assert build(manifest, tmp_path / "out", "captions")[0] == "chips"


def test_another_kind_is_another_area(tmp_path: Path) -> None:
    """Of a package of two kinds; the days of its effect are the same."""
    world = own_world(tmp_path, "EMSR884", effect_days=30)
    own_package(world, tmp_path / "EMSR884")
    burnt = geopandas.GeoSeries([cell_box(2, 2)], crs=world.epsg).to_crs(4326).iloc[0]
    other = f"{DEL.replace('AOI01', 'AOI02')}_observedEventA_v1.shp"
    write(tmp_path / "EMSR884" / other, [event(burnt, "Burnt area", "8-Wildfire")])
    manifest = world.write()
    build(manifest, tmp_path / "out", "labels")
    manifest.write_text(manifest.read_text().replace('kind = "flood"', 'kind = "fire"'))
    assert build(manifest, tmp_path / "out", "labels")[0] == "chips"
    covered = {r["cell"] for r in table(tmp_path / "out/tiny", "labels") if r["event"] and r["share"] > 0.9}
    assert covered == {name(2, 2)}


def test_packages_that_are_not_there(tmp_path: Path) -> None:
    world = own_world(tmp_path, "EMSR884")
    code, said = cli("build", str(world.write()), "--out", str(tmp_path / "out"))
    assert (code, "there is no event package" in said, "check href" in said) == (2, True, True), said
    world = own_world(tmp_path, f"EMSR884/{DEL}_observedEventA_v1.shp")
    own_package(world, tmp_path / "EMSR884")
    code, said = cli("build", str(world.write()), "--out", str(tmp_path / "out"))
    assert (code, "is no package of Rapid Mapping" in said, "source = 'geojson'" in said) == (2, True, True), said


def test_mistakes_in_a_package_are_told_without_a_traceback(tmp_path: Path) -> None:
    world = own_world(tmp_path, "EMSR884", start=None)
    own_package(world, tmp_path / "EMSR884")
    code, said = cli("build", str(world.write()), "--to", "labels", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "the event has no start" in said
    assert "events[0]" in said
    assert "Traceback" not in said
