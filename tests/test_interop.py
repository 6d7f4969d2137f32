"""Shards as other programs read them: webdataset, wids, Hugging Face datasets, open_clip's trainer, tar, pandas, torch.

Every reader must give the arrays of our own reader and the captions of the index, of each sample once.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import torch
from conftest import ROOT
from world import World

from pipeline import runner
from pipeline.sample import DTYPE, GROUPS, SENSORS, arrays_sha256
from train.shards import Reader, Samples, open_shards

NO_DEV = "the dev extra is not installed"
NO_QUICKLOOK = "[shards]\nquicklook = false\n"


@dataclass
class Made:
    """Shards with what is in them: as our own reader and the index have it."""

    folder: Path
    samples: Samples
    index: dict[str, dict[str, Any]]
    """Rows of index.parquet by chip_id, in the order of the tars."""
    arrays: dict[str, dict[str, np.ndarray]]

    def tars(self, sensor: str) -> list[str]:
        return [str(path) for path in sorted(self.folder.glob(f"*-{sensor}-*.tar"))]

    def ids(self, sensor: str, split: str | None = None) -> list[str]:
        rows = self.index.values()
        return [r["chip_id"] for r in rows if r["sensor"] == sensor and split in (None, r["split"])]

    def check(self, key: str, arrays: dict[str, Any], caption: str) -> None:
        """Arrays by group and caption of a sample against our reader and the index: values, dtypes and shapes."""
        row = self.index[key]
        assert caption == row["caption_paper"]
        assert list(arrays) == [group.name for group in GROUPS[row["sensor"]]]
        for name, array in arrays.items():
            assert array.dtype == self.arrays[key][name].dtype == DTYPE[row["sensor"]]
            np.testing.assert_array_equal(array, self.arrays[key][name])
        assert arrays_sha256(list(arrays.values())) == row["sha256"]


def read(folder: Path) -> Made:
    samples = open_shards([folder])
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for sensor in SENSORS:
        mine = samples.of(sensor=sensor)
        batch = Reader(samples).read(mine)
        for k, key in enumerate(mine["chip_id"]):
            arrays[key] = {name: group[k] for name, group in batch.items()}
    index = {row["chip_id"]: row for row in pq.read_table(folder / "index.parquet").to_pylist()}
    assert set(index) == set(arrays)
    return Made(folder, samples, index, arrays)


def make_world(root: Path, **fields: Any) -> Path:
    """A world of several tars a split, one cell of it flooded in one S2 acquisition; its shards."""
    fields = {"dates": ("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z"), "tail": "[shards]\nshard_mb = 0.5\n"} | fields
    world = World(root, **fields)
    world.event("river", shapely.box(world.west, world.north - 600, world.west + 600, world.north), start="2020-06-20")
    region, store = runner.load(world.write(), str(root / "out"))
    runner.run_upto(region, store, "shards", quiet=True)
    return root / "out/tiny/shards"


@pytest.fixture(scope="module", params=["world", "real"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    if request.param == "world":
        return read(make_world(tmp_path_factory.mktemp("interop"), size_m=3_600))
    return read(request.getfixturevalue("real_run") / "shards")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hugging Face datasets with a cache of its own."""
    datasets = pytest.importorskip("datasets", reason=NO_DEV)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    return datasets


def groups(sample: dict[str, Any], sensor: str, dot: str = "") -> dict[str, np.ndarray]:
    return {group.name: sample[f"{dot}{group.name}.npy"] for group in GROUPS[sensor]}


def record(made: Made, key: str) -> dict[str, Any]:
    """The .json member of a sample as Python's own tarfile has it."""
    with tarfile.open(made.folder / made.index[key]["shard"]) as tar:
        member = tar.extractfile(f"{key}.json")
        assert member is not None
        return json.load(member)


@pytest.mark.parametrize("sensor", SENSORS)
def test_webdataset(made: Made, sensor: str) -> None:
    webdataset = pytest.importorskip("webdataset", reason=NO_DEV)
    seen = []
    for sample in webdataset.WebDataset(made.tars(sensor), shardshuffle=False).decode("pil"):
        key = sample["__key__"]
        made.check(key, groups(sample, sensor), sample["txt"])
        assert sample["json"] == record(made, key)
        assert sample["json"]["chip_id"] == key
        assert sample["jpg"].size == (made.samples.size_px,) * 2
        seen.append(key)
    assert sorted(seen) == sorted(made.ids(sensor))


