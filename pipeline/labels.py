"""Stage labels: cells -> area share of every code of every label source. Meaning comes later, in captions."""

from __future__ import annotations

import datetime as dt
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.problem import Problem
from pipeline import events, tables
from pipeline.access import reachable, unsigned
from pipeline.catalog import Item, catalogue_files, checked_item, read_items
from pipeline.grid import Cell, parse_cell
from pipeline.item import day_shown, footprint, name_of
from pipeline.label_search import label_items
from pipeline.region import LabelUse, Region
from pipeline.sandbox import SCHEME, size_of
from pipeline.sandbox import VERSION as WORLD_VERSION
from pipeline.source import Source
from pipeline.vector import BY_PLACE, SUFFIXES, Around, cell_shares, read_codes, with_siblings
from pipeline.work import Outcome, Work

if TYPE_CHECKING:
    import geopandas

WINDOW_CELLS = 32
"""Cells are read by windows of this many rows and columns: at 1.2 km, 38 km of label raster at once."""
SAMPLE_M = 10
"""Label rasters are looked at every 10 m: codes are counted, never averaged."""

Shares = dict[str, float]


@dataclass(frozen=True, eq=False)
class LabelFile:
    """One file of a label source."""

    source: Source
    href: str
    date: dt.date | None
    where: str
    footprint: Any = None


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
            path = Path(_href(use, source, region))
            files += with_siblings(path) if path.exists() and _is_watched(str(path), region) else []
        elif source.items:
            files += catalogue_files(source, _where(region, k))
    return files + events.files(region, "href", "analysed", "damage")


def measure_labels(work: Work) -> Outcome:
    """Area shares per (cell, source, date, code) and per (cell, event) near it.

    A cell that a source does not label keeps a row with the reason.
    """
    cells = [parse_cell(name) for name in sorted(set(work.tables["chips"].column("cell").to_pylist()))]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    opened: list[Path] = []
    for name in dict.fromkeys(use.source for use in work.region.labels):
        files = files_of(work, name, notes)
        opened += [p for f in files if _is_watched(f.href, work.region) for p in with_siblings(Path(f.href))]
        found = _measure_source(work, name, files, cells)
        for cell in cells:
            rows += found.get(cell) or [_missing(cell, name, "no data" if cell in found else "not covered")]
        labelled = sum(bool(found.get(cell)) for cell in cells)
        if labelled < len(cells):
            notes.append(f"warning: label source '{name}' labels {labelled} of {len(cells)} cells")
    rows = [row | events.NOT_AN_EVENT for row in rows] + events.rows_of(events.load_events(work.region), cells)
    rows.sort(key=lambda r: (r["cell"], r["source"], r["event"] or "", r["date"] or dt.date.min, r["code"] or ""))
    dropped = Counter(r["dropped"] for r in rows if r["dropped"])
    return Outcome(len(rows), tables.table_of(rows, tables.LABELS), dropped=dropped, notes=notes, outside=opened)


def _is_watched(href: str, region: Region) -> bool:
    """Local files are watched for changes, but not those of the sample world: its version stands for them."""
    return "://" not in href and not Path(href).is_relative_to(region.world)


def files_of(work: Work, name: str, notes: list[str]) -> list[LabelFile]:
    """All files of a source, in the order of the manifest; a source may be named with one file after another."""
    return [f for k, use in enumerate(work.region.labels) if use.source == name for f in _files(work, k, use, notes)]


def _measure_source(
    work: Work, name: str, files: list[LabelFile], cells: list[Cell]
) -> dict[Cell, list[dict[str, Any]]]:
    """cell -> its rows; a cell that a file touches without labelling it has none. Files of one day are one mosaic."""
    found: dict[Cell, list[dict[str, Any]]] = {}
    days = sorted({f.date for f in files}, key=lambda d: d or dt.date.min)
    jobs = [job for day in days for job in _jobs([f for f in files if f.date == day], cells)]
    for measured, (mosaic, _) in zip(work.jobs(_measure_window, jobs, len(jobs), name), jobs, strict=True):
        for cell, shares in measured:
            if sum(shares.values()) > 1 + 1e-6:
                raise AssertionError(f"{name} labels {sum(shares.values()):.3f} of cell {cell.name}")
            mine = found.setdefault(cell, [])
            mine += [
                _row(cell, name, mosaic[0].date, code, share) for code, share in sorted(shares.items()) if share > 0
            ]
    return found


