"""What the shards of a region hold, counted once and from columns, for the card, Croissant and the STAC collection."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harmonize.vocabulary import CLASSES
from pipeline.events import PART
from pipeline.licences import RollUp, roll_up, with_years
from pipeline.region import Region
from pipeline.sample import SENSORS, SPLITS
from pipeline.sandbox import size_of
from pipeline.source import Source

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SENTINEL = "Contains modified Copernicus Sentinel data {years}."


@dataclass(frozen=True)
class Days:
    """Days that the maps of a label source show."""

    first: dt.date | None
    """None where no map of it says when it was made."""
    last: dt.date | None
    years: tuple[int, ...]
    gap: tuple[int, int] | None
    """Days between a chip and the nearest map of its cell: the median and the longest; None where none has a date."""
    cells: int


@dataclass(frozen=True)
class Contents:
    """Counts of the samples, with where and when they are."""

    region: Region
    rows: int
    shards: list[dict[str, Any]]
    """url, nsamples, bytes, sha256, split and sensor of each tar."""
    samples: Counter[tuple[str, str]]
    """(split, sensor) -> samples."""
    classes: Counter[tuple[str, str]]
    """(class, split) -> samples that have it."""
    unknown: Counter[str]
    """Class -> samples of which nobody knows whether they have it."""
    events: Counter[str]
    """Event -> samples that bear its label."""
    first: dt.datetime
    last: dt.datetime
    boxes: dict[int, tuple[float, float, float, float]]
    """EPSG code of the cells -> west, south, east, north in degrees: a zone never crosses the antimeridian."""
    distinct: dict[str, int]
    """Column -> how many values it has: cell, block, scene."""
    years: dict[str, list[int]]
    """Source -> years of its acquisitions or maps."""
    maps: dict[str, Days]
    """Label source -> days it shows."""

    @property
    def sensors(self) -> list[str]:
        """Sensors that have samples."""
        return [sensor for sensor in SENSORS if any(self.samples[split, sensor] for split in SPLITS)]

    def with_event(self, name: str) -> int:
        """Samples that bear the label of a manifest's event, whichever of the events of its file."""
        return sum(n for event, n in self.events.items() if event == name or event.startswith(name + PART))

    @property
    def licences(self) -> dict[str, str]:
        """Source or event -> its licence."""
        return licences(self.region)

    @property
    def roll_up(self) -> RollUp:
        return roll_up(self.licences)

    @property
    def attributions(self) -> dict[str, str]:
        """Source or event -> the sentence its licence wants, with the years; empty where the manifest has none."""
        region = self.region
        found = {name: with_years(_attribution(region.source(name)), self.years.get(name, [])) for name in region.used}
        return found | {e.id: with_years(e.attribution, [e.start.year] if e.start else []) for e in region.events}

    @property
    def box(self) -> tuple[float, float, float, float]:
        """west, south, east, north of all; west is greater than east where it crosses the antimeridian (RFC 7946)."""
        west, south, east, north = zip(*self.boxes.values(), strict=True)
        right, left = [w for w in west if w >= 0], [e for e in east if e <= 0]
        if max(east) - min(west) > 180 and right and left:
            return min(right), min(south), max(left), max(north)
        return min(west), min(south), max(east), max(north)


def _attribution(source: Source) -> str:
    """What the source says; else what all imagery here owes, since both sensors are Sentinels (EU 1159/2013)."""
    drawn = size_of(source.api) is not None
    return source.attribution or (SENTINEL if source.kind == "imagery" and not drawn else "")


def licences(region: Region) -> dict[str, str]:
    """Source or event -> its licence."""
    found = {name: region.source(name).licence for name in region.used}
    return found | {event.id: event.licence for event in region.events}


