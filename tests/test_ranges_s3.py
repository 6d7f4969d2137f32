"""Byte ranges out of S3 itself (moto's server): asked for at the same time, by several threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_shards import write_fake_shards
from s3_server import bucket, client, put, s3_address  # noqa: F401

from harmonize.problem import Problem
from pipeline.sample import arrays_sha256
from train import bucket as bucket_of
from train.loader import Loading, all_of
from train.reader import Reader
from train.resident import bytes_of
from train.shards import Samples, open_shards


@pytest.fixture
def folder(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    made = write_fake_shards(tmp_path / "made", {("train", "s2"): 24, ("train", "s1"): 12}, size_px=120)
    for file in made.iterdir():
        put(f"data/shards/{file.name}", file.read_bytes())
    monkeypatch.setattr(bucket_of, "WAIT_S", 0.001)
    return f"{bucket}/shards"


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(path, bytes) of every range that s3fs fetched."""
    import s3fs

    cat, found = s3fs.S3FileSystem._cat_file, []

    async def cat_file(self: Any, path: str, **options: Any) -> bytes:
        data: bytes = await cat(self, path, **options)
        if path.endswith(".tar"):
            found.append((path, len(data)))
        return data

    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", cat_file)
    return found


def epoch(samples: Samples) -> None:
    with all_of(samples, 5, torch.device("cpu"), Loading(3)) as chunks:
        for chunk in chunks:
            for k, row in enumerate(chunk.rows):
                arrays = [array[k] for array in chunk.arrays.values()]
                assert arrays_sha256(arrays) == samples["sha256"][row]


def test_ranges_of_s3(folder: str, gets: list[tuple[str, int]], tmp_path: Path) -> None:
    samples = open_shards([folder], cache=tmp_path / "cache")
    samples = samples.where(np.random.default_rng(0).permutation(len(samples)))
    epoch(samples)
    assert bytes_of(samples) < sum(count for _, count in gets) < 1.05 * bytes_of(samples)
    for name in ("train-s2-000000.tar", "train-s1-000000.tar"):
        client().delete_object(Bucket="corpus", Key=f"data/shards/{name}")
    gets.clear()
    epoch(open_shards([folder], cache=tmp_path / "cache"))
    assert not gets
    with pytest.raises(Problem, match="cannot be fetched") as caught:
        epoch(open_shards([folder], cache=tmp_path / "other"))
    assert caught.value.where.startswith(f"{folder}/train-s")
    left = open_shards([folder], skip_bad=True, cache=tmp_path / "other")
    assert (len(left), len(left.skipped)) == (0, 2)


def test_a_tar_of_s3_that_was_cut_off_or_made_anew(folder: str, tmp_path: Path) -> None:
    samples = open_shards([folder], cache=tmp_path / "cache").of("train", "s1")
    put("data/shards/train-s1-000000.tar", bytes(5000))
    with pytest.raises(Problem, match="it has 5000 bytes now") as caught:
        Reader(samples).read(samples)
    assert caught.value.code == 4
    left = open_shards([folder], skip_bad=True, cache=tmp_path / "cache")
    assert (len(left), left.skipped[0].split(",")[0]) == (24, "train-s1-000000.tar has 5000 bytes")
