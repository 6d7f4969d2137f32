"""The picture of what labels say: its counted panel shows the shares of labels.parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image, ImageColor

from harmonize.vocabulary import COLOURS
from pipeline import label_map, runner, tables
from pipeline.evidence import crosswalks_of
from pipeline.grid import parse_cell
from pipeline.label_files import files_of
from pipeline.label_map import SIDE, _drawn, draw_labels
from pipeline.work import Work


def work_of(manifest: Path, out: Path) -> Work:
    region, store = runner.load(manifest, str(out))
    read = {name: tables.read_table(store, f"{name}.parquet", schema) for name, schema in label_map.NEEDS.items()}
    return Work(region, store, read, quiet=True)


def share_of(picture: Image.Image, name: str) -> float:
    return float((np.asarray(picture) == ImageColor.getrgb(COLOURS[name])).all(-1).mean())


def test_the_counted_panel_shows_the_shares_of_the_table(real_folder: Path, real_run: Path) -> None:
    work = work_of(real_folder / "real-samples.toml", real_run.parent)
    crosswalks, drawn = crosswalks_of(work.region), 0
    for name, crosswalk in crosswalks.items():
        for file in files_of(work, name, []):
            for cell in sorted(set(work.tables["chips"]["cell"].to_pylist())):
                panels = _drawn(file, parse_cell(cell), crosswalk)
                rows = [r for r in work.tables["labels"].to_pylist() if (r["cell"], r["source"]) == (cell, name)]
                if panels is None or not any(r["share"] for r in rows):
                    continue
                drawn += 1
                said: dict[str, float] = {}
                for row in rows:
                    class_ = crosswalk.classify(row["code"])
                    said[class_] = said.get(class_, 0.0) + row["share"]
                for class_, share in said.items():
                    assert share_of(panels[1], class_) == pytest.approx(share, abs=0.02), (cell, name, class_)
    assert drawn > 5


def test_some_cells_of_every_place_are_drawn(real_folder: Path, real_run: Path) -> None:
    work = work_of(real_folder / "real-samples.toml", real_run.parent)
    picture = draw_labels(work, [], 5)
    assert picture.height > 5 * SIDE
    seen = [name for name in COLOURS if share_of(picture, name) > 0.005]
    assert {"snow and ice", "crops", "grass"} <= set(seen), "the five places have these"


def test_the_command_writes_a_picture_or_says_which_cells_there_are(
    real_folder: Path, real_run: Path, tmp_path: Path
) -> None:
    manifest, png = str(real_folder / "real-samples.toml"), tmp_path / "maps" / "map.png"
    said = run("pipeline", "label-map", manifest, "--out", str(real_run.parent), "--number", "2", "--png", str(png))
    assert (said.returncode, Image.open(png).format) == (0, "PNG")
    said = run("pipeline", "label-map", manifest, "32632_1_1", "--out", str(real_run.parent), "--png", str(png))
    assert said.returncode == 2
    assert "32632_1_1" in said.stderr
    assert "p60_" in said.stderr, "cells that there are"
