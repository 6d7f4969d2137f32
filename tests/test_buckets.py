"""OUT=s3://…: the same bytes as on disk, whatever another program writes there, is cut off or dies on the way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run
from conftest import ROOT
from s3_server import bucket, client, content, empty, objects, put, s3_address  # noqa: F401  two are fixtures
from test_cluster import two  # noqa: F401  a fixture
from test_runner import hashes
from world import World

from harmonize.problem import Problem
from pipeline import runner
from pipeline.bucket import Bucket
from pipeline.cluster import SERIAL, Scheduler
from pipeline.receipt import read_receipt
from pipeline.stages import STAGES
from pipeline.store import Store
from pipeline.verify import target_of, verify

RECIPE = """
name = "small"
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
batch_size = 4
[optim]
steps = 3
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 cells, two dates of S2 and one of S1."""
    dates = ("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z")
    root = tmp_path_factory.mktemp("world")
    return World(root, size_m=1200, dates=dates, tail="[shards]\nshard_mb = 0.25\n").write()


@pytest.fixture(scope="module")
def disk(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The region on a disk: OUT."""
    out = tmp_path_factory.mktemp("disk")
    build(manifest, out)
    return out


def build(manifest: Path, out: str | Path, scheduler: Scheduler = SERIAL) -> list[str]:
    region, store = runner.load(manifest, str(out))
    return [r.stage for r in runner.run_upto(region, store, "shards", quiet=True, scheduler=scheduler)]


def in_bucket() -> dict[str, str]:
    """Name below data/tiny -> sha256, without receipts, which hold seconds."""
    return {
        key.removeprefix("data/tiny/"): hashlib.sha256(content(key)).hexdigest()
        for key in objects("data/tiny/")
        if "/receipts/" not in key
    }


def test_corpus_shards_training_and_verify_are_as_on_disk(
    manifest: Path,
    disk: Path,
    tmp_path: Path,
    bucket: str,  # noqa: F811
) -> None:
    """By the commands that a person types."""
    runs, recipe, model = tmp_path / "runs", tmp_path / "small.toml", {}
    recipe.write_text(RECIPE)
    found = run("pipeline", "build", str(manifest), "--to", "shards", "--out", bucket)
    assert found.returncode == 0, found.all
    assert in_bucket() == hashes(disk / "tiny")
    sizes = objects("data/tiny/")
    for stage in STAGES:
        receipt = read_receipt(Store(f"{bucket}/tiny"), stage)
        assert receipt
        assert receipt.sizes == {name: sizes[f"data/tiny/{name}"] for name in receipt.outputs}
    again = run("pipeline", "build", str(manifest), "--to", "shards", "--out", bucket)
    assert "everything up to shards is up to date" in again.all
    found = run("pipeline", "verify", str(manifest), "--out", bucket, "--sample", "1")
    assert (found.returncode, "whole" in found.all) == (0, True), found.all
    for name, out in (("disk", disk), ("s3", bucket)):
        fitted = run("train", "fit", str(recipe), f"{out}/tiny/shards", "--runs", str(runs), "--run", name)
        assert fitted.returncode == 0, fitted.all
        model[name] = (runs / name / "model.safetensors").read_bytes()
    assert model["s3"] == model["disk"]
    assert list((runs / "cache").rglob("*.ranges")), "samples are kept in RUNS/cache"


def test_what_another_program_writes_is_seen(bucket: str) -> None:  # noqa: F811
    store = Store(f"{bucket}/tiny")
    store.write("pixels/a.arrow", b"one")
    store.write("pixels/deeper/b.arrow", b"one")
    assert store.list("pixels") == ["pixels/a.arrow"], "files of the folder itself"
    put("data/tiny/pixels/c.arrow", b"three")
    put("data/tiny/pixels/", b"")
    assert store.list("pixels") == ["pixels/a.arrow", "pixels/c.arrow"]
    assert (store.exists("pixels/c.arrow"), store.size("pixels/c.arrow")) == (True, 5)
    client().delete_object(Bucket="corpus", Key="data/tiny/pixels/c.arrow")
    assert (store.exists("pixels/c.arrow"), store.size("pixels/c.arrow")) == (False, None)
    assert store.list("none") == []
    assert store.size("pixels") is None, "a folder has no size"
    assert store.list(".") == []


def test_a_copy_is_renewed_when_the_object_changes(bucket: str) -> None:  # noqa: F811
    store = Store(f"{bucket}/tiny")
    store.write("pixels/x-a.arrow", b"a neighbour")
    store.write("pixels/a.arrow", b"one")
    neighbour, first = store.local("pixels/x-a.arrow"), store.local("pixels/a.arrow")
    inode = first.stat().st_ino
    assert store.local("pixels/a.arrow").stat().st_ino == inode, "not fetched twice"
    put("data/tiny/pixels/a.arrow", b"two")
    assert store.local("pixels/a.arrow").read_bytes() == b"two"
    assert not first.exists(), "the old copy goes"
    assert neighbour.exists()


