"""What is reported of runs: macro means, the table of several runs, sheets of what labels say; and nothing done twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import run
from conftest import ROOT
from fake_shards import write_fake_shards
from PIL import Image

from harmonize.vocabulary import ALL_MASK, BIT, CLASSES, CRISIS_MASK, mask_of
from train.label_sheet import Shares, clearest
from train.macro import add_over_prior, macro, prevalence
from train.metrics import tie_break
from train.shards import Samples, open_shards

COUNTS = {
    ("train", "s2"): 12, ("train", "s1"): 12, ("test", "s2"): 30, ("test", "s1"): 24,
}  # fmt: skip
RECIPE = """
name = "{name}"
checkpoint_steps = 3
[vision]
s2 = "test_resnet"
s1 = "test_resnet"
[text]
tower = "open_clip"
weights = "none"
pooling = "eot"
context = 16
width = 32
layers = 1
heads = 2
[data]
batch_size = 6
[optim]
steps = 3
[evaluation]
min_relevant = 6
{more}
"""


def images_with(masks: list[int], known: list[int]) -> Samples:
    columns = {"label_mask": np.array(masks), "known_mask": np.array(known)}
    return Samples(columns, (), 12, ("fake",), "0")


def test_prevalence_is_the_share_of_the_judged_images() -> None:
    flood, water = mask_of(["flooded area"]), mask_of(["water"])
    found = prevalence(
        images_with([flood | water, water, water, 0], [ALL_MASK, ALL_MASK, ALL_MASK & ~CRISIS_MASK, ALL_MASK]),
        np.arange(4),
    )
    assert found["flooded area"] == {"judged": 3, "relevant": 1, "share": 1 / 3, "in_band": True}
    assert found["water"] == {"judged": 4, "relevant": 3, "share": 0.75, "in_band": False}
    assert list(found) == list(CLASSES)


def test_the_band_holds_both_its_ends() -> None:
    for count, inside in ((4, False), (5, True), (60, True), (61, False)):
        masks = [1] * count + [0] * (100 - count)
        assert prevalence(images_with(masks, [ALL_MASK] * 100), np.arange(100))["water"]["in_band"] == inside
    nobody = prevalence(images_with([0] * 3, [0] * 3), np.arange(3))
    assert nobody["water"] == {"judged": 0, "relevant": 0, "share": 0.0, "in_band": False}


def test_macro_means_are_over_the_classes_of_the_band() -> None:
    """Worked by hand: water and crops are in the band, trees are common, grass has too few images to be asked."""

    def families(**ap: float) -> dict:
        each = {name: {"ndcg": v, "ndcg_gain": v / 2, "map": v, "p10": 1.0} for name, v in ap.items()}
        return {"s2": {"class": {"each": each}}}

    systems = {
        "model": families(water=0.9, crops=0.5, trees=0.1),
        "prior-only": families(water=0.3, crops=0.4, trees=0.8),
        "random": families(water=0.2, crops=0.4, trees=0.7),
    }
    add_over_prior(systems)
    shares = {
        name: {"in_band": inside}
        for name, inside in {"water": True, "crops": True, "trees": False, "grass": True}.items()
    }
    found = macro(systems, shares, "s2")
    assert found["classes"] == ["water", "crops"]
    assert found["too_few"] == ["grass"]
    assert found["systems"]["model"] == pytest.approx(
        {"ndcg": 0.7, "ndcg_gain": 0.35, "map": 0.7, "map_over_prior": 0.35, "p10": 1.0}
    )
    assert found["systems"]["prior-only"]["map_over_prior"] == 0
    assert macro(systems, {"trees": {"in_band": False}}, "s2") == {"classes": [], "too_few": [], "systems": {}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a synthetic region and two evaluated runs on them: one and two, of which one is asked something."""
    folder = tmp_path_factory.mktemp("reports")
    write_fake_shards(folder / "shards", COUNTS, synthetic=True)
    asked = "asked.s2 = { ndcg_gain = -1.0, map_over_prior = 0.99 }"
    for name, more in (("one", asked), ("two", "[location]\nwidth = 16\noutput = 8")):
        (folder / f"{name}.toml").write_text(RECIPE.format(name=name, more=more))
        for words in (
            ("fit", str(folder / f"{name}.toml"), str(folder / "shards"), "--run", name),
            ("evaluate", "--run", name),
            ("search", "water", "--run", name, "--top", "3"),
        ):
            said = run("train", *words, "--runs", str(folder / "runs"))
            assert said.returncode == 0, said.all
    return folder


@pytest.fixture
def runs(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "runs", tmp_path / "runs"))


