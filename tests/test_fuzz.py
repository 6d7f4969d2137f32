"""Damaged input of every kind that is read: out comes a value or our Problem, within 2 s and 512 MB, and nothing else."""

from __future__ import annotations

import json
import math
import random
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from fake_shards import write_fake_shards
from mutate import mutated
from world import World

from harmonize.problem import Problem
from harmonize.queries import DistinctLabels
from harmonize.query_file import queries_record
from pipeline import verify as verifying
from pipeline import verify_index
from pipeline.receipt import Receipt, read_receipt, receipt_name, write_receipt
from pipeline.region import load_region
from pipeline.scenes import find_scenes
from pipeline.store import Store
from pipeline.vector import read_codes, read_vector
from pipeline.work import Work
from train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from train.queries import load_queries
from train.reader import Reader
from train.recipe import load_recipe
from train.shards import open_shards

SECONDS, BYTES = 2.0, 512 << 20
"""What one input may cost, in time of the processor: this machine may be busy with something else."""
HANG_SECONDS = 30.0
"""By the clock: a reader that waits for something."""


class TooLong(BaseException):
    """Not caught by anything that is read with."""


@dataclass
class Target:
    """Something that is read: its good form, how it is damaged, and how it is read."""

    path: Path
    kind: str
    read: Callable[[], Any]
    share: int
    """Of the inputs, in parts of all shares."""
    before: Callable[[bytes], None] = lambda _: None
    """What has to follow the file, such as its hash in another one."""


