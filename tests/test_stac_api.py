"""Searching STAC APIs: what is asked, patience with servers in trouble, refusals in words, and a real server."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import json
import re
import socket
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from stub_stac import Fault, StubStac, body, half, item, reset, send, stall, status
from world import World

from harmonize.problem import Problem
from pipeline import runner, stac_api
from pipeline.catalog import PROPERTIES
from pipeline.item import baseline, day_shown, platform, tile
from pipeline.label_search import label_items
from pipeline.receipt import read_receipt
from pipeline.sandbox import VERSION
from pipeline.scenes import _rows
from pipeline.source import Source
from pipeline.stac_api import Found, Query, boxes_of, monthly, search
from pipeline.stac_io import Patience
from pipeline.work import Work

WHOLE = [Query((11.0, 45.0, 12.0, 46.0), dt.date(2020, 6, 1), dt.date(2020, 6, 30))]


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited, without waiting."""
    found: list[float] = []
    monkeypatch.setattr("pipeline.stac_io.PATIENCE", Patience(read_s=5, sleep=found.append))
    return found


def find(stub: StubStac, queries: list[Query] = WHOLE, collection: str = "aa") -> Found:
    return search(source(stub.url, collection), stub.url, queries, "region.toml, key 'imagery[0].source'")


def source(api: str, collection: str = "aa") -> Source:
    return Source(kind="labels", api=api, collection=collection, asset="data", crosswalk="x")


def ids(found: Found) -> list[str]:
    return [i["id"] for i in found.items]


def refusal(stub: StubStac, queries: list[Query] = WHOLE, collection: str = "aa") -> Problem:
    with pytest.raises(Problem) as caught:
        find(stub, queries, collection)
    assert caught.value.where == "region.toml, key 'imagery[0].source'"
    assert caught.value.fix
    return caught.value


# What is asked


def test_queries_are_cells_and_months() -> None:
    queries = monthly(shapely.box(10.5, 45.2, 12, 45.7), dt.date(2019, 11, 20), dt.date(2020, 2, 3))
    assert [q.box for q in queries[::4]] == [(10.5, 45.2, 11.0, 45.7), (11.0, 45.2, 12.0, 45.7)]
    assert [q.datetime for q in queries[:4]] == [
        "2019-11-20T00:00:00Z/2019-12-01T00:00:00Z",
        "2019-12-01T00:00:00Z/2020-01-01T00:00:00Z",
        "2020-01-01T00:00:00Z/2020-02-01T00:00:00Z",
        "2020-02-01T00:00:00Z/2020-02-04T00:00:00Z",
    ]


def test_boxes_cover_the_area_and_no_more() -> None:
    triangle = shapely.Polygon([(0, 0), (3, 0), (0, 3)])
    boxes = shapely.union_all([shapely.box(*b) for b in boxes_of(triangle)])
    assert shapely.covers(boxes, triangle)
    assert len(boxes_of(triangle)) == 6, "cells beyond the long side are not asked for"
    sides = shapely.union(shapely.box(179.5, -1, 180, 1), shapely.box(-180, -1, -179.5, 1))
    assert boxes_of(sides) == [
        (-180, -1, -179.5, 0), (-180, 0, -179.5, 1), (179.5, -1, 180, 0), (179.5, 0, 180, 1),
    ]  # fmt: skip


def test_many_islands_in_a_cell_are_one_box() -> None:
    corners = np.random.default_rng(3).uniform((10.1, 45.1), (11.8, 45.8), (2000, 2))
    islands = shapely.union_all(shapely.box(*corners.T, *(corners.T + 0.001)))
    boxes = boxes_of(islands)
    assert len(boxes) == 2, "one per cell"
    assert shapely.covers(shapely.union_all([shapely.box(*b) for b in boxes]), islands)
    assert (boxes[0][0], boxes[1][2]) == pytest.approx(islands.bounds[::2], abs=2e-6), (
        "and no larger than what it holds"
    )


def test_only_collection_box_dates_and_limit_are_asked_by_post() -> None:
    with StubStac([item("a")]) as stub:
        find(stub)
        assert stub.asked == [
            {
                "collections": ["aa"], "bbox": [11.0, 45.0, 12.0, 46.0], "limit": stac_api.PAGE_ITEMS,
                "datetime": "2020-06-01T00:00:00Z/2020-07-01T00:00:00Z",
            }
        ]  # fmt: skip


