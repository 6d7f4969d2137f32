"""The six real places: what must come out, and every pixel against rasterio without our own reader."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject

S2_BANDS = {
    "10m": (10, ["B02", "B03", "B04", "B08"]),
    "20m": (20, ["B05", "B06", "B07", "B8A", "B11", "B12"]),
    "60m": (60, ["B01", "B09"]),
}


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


@pytest.fixture(scope="module")
def samples(real_run: Path) -> dict[str, dict]:
    """chip_id -> the members of its sample, from the tars as tarfile and numpy read them."""
    found: dict[str, dict] = {}
    for tar in sorted((real_run / "shards").glob("*.tar")):
        with tarfile.open(tar) as opened:
            for member in opened:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = opened.extractfile(member).read()
    return found


@pytest.fixture(scope="module")
def all_arrays(real_run: Path) -> dict[str, tuple[dict, dict]]:
    """chip_id -> its chips row and stored arrays, of all six places (dropped chips have pixels too)."""
    import pyarrow as pa

    chips = {r["chip_id"]: r for r in rows(real_run / "chips.parquet")}
    found = {}
    for part in (real_run / "pixels").glob("*.arrow"):
        for record in pa.ipc.open_file(part).read_all().to_pylist():
            chip = chips[record["chip_id"]]
            side, kind = chip["size_px"], "<u2" if chip["sensor"] == "s2" else "<f2"
            arrays = {
                name: np.frombuffer(record[name], kind).reshape(
                    -1, side * 10 // int(name[:-1]), side * 10 // int(name[:-1])
                )
                for name in ("10m", "20m", "60m")
                if record[name] is not None
            }
            found[record["chip_id"]] = chip, arrays
    return found


def test_all_of_it_is_whole(real_run: Path) -> None:
    """Every key, count, caption and hash."""
    from pipeline.verify import target_of, verify

    report = verify(target_of(str(real_run), "data"), 1.0, quiet=True)
    assert [(f.file, f.sample, f.what) for f in report.findings] == []
    assert report.notes == []


def test_six_places_have_pixels_and_four_have_samples(real_run: Path, samples: dict) -> None:
    place = {c["chip_id"]: c["scene"].split("-", 1)[1] for c in rows(real_run / "chips.parquet")}
    pixels = rows(real_run / "pixels.parquet")
    assert {place[p["chip_id"]] for p in pixels if p["dropped"] is None} == {
        "433D-629L-3-1", "609U-541L-3-0", "637U-59R-1-3",
        "ben-20170617t064724-29upu-36-85", "ben-20170617t064724-29upu-4-55", "ben-20170613t165043-33uup-61-39",
    }  # fmt: skip
    captions = {c["chip_id"]: c for c in rows(real_run / "captions.parquet")}
    reasons = Counter((place[k], c["dropped"]) for k, c in captions.items() if c["dropped"])
    assert set(reasons) == {
        ("ben-20170617t064724-29upu-36-85", "no labels"),
        ("ben-20170613t165043-33uup-61-39", "no labels"),
    }
    assert {place[key] for key in samples} == set(place.values()) - {p for p, _ in reasons}
    assert len(samples) + sum(reasons.values()) == len(place)


def test_classes_are_what_the_pictures_show(real_run: Path) -> None:
    scene = {c["chip_id"]: c["scene"] for c in rows(real_run / "chips.parquet")}
    seen: dict[str, Counter] = {}
    for c in rows(real_run / "captions.parquet"):
        seen.setdefault(scene[c["chip_id"]].split("-", 1)[1], Counter()).update(x["name"] for x in c["labels"])
    assert set(seen["609U-541L-3-0"]) == {"snow and ice"}
    assert seen["637U-59R-1-3"].most_common(1)[0][0] == "crops"
    assert {"built", "crops", "water"} <= set(seen["433D-629L-3-1"])
    assert set(seen["ben-20170617t064724-29upu-4-55"]) == {"grass"}


def test_cells_of_the_worked_example(real_run: Path) -> None:
    cells = {c["cell"] for c in rows(real_run / "chips.parquet") if c["epsg"] == 32718}
    assert cells == {f"p60_32718_{col}_{row}" for col in (1197, 1198) for row in (7167, 7168, 7169)}


def test_the_offset_of_433d_is_gone_and_nothing_else_was_shifted(all_arrays: dict) -> None:
    darkest: dict[str, int] = {}
    for chip, arrays in all_arrays.values():
        if chip["sensor"] == "s2":
            valid = arrays["10m"][arrays["10m"] > 0]
            darkest[chip["scene"]] = min(darkest.get(chip["scene"], 99999), int(np.percentile(valid, 0.5)))
            assert (valid == 1).mean() < 0.1, f"{chip['chip_id']} was shifted below zero"
    assert darkest["S2-433D-629L-3-1"] < 300, "its darkest pixels were about 1050 with the offset"


def test_medians_of_s1_are_plausible(all_arrays: dict) -> None:
    for chip, arrays in all_arrays.values():
        if chip["sensor"] == "s1":
            vv, vh = np.nanmedian(arrays["10m"].astype(float), axis=(1, 2))
            assert -25 <= vv <= 0, chip["chip_id"]
            assert -32 <= vh <= -5, chip["chip_id"]


def reference(path: Path, chip: dict, resolution: int, sensor: str) -> tuple[np.ndarray, bool]:
    """A band on the cell's pixels by rasterio alone, from the whole file; and whether the lattices agree."""
    with rasterio.open(path) as source:
        data, transform, crs = source.read(1), source.transform, source.crs
    side = chip["size_px"] * 10 // resolution
    target = from_origin(chip["west"], chip["north"], resolution, resolution)
    same = crs.to_epsg() == chip["epsg"]
    steps = ((chip["west"] - transform.c) / transform.a, (chip["north"] - transform.f) / transform.e)
    lattice = same and transform.a == resolution and all(abs(s - round(s)) < 1e-6 for s in steps)
    if sensor == "s1":
        data = np.where((data == -32768) | (data <= 0) | ~np.isfinite(data), np.nan, data).astype(np.float32)
        out, nodata, how = np.full((side, side), np.nan, np.float32), np.nan, Resampling.bilinear
    else:
        out, nodata = np.zeros((side, side), data.dtype), 0
        how = Resampling.average if transform.a < resolution * 0.9 else Resampling.nearest
    scale = {} if same else {"XSCALE": "1", "YSCALE": "1"}
    reproject(
        data, out, src_transform=transform, src_crs=crs, dst_transform=target, dst_crs=f"EPSG:{chip['epsg']}",
        src_nodata=nodata, dst_nodata=nodata, resampling=how, **scale,
    )  # fmt: skip
    return out, lattice


