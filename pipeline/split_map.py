"""A map of a split: every cell in the colour of its split, one panel per place, with blocks, legend and scale bars."""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.grid import parse_cell, transformer
from pipeline.sample import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image, ImageDraw

    from pipeline.region import Region

EVENT, DROPPED = "dropped: event of another split", "dropped"
COLOURS = {
    "train": (59, 111, 182),
    "val": (242, 193, 78),
    "test": (209, 73, 91),
    EVENT: (120, 120, 120),
    DROPPED: (217, 217, 217),
}
"""Blue, yellow and red differ for the colour-blind too."""
INK, FAINT, PAPER = (40, 40, 40), (150, 150, 150), (255, 255, 255)
MOST_PANELS = 12
"""Places drawn, largest first; the title says how many more there are."""
NEAR_DEG = 0.5
"""Cells in neighbouring squares of so many degrees are of one place."""
SHARP = 2
"""Drawn so many times larger, then averaged down."""
MARGIN, HEAD, FOOT = 24, 64, 96
KM_PER_DEGREE = 111.2


@dataclass(frozen=True)
class Place:
    """Cells that lie together, in km east and north of their middle."""

    lon: float
    lat: float
    cells: list[str]
    kinds: list[str]
    squares: np.ndarray
    """Corners of the cells, (n, 4, 2)."""
    blocks: np.ndarray
    """Corners of the part of each block that its cells take up, (m, 4, 2)."""