def test_pages_are_followed_by_post_and_items_come_once() -> None:
    items = [item(f"i{k:02d}") for k in range(25)]
    west, east = Query((11.0, 45.0, 11.5, 46.0), *_june()), Query((11.5, 45.0, 12.0, 46.0), *_june())
    with StubStac(items, page_size=10) as stub:
        found = find(stub, [west, east])
        assert ids(found) == [f"i{k:02d}" for k in range(25)]
        assert (found.queries, found.pages) == (2, 6)
        assert stub.asked[1]["bbox"] == [11.0, 45.0, 11.5, 46.0], "a next link with `merge` keeps the query"
    assert found.note("s2") == "s2: 25 items from 2 queries, 6 pages"


def _june() -> tuple[dt.date, dt.date]:
    return dt.date(2020, 6, 1), dt.date(2020, 6, 30)


def test_the_last_second_of_a_month_is_not_lost() -> None:
    with StubStac([item("late", "2020-06-30T23:59:59.700000Z")]) as stub:
        queries = monthly(shapely.box(11.2, 45.2, 11.4, 45.4), dt.date(2020, 6, 1), dt.date(2020, 7, 31))
        assert ids(find(stub, queries)) == ["late"]


def test_a_cut_answer_without_next_page_is_asked_again_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac_api, "PAGE_ITEMS", 10)
    items = [item(f"i{k:02d}", f"2020-06-{k + 1:02d}T10:00:00Z") for k in range(25)]
    with StubStac(items, hide_next=True) as stub:
        assert len(find(stub).items) == 25
    with StubStac(items, hide_next=True, matched=True, page_size=7) as stub:
        assert len(find(stub).items) == 25, "the server's own limit is below ours"
    crowd = [item(f"i{k:02d}") for k in range(25)]
    with StubStac(crowd, hide_next=True, matched=True) as stub:
        assert "it gives 10 items, has more, and no next page" in str(refusal(stub))


def test_relative_hrefs_start_at_the_item_and_links_are_not_kept() -> None:
    one, two = item("a", assets={"data": {"href": "./b/c.tif"}}), item("b", assets={"data": {"href": "/data/x.tif"}})
    one["links"] = [{"rel": "self", "href": "https://example.org/items/a"}]
    with StubStac([one, two]) as stub:
        found = find(stub).items
    assert [i["assets"]["data"]["href"] for i in found] == ["https://example.org/items/b/c.tif", "/data/x.tif"]
    assert "links" not in found[0]
    assert found[0]["_file"] == f"{stub.url}, collection aa"


def test_of_an_item_only_what_is_read_is_held() -> None:
    long = "x" * 10_000
    asset = {"href": "https://example.org/a.tif", "title": long, "proj:shape": [1, 1]}
    one = item("a", assets={"data": asset, "preview": asset | {"href": long}}, stac_extensions=[long])
    one["properties"] |= {"s2:mean_solar_zenith": long, "platform": "sentinel-2a"}
    with StubStac([one]) as stub:
        (found,) = find(stub).items
    assert found == {
        "id": "a", "collection": "aa", "geometry": one["geometry"], "_file": f"{stub.url}, collection aa",
        "properties": {"datetime": "2020-06-01T10:00:00Z", "platform": "sentinel-2a"},
        "assets": {"data": {"href": "https://example.org/a.tif"}, "preview": {}},
    }  # fmt: skip
    radar = Source(kind="imagery", sensor="s1", api="x", collection="aa", assets={"VV": "data", "VH": "preview"})
    with StubStac([one]) as stub:
        (found,) = search(radar, stub.url, WHOLE, "here").items
    assert [len(asset) for asset in found["assets"].values()] == [2, 1], "the reference band's place too"


class Read(dict[str, Any]):
    """Fields that remember what was asked of them."""

    asked: set[str]

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __or__(self, other: Any) -> Any:
        found = Read(super().__or__(other))
        found.asked = self.asked
        return found