def test_every_array_against_rasterio(real_folder: Path, all_arrays: dict) -> None:
    worst = {"s1": 0.0, "s2": 0.0}
    checked = on_lattice = 0
    for chip, arrays in all_arrays.values():
        sensor = chip["sensor"]
        folder = "sentinel-2-l2a" if sensor == "s2" else "sentinel-1-rtc"
        item = json.loads((real_folder / f"catalog/items/{folder}/{chip['scene']}.json").read_text())
        groups = S2_BANDS if sensor == "s2" else {"10m": (10, ["VV", "VH"])}
        offset = 1000 if item["properties"].get("s2:processing_baseline", "00.00") >= "04.00" else 0
        for name, (resolution, bands) in groups.items():
            for k, band in enumerate(bands):
                key = band if sensor == "s2" else band.lower()
                path = real_folder / f"catalog/items/{folder}" / item["assets"][key]["href"]
                expected, lattice = reference(path, chip, resolution, sensor)
                got = arrays[name][k]
                if sensor == "s2":
                    shifted = np.where(expected == 0, 0, np.maximum(expected.astype(int) - offset, 1))
                    difference = np.abs(got.astype(int) - shifted).max()
                    assert difference <= (0 if lattice else 1), (chip["chip_id"], band)
                else:
                    db = 10 * np.log10(expected.astype(float))
                    assert (np.isnan(got) == np.isnan(db)).all(), (chip["chip_id"], band)
                    difference = np.nanmax(np.abs(got.astype(float) - db))
                    assert difference <= 0.02, (chip["chip_id"], band)
                worst[sensor] = max(worst[sensor], float(difference))
                checked, on_lattice = checked + 1, on_lattice + lattice
    assert checked > 300
    assert on_lattice > 20
    print(f"{checked} arrays, {on_lattice} on the lattice; worst: {worst}")


def test_shards_hold_what_the_tables_say(real_run: Path, samples: dict) -> None:
    index = rows(real_run / "shards/index.parquet")
    assert {r["chip_id"] for r in index} == set(samples)
    for row in index:
        members = samples[row["chip_id"]]
        about = json.loads(members["json"])
        assert about["label_mask"] == row["label_mask"]
        assert members["txt"].decode() == about["captions"]["paper"] == row["caption_paper"]
        tar = (real_run / "shards" / row["shard"]).read_bytes()
        for group in ("10m", "20m", "60m"):
            if row[f"offset_{group}"] is None:
                assert f"{group}.npy" not in members
                continue
            start = row[f"offset_{group}"]
            piece = tar[start : start + row[f"length_{group}"]]
            assert piece == members[f"{group}.npy"]
            np.load(io.BytesIO(piece), allow_pickle=False)


def test_tiny_learns_its_real_training_chips(real_run: Path, tmp_path: Path) -> None:
    """The recipe tiny, as `make train` runs it: mAP over classes on its own training chips, per sensor."""
    from conftest import ROOT

    from train.evaluate import evaluate
    from train.loop import fit
    from train.model import build_model
    from train.recipe import load_recipe
    from train.shards import open_shards

    recipe = load_recipe(ROOT / "manifests/recipes/tiny.toml")
    samples = open_shards([real_run / "shards"])
    assert fit(recipe, samples, tmp_path, build_model(recipe))
    result = evaluate(tmp_path, samples, recipe.evaluation.split, recipe.evaluation.min_relevant)
    for sensor in ("s1", "s2"):
        model, chance = (result["systems"][name][sensor]["class"]["map"] for name in ("model", "random"))
        assert model >= 0.9, f"{sensor}: {model:.3f}, by chance {chance:.3f}"
        assert chance < 0.6
