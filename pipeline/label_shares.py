"""Area shares of the codes of label files in cells: rasters counted on 10 m pixels, polygons cut exactly."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harmonize.problem import Problem
from pipeline.grid import Cell
from pipeline.label_files import LabelFile, is_vector
from pipeline.vector import BY_PLACE, Around, cell_shares, read_codes

if TYPE_CHECKING:
    import geopandas
    import xarray as xr

SAMPLE_M = 10
"""Label rasters are looked at every 10 m: codes are counted, never averaged."""

Shares = dict[str, float]
Measured = Shares | str
"""Of a cell: area shares of codes, or why a file could not be read there."""


def measure(files: list[LabelFile], cells: list[Cell]) -> Iterator[tuple[Cell, Measured]]:
    """Cells that files of one day touch, with the shares of their codes; where files overlap, the first one counts.

    Nodata is left out, so shares may sum to less than 1. A raster that cannot be read costs the cells that it may
    touch; one on a disk may be damaged in one block, so that it is tried cell by cell.
    """
    from pipeline.opening import UnreadableRaster

    if is_vector(files[0]):
        yield from _measure_vectors(files, cells)
        return
    try:
        yield from list(_measure_rasters(files, cells))
    except UnreadableRaster as error:
        if len(cells) == 1 or any("://" in file.href for file in files):
            yield from ((cell, str(error)) for cell in cells)
            return
        for cell in cells:
            yield from measure(files, [cell])


def check_openable(files: list[LabelFile]) -> None:
    """Problem for a raster that the manifest names and that cannot be opened: it is the wrong file for all cells."""
    from pipeline import opening, remote

    for file in files:
        if file.footprint is None and not is_vector(file):
            try:
                remote.read(file.href, file.source.sign, opening.header)
            except opening.UnreadableRaster as error:
                what = f"a label raster cannot be read: {error}"
                raise Problem(what, where=file.where, fix="mend the file, or fetch it again") from None


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

    return [c for c in cells if meet(bounds, bounds_in(c.bounds, c.epsg, "EPSG:4326"))]


def meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
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
    from pipeline import classes, raster, remote

    if not cells:
        return
    boxes = np.array([cell.bounds for cell in cells], float)
    bounds = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))

    def reader(href: str) -> xr.DataArray | None:
        return classes.read_classes(href, cells[0].epsg, bounds, file.source, file.where)

    around = remote.read(file.href, file.source.sign, reader)
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