@contextmanager
def limits() -> Iterator[None]:
    """MemoryError beyond BYTES more than there is now, and TooLong when a timer ends that `_timed` starts."""

    def stop(*_: object) -> None:
        raise TooLong

    status = Path("/proc/self/status").read_text()
    held = int(status.split("VmData:")[1].split()[0]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    resource.setrlimit(resource.RLIMIT_DATA, (held + BYTES, hard))
    try:
        yield
    finally:
        _timed(0, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _timed(seconds: float, clock_seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, clock_seconds)


def fuzz(targets: dict[str, Target], count: int, seed: int) -> tuple[int, list[str]]:
    """How many inputs came out as they should, and a line for each that did not."""
    shares, wrong, good = sum(t.share for t in targets.values()), [], 0
    for name, target in targets.items():
        draw, whole = random.Random(f"{seed} {name}"), target.path.read_bytes()
        with limits():
            for k in range(math.ceil(count * target.share / shares)):
                if said := _one(target, mutated(whole, draw, target.kind)):
                    wrong.append(f"{name} {k}: {said}")
                else:
                    good += 1
        target.path.write_bytes(whole)
        target.before(whole)
    return good, wrong


def _one(target: Target, data: bytes) -> str | None:
    target.path.write_bytes(data)
    target.before(data)
    _timed(SECONDS, HANG_SECONDS)
    try:
        target.read()
    except Problem as problem:
        if not problem.what:
            return "a Problem without words"
    except (Exception, TooLong) as error:
        return f"{type(error).__name__}: {' '.join(str(error)[:120].split())} ({_where(error)})"
    finally:
        _timed(0, 0)
    return None


def _where(error: BaseException) -> str:
    """The last line of ours that an exception passed."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(ROOT)]
    ours = [f for f in ours if ".venv" not in f.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _world(folder: Path) -> dict[str, Target]:
    world = World(folder / "w", size_m=600, s1_dates=())
    manifest = world.write()
    lines = manifest.read_text().replace('[[imagery]]\nsource = "s1-here"\n', "")
    manifest.write_text(lines)
    region = load_region(manifest)
    store = Store(str(folder / "out"))
    event = folder / "w/flood.geojson"
    ring = [[10.1, 45.1], [10.2, 45.1], [10.2, 45.2], [10.1, 45.1]]
    features = [
        {"type": "Feature", "properties": {"code": code}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for code in (111, 231)
    ]
    event.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    write_receipt(store, Receipt("chips", 1, {"a": 1}, {}, (), {"chips.parquet": "0" * 64}, 3, 2, {"cloud": 1}))
    return {
        "manifest": Target(manifest, "toml", lambda: load_region(manifest), 10),
        "item": Target(world.root / "catalog/s2/S2-0.json", "json", lambda: find_scenes(Work(region, store, {})), 6),
        "vector": Target(event, "json", lambda: read_vector(event, "here"), 3),
        "codes": Target(event, "json", lambda: read_codes(event, "code", "here"), 2),
        "receipt": Target(Path(store.path(receipt_name("chips"))), "json", lambda: read_receipt(store, "chips"), 12),
    }


def _shards(folder: Path) -> dict[str, Target]:
    import hashlib

    shards = write_fake_shards(folder / "shards", {("train", "s2"): 3, ("train", "s1"): 2, ("test", "s2"): 2})
    target = verifying.target_of(str(shards), "data")
    about = json.loads((shards / "shards.json").read_text())

    def follow(change: Callable[[dict[str, Any], str, int], None]) -> Callable[[bytes], None]:
        """shards.json as if the file had been written so: no hash tells anything."""

        def write(data: bytes) -> None:
            now = json.loads(json.dumps(about))
            change(now, hashlib.sha256(data).hexdigest(), len(data))
            (shards / "shards.json").write_text(json.dumps(now))

        return write

    def read() -> None:
        samples = open_shards([shards])
        for sensor in ("s1", "s2"):
            some = samples.of(sensor=sensor)
            reader = Reader(some)
            try:
                reader.read(some)
            finally:
                reader.close()

    def verify() -> None:
        for finding in verifying.verify(target, 1.0, quiet=True).findings:
            assert verifying.finding_line(finding)

    def info() -> None:
        from pipeline.info import shards_info

        shards_info(target.store)

    def _tar(now: dict[str, Any], sha256: str, size: int) -> None:
        next(s for s in now["shards"] if s["url"] == tar.name).update(sha256=sha256, bytes=size)

    tar, index = shards / "train-s2-000000.tar", shards / "index.parquet"
    of_tar = follow(_tar)
    of_index = follow(lambda now, sha256, _: now["index"].update(sha256=sha256))
    return {
        "tar, read": Target(tar, "bytes", read, 6, of_tar),
        "tar, verified": Target(tar, "bytes", verify, 3, of_tar),
        "index, read": Target(index, "bytes", read, 5, of_index),
        "index, verified": Target(index, "bytes", verify, 3, of_index),
        "shards.json, read": Target(shards / "shards.json", "json", read, 6),
        "shards.json, verified": Target(shards / "shards.json", "json", verify, 4),
        "shards.json, told": Target(shards / "shards.json", "json", info, 3),
        "index, listed": Target(index, "bytes", lambda: verify_index.read_index(target.store, index.name), 3, of_index),
    }


def _training(folder: Path) -> dict[str, Target]:
    recipe = folder / "tiny.toml"
    recipe.write_text((ROOT / "manifests/recipes/tiny.toml").read_text())
    queries = folder / "queries.json"
    masks = np.array([1, 3, 5, 16] * 20)
    labels = DistinctLabels.of(masks, np.full(80, 4095), np.array(["s1", "s2"] * 40))
    queries.write_text(json.dumps(queries_record(labels, "0" * 64, "test", 5)))
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    save_checkpoint(folder / "run", 4, model, optimiser, {"s2": 3})  # type: ignore[arg-type]
    (saved,) = checkpoints(folder / "run")
    state = json.loads((saved / "state.json").read_text())
    del state["files"], state["sha256"]  # as older versions wrote it: no hash tells anything
    (saved / "state.json").write_text(json.dumps(state))
    load = lambda: load_checkpoint(saved, model, optimiser)  # type: ignore[arg-type]  # noqa: E731
    found = {
        "recipe": Target(recipe, "toml", lambda: load_recipe(recipe), 14),
        "queries": Target(queries, "json", lambda: load_queries(queries), 16),
        "state.json": Target(saved / "state.json", "json", load, 4),
    }
    return found | {
        name: Target(saved / f"{name}.safetensors", "bytes", load, 4) for name in ("model", "optimiser", "random")
    }


@pytest.fixture
def targets(tmp_path: Path) -> dict[str, Target]:
    return _world(tmp_path / "world") | _shards(tmp_path) | _training(tmp_path)


def _check(targets: dict[str, Target], count: int, seed: int, score: Callable[[str, int, int], None]) -> None:
    for name, target in targets.items():
        target.before(target.path.read_bytes())
        assert _one(target, target.path.read_bytes()) is None, f"{name}: the good form is not read"
    randomness = torch.get_rng_state()
    good, wrong = fuzz(targets, count, seed)
    torch.set_rng_state(randomness)
    score("fuzzed inputs", good, good + len(wrong))
    assert not wrong, "\n".join([f"{len(wrong)} of {good + len(wrong)}", *wrong[:40]])


def test_damaged_input_gives_a_value_or_a_problem(
    targets: dict[str, Target], score: Callable[[str, int, int], None]
) -> None:
    _check(targets, 5000, 1, score)


@pytest.mark.soak
def test_much_damaged_input_gives_a_value_or_a_problem(
    targets: dict[str, Target], score: Callable[[str, int, int], None]
) -> None:
    _check(targets, 100_000, 2, score)


def _put(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def put(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return put


DEPTH = 20_000
SEEN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "TOML, deep": ("manifest", lambda data: data + b"\nx = " + b"[" * DEPTH),
    "TOML, long number": ("recipe", lambda data: data + b"\nx = " + b"9" * 5000),
    "JSON, deep": ("queries", lambda _: b"[" * DEPTH),
    "JSON, deep shards": ("shards.json, verified", lambda _: b'{"a":' * DEPTH),
    "JSON, half a character": ("item", _put(b'"S2-0"', b'"\\ud800"')),
    "collection is a number": ("item", _put(b'"collection": "s2"', b'"collection": 3')),
    "href with a zero": ("item", _put(b"s2_0_B02.tif", b"s2_0\\u0000.tif")),
    "href of no file's length": ("item", _put(b"s2_0_B02.tif", b"9" * 5000)),
    "number of no table's length": ("item", _put(b'"proj:epsg": 32632', b'"proj:epsg": 1e30')),
    "place of no number's length": ("item", _put(b'"proj:transform": [10', b'"proj:transform": [' + b"9" * 400)),
    "crosswalk of no file's length": ("manifest", _put(b'"labels/classes.csv"', b'"' + b"a" * 5000 + b'"')),
    "bytes of no number's length": ("shards.json, read", _put(b'"bytes": ', b'"bytes": ' + b"9" * 400)),
    "array's header": ("tar, read", _put(b"'<u2', 'fortran_order'", b"'<u2'(((fortran_order'")),
    "index": ("index, read", lambda data: data[:4] + b"\xff" * 40 + data[44:]),
    "no size": ("shards.json, read", _put(b'"size_px": 12', b'"size": 12')),
    "size is a list": ("shards.json, read", _put(b'"size_px": 12', b'"size_px": [12]')),
    "huge chips": ("shards.json, read", _put(b'"size_px": 12', b'"size_px": 60000000')),
    "tar without hash": ("shards.json, read", _put(b'"sha256": "', b'"sha257": "')),
    "random numbers": ("random", _put(b'"cpu"', b'"cup"')),
    "step": ("state.json", _put(b'"step": 4', b'"step": "4"')),
}
"""What the fuzz has found, each to be refused by a Problem."""


@pytest.mark.parametrize("case", SEEN)
def test_what_the_fuzz_has_found_is_refused(targets: dict[str, Target], case: str) -> None:
    name, change = SEEN[case]
    target = targets[name]
    data = change(target.path.read_bytes())
    target.path.write_bytes(data)
    target.before(data)
    if "verified" in name:
        assert _one(target, data) is None
        return
    with pytest.raises(Problem) as caught:
        target.read()
    assert caught.value.what
    assert caught.value.where


def test_the_fuzz_sees_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception, a hang, too much memory and a Problem without words are each told."""

    def fail() -> None:
        raise KeyError("x")

    def hang() -> None:
        while True:
            pass

    def wait() -> None:
        time.sleep(10)

    def silent() -> None:
        raise Problem("")

    monkeypatch.setitem(globals(), "SECONDS", 0.1)
    monkeypatch.setitem(globals(), "HANG_SECONDS", 1.0)
    path = tmp_path / "x"
    path.write_bytes(b"x")
    base = Target(path, "bytes", fail, 1)
    memory = replace(base, read=lambda: bytearray(BYTES + (64 << 20)))
    each = (base, memory, *(replace(base, read=read) for read in (hang, wait, silent)))
    found = [fuzz({"x": target}, 1, 1)[1] for target in each]
    words = ("KeyError", "MemoryError", "TooLong", "TooLong", "without words")
    assert all(word in lines[0] for word, lines in zip(words, found, strict=True)), found
