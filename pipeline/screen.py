"""Stage screen: scene x cells -> candidates, with how much of each cell the scene covers and its SCL classes.

Thresholds come later (stage chips), so they can change without reading the scene classes again.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.problem import Problem
from pipeline import tables
from pipeline.grid import NORTH_END, SOUTH_END, Cell, centres, transformer
from pipeline.receipt import UNREADABLE, digest
from pipeline.region import Region
from pipeline.work import Outcome, Work

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store import Store

VERSION = 2
SCL_ROWS = 24
"""Cell rows read at once from the scene classes: 24 x 1.2 km of a 20 m band is one strip of 16 MB."""


def params(region: Region) -> dict[str, Any]:
    place = [region.bounds, region.geometry, region.mgrs]
    return {"size_px": region.size_px, "place": place, "max_cloud_asked": region.max_cloud < 1}


def outside(work: Work) -> list[Path]:
    """Local files of scene classes, where they are read at all."""
    hrefs = {_scene_classes(scene, work.region) for scene in work.rows("scenes", ("scene_classes",))}
    return sorted({Path(work.openable(h)) for h in hrefs if h and "://" not in h})


def _scene_classes(scene: dict[str, Any], region: Region) -> str | None:
    """The href of the scene classes to read; None where there are none, or clouds do not matter."""
    return scene["scene_classes"] if region.max_cloud < 1 else None


def screen_scenes(work: Work) -> Outcome:
    """One file of candidates per scene; a scene whose file is there already is not read again."""
    scenes = work.rows("scenes")
    grid = _Grid(work.cells)
    near = (
        (scene, grid.near(scene, work.region.size_px * 10), work.content_of(href) if href else None)
        for scene in scenes
        for href in (_scene_classes(scene, work.region),)
    )
    files, count, notes, dropped = {}, 0, _notes(work), Counter[str]()
    work.begin()
    for name, sha256, rows, failure in work.jobs(_screen_scene, near, len(scenes), "screen", _lost):
        count += rows
        if failure is None:
            files[name] = sha256
        else:
            dropped[UNREADABLE] += rows
            notes.append(f"warning: {UNREADABLE}: {failure}: its {rows} candidates are left out")
    work.store.sweep("screen", set(files))
    return Outcome(rows_in=count, files=files, kept=count - sum(dropped.values()), dropped=dropped, notes=notes)


def _lost(result: tuple[str, str, int, str | None]) -> Counter[str]:
    return Counter({UNREADABLE: result[2]} if result[3] else {})


def _notes(work: Work) -> list[str]:
    notes = []
    if not work.cells:
        notes.append("no cell has its centre in the region: it is smaller than a chip")
    if work.area.bounds[1] < SOUTH_END or work.area.bounds[3] > NORTH_END:
        notes.append("warning: the region reaches beyond 80°S or 84°N, where the grid ends: nothing is kept there")
    return notes


class _Grid:
    """The region's cells with their centres, to find those near a footprint."""

    def __init__(self, cells: list[Cell]) -> None:
        self.cells = np.array(cells, object)
        self.lon, self.lat = np.zeros(len(cells)), np.zeros(len(cells))
        epsg = np.array([c.epsg for c in cells], int)
        for code in np.unique(epsg):
            mine = np.flatnonzero(epsg == code)
            self.lon[mine], self.lat[mine] = centres([cells[k] for k in mine])

    def near(self, scene: dict[str, Any], side_m: float) -> list[Cell]:
        """The cells around the bounds of a scene's footprint."""
        import shapely

        bounds = shapely.from_wkb(scene["geometry"]).bounds
        lat_margin = side_m / 111_000
        lon_margin = lat_margin / max(0.05, float(np.cos(np.radians(max(abs(bounds[1]), abs(bounds[3]))))))
        west, south, east, north = bounds
        inside = (self.lon > west - lon_margin) & (self.lon < east + lon_margin)
        inside &= (self.lat > south - lat_margin) & (self.lat < north + lat_margin)
        return list(self.cells[inside])


def _screen_scene(
    work: Work, argument: tuple[dict[str, Any], list[Cell], str | None]
) -> tuple[str, str, int, str | None]:
    """Job: write the candidates of one scene among the cells near it; file, sha256, number of rows, and why there is
    no file: its clouds are unknown where its scene classes cannot be read.

    The last of the argument stands for the bytes of the scene classes: a job knows no outside file's hash.
    """
    scene, cells, content = argument
    rows, name = _candidates(scene, cells, content)
    from pipeline.opening import UnreadableRaster

    try:
        return name, _write(work, name, rows, scene), len(rows), None
    except UnreadableRaster as error:
        return name, "", len(rows), f"{error} (scene classes of {scene['scene']}, {scene['source']})"


