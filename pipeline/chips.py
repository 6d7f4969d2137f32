"""Stage chips: candidates -> the acquisitions kept per cell and sensor. No pixel is read.

One chip per cell, sensor and pass: the best ones, and around each event that covers the cell the latest before it and
the first after its start. Losers are no rows: they are counted by reason in the receipt.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize.events import CrisisEvent
from pipeline import events, tables
from pipeline.event import Event
from pipeline.grid import chip_id, parse_cell, transformer
from pipeline.region import Imagery, Region
from pipeline.shapes import squares_of
from pipeline.work import Outcome, Work

PASS = dt.timedelta(minutes=15)
CLOUD_CLASSES = (3, 8, 9, 10)
"""SCL: cloud shadow, cloud medium and high probability, thin cirrus (facts/s2_scl.csv)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One cell seen by one scene."""

    cell: str
    scene: dict[str, Any]
    coverage: float
    nodata: float
    cloud: float | None
    own_epsg: bool

    @property
    def when(self) -> dt.datetime:
        return self.scene["datetime"]

    @property
    def day(self) -> dt.date:
        """Of the acquisition, UTC."""
        return self.when.date()

    @property
    def key(self) -> tuple[str, str]:
        """Tells the candidates of one cell apart."""
        return self.scene["source"], self.scene["scene"]

    @property
    def rank(self) -> tuple[Any, ...]:
        """Winner of one pass first: the cell's own EPSG, full coverage, least nodata, lowest scene id."""
        return not self.own_epsg, self.coverage < 1, self.nodata, self.scene["scene"]


@dataclass(frozen=True)
class Hit:
    """An event that covers some of a cell."""

    event: CrisisEvent
    use: Event
    share: float

    def before(self, passes: list[Candidate]) -> list[Candidate]:
        """The latest in [start - before_days, start)."""
        first = self.event.start - dt.timedelta(days=self.use.before_days)
        earlier = [c for c in sorted(passes, key=_in_time, reverse=True) if first <= c.day < self.event.start]
        return earlier[: self.use.before]

    def after(self, passes: list[Candidate]) -> list[Candidate]:
        """The first ones in the effect window."""
        return [c for c in sorted(passes, key=_in_time) if self.event.in_window(c.day)][: self.use.after]


def params(region: Region) -> dict[str, Any]:
    imagery = [use.model_dump(mode="json") for use in region.imagery]
    files, seen = ("kind", "source", "href", "damage", "mmi"), ("start", "effect_days", "min_event_share")
    keys = (*files, *seen, "before", "before_days", "after")
    return {
        "imagery": imagery,
        "max_cloud": region.max_cloud,
        "max_nodata": region.max_nodata,
        "events": events.params(region, *keys),
    }


def outside(region: Region) -> list[Path]:
    return events.files(region, "href", "damage")


def choose_chips(work: Work) -> Outcome:
    """The best acquisitions of every cell, S2 by clear sky and spread over time, S1 nearest to the chosen S2; and
    those around each event that covers it."""
    scenes = {(s["source"], s["scene"]): s for s in work.rows("scenes")}
    losers: Counter[str] = Counter()
    hits, notes = _hits(work.region, sorted(work.tables["screen"]["cell"].unique().to_pylist()))
    chosen: list[tuple[Candidate, str]] = []
    for cell, group in itertools.groupby(_candidates(work, scenes), key=lambda c: c.cell):
        chosen += _choose_for_cell(list(group), work.region, losers, hits[cell])
    rows = _rows(chosen, work)
    if not rows:
        notes.append("no cell is covered well enough by any scene: see the losers below")
    notes.append(f"{work.tables['screen'].num_rows} candidates")
    return Outcome(len(rows), tables.table_of(rows, tables.CHIPS), losers=losers, notes=notes)