def _jobs(files: list[LabelFile], cells: list[Cell]) -> list[tuple[list[LabelFile], list[Cell]]]:
    """Files of one day with the cells of one window they may touch, window by window."""
    from pipeline.raster import bounds_in

    _check_kinds(files)
    windows: dict[tuple[int, int, int], list[Cell]] = {}
    for cell in cells:
        windows.setdefault((cell.epsg, cell.row // WINDOW_CELLS, cell.col // WINDOW_CELLS), []).append(cell)
    jobs = []
    for (epsg, _, _), members in sorted(windows.items()):
        boxes = np.array([cell.bounds for cell in members], float)
        around = bounds_in((*boxes[:, :2].min(0), *boxes[:, 2:].max(0)), epsg, "EPSG:4326")
        near = [f for f in files if f.footprint is None or _meet(f.footprint.bounds, around)]
        if near:
            jobs.append((near, members))
    return jobs


def _measure_window(_: Work, job: tuple[list[LabelFile], list[Cell]]) -> list[tuple[Cell, Shares]]:
    """Job: the cells of one window that files of one day touch, with the shares of their codes."""
    return list(_measure(*job))


def _row(cell: Cell, source: str, date: dt.date | None, code: str, share: float) -> dict[str, Any]:
    return {"cell": cell.name, "source": source, "date": date, "code": code, "share": round(share, 9), "dropped": None}


def _missing(cell: Cell, source: str, reason: str) -> dict[str, Any]:
    return {"cell": cell.name, "source": source, "date": None, "code": None, "share": None, "dropped": reason}


def _where(region: Region, k: int) -> str:
    return f"{region.path}, key 'labels[{k}]' ({region.labels[k].source})"


def _href(use: LabelUse, source: Source, region: Region) -> str:
    href = use.href or source.href or ""
    if href.startswith(SCHEME) or (use.href and "://" not in href):
        return str(region.relative(href).resolve())  # a job may run in another folder
    path = source.path_of(href)
    return path if "://" in path or path.startswith("/vsi") else str(Path(path).resolve())


def _files(work: Work, k: int, use: LabelUse, notes: list[str]) -> Iterator[LabelFile]:
    source, where = work.region.source(use.source), _where(work.region, k)
    if use.href or source.href:
        href = _href(use, source, work.region)
        if "://" not in href and not Path(href).exists():
            fix = "check href; it is relative to the manifest's folder"
            raise Problem(f"there is no label file {href}", where=where, fix=fix)
        yield LabelFile(source, href, use.date, where)
        return
    items = read_items(source, where) if source.items else label_items(work, use, where, notes)
    yield from _of_items(items, work, use, where)


def _of_items(items: list[Item], work: Work, use: LabelUse, where: str) -> Iterator[LabelFile]:
    source = work.region.source(use.source)
    if source.asset is None:
        raise Problem("the label source does not name its asset", where=where, fix="add asset = 'data' to the source")
    for item in items:
        checked_item(item, item["_file"])
        href = work.openable(unsigned(str(item["assets"].get(source.asset, {}).get("href") or "")))
        if not item["assets"].get(source.asset, {}).get("href") or ("://" not in href and not Path(href).exists()):
            place = f"{name_of(item)}, key 'assets.{source.asset}'"
            raise Problem(
                "the label asset is missing", where=place, fix=f"assets there: {', '.join(sorted(item['assets']))}"
            )
        yield LabelFile(source, href, use.date or day_shown(item), where, footprint(item))


def _check_kinds(files: list[LabelFile]) -> None:
    if len({is_vector(f) for f in files}) > 1:
        raise Problem(
            "a label source has vector and raster files for one day",
            where=files[0].where,
            fix="make two sources of them; their order in the manifest says which one rules",
        )


def is_vector(file: LabelFile) -> bool:
    return Path(file.href).suffix.lower() in SUFFIXES


def _measure(files: list[LabelFile], cells: list[Cell]) -> Iterator[tuple[Cell, Shares]]:
    """Cells that files of one day touch, with the shares of their codes; where files overlap, the first one counts.

    Nodata is left out, so shares may sum to less than 1.
    """
    return _measure_vectors(files, cells) if is_vector(files[0]) else _measure_rasters(files, cells)


def _measure_vectors(files: list[LabelFile], cells: list[Cell]) -> Iterator[tuple[Cell, Shares]]:
    boxes = np.array([cell.bounds for cell in cells], float)
    frame = codes_of(files, (cells[0].epsg, (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))))
    for cell in cells:
        shares = cell_shares(frame, cell.epsg, cell.bounds)
        if shares:
            yield cell, shares


def codes_of(files: list[LabelFile], around: Around) -> geopandas.GeoDataFrame:
    """Polygons of the vector files of one day with their `code`, one file after another: those around, or more."""
    import pandas

    frames = [_codes(f.href, f.source.attribute, f.where, f.source.layer, around) for f in files]
    return pandas.concat([f.to_crs(frames[0].crs) for f in frames], ignore_index=True) if files[1:] else frames[0]


def _codes(href: str, attribute: str | None, where: str, layer: str | None, around: Around) -> geopandas.GeoDataFrame:
    if Path(href).suffix.lower() in BY_PLACE:
        return read_codes(Path(href), attribute, where, layer, around)
    return _all_codes(href, attribute, where, layer, _mtime(href))


@functools.lru_cache(maxsize=4)
def _all_codes(href: str, attribute: str | None, where: str, layer: str | None, _: int) -> geopandas.GeoDataFrame:
    """All of a file that cannot be asked by place; kept, since the next window of this process wants it."""
    return read_codes(Path(href), attribute, where, layer)


def _mtime(href: str) -> int:
    path = Path(href)
    return path.stat().st_mtime_ns if path.exists() else 0


def _near(cells: list[Cell], bounds: tuple[float, float, float, float]) -> list[Cell]:
    from pipeline.raster import bounds_in

    return [c for c in cells if _meet(bounds, bounds_in(c.bounds, c.epsg, "EPSG:4326"))]


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (west, south, east, north) overlap."""
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]


def _measure_rasters(files: list[LabelFile], cells: list[Cell]) -> Iterator[tuple[Cell, Shares]]:
    """Cells of one window."""
    codes: dict[Cell, np.ndarray] = {}
    for file in files:
        _paint(codes, file, cells if file.footprint is None else _near(cells, file.footprint.bounds))
    for cell, painted in codes.items():
        yield cell, _shares(painted)


def _paint(codes: dict[Cell, np.ndarray], file: LabelFile, cells: list[Cell]) -> None:
    """Fill in a file's codes where no file before it had any; its nodata is nothing."""
    from pipeline import classes, raster

    if not cells:
        return
    boxes = np.array([cell.bounds for cell in cells], float)
    bounds = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))
    href = reachable(file.href, file.source.sign)
    try:
        around = classes.read_classes(href, cells[0].epsg, bounds, file.source, file.where)
    except raster.UnreadableRaster as error:
        raise Problem(f"a label raster cannot be read: {error}", where=file.where, fix="mend the file") from None
    if around is None:
        return
    for cell in cells:
        target = raster.Target(cell.epsg, cell.bounds[0], cell.bounds[3], SAMPLE_M, cell.side_m // SAMPLE_M)
        fresh = classes.class_pixels(around, target)
        if (fresh == classes.OUTSIDE).all():
            continue
        known = codes.get(cell)
        codes[cell] = fresh if known is None else np.where(np.isin(known, classes.NO_CODE), fresh, known)


def _shares(codes: np.ndarray) -> Shares:
    """code -> share of all pixels; what stands for no code is none."""
    from pipeline.classes import NO_CODE

    values, counts = np.unique(codes, return_counts=True)
    return {str(int(v)): n / codes.size for v, n in zip(values, counts, strict=True) if v not in NO_CODE}