def _candidates(scene: dict[str, Any], cells: list[Cell], content: str | None) -> tuple[list[dict[str, Any]], str]:
    """Candidate rows of a scene, without scene classes, and the file name they belong in."""
    import shapely

    footprint = shapely.from_wkb(scene["geometry"])
    rectangle = shapely.box(scene["west"], scene["south"], scene["east"], scene["north"])
    rows = []
    for epsg in sorted({c.epsg for c in cells}):
        mine = [c for c in cells if c.epsg == epsg]
        squares = shapely.box(*np.array([c.bounds for c in mine], float).T)
        coverage = np.minimum(
            _share_inside(squares, epsg, rectangle, scene["epsg"]), _share_inside(squares, epsg, footprint, 4326)
        )
        rows += [
            {
                "cell": cell.name,
                "scene": scene["scene"],
                "source": scene["source"],
                "sensor": scene["sensor"],
                "coverage": round(float(share), 6),
                "screened": False,
                **dict.fromkeys(tables.SCL_COLUMNS),
            }
            for cell, share in zip(mine, coverage, strict=True)
            if share > 0
        ]
    key = digest([VERSION, scene["scene"], scene["source"], content, rows])
    return rows, f"screen/{file_stem(scene['scene'])}-{key[:12]}.parquet"


def _share_inside(squares: np.ndarray, epsg: int, shape: Any, shape_epsg: int) -> np.ndarray:
    """Share of each square (metres of `epsg`) that lies in a shape of another CRS."""
    import shapely

    if epsg != shape_epsg:
        squares = shapely.segmentize(squares, float(shapely.length(squares[0])) / 16)
        move = functools.partial(_move, source=epsg, target=shape_epsg)
        squares = shapely.transform(squares, move)
    shapely.prepare(shape)
    return shapely.area(shapely.intersection(squares, shape)) / shapely.area(squares)


def _move(xy: np.ndarray, source: int, target: int) -> np.ndarray:
    return np.column_stack(transformer(source, target).transform(*xy.T))


def file_stem(scene: str) -> str:
    """A scene's id as a file name: ids come from catalogues and may hold anything."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "-_" else "_" for c in scene)[:120]


def _write(work: Work, name: str, rows: list[dict[str, Any]], scene: dict[str, Any]) -> str:
    from pipeline.store import file_sha256

    if work.store.exists(name):
        try:
            tables.read_table(work.store, name, tables.SCREEN)
            return file_sha256(work.store.local(name))
        except Problem:
            work.store.remove(name)  # damaged: it is screened again
    href = _scene_classes(scene, work.region)
    if href is not None:
        work.read(href, scene["source"], functools.partial(_add_scene_classes, rows))
    return tables.write_table(work.store, name, tables.table_of(rows, tables.SCREEN), tables.SCREEN)


def _add_scene_classes(rows: list[dict[str, Any]], href: str) -> None:
    """Fill in the share of each SCL class; a cell's pixels outside the raster count as class 0, no data."""
    from pipeline import opening, raster
    from pipeline.grid import parse_cell

    cells = [(row, parse_cell(row["cell"])) for row in rows]
    strips: dict[tuple[int, int], list[tuple[dict[str, Any], Cell]]] = {}
    for row, cell in cells:
        strips.setdefault((cell.epsg, cell.row // SCL_ROWS), []).append((row, cell))
    for (epsg, _), members in sorted(strips.items()):
        boxes = np.array([cell.bounds for _, cell in members], float)
        bounds = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))
        read = raster.read_window(href, bounds, epsg)
        if read is not None and read.dtype.kind not in "iu":
            what = f"{opening.named(href)}: holds {read.dtype} values, which are no classes"
            raise opening.UnreadableRaster(what, lasting=True)
        strip = None if read is None else raster.pixels_of(read)
        for row, cell in members:
            west, _, _, north = cell.bounds
            target = raster.Target(epsg, west, north, 20, cell.size_px // 2)
            shares = np.eye(1, 12)[0] if strip is None else _class_shares(raster.cut(strip, target, "class", 0))
            row.update(dict(zip(tables.SCL_COLUMNS, map(float, shares), strict=True)), screened=True)


def _class_shares(classes: np.ndarray) -> np.ndarray:
    """Share of each class, (12,). A code that is none says nothing of the pixel, so it counts as class 0, no data."""
    known = np.where((classes >= 0) & (classes <= 11), classes, 0)
    return np.bincount(known.ravel().astype(np.int64), minlength=12) / classes.size


def remove_damaged(store: Store, written: dict[str, str]) -> None:
    """Remove candidate files that are not what was written (file -> sha256): every other one that can be read is kept,
    and would be believed. Their names say what decides them, not what is in them."""
    for name, sha256 in written.items():
        if store.exists(name) and hashlib.sha256(store.read(name)).hexdigest() != sha256:
            store.remove(name)


def read_screen(store: Store, names: list[str]) -> pa.Table:
    """All candidate files as one table."""
    import pyarrow as pa

    parts = [tables.read_parquet(store, name) for name in names]
    return pa.concat_tables(parts) if parts else tables.SCREEN.empty_table()
