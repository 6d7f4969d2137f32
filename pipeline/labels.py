"""Stage labels: cells -> area share of every code of every label source. Meaning comes later, in captions."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import events, tables
from pipeline.catalog import catalogue_files
from pipeline.grid import Cell, parse_cell
from pipeline.label_files import LabelFile, check_kinds, files_of, href_of, is_watched, where_of
from pipeline.label_shares import Measured, check_openable, measure, meet
from pipeline.receipt import UNREADABLE, counted_as
from pipeline.region import LabelUse, Region
from pipeline.sandbox import VERSION as WORLD_VERSION
from pipeline.sandbox import size_of
from pipeline.source import Source
from pipeline.vector import with_siblings
from pipeline.work import Outcome, Work

if TYPE_CHECKING:
    import pyarrow as pa

Said = tuple[dt.date | None, str, float]
"""Day that a source shows, code, share of the cell."""
ROWS = 100_000
WINDOW_CELLS = 32
"""Cells are read by windows of this many rows and columns: at 1.2 km, 38 km of label raster at once."""


def params(region: Region) -> dict[str, Any]:
    keys = ("items", "href", "collection", "asset", "attribute", "layer", "nodata", "band", "probabilities")
    return {
        "labels": [
            use.model_dump(mode="json") | {"keys": {key: getattr(region.source(use.source), key) for key in keys}}
            for use in region.labels
        ],
        "events": events.params(region, "kind", "source", "href", "analysed", "start", "damage", "mmi"),
    } | _api_params(region)


def _api_params(region: Region) -> dict[str, Any]:
    """Where labels come from an API: its name, and the version of the sample world if it is one."""
    apis = {use.source: api for use in region.labels if (api := _api(use, region.source(use.source)))}
    world = {"world": WORLD_VERSION} if any(map(size_of, apis.values())) else {}
    return {"apis": apis} | world if apis else {}


def _api(use: LabelUse, source: Source) -> str | None:
    """The API that a use is searched at: a file that is named goes before it."""
    return None if use.href or source.href or source.items else source.api


def outside(region: Region) -> list[Path]:
    """The files that the manifest names; rasters that items name are added by the run."""
    files: list[Path] = []
    for k, use in enumerate(region.labels):
        source = region.source(use.source)
        if use.href or source.href:
            path = Path(href_of(use, source, region))
            files += with_siblings(path) if path.exists() and is_watched(str(path), region) else []
        elif source.items:
            files += catalogue_files(source, where_of(region, k))
    return files + events.files(region, "href", "analysed", "damage")


def measure_labels(work: Work) -> Outcome:
    """Area shares per (cell, source, date, code) and per (cell, event) near it.

    A cell that a source does not label keeps a row with the reason.
    """
    import pyarrow as pa

    cells = [parse_cell(name) for name in sorted(set(work.tables["chips"].column("cell").to_pylist()))]
    parts: list[pa.Table] = []
    notes: list[str] = []
    opened: list[Path] = []
    for name in dict.fromkeys(use.source for use in work.region.labels):
        files = files_of(work, name, notes)
        opened += [p for f in files if is_watched(f.href, work.region) for p in with_siblings(Path(f.href))]
        check_openable(files)
        found, failed = _measure_source(work, name, files, cells)
        parts += _tables(_rows(name, cells, found, failed))
        labelled = sum(bool(found.get(cell)) for cell in cells)
        if labelled < len(cells):
            notes.append(f"warning: label source '{name}' labels {labelled} of {len(cells)} cells")
    maps = events.load_events(work.region)
    notes += [note for mapped in maps for note in events.extent_notes(mapped)]
    parts += _tables(events.rows_of(maps, cells))
    order = [(name, "ascending") for name in ("cell", "source", "event", "date", "code")]
    table = pa.concat_tables([tables.LABELS.empty_table(), *parts]).sort_by(order).combine_chunks()
    dropped = Counter(map(counted_as, table["dropped"].drop_null().to_pylist()))
    return Outcome(table.num_rows, table, dropped=dropped, notes=notes, outside=opened)


def _measure_source(
    work: Work, name: str, files: list[LabelFile], cells: list[Cell]
) -> tuple[dict[Cell, list[Said]], dict[Cell, str]]:
    """cell -> what is said of it, and cell -> why it could not be read. A cell that a file touches without labelling it
    has nothing. Files of one day are one mosaic."""
    found: dict[Cell, list[Said]] = {}
    failed: dict[Cell, str] = {}
    days = sorted({f.date for f in files}, key=lambda d: d or dt.date.min)
    jobs = [job for day in days for job in _jobs([f for f in files if f.date == day], cells)]
    for measured, (mosaic, _) in zip(work.jobs(_measure_window, jobs, len(jobs), name), jobs, strict=True):
        for cell, shares in measured:
            if isinstance(shares, str):
                failed[cell] = shares
                continue
            if sum(shares.values()) > 1 + 1e-6:
                raise AssertionError(f"{name} labels {sum(shares.values()):.3f} of cell {cell.name}")
            mine = found.setdefault(cell, [])
            mine += [(mosaic[0].date, code, round(share, 9)) for code, share in shares.items() if share > 0]
    return {cell: said for cell, said in found.items() if cell not in failed}, failed


def _rows(
    source: str, cells: list[Cell], found: dict[Cell, list[Said]], failed: dict[Cell, str]
) -> Iterator[dict[str, Any]]:
    """One per code that a cell has, or one that says why there is none."""
    for cell in cells:
        same = {"cell": cell.name, "source": source} | events.NOT_AN_EVENT
        if cell in failed:
            reason = f"{UNREADABLE}: {failed[cell]}"
            yield same | {"date": None, "code": None, "share": None, "dropped": reason}
            continue
        for date, code, share in found.get(cell, ()):
            yield same | {"date": date, "code": code, "share": share, "dropped": None}
        if not found.get(cell):
            reason = "no data" if cell in found else "not covered"
            yield same | {"date": None, "code": None, "share": None, "dropped": reason}


def _tables(rows: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    """The rows as tables: as Python's dictionaries, a million of them would take 650 MB."""
    left = iter(rows)
    while some := list(itertools.islice(left, ROWS)):
        yield tables.table_of(some, tables.LABELS)


def _jobs(files: list[LabelFile], cells: list[Cell]) -> list[tuple[list[LabelFile], list[Cell]]]:
    """Files of one day with the cells of one window they may touch, window by window."""
    from pipeline.raster import bounds_in

    check_kinds(files)
    windows: dict[tuple[int, int, int], list[Cell]] = {}
    for cell in cells:
        windows.setdefault((cell.epsg, cell.row // WINDOW_CELLS, cell.col // WINDOW_CELLS), []).append(cell)
    jobs = []
    for (epsg, _, _), members in sorted(windows.items()):
        boxes = np.array([cell.bounds for cell in members], float)
        around = bounds_in((*boxes[:, :2].min(0), *boxes[:, 2:].max(0)), epsg, "EPSG:4326")
        near = [f for f in files if f.footprint is None or meet(f.footprint.bounds, around)]
        if near:
            jobs.append((near, members))
    return jobs


def _measure_window(_: Work, job: tuple[list[LabelFile], list[Cell]]) -> list[tuple[Cell, Measured]]:
    """Job: the cells of one window that files of one day touch, with the shares of their codes."""
    return list(measure(*job))
