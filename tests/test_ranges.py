"""Shards in a bucket: only the samples' byte ranges are asked for, once; what comes is checked; what is kept is right
whoever writes it, whenever a process dies, and however little room there is."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import counted_bucket
import numpy as np
import pytest
import torch
from conftest import ROOT
from counted_bucket import CountedBucket, asked_bytes, forget, requests
from fake_shards import write_fake_shards

from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES
from pipeline.sample import arrays_sha256
from train import bucket as bucket_of
from train import range_cache
from train.batches import Batches
from train.bucket import joined
from train.label_sheet import Shares, clearest
from train.loader import Loading, all_of, training_loader
from train.reader import Reader
from train.recipe import Data
from train.resident import bytes_of
from train.shards import Samples, open_shards

CPU = torch.device("cpu")
COUNTS = {("train", "s2"): 30, ("train", "s1"): 20, ("val", "s2"): 12, ("test", "s2"): 12}
URL = "counted://shards"
TAR = "train-s2-000000.tar"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_shards(tmp_path_factory.mktemp("fake") / "shards", COUNTS)


class Bucket(NamedTuple):
    folder: Path
    """Where `counted://shards` really is."""
    cache: Path

    def open(self, split: str = "train", sensor: str = "s2", **options: object) -> Samples:
        return open_shards([URL], cache=self.cache, **options).of(split, sensor)  # type: ignore[arg-type]

    def kept(self) -> list[str]:
        return sorted(path.name[17:].removesuffix(".ranges") for path in self.cache.rglob("*.ranges"))


@pytest.fixture
def bucket(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return bucket_at(shards, tmp_path, monkeypatch)


def bucket_at(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    shutil.copytree(shards, tmp_path / "bucket/shards")
    monkeypatch.setenv(counted_bucket.ROOT, str(tmp_path / "bucket"))
    monkeypatch.setattr(bucket_of, "WAIT_S", 0.001)
    return Bucket(tmp_path / "bucket/shards", tmp_path / "cache")


def fault(monkeypatch: pytest.MonkeyPatch, what: Callable[[str, int, bytes], bytes] | None) -> None:
    monkeypatch.setattr(CountedBucket, "fault", staticmethod(what) if what else None)


def is_right(samples: Samples, arrays: dict[str, np.ndarray]) -> bool:
    found = [arrays_sha256([array[k] for array in arrays.values()]) for k in range(len(samples))]
    return found == samples["sha256"].tolist()


def read(samples: Samples) -> None:
    assert is_right(samples, Reader(samples).read(samples))


# What is asked for.


def test_an_epoch_asks_for_the_arrays_and_a_second_one_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_fake_shards(tmp_path / "made/shards", {("train", "s2"): 24, ("val", "s2"): 24}, size_px=120)
    bucket = bucket_at(made, tmp_path, monkeypatch)
    here, there = open_shards([made]).of("train"), bucket.open()
    assert there.sha256 == here.sha256
    assert not requests(), "nothing is fetched before it is read"
    order = np.random.default_rng(0).permutation(24)
    for k in range(0, 24, 6):
        mine, theirs = here.where(order[k : k + 6]), there.where(order[k : k + 6])
        local, remote = Reader(here).read(mine), Reader(there).read(theirs)
        assert all(local[name].tobytes() == remote[name].tobytes() for name in local)
    assert bytes_of(there) < asked_bytes() < 1.03 * bytes_of(there), "headers, and what lies between near samples"
    assert len(requests()) <= 24
    forget()
    with all_of(bucket.open(), 9, CPU, Loading(3)) as chunks:
        assert sum(len(chunk.rows) for chunk in chunks) == 24
    assert not requests()
    assert bucket.kept() == [TAR], "of val nothing was read"
    on_disk = sum(path.stat().st_blocks * 512 for path in bucket.cache.rglob("*.ranges"))
    assert on_disk < 1.1 * bytes_of(there), "the file is sparse"


def test_some_samples_cost_some_bytes(bucket: Bucket) -> None:
    samples = bucket.open()
    some = samples.where(np.array([3, 17, 3, 3]))
    read(some)
    one = bytes_of(samples) / len(samples)
    assert asked_bytes() < 2 * one + 2 * 4096, "a sample that a batch has three times comes once"


def test_the_loader_s_order_and_pixels_are_those_of_local_shards(bucket: Bucket, shards: Path) -> None:
    here = open_shards([shards]).of("train")
    there = open_shards([URL], cache=bucket.cache).of("train")
    for epoch in range(2):
        with all_of(here, 7, CPU, Loading(0)) as local, all_of(there, 7, CPU) as remote:
            for mine, theirs in zip(local, remote, strict=True):
                assert mine.rows.tolist() == theirs.rows.tolist()
                assert all(mine.arrays[n].tobytes() == theirs.arrays[n].tobytes() for n in mine.arrays)
        assert bool(requests()) == (epoch == 0)
        forget()


def test_training_batches_are_those_of_local_shards(bucket: Bucket, shards: Path) -> None:
    loaders = []
    for folder in (shards, URL):
        samples = open_shards([folder], cache=bucket.cache).of("train")
        batches = Batches(samples, Data(batch_size=8, sampling="balanced"), seed=3)
        loaders.append(training_loader(batches, range(2, 12), CPU))
    with loaders[0] as local, loaders[1] as remote:
        for mine, theirs in zip(local, remote, strict=True):
            assert mine.texts == theirs.texts
            assert all(mine.arrays[n].tobytes() == theirs.arrays[n].tobytes() for n in mine.arrays)


def test_batches_that_are_read_ahead_are_fetched_at_the_same_time(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four threads where nothing else is said: each waits until another one has asked too, or for too long."""
    together = threading.Barrier(2, timeout=30)

    def meeting(path: str, start: int, data: bytes) -> bytes:
        if not together.broken and len(requests()) <= 2:
            together.wait()
        return data

    samples = bucket.open()
    fault(monkeypatch, meeting)
    with all_of(samples, 15, CPU) as chunks:
        assert sum(len(chunk.rows) for chunk in chunks) == 30
    assert not together.broken, "the first two batches were asked for at once"