def test_what_is_held_of_an_item_is_all_that_is_read(tmp_path: Path) -> None:
    Read.asked = set()
    region, store = runner.load(World(tmp_path, size_m=1200).write(), str(tmp_path / "out"))
    whole = json.loads((tmp_path / "catalog/s2/S2-0.json").read_text())
    whole |= {"properties": Read(whole["properties"]), "_file": "here"}
    for asset in whole["assets"].values():
        asset["href"] = str(tmp_path / asset["href"].removeprefix("../../"))
    assert _rows([whole], region.imagery[0], Work(region, store, {}), Counter(), [])
    whole["properties"] = Read({"start_datetime": "2020-01-01", "end_datetime": "2021-01-01"})
    day_shown(whole)
    whole["properties"] = Read()
    for read in (baseline, tile, lambda whole: platform(whole["properties"])):
        read(whole)
    assert Read.asked == PROPERTIES


# Patience


@pytest.mark.parametrize(
    "fault",
    [*(status(c) for c in (429, 500, 502, 503, 504)), reset, half],
    ids=["429", "500", "502", "503", "504", "reset", "half"],
)
def test_a_fault_that_passes_is_waited_out(fault: Fault, waits: list[float]) -> None:
    with StubStac([item("a")], faults=[fault] * 3) as stub:
        assert ids(find(stub)) == ["a"]
        assert len(stub.asked) == 4
    assert waits == [1, 2, 4], "exponential"


def test_a_stalled_answer_is_given_up_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stac_io.PATIENCE", Patience(read_s=0.1, sleep=lambda s: None))
    with StubStac([item("a")], faults=[stall(0.3)]) as stub:
        assert ids(find(stub)) == ["a"]
        assert len(stub.asked) == 2
    with StubStac([item("a")], faults=[stall(0.3)] * 20) as stub:
        assert "no answer within 0.1 s; tried 8 times" in str(refusal(stub))


def test_next_pages_are_tried_again_too() -> None:
    class Second(StubStac):
        def post(self, handler: Any) -> None:
            if len(self.asked) == 1 and not self.faults:
                self.faults = [status(503), reset]
            super().post(handler)

    with Second([item(f"i{k}") for k in range(5)], page_size=3) as stub:
        assert ids(find(stub)) == ["i0", "i1", "i2", "i3", "i4"]
        assert len(stub.asked) == 4


def test_retry_after_is_honoured_in_seconds_and_as_a_date(waits: list[float]) -> None:
    date = email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90), usegmt=True)
    faults = [status(429, Retry_After="23"), status(503, Retry_After=date), status(429, Retry_After="soon")]
    with StubStac([item("a")], faults=faults) as stub:
        assert ids(find(stub)) == ["a"]
    assert waits[0] == 23
    assert 85 < waits[1] <= 90
    assert waits[2] == 4, "nonsense is not honoured"


def test_a_wait_beyond_the_budget_ends_it(waits: list[float]) -> None:
    with StubStac([item("a")], faults=[status(429, Retry_After="86400")] * 2) as stub:
        problem = refusal(stub)
    assert f"does not answer: {stub.url}/search (HTTP 429" in problem.what
    assert "asks to wait for 1440 minutes" in problem.what
    assert waits == []


def test_the_budget_is_for_all_tries_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stac_io.PATIENCE", Patience(first_wait_s=0.05, budget_s=0.2, tries=100))
    with StubStac([item("a")], faults=[status(503)] * 100) as stub:
        started = time.monotonic()
        problem = refusal(stub)
    assert time.monotonic() - started < 1
    assert re.search(r"HTTP 503 .*; tried [2-4] times", problem.what)
    assert problem.code == 1, "an outage is no mistake of a person's"


def test_an_api_that_is_not_there_is_told_soon(waits: list[float]) -> None:
    with pytest.raises(Problem) as caught:
        search(source("x"), "http://user:secret@127.0.0.1:9/v1?key=secret", WHOLE, "here")
    assert (
        caught.value.what == "the STAC API does not answer: http://127.0.0.1:9/v1 (connection refused; tried 3 times)"
    )
    assert "secret" not in str(caught.value)
    assert waits == [1, 2]