@pytest.mark.parametrize("workers", [0, 2])
def test_webdataset_in_shuffled_batches(made: Made, workers: int) -> None:
    webdataset = pytest.importorskip("webdataset", reason=NO_DEV)
    samples = webdataset.WebDataset(made.tars("s2"), shardshuffle=False).shuffle(20).decode()
    batches = samples.to_tuple("__key__", "10m.npy", "20m.npy", "60m.npy", "txt").batched(4)
    seen = []
    for keys, *arrays, captions in webdataset.WebLoader(batches, batch_size=None, num_workers=workers):
        for k, key in enumerate(keys):
            one = {group.name: np.asarray(array[k]) for group, array in zip(GROUPS["s2"], arrays, strict=True)}
            made.check(key, one, captions[k])
            seen.append(key)
    assert sorted(seen) == sorted(made.ids("s2"))


def test_wids(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With cache_dir = the folder itself no tar is copied, and nothing stays beside the tars."""
    wids = pytest.importorskip("wids", reason=NO_DEV)
    monkeypatch.setenv("WIDS_CACHE", str(tmp_path / "copies"))
    before = sorted(made.folder.iterdir())
    for path in sorted(made.folder.glob("*-s[12].json")):
        split, sensor = path.stem.split("-")
        samples = wids.ShardListDataset(str(path), cache_dir=str(made.folder))
        assert len(samples) == len(made.ids(sensor, split))
        keys = []
        for k in range(len(samples)):
            sample = samples[k]
            made.check(sample["__key__"], groups(sample, sensor, "."), sample[".txt"])
            assert sample[".json"] == record(made, sample["__key__"])
            assert sample[".jpg"].size == (made.samples.size_px,) * 2
            keys.append(sample["__key__"])
        samples.close()
        assert keys == made.ids(sensor, split), "in the order of the index"
    assert not (tmp_path / "copies").exists()
    assert sorted(made.folder.iterdir()) == before


def test_wids_reads_a_rebuilt_tar(tmp_path: Path) -> None:
    """The same names with other pixels: what the README says of cache_dir."""
    wids = pytest.importorskip("wids", reason=NO_DEV)

    def first() -> np.ndarray:
        samples = wids.ShardListDataset(str(shards / "train-s2.json"), cache_dir=str(shards))
        try:
            return samples[0][".10m.npy"]
        finally:
            samples.close()

    shards = make_world(tmp_path)
    one = first()
    shutil.rmtree(tmp_path / "out")
    make_world(tmp_path, baseline="02.08")
    made = read(shards)
    np.testing.assert_array_equal(first(), made.arrays[made.ids("s2", "train")[0]]["10m"])
    assert (first() != one).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_wids_in_a_torch_loader(made: Made, workers: int) -> None:
    wids = pytest.importorskip("wids", reason=NO_DEV)
    samples = wids.ShardListDataset(str(made.folder / "train-s1.json"), cache_dir=str(made.folder))
    samples.add_transform(lambda s: (s["__key__"], s[".10m.npy"], s[".txt"]))
    seen = []
    for keys, pixels, captions in torch.utils.data.DataLoader(samples, batch_size=4, shuffle=True, num_workers=workers):
        assert pixels.dtype == torch.float16
        for key, array, caption in zip(keys, pixels, captions, strict=True):
            made.check(key, {"10m": array.numpy()}, caption)
            seen.append(key)
    assert sorted(seen) == sorted(made.ids("s1", "train"))


HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("sensor", SENSORS)
def test_hugging_face_loads_the_folder(made: Made, hub: Any, sensor: str, streaming: bool) -> None:
    """By the card: columns are typed, so that an event behind the first samples is read, and lie as in the tars."""
    splits = hub.load_dataset(str(made.folder), sensor, streaming=streaming)
    there = {split: made.ids(sensor, split) for split in HUB_SPLITS}
    assert set(splits) == {HUB_SPLITS[split] for split, ids in there.items() if ids}
    members = [*(f"{g.name}.npy" for g in GROUPS[sensor]), "txt", "json", "jpg"]
    for split, ids in there.items():
        seen = []
        for sample in splits[HUB_SPLITS[split]] if ids else []:
            key = sample["__key__"]
            assert list(sample) == [*members, "__key__", "__url__"]
            arrays = {name: np.asarray(a, DTYPE[sensor]) for name, a in groups(sample, sensor).items()}
            made.check(key, arrays, sample["txt"])
            assert sample["json"] == record(made, key)
            assert sample["jpg"].size == (made.samples.size_px,) * 2
            seen.append(key)
        assert seen == ids


def test_hugging_face_keeps_the_bits_it_stores(made: Made, hub: Any) -> None:
    for sensor in SENSORS:
        columns = hub.load_dataset_builder(str(made.folder), sensor).info.features
        assert {columns[f"{group.name}.npy"].dtype for group in GROUPS[sensor]} == {DTYPE[sensor]}
        rows = hub.load_dataset(str(made.folder), sensor, split="train")
        stored = rows.with_format("arrow")[:]["10m.npy"].combine_chunks()
        arrays = np.stack([made.arrays[key]["10m"] for key in rows["__key__"]])
        np.testing.assert_array_equal(stored.to_numpy(zero_copy_only=False), arrays)


def test_hugging_face_on_tars_by_name(made: Made, hub: Any) -> None:
    """With the card's columns tars can be named one by one; streamed, they need not."""
    for sensor in SENSORS:
        columns = hub.load_dataset_builder(str(made.folder), sensor).info.features
        named = {"data_files": {"train": made.tars(sensor)}, "split": "train"}
        for more in ({"features": columns}, {"streaming": True}):
            seen = []
            for sample in hub.load_dataset("webdataset", **named, **more):
                arrays = {name: np.asarray(a, DTYPE[sensor]) for name, a in groups(sample, sensor).items()}
                made.check(sample["__key__"], arrays, sample["txt"])
                seen.append(sample["__key__"])
            assert sorted(seen) == sorted(made.ids(sensor))


def test_an_event_behind_the_first_samples(tmp_path: Path, hub: Any) -> None:
    """Why the card types the columns: guessed, a list of events that begins empty takes no event."""
    made = read(make_world(tmp_path))
    flooded = [key for key in made.ids("s2") if made.index[key]["events"]]
    assert flooded
    folder = tmp_path / "one"
    folder.mkdir()
    with tarfile.open(folder / "all.tar", "w") as out:
        for key in [*(key for key in made.ids("s2") if key not in flooded), *flooded]:
            with tarfile.open(made.folder / made.index[key]["shard"]) as tar:
                for suffix in ("txt", "json"):
                    member = tar.getmember(f"{key}.{suffix}")
                    out.addfile(member, tar.extractfile(member))
    named = {"data_files": {"train": str(folder / "all.tar")}, "split": "train"}
    columns = hub.load_dataset_builder(str(made.folder), "s2").info.features
    columns = hub.Features({name: columns[name] for name in ("txt", "json", "__key__", "__url__")})
    rows = hub.load_dataset("webdataset", **named, features=columns)
    assert [row["__key__"] for row in rows if row["json"]["events"] == ["river"]] == flooded
    with pytest.raises(hub.exceptions.DatasetGenerationError) as guessed:
        hub.load_dataset("webdataset", **named)
    assert "string to null" in str(guessed.value.__cause__), "guessing works now: the README need not warn of it"


def test_hugging_face_reads_a_rebuilt_tar(tmp_path: Path, hub: Any) -> None:
    """Other pixels in tars of the same names and sizes: datasets finds its copies by the head of the card alone."""
    shards = make_world(tmp_path, tail=NO_QUICKLOOK)
    sizes = {path.name: path.stat().st_size for path in shards.glob("*.tar")}
    hub.load_dataset(str(shards), "s2")
    shutil.rmtree(tmp_path / "out")
    make_world(tmp_path, tail=NO_QUICKLOOK, baseline="02.08")
    assert {path.name: path.stat().st_size for path in shards.glob("*.tar")} == sizes
    made = read(shards)
    for sample in hub.load_dataset(str(shards), "s2", split="train"):
        arrays = {name: np.asarray(a, np.uint16) for name, a in groups(sample, "s2").items()}
        made.check(sample["__key__"], arrays, sample["txt"])


def test_hugging_face_misses_a_tar(made: Made, tmp_path: Path, hub: Any) -> None:
    """The card says how many samples there are, so that a copy with a tar too few is told."""
    folder = tmp_path / "shards"
    folder.mkdir()
    missing = made.index[made.ids("s2", "train")[-1]]["shard"]
    for path in made.folder.iterdir():
        if path.name != missing:
            shutil.copy(path, folder)
    with pytest.raises(hub.exceptions.NonMatchingSplitsSizesError):
        hub.load_dataset(str(folder), "s2")


def test_hugging_face_in_a_torch_loader(made: Made, hub: Any) -> None:
    rows = hub.load_dataset(str(made.folder), "s2", split="train").select_columns(["__key__", "20m.npy", "txt"])
    seen = []
    for batch in torch.utils.data.DataLoader(rows.with_format("torch"), batch_size=4, shuffle=True):
        for key, pixels, caption in zip(batch["__key__"], batch["20m.npy"], batch["txt"], strict=True):
            np.testing.assert_array_equal(pixels.numpy(), made.arrays[key]["20m"])
            assert caption == made.index[key]["caption_paper"]
            seen.append(key)
    assert sorted(seen) == sorted(made.ids("s2", "train"))


def open_clip_arguments() -> list[str]:
    """Of the call in the README."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    return shlex.split(re.findall(r"^python -m open_clip_train\.main (.*)$", text, re.M)[0])


def test_open_clip_trains_on_quicklook_and_caption(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own loader, by the call in the README, with an epoch that has each tar once: no sample is lost or torn.

    The whole call ran too (2026-11-25, `--model ViT-S-32-alt --device cpu`, webdataset 0.2.86: 16 samples in 2 min).
    """
    data = pytest.importorskip("open_clip_train.data", reason="open_clip's trainer wants webdataset and braceexpand")
    from open_clip_train.params import parse_args
    from torchvision.transforms.functional import pil_to_tensor

    if "eof_value" in data.tar_file_expander.__code__.co_varnames:
        # What webdataset after 0.2.86 puts between tars ends open_clip's grouping; this is the fix of webdataset#384.
        monkeypatch.setattr(data, "tar_file_expander", functools.partial(data.tar_file_expander, eof_value=None))
    there = made.ids("s2", "train")
    brace = "train-s2-{000000..%06d}.tar" % (len({made.index[key]["shard"] for key in there}) - 1)  # noqa: UP031
    words = [w.replace("data/demo/shards", str(made.folder)) for w in open_clip_arguments()]
    words = [re.sub(r"train-s2-.*", brace, w).replace("val-s2", "test-s2") for w in words]
    args = parse_args([*words, "--workers", "0", "--batch-size", "1", "--train-num-samples", str(len(there))])
    args.distributed, args.world_size, args.rank = False, 1, 0
    loaders = data.get_data(args, (pil_to_tensor, pil_to_tensor), tokenizer=lambda text: [text])
    first = [key for key in made.ids("s2", "test") if made.index[key]["shard"] == "test-s2-000000.tar"]
    for name, ids in (("train", there), ("val", first)):
        expected = sorted((made.index[key]["caption_paper"], quicklook(made, key)) for key in ids)
        batches = list(loaders[name].dataloader)
        seen = [
            (text, image.numpy().tobytes())
            for images, texts in batches
            for image, text in zip(images, texts, strict=True)
        ]
        assert sorted(seen) == expected
        assert seen


def quicklook(made: Made, key: str) -> bytes:
    """RGB of the .jpg member, (3, H, W)."""
    from PIL import Image

    with tarfile.open(made.folder / made.index[key]["shard"]) as tar:
        member = tar.extractfile(f"{key}.jpg")
        assert member is not None
        return np.asarray(Image.open(io.BytesIO(member.read()))).transpose(2, 0, 1).tobytes()


def test_tar_and_tarfile(made: Made) -> None:
    """Names in the order of the index, from the program that everyone has and from Python."""
    for path in sorted(made.folder.glob("*.tar")):
        listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True).stdout.split()
        keys = [key for key, row in made.index.items() if row["shard"] == path.name]
        assert listed == [f"{key}.{suffix}" for key in keys for suffix in members(made.index[key]["sensor"])]
        with tarfile.open(path, "r|") as tar:  # as a stream: nothing is sought
            for member in tar:
                assert member.isreg()
                key, suffix = member.name.split(".", 1)
                if suffix == "txt":
                    stream = tar.extractfile(member)
                    assert stream is not None
                    assert stream.read().decode() == made.index[key]["caption_paper"]