def test_the_table_of_two_runs(world: Path, runs: Path) -> None:
    said = run("train", "compare", "one", "two", "--runs", str(runs))
    assert said.returncode == 0, said.all
    metrics = json.loads((runs / "one/eval/metrics.json").read_text())
    found = json.loads((runs / "compare/one+two/compare.json").read_text())
    share = metrics["prevalence"]["s2"]["crops"]
    assert share == {"judged": 30, "relevant": 12, "share": 0.4, "in_band": True}, "two of the five kinds have crops"
    assert found["classes"]["s2"] == ["water", "trees", "crops", "built"]
    each = metrics["systems"]["model"]["s2"]["class"]["each"]
    assert found["macro"]["s2"]["CLOSP"]["map"] == pytest.approx(np.mean([v["map"] for v in each.values()]))
    assert set(found["macro"]["s2"]) == {"CLOSP", "GeoCLOSP", "classifier", "place-prior", "prior-only", "random"}
    assert {bar["measure"]: bar["met"] for bar in found["asked"]} == {"ndcg_gain": True, "map_over_prior": False}
    page = (runs / "compare/one+two/compare.html").read_text()
    for word in ("GeoCLOSP", ">= -1.00 met", ">= +0.99 NOT MET", "SYNTHETIC", "flooded area (crisis)", "rare"):
        assert word in said.stdout, word
        assert word.replace(">", "&gt;") in page, word
    assert said.stdout.index("Each class") < said.stdout.index("Macro means"), "the macro table comes last"
    places = [said.stdout.index(f" {name} ") for name in CLASSES]
    assert places == sorted(places), "in the vocabulary's order"
    report = (runs / "one/eval/report.html").read_text()
    assert "SYNTHETIC" in report
    assert "What the labels say, Sentinel-1" in report


def test_runs_that_were_not_measured_alike_are_not_compared(runs: Path) -> None:
    assert run("train", "evaluate", "--run", "two", "--runs", str(runs), "--split", "train").returncode == 0
    said = run("train", "compare", "one", "two", "--runs", str(runs))
    assert said.returncode == 2
    assert "not measured alike: split differ" in said.stderr
    (runs / "one/model.safetensors").write_bytes((runs / "two/model.safetensors").read_bytes())
    said = run("train", "compare", "one", "--runs", str(runs))
    assert said.returncode == 2
    assert "make evaluate RUN=one" in said.stderr
    shutil.rmtree(runs / "one/eval")
    assert "is not evaluated" in run("train", "compare", "one", "--runs", str(runs)).stderr


def test_shares_come_from_the_records_in_the_tars(world: Path) -> None:
    samples = open_shards([world / "shards"]).of("test", "s2")
    shares = Shares(samples)
    columns = [int(cell.split("_")[2]) for cell in samples["cell"]]
    for row in range(len(samples)):
        said = shares.of(row)
        assert mask_of(said) == samples["label_mask"][row]
        assert set(said.values()) == {((columns[row] - min(columns)) % 9 + 1) / 10}


def test_a_class_is_shown_by_its_clearest_chips(world: Path) -> None:
    samples = open_shards([world / "shards"]).of("test")
    shares, ties = Shares(samples), tie_break(samples["chip_id"])
    rows = clearest(samples, BIT["crops"], shares, ties)
    assert len(rows) == 8
    assert all(samples["label_mask"][row] >> BIT["crops"] & 1 for row in rows)
    shown = [shares.of(int(row))["crops"] for row in rows]
    assert shown == sorted(shown, reverse=True)
    assert len(clearest(samples, BIT["snow and ice"], shares, ties)) == 0
    one_cell = replace(samples, columns={**samples.columns, "cell": np.full(len(samples), "a")})
    assert len(clearest(one_cell, BIT["crops"], shares, ties)) == 1, "one look per cell"


def test_label_sheets(world: Path, tmp_path: Path) -> None:
    command = ("sheet", str(world / "shards"), "--out", str(tmp_path))
    said = run("train", *command)
    assert said.stdout.split() == [f"{tmp_path}/labels-s2.png", f"{tmp_path}/labels-s1.png"]
    path = tmp_path / "labels-s2.png"
    data = path.read_bytes()
    assert Image.open(path).height > 12 * 100
    path.write_bytes(data[:1000])
    (tmp_path / "labels-s1.png").write_bytes(b"")
    assert run("train", *command).returncode == 0
    assert path.read_bytes() == data, "a broken sheet is drawn again"
    assert Image.open(tmp_path / "labels-s1.png").height > 12 * 100
    assert run("train", *command, "--split", "val").returncode == 2


def test_what_is_done_is_told_without_torch(world: Path, runs: Path, tmp_path: Path) -> None:
    """The second call of each command of `make demo`, in a process of its own."""
    where = f"'--runs', {str(runs)!r}"
    shards = str(world / "shards")
    code = f"""
import sys
from train.__main__ import app
for words in (
    ["fit", {str(world / "one.toml")!r}, {shards!r}, "--run", "one"],
    ["evaluate", "--run", "one"],
    ["search", "water", "--run", "one", "--top", "3"],
    ["compare", "one", "two"],
):
    app(words + [{where}], standalone_mode=False)
app(["sheet", {shards!r}, "--out", {str(tmp_path)!r}], standalone_mode=False)
heavy = {{"torch", "open_clip", "timm", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "this run is finished" in done.stderr
    assert "evaluated already" in done.stderr
    first = run("train", "search", "water", "--run", "one", "--top", "3", "--runs", str(runs))
    assert first.stdout.strip() in done.stdout
    other = run("train", "search", "water", "--run", "one", "--top", "2", "--runs", str(runs))
    assert other.stdout.count("_s") < first.stdout.count("_s"), "other options are another search"