# Refusals


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (body('{"type": "FeatureColl'), "broken JSON came"),
        (body("[1, 2]"), "the answer is no JSON object"),
        (body('{"detail": "something else"}'), "a page of items has no list of features"),
        (body('{"features": [1]}'), "a page of items has no list of features"),
        (status(400, '{"code": "Bad", "description": "bbox is  odd, see https://x/y?sig=abc"}'), "(HTTP 400: bbox is odd, see https://x/y)"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_at_once(fault: Fault, words: str, waits: list[float]) -> None:
    with StubStac([item("a")], faults=[fault]) as stub:
        problem = refusal(stub)
    assert words in problem.what
    assert f"{stub.url}/search" in problem.what
    assert waits == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (body("<html>log in</html>", "text/html"), "a web page came instead of JSON"),
        (body("  <!doctype html><p>log in"), "a web page came instead of JSON"),
        (status(403, "<html>denied</html>"), "(HTTP 403: a web page)"),
        (status(404, ""), "(HTTP 404: Not Found)"),
    ],
)
def test_a_refusal_of_a_server_that_answered_well_is_tried_three_times(
    fault: Fault, words: str, waits: list[float]
) -> None:
    with StubStac([item("a")], faults=[fault] * 2) as stub:
        assert ids(find(stub)) == ["a"], "a proxy or a restart was in between"
    assert waits == [1, 2]
    with StubStac([item("a")], faults=[fault] * 9) as stub:
        problem = refusal(stub)
        assert len(stub.asked) == 3
    assert words in problem.what
    assert f"{stub.url}/search" in problem.what


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_search_is_not_followed_as_a_get_without_its_body(code: int, waits: list[float]) -> None:
    class Moved(StubStac):
        def get(self, handler: Any) -> None:
            if handler.path == "/moved?key=S3CRET":
                send(handler, json.dumps({"features": self.items, "links": []}).encode())
            else:
                super().get(handler)

    with Moved([item("a"), item("far", box=(20, 45, 21, 46))]) as stub:
        stub.faults = [status(code, Location=f"{stub.url}/moved?key=S3CRET")]
        if code in (307, 308):
            assert ids(find(stub)) == ["a"], "posted again"
            return
        problem = refusal(stub)
    assert f"sends a search elsewhere: {stub.url}/search (HTTP {code})" in problem.what
    assert problem.fix.endswith(f"{stub.url}/moved")
    assert waits == []


def test_a_server_that_repeats_a_page_for_ever_is_left() -> None:
    with StubStac([item("a"), item("b")], endless=True) as stub:
        assert "the same page again and again (page 4" in refusal(stub).what
        assert len(stub.asked) == 4


def test_items_of_other_collections_are_left_out_and_told() -> None:
    other = [item(f"o{k}", collection="bb") for k in range(3)]
    unnamed = item("unnamed")
    del unnamed["collection"]
    with StubStac([item("a"), unnamed, *other], obey=False) as stub:
        found = find(stub)
    assert ids(found) == ["a", "unnamed"]
    assert found.note("s2").endswith("; warning: the API also sent 3 of 'bb', left out")


def test_an_unknown_collection_names_the_near_one() -> None:
    with StubStac(collections=("sentinel-2-l2a", "naip")) as stub:
        problem = refusal(stub, collection="sentinel2-l2a")
    assert problem.what == f"the STAC API has no collection 'sentinel2-l2a': {stub.url}"
    assert problem.fix == "did you mean 'sentinel-2-l2a'?"
    assert stub.asked == []


def test_more_items_than_a_region_can_want(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac_api, "MAX_ITEMS", 3)
    with StubStac([item(f"i{k}") for k in range(5)]) as stub:
        assert "more than 3 items of 'aa'" in refusal(stub).what


@pytest.mark.parametrize(
    ("landing", "words"),
    [
        ({"links": []}, "its landing page has no search link"),
        ({"type": "Feature", "stac_version": None}, "this is no landing page of a STAC API"),
        ({"type": "Banana"}, "this is no landing page of a STAC API"),
    ],
)
def test_a_page_that_is_no_landing_page(landing: dict[str, Any], words: str) -> None:
    with StubStac([item("a")], landing=landing) as stub:
        assert words in refusal(stub).what


