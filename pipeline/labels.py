"""Stage labels: cells -> area share of every code of every label source. Meaning comes later, in captions."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harmonize.problem import Problem
from pipeline import tables
from pipeline.catalog import catalogue_files, read_items
from pipeline.grid import Cell, parse_cell
from pipeline.region import LabelUse, Region
from pipeline.source import Source
from pipeline.vector import SUFFIXES, cell_shares, read_codes
from pipeline.work import Outcome, Work

WINDOW_CELLS = 32
"""Cells are read by windows of this many rows and columns: at 1.2 km, 38 km of label raster at once."""
SAMPLE_M = 10
"""Label rasters are looked at every 10 m: codes are counted, never averaged."""

Shares = dict[str, float]


@dataclass(frozen=True)
class LabelFile:
    """One file of a label source."""

    source: Source
    href: str
    date: dt.date | None
    where: str
    footprint: Any = None


def params(region: Region) -> dict[str, Any]:
    keys = ("items", "href", "collection", "asset", "attribute", "layer", "nodata")
    return {
        "labels": [
            use.model_dump(mode="json") | {"keys": {key: getattr(region.source(use.source), key) for key in keys}}
            for use in region.labels
        ]
    }


def outside(region: Region) -> list[Path]:
    """The files that the manifest names; rasters that items name are added by the run."""
    files: list[Path] = []
    for k, use in enumerate(region.labels):
        source = region.source(use.source)
        if use.href or source.href:
            path = Path(_href(use, source, region))
            files += [path] if path.exists() else []
        elif source.items:
            files += catalogue_files(source, _where(region, k))
    return files


def measure_labels(work: Work) -> Outcome:
    """Area shares per (cell, source, date, code); a cell that a source does not label keeps a row with the reason."""
    cells = [parse_cell(name) for name in sorted(set(work.tables["chips"].column("cell").to_pylist()))]
    rows: list[dict[str, Any]] = []
    notes, opened = [], []
    for k, use in enumerate(work.region.labels):
        found: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in cells}
        touched: set[Cell] = set()
        for file in work.track(files := list(_files(work, k, use)), len(files), use.source):
            if "://" not in file.href:
                opened.append(Path(file.href))
            for cell, shares in _measure(file, cells):
                touched.add(cell)
                found[cell] += [
                    _row(cell, use.source, file.date, code, s) for code, s in sorted(shares.items()) if s > 0
                ]
        for cell in cells:
            rows += found[cell] or [_missing(cell, use.source, "no data" if cell in touched else "not covered")]
        labelled = sum(bool(found[cell]) for cell in cells)
        if labelled < len(cells):
            notes.append(f"warning: label source '{use.source}' labels {labelled} of {len(cells)} cells")
    rows.sort(key=lambda r: (r["cell"], r["source"], r["date"] or dt.date.min, r["code"] or ""))
    dropped = Counter(r["dropped"] for r in rows if r["dropped"])
    return Outcome(len(rows), tables.table_of(rows, tables.LABELS), dropped=dropped, notes=notes, outside=opened)


def _row(cell: Cell, source: str, date: dt.date | None, code: str, share: float) -> dict[str, Any]:
    return {"cell": cell.name, "source": source, "date": date, "code": code, "share": round(share, 9), "dropped": None}


def _missing(cell: Cell, source: str, reason: str) -> dict[str, Any]:
    return {"cell": cell.name, "source": source, "date": None, "code": None, "share": None, "dropped": reason}


def _where(region: Region, k: int) -> str:
    return f"{region.path}, key 'labels[{k}]' ({region.labels[k].source})"


def _href(use: LabelUse, source: Source, region: Region) -> str:
    if use.href:
        return use.href if "://" in use.href else str(region.relative(use.href))
    return source.path_of(source.href or "")


def _files(work: Work, k: int, use: LabelUse) -> Iterator[LabelFile]:
    source, where = work.region.source(use.source), _where(work.region, k)
    if use.href or source.href:
        href = _href(use, source, work.region)
        if "://" not in href and not Path(href).exists():
            fix = "check href; it is relative to the manifest's folder"
            raise Problem(f"there is no label file {href}", where=where, fix=fix)
        yield LabelFile(source, href, use.date, where)
        return
    if not source.items:
        raise Problem(
            f"label source '{use.source}' is a STAC API; this version reads catalogues on disk",
            where=where,
            fix="use items = '…' or href = '…'",
        )
    yield from _items(source, where)


def _items(source: Source, where: str) -> Iterator[LabelFile]:
    import json

    import shapely

    if source.asset is None:
        raise Problem("the label source does not name its asset", where=where, fix="add asset = 'data' to the source")
    for item in read_items(source, where):
        href = item["assets"].get(source.asset, {}).get("href")
        if not href or ("://" not in href and not Path(href).exists()):
            place = f"item {item['id']} in {item['_file']}, key 'assets.{source.asset}'"
            raise Problem(
                "the label asset is missing", where=place, fix=f"assets there: {', '.join(sorted(item['assets']))}"
            )
        text = item["properties"].get("datetime") or item["properties"].get("start_datetime")
        date = dt.date.fromisoformat(str(text)[:10]) if text else None
        yield LabelFile(source, href, date, where, shapely.from_geojson(json.dumps(item["geometry"])))


def _measure(file: LabelFile, cells: list[Cell]) -> Iterator[tuple[Cell, Shares]]:
    """Cells that a file touches, with the shares of its codes (nodata left out, so shares may sum to less than 1)."""
    if file.footprint is not None:
        cells = _near(cells, file.footprint.bounds)
    if Path(file.href).suffix.lower() in SUFFIXES:
        frame = read_codes(Path(file.href), file.source.attribute, file.where, file.source.layer)
        for cell in cells:
            shares = cell_shares(frame, cell.epsg, cell.bounds)
            if shares:
                yield cell, shares
        return
    yield from _measure_raster(file, cells)


def _near(cells: list[Cell], bounds: tuple[float, float, float, float]) -> list[Cell]:
    from pipeline.raster import bounds_in

    west, south, east, north = bounds
    boxes = [bounds_in(cell.bounds, cell.epsg, "EPSG:4326") for cell in cells]
    return [
        c for c, b in zip(cells, boxes, strict=True) if b[0] < east and b[2] > west and b[1] < north and b[3] > south
    ]


def _measure_raster(file: LabelFile, cells: list[Cell]) -> Iterator[tuple[Cell, Shares]]:
    from pipeline import raster

    windows: dict[tuple[int, int, int], list[Cell]] = {}
    for cell in cells:
        windows.setdefault((cell.epsg, cell.row // WINDOW_CELLS, cell.col // WINDOW_CELLS), []).append(cell)
    for (epsg, _, _), members in sorted(windows.items()):
        boxes = np.array([cell.bounds for cell in members], float)
        bounds = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))
        try:
            classes = raster.read_classes(file.href, epsg, bounds)
        except raster.UnreadableRaster as error:
            raise Problem(f"a label raster cannot be read: {error}", where=file.where, fix="mend the file") from None
        if classes is None:
            continue
        for cell in members:
            target = raster.Target(epsg, cell.bounds[0], cell.bounds[3], SAMPLE_M, cell.side_m // SAMPLE_M)
            codes = raster.class_pixels(classes, target)
            if (codes != raster.OUTSIDE).any():
                yield cell, _shares(codes, file.source.nodata_values)


def _shares(codes: np.ndarray, nodata: tuple[float, ...]) -> Shares:
    from pipeline.raster import OUTSIDE

    values, counts = np.unique(codes, return_counts=True)
    unlabelled = {OUTSIDE, *nodata}
    return {str(int(v)): n / codes.size for v, n in zip(values, counts, strict=True) if v not in unlabelled}