def contents_of(
    region: Region, samples: pa.Table, bounds: np.ndarray, labels: pa.Table, shards: list[dict[str, Any]]
) -> Contents:
    """Of `samples` (columns of chips and captions), their `bounds` in degrees (rows of west, south, east, north) and
    the labels table."""
    import pyarrow.compute as pc

    split = samples["split"].to_numpy()
    masks = {name: samples[name].to_numpy() for name in ("label_mask", "known_mask")}
    has = {name: (masks["label_mask"] >> k & 1).astype(bool) for k, name in enumerate(CLASSES)}
    knows = {name: (masks["known_mask"] >> k & 1).astype(bool) for k, name in enumerate(CLASSES)}
    epsg, range_ = samples["epsg"].to_numpy(), pc.min_max(samples["datetime"]).as_py()
    maps = _maps(samples, labels)
    return Contents(
        region=region,
        rows=samples.num_rows,
        shards=shards,
        samples=_count(samples, "split", "sensor"),
        classes=Counter({(name, s): int((has[name] & (split == s)).sum()) for name in CLASSES for s in set(split)}),
        unknown=Counter({name: int((~known).sum()) for name, known in knows.items()}),
        events=Counter(pc.list_flatten(samples["events"]).to_pylist()),
        first=range_["min"],
        last=range_["max"],
        boxes={int(code): _box(bounds[epsg == code]) for code in sorted(set(epsg))},
        distinct={name: pc.count_distinct(samples[name]).as_py() for name in ("cell", "block", "scene")},
        years=_years(samples) | {name: list(days.years) for name, days in maps.items()},
        maps=maps,
    )


def _count(table: pa.Table, *columns: str) -> Counter[Any]:
    counted = table.group_by(list(columns)).aggregate([([], "count_all")])
    keys = zip(*(counted[name].to_pylist() for name in columns), strict=True)
    return Counter(dict(zip(keys, counted["count_all"].to_pylist(), strict=True)))


def _box(bounds: np.ndarray) -> tuple[float, float, float, float]:
    low, high = bounds.min(axis=0), bounds.max(axis=0)
    return float(low[0]), float(low[1]), float(high[2]), float(high[3])


def _years(samples: pa.Table) -> dict[str, list[int]]:
    """Imagery source -> years of its acquisitions."""
    import pyarrow as pa
    import pyarrow.compute as pc

    seen = pa.table({"source": samples["source"], "year": pc.year(samples["datetime"])})
    found: dict[str, list[int]] = {}
    for source, year in sorted(_count(seen, "source", "year")):
        found.setdefault(source, []).append(year)
    return found


def _maps(samples: pa.Table, labels: pa.Table) -> dict[str, Days]:
    """Label source -> the days its maps of our cells show. Events are no maps."""
    import pyarrow.compute as pc

    land = labels.filter(pc.and_(pc.is_null(labels["event"]), pc.is_null(labels["dropped"])))
    shown = land.select(["source", "cell", "date"]).group_by(["source", "cell", "date"]).aggregate([])
    shown = shown.filter(pc.is_in(shown["cell"], pc.unique(samples["cell"])))
    return {name: _days(samples, shown.filter(pc.equal(shown["source"], name))) for name in _names(shown)}


def _names(shown: pa.Table) -> list[str]:
    return sorted(set(shown["source"].to_pylist()))


def _days(samples: pa.Table, shown: pa.Table) -> Days:
    import pandas as pd
    import pyarrow.compute as pc

    cells = pc.count_distinct(shown["cell"]).as_py()
    dated = shown.filter(pc.is_valid(shown["date"]))
    if not dated.num_rows:
        return Days(None, None, (), None, cells)
    days = pc.min_max(dated["date"]).as_py()
    maps = pd.DataFrame({"cell": dated["cell"].to_numpy(), "day": dated["date"].to_numpy().astype("datetime64[s]")})
    chips = pd.DataFrame(
        {"cell": samples["cell"].to_numpy(), "taken": samples["datetime"].to_numpy().astype("datetime64[D]")}
    ).astype({"taken": "datetime64[s]"})
    near = pd.merge_asof(
        chips.sort_values("taken", kind="stable"), maps.sort_values("day", kind="stable"),
        left_on="taken", right_on="day", by="cell", direction="nearest",
    )  # fmt: skip
    gaps = (near["taken"] - near["day"]).abs().dt.days.dropna()
    years = tuple(sorted(set(pc.year(dated["date"]).to_pylist())))
    gap = (round(float(gaps.median())), int(gaps.max())) if len(gaps) else None
    return Days(days["min"], days["max"], years, gap, cells)