def test_servers_that_forget_their_conformance_classes_are_searched() -> None:
    with StubStac([item("a")], landing={"conformsTo": []}) as stub:
        assert ids(find(stub)) == ["a"]


# A region over an API


def served(world: World, url: str) -> Path:
    """The world's manifest with its two imagery sources at an API."""
    manifest = world.write()
    text = manifest.read_text()
    for kind in ("s1", "s2"):
        text = text.replace(f'items = "catalog/{kind}/*.json"', f'api = "{url}"\ncollection = "{kind}"')
    manifest.write_text(text)
    return manifest


def collected(world: World, absolute: bool = True) -> list[dict[str, Any]]:
    """The world's items as an API holds them."""
    items = [json.loads(p.read_text()) for p in sorted((world.root / "catalog").rglob("*.json"))]
    for one in items:
        for asset in one["assets"].values():
            asset["href"] = str(world.root / asset["href"].removeprefix("../../"))
    return items


def scenes(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "tiny/scenes.parquet").to_pylist()


def build(manifest: Path, out: Path) -> None:
    region, store = runner.load(manifest, str(out))
    runner.run_upto(region, store, "scenes", quiet=True)


def test_an_api_gives_the_scenes_of_the_catalogue(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))
    build(world.write(), tmp_path / "disk")
    with StubStac(collected(world), collections=("s1", "s2")) as stub:
        build(served(world, stub.url), tmp_path / "api")
        assert len(stub.asked) == 2 * 12, "one cell, twelve months, two sources"
        build(tmp_path / "tiny.toml", tmp_path / "api")
        assert len(stub.asked) == 24, "what is done is not asked again"
    assert scenes(tmp_path / "api") == scenes(tmp_path / "disk")
    _, store = runner.load(tmp_path / "tiny.toml", str(tmp_path / "api"))
    receipt = read_receipt(store, "scenes")
    assert receipt
    assert receipt.notes == (
        "s2-here: 2 items from 12 queries, 12 pages",
        "s1-here: 1 items from 12 queries, 12 pages",
        "an API's newer items are only seen by: make redo STAGE=scenes REGION=…",
    )


def test_a_broken_item_of_an_api_is_left_out_and_told(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))
    with StubStac(collections=("s1", "s2")) as stub:
        manifest = served(world, stub.url)
        stub.items = collected(world)
        broken = next(i for i in stub.items if i["id"] == "S2-1")
        del broken["assets"]["B05"]
        build(manifest, tmp_path / "a")
        assert [r["scene"] for r in scenes(tmp_path / "a")] == ["S1-0", "S2-0"]
        _, store = runner.load(manifest, str(tmp_path / "a"))
        receipt = read_receipt(store, "scenes")
        assert receipt
        assert receipt.dropped == {"unusable item": 1}
        assert "1 items of s2-here left out; the first: asset 'B05' (B05) is missing (item S2-1 in" in receipt.notes[1]
        for one in stub.items:
            one["assets"].pop("B05", None)
        with pytest.raises(Problem, match="asset 'B05'"):
            build(manifest, tmp_path / "b")


