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
from pipeline.item import tile, when
from pipeline.scenes import _without_duplicates


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


@pytest.mark.parametrize(
    "name", sorted(p.name for p in (REAL / "stac_items").glob("*sentinel-2-l2a*.json")) or ["none"]
)
def test_properties_of_real_items_are_understood(name: str) -> None:
    path = REAL / "stac_items" / name
    if not path.exists():
        pytest.skip("the recorded items are not beside this checkout (../shared/real)")
    item = json.loads(path.read_text())
    if "properties" not in item or "datetime" not in item["properties"]:
        pytest.skip(f"{name} is no item")
    item["_file"] = name
    assert dt.datetime(2015, 6, 1, tzinfo=dt.UTC) < when(item) < dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    found = tile(item["properties"])
    assert found is None or len(found) == 5


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
