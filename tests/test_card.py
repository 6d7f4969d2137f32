"""What describes the shards: the dataset card, Croissant, the samples as STAC items, licences rolled up."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest
import rustac
import shapely
from world import World

from harmonize.vocabulary import CLASSES, names_of
from pipeline import runner, stac_table, tables
from pipeline.card import _size as size_category
from pipeline.contents import contents_of
from pipeline.croissant import crs
from pipeline.event import Event
from pipeline.licences import roll_up, terms_of, with_years
from pipeline.limits import _first_days, _shaken

SCENE = "S1A_IW_GRDH_1SDV_20200602T050000_20200602T050025_032842_03CDD5_rtc"
"""The radar scene, named as the archives do."""
DATES = ("2019-12-30T10:00:00Z", "2020-07-01T10:00:00Z")
TAIL = """
[shards]
shard_mb = 0.5
"""


def make(root: Path) -> Path:
    """A run with a flood, licences and attributions of its own, S1 with and S2 without an orbit; its shards."""
    world = World(root, dates=DATES, manifest={"start": "2019-12-01"}, tail=TAIL)
    x, y = world.west, world.north
    world.event("river", shapely.box(x, y - 600, x + 600, y), start="2020-06-20", licence="CC-BY-NC-4.0")
    path = world.write()
    text = path.read_text().replace("[sources.s1-here]\n", '[sources.s1-here]\nlicence = "CC-BY-4.0"\n')
    text = text.replace(
        "[sources.classes]\n", '[sources.classes]\nlicence = "CC-BY-SA-4.0"\nattribution = "© Mappers {years}"\n'
    )
    text = text.replace('source = "classes"\n', 'source = "classes"\ndate = 2018-07-01\n', 1)
    path.write_text(text)
    item = root / "catalog/s1/S1-0.json"
    about = json.loads(item.read_text())
    about["id"], about["properties"]["sat:orbit_state"] = SCENE, "descending"
    item.write_text(json.dumps(about))
    region, store = runner.load(path, str(root / "out"))
    runner.run_upto(region, store, "shards", quiet=True)
    return root / "out/tiny/shards"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def index(shards: Path) -> list[dict[str, Any]]:
    return pq.read_table(shards / "index.parquet").to_pylist()


@pytest.fixture(scope="module")
def items(shards: Path) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in rustac.read_sync(str(shards / "stac.parquet"))["features"]}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    constants = pytest.importorskip("mlcroissant._src.core.constants", reason="the dev extra is not installed")
    for module in list(sys.modules.values()):
        for name in ("DOWNLOAD_PATH", "EXTRACT_PATH"):
            if getattr(module, name, None) is getattr(constants, name):
                monkeypatch.setattr(module, name, type(getattr(constants, name))(tmp_path / name))


def croissant(folder: Path, caplog: pytest.LogCaptureFixture) -> Any:
    mlcroissant = pytest.importorskip("mlcroissant", reason="the dev extra is not installed")
    with caplog.at_level(logging.WARNING):
        dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert issues.errors == set()
    (warning,) = issues.warnings
    assert '"https://schema.org/datePublished" is recommended' in warning, "whoever publishes knows the day"
    return dataset


@pytest.mark.usefixtures("offline")
def test_croissant_is_valid_and_its_records_are_the_index(
    shards: Path, index: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = croissant(shards, caplog)
    records = list(dataset.records("index"))
    assert len(records) == len(index)
    for record, row in zip(records, index, strict=True):
        assert {name.removeprefix("index/") for name in record} == set(row)
        for name, value in row.items():
            found = record[f"index/{name}"]
            found = found.decode() if isinstance(found, bytes) else found
            if isinstance(value, list):
                found = [one.decode() for one in found]
            assert found == value, name
    assert {r["splits/name"]: r["splits/samples"] for r in dataset.records("splits")} == {
        split: sum(row["split"] == split for row in index) for split in {row["split"] for row in index}
    }
    assert [r["classes/name"] for r in dataset.records("classes")] == list(CLASSES)
    looks = list(dataset.records("s2-quicklooks"))
    assert {r["s2-quicklooks/chip_id"].decode() for r in looks} == {r["chip_id"] for r in index if r["sensor"] == "s2"}
    assert {r["s2-quicklooks/image"].size for r in looks} == {(60, 60)}


def test_croissant_names_every_file_with_its_hash_and_size(shards: Path) -> None:
    about = json.loads((shards / "croissant.json").read_text())
    files = {f["contentUrl"]: f for f in about["distribution"] if f["@type"] == "cr:FileObject"}
    assert set(files) == {"index.parquet", "stac.parquet", *(tar.name for tar in shards.glob("*.tar"))}
    for name, file in files.items():
        data = (shards / name).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["contentSize"] == f"{len(data)} B"
    inside = {
        f["@id"]: {c["@id"] for c in f["containedIn"]} for f in about["distribution"] if f["@type"] == "cr:FileSet"
    }
    assert inside["s2-20m-files"] == {tar.name for tar in shards.glob("*-s2-*.tar")}
    assert {name.split("-")[1] for name in inside if name.startswith("s1")} == {
        "10m",
        "captions",
        "records",
        "quicklooks",
    }


def test_croissant_says_where_when_and_which_bands(shards: Path, index: list[dict[str, Any]]) -> None:
    about = json.loads((shards / "croissant.json").read_text())
    assert about["temporalCoverage"] == "2019-12-30/2020-07-01"
    assert not {"datePublished", "creator"} & set(about), "nobody has published it yet"
    assert about["geocr:coordinateReferenceSystem"] == "EPSG:32632"
    assert "neither land cover nor a crisis class" in about["geocr:spatialBias"]
    (place,) = about["spatialCoverage"]
    south, west, north, east = map(float, place["geo"]["box"].split())
    assert all(west < row["lon"] < east and south < row["lat"] < north for row in index)
    fields = {f["@id"]: f for r in about["recordSet"] for f in r["field"]}
    assert fields["s2-20m/array"]["arrayShape"] == "6,30,30"
    assert fields["s1-10m/array"]["dataType"] == "cr:Float16"
    assert fields["s1-10m/array"]["geocr:bandConfiguration"]["geocr:bandNameList"] == ["VV", "VH"]
    centres = {
        band["name"]: band["geocr:centerWavelength"]["value"]
        for field in fields.values()
        for band in field.get("geocr:spectralBandMetadata", [])
    }
    assert len(centres) == 12
    assert (centres["B02"], centres["B12"]) == (490, 2190)
    assert "CC-BY-NC-4.0" not in about["license"], "known licences by their address"
    assert "https://creativecommons.org/licenses/by-nc/4.0/" in about["license"]
    for field in tables.INDEX:
        assert field.metadata[b"meaning"].decode() in fields[f"index/{field.name}"]["description"]


SCHEMAS = Path(__file__).with_name("stac_schemas")
NOT_USED = ("https://proj.org/schemas/v0.7/projjson.schema.json", "https://geojson.org/schema/Geometry.json")
"""What the projection schema refers to for proj:projjson and proj:geometry, which our items do not have."""


@pytest.fixture(scope="module")
def validators() -> dict[str, Any]:
    """Extension -> a validator of its published schema (see stac_schemas/README.md); nothing is looked up elsewhere."""
    import jsonschema
    import referencing

    everything = referencing.Resource.from_contents({}, referencing.jsonschema.DRAFT7)
    registry = referencing.Registry().with_resources([(uri, everything) for uri in NOT_USED])
    schemas = [json.loads(path.read_text()) for path in sorted(SCHEMAS.glob("*.json"))]
    return {s["$id"].rstrip("#"): jsonschema.Draft7Validator(s, registry=registry) for s in schemas}


def test_items_are_valid_stac(items: dict[str, dict[str, Any]], shards: Path, validators: dict[str, Any]) -> None:
    """Against STAC's own schema, which pystac brings, and those of the extensions."""
    for item in items.values():
        pystac.Item.from_dict({**item, "stac_extensions": []}, migrate=False).validate()
        for uri in item["stac_extensions"]:
            assert not [f"{e.json_path}: {e.message}" for e in validators[uri].iter_errors(item)], item["id"]
        assert not {"proj:projjson", "proj:geometry"} & set(item["properties"])
        fields = {name.split(":")[0] for name, value in item["properties"].items() if ":" in name and value is not None}
        declared = {
            "label": stac_table.LABEL,
            "proj": stac_table.PROJECTION,
            "sar": stac_table.SAR,
            "sat": stac_table.SAT,
        }
        assert {declared[f] for f in fields - {"closp"}} == set(item["stac_extensions"]), "none undeclared, none idle"
        assert shapely.box(*item["bbox"]).buffer(1e-9).covers(shapely.geometry.shape(item["geometry"]))
    collection = json.loads((shards / "collection.json").read_text())
    pystac.Collection.from_dict(collection, migrate=False).validate()
    assert {item["collection"] for item in items.values()} == {collection["id"]}
    held = json.loads(pq.read_schema(shards / "stac.parquet").metadata[b"stac-geoparquet"])
    assert held == {"version": "1.1.0", "collections": {collection["id"]: collection}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label:type", "polygon"),
        ("label:properties", "closp:labels"),
        ("proj:shape", [12]),
        ("proj:code", 32632),
        ("sar:frequency_band", "c"),
        ("sar:polarizations", ["VV", "VV"]),
        ("sar:instrument_mode", ""),
        ("sat:orbit_state", "up"),
    ],
)
def test_the_schemas_refuse_what_is_wrong(
    items: dict[str, dict[str, Any]], validators: dict[str, Any], name: str, value: Any
) -> None:
    item = next(item for item in items.values() if len(item["stac_extensions"]) == 4)
    wrong = {**item, "properties": {**item["properties"], name: value}}
    assert [uri for uri in item["stac_extensions"] if not validators[uri].is_valid(wrong)], name