ODD: dict[str, tuple[list[str], Any, str]] = {
    "asset null": (["assets", "B02"], None, "assets.B02 is 'None', not an object"),
    "asset text": (["assets", "B02"], "b02.tif", "assets.B02 is 'b02.tif', not an object"),
    "asset list": (["assets", "B02"], [1], "assets.B02 is '[1]', not an object"),
    "assets list": (["assets"], [1], "assets is '[1]', not an object"),
    "href": (["assets", "B02", "href"], 5, "assets.B02.href is '5', not text"),
    "id": (["id"], [1], "id is '[1]', not text"),
    "properties": (["properties"], "none", "properties is 'none', not an object"),
    "geometry": (["geometry"], [1], "geometry is '[1]', not an object"),
    "epsg": (["properties", "proj:epsg"], "EPSG:32632", "properties.proj:epsg is 'EPSG:32632', not a whole number"),
    "transform": (["properties", "proj:transform"], [10, 0, 5], "not six numbers"),
    "shape": (["properties", "proj:shape"], [10], "not two numbers"),
    "cloud": (["properties", "eo:cloud_cover"], "5 %", "properties.eo:cloud_cover is '5 %', not a number"),
    "orbit": (["properties", "sat:relative_orbit"], "R22", "not a whole number"),
    "polarisations": (["properties", "sar:polarizations"], 5, "not a list of texts"),
    "of the asset": (["assets", "B02", "proj:transform"], [10, 0, None], "assets.B02.proj:transform is"),
    "links": (["links"], 5, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_values_of_the_wrong_kind_are_told(case: str, tmp_path: Path) -> None:
    """An API's item is left out, and one on disk is a Problem; links of the wrong kind are nothing to us."""
    keys, value, words = ODD[case]
    world = World(tmp_path, size_m=1200, dates=("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"))
    with StubStac(collections=("s1", "s2")) as stub:
        manifest = served(world, stub.url)
        stub.items = collected(world)
        broken = place = next(i for i in stub.items if i["id"] == "S2-1")
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        build(manifest, tmp_path / "a")
    receipt = read_receipt(runner.load(manifest, str(tmp_path / "a"))[1], "scenes")
    assert receipt
    if not words:
        assert not receipt.dropped
        return
    assert receipt.dropped == {"unusable item": 1}
    assert words in receipt.notes[1]
    (tmp_path / "catalog/s2/S2-1.json").write_text(json.dumps(broken))
    with pytest.raises(Problem, match=re.escape(words)):
        build(world.write_manifest(), tmp_path / "b")


def test_hrefs_that_arrive_signed_are_stored_unsigned(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200)
    with StubStac(collections=("s1", "s2")) as stub:
        manifest = served(world, stub.url)
        stub.items = collected(world)
        for one in stub.items:
            for key, asset in one["assets"].items():
                asset["href"] = f"https://x.blob.core.windows.net/c/{one['id']}/{key}.tif?se=2030&sp=r&sig=SECRET%2F"
        build(manifest, tmp_path / "a")
    rows = scenes(tmp_path / "a")
    assert json.loads(rows[0]["assets"])["VV"] == "https://x.blob.core.windows.net/c/S1-0/vv.tif"
    for path in (tmp_path / "a").rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()


# A real server


@contextlib.contextmanager
def rustac(folder: Path, items: list[dict[str, Any]], names: tuple[str, ...]) -> Iterator[str]:
    """`rustac serve` in memory: a real STAC API."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in names:
        extent = {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]},
        }
        one = {"type": "Collection", "stac_version": "1.0.0", "id": name, "description": name, "license": "other"}
        files.append(folder / f"{name}.json")
        files[-1].write_text(json.dumps(one | {"links": [], "extent": extent}))
    files.append(folder / "items.json")
    files[-1].write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "rustac"), "serve", "--addr", f"127.0.0.1:{port}", *map(str, files)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


def test_a_real_server_is_searched_to_its_last_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac_api, "PAGE_ITEMS", 10)
    items = [item(f"i{k:02d}", f"2020-06-{k + 1:02d}T10:00:00Z") for k in range(25)]
    items += [item("july", "2020-07-02T10:00:00Z"), item("far", box=(20, 45, 21, 46)), item("other", collection="bb")]
    with rustac(tmp_path, items, ("aa", "bb")) as url:
        found = search(source(url), url, WHOLE, "here")
        assert [i["id"] for i in found.items] == [f"i{k:02d}" for k in range(25)]
        assert (found.queries, found.pages) == (1, 3)
        with pytest.raises(Problem, match="no collection 'aaa'") as caught:
            search(source(url, "aaa"), url, WHOLE, "here")
        assert caught.value.fix == "did you mean 'aa'?"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, list[str]]:
    """A world in the place of the embedded one, served by rustac; and the sizes that were served."""
    world = World(tmp_path / "out/sandbox/tiny", size_m=1200)
    world.write()
    started: list[str] = []

    @contextlib.contextmanager
    def serving(size: str, folder: Path) -> Iterator[str]:
        started.append(size)
        maps = item("map", None, (-180, -89, 180, 89), collection="maps")
        maps["properties"] |= {"start_datetime": "2019-01-01T00:00:00Z", "end_datetime": "2020-01-01T00:00:00Z"}
        maps["assets"]["data"]["href"] = str(world.root / "labels/classes.tif")
        with rustac(tmp_path / "served", [*collected(world), maps], ("s1", "s2", "maps")) as url:
            yield url

    module = types.ModuleType("pipeline.sandbox.server")
    module.serving = serving  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline.sandbox.server", module)
    built = types.ModuleType("pipeline.sandbox.build")  # the runner draws a world that is not there; this one is
    built.is_built = lambda *_: True  # type: ignore[attr-defined]
    built.build_world = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline.sandbox.build", built)
    return world, started


def test_the_sample_world_is_served_once_and_named_without_folder_or_port(
    tmp_path: Path, sandbox: tuple[World, list[str]]
) -> None:
    world, started = sandbox
    manifest = served(world, "sandbox:tiny")
    text = manifest.read_text().replace(
        'href = "labels/classes.tif"', 'api = "sandbox:tiny"\ncollection = "maps"\nasset = "data"'
    )
    text = text.replace('crosswalk = "labels/classes.csv"', f'crosswalk = "{world.root}/labels/classes.csv"')
    (tmp_path / "tiny.toml").write_text(text)
    region, store = runner.load(tmp_path / "tiny.toml", str(tmp_path / "out"))
    runner.run_upto(region, store, "captions", quiet=True)
    assert started == ["tiny", "tiny"], "once for the scenes of both sources, once for the labels"
    rows = scenes(tmp_path / "out")
    assert [r["scene"] for r in rows] == ["S1-0", "S2-0"]
    assert json.loads(rows[0]["assets"])["VV"] == "sandbox://tiny/cogs/s1_0_vv.tif"
    for name in ("scenes", "labels"):
        receipt = read_receipt(store, name)
        assert receipt
        assert receipt.params["world"] == VERSION
        assert "127.0.0.1" not in json.dumps(receipt.params)
        assert receipt.outside == ()
    labels = pq.read_table(tmp_path / "out/tiny/labels.parquet").to_pylist()
    assert {r["date"] for r in labels} == {dt.date(2019, 7, 2)}, "the middle of the year it shows"
    assert {r["code"] for r in labels} == {"1", "2"}
    pixels = pq.read_table(tmp_path / "out/tiny/pixels.parquet").to_pylist()
    assert {r["dropped"] for r in pixels} == {None}
    runner.run_upto(region, store, "captions", quiet=True)
    assert started == ["tiny", "tiny"], "what is done starts no server"


def test_another_version_of_the_sample_world_is_other_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region, store = runner.load(World(tmp_path).write(), str(tmp_path / "out"))
    work = Work(region, store, {})
    before = work.content_of("sandbox://tiny/a.tif")
    monkeypatch.setattr("pipeline.work.WORLD_VERSION", VERSION + 1)
    assert work.content_of("sandbox://tiny/a.tif") != before
    assert work.content_of("https://example.org/a.tif") == "https://example.org/a.tif"


# Labels


def test_labels_are_asked_a_year_around_and_then_for_all_dates(tmp_path: Path) -> None:
    world = World(tmp_path, size_m=1200)
    with StubStac() as stub:
        manifest = world.write()
        manifest.write_text(
            manifest.read_text().replace(
                'href = "labels/classes.tif"', f'api = "{stub.url}"\ncollection = "aa"\nasset = "data"'
            )
        )
        region, store = runner.load(manifest, str(tmp_path / "out"))
        work = Work(region, store, {}, quiet=True)
        stub.items = [item(str(year), f"{year}-01-01T00:00:00Z", (8, 44, 12, 46)) for year in range(2017, 2024)]

        def ask(**changes: Any) -> tuple[list[str], list[str]]:
            notes: list[str] = []
            use = region.labels[0].model_copy(update=changes)
            return [i["id"] for i in label_items(work, use, "here", notes)], notes

        assert ask() == (["2019", "2020", "2021"], ["classes: 3 items from 1 queries, 1 pages"])
        assert ask(date=dt.date(2022, 1, 1))[0] == ["2022"]
        stub.items = [item("2023", "2023-01-01T00:00:00Z", (8, 44, 12, 46))]
        found, notes = ask()
        assert found == ["2023"]
        assert "none within a year of the region's dates, asked for all" in notes[1]
        assert "datetime" not in stub.asked[-1]