def test_two_folders_in_one_batch(bucket: Bucket, tmp_path: Path) -> None:
    write_fake_shards(tmp_path / "bucket/other", {("train", "s2"): 6}, region="other", first_col=500)
    samples = open_shards([URL, "counted://other"], cache=bucket.cache).of("train", "s2")
    assert len(samples) == 36
    read(samples)
    assert {path for path, _, _ in requests()} == {f"shards/{TAR}", f"other/{TAR}"}


def test_memory_of_fsspec_is_a_bucket_too(shards: Path, tmp_path: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    for file in shards.iterdir():
        fs.pipe_file(f"/{tmp_path.name}/shards/{file.name}", file.read_bytes())
    read(open_shards([Path(f"memory://{tmp_path.name}/shards")], cache=tmp_path).of("val"))


@pytest.mark.parametrize("seed", range(20))
def test_ranges_are_joined_where_they_are_near(seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 40 * bucket_of.GAP, 60)
    ranges = [(f"t{rng.integers(3)}", int(s), int(s + rng.integers(1, 2 * bucket_of.GAP))) for s in starts]
    asked, places = joined(ranges)
    for (path, start, end), at in zip(ranges, places, strict=True):
        assert asked[at][0] == path
        assert asked[at][1] <= start < end <= asked[at][2]
    for one, two in itertools.pairwise(asked):
        far = two[1] - one[2] > bucket_of.GAP or two[2] - one[1] > bucket_of.MOST_JOINED
        assert one[0] != two[0] or far, "near ones are one"


def test_large_joined_ranges_are_several() -> None:
    step = 1 << 20
    asked, _ = joined([("t", k * step, (k + 1) * step) for k in range(40)])
    assert len(asked) == 5
    assert all(end - start == bucket_of.MOST_JOINED for _, start, end in asked)


# The records beside the arrays.


def test_shares_out_of_a_bucket_are_those_of_local_shards(bucket: Bucket, shards: Path) -> None:
    here, there = open_shards([shards]).of("train", "s2"), bucket.open()
    shares = Shares(there)
    shares.fetch(np.arange(30))
    assert len(requests()) == 1, "near ranges, all at once"
    assert [shares.of(row) for row in range(30)] == [Shares(here).of(row) for row in range(30)]
    assert shares.of(0)
    forget()
    shares = Shares(bucket.open())
    for bit in range(len(CLASSES)):
        clearest(there, bit, shares, np.arange(30))
    assert 1 <= len(requests()) <= 5, "once a class that is there, not once a sample"


def test_a_record_longer_than_expected_is_read(bucket: Bucket, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.label_sheet.RECORD_BYTES", 1536)
    here, there = open_shards([shards]).of("train", "s2"), bucket.open()
    assert Shares(there).of(3) == Shares(here).of(3) != {}


# What comes damaged, or not at all.


def rewritten(bucket: Bucket, change: Callable[[dict], None]) -> None:
    about = json.loads((bucket.folder / "shards.json").read_text())
    change(about)
    (bucket.folder / "shards.json").write_text(json.dumps(about))


@pytest.mark.parametrize("name", ["../../../outside", "/outside", "..", ".", "", "a/b"])
def test_an_index_writes_nothing_outside_of_the_cache(bucket: Bucket, name: str) -> None:
    """A name in shards.json is a name on this disk too."""
    before = sorted(path for path in bucket.folder.parent.parent.rglob("*") if "cache" not in path.parts)
    rewritten(bucket, lambda about: about["index"].update(file=name))
    with pytest.raises(Problem, match=r"shards\.json is damaged"):
        bucket.open()
    rewritten(bucket, lambda about: (about["index"].update(file="index.parquet"), about["shards"][0].update(url=name)))
    with pytest.raises(Problem, match=r"shards\.json is damaged"):
        bucket.open()
    after = sorted(path for path in bucket.folder.parent.parent.rglob("*") if "cache" not in path.parts)
    assert after == before


@pytest.mark.parametrize("wrong", [{"sha256": "../../../../../x"}, {"sha256": "A" * 64}])
def test_a_hash_that_is_none_is_refused(bucket: Bucket, wrong: dict) -> None:
    rewritten(bucket, lambda about: about["shards"][0].update(wrong))
    with pytest.raises(Problem, match=r"no sha256 of train-s2"):
        bucket.open()


def test_a_tar_said_to_be_larger_than_any_disk_is_read_without_a_cache(bucket: Bucket) -> None:
    rewritten(bucket, lambda about: [shard.update(bytes=1 << 62) for shard in about["shards"]])
    read(bucket.open())
    assert not any(path.stat().st_size for path in bucket.cache.rglob("*.ranges"))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_sample_that_comes_damaged_once_is_asked_for_again(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, seen = bucket.open(), []

    def once(path: str, start: int, data: bytes) -> bytes:
        seen.append(start)
        return flipped(data, 512 + 128) if len(seen) == 1 else data

    fault(monkeypatch, once)
    read(samples.where(np.arange(4)))
    assert len(seen) > 1
    forget()
    fault(monkeypatch, None)
    read(samples.where(np.arange(4)))
    assert not requests()


@pytest.mark.parametrize("part", ["name", "header", "first pixel", "last pixel"])
def test_a_sample_that_is_damaged_is_refused_by_name_and_not_kept(bucket: Bucket, part: str) -> None:
    samples = bucket.open()
    first, last = int(samples["offset_10m"][7]), int(samples["offset_60m"][7] + samples["length_60m"][7]) - 1
    at = {"name": first - 512, "header": first + 20, "first pixel": first + 128, "last pixel": last}[part]
    path = bucket.folder / TAR
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, at))
    with pytest.raises(Problem) as caught:
        Reader(samples).read(samples)
    assert caught.value.code == 4
    assert str(caught.value.where) == f"{samples['chip_id'][7]} in {URL}/{TAR}"
    others = samples.where(np.arange(len(samples)) != 7)
    read(others)
    path.write_bytes(whole)
    forget()
    read(samples)
    assert len(requests()) == 1, "the damaged one is the only one that is not there"


def test_a_tar_of_another_build_is_said_to_be_one(bucket: Bucket) -> None:
    samples = bucket.open()
    (bucket.folder / TAR).write_bytes(b"something else" * 10_000)
    with pytest.raises(Problem, match=r"not the one shards\.json names: it has 140000 bytes") as caught:
        read(samples)
    assert (caught.value.where, caught.value.code) == (f"{URL}/{TAR}", 4)
    (bucket.folder / TAR).unlink()
    with pytest.raises(Problem, match="cannot be fetched") as caught:
        read(samples)
    assert caught.value.where == f"{URL}/{TAR}"
    with pytest.raises(Problem, match="there are no shards here"):
        open_shards([URL + "/none"], cache=bucket.cache)


def test_a_tar_that_was_made_anew_is_read_anew(bucket: Bucket) -> None:
    old = bucket.open("val")
    read(old)
    (before,) = bucket.cache.rglob("*.ranges")
    made = write_fake_shards(bucket.folder.parent / "again", COUNTS, seed=5)
    for file in made.iterdir():
        file.replace(bucket.folder / file.name)
    new = bucket.open("val")
    assert new["sha256"].tolist() != old["sha256"].tolist()
    read(new)
    assert [path for path in bucket.cache.rglob("*.ranges") if path != before]
    assert not before.exists()
    with pytest.raises(Problem) as caught:
        read(old)
    assert caught.value.code == 4, "the old index and the new tar"


class Gone(Exception):
    """As aiohttp's and botocore's are: of no kind that Python knows."""


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError(), Gone("sig"), OSError(5, "I/O")])
def test_errors_that_go_away_are_waited_for(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    samples, seen = bucket.open(), []

    def thrice(path: str, start: int, data: bytes) -> bytes:
        seen.append(start)
        if len(seen) <= 3:
            raise error
        return data

    fault(monkeypatch, thrice)
    read(samples)
    assert len(seen) == 4

    def ever(path: str, start: int, data: bytes) -> bytes:
        seen.append(start)
        raise error

    fault(monkeypatch, ever)
    seen.clear()
    with pytest.raises(Problem, match="cannot be fetched") as caught:
        read(bucket.open("val"))
    assert len(seen) == bucket_of.TRIES, "bounded"
    assert caught.value.where == f"{URL}/val-s2-000000.tar"


@pytest.mark.parametrize("cut", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_answers_of_another_length_are_no_samples(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, cut: Callable[[bytes], bytes]
) -> None:
    samples = bucket.open()
    fault(monkeypatch, lambda path, start, data: cut(data))
    with pytest.raises(Problem, match="bytes came"):
        read(samples)
    fault(monkeypatch, None)
    read(samples)


def test_no_rights_is_said_at_once_and_no_signature_with_it(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, start: int, data: bytes) -> bytes:
        raise PermissionError("403 for https://store/x.tar?sig=CANARY&se=1")

    samples = bucket.open()
    fault(monkeypatch, refuse)
    with pytest.raises(Problem, match="403") as caught:
        read(samples)
    assert len(requests()) == 1
    assert "CANARY" not in str(caught.value)


# --skip-bad.


def test_bad_tars_of_a_bucket_are_left_out_and_counted(bucket: Bucket) -> None:
    whole = open_shards([URL], cache=bucket.cache)
    (bucket.folder / "val-s2-000000.tar").unlink()
    with (bucket.folder / "test-s2-000000.tar").open("ab") as file:
        file.write(bytes(512))
    left = open_shards([URL], skip_bad=True, cache=bucket.cache)
    assert (len(whole), len(left)) == (74, 50)
    size = (bucket.folder / "test-s2-000000.tar").stat().st_size
    assert left.skipped == (
        "the tar val-s2-000000.tar is missing: 12 samples left out",
        f"test-s2-000000.tar has {size} bytes, shards.json says {size - 512}: 12 samples left out",
    )
    assert left.sha256 != whole.sha256
    read(left.of("train", "s1"))


def test_a_bucket_that_does_not_answer_is_no_bad_tar(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def silent(self: CountedBucket, path: str, **_: object) -> dict:
        tries.append(path)
        raise ConnectionError("no route")

    monkeypatch.setattr(CountedBucket, "info", silent)
    with pytest.raises(Problem, match="no route"):
        open_shards([URL], skip_bad=True, cache=bucket.cache)
    assert tries.count("shards/val-s2-000000.tar") == bucket_of.TRIES


# Several processes, and processes that die.


def reading(bucket: Bucket, rank: int, world: int, count: int = 4) -> subprocess.Popen[str]:
    words = [str(bucket.cache), str(rank), str(world), str(count)]
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/bucket_reading.py"), *words], env=env, stdout=subprocess.PIPE, text=True
    )


def test_ranks_share_what_is_kept(large: Bucket) -> None:
    both = [reading(large, rank, 2, 2) for rank in range(2)]
    assert [process.communicate(timeout=120)[0].splitlines()[-1] for process in both] == ["read 5", "read 5"]
    assert asked_bytes() < 1.05 * bytes_of(large.open()), "each sample once"
    forget()
    read(large.open())
    assert not requests()


def killed_while_fetching(bucket: Bucket, rounds: int, seed: int) -> int:
    """Two processes read an epoch of single samples and are killed in its middle, the second one in what the first one
    left. How often what they left was right: all pixels are, and what came is asked for no more."""
    rng, good = np.random.default_rng(seed), 0
    for _ in range(rounds):
        for last in sorted(rng.integers(1, 29, 2)):
            process = reading(bucket, 0, 1, 1)
            deadline = time.monotonic() + 60
            while len(requests()) < last and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.004))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, "it was not done"
        came = len(requests())
        assert came < 30
        read(bucket.open())
        good += len(requests()) - came <= 30 - came + 2  # two may have been under way
        forget()
        read(bucket.open())
        good += not requests()
        shutil.rmtree(bucket.cache)
    return good


