"""GDACS, the Global Disaster Alert and Coordination System, as a catalogue of where and when: no extents.

Reads a saved answer of its API, for example
https://www.gdacs.org/gdacsapi/api/events/geteventlist/SEARCH?eventlist=FL;EQ;WF&fromdate=2018-10-01&todate=2018-12-15&alertlevel=green;orange;red
(also /MAP and /EVENTS4APP): GeoJSON with a Point and some Polygons per event; dates have no zone and are UTC. The
polygons are circles, boxes and administrative areas for alerts, not the ground that was hit: a flood's "affected area"
would put the label on every dry field in it. Extents come from elsewhere; `stubs` says from where.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.problem import Problem
from harmonize.record import from_json
from pipeline.event_dates import utc_day

if TYPE_CHECKING:
    import shapely

    from pipeline.region import Region

KINDS = {"FL": "flood", "EQ": "earthquake", "WF": "fire"}
OTHERS = {"TC": "tropical cyclone", "VO": "volcano", "DR": "drought", "TS": "tsunami"}
LEVELS = ("green", "orange", "red")
EXTENT_FROM = {
    "flood": ("cems", "EMSR…", "Copernicus EMS Rapid Mapping (mapping.emergency.copernicus.eu), or any vector file"),
    "fire": (
        "cems",
        "EMSR…",
        "Copernicus EMS Rapid Mapping, or EFFIS: source = 'effis', which has its own days: no start",
    ),
    "earthquake": ("shakemap", "cont_mmi.json", "the ShakeMap's cont_mmi.json (earthquake.usgs.gov), with damage = …"),
}
"""Kind -> source and href of a stub, and where its extent comes from."""


@dataclass(frozen=True)
class Alert:
    """One event of the catalogue."""

    code: str
    """eventtype and eventid, as `FL 1000123`."""
    kind: str
    start: dt.date
    end: dt.date
    level: str
    """The highest alert of its features: green, orange, red; empty where none says."""
    name: str
    country: str
    lon: float
    lat: float
    shapes: tuple[shapely.Geometry, ...]
    """All that the catalogue draws of it, EPSG:4326."""

    @property
    def id(self) -> str:
        return f"gdacs-{self.code.lower().replace(' ', '-')}"

    def place_in(self, area: shapely.Geometry) -> str:
        """'inside' a region where its point is, 'reaches' where only a polygon of it meets the region, 'outside'."""
        import shapely

        if shapely.intersects(area, shapely.Point(self.lon, self.lat)):
            return "inside"
        return "reaches" if any(shapely.intersects(area, shape) for shape in self.shapes) else "outside"

    def is_in_period(self, region: Region) -> bool:
        return self.start <= region.end and self.end >= region.start


def read_alerts(path: Path) -> tuple[list[Alert], Counter[str]]:
    """The floods, earthquakes and wildfires of a file by their first day; and its events of other types, counted.

    Features of one eventtype and eventid are one event: from the first to the last of their days, the highest alert.
    Raises Problem for a file that is no such GeoJSON, and for an event without day or place.
    """
    events: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for k, feature in enumerate(_features(path)):
        told = feature.get("properties") if isinstance(feature, dict) else None
        told = told if isinstance(told, dict) else {}
        kind, number = (str(told.get(key) or "").strip() for key in ("eventtype", "eventid"))
        if not kind or not number:
            what = f"feature {k + 1} has no eventtype and eventid"
            raise Problem(
                what, where=str(path), fix="give an answer of the GDACS API (see python -m pipeline gdacs --help)"
            )
        events.setdefault((kind.upper(), number), []).append(feature)
    others = Counter(kind for kind, _ in events if kind not in KINDS)
    alerts = [_alert(kind, number, mine, path) for (kind, number), mine in events.items() if kind in KINDS]
    return sorted(alerts, key=lambda alert: (alert.start, alert.code)), others


def _features(path: Path) -> list[Any]:
    if not path.is_file():
        raise Problem(f"there is no file {path}", fix="save an answer of the GDACS API there")
    try:
        told = from_json(path.read_bytes())
    except ValueError as error:
        raise Problem(f"this is no JSON: {error}", where=str(path), fix="save the API's answer again") from None
    features = told.get("features") if isinstance(told, dict) else None
    if not isinstance(features, list):
        raise Problem("this is no GeoJSON: it has no features", where=str(path), fix="save the API's answer again")
    if not features:
        raise Problem("this catalogue holds no event", where=str(path), fix="ask the API for other dates or types")
    return features


def _alert(kind: str, number: str, features: list[dict[str, Any]], path: Path) -> Alert:
    import shapely

    code = f"{kind} {number}"
    told = [feature["properties"] for feature in features]
    days = {
        field: [day for p in told if (day := utc_day(p.get(field), field, code, str(path), "mend the date"))]
        for field in ("fromdate", "todate")
    }
    if not days["fromdate"]:
        raise Problem(f"event {code} has no fromdate", where=str(path), fix="save the API's answer again")
    shapes = [shape for feature in features if (shape := _shape(feature, code, path)) is not None]
    if not shapes:
        raise Problem(f"event {code} has no place", where=str(path), fix="save the API's answer again")
    point = next((s for s in shapes if s.geom_type == "Point"), None) or shapely.centroid(shapely.union_all(shapes))
    levels = [str(p.get("alertlevel") or "").lower() for p in told]
    return Alert(
        code=code,
        kind=KINDS[kind],
        start=min(days["fromdate"]),
        end=max([*days["todate"], *days["fromdate"]]),
        level=max((level for level in levels if level in LEVELS), key=LEVELS.index, default=""),
        name=_first(told, "name") or _first(told, "htmldescription"),
        country=_first(told, "country"),
        lon=point.x,
        lat=point.y,
        shapes=tuple(shapes),
    )


def _first(told: list[dict[str, Any]], key: str) -> str:
    """The first that any feature says, on one line."""
    return next((" ".join(str(p[key]).split()) for p in told if p.get(key)), "")


def _shape(feature: dict[str, Any], code: str, path: Path) -> shapely.Geometry | None:
    import shapely

    if not feature.get("geometry"):
        return None
    try:
        shape = shapely.make_valid(shapely.from_geojson(json.dumps(feature["geometry"])))
    except (shapely.GEOSException, ValueError, RecursionError) as error:
        raise Problem(f"event {code} has a broken geometry: {error}", where=str(path), fix="save it again") from None
    return None if shape.is_empty else shape


def report(path: Path, region: Region | None, kind: str, toml: bool) -> str:
    """What `python -m pipeline gdacs` prints: a table, or stubs of the events that are inside or reach the region."""
    alerts, others = read_alerts(path)
    mine = [alert for alert in alerts if not kind or alert.kind == kind]
    places: list[str] | None = None
    if region:
        from pipeline.place import area_of

        area = area_of(region)
        places = [alert.place_in(area) for alert in mine]
    if toml:
        near = [
            alert
            for k, alert in enumerate(mine)
            if region is None or (places and places[k] != "outside" and alert.is_in_period(region))
        ]
        return "\n\n".join([*map(stub, near), f"# {len(near)} of {_told(alerts, others)}"])
    return "\n".join([*_table(mine, places, region), "", _told(alerts, others)])


def _told(alerts: list[Alert], others: Counter[str]) -> str:
    counts = Counter(alert.kind for alert in alerts)
    kept = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
    left = ", ".join(f"{n} {code} ({OTHERS.get(code, 'unknown type')})" for code, n in sorted(others.items()))
    return f"{len(alerts)} events ({kept or 'none'})" + (f"; left out, no kind of ours: {left}" if left else "")


def _table(alerts: list[Alert], places: list[str] | None, region: Region | None) -> list[str]:
    head = ["id", "kind", "from", "to", "alert", "country", "lon", "lat"]
    rows = [
        [a.id, a.kind, str(a.start), str(a.end), a.level, a.country[:24], f"{a.lon:.3f}", f"{a.lat:.3f}"]
        for a in alerts
    ]
    if region and places is not None:
        head += ["area", "period"]
        for row, alert, place in zip(rows, alerts, places, strict=True):
            row += [place, "yes" if alert.is_in_period(region) else "no"]
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]


def stub(alert: Alert) -> str:
    """An entry for a manifest: its extent is for a person to fetch."""
    source, href, where_from = EXTENT_FROM[alert.kind]
    about = ", ".join(filter(None, (alert.name, alert.country, f"alert {alert.level}" if alert.level else "")))
    return f"""# GDACS {alert.code}: {about}, {alert.start} to {alert.end}
# GDACS says where and when; its polygons are no extents. Fetch the extent and write it into href:
# {where_from}
[[events]]
id = "{alert.id}"
kind = "{alert.kind}"
source = "{source}"
href = "{href}"
start = {alert.start}"""
