"""Pictures of what labels say: for some cells the image, each label source as its file has it, and as it was counted.

A class map that is shifted, turned or wrongly translated shows at a glance beside its source.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.crosswalk import Crosswalk
from harmonize.problem import Problem
from harmonize.splits import unit_interval
from harmonize.vocabulary import CLASSES, COLOURS
from pipeline import classes, events, raster, remote, tables
from pipeline.evidence import crosswalks_of
from pipeline.grid import Cell, centres, parse_cell
from pipeline.label_files import LabelFile, files_of, is_vector
from pipeline.label_shares import SAMPLE_M, codes_of
from pipeline.parts import read_chip
from pipeline.picture import picture_path, save_picture
from pipeline.sample import quicklook
from pipeline.shapes import squares_of
from pipeline.work import Work

if TYPE_CHECKING:
    import xarray as xr
    from PIL import Image

SIDE, GAP, HEAD = 220, 10, 34
LEGEND = 1160
AROUND = 0.5
"""Of a cell's side that is drawn around it, of a source's own map."""
NO_CLASS = (255, 255, 255)


def draw_labels(work: Work, names: list[str], number: int) -> Image.Image:
    """A row per cell. `names`: the cells; without any `number` of them, spread over the region (one per 1° square
    first). Raises Problem for a cell that the region has no chip of."""
    from PIL import Image, ImageDraw

    cells = _chosen(work, names, number)
    crosswalks, shapes = crosswalks_of(work.region), events.load_events(work.region, extents=False)
    files = {name: files_of(work, name, []) for name in crosswalks}
    rows = [[*_looks(work, cell, shapes), *_maps(work, cell, files, crosswalks)] for cell in cells]
    wide, high = max(map(len, rows)) * (SIDE + GAP) + GAP, len(rows) * (SIDE + HEAD + GAP) + 2 * HEAD
    canvas = Image.new("RGB", (max(wide, LEGEND), high), "white")
    draw = ImageDraw.Draw(canvas)
    _legend(draw)
    for k, (cell, panels) in enumerate(zip(cells, rows, strict=True)):
        y = HEAD + k * (SIDE + HEAD + GAP)
        for j, (title, picture) in enumerate(panels):
            x = GAP + j * (SIDE + GAP)
            text = f"{cell.name}\n{title}" if j == 0 else title
            draw.multiline_text((x, y), text, fill="black", font=_font(11), spacing=2)
            canvas.paste(picture, (x, y + HEAD))
    return canvas


def _chosen(work: Work, names: list[str], number: int) -> list[Cell]:
    known = sorted(set(work.tables["chips"]["cell"].to_pylist()))
    if unknown := [name for name in names if name not in set(known)]:
        raise Problem(f"the region has no chip of cell '{unknown[0]}'", fix=f"its cells look like {known[0]}")
    if names:
        return [parse_cell(name) for name in names]
    squares: dict[tuple[int, int], list[str]] = {}
    for name in sorted(known, key=unit_interval):
        lon, lat = centres([parse_cell(name)])
        squares.setdefault((int(lon[0] // 1), int(lat[0] // 1)), []).append(name)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*(squares[key] for key in sorted(squares))))
    return [parse_cell(name) for name in itertools.islice((name for name in turns if name), number)]


def _looks(work: Work, cell: Cell, shapes: list[events.EventMap]) -> list[tuple[str, Image.Image]]:
    """The newest image of the cell, and one per event that touches it, with its outline and share."""
    from PIL import Image

    chips = _rows(work, "chips", "cell", [cell.name])
    stored = {r["chip_id"]: r for r in _rows(work, "pixels", "chip_id", [c["chip_id"] for c in chips]) if r["part"]}
    seen = [r for r in chips if r["chip_id"] in stored]
    if not seen:
        return [("no stored image", Image.new("RGB", (SIDE, SIDE), "lightgray"))]
    panels = [_look(work, max(seen, key=_s2_and_new), stored)]
    for mapped in shapes:
        share = events.shares(mapped, squares_of([cell])).get(cell)
        if share:
            # An image that was taken for the event shows it, if there is one.
            after = [r for r in seen if f"after:{mapped.event.id}" in r["role"].split()]
            day, picture = _look(work, max(after or seen, key=_s2_and_new), stored)
            panels.append((f"{mapped.event.id} {share:.0%}\n{day}", _outlined(picture, cell, mapped)))
    return panels


def _s2_and_new(chip: dict[str, Any]) -> tuple[str, Any]:
    return chip["sensor"], chip["datetime"]


def _look(work: Work, chip: dict[str, Any], stored: dict[str, dict[str, Any]]) -> tuple[str, Image.Image]:
    from PIL import Image

    where = stored[chip["chip_id"]]
    arrays = read_chip(work.store, where["part"], where["row"], chip["sensor"], chip["size_px"])
    picture = Image.fromarray(quicklook(arrays, chip["sensor"])).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return f"{chip['sensor']} {chip['datetime']:%Y-%m-%d}", picture


def _rows(work: Work, table: str, column: str, values: list[str]) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = work.tables[table]
    return rows.filter(pc.is_in(rows[column], pa.array(values, pa.string()))).to_pylist()


def _outlined(picture: Image.Image, cell: Cell, mapped: events.EventMap) -> Image.Image:
    import shapely
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    local = events.local_part(mapped.shape, cell)
    for part in shapely.get_rings(shapely.get_parts(local)):
        xy = (shapely.get_coordinates(part) - [cell.bounds[0], cell.bounds[3]]) / cell.side_m * [SIDE, -SIDE]
        draw.line([tuple(p) for p in xy], fill="white", width=5)
        draw.line([tuple(p) for p in xy], fill=COLOURS[mapped.event.label], width=3)
    return picture


def _maps(
    work: Work, cell: Cell, files: dict[str, list[LabelFile]], crosswalks: dict[str, Crosswalk]
) -> list[tuple[str, Image.Image]]:
    """Two panels per source that labels the cell: its own map, and what was counted on the cell's 10 m pixels."""
    panels = []
    said = [r for r in _rows(work, "labels", "cell", [cell.name]) if r["share"] and not r["event"]]
    for name, crosswalk in crosswalks.items():
        mine = sorted((r for r in said if r["source"] == name), key=lambda r: (str(r["date"]), -r["share"]))
        if not mine:
            continue
        date = mine[-1]["date"]
        words = _words([r for r in mine if r["date"] == date], crosswalk)
        for file in (f for f in files[name] if f.date == date):
            found = _drawn(file, cell, crosswalk)
            if found:
                panels += [(f"{name} {date or ''}\nas its file has it", found[0]), (f"as counted\n{words}", found[1])]
                break
    return panels