def test_modes_are_read_from_product_names() -> None:
    names = [SCENE, "S1B_EW_GRDM_1SDH_20200701T053424", "S1-0", "S2A_MSIL2A_20200701T101031", SCENE]
    radar = pa.array([True, True, True, True, False])
    assert stac_table._mode(radar, pa.array(names)).to_pylist() == ["IW", "EW", None, None, None]


def test_radar_items_say_their_mode(items: dict[str, dict[str, Any]]) -> None:
    modes = {
        item["properties"]["closp:scene"]: item["properties"].get("sar:instrument_mode") for item in items.values()
    }
    assert modes[SCENE] == "IW"
    assert {mode for scene, mode in modes.items() if scene != SCENE} == {None}


def test_items_say_what_the_index_says(
    shards: Path, index: list[dict[str, Any]], items: dict[str, dict[str, Any]]
) -> None:
    assert list(items) == [row["chip_id"] for row in index]
    chips = {row["chip_id"]: row for row in pq.read_table(shards.parent / "chips.parquet").to_pylist()}
    for row in index:
        item, chip = items[row["chip_id"]], chips[row["chip_id"]]
        properties, asset = item["properties"], item["assets"]["shard"]
        assert dt.datetime.fromisoformat(properties["datetime"]) == row["datetime"]
        assert properties.get("sat:orbit_state") == row["orbit"]
        assert properties["closp:labels"] == names_of(row["label_mask"])
        assert [s["name"] for s in properties["closp:label_shares"]] == properties["closp:labels"]
        for name in stac_table.OF_INDEX:
            assert properties[f"closp:{name}"] == row[name]
        assert asset["href"] == f"./{row['shard']}"
        data = (shards / row["shard"]).read_bytes()
        for member in asset["closp:members"]:
            group = member["name"].removesuffix(".npy")
            assert (member["offset"], member["length"]) == (row[f"offset_{group}"], row[f"length_{group}"])
            assert data[member["offset"] :].startswith(b"\x93NUMPY")
        assert len(asset["closp:members"]) == (3 if row["sensor"] == "s2" else 1)
        a, b, west, d, e, north = properties["proj:transform"]
        assert (a, b, d, e) == (10, 0, 0, -10)
        assert [west, chip["south"], chip["east"], north] == properties["proj:bbox"]
        assert shapely.geometry.shape(item["geometry"]).equals(shapely.from_wkb(chip["geometry"]))
        assert properties["proj:code"] == "EPSG:32632"


