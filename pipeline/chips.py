"""Stage chips: candidates -> the acquisitions kept per cell and sensor. No pixel is read.

One chip per cell, sensor and pass. Losers are no rows: they are counted by reason in the receipt.
"""

from __future__ import annotations

import datetime as dt
import io
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipeline import tables
from pipeline.grid import chip_id, parse_cell, transformer
from pipeline.region import Imagery, Region
from pipeline.work import Outcome, Work

PASS = dt.timedelta(minutes=15)
CLOUD_CLASSES = (3, 8, 9, 10)
"""SCL: cloud shadow, cloud medium and high probability, thin cirrus (facts/s2_scl.csv)."""


@dataclass(frozen=True)
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
    def rank(self) -> tuple[Any, ...]:
        """Winner of one pass first: the cell's own EPSG, full coverage, least nodata, lowest scene id."""
        return not self.own_epsg, self.coverage < 1, self.nodata, self.scene["scene"]


def params(region: Region) -> dict[str, Any]:
    imagery = [use.model_dump(mode="json") for use in region.imagery]
    return {"imagery": imagery, "max_cloud": region.max_cloud, "max_nodata": region.max_nodata}


def choose_chips(work: Work) -> Outcome:
    """The best acquisitions of every cell: S2 by clear sky and spread over time, S1 nearest to the chosen S2."""
    scenes = {(s["source"], s["scene"]): s for s in work.rows("scenes")}
    losers: Counter[str] = Counter()
    candidates = _read_candidates(work, scenes)
    count = len(candidates)
    chosen: list[tuple[Candidate, str]] = []
    for _, group in itertools.groupby(sorted(candidates, key=lambda c: c.cell), key=lambda c: c.cell):
        chosen += _choose_for_cell(list(group), work.region, losers)
    rows = _rows(chosen, work)
    notes = [] if rows else ["no cell is covered well enough by any scene: see the losers below"]
    return Outcome(len(rows), tables.table_of(rows, tables.CHIPS), losers=losers, notes=[*notes, f"{count} candidates"])


def _read_candidates(work: Work, scenes: dict[tuple[str, str], dict[str, Any]]) -> list[Candidate]:
    found = []
    columns = ["cell", "scene", "source", "coverage", "screened", "scl_0", *[f"scl_{k}" for k in CLOUD_CLASSES]]
    # Batch by batch: as Python rows, the candidates of a thousand scenes would take tens of GB.
    batches = work.tables["screen"].select(columns).to_batches(max_chunksize=100_000)
    for row in (row for batch in batches for row in batch.to_pylist()):
        scene = scenes[row["source"], row["scene"]]
        cloud, nodata = None, 1 - row["coverage"]
        if row["screened"]:
            cloud = round(sum(row[f"scl_{k}"] for k in CLOUD_CLASSES), 6)
            nodata = max(nodata, float(row["scl_0"]))
        own = parse_cell(row["cell"]).epsg == scene["epsg"]
        found.append(Candidate(row["cell"], scene, row["coverage"], round(nodata, 6), cloud, own))
    return found


def _choose_for_cell(candidates: list[Candidate], region: Region, losers: Counter[str]) -> list[tuple[Candidate, str]]:
    good = []
    for candidate in candidates:
        if candidate.nodata > region.max_nodata:
            losers["not covered"] += 1
        elif candidate.cloud is not None and candidate.cloud > region.max_cloud:
            losers["cloud"] += 1
        else:
            good.append(candidate)
    s2 = _choose(good, "s2", region, [], losers)
    s1 = _choose(good, "s1", region, s2, losers)
    return [(candidate, "best") for candidate in s2 + s1]


def _choose(
    candidates: list[Candidate], sensor: str, region: Region, partners: list[Candidate], losers: Counter[str]
) -> list[Candidate]:
    """`per_cell` acquisitions of a sensor; several sources of one sensor share the largest of their numbers."""
    uses = {u.source: u for u in region.imagery if region.source(u.source).sensor == sensor}
    passes = _one_per_pass([c for c in candidates if c.scene["source"] in uses], losers)
    if not passes:
        return []
    number = max(use.per_cell for use in uses.values())
    if partners:
        return _nearest(passes, partners, number, uses, losers)
    return _spread(passes, number, losers)


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


def _spread(passes: list[Candidate], number: int, losers: Counter[str]) -> list[Candidate]:
    """The clearest first, then always the one farthest in time from those taken (ties: clearer, then earlier)."""
    left = sorted(passes, key=lambda c: (c.cloud or 0.0, c.when, c.scene["scene"]))
    taken = [left.pop(0)]
    while left and len(taken) < number:
        best = max(left, key=lambda c: (_gap(c, taken), -(c.cloud or 0.0), -c.when.timestamp()))
        left.remove(best)
        taken.append(best)
    losers["more than per_cell"] += len(left)
    return taken


def _gap(candidate: Candidate, others: list[Candidate]) -> dt.timedelta:
    return min(abs(candidate.when - other.when) for other in others)


def _nearest(
    passes: list[Candidate], partners: list[Candidate], number: int, uses: dict[str, Imagery], losers: Counter[str]
) -> list[Candidate]:
    """Per chosen S2 the S1 nearest in time, at most max_days_apart away, the first S2's orbit direction preferred."""
    taken: list[Candidate] = []
    orbit = None
    for partner in partners:
        near = [
            c
            for c in passes
            if c not in taken
            and abs(c.when - partner.when) <= dt.timedelta(days=uses[c.scene["source"]].max_days_apart)
        ]
        if near and len(taken) < number:
            best = min(
                near, key=lambda c: (abs(c.when - partner.when), c.scene["orbit"] != orbit, c.when, c.scene["scene"])
            )
            orbit = orbit or best.scene["orbit"]
            taken.append(best)
    for candidate in passes:
        if candidate not in taken:
            far = all(
                abs(candidate.when - p.when) > dt.timedelta(days=uses[candidate.scene["source"]].max_days_apart)
                for p in partners
            )
            losers["too far in time from S2" if far else "more than per_cell"] += 1
    return taken


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


def read_screen(work_store: Any, names: list[str]) -> Any:
    """All candidate files as one table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [pq.read_table(io.BytesIO(work_store.read(name))) for name in names]
    return pa.concat_tables(parts) if parts else tables.SCREEN.empty_table()