def _words(rows: list[dict[str, Any]], crosswalk: Crosswalk) -> str:
    """The two largest classes."""
    shares: Counter[str] = Counter()
    for row in rows:
        shares[crosswalk.classify(row["code"]) or "no class"] += row["share"]
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.most_common(2))


def _drawn(file: LabelFile, cell: Cell, crosswalk: Crosswalk) -> tuple[Image.Image, Image.Image] | None:
    """The file's own map around the cell with the cell's outline, and the cell as it was counted."""
    west, _, _, north = cell.bounds
    around = _around(cell, AROUND * cell.side_m)
    if is_vector(file):
        source = _burned(file, cell.epsg, around, crosswalk)
        edge = SIDE * AROUND / (1 + 2 * AROUND)
        corners = [(edge, edge), (SIDE - edge, edge), (SIDE - edge, SIDE - edge), (edge, SIDE - edge)]
        return _with_ring(source, corners), _burned(file, cell.epsg, cell.bounds, crosswalk)

    def reader(href: str) -> xr.DataArray | None:
        return classes.read_classes(href, cell.epsg, around, file.source, file.where)

    own = remote.read(file.href, file.source.sign, reader)
    if own is None:
        return None
    pixels = classes.class_pixels(own, raster.Target(cell.epsg, west, north, SAMPLE_M, cell.side_m // SAMPLE_M))
    if np.isin(pixels, classes.NO_CODE).all():
        return None
    return _native(own, cell, crosswalk), _coloured(pixels, crosswalk)


def _around(cell: Cell, more: float) -> tuple[float, float, float, float]:
    west, south, east, north = cell.bounds
    return west - more, south - more, east + more, north + more


def _native(own: xr.DataArray, cell: Cell, crosswalk: Crosswalk) -> Image.Image:
    """The file's pixels in its own CRS, unturned."""
    import shapely
    from PIL import Image

    from pipeline.vector import outline_in

    picture = _coloured(own.values, crosswalk)
    framed = Image.new("RGB", (SIDE, SIDE), NO_CLASS)
    framed.paste(picture, (0, 0))
    outline = shapely.get_coordinates(outline_in(shapely.box(*cell.bounds), cell.epsg, own.rio.crs))
    inverse, scale = ~own.rio.transform(), SIDE / max(own.shape)
    return _with_ring(framed, [(x * scale, y * scale) for x, y in (inverse * tuple(p) for p in outline)])


def _with_ring(picture: Image.Image, ring: list[tuple[float, float]]) -> Image.Image:
    from PIL import ImageDraw

    ImageDraw.Draw(picture).line([*ring, ring[0]], fill="black", width=2)
    return picture


def _burned(file: LabelFile, epsg: int, bounds: tuple[float, float, float, float], crosswalk: Crosswalk) -> Image.Image:
    """Polygons in the colours of their classes; the first of overlapping ones lies on top."""
    import shapely
    from PIL import Image
    from rasterio.features import rasterize
    from rasterio.transform import from_bounds

    local = codes_of([file], (epsg, bounds)).to_crs(epsg)
    near = local.iloc[sorted(local.sindex.query(shapely.box(*bounds), predicate="intersects"))]
    numbers = {code: k for k, code in enumerate(sorted(set(near["code"])), 1)}
    pairs = [(shape, numbers[code]) for shape, code in zip(near.geometry, near["code"], strict=True)][::-1]
    transform = from_bounds(*bounds, SIDE, SIDE)
    burned = rasterize(pairs, (SIDE, SIDE), transform=transform, dtype="int32") if pairs else np.zeros((SIDE, SIDE))
    picture = np.full((SIDE, SIDE, 3), NO_CLASS, np.uint8)
    for code, number in numbers.items():
        picture[burned == number] = _colour(crosswalk.classify(code))
    return Image.fromarray(picture)


def _coloured(codes: np.ndarray, crosswalk: Crosswalk) -> Image.Image:
    """Codes in the colours of their classes, the longer side SIDE."""
    from PIL import Image

    picture = np.full((*codes.shape, 3), NO_CLASS, np.uint8)
    for code in np.unique(codes):
        if code not in classes.NO_CODE:
            picture[codes == code] = _colour(crosswalk.classify(str(code)))
    scale = SIDE / max(codes.shape)
    size = round(codes.shape[1] * scale), round(codes.shape[0] * scale)
    return Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)


def _colour(name: str | None) -> tuple[int, ...]:
    from PIL import ImageColor

    return ImageColor.getrgb(COLOURS[name]) if name else NO_CLASS


def _legend(draw: Any) -> None:
    x = GAP
    for name in CLASSES:
        draw.rectangle([x, 8, x + 11, 19], fill=COLOURS[name], outline="black")
        draw.text((x + 15, 7), name, fill="black", font=_font(11))
        x += 26 + round(draw.textlength(name, font=_font(11)))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def write_label_map(work: Work, names: list[str], number: int, png: Path) -> None:
    """The picture as a PNG."""
    picture_path(png)
    save_picture(draw_labels(work, names, number), png)


NEEDS = {"chips": tables.CHIPS, "pixels": tables.PIXELS, "labels": tables.LABELS}
"""The tables that the picture is drawn from."""