def draw_map(chips: pa.Table, region: Region) -> Image.Image:
    """The map of a table as `pipeline.splits.placed` makes it: a cell is dropped where all of its chips are."""
    from PIL import Image, ImageDraw

    kinds = _kinds(chips)
    places = _places(chips, kinds)
    shown = places[:MOST_PANELS]
    across = math.ceil(math.sqrt(len(shown))) or 1
    side = 1100 if across == 1 else 620 if across == 2 else 440
    down = math.ceil(len(shown) / across)
    size = (max(across * side, 900) + 2 * MARGIN, down * side + HEAD + FOOT)
    canvas = Image.new("RGB", (size[0] * SHARP, size[1] * SHARP), PAPER)
    draw = ImageDraw.Draw(canvas)
    more = f", {len(places) - len(shown)} further places not shown" if len(places) > len(shown) else ""
    blocks = f", blocks of {region.split.block_km:g} km" if region.split.method == "spatial" else ""
    title = f"{region.name}: {region.split.method} split{blocks}, {len(kinds):,} cells{more}"
    _write(draw, (MARGIN, 18), title, 22)
    for k, place in enumerate(shown):
        _draw_place(draw, place, MARGIN + k % across * side, HEAD + k // across * side, side)
    _draw_legend(draw, Counter(kinds.values()), size[1] - FOOT + 36)
    return canvas.resize(size, Image.Resampling.LANCZOS)


def _kinds(chips: pa.Table) -> dict[str, str]:
    """cell -> its split, or why it is dropped."""
    kinds: dict[str, str] = {}
    for cell, split, dropped in zip(*(chips[c].to_pylist() for c in ("cell", "split", "dropped")), strict=True):
        if dropped is None:
            kinds[cell] = split
        elif kinds.get(cell) not in SPLITS:
            event = dropped == "split: event" or kinds.get(cell) == EVENT
            kinds[cell] = EVENT if event else DROPPED
    return kinds


def _places(chips: pa.Table, kinds: dict[str, str]) -> list[Place]:
    """The places, largest first."""
    rows = dict(zip(chips["cell"].to_pylist(), range(chips.num_rows), strict=True))
    cells = np.array(list(rows))
    index = np.fromiter(rows.values(), int, len(rows))
    lon, lat = chips["lon"].to_numpy()[index], chips["lat"].to_numpy()[index]
    blocks = np.array(chips["block"].to_pylist())[index] if len(index) else np.array([], str)
    group = _together(lon, lat)
    found = []
    for k in np.unique(group):
        mine = group == k
        # Around the first one, so that a place at the antimeridian has its middle there.
        about = (lon[mine] - lon[mine][0] + 180) % 360 - 180
        east = (lon[mine][0] + (about.min() + about.max()) / 2 + 180) % 360 - 180
        middle = (east, (lat[mine].min() + lat[mine].max()) / 2)
        names = cells[mine].tolist()
        parsed = [parse_cell(name) for name in names]
        epsg, bounds = np.array([c.epsg for c in parsed]), np.array([c.bounds for c in parsed], float)
        squares = _local(epsg, bounds, middle)
        borders = _local(*_block_bounds(blocks[mine], epsg, bounds), middle)
        found.append(Place(*middle, names, [kinds[name] for name in names], squares, borders))
    return sorted(found, key=lambda place: (-len(place.cells), place.cells[0]))


def _together(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Number of each cell's place (n,): cells in touching squares of NEAR_DEG are of one."""
    around = round(360 / NEAR_DEG)
    squares = list(zip((lon // NEAR_DEG).astype(int) % around, (lat // NEAR_DEG).astype(int), strict=True))
    numbers: dict[tuple[int, int], int] = {}
    there = set(squares)
    for start in sorted(there):
        todo = [start] if start not in numbers else []
        number = len(set(numbers.values()))
        while todo:
            x, y = todo.pop()
            if (x, y) in there and (x, y) not in numbers:
                numbers[x, y] = number
                todo += [((x + dx) % around, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    return np.array([numbers[square] for square in squares], int)


def _block_bounds(blocks: np.ndarray, epsg: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """EPSG (m,) and bounds in metres (m, 4) of what each block's cells take up; epsg, bounds: of the cells.

    Not the whole squares: at a zone's border they would lie across the neighbour's cells.
    """
    _, first, block = np.unique(blocks, return_index=True, return_inverse=True)
    found = np.stack([np.full(len(first), v) for v in (np.inf, np.inf, -np.inf, -np.inf)], 1)
    for k, outermost in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
        outermost.at(found[:, k], block, bounds[:, k])
    return epsg[first], found


def _local(epsg: np.ndarray, box: np.ndarray, middle: tuple[float, float]) -> np.ndarray:
    """Corners of squares in km east and north of `middle` (lon, lat in degrees), (n, 4, 2); box: bounds in metres."""
    found = np.empty((len(box), 4, 2))
    for code in np.unique(epsg):
        mine = epsg == code
        lon, lat = transformer(int(code), 4326).transform(box[mine][:, [0, 2, 2, 0]], box[mine][:, [1, 1, 3, 3]])
        east = (lon - middle[0] + 180) % 360 - 180
        found[mine, :, 0] = east * KM_PER_DEGREE * math.cos(math.radians(middle[1]))
        found[mine, :, 1] = (lat - middle[1]) * KM_PER_DEGREE
    return found


def _draw_place(draw: ImageDraw.ImageDraw, place: Place, left: float, top: float, side: float) -> None:
    room = side - 2 * MARGIN - 40
    low, high = place.squares.min((0, 1)), place.squares.max((0, 1))
    scale = room / max(*(high - low), 0.1)
    origin = np.array([left + side / 2, top + 8 + side / 2]) - scale * np.array([1, -1]) * (low + high) / 2

    def pixels(square: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(point) for point in SHARP * (origin + scale * square * (1, -1))]

    for square, kind in zip(place.squares, place.kinds, strict=True):
        draw.polygon(pixels(square), fill=COLOURS[kind])
    if len(place.blocks) and scale * np.ptp(place.blocks[0], 0).max() >= 12:
        for square in place.blocks:
            corners = pixels(square)
            draw.line([*corners, corners[0]], fill=INK, width=SHARP)
    epsgs = ", ".join(sorted({str(parse_cell(cell).epsg) for cell in place.cells}))
    where = (
        f"{abs(place.lat):.2f} {'N' if place.lat >= 0 else 'S'} {abs(place.lon):.2f} {'E' if place.lon >= 0 else 'W'}"
    )
    _write(draw, (left, top), f"{where}  (EPSG:{epsgs})  {len(place.cells):,} cells", 15)
    _draw_scale(draw, left, top + side - 24, scale, room)


def _draw_scale(draw: ImageDraw.ImageDraw, left: float, top: float, scale: float, room: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten km, at most a third of the panel."""
    most = room / scale / 3
    power = 10 ** math.floor(math.log10(most))
    km = max(step * power for step in (1, 2, 5) if step * power <= most)
    ends = [(SHARP * x, SHARP * top) for x in (left, left + km * scale)]
    draw.line(ends, fill=INK, width=2 * SHARP)
    for x, y in ends:
        draw.line([(x, y - 4 * SHARP), (x, y + 4 * SHARP)], fill=INK, width=2 * SHARP)
    _write(draw, (left + km * scale + 8, top - 9), f"{km:g} km", 14)


def _draw_legend(draw: ImageDraw.ImageDraw, counts: Counter[str], top: float) -> None:
    left, total = float(MARGIN), counts.total()
    for kind in (k for k in COLOURS if k in SPLITS or counts[k]):
        box = [SHARP * v for v in (left, top, left + 20, top + 20)]
        draw.rectangle(box, fill=COLOURS[kind], outline=FAINT)
        text = f"{kind}: {counts[kind]:,} cells" + (f" ({counts[kind] / total:.0%})" if total else "")
        _write(draw, (left + 28, top), text, 16)
        left += 28 + _font(16).getlength(text) / SHARP + 28


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int) -> None:
    draw.text((SHARP * at[0], SHARP * at[1]), text, fill=INK, font=_font(size))


@functools.cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size * SHARP)