@pytest.fixture
def slow_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv(counted_bucket.DELAY, "0.004")
    return bucket


def test_killed_processes_leave_nothing_wrong(slow_bucket: Bucket, score: Callable[[str, int, int], None]) -> None:
    good = killed_while_fetching(slow_bucket, 1, 0)
    score("kills while samples are fetched", good, 2)
    assert good == 2


@pytest.mark.soak
def test_many_killed_processes_leave_nothing_wrong(slow_bucket: Bucket, score: Callable[[str, int, int], None]) -> None:
    good = killed_while_fetching(slow_bucket, 50, 1)
    score("kills while samples are fetched", good, 100)
    assert good == 100


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("half", [False, True])
def test_a_process_that_dies_at_any_write(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, after: int, half: bool
) -> None:
    """A sample is written in four writes: three arrays and the mark. It dies before each one, or in the middle of it."""
    samples, write, count = bucket.open(), os.pwrite, 0

    def dying(file: int, data: memoryview, place: int) -> int:
        nonlocal count
        if count == after:
            if half and after < 4:
                write(file, data[: len(data) // 2], place)
            raise Killed
        count += 1
        return write(file, data, place)

    one = samples.where(np.array([5]))
    monkeypatch.setattr(os, "pwrite", dying)
    if after < 4:
        with pytest.raises(Killed):
            read(one)
    else:
        read(one)
    monkeypatch.setattr(os, "pwrite", write)
    forget()
    read(bucket.open().where(np.array([5])))
    # A half written mark is none, but after the bytes: they are looked at, and are right.
    assert len(requests()) == (after < 3 or (after == 3 and not half))


def test_marks_of_an_earlier_start_of_the_machine_are_checked(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power failure a mark may be on the disk and its bytes may not."""
    samples = bucket.open()
    read(samples)
    (path,) = bucket.cache.rglob("*.ranges")
    at = int(samples["offset_20m"][9]) + 200
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(300))
    forget()
    monkeypatch.setattr(range_cache, "_this_start", lambda: 77)
    read(bucket.open())
    assert len(requests()) == 1, "the one whose bytes were lost"
    forget()
    read(bucket.open())
    assert not requests()
    monkeypatch.setattr(range_cache.KeptTar, "mark", lambda *_: pytest.fail("checked once a start"))
    read(bucket.open())


def test_a_kept_file_of_anything_is_not_believed(bucket: Bucket) -> None:
    read(bucket.open())
    (path,) = bucket.cache.rglob("*.ranges")
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))
    forget()
    read(bucket.open())
    assert len(requests()) == 1
    forget()
    read(bucket.open())
    assert not requests()


def test_a_kept_array_that_was_damaged_since_is_fetched_again(bucket: Bucket) -> None:
    samples = bucket.open()
    read(samples)
    (path,) = bucket.cache.rglob("*.ranges")
    with path.open("r+b") as file:
        file.seek(int(samples["offset_20m"][4]) + 3)
        file.write(b"junk")
    forget()
    read(samples.where(np.arange(8)))
    assert requests()
    forget()
    read(samples)
    assert not requests()


def test_a_kept_file_of_another_size_is_made_anew(bucket: Bucket) -> None:
    read(bucket.open())
    (path,) = bucket.cache.rglob("*.ranges")
    path.write_bytes(b"x" * 1000)
    forget()
    read(bucket.open())
    assert len(requests()) == 1


# Room.


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_cache, "STEP", 1)
    monkeypatch.setattr(range_cache, "FULL_S", 0.0)


def on_disk(bucket: Bucket) -> int:
    return sum(path.stat().st_blocks * 512 for path in bucket.cache.rglob("*.ranges"))


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Three tars of 1.6 MB each."""
    counts = {("train", "s2"): 10, ("val", "s2"): 10, ("test", "s2"): 10}
    return bucket_at(write_fake_shards(tmp_path / "made/shards", counts, 120), tmp_path, monkeypatch)


@pytest.mark.usefixtures("small_steps")
def test_the_least_recently_used_tar_goes_first(large: Bucket) -> None:
    for split in ("train", "val", "train", "test"):
        read(large.open(split, cache_gb=3.6e-3))
        time.sleep(0.02)
        assert on_disk(large) < 3.9e6
    assert large.kept() == ["test-s2-000000.tar", TAR]
    forget()
    read(large.open("train", cache_gb=3.6e-3))
    assert not requests()
    read(large.open("val", cache_gb=3.6e-3))
    assert large.kept() == [TAR, "val-s2-000000.tar"]


@pytest.mark.usefixtures("small_steps")
def test_a_tar_in_use_stays_and_what_does_not_fit_is_read_without(
    large: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    train = large.open("train", cache_gb=2e-3)
    reader = Reader(train)
    assert is_right(train, reader.read(train))
    val = large.open("val", cache_gb=2e-3)
    for _ in range(3):
        read(val)
    assert TAR in large.kept()
    assert on_disk(large) < 2.3e6
    assert capsys.readouterr().err.count("is fetched each time it is read") == 1, "said once"
    forget()
    assert is_right(train, reader.read(train))
    assert not requests()
    reader.close()
    read(large.open("val", cache_gb=2e-3))
    assert large.kept() == ["val-s2-000000.tar"], "nobody uses the other one now"


def test_nothing_is_kept_where_nothing_may_be(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    samples = bucket.open(cache_gb=0)
    for _ in range(2):
        read(samples)
    assert len(requests()) == 2
    assert not bucket.kept()
    assert not capsys.readouterr().err, "as it was asked for"


def test_a_full_disk_ends_no_run(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = os.pwrite

    def full(file: int, data: memoryview, place: int) -> int:
        if place > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:1000], place)

    samples = bucket.open()
    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        read(samples)
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.setattr(os, "pwrite", write)
    read(bucket.open())
    forget()
    read(bucket.open())
    assert not requests(), "with space again, all is kept"


def test_a_limit_of_the_system_ends_no_run(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    """Not played: the system itself refuses the file."""
    samples, before = bucket.open(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        read(samples)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in capsys.readouterr().err
    read(bucket.open())
    forget()
    read(bucket.open())
    assert not requests()


def test_rounds_bound_what_is_in_memory(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = bucket.open()
    one = bytes_of(samples) // len(samples)
    monkeypatch.setattr("train.ranges.AT_ONCE", 4 * one + 4096)
    monkeypatch.setattr(bucket_of, "GAP", 0)
    read(samples)
    per_round = np.array([end - start for _, start, end in requests()])
    assert per_round.max() <= 4 * one + 4096
    assert len(requests()) >= 30 // 5


def test_the_last_gigabyte_of_a_disk_is_not_ours(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(bucket.folder)._replace(free=range_cache.LEFT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    for _ in range(2):
        read(bucket.open())
    assert len(requests()) == 2


def test_by_itself_the_cache_takes_half_of_the_free_disk(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = range_cache.RangeCache(bucket.cache)
    free = shutil.disk_usage(bucket.folder)._replace(free=10 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert cache.room(5 << 30)
    assert not range_cache.RangeCache(bucket.cache).room((5 << 30) + 1)


def test_a_cache_that_cannot_be_made_is_a_person_s_mistake(bucket: Bucket) -> None:
    bucket.cache.write_text("not a folder")
    with pytest.raises(Problem, match="cannot be kept"):
        bucket.open()


@pytest.mark.usefixtures("small_steps")
def test_two_processes_that_open_and_remove_the_same_tar(large: Bucket) -> None:
    """One reads train and val in turns with room for one of them; the other one reads train: each removes the other's."""
    processes = [reading(large, 0, 1, 2) for _ in range(2)]
    deadline = time.monotonic() + 60
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        for split in ("train", "val"):
            read(large.open(split, cache_gb=1.7e-3))
    assert [process.communicate(timeout=60)[0].splitlines()[-1] for process in processes] == ["read 10"] * 2


# The command.


def test_the_command_reads_a_bucket_and_says_its_cache(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from train import __main__ as command

    monkeypatch.chdir(tmp_path)
    for words in (["--cache-gb", "1"], ["--cache-gb", "1", "--skip-bad"]):
        with pytest.raises(SystemExit) as ended:
            command.app(["sheet", URL, "--out", "sheets", "--split", "train", *words])
        assert ended.value.code in (0, None)
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["labels-s1.png", "labels-s2.png"]
    assert len(list((tmp_path / "runs/cache").rglob("*.ranges"))) == 2