def members(sensor: str) -> Iterator[str]:
    yield from (f"{group.name}.npy" for group in GROUPS[sensor])
    yield from ("txt", "json", "jpg")


def test_pandas_and_the_bytes_of_an_array(made: Made) -> None:
    index = pd.read_parquet(made.folder / "index.parquet")
    assert list(index["chip_id"]) == list(made.index)
    for _, row in index.iterrows():
        data = (made.folder / row["shard"]).read_bytes()
        arrays = {}
        for group in GROUPS[row["sensor"]]:
            start, length = int(row[f"offset_{group.name}"]), int(row[f"length_{group.name}"])
            arrays[group.name] = np.load(io.BytesIO(data[start : start + length]), allow_pickle=False)
        made.check(row["chip_id"], arrays, row["caption_paper"])


def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    """Every Python block of its section, in the order they stand, on small shards in the place of the demo's."""
    for name in ("webdataset", "wids", "datasets"):
        pytest.importorskip(name, reason=NO_DEV)
    (tmp_path / "data").mkdir()
    made = read(make_world(tmp_path / "world"))
    (tmp_path / "data/demo").symlink_to(made.folder.parent)
    section = (ROOT / "README.md").read_text().split("## Read the shards elsewhere")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == 4
    code = "\n".join([*blocks, "print(row['chip_id'], pixels.sum(), len(list(streamed)), len(copied), len(named))"])
    env = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "WIDS_CACHE": str(tmp_path / "copies")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = made.ids("s2", "train")
    water = next(key for key in there if made.index[key]["label_mask"] & 1)
    pixels = made.arrays[water]["10m"].sum()
    assert done.stdout.split()[-5:] == [water, str(pixels), *[str(len(there))] * 3]
    assert not (tmp_path / "copies").exists()
