"""Catalogues on disk in their three forms, real items with their quirks, and duplicates of one pass."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from conftest import REAL
from world import World

from harmonize.problem import Problem
from pipeline import runner
from pipeline.catalog import read_items
from pipeline.item import baseline, footprint, orbit, platform, raster_place, tile, when
from pipeline.scenes import _without_duplicates
from pipeline.source import Source


def scenes(manifest: Path, out: Path) -> list[dict[str, Any]]:
    region, store = runner.load(manifest, str(out))
    runner.run_upto(region, store, "chips", quiet=True)
    return pq.read_table(out / region.name / "scenes.parquet").to_pylist()


def use(manifest: Path, items: str) -> None:
    manifest.write_text(manifest.read_text().replace('items = "catalog/s2/*.json"', f'items = "{items}"'))


def collected(world: World) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted((world.root / "catalog/s2").glob("*.json"))]


def test_an_item_collection_is_as_good_as_item_files(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200)
    manifest = world.write()
    expected = scenes(manifest, tmp_path / "a")
    features = collected(world)
    for item in features:
        for asset in item["assets"].values():
            asset["href"] = asset["href"].removeprefix("../../")
    (tmp_path / "all.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    use(manifest, "all.json")
    assert scenes(manifest, tmp_path / "b") == expected


def test_stac_geoparquet_is_as_good_as_item_files(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))
    manifest = world.write()
    expected = scenes(manifest, tmp_path / "a")
    rows = []
    for item in collected(world):
        row = {k: item[k] for k in ("type", "stac_version", "id", "collection", "links")}
        row["assets"] = {
            k: {"href": a["href"].removeprefix("../../"), "title": None} for k, a in item["assets"].items()
        }
        row["geometry"] = shapely.from_geojson(json.dumps(item["geometry"])).wkb
        row["bbox"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), item["bbox"], strict=True))
        row |= {**item["properties"], "datetime": dt.datetime.fromisoformat(item["properties"]["datetime"])}
        rows.append(row)
    rows[1]["assets"]["extra"] = {"href": "x.tif", "title": "only one item has it"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    use(manifest, "items.parquet")
    assert scenes(manifest, tmp_path / "b") == expected


def test_items_of_another_collection_are_told(tmp_path: Path) -> None:
    manifest = World(tmp_path, size_m=1200).write()
    text = manifest.read_text()
    manifest.write_text(text.replace('items = "catalog/s2/*.json"', 'items = "catalog/s2/*.json"\ncollection = "l2a"'))
    with pytest.raises(Problem, match="no item of collection 'l2a'") as caught:
        scenes(manifest, tmp_path / "a")
    assert "collections there: s2" in caught.value.fix


def test_without_proj_the_header_is_asked(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200)
    manifest = world.write()
    expected = scenes(manifest, tmp_path / "a")
    for path in (tmp_path / "catalog").rglob("*.json"):
        item = json.loads(path.read_text())
        item["properties"] = {k: v for k, v in item["properties"].items() if not k.startswith("proj:")}
        path.write_text(json.dumps(item))
    assert scenes(manifest, tmp_path / "b") == expected


ITEMS = REAL / "stac_items"
REAL_ITEMS = {
    # file: platform orbit datetime tile baseline; then the reference asset, EPSG and raster bounds where the item tells
    "planetary_computer_sentinel-2-l2a_S2A_20190101_T60VUK": (
        "sentinel-2a descending 2019-01-01T00:00:01.024000 60VUK 02.12", "B02", 32660, [300000, 6390240, 409800, 6500040],
    ),
    "planetary_computer_sentinel-2-l2a_S2B_T06VVN_2019": (
        "sentinel-2b descending 2019-06-29T21:25:29.024000 06VVN 02.12", "B02", 32606, [399960, 6690240, 509760, 6800040],
    ),
    "planetary_computer_sentinel-2-l2a_latest": (
        "sentinel-2b ascending 2024-04-19T09:55:49.024000 47XML 05.10", "B02", 32647, [399960, 8990220, 509760, 9100020],
    ),
    "pc_collection_sentinel-2-l2a-pc": (
        "sentinel-2b ascending 2024-04-19T09:55:49.024000 46XER 05.10", "B02", 32646, [499980, 8990220, 609780, 9100020],
    ),
    "pc_s2_35MNM_2020_jun_jul": (
        "sentinel-2a descending 2020-06-01T08:06:11.024000 35MNM 02.12", "B02", 32735, [499980, 9090220, 609780, 9200020],
    ),
    "earthsearch_v0_sentinel-s2-l2a-cogs": (
        "sentinel-2a None 2020-07-14T11:55:52 28QCH 02.14", "B02", 32628, [300000, 2190240, 409800, 2300040],
    ),
    "earthsearch_v1_sentinel-2-l2a_S2A_13TDE_20231008": (
        "sentinel-2a None 2023-10-08T18:02:55.276000 13TDE 05.09", "blue", 32613, [399960, 4390200, 509760, 4500000],
    ),
    "earthsearch_v1_sentinel-2-c1-l2a_S2B_T38XNF_20250422": (
        "sentinel-2b None 2025-04-22T09:19:42.556000 38XNF 05.11", "blue", 32638, [499980, 7990200, 609780, 8100000],
    ),
    "cdse_sentinel-2-l2a": (
        "sentinel-2a descending 2022-02-17T18:34:31.024000 13VEK 05.10", "B02_10m", 32613, [499980, 6890220, 609780, 7000020],
    ),
    "planetary_computer_sentinel-1-rtc": (
        "sentinel-1a descending 2024-04-19T04:59:10.436706 None None", "vv", 32633, [373180, 3295190, 648440, 3424680],
    ),
    "pc_collection_sentinel-1-rtc-pc": (
        "sentinel-1a descending 2024-04-19T04:58:01.720055 None None", "vv", 32633, None,
    ),
    "planetary_computer_sentinel-1-grd_EW": ("sentinel-1a ascending 2022-05-05T23:53:45.981844 None None", None, None, None),
    "planetary_computer_sentinel-1-grd_IW_raw": ("sentinel-1a descending 2023-06-28T21:07:18.488895 None None", None, None, None),
    "cdse_sentinel-1-grd_IW_cog": ("sentinel-1a ascending 2024-06-07T00:06:53.347125 None None", None, None, None),
    "stactools_sentinel1_grd_IW": ("sentinel-1a ascending 2021-08-09T17:40:05.653288 None None", None, None, None),
    "planetary_computer_io-lulc-annual-v02": ("unknown None 2023-01-01T00:00:00 None None", "data", 32660, [353310, 7097020, 646690, 7991500]),
    "pc_collection_io-lulc-annual-v02-pc": ("unknown None 2023-01-01T00:00:00 None None", "data", 32660, None),
}  # fmt: skip
BROKEN_ITEMS = {
    "planetary_computer_sentinel-1-rtc_source_item": "geometry is empty or not in degrees",
    "earthsearch_v1_sentinel-2-c1-l2a_properties_only": "lacks geometry",
}


def recorded(name: str) -> list[dict[str, Any]]:
    found = list(ITEMS.glob(f"{name}.*json"))
    if not found:
        pytest.skip("the recorded items are not beside this checkout (../shared/real)")
    return read_items(Source(kind="labels", crosswalk="x", items=str(found[0])), "here")


@pytest.mark.parametrize("name", REAL_ITEMS)
def test_real_items_are_understood(name: str) -> None:
    said, key, epsg, bounds = REAL_ITEMS[name]
    one = recorded(name)[0]
    p = one["properties"]
    then = when(one).replace(tzinfo=None).isoformat()
    s2 = "sentinel-2" in platform(p)
    assert f"{platform(p)} {orbit(p)} {then} {tile(one)} {baseline(one) if s2 else None}" == said
    west, south, east, north = footprint(one).bounds
    assert -180 <= west < east <= 180
    assert -90 <= south < north <= 90
    if key:
        band = "B02" if s2 else "VV"
        source = Source.model_construct(sensor="s2" if s2 else "s1", assets={band: key})
        found, box = raster_place(one, source, "", None, None)  # type: ignore[arg-type]  no header is read
        assert found == epsg
        assert bounds is None or box == bounds


@pytest.mark.parametrize("name", BROKEN_ITEMS)
def test_real_items_that_cannot_be_used_are_told(name: str) -> None:
    with pytest.raises(Problem, match=BROKEN_ITEMS[name]) as caught:
        footprint(recorded(name)[0])
    assert name in caught.value.where
    assert caught.value.fix


def test_footprints_over_the_antimeridian_are_cut_there() -> None:
    for one in recorded("pc_collection_io-lulc-annual-v02-pc"):
        shape = footprint(one)
        assert one["bbox"][0] == -180, "the catalogue's own box goes around the Earth"
        assert shapely.box(170, -1, 180, 80).union(shapely.box(-180, -1, -170, 80)).covers(shape), one["id"]
        assert 8 * 5 < shape.area < 8 * 14, "about 8 degrees high, 6 to 10 wide"


@pytest.mark.parametrize(
    ("ring", "area"),
    [
        ([[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]], 2),
        ([[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]], 360 * 180),
        ([[-179.9, -60], [179.9, -60], [179.9, 80], [-179.9, 80], [-179.9, -60]], 359.8 * 140),
        ([[10, 0], [11, 0], [11, 1], [10, 1], [10, 0]], 1),
    ],
    ids=["scene", "world", "nearly the world", "plain"],
)
def test_only_narrow_footprints_are_cut(ring: list[list[float]], area: float) -> None:
    one = {"id": "x", "_file": "y", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    assert footprint(one).area == pytest.approx(area)


def test_every_recorded_item_is_looked_at() -> None:
    if not ITEMS.exists():
        pytest.skip("the recorded items are not beside this checkout (../shared/real)")
    assert {p.stem for p in ITEMS.iterdir()} - {"INDEX"} == set(REAL_ITEMS) | set(BROKEN_ITEMS)


def test_times_with_a_space_or_no_zone() -> None:
    for text in ("2024-04-19 04:59:04.220006+00:00", "2024-04-19T04:59:04.220006", "2024-04-19T04:59:04.220006Z"):
        item = {"id": "x", "_file": "y", "properties": {"datetime": None, "start_datetime": text}}
        assert when(item) == dt.datetime(2024, 4, 19, 4, 59, 4, 220006, tzinfo=dt.UTC)
    with pytest.raises(Problem, match="is not a time"):
        when({"id": "x", "_file": "y", "properties": {"datetime": "yesterday"}})


def row(
    scene: str, baseline: str, generated: str, box: tuple[float, ...] = (0, 0, 1, 1), minutes: int = 0
) -> dict[str, Any]:
    then = dt.datetime(2020, 6, 1, 10, minutes, tzinfo=dt.UTC)
    return {
        "scene": scene, "sensor": "s2", "platform": "sentinel-2a", "tile": "32TQR", "datetime": then, "baseline": baseline,
        "generated": generated, "geometry": shapely.box(*box).wkb, "epsg": 32632, "west": 0, "north": 0,
    }  # fmt: skip


def test_of_a_reprocessed_pass_the_highest_baseline_stays() -> None:
    from collections import Counter

    dropped: Counter[str] = Counter()
    rows = [
        row("a", "02.12", "2020-06-02"),
        row("b", "05.00", "2021-01-01", minutes=1),
        row("c", "05.00", "2023-01-01"),
    ]
    assert [r["scene"] for r in _without_duplicates(rows, dropped)] == ["c"]
    assert dropped == {"duplicate": 2}
    halves = [row("a", "05.00", "x", (0, 0, 0.5, 1)), row("b", "05.00", "x", (0.5, 0, 1, 1))]
    assert len(_without_duplicates(halves, dropped)) == 2, "a split tile's halves both stay"
    later = [row("a", "05.00", "x"), row("b", "05.00", "x", minutes=40)]
    assert len(_without_duplicates(later, dropped)) == 2