def _hits(region: Region, cells: list[str]) -> tuple[dict[str, list[Hit]], list[str]]:
    """cell -> the events that cover some of it, in the manifest's order; and what a person should know of them."""
    hits: dict[str, list[Hit]] = defaultdict(list)
    notes: list[str] = []
    zones = squares_of([parse_cell(name) for name in cells])
    told: dict[str, list[tuple[events.EventMap, list[float]]]] = {use.id: [] for use in region.events}
    for mapped in events.load_events(region, extents=False):
        found = events.shares(mapped, zones)
        for cell, share in found.items():
            hits[cell.name].append(Hit(mapped.event, mapped.use, share))
        told[mapped.use.id].append((mapped, list(found.values())))
    for use in region.events:
        notes += events.notes_on(use, told[use.id], region)
    return hits, notes


def _candidates(work: Work, scenes: dict[tuple[str, str], dict[str, Any]]) -> Iterator[Candidate]:
    """Cell after cell."""
    columns = ["cell", "scene", "source", "coverage", "screened", "scl_0", *[f"scl_{k}" for k in CLOUD_CLASSES]]
    table = work.tables["screen"].select(columns)
    for name in ("scene", "source"):
        # Each name once: those of all candidates may be more text than Arrow sorts in one column.
        table = table.set_column(table.schema.get_field_index(name), name, table[name].dictionary_encode())
    # Batch by batch: as Python rows, the candidates of a thousand scenes would take tens of GB.
    batches = table.sort_by("cell").to_batches(max_chunksize=100_000)
    for row in (row for batch in batches for row in batch.to_pylist()):
        scene = scenes[row["source"], row["scene"]]
        cloud, nodata = None, 1 - row["coverage"]
        if row["screened"]:
            cloud = round(sum(row[f"scl_{k}"] for k in CLOUD_CLASSES), 6)
            nodata = max(nodata, float(row["scl_0"]))
        own = parse_cell(row["cell"]).epsg == scene["epsg"]
        yield Candidate(row["cell"], scene, row["coverage"], round(nodata, 6), cloud, own)


def _choose_for_cell(
    candidates: list[Candidate], region: Region, losers: Counter[str], hits: Sequence[Hit] = ()
) -> list[tuple[Candidate, str]]:
    good = []
    for candidate in candidates:
        if candidate.nodata > region.max_nodata:
            losers["not covered"] += 1
        elif candidate.cloud is not None and candidate.cloud > region.max_cloud:
            losers["cloud"] += 1
        else:
            good.append(candidate)
    s2 = _choose(good, "s2", region, [], hits, losers)
    return s2 + _choose(good, "s1", region, [c for c, _ in s2], hits, losers)


def _choose(
    candidates: list[Candidate],
    sensor: str,
    region: Region,
    partners: list[Candidate],
    hits: Sequence[Hit],
    losers: Counter[str],
) -> list[tuple[Candidate, str]]:
    """`per_cell` acquisitions of a sensor and those around each event, with their roles: best ones first.

    Several sources of one sensor share the largest of their numbers. partners: the S2 chosen, which S1 goes with.
    """
    uses = {u.source: u for u in region.imagery if region.source(u.source).sensor == sensor}
    passes = _one_per_pass([c for c in candidates if c.scene["source"] in uses], losers)
    if not passes:
        return []
    number = max(use.per_cell for use in uses.values())
    best = _nearest(passes, partners, number, uses, hits) if partners else _spread(passes, number)
    roles: dict[tuple[str, str], list[str]] = {c.key: ["best"] for c in best}
    for hit in hits:
        if hit.share >= hit.use.min_event_share:
            for candidate in hit.before(passes):
                roles.setdefault(candidate.key, []).append(f"before:{hit.event.id}")
            for candidate in hit.after(passes):
                roles.setdefault(candidate.key, []).append(f"after:{hit.event.id}")
    for candidate in passes:
        if candidate.key not in roles:
            losers[_reason(candidate, partners, uses, hits)] += 1
    by_key = {c.key: c for c in passes}
    return [(by_key[key], " ".join(why)) for key, why in roles.items()]


def _one_per_pass(candidates: list[Candidate], losers: Counter[str]) -> list[Candidate]:
    """The winner of each pass: the same platform within 15 minutes, as overlapping tiles are."""
    passes: list[list[Candidate]] = []
    for candidate in sorted(candidates, key=lambda c: (c.scene["platform"], c.when, c.scene["scene"])):
        first = passes[-1][0] if passes else None
        if first and first.scene["platform"] == candidate.scene["platform"] and candidate.when - first.when <= PASS:
            passes[-1].append(candidate)
        else:
            passes.append([candidate])
    losers["same pass"] += len(candidates) - len(passes)
    return [min(members, key=lambda c: c.rank) for members in passes]


