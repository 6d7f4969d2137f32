"""A disk that takes no more: told in words, nothing corrupt, and the same call goes on when there is space again."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import Said, run
from conftest import ROOT
from world import World

from harmonize.disk import SAID, disk_problem
from harmonize.problem import Problem
from pipeline.store import Store

PASSES = 10
Score = Callable[[str, int, int], None]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A region of four cells, both sensors."""
    return World(tmp_path_factory.mktemp("world"), size_m=1200).write()


def build(manifest: Path, out: Path) -> Said:
    return run("pipeline", "build", str(manifest), "--to", "shards", "--out", str(out), "--scheduler", "serial")


def files_of(out: Path) -> dict[str, str]:
    """sha256 of every file of a region, but for what a receipt says of its own seconds."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if not name.startswith("tiny/receipts/") or name.startswith("tiny/receipts/tars"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed run leaves."""
    out = tmp_path_factory.mktemp("whole")
    assert build(manifest, out).returncode == 0
    return files_of(out)


class Disk:
    """Counts what is written through files that are opened for writing; beyond `room` bytes there is none."""

    def __init__(self, room: float, number: int = errno.ENOSPC) -> None:
        self.room, self.number, self.written, self.refusals = room, number, 0, 0

    def take(self, count: int) -> None:
        if self.written + count > self.room:
            self.refusals += 1
            raise OSError(self.number, os.strerror(self.number))
        self.written += count


class _File(io.FileIO):
    disk: Disk

    def write(self, data: Any) -> int:
        self.disk.take(memoryview(data).nbytes)
        return super().write(data)


@contextmanager
def disk_of(room: float, number: int = errno.ENOSPC) -> Iterator[Disk]:
    """In the block all that this program writes goes to a disk with so much room."""
    disk, usual = Disk(room, number), io.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "b" in mode and set(mode) & set("wa"):
            raw = _File(file, mode.replace("b", ""))
            raw.disk = disk
            return io.BufferedWriter(raw)
        return usual(file, mode, *args, **kwargs)

    io.open = opened  # type: ignore[assignment]  # what Path.open calls
    try:
        yield disk
    finally:
        io.open = usual


@contextmanager
def file_size(most: int) -> Iterator[None]:
    """In the block no file may be larger (setrlimit(2); Python ignores SIGXFSZ, so that it is an error: EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def told(said: Said, number: int) -> None:
    """Code 1, and words: what, where, how to go on."""
    assert said.returncode == 1, said.all
    assert "Traceback" not in said.all
    error = said.all[said.all.index("error: ") :]
    what, fix = SAID[number]
    assert what in error
    assert f"fix:   {fix}" in error
    assert "where: " in error


def stands(out: Path) -> None:
    """Nothing corrupt: what is there is what its receipts say, no draft is left, no index over missing tars."""
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]
    region = out / "tiny"
    if list((region / "receipts").glob("*.json")):
        checked = run("pipeline", "verify", str(region), "--sample", "1", "--scheduler", "serial")
        assert checked.returncode == 0, checked.all


def one_pass(manifest: Path, out: Path, whole: dict[str, str], limit: Any, number: int) -> None:
    with limit:
        said = build(manifest, out)
    told(said, number)
    stands(out)
    again = build(manifest, out)
    assert again.returncode == 0, again.all
    assert files_of(out) == whole
    shutil.rmtree(out)


def test_ten_disks_that_are_full(manifest: Path, whole: dict[str, str], tmp_path: Path, score: Score) -> None:
    """Five with so much room, from none to nearly enough; five where no file may be larger than so much."""
    with disk_of(float("inf")) as disk:
        assert build(manifest, tmp_path / "measured").returncode == 0
    largest = max(p.stat().st_size for p in (tmp_path / "measured").rglob("*") if p.is_file())
    draw, passed = random.Random(6), 0
    for k in range(PASSES):
        share = (k // 2 + draw.random() * 0.98) / (PASSES // 2)
        out = tmp_path / f"out{k}"
        if k % 2:
            one_pass(manifest, out, whole, file_size(int(largest * share)), errno.EFBIG)
        else:
            one_pass(manifest, out, whole, disk_of(disk.written * share), errno.ENOSPC)
        passed += 1
    score("disks full", passed, PASSES)


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS])
def test_quotas_and_disks_that_are_read_only(manifest: Path, tmp_path: Path, number: int) -> None:
    with disk_of(0, number):
        told(build(manifest, tmp_path), number)


def mounted(megabytes: float, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command with a disk of its own in `folder`, whose files are copied to `folder`-left at the end."""
    script = (
        f"mount -t tmpfs -o size={int(megabytes * 1024)}k none {folder} && cd {ROOT} && {{ {' '.join(words)}; code=$?; "
        f"cp -r {folder} {folder}-left; exit $code; }}"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=env, check=False)


