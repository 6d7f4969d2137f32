"""Looking at what is stored: one chip, or all chips of a cell, as xarray, as files or a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.problem import Problem, nearest
from pipeline import tables
from pipeline.grid import parse_cell
from pipeline.parts import read_chip
from pipeline.picture import picture_path, save_picture
from pipeline.sample import CANONICAL_BANDS, SENSORS, UNIT, quicklook, stack_canonical
from pipeline.store import Store

if TYPE_CHECKING:
    import xarray as xr


def find_chips(name: str, out: str) -> list[tuple[Store, dict[str, Any]]]:
    """Rows of chips + pixels + captions for a chip_id or a cell, in every region below `out`.

    Raises Problem where none has it, or where it has no stored pixels.
    """
    found, known = [], []
    for root in _regions(out):
        store = Store(root)
        rows = tables.read_table(store, "chips.parquet", tables.CHIPS).to_pylist()
        known += [r["chip_id"] for r in rows]
        mine = {r["chip_id"]: r for r in rows if name in (r["chip_id"], r["cell"])}
        for stage in ("pixels", "captions"):
            if mine and store.exists(f"{stage}.parquet"):
                table = tables.read_table(store, f"{stage}.parquet", tables.SCHEMAS[stage])
                for row in table.to_pylist():
                    if row["chip_id"] in mine:
                        mine[row["chip_id"]][stage] = row
        found += [(store, row) for row in mine.values()]
    if not found:
        raise Problem(
            f"there is no chip or cell '{name}' in {out}", fix=nearest(name, known) if known else "run make corpus"
        )
    return found


def _regions(out: str) -> list[str]:
    if "://" in out:
        import fsspec

        fs, root = fsspec.core.url_to_fs(out)
        base = out.rstrip("/")
        return [f"{base}/{p.rsplit('/', 2)[-2]}" for p in sorted(fs.glob(f"{root}/*/chips.parquet"))]
    return sorted(str(p.parent) for p in Path(out).glob("*/chips.parquet"))


def open_chip(chip_id: str, out: str = "data") -> xr.Dataset:
    """One chip as a Dataset: variable `s1` or `s2`, dims (band, y, x) at 10 m, coarser bands repeated.

    Coordinates are pixel centres in metres, the CRS is on `.rio`; attrs hold scene, datetime, caption and unit.
    """
    return _dataset(*find_chips(chip_id, out)[0])


def open_cell(cell: str, out: str = "data") -> xr.Dataset:
    """A cell with all its sensors and dates: variables `s1`, `s2`, dims (<sensor>_time, <sensor>_band, y, x)."""
    import rioxarray  # noqa: F401
    import xarray as xr

    by_chip = {row["chip_id"]: (store, row) for store, row in find_chips(cell, out) if _stored(row)}
    if not by_chip:
        raise Problem(f"no chip of {cell} has stored pixels", fix="python -m pipeline status REGION")
    arrays = {}
    for sensor in SENSORS:
        mine = sorted((row["datetime"], key) for key, (_, row) in by_chip.items() if row["sensor"] == sensor)
        if mine:
            stack = xr.concat([_dataset(*by_chip[key])[sensor] for _, key in mine], dim=f"{sensor}_time")
            times = np.array([when.replace(tzinfo=None) for when, _ in mine], "datetime64[ns]")
            stack = stack.rename(band=f"{sensor}_band").assign_coords({f"{sensor}_time": times})
            arrays[sensor] = stack.assign_coords({f"{sensor}_chip": (f"{sensor}_time", [key for _, key in mine])})
    return xr.Dataset(arrays).rio.write_crs(parse_cell(next(iter(by_chip.values()))[1]["cell"]).epsg)


def _stored(row: dict[str, Any]) -> bool:
    return bool(row.get("pixels") and row["pixels"]["part"])


def _arrays(store: Store, row: dict[str, Any]) -> dict[str, np.ndarray]:
    if not _stored(row):
        reason = (row.get("pixels") or {}).get("dropped") or row["dropped"] or "the pixels stage has not run"
        raise Problem(f"{row['chip_id']} has no stored pixels: {reason}", fix="python -m pipeline status REGION")
    return read_chip(store, row["pixels"]["part"], row["pixels"]["row"], row["sensor"], row["size_px"])


def _dataset(store: Store, row: dict[str, Any]) -> xr.Dataset:
    import rioxarray  # noqa: F401
    import xarray as xr

    sensor = row["sensor"]
    stack = stack_canonical(_arrays(store, row), sensor)
    # float16 is no type of NetCDF and of most tools; dB keep every digit in float32.
    stack = stack.astype(np.float32) if sensor == "s1" else stack
    half = 5.0
    x = np.arange(row["west"] + half, row["east"], 10.0)
    y = np.arange(row["north"] - half, row["south"], -10.0)
    coords = {"band": list(CANONICAL_BANDS[sensor]), "y": y, "x": x}
    attrs = {key: str(row[key]) for key in ("chip_id", "cell", "scene", "platform", "sensor")}
    attrs |= {"datetime": f"{row['datetime']:%Y-%m-%dT%H:%M:%SZ}", "unit": UNIT[sensor]}
    attrs |= {"caption": (row.get("captions") or {}).get("caption_paper", "")}
    data = xr.DataArray(stack, coords, ("band", "y", "x"), attrs={"unit": UNIT[sensor]})
    nodata = np.nan if sensor == "s1" else 0
    return xr.Dataset({sensor: data.rio.write_nodata(nodata)}, attrs=attrs).rio.write_crs(row["epsg"])


def show_chip(name: str, out: str, netcdf: Path | None, tif: Path | None, png: Path | None) -> None:
    """Print what a chip (or each chip of a cell) is; write the first one's pixels where asked."""
    found = find_chips(name, out)
    if png:
        picture_path(png)
    for _, row in found:
        caption, pixel = row.get("captions") or {}, row.get("pixels") or {}
        print(row["chip_id"])
        print(f"  scene    {row['scene']}  {row['platform']}  {row['datetime']:%Y-%m-%d %H:%M:%S} UTC")
        print(f"  place    {row['lon']:.5f} {row['lat']:.5f}  EPSG:{row['epsg']}  {row['west']:.0f} {row['south']:.0f}")
        print(f"  caption  {caption.get('caption_rich', 'not written yet')}")
        labels = [f"{x['name']} {x['share']:.0%} ({x['source']})" for x in caption.get("labels", [])]
        print(f"  labels   {', '.join(labels) or 'none'}")
        print(f"  split    {caption.get('split', '-')}, block {caption.get('block', '-')}")
        print(f"  dropped  {row['dropped'] or pixel.get('dropped') or caption.get('dropped') or 'no'}")
    store, row = found[0]
    if netcdf:
        data = open_cell(name, out) if name == row["cell"] else _dataset(store, row)
        data.to_netcdf(_ready(netcdf), engine="netcdf4")
    if tif:
        stack = _dataset(store, row)[row["sensor"]]
        stack.attrs["long_name"] = tuple(stack.band.values)  # rioxarray writes it as the bands' descriptions
        stack.rio.to_raster(_ready(tif), compress="deflate")
    if png:
        from PIL import Image

        picture = Image.fromarray(quicklook(_arrays(store, row), row["sensor"]))
        save_picture(picture.resize((4 * picture.width, 4 * picture.height), Image.Resampling.NEAREST), png)
    for path in (netcdf, tif, png):
        if path:
            print(f"wrote {path}")


def _ready(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"the file cannot be written: {error}", where=str(path), fix="name another place") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Problem("no file can be written there", where=str(path), fix="name another place")
    return path