def test_items_are_geoparquet(shards: Path, index: list[dict[str, Any]]) -> None:
    import geopandas

    frame = geopandas.read_parquet(shards / "stac.parquet")
    assert len(frame) == len(index)
    assert frame.crs.to_epsg() == 4326 or frame.crs.to_string() == "OGC:CRS84"
    assert (frame.geometry.centroid.x - [r["lon"] for r in index]).abs().max() < 1e-4


def test_items_in_several_row_groups_are_the_same(
    shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lists are made a row group at a time: their offsets start anew in each."""
    whole = pq.read_table(shards / "stac.parquet")
    folder = tmp_path / "again"
    shutil.copytree(shards.parents[2], folder)
    monkeypatch.setattr(stac_table, "ROWS", 7)
    region, store = runner.load(folder / "tiny.toml", str(folder / "out"))
    (folder / "out/tiny/receipts/shards.json").unlink()
    runner.run_upto(region, store, "shards", quiet=True)
    again = folder / "out/tiny/shards/stac.parquet"
    assert pq.ParquetFile(again).num_row_groups > 3
    assert pq.read_table(again).equals(whole)


def test_card_has_counts_sources_licences_and_attributions(shards: Path, index: list[dict[str, Any]]) -> None:
    card = (shards / "README.md").read_text()
    for split in ("train", "val", "test"):
        counts = [sum(r["split"] == split and r["sensor"] == s for r in index) for s in ("s1", "s2")]
        assert f"| {split} | {counts[0]} | {counts[1]} |" in card
    for k, name in enumerate(CLASSES):
        with_it = [sum(r["split"] == s and r["label_mask"] >> k & 1 for r in index) for s in ("train", "val", "test")]
        unknown = sum(not r["known_mask"] >> k & 1 for r in index)
        assert f"| {name} | {with_it[0]} | {with_it[1]} | {with_it[2]} | {unknown} |" in card
    assert sum(not r["known_mask"] >> CLASSES.index("flooded area") & 1 for r in index) > 0
    for row in (
        "| s2-here | imagery | unknown |",
        "| s1-here | imagery | [CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/) |",
        "| classes | labels | [CC-BY-SA-4.0](https://creativecommons.org/licenses/by-sa/4.0/) |",
        "| river | event | [CC-BY-NC-4.0](https://creativecommons.org/licenses/by-nc/4.0/) |",
    ):
        assert row in card
    assert "- Contains modified Copernicus Sentinel data 2019-2020." in card, "S2"
    assert "- Contains modified Copernicus Sentinel data 2020." in card, "S1"
    assert "- © Mappers 2018" in card
    assert "**Unknown licence: s2-here.**" in card
    assert "ask for: attribution, share alike, non-commercial use. The strictest of them is CC-BY-NC-4.0." in card
    assert "classes shows 2018-07-01: to the nearest map of a chip's cell it is" in card
    about = json.loads((shards / "croissant.json").read_text())
    assert about["creditText"] == re.findall(r"^- (Contains .*|© .*)$", card, re.M)


def test_the_card_tells_the_longest_gap_of_a_map(shards: Path) -> None:
    longest = (dt.date(2020, 7, 1) - dt.date(2018, 7, 1)).days
    assert f", {longest} at most" in (shards / "README.md").read_text()


def test_front_matter_is_what_the_hub_reads(shards: Path, index: list[dict[str, Any]]) -> None:
    import yaml

    card = (shards / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "other"
    assert head["size_categories"] == ["n<1K"]
    found = {
        (config["config_name"], file["split"]): sorted(p.name for p in shards.glob(file["path"]))
        for config in head["configs"]
        for file in config["data_files"]
    }
    hub = {"train": "train", "val": "validation", "test": "test"}
    assert found == {
        (sensor, hub[split]): sorted({r["shard"] for r in index if (r["split"], r["sensor"]) == (split, sensor)})
        for split, sensor in {(r["split"], r["sensor"]) for r in index}
    }


def test_the_lines_of_the_card_run(shards: Path, index: list[dict[str, Any]]) -> None:
    pytest.importorskip("webdataset", reason="the dev extra is not installed")
    code = (shards / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=shards, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in {row["chip_id"] for row in index}
    assert done.stdout.split()[-1] == str(len(index))


def test_rebuilt_files_have_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    again = make(tmp_path)
    names = {p.name for p in shards.iterdir()}
    assert {"README.md", "croissant.json", "collection.json", "stac.parquet", "shards.json"} <= names
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in shards.iterdir()}
    described = json.loads((shards / "shards.json").read_text())["described_by"]
    assert described == {
        name: hashlib.sha256((shards / name).read_bytes()).hexdigest()
        for name in ("README.md", "croissant.json", "collection.json", "stac.parquet", "SHA256SUMS")
    }


def test_another_attribution_writes_the_card_again(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(shards.parents[2], folder)
    path = folder / "tiny.toml"
    path.write_text(path.read_text().replace("© Mappers", "© Others"))
    region, store = runner.load(path, str(folder / "out"))
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "out/tiny/shards").glob("*.tar")}
    runner.run_upto(region, store, "shards", quiet=True)
    assert "- © Others 2018" in (folder / "out/tiny/shards/README.md").read_text()
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "out/tiny/shards").glob("*.tar")} == before


@pytest.mark.parametrize(
    ("licence", "conditions"),
    [
        ("CC-BY-4.0", ("attribution",)),
        ("cc-by-nc-nd-3.0", ("attribution", "no derivatives", "non-commercial use")),
        ("CC0-1.0 (synthetic)", ()),
        ("Copernicus Sentinel data, free and open", ("attribution",)),
        ("CC-BY-SA-4.0 (images), CDLA-Permissive-1.0 (labels); contains modified Copernicus Sentinel data",
         ("attribution", "share alike")),
        ("CC BY 4.0", ("attribution",)),
        ("CC BY-SA 4.0 International", ("attribution", "share alike")),
        ("CC0 1.0", ()),
        ("Contains modified Copernicus Sentinel data 2018-2020", ("attribution",)),
        ("Copernicus Emergency Management Service, free and open", ("attribution",)),
        ("public domain (U.S. Geological Survey)", ()),
        ("Copernicus Contributing Missions: no redistribution", None),
        ("Copernicus Sentinel data: ask first", None),
        ("public domain mark pending", None),
        ("CC-BY-4.0 (non-commercial use only)", None),
        ("CC-BY-4.0-draft", None),
        ("CC-BY", None),
        ("CC0-1.0 for members", None),
        ("ODbL-1.0 or a fee", None),
        ("Commission reuse policy (withdrawn)", None),
        ("CC-BY-4.0, ask Anna", None),
        ("unknown", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_a_licence_asks_for(licence: str, conditions: tuple[str, ...] | None) -> None:
    assert terms_of(licence).conditions == conditions


def test_licences_rolled_up() -> None:
    told = roll_up({"a": "CC-BY-4.0", "b": "CC0-1.0", "c": "CC-BY-ND-4.0", "d": "mine"})
    assert told.conditions == ("attribution", "no derivatives")
    assert (told.strictest, told.unknown, told.clash, told.one) == ("CC-BY-ND-4.0", ("d",), (), None)
    assert roll_up({"a": "CC-BY-SA-4.0", "b": "ODbL-1.0"}).clash == ("CC-BY-SA-4.0", "ODbL-1.0")
    assert roll_up({"a": "CC-BY-SA-4.0", "b": "CC-BY-SA-4.0 (images), CC0-1.0 (labels)"}).clash == ()
    assert roll_up({"a": "CC-BY-4.0", "b": "CC-BY-4.0"}).one == terms_of("CC-BY-4.0")
    spelled = [terms_of(name) for name in ("CC BY-SA 4.0", "cc-by-sa-4.0 (the maps)")]
    assert {(t.spdx, t.hugging_face, t.url) for t in spelled} == {
        ("CC-BY-SA-4.0", "cc-by-sa-4.0", "https://creativecommons.org/licenses/by-sa/4.0/")
    }


@pytest.mark.parametrize(
    ("years", "text"), [([2018], "Data 2018 (2018)"), ([2020, 2016, 2018, 2019], "Data 2016, 2018-2020 (2016, 2018-2020)"), ([], "Data")]
)  # fmt: skip
def test_years_of_an_attribution(years: list[int], text: str) -> None:
    assert with_years("Data {years} ({years})", years) == text


def test_every_source_of_ours_has_a_licence_and_whom_to_name() -> None:
    from pipeline.source import known_sources

    for name, source in known_sources().items():
        terms = terms_of(source.licence)
        assert terms.conditions is not None, name
        assert source.attribution or not terms.conditions, name


@pytest.mark.parametrize(("source", "kind"), [("cems", "flood"), ("effis", "fire"), ("shakemap", "earthquake")])
def test_events_have_the_terms_of_their_source(source: str, kind: str) -> None:
    event = Event(kind=kind, source=source, href="x.zip")  # type: ignore[arg-type, call-arg]
    terms = terms_of(event.licence)
    assert terms.conditions is not None
    assert terms.url.startswith("https://"), "Croissant's licence is the page of the terms, not prose"
    assert event.attribution
    assert Event(kind=kind, source=source, href="x", licence="mine").licence == "mine"  # type: ignore[arg-type]


def test_events_of_several_days_are_a_limit() -> None:
    told = [
        Event(kind="flood", source="cems", href="EMSR332.zip"),
        Event(kind="fire", source="effis", href="evia.json"),
        Event(kind="flood", source="geojson", href="river.geojson"),
    ]
    flood, fire = _first_days(SimpleNamespace(events=told))  # type: ignore[arg-type]
    assert flood.startswith("emsr332: what was first hit days later (as a package's monitorings show it) counts from")
    assert fire.startswith("evia: what was first burnt days later")


def test_shaking_without_damage_is_a_limit() -> None:
    shaken = Event(kind="earthquake", source="shakemap", href="cont_mmi.json")
    seen = Event(kind="earthquake", source="shakemap", href="cont_mmi.json", id="seen", damage="EMSR648")
    (told,) = _shaken(SimpleNamespace(events=[shaken, seen]))  # type: ignore[arg-type]
    assert told == "cont_mmi is ground that shook at intensity 7 or more, not damage that anybody saw."


@pytest.mark.parametrize(
    ("rows", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (650_000, "100K<n<1M"), (10**9, "n>100M")]
)
def test_size_categories(rows: int, category: str) -> None:
    assert size_category(rows) == category


def test_a_corpus_on_both_sides_of_the_antimeridian() -> None:
    """A box per zone, and one around all that crosses 180 degrees instead of the whole world."""
    import numpy as np

    samples = pa.table(
        {
            "split": ["train"] * 2, "sensor": ["s2"] * 2, "label_mask": pa.array([1, 3]), "known_mask": pa.array([1, 0]),
            "epsg": pa.array([32660, 32601]), "events": pa.array([[], ["e"]], pa.list_(pa.string())),
            "datetime": pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)] * 2, tables.UTC),
            "cell": ["a", "b"], "block": ["a", "b"], "scene": ["s", "s"], "source": ["x", "x"],
        }
    )  # fmt: skip
    bounds = np.array([[179.1, -17.0, 179.2, -16.9], [-179.9, -17.1, -179.8, -17.0]])
    found = contents_of(None, samples, bounds, pa.table(tables.LABELS.empty_table()), [])  # type: ignore[arg-type]
    assert found.boxes == {32601: (-179.9, -17.1, -179.8, -17.0), 32660: (179.1, -17.0, 179.2, -16.9)}
    assert found.box == (179.1, -17.1, -179.8, -16.9)
    assert crs(found) == "EPSG:4326", "one for all: that of lon and lat"
    assert (found.classes["trees", "train"], found.unknown["water"], found.events["e"]) == (1, 1, 1)
