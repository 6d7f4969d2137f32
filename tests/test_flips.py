"""One byte changed anywhere: verify finds it, names the file and, in tars and pixels, the chip."""

from __future__ import annotations

import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from commands import run as command
from fake_shards import write_fake_shards
from test_runner import build
from test_training import SMALL
from world import World

from pipeline.verify import target_of, verify
from train.evaluate import evaluate
from train.loop import fit
from train.model import build_model
from train.run import begin, finish
from train.search import search
from train.shards import open_shards
from train.verify import verify_run

REGION = {
    "tar": "shards/*.tar",
    "part": "pixels/*.arrow",
    "Parquet": "*.parquet",
    "candidates": "screen/*.parquet",
    "index": "shards/*.parquet",
    "receipt": "receipts/*.json",
    "tar's receipt": "receipts/tars/*.json",
    "list": "shards/*.json",
    "sha256 list": "shards/SHA256SUMS",
    "card": "shards/README.md",
    "report": "*.json",
}
RUN = {
    "checkpoint": "checkpoints/*/*.safetensors",
    "state": "checkpoints/*/state.json",
    "model": "model.safetensors",
    "config": "config.json",
    "run": "run.json",
    "recipe": "recipe.toml",
    "environment": "environment.json",
    "metrics": "*.jsonl",
    "measures": "eval/*",
    "search": "search/*",
    "embeddings": "embeddings/*",
}


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flips")
    world = World(root / "w", size_m=1200, tail="train = 0.5\nval = 0.1\ntest = 0.4\n[shards]\nshard_mb = 0.2\n")
    build(world.write(), root / "out")
    return root / "out/tiny"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all that commands write into its folder: checkpoints, model, measures, a search, a cache."""
    root = tmp_path_factory.mktemp("run")
    shards = write_fake_shards(root / "shards", {("train", "s2"): 12, ("train", "s1"): 8, ("test", "s2"): 12})
    samples, folder = open_shards([shards]), root / "runs/small"
    recipe = root / "small.toml"
    recipe.write_text('name = "small"\n')
    begin(folder, SMALL, recipe, samples, [shards])
    assert fit(SMALL, samples, folder, build_model(SMALL))
    finish(folder)
    evaluate(folder, samples, "test", 2)
    search(folder, samples, "water", 3, None, None)
    return folder


@dataclass(frozen=True)
class Flip:
    """A byte of a file that is another one than was written."""

    root: Path
    file: str
    at: int
    bits: int

    def __enter__(self) -> None:
        self._turn()

    def __exit__(self, *_: object) -> None:
        self._turn()

    def _turn(self) -> None:
        with (self.root / self.file).open("r+b") as file:
            file.seek(self.at)
            byte = file.read(1)[0]
            file.seek(self.at)
            file.write(bytes([byte ^ self.bits]))


def flips(root: Path, kinds: dict[str, str], count: int, draw: random.Random) -> Iterator[Flip]:
    """Each kind equally often, and in it each file; any byte, any bits."""
    files = {kind: sorted(root.glob(pattern)) for kind, pattern in kinds.items()}
    files = {kind: [path for path in found if path.is_file()] for kind, found in files.items()}
    assert all(files.values()), [kind for kind, found in files.items() if not found]
    for k in range(count):
        path = draw.choice(files[list(files)[k % len(files)]])
        yield Flip(root, path.relative_to(root).as_posix(), draw.randrange(path.stat().st_size), draw.randrange(1, 256))


def chip_of(root: Path, file: str, at: int) -> str:
    """The chip whose bytes these are: of a tar all from its first header on, of a part its arrays; else empty."""
    if file.endswith(".tar"):
        with tarfile.open(root / file) as opened:
            for member in opened:
                if member.offset <= at < member.offset_data + -(-member.size // 512) * 512:
                    return member.name.partition(".")[0]
    if file.endswith(".arrow"):
        data = pa.py_buffer((root / file).read_bytes())
        part = pa.ipc.open_file(pa.BufferReader(data))
        for k in range(part.num_record_batches):
            batch = part.get_batch(k)
            for name in ("10m", "20m", "60m"):
                held = batch.column(name)[0]
                if held.is_valid and 0 <= at - (held.as_buffer().address - data.address) < held.as_buffer().size:
                    return str(batch.column("chip_id")[0].as_py())
    return ""


def check_region(root: Path, count: int, seed: int) -> list[str]:
    """What verify did not find, in words."""
    target, wrong = target_of(str(root), "data"), []
    assert verify(target, 0.05, quiet=True).findings == []
    for flip in flips(root, REGION, count, random.Random(seed)):
        chip = chip_of(root, flip.file, flip.at)
        with flip:
            found = [f for f in verify(target, 0.05, quiet=True).findings if f.file == flip.file]
        if not found or (chip and chip not in {f.sample for f in found}):
            wrong.append(f"{flip}: {chip or 'no chip'}, found {found}")
    assert verify(target, 0.05, quiet=True).findings == []
    return wrong


def check_run(root: Path, count: int, seed: int) -> list[str]:
    assert verify_run(root).findings == []
    wrong = []
    for flip in flips(root, RUN, count, random.Random(seed)):
        with flip:
            found = {f.file for f in verify_run(root).findings}
        if flip.file not in found:
            wrong.append(f"{flip}: found {found}")
    assert verify_run(root).findings == []
    return wrong


def check(region: Path, trained: Path, count: int, seed: int, score: Callable[[str, int, int], None]) -> None:
    wrong = [*check_region(region, count - count // 3, seed), *check_run(trained, count // 3, seed)]
    score("byte flips", count - len(wrong), count)
    assert not wrong, "\n".join([f"{len(wrong)} of {count}", *wrong[:20]])


def test_a_flipped_byte_is_found(region: Path, trained: Path, score: Callable[[str, int, int], None]) -> None:
    check(region, trained, 100, 6, score)


@pytest.mark.soak
def test_a_thousand_flipped_bytes_are_found(
    region: Path, trained: Path, score: Callable[[str, int, int], None]
) -> None:
    check(region, trained, 1000, 7, score)


def test_a_run_is_verified_by_the_command(trained: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained.parent, tmp_path / "runs"))
    said = command("train", "verify", "--runs", str(runs))
    assert (said.returncode, said.stdout) == (0, ""), said.all
    assert "small: whole:" in said.stderr
    assert "named by no other" not in said.stderr, "everything in the folder is looked at"
    checkpoint = sorted(runs.glob("small/checkpoints/*/optimiser.safetensors"))[-1]
    with Flip(checkpoint.parent, checkpoint.name, 200, 1):
        said = command("train", "verify", "small", "--runs", str(runs), "--json")
        assert said.returncode == 4
        assert '"whole": false' in said.stdout
        assert f'"file": "checkpoints/{checkpoint.parent.name}/optimiser.safetensors"' in said.stdout
    assert command("train", "verify", "smal", "--runs", str(runs)).returncode == 2
    assert command("train", "verify", "--runs", str(tmp_path)).returncode == 2


@pytest.mark.parametrize("file", ["model", "optimiser", "random", "state"])
def test_a_damaged_checkpoint_is_refused_by_name(trained: Path, tmp_path: Path, file: str) -> None:
    """Bytes of tensors are no structure: nothing but the hash can tell."""
    from harmonize.problem import Problem
    from train.checkpoint import checkpoints, load_checkpoint
    from train.loop import optimiser_of

    run = Path(shutil.copytree(trained, tmp_path / "run"))
    last, model = checkpoints(run)[-1], build_model(SMALL)
    optimiser, randomness = optimiser_of(model, SMALL.optim), torch.get_rng_state()
    assert load_checkpoint(last, model, optimiser) == 6
    name = f"{file}.json" if file == "state" else f"{file}.safetensors"
    with Flip(last, name, (last / name).stat().st_size - 30, 1), pytest.raises(Problem, match=name) as caught:
        load_checkpoint(last, model, optimiser)
    torch.set_rng_state(randomness)
    assert caught.value.code == 4
    assert name in caught.value.where
    assert str(last) in caught.value.fix


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "embeddings/*"])
def test_search_refuses_a_damaged_model_by_name(trained: Path, tmp_path: Path, file: str) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "runs/small"))
    path = next(run.glob(file))
    with Flip(path.parent, path.name, path.stat().st_size - 30, 1):
        said = command("train", "search", "crops", "--runs", str(run.parent))
    assert said.returncode == 4, said.all
    assert path.name in said.stderr
    assert "Traceback" not in said.all


def test_what_was_written_before_hashes_is_still_read(trained: Path, tmp_path: Path) -> None:
    import json

    run = Path(shutil.copytree(trained, tmp_path / "runs/small"))
    for path in run.rglob("*.json"):
        about = json.loads(path.read_text())
        for key in ("sha256", "files"):
            about.pop(key, None)
        path.write_text(json.dumps(about))
    said = command("train", "verify", "--runs", str(run.parent))
    assert said.returncode == 0, said.all
    assert "run.json was written by an older version: it has no hashes" in said.stderr
    assert command("train", "search", "crops", "--runs", str(run.parent)).returncode == 0