def _spread(passes: list[Candidate], number: int) -> list[Candidate]:
    """The clearest first, then always the one farthest in time from those taken (ties: clearer, then earlier)."""
    left = sorted(passes, key=lambda c: (c.cloud or 0.0, *_in_time(c)))
    taken = [left.pop(0)]
    while left and len(taken) < number:
        best = max(left, key=lambda c: (_gap(c, taken), -(c.cloud or 0.0), -c.when.timestamp()))
        left.remove(best)
        taken.append(best)
    return taken


def _in_time(candidate: Candidate) -> tuple[dt.datetime, str]:
    return candidate.when, candidate.scene["scene"]


def _gap(candidate: Candidate, others: list[Candidate]) -> dt.timedelta:
    return min(abs(candidate.when - other.when) for other in others)


def _nearest(
    passes: list[Candidate], partners: list[Candidate], number: int, uses: dict[str, Imagery], hits: Sequence[Hit]
) -> list[Candidate]:
    """Per chosen S2 the S1 nearest in time: at most max_days_apart away, on the same side of every event that covers
    some of the cell, the first S2's orbit direction preferred. The best S2 come first, then those around events."""
    taken: list[Candidate] = []
    orbit = None
    for partner in partners:
        near = [c for c in passes if c not in taken and _in_reach(c, partner, uses) and _same_side(c, partner, hits)]
        if near and len(taken) < number:
            best = min(near, key=lambda c: (abs(c.when - partner.when), c.scene["orbit"] != orbit, *_in_time(c)))
            orbit = orbit or best.scene["orbit"]
            taken.append(best)
    return taken


def _in_reach(s1: Candidate, s2: Candidate, uses: dict[str, Imagery]) -> bool:
    return abs(s1.when - s2.when) <= dt.timedelta(days=uses[s1.scene["source"]].max_days_apart)


def _same_side(one: Candidate, other: Candidate, hits: Sequence[Hit]) -> bool:
    """Both before an event's first day, or neither, for each event."""
    return all(hit.event.began(one.day) == hit.event.began(other.day) for hit in hits)


def _reason(candidate: Candidate, partners: list[Candidate], uses: dict[str, Imagery], hits: Sequence[Hit]) -> str:
    """Why an acquisition was not chosen."""
    near = [p for p in partners if _in_reach(candidate, p, uses)]
    if partners and not near:
        return "too far in time from S2"
    if partners and not any(_same_side(candidate, p, hits) for p in near):
        return "other side of an event"
    return "more than per_cell"


def _rows(chosen: list[tuple[Candidate, str]], work: Work) -> list[dict[str, Any]]:
    import numpy as np
    import shapely

    rows = []
    for candidate, role in chosen:
        cell, scene = parse_cell(candidate.cell), candidate.scene
        west, south, east, north = cell.bounds
        move = transformer(cell.epsg, 4326)
        lon, lat = move.transform((west + east) / 2, (south + north) / 2)
        outline = np.column_stack(move.transform([west, east, east, west, west], [south, south, north, north, south]))
        rows.append(
            {
                "chip_id": chip_id(cell.name, scene["sensor"], scene["datetime"]),
                "cell": cell.name,
                "size_px": cell.size_px,
                "epsg": cell.epsg,
                **dict(zip(("west", "south", "east", "north"), map(float, cell.bounds), strict=True)),
                "lon": round(float(lon), 7),
                "lat": round(float(lat), 7),
                **{k: scene[k] for k in ("sensor", "source", "collection", "scene", "platform", "datetime", "orbit")},
                "coverage": candidate.coverage,
                "cloud": candidate.cloud,
                "role": role,
                "dropped": None,
                "geometry": shapely.Polygon(outline.round(9)).wkb,
            }
        )
    return sorted(rows, key=lambda r: r["chip_id"])