@contextlib.contextmanager
def losing_half(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Uploads and downloads of files lose their second half, and nobody says so."""
    import s3fs

    get = s3fs.S3FileSystem._get_file

    async def put_file(self: Any, local: str, path: str, **_: Any) -> None:
        data = Path(local).read_bytes()
        await self._pipe_file(path, data[: len(data) // 2])

    async def get_file(self: Any, path: str, local: str, **options: Any) -> None:
        await get(self, path, local, **options)
        os.truncate(local, Path(local).stat().st_size // 2)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_put_file", put_file)
        patch.setattr(s3fs.S3FileSystem, "_get_file", get_file)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_upload_that_was_cut_off_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    with losing_half(monkeypatch):
        store = Store(f"{bucket}/tiny")
        with pytest.raises(Problem, match="1000 bytes were sent and 500 are there") as caught:  # noqa: SIM117
            with store.drafting("pixels/a.arrow") as draft:
                draft.write_bytes(bytes(1000))
    assert caught.value.code == 1
    assert not list(draft.parent.parent.glob("closp-*/*.arrow")), "the draft goes"


def test_a_download_that_was_cut_off_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    Store(f"{bucket}/tiny").write("a.arrow", bytes(1000))
    with losing_half(monkeypatch), pytest.raises(Problem, match="500 of 1000 bytes arrived"):
        Store(f"{bucket}/tiny").local("a.arrow")
    assert Store(f"{bucket}/tiny").local("a.arrow").read_bytes() == bytes(1000)


def test_a_disk_that_is_full_is_not_the_bucket_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    from pipeline.bucket import Bucket

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.arrow").write_bytes(bytes(1000))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(LocalFileSystem, "get_file", full)
    with pytest.raises(Problem, match="the disk is full") as caught:
        Bucket(fsspec.filesystem("file"), "file://here").copy_of(str(tmp_path / "a.arrow"))
    assert str(tmp_path / "copies") in caught.value.where
    assert caught.value.code == 1
    assert "credentials" not in caught.value.fix


def test_no_bucket_and_no_server_are_told(manifest: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    import s3fs

    found = run("pipeline", "scenes", str(manifest), "--out", "s3://other/data")
    assert (found.returncode, "no such bucket" in found.all) == (1, True), found.all
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        found = run("pipeline", "scenes", str(manifest), "--out", bucket)
        assert (found.returncode, "the bucket does not answer" in found.all) == (1, True), found.all
        found = run("train", "fit", "manifests/recipes/demo.toml", f"{bucket}/tiny/shards")
        assert (found.returncode, "cannot be fetched" in found.all) == (2, True), found.all
    s3fs.S3FileSystem.clear_instance_cache()


class Died(BaseException):
    """Ends a run as a kill does: nobody catches it."""


def dying(monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> list[str]:
    """Let the process die before or after the Nth write to the bucket; what was written is noted."""
    written: list[str] = []

    def counted(plain: Callable[..., None], k: int) -> Callable[..., None]:
        def call(self: Bucket, *arguments: Any) -> None:
            if len(written) + 1 == at and not after:
                raise Died
            plain(self, *arguments)
            written.append(str(arguments[k]))
            if len(written) == at:
                raise Died

        return call

    for name, k in (("pipe_file", 0), ("put_file", 1), ("rm_file", 0)):
        monkeypatch.setattr(Bucket, name, counted(getattr(Bucket, name), k))
    return written


def dies_at(manifest: Path, bucket: str, at: int, after: bool) -> bool:  # noqa: F811
    """A run that dies at a write; whether it came to that."""
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, at, after)
        try:
            build(manifest, bucket)
        except Died:
            return True
    return False


def sweep(manifest: Path, disk: Path, bucket: str, points: list[tuple[int, bool]]) -> int:  # noqa: F811
    """Die at writes, run again, compare: how many times that was right."""
    expected, right = hashes(disk / "tiny"), 0
    for at, after in points:
        empty()
        assert dies_at(manifest, bucket, at, after)
        build(manifest, bucket)
        whole = not verify(target_of(str(manifest), bucket), 1.0, quiet=True).findings
        right += whole and in_bucket() == expected
    return right


def test_dying_at_a_write_ends_with_the_same_bytes(manifest: Path, disk: Path, bucket: str) -> None:  # noqa: F811
    assert sweep(manifest, disk, bucket, [(14, True)]) == 1


@pytest.mark.soak
def test_dying_at_any_write_ends_with_the_same_bytes(
    manifest: Path,
    disk: Path,
    bucket: str,  # noqa: F811
    score: Callable[[str, int, int], None],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written = dying(patch, 0, after=False)
        build(manifest, bucket)
    points = [(at, after) for at in range(1, len(written) + 1) for after in (False, True)]
    assert len(points) >= 40
    right = sweep(manifest, disk, bucket, points)
    score("crash points in a bucket", right, len(points))
    assert right == len(points)


@pytest.mark.soak
def test_killed_at_random_the_same_bytes(
    manifest: Path,
    disk: Path,
    bucket: str,  # noqa: F811
    score: Callable[[str, int, int], None],
) -> None:
    """SIGKILL of the command, in the middle of requests too."""
    draw, expected, right = random.Random(6), hashes(disk / "tiny"), 0
    words = [sys.executable, "-m", "pipeline", "build", str(manifest), "--to", "shards", "--out", bucket]
    for _ in range(20):
        empty()
        child = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, env=dict(os.environ))
        wanted, deadline = draw.randint(1, 25), time.monotonic() + 60
        while child.poll() is None and len(objects()) < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        child.kill()
        child.wait()
        build(manifest, bucket)
        right += in_bucket() == expected
    score("kills with OUT in a bucket", right, 20)
    assert right == 20


@pytest.mark.soak
def test_two_processes_write_into_a_bucket(
    manifest: Path,
    disk: Path,
    bucket: str,  # noqa: F811
    two: Scheduler,  # noqa: F811
) -> None:
    build(manifest, bucket, two)
    assert in_bucket() == hashes(disk / "tiny")
    assert build(manifest, bucket, two) == []


def test_make_names_the_shards_of_a_bucket(manifest: Path) -> None:
    """With a slash at the end or none: an object's key is not a path, `data//tiny` is another place."""
    for out in ("s3://corpus/data", "s3://corpus/data/"):
        words = ["make", "-n", "-o", ".venv/.ready", "train", f"REGION={manifest}", f"OUT={out}"]
        said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert " s3://corpus/data/tiny/shards " in said