@pytest.mark.soak
def test_small_file_systems(manifest: Path, whole: dict[str, str], tmp_path: Path, score: Score) -> None:
    """The same on file systems that are as small as that, where this machine lets us mount one (user namespaces)."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let its users mount a file system (unshare -rm)")
    with disk_of(float("inf")) as disk:
        assert build(manifest, tmp_path / "measured").returncode == 0
    draw, passed = random.Random(7), 0
    for k in range(PASSES):
        out = tmp_path / f"disk{k}"
        out.mkdir()
        size = draw.uniform(0.05, 0.9) * disk.written / 2**20
        words = f"{sys.executable} -m pipeline build {manifest} --to shards --out {out} --scheduler serial".split()
        said = mounted(size, out, *words)
        told(Said(said.returncode, said.stdout, said.stderr), errno.ENOSPC)
        left = Path(f"{out}-left")
        stands(left)
        assert build(manifest, left).returncode == 0
        assert files_of(left) == whole
        passed += 1
    score("disks full, mounted", passed, PASSES)


def test_a_checkpoint_on_a_full_disk(tmp_path: Path, score: Score) -> None:
    """The run tells it, the checkpoints before stay whole, and the same call ends with the same weights."""
    from fake_shards import write_fake_shards

    from train.checkpoint import checkpoints
    from train.whole import file_digest

    counts = {("train", "s2"): 10, ("train", "s1"): 8, ("val", "s2"): 4}
    shards = write_fake_shards(tmp_path / "shards", counts)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'name = "r"\ncheckpoint_steps = 1\nlog_steps = 1\n'
        '[vision]\ns2 = "test_resnet"\ns1 = "test_resnet"\n'
        '[text]\ntower = "open_clip"\nweights = "none"\npooling = "eot"\ncontext = 16\nwidth = 32\nlayers = 1\nheads = 2\n'
        "[data]\nbatch_size = 4\n[optim]\nsteps = 3\n"
    )

    def fit(name: str) -> Said:
        return run("train", "fit", str(recipe), str(shards), "--runs", str(tmp_path / name), "--run", "r")

    with disk_of(float("inf")) as disk:
        assert fit("whole").returncode == 0
    wanted = file_digest(tmp_path / "whole/r/model.safetensors")
    passed = 0
    for k, limit in enumerate((disk_of(disk.written * 0.6), file_size(100_000))):
        with limit:
            told(fit(f"run{k}"), errno.EFBIG if k else errno.ENOSPC)
        left = tmp_path / f"run{k}"
        assert not [p for p in left.rglob("*") if p.name.endswith(".tmp")]
        assert all((p / "model.safetensors").stat().st_size for p in checkpoints(left / "r"))
        assert fit(f"run{k}").returncode == 0
        assert file_digest(left / "r/model.safetensors") == wanted
        passed += 1
    score("disks full, training", passed, 2)


def test_a_full_disk_of_a_worker_travels_as_words() -> None:
    """A job's error comes back as a Problem; other errors of a system stay what they are."""
    import pickle

    from pipeline import worker

    packed = pickle.dumps((_fails, worker_place(), errno.ENOSPC))
    found = worker.perform(worker.about(), packed)
    assert isinstance(found, Problem)
    assert found.code == 1
    with pytest.raises(OSError, match="Input/output"):
        worker.perform(worker.about(), pickle.dumps((_fails, worker_place(), errno.EIO)))
    assert disk_problem(OSError(errno.EIO, "x")) is None
    assert disk_problem(ValueError("x")) is None


def _fails(_: Any, number: int) -> None:
    raise OSError(number, os.strerror(number))


def worker_place() -> Any:
    from pipeline.verify_tar import Place

    return Place(Store(str(ROOT)))
