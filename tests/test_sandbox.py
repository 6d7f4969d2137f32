"""The sample world itself: the same bytes each time, valid items, signatures as the table says, quirks where they are meant."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
from conftest import ROOT

from harmonize.problem import Problem
from harmonize.splits import SplitShares, block_of, spatial_split
from pipeline.radiometry import remove_offset
from pipeline.region import load_region
from pipeline.sandbox import NAMES, build, path_of, radar, server
from pipeline.sandbox.acquisitions import Scene, scenes_of, tile_name
from pipeline.sandbox.places import BY_NAME, PLACES, SIZES, size_named
from pipeline.sandbox.ranges import range_server
from pipeline.sandbox.server import serving
from pipeline.sandbox.signatures import KIND, signatures
from pipeline.sandbox.truth import place_outline
from pipeline.source import known_sources
from pipeline.stac_api import Query, search
from pipeline.stac_io import Patience

TINY = SIZES["tiny"]
SCENES = {scene.id: scene for scene in scenes_of(TINY)}


def read(world: Path, scene: Scene, key: str) -> np.ndarray:
    with rasterio.open(world / f"cogs/{scene.id}/{key}.tif") as raster:
        return raster.read(1)


def passes(place: str, sensor: str, number: int) -> list[Scene]:
    found = [s for s in SCENES.values() if (s.place, s.sensor, s.number) == (place, sensor, number)]
    return sorted(found, key=lambda s: s.id)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def ground(world: Path, place: str) -> build.Ground:
    return build.load_ground(world / "ground" / place, BY_NAME[place], TINY)


def test_a_killed_build_ends_with_the_same_bytes(tiny_world: Path, tmp_path: Path) -> None:
    """Two scenes and the end are lost, of one scene only the item: the build goes on and all is as it was."""
    import shutil

    again = tmp_path / "tiny"
    shutil.copytree(tiny_world, again)
    expected = hashes(again)
    radar_scene, optical_scene = passes("arid", "s1", 2)[0], passes("delta", "s2", 1)[0]
    for scene, collection in ((radar_scene, "sentinel-1-rtc"), (optical_scene, "sentinel-2-l2a")):
        (again / f"items/{collection}/{scene.id}.json").unlink()
    shutil.rmtree(again / "cogs" / optical_scene.id)
    for name in ("world.json", "items.json", "truth_seen.parquet"):
        (again / name).unlink()
    assert not build.is_built(tmp_path, "tiny")
    build.build_world("tiny", tmp_path)
    assert hashes(again) == expected
    assert build.is_built(tmp_path, "tiny")


def test_a_world_of_another_version_is_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "PLACES", ())
    monkeypatch.setattr(build, "scenes_of", lambda size: [])
    root = build.build_world("tiny", tmp_path)
    (root / "labels").mkdir()
    (root / "labels/old.tif").write_bytes(b"old")
    monkeypatch.setattr(build, "VERSION", 99)
    assert not build.is_built(tmp_path, "tiny")
    build.build_world("tiny", tmp_path)
    assert not (root / "labels/old.tif").exists()


@pytest.mark.parametrize("href", ["sandbox://demo/../../secret", "sandbox:///etc/passwd", "sandbox://.."])
def test_hrefs_stay_inside_the_world(href: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="would leave the sample world"):
        path_of(href, tmp_path)


def test_there_are_two_sizes() -> None:
    assert sorted(SIZES) == sorted(NAMES)
    with pytest.raises(Problem, match="no sample world 'huge'"):
        size_named("huge")


def test_items_and_collections_are_valid_stac(tiny_world: Path) -> None:
    items = json.loads((tiny_world / "items.json").read_text())["features"]
    assert {i["collection"] for i in items} == {
        "sentinel-2-l2a",
        "sentinel-1-rtc",
        "corine-land-cover",
        "dynamic-world",
    }
    assert len(items) == len(SCENES) + len(PLACES) + sum(place.europe for place in PLACES)
    for item in items:
        pystac.Item.from_dict(item, migrate=False).validate()
    for collection in json.loads((tiny_world / "collections.json").read_text()):
        pystac.Collection.from_dict(collection, migrate=False).validate()


def test_rasters_are_cogs_where_their_items_say(tiny_world: Path) -> None:
    items = json.loads((tiny_world / "items.json").read_text())["features"]
    for item in items[::5]:
        for asset in item["assets"].values():
            path = tiny_world.parent / asset["href"].removeprefix("sandbox://")
            with rasterio.open(path) as raster:
                assert raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
                assert raster.crs.to_epsg() == item["properties"]["proj:epsg"]
                assert list(raster.shape) == asset["proj:shape"]
                assert list(raster.transform)[:6] == asset["proj:transform"]
                assert np.allclose(raster.bounds, asset["proj:bbox"])


def test_optical_tiles_lie_on_the_60_m_lattice_and_radar_on_none() -> None:
    for scene in SCENES.values():
        south = scene.epsg // 100 == 327
        if scene.sensor == "s2":
            assert scene.west % 60 == 0
            assert scene.north % 60 == (40 if south else 0)
            assert scene.rows % 6 == scene.cols % 6 == 0
        else:
            assert scene.west % 10
            assert scene.north % 10


def test_tile_names_are_mgrs() -> None:
    """Corners of real tiles: 32TQR is at 699960 5100000, 37MEM at 499980 9200020 (their proj:transform)."""
    assert tile_name(32632, 699_960, 5_100_000) == "32TQR"
    assert tile_name(32737, 499_980, 9_200_020) == "37MEM"


def test_speckle_has_the_number_of_looks_and_neighbours_alike() -> None:
    speckle = radar.speckle(np.random.default_rng(1), (600, 600))
    assert speckle.mean() == pytest.approx(1, abs=0.01)
    assert speckle.mean() ** 2 / speckle.var() == pytest.approx(radar.ENL, rel=0.03)
    neighbours = np.corrcoef(speckle[:, :-1].ravel(), speckle[:, 1:].ravel())[0, 1]
    assert 0.2 < neighbours < 0.7
    far = np.corrcoef(speckle[:, :-9].ravel(), speckle[:, 9:].ravel())[0, 1]
    assert abs(far) < 0.02


@pytest.mark.parametrize(("cover", "place"), [(1, "boreal"), (5, "arid"), (3, "delta"), (8, "boreal"), (0, "delta")])
def test_classes_look_as_the_table_says(tiny_world: Path, cover: int, place: str) -> None:
    """Mean over a place's cloudless passes, inside patches and away from events, within what patches and haze make."""
    import scipy.ndimage

    land = ground(tiny_world, place)
    here = scipy.ndimage.binary_erosion(np.asarray(land.cover) == cover, iterations=2)
    for scar in build.scars_of(BY_NAME[place], TINY, land):
        here &= ~scar.mask
    red, radar_db, spread = [], [], []
    for scene in [s for s in SCENES.values() if s.place == place and s.epsg == BY_NAME[place].epsg]:
        rows = slice(int((land.north - scene.north + 5) // 10), None)
        cols = slice(int((scene.west + 5 - land.west) // 10), None)
        mine = here[rows, cols][: scene.rows, : scene.cols]
        if scene.sensor == "s2":
            classes = read(tiny_world, scene, "SCL").repeat(2, 0).repeat(2, 1)
            clear = mine & np.isin(classes, (4, 5, 6, 11))
            if clear.any():
                red.append(float((read(tiny_world, scene, "B04").astype(float) - scene.offset)[clear].mean()))
        else:
            power = read(tiny_world, scene, "vv")
            radar_db.append(float(10 * np.log10(power[mine & (power > 0)].mean())))
            spread.append(float((10 * np.log10(power[mine & (power > 0)])).std()))
    table = signatures()
    assert abs(np.mean(red) - table.mean[cover, 3]) < 0.9 * table.sd[cover, 3]
    # Speckle keeps the mean power; patches of some dB lift the mean of the power a little above that of the dB.
    assert abs(np.mean(radar_db) - table.vv[cover, 0]) < 1.0 + 0.6 * table.vv[cover, 1]
    # Within one scene and place pixels spread nearly as wide as over all the places the table was measured at.
    assert np.mean(spread) > 0.8 * table.vv[cover, 1]


def test_a_reprocessed_pass_differs_by_the_offset_alone(tiny_world: Path) -> None:
    old, new = passes("boreal", "s2", 2)
    assert (old.baseline, new.baseline, old.offset, new.offset) == ("03.01", "05.00", 0, 1000)
    for key in ("B04", "B11", "B01"):
        before, after = read(tiny_world, old, key), read(tiny_world, new, key)
        assert np.array_equal(remove_offset(after, 1000), before)
    assert read(tiny_world, new, "B04").min() >= 1001


def test_tiles_of_one_pass_see_the_same_clouds(tiny_world: Path) -> None:
    compared = 0
    for number in range(7):
        west, east = passes("delta", "s2", number)
        assert west.when == east.when
        overlap = round((west.bounds[2] - east.west) / 20)
        one, other = read(tiny_world, west, "SCL")[:, -overlap:], read(tiny_world, east, "SCL")[:, :overlap]
        both = (one > 0) & (other > 0) & (one != 7) & (other != 7)
        assert np.array_equal(one[both], other[both])
        compared += int(np.isin(one, (8, 9)).sum())
    assert compared > 0


def test_radar_has_unmarked_zeros_inside_its_footprint(tiny_world: Path) -> None:
    import shapely

    scene = passes("boreal", "s1", 1)[0]
    power = read(tiny_world, scene, "vv")
    assert (power == 0).mean() > 0.02
    assert (power == radar.NODATA).any()
    item = json.loads((tiny_world / f"items/sentinel-1-rtc/{scene.id}.json").read_text())
    outline = shapely.from_geojson(json.dumps(item["geometry"]))
    whole = shapely.box(*shapely.bounds(outline))
    assert outline.area < 0.95 * whole.area
    row = scene.rows // 2
    col = int(np.median(np.flatnonzero(power[row] == 0)))
    from pyproj import Transformer

    lon, lat = Transformer.from_crs(scene.epsg, 4326, always_xy=True).transform(
        scene.west + 10 * col, scene.north - 10 * row
    )
    assert shapely.contains_xy(outline, lon, lat)


@pytest.mark.parametrize(
    ("event", "band", "kind"), [("delta-flood-1", "B08", "flooded"), ("med-fire", "B08", "burned")]
)
def test_events_change_pixels_after_their_day_only(tiny_world: Path, event: str, band: str, kind: str) -> None:
    place = next(p for p in PLACES if event in {d.id for d in p.disasters})
    land = ground(tiny_world, place.name)
    scar = next(s for s in build.scars_of(place, TINY, land) if s.disaster.id == event)
    levels = {}
    for scene in [s for s in SCENES.values() if s.place == place.name and s.sensor == "s2" and s.epsg == place.epsg]:
        row, col = round((land.north - scene.north) / 10), round((scene.west - land.west) / 10)
        mask = scar.mask[row : row + scene.rows, col : col + scene.cols]
        classes = read(tiny_world, scene, "SCL").repeat(2, 0).repeat(2, 1)
        seen = mask & np.isin(classes, (4, 5, 6))
        age = (scene.when.date() - scar.disaster.start).days
        if seen.sum() > 300 and age < 60:
            levels[age] = float(np.median((read(tiny_world, scene, band).astype(int) - scene.offset)[seen]))
    before = [v for age, v in levels.items() if age < 0]
    after = [levels[age] for age in sorted(levels) if 0 <= age <= 15]
    assert before
    assert after
    assert max(after) < 0.75 * min(before)
    assert abs(after[0] - signatures().mean[KIND[kind], 7]) < signatures().sd[KIND[kind], 7] * 1.5


@pytest.mark.parametrize(
    ("name", "place"),
    [("dynamic-world", p) for p in PLACES] + [("corine", p) for p in PLACES if p.europe],
    ids=lambda v: getattr(v, "name", v),
)
def test_label_maps_agree_with_the_ground_up_to_a_little(tiny_world: Path, name: str, place: Any) -> None:
    """Against the truth table, cell by cell: Dynamic World within 4 %, CORINE's hectares within 9 % of the area."""
    from pyproj import Transformer

    from harmonize.crosswalk import parse_crosswalk
    from harmonize.vocabulary import LAND_COVER
    from pipeline.grid import parse_cell

    crosswalk = parse_crosswalk((ROOT / f"manifests/labels/{name}.csv").read_text(), name)
    file = tiny_world / f"labels/{name}{'-land-cover' if name == 'corine' else ''}-{place.name}.tif"
    with rasterio.open(file) as raster:
        codes, inverse, epsg = raster.read(1), ~raster.transform, raster.crs.to_epsg()
    classes = {
        code: crosswalk.classify(str(code))
        for code in np.unique(codes).tolist()
        if code not in (0, 255) or name != "corine"
    }
    errors = []
    for row in pq.read_table(tiny_world / "truth_cells.parquet").to_pylist():
        if row["place"] != place.name:
            continue
        cell = parse_cell(row["cell"])
        west, south, east, north = cell.bounds
        x, y = np.meshgrid(np.arange(west + 5, east, 10), np.arange(north - 5, south, -10))
        c, r = inverse * Transformer.from_crs(cell.epsg, epsg, always_xy=True).transform(x, y)
        found = codes[r.astype(int), c.astype(int)]
        for k, class_ in enumerate(LAND_COVER):
            share = sum(float((found == code).mean()) for code, named in classes.items() if named == class_)
            errors.append(abs(share - row["cover"][k]))
    assert np.mean(errors) < (0.035 if name == "corine" else 0.012)
    assert np.quantile(errors, 0.95) < (0.14 if name == "corine" else 0.04)


def test_the_demo_region_is_about_this_world() -> None:
    """Places, events, days and splits of manifests/regions/demo.toml; each kind in blocks of train and of test."""
    import shapely

    from pipeline.place import area_of

    region = load_region(ROOT / "manifests/regions/demo.toml")
    squares = shapely.union_all([place_outline(place, SIZES["demo"]) for place in PLACES])
    assert shapely.symmetric_difference(area_of(region), squares).area < 1e-6 * squares.area
    drawn = {d.id: (place, d) for place in PLACES for d in place.disasters}
    assert {e.id for e in region.events} == set(drawn)
    shares = SplitShares(region.split.train, region.split.val, region.split.test)
    kinds: dict[str, set[str]] = {}
    for event in region.events:
        place, disaster = drawn[event.id]
        assert (event.kind, event.start) == (disaster.kind, disaster.start)
        assert (event.analysed is None) == (disaster.analysed == "none")
        west, south, east, north = place.bounds(SIZES["demo"])
        middle = west + disaster.at[0] * (east - west), south + disaster.at[1] * (north - south)
        split = spatial_split(block_of(place.epsg, *middle, region.split.block_km), shares)
        kinds.setdefault(event.kind, set()).add(split)
    assert all({"train", "test"} <= splits for splits in kinds.values()), kinds
    assert len(region.events) == 12
    days = [s.when.date() for s in scenes_of(SIZES["demo"])]
    assert region.start <= min(days) <= max(days) <= region.end


def test_the_api_and_the_files_are_served(tiny_world: Path) -> None:
    from pystac_client import Client

    with range_server(tiny_world.parent) as files, serving("tiny", tiny_world.parent, files.address) as address:
        client = Client.open(address)
        search = client.search(
            collections=["sentinel-1-rtc"], datetime="2021-05-01/2021-06-30", bbox=[19, 60, 22, 70], limit=1
        )
        found = {item.id: item for item in search.items()}
        assert set(found) == {s.id for n in (0, 1, 2) for s in passes("boreal", "s1", n)}
        scene = passes("boreal", "s1", 0)[0]
        with rasterio.open(found[scene.id].assets["vv"].href) as raster:
            part = raster.read(1, window=((100, 110), (200, 220)))
        assert np.array_equal(part, read(tiny_world, scene, "vv")[100:110, 200:220])
        assert all(method in ("GET", "HEAD") for method, _, _ in files.requests)
        assert any(span.startswith("bytes=") for _, _, span in files.requests)


def test_a_proxy_is_not_asked_for_the_sample_world(tiny_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(server, "START_SECONDS", 5)
    monkeypatch.setattr("pipeline.stac_io.PATIENCE", Patience(tries=1))
    source = known_sources()["sandbox-sentinel-1-rtc"].model_copy(update={"api": "sandbox:tiny"})
    with serving("tiny", tiny_world.parent) as address:
        assert search(source, address, [Query((19, 60, 22, 70))], "here").items


class Other(BaseHTTPRequestHandler):
    """Another program that has taken the port."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"links": [{"rel": "self", "href": "http://127.0.0.1:1/"}]}')

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def test_an_answer_of_another_program_is_not_ours(tiny_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        taken = types.SimpleNamespace(bind=lambda _: None, getsockname=lambda: other.server_address, close=lambda: None)
        monkeypatch.setattr(server, "socket", types.SimpleNamespace(socket=lambda: taken))
        with pytest.raises(Problem, match="does not start"), serving("tiny", tiny_world.parent):
            pass
        other.shutdown()


CHILD = """
import sys, time
from pathlib import Path
from pipeline.sandbox.ranges import range_server
from pipeline.sandbox.server import serving
with range_server(Path(sys.argv[1])), serving("tiny", Path(sys.argv[1])) as address:
    print(address, flush=True)
    if sys.argv[2] == "stay":
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_servers_end_with_the_process_that_wants_them(
    number: signal.Signals | None, tiny_world: Path, tmp_path: Path
) -> None:
    """The whole process group gets Ctrl-C, as from a terminal, or a scheduler's SIGTERM; kill -9 hits the parent alone."""
    stay = "leave" if number is None else "stay"
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tiny_world.parent), stay],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith("http://127.0.0.1:")
    servers = psutil.Process(parent.pid).children(recursive=True) if number else []
    if number:
        assert len(servers) == 4, "two guards, rustac and the files' server"
        assert len(list(tmp_path.iterdir())) == 2
        (os.kill if number == signal.SIGKILL else os.killpg)(parent.pid, number)
    parent.communicate(timeout=30)
    _, alive = psutil.wait_procs(servers, timeout=10)
    assert not alive
    assert not list(tmp_path.iterdir())
