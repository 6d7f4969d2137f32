"""Manifests, crosswalks, query files and addresses that a person was given by others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from attack_limits import refused
from world import World

from harmonize.crosswalk import parse_crosswalk
from harmonize.problem import Problem
from harmonize.query_file import QUERIES_VERSION
from harmonize.vocabulary import VOCABULARY_VERSION
from pipeline import cluster
from pipeline.cluster import Scheduler
from pipeline.label_files import check_named_files
from pipeline.place import area_of
from pipeline.region import load_region
from train.queries import load_queries
from train.recipe import load_recipe

DIGITS = "9" * 400
CHANGES = {
    "size_px of 400 digits": ("size_px = 60", f"size_px = {DIGITS}"),
    "size_px of 1e18": ("size_px = 60", f"size_px = {6 * 10**18}"),
    "size_px of 5,000 digits": ("size_px = 60", f"size_px = {'9' * 5000}"),
    "block_km of nothing": ("block_km = 1.2", "block_km = 1e-300"),
    "block_km of 1e308": ("block_km = 1.2", "block_km = 1e308"),
    "block_km of infinity": ("block_km = 1.2", "block_km = inf"),
    "block_km of NaN": ("block_km = 1.2", "block_km = nan"),
    "shard_mb of 1e308": ("[split]", "[shards]\nshard_mb = 1e308\n[split]"),
    "a seed of 400 digits": ("[split]", f"[shards]\nseed = {DIGITS}\n[split]"),
    "a seed below 0": ("[split]", "[shards]\nseed = -1\n[split]"),
    "per_cell of 400 digits": ('source = "s2-here"', f'source = "s2-here"\nper_cell = {DIGITS}'),
    "max_days_apart of 1e308": ('source = "s1-here"', 'source = "s1-here"\nmax_days_apart = 1e308'),
    "nodata of 400 digits": ("nodata = -32768", f"nodata = {DIGITS}"),
    "a day beyond the calendar": ("end = 2020-12-31", "end = 9999-12-31"),
    "bounds of 1e308": ("bounds = [", "bounds = [-1e308, -1e308, 1e308, 1e308] #"),
    "bounds that are NaN": ("bounds = [", "bounds = [nan, nan, nan, nan] #"),
    "a name that is a path": ('name = "tiny"', 'name = "../../tiny"'),
    "a name with a slash": ('name = "tiny"', 'name = "a/tiny"'),
    "a name with NUL": ('name = "tiny"', 'name = "ti\\u0000ny"'),
    "a name with a line break": ('name = "tiny"', 'name = "ti\\nny"'),
    "a name in Cyrillic": ('name = "tiny"', 'name = "tіny"'),
    "a name that is a variable": ('name = "tiny"', 'name = "$HOME"'),
    "a source that is HTML": ("[sources.classes]", '[sources."<script>alert(1)</script>"]'),
    "a source that is a path": ("[sources.classes]", '[sources."../../x"]'),
    "a source with a line break": ("[sources.classes]", '[sources."a\\nb"]'),
    "an api that is a file": ('items = "catalog/s1/*.json"', 'api = "file:///etc/passwd"\ncollection = "a"\nlicence = 5'),
    "a key twice": ("size_px = 60", "size_px = 60\nsize_px = 120"),
    "a table twice": ("[split]", "[split]\nblock_km = 1\n[split]"),
    "a deep array": ("size_px = 60", f"size_px = {'[' * 100_000}"),
    "deep tables": ("size_px = 60", f"a{'.a' * 20_000} = 1"),
    "deep inline tables": ("size_px = 60", f"size_px = {'{a=' * 50_000}"),
    "an event that is a path": ("[split]", '[[events]]\nid = "../../x"\nkind = "flood"\nsource = "geojson"\nhref = "x"\n[split]'),
    "an event in HTML": ("[split]", '[[events]]\nid = "<b>"\nkind = "flood"\nsource = "geojson"\nhref = "x"\n[split]'),
    "an event of 400 digits": ("[split]", f'[[events]]\nkind = "flood"\nsource = "geojson"\nhref = "x"\nafter = {DIGITS}\n[split]'),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_a_manifest_that_is_none(tmp_path: Path, kind: str) -> None:
    path = World(tmp_path).write_manifest()
    old, new = CHANGES[kind]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    refused(lambda: load_region(path), "tiny.toml")


@pytest.mark.parametrize("size", [60, 120, 6])
def test_a_region_of_all_the_world(tmp_path: Path, size: int) -> None:
    world = World(tmp_path, size_px=size, manifest={"bounds": [-180.0, -80.0, 180.0, 84.0]})
    region = load_region(world.write_manifest())
    refused(lambda: area_of(region), "the region has", "cells of", "more than 2e+07")


PATHS = {
    "a variable": "$HOME/classes.tif",
    "another variable": "${OUT}/classes.tif",
    "a home": "~/classes.tif",
    "a command": "$(touch evil).tif",
    "a pipe": "| touch evil",
    "NUL": "a\\u0000b.tif",
    "10,000 characters": "x" * 10_000,
    "a line break": "a\\nb.tif",
}


@pytest.mark.parametrize("kind", PATHS)
def test_paths_are_names_and_nothing_else(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable is put in, no shell is asked; what is not there is told."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/classes.tif").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OUT", str(tmp_path / "home"))
    path = World(tmp_path / "world").write_manifest()
    path.write_text(path.read_text().replace('href = "labels/classes.tif"', f'href = "{PATHS[kind]}"'))
    refused(lambda: check_named_files(load_region(path)), "tiny.toml", "href")
    World(tmp_path / "world").write_manifest()
    for key in ("href", "analysed"):
        href = "flood.geojson" if key == "analysed" else PATHS[kind]
        (path.parent / "flood.geojson").write_text("{}")
        more = f'analysed = "{PATHS[kind]}"\n' if key == "analysed" else ""
        event = f'[[events]]\nid = "e"\nkind = "flood"\nsource = "geojson"\nhref = "{href}"\n{more}[split]'
        two = path.with_name("tiny.toml")
        before = two.read_text()
        two.write_text(before.replace("[split]", event, 1))
        refused(lambda p=two: load_region(p), "tiny.toml", key)
        two.write_text(before)
    assert not list(tmp_path.rglob("evil*"))


HEAD = "code,name,class,status\n"
CLASSES = {
    "Cyrillic": "сrops",
    "full width": "ｗａｔｅｒ",
    "Greek": "wαter",
    "a ligature": "ﬂooded area",
    "a hidden space": "water\u200b",
    "turned letters": "\u202eretaw",
    "a hard space": "snow\u00a0and ice",
    "an accent on its own": "wate\u0301r",
    "HTML": "<b>water</b>",
    "two of them": "water;crops",
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_that_look_like_ours(tmp_path: Path, kind: str) -> None:
    refused(lambda: parse_crosswalk(f"{HEAD}1,a,{CLASSES[kind]},judgement\n", "x.csv"), "x.csv, line 2")
    path = tmp_path / "queries.json"
    query = {"id": "a", "family": "class", "text": "water", "classes": [CLASSES[kind]]}
    path.write_text(json.dumps({"version": QUERIES_VERSION, "vocabulary": VOCABULARY_VERSION, "queries": [query]}))
    refused(lambda: load_queries(path), "is not in the vocabulary")


def test_a_crosswalk_of_a_thousand_million_rows(tmp_path: Path) -> None:
    """A sparse file of 20 GB: not read."""
    path = World(tmp_path).write_manifest()
    with (tmp_path / "labels/classes.csv").open("r+b") as file:
        file.truncate(20 * 10**9)
    refused(lambda: load_region(path), "a crosswalk of 19073 MiB is none")


def test_a_manifest_of_gigabytes(tmp_path: Path) -> None:
    path = World(tmp_path).write_manifest()
    with path.open("r+b") as file:
        file.truncate(20 * 10**9)
    refused(lambda: load_region(path), "this file has 19073 MiB")


@pytest.mark.parametrize("field", ['"' + "x" * 200_000 + '"', "x" * 200_000, '"' * 100_001])
def test_a_crosswalk_with_a_field_without_end(field: str) -> None:
    refused(lambda: parse_crosswalk(f"{HEAD}1,{field},watr,judgement\n", "x.csv"), "x.csv")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"queries": ' + "[" * 100_000, "9" * 10_000, '{"queries": [1]}', "[]"]
)
def test_a_query_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "queries.json"
    path.write_text(text)
    refused(lambda: load_queries(path), "queries.json")


RECIPES = {
    "a seed of 400 digits": f'name = "r"\nseed = {DIGITS}\n',
    "a seed below 0": 'name = "r"\nseed = -1\n',
    "a width of 400 digits": f'name = "r"\nembed_dim = {DIGITS}\n',
    "a rate of infinity": 'name = "r"\n[optim]\nlr = inf\n',
    "a name that is a path": 'name = "../r"\n',
    "deep": "a = " + "[" * 100_000,
    "weights that are a path upwards": 'name = "r"\n[vision]\nweights_s2 = "../../etc/passwd"\n',
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_that_is_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(RECIPES[kind])
    refused(lambda: load_recipe(path), "r.toml")


ADDRESSES = [
    "file:///etc/passwd",
    "tcp://",
    "tcp://127.0.0.1:99999999",
    "tcp://[::1",
    "x\0y",
    "inproc://1/2/3",
    "ucx://a:1",
    "tcp://127.0.0.1:9",
    "ws://127.0.0.1:9",
    "é",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_scheduler_that_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is the person's own word: whoever runs a scheduler runs our jobs (docs/threat-model.md)."""
    monkeypatch.setattr(cluster, "ANSWER_S", 1)
    started = time.monotonic()
    with pytest.raises(Problem) as caught, Scheduler(address) as jobs:
        jobs.connect()
    assert time.monotonic() - started < 30
    assert caught.value.what
    assert caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", "a/.."])
def test_names_below_a_store_stay_there(tmp_path: Path, name: str) -> None:
    from pipeline.store import Store

    refused(lambda: Store(str(tmp_path)).path(name), "would leave")


@pytest.mark.parametrize("href", ["sandbox://demo/../../x", "sandbox:///etc/passwd"])
def test_names_of_the_sample_world_stay_there(tmp_path: Path, href: str) -> None:
    from pipeline.sandbox import path_of

    with pytest.raises(Problem, match="would leave the sample world"):
        path_of(href, tmp_path)
