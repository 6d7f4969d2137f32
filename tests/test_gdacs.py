"""GDACS as a catalogue: events of several features, kinds, days, what lies in a region, and stubs for its manifest."""

from __future__ import annotations

import datetime as dt
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import run
from world import World

from harmonize.problem import Problem
from pipeline.event import Event
from pipeline.gdacs import read_alerts

POINT = {"type": "Point", "coordinates": [10.285, 45.155]}
BOX = {"type": "Polygon", "coordinates": [[[10, 45], [11, 45], [11, 46], [10, 46], [10, 45]]]}


def feature(kind: str = "FL", number: Any = 1000123, place: Any = POINT, **told: Any) -> dict[str, Any]:
    properties = {
        "eventtype": kind,
        "eventid": number,
        "episodeid": 1,
        "name": "Flood in Italy",
        "alertlevel": "Orange",
        "alertscore": 1.5,
        "fromdate": "2020-06-10T01:00:00",
        "todate": "2020-06-15T00:00:00",
        "country": "Italy",
        "url": {"report": "https://www.gdacs.org/report.aspx?eventid=1000123"},
    }
    return {"type": "Feature", "properties": properties | told, "geometry": place}


CATALOGUE = [
    feature(),
    feature(place=BOX, Class="Poly_Affected"),
    feature(episodeid=2, alertlevel="Red", todate="2020-06-20T00:00:00", fromdate="2020-06-12T00:00:00"),
    feature("EQ", "77", {"type": "Point", "coordinates": [30, 38]}, name="Earthquake in\nTürkiye", country="Türkiye", alertlevel="Green", fromdate="2020-02-06T01:17:35", todate="2020-02-06T01:17:35"),
    feature("WF", 5, {"type": "Point", "coordinates": [11.5, 45.5]}, name="Fire", alertlevel="green", fromdate="2021-03-01T00:00:00", todate="2021-03-02T00:00:00"),
    feature("WF", 5, BOX, alertlevel="green", fromdate="2021-03-01T00:00:00", todate=None),
    feature("TC", 9), feature("DR", 3), feature("DR", 4), feature("DR", 4), feature("XX", 4),
]  # fmt: skip


def saved(folder: Path, features: Any = CATALOGUE) -> Path:
    path = folder / "gdacs.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_features_of_one_event_are_one(tmp_path: Path) -> None:
    alerts, others = read_alerts(saved(tmp_path))
    assert [(a.id, a.kind, a.start, a.end, a.level, a.country) for a in alerts] == [
        ("gdacs-eq-77", "earthquake", dt.date(2020, 2, 6), dt.date(2020, 2, 6), "green", "Türkiye"),
        ("gdacs-fl-1000123", "flood", dt.date(2020, 6, 10), dt.date(2020, 6, 20), "red", "Italy"),
        ("gdacs-wf-5", "fire", dt.date(2021, 3, 1), dt.date(2021, 3, 2), "green", "Italy"),
    ]
    assert (alerts[1].lon, alerts[1].lat, len(alerts[1].shapes)) == (10.285, 45.155, 3)
    assert others == {"TC": 1, "DR": 2, "XX": 1}, "events, not features"
    assert read_alerts(saved(tmp_path, [feature(place=BOX)]))[0][0].lon == pytest.approx(10.5), "the polygon's middle"


def test_the_table_says_what_lies_in_a_region(tmp_path: Path) -> None:
    manifest = World(tmp_path).write_manifest()
    found = run("pipeline", "gdacs", str(saved(tmp_path)), "--region", str(manifest))
    assert found.returncode == 0, found.all
    rows = [line.split() for line in found.stdout.splitlines()]
    assert rows[0] == ["id", "kind", "from", "to", "alert", "country", "lon", "lat", "area", "period"]
    assert {row[0]: row[-2:] for row in rows[1:4]} == {
        "gdacs-eq-77": ["outside", "yes"],
        "gdacs-fl-1000123": ["inside", "yes"],
        "gdacs-wf-5": ["reaches", "no"],
    }
    assert "3 events (1 earthquake, 1 fire, 1 flood); left out, no kind of ours: 2 DR (drought), 1 TC" in found.stdout
    assert "1 XX (unknown type)" in found.stdout
    fires = run("pipeline", "gdacs", str(saved(tmp_path)), "--kind", "fire").stdout.splitlines()
    assert [line.split()[0] for line in fires[:2]] == ["id", "gdacs-wf-5"]
    assert len(fires) == 4


def test_stubs_are_entries_of_a_manifest(tmp_path: Path) -> None:
    everything = run("pipeline", "gdacs", str(saved(tmp_path)), "--toml").stdout
    events = [Event.model_validate(table) for table in tomllib.loads(everything)["events"]]
    assert [(e.id, e.kind, e.source, e.start) for e in events] == [
        ("gdacs-eq-77", "earthquake", "shakemap", dt.date(2020, 2, 6)),
        ("gdacs-fl-1000123", "flood", "cems", dt.date(2020, 6, 10)),
        ("gdacs-wf-5", "fire", "cems", dt.date(2021, 3, 1)),
    ]
    assert everything.count("its polygons are no extents") == 3
    assert "# GDACS EQ 77: Earthquake in Türkiye, Türkiye, alert green" in everything, (
        "a name of two lines is one comment"
    )
    manifest = World(tmp_path).write_manifest()
    near = run("pipeline", "gdacs", str(saved(tmp_path)), "--region", str(manifest), "--toml").stdout
    assert [table["id"] for table in tomllib.loads(near)["events"]] == ["gdacs-fl-1000123"]
    assert "# 1 of 3 events" in near


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([], ["holds no event"]),
        ({"a": 1}, ["has no features"]),
        ([feature(), {"type": "Feature", "properties": {"name": "x"}}], ["feature 2 has no eventtype and eventid"]),
        ([feature(), {"type": "Feature", "properties": ["x"]}], ["feature 2 has no eventtype and eventid"]),
        ([feature(fromdate="0001-01-01T00:00:00+05:00")], ["fromdate of FL 1000123 is no day of an event", "1900"]),
        ([feature(fromdate=None)], ["FL 1000123 has no fromdate"]),
        (
            [feature(fromdate="10/06/2020")],
            ["'10/06/2020' in the field fromdate of FL 1000123", "day or the month first"],
        ),
        ([feature(place=None)], ["FL 1000123 has no place"]),
        ([feature(place={"type": "Point", "coordinates": ["a"]})], ["FL 1000123 has a broken geometry"]),
    ],
)
def test_a_catalogue_that_cannot_be_read(tmp_path: Path, features: Any, words: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        read_alerts(saved(tmp_path, features))
    for word in [*words, "gdacs.json", "fix:"]:
        assert word in str(caught.value)


def test_a_catalogue_nested_without_end(tmp_path: Path) -> None:
    path = tmp_path / "gdacs.json"
    path.write_text("[" * 200_000)
    with pytest.raises(Problem, match="this is no JSON"):
        read_alerts(path)


def test_mistakes_at_the_command(tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text("<html>")
    for words, said in (
        ((str(tmp_path / "none.json"),), "there is no file"),
        ((str(tmp_path / "page.json"),), "this is no JSON"),
        ((str(saved(tmp_path)), "--kind", "floods"), "did you mean 'flood'?"),
        ((str(saved(tmp_path)), "--region", str(tmp_path / "none.toml")), "none.toml"),
    ):
        found = run("pipeline", "gdacs", *words)
        assert found.returncode == 2, found.all
        assert said in found.stderr
        assert "fix:" in found.stderr
