"""Weights, models and checkpoints made by others."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attack_limits import refused
from safetensors.torch import save

from train.checkpoint import load_checkpoint, order_of, save_checkpoint
from train.location import LocationTower, load_satclip
from train.loop import optimiser_of
from train.model import Closp, build_model, load_model, save_model
from train.recipe import Data, Location, Optim, Recipe, Text, Vision
from train.vision import read_tensors

SMALL = Recipe(
    name="small",
    vision=Vision(s2="test_resnet", s1="test_resnet"),
    text=Text(tower="open_clip", weights="none", pooling="eot", context=16, width=32, layers=1, heads=2),
    data=Data(batch_size=4),
    optim=Optim(steps=2),
)


class Boom:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.ckpt", "w.bin"])
@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_weights_with_code(tmp_path: Path, name: str, how: str) -> None:
    path, code = tmp_path / name, {"state_dict": {"a": torch.zeros(2), "b": Boom(tmp_path / "boom")}}
    if how == "torch.save":
        torch.save(code, path)
    else:
        path.write_bytes(pickle.dumps({"b": Boom(tmp_path / "boom")}))
    refused(lambda: read_tensors(str(path), "key 'weights'"), "cannot be read as tensors alone")
    refused(lambda: load_satclip(LocationTower(Location()), str(path)), "cannot be read as tensors alone")
    assert not (tmp_path / "boom").exists()
    if how == "pickle":
        pickle.loads(path.read_bytes())  # noqa: S301
    else:
        torch.load(path, weights_only=False)
    assert (tmp_path / "boom").exists(), "the code is a working one"


def tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


BAD: dict[str, bytes] = {
    "overlaps": tensors({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
    "a hole": tensors({"a": entry(0, 8, [2]), "b": entry(16, 24, [2])}, bytes(24)),
    "a header larger than the file": tensors(b"{}", length=10**6),
    "a header of exabytes": tensors(b"{}", length=2**63),
    "data that is not there": tensors({"a": entry(0, 4 * 10**12, [10**12])}, bytes(8)),
    "more elements than int64": tensors({"a": entry(0, 8, [2**40, 2**40])}, bytes(8)),
    "a deep header": tensors(b"[" * 100_000),
    "a key twice": tensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        bytes(8),
    ),
    "a pickle": pickle.dumps({"a": 1}),
    "another type": tensors({"a": entry(0, 8, [1], "OBJECT")}, bytes(8)),
    "bytes behind the end": tensors({"a": entry(0, 8, [2])}, bytes(8) + b"PK\3\4" * 100),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "a key twice"])
def test_safetensors_that_are_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(BAD[kind])
    refused(lambda: read_tensors(str(path), "key 'weights'"), "cannot be read as tensors alone")


@pytest.fixture(scope="module")
def model() -> Closp:
    return build_model(SMALL)


@pytest.fixture(scope="module")
def exported(model: Closp, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder, 12)
    return folder


@pytest.mark.parametrize("kind", BAD)
def test_a_model_whose_weights_are_none(exported: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(BAD[kind])
    refused(lambda: load_model(folder), str(folder), code=4)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000, "[]", "null", "{}"])
def test_a_model_whose_config_is_none(exported: Path, tmp_path: Path, text: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    (folder / "config.json").write_text(text)
    refused(lambda: load_model(folder), str(folder), code=2 if text == "{}" else 4)


@pytest.fixture(scope="module")
def saved(model: Closp, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    save_checkpoint(run, 2, model, optimiser_of(model, SMALL.optim), {"s2": [0, 0]})
    return run / "checkpoints" / "step-00000002"


def _state(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        about = json.loads((folder / "state.json").read_text()) | keys
        (folder / "state.json").write_text(json.dumps(about))

    return change


CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    **{
        f"{part}: {kind}": lambda folder, part=part, data=data: (folder / f"{part}.safetensors").write_bytes(data)
        for part in ("model", "optimiser", "random")
        for kind, data in BAD.items()
    },
    "random states of another length": lambda f: (f / "random.safetensors").write_bytes(save({"cpu": torch.zeros(3)})),
    "a state that is deep": lambda f: (f / "state.json").write_text("[" * 100_000),
    "a state that is no table": lambda f: (f / "state.json").write_text("[]"),
    "no groups": _state(groups=[]),
    "groups of other things": _state(groups={"lr": "x"}),
    "a step of 400 digits": _state(step=10**400, groups=None),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_that_is_none(saved: Path, model: Closp, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / saved.name))
    CHECKPOINTS[kind](folder)
    kept = torch.get_rng_state()
    refused(lambda: load_checkpoint(folder, model, optimiser_of(model, SMALL.optim)), "a checkpoint is damaged", code=4)
    torch.set_rng_state(kept)
    if kind == "a state that is no table":
        refused(lambda: order_of(folder), "a checkpoint is damaged", code=4)


def test_a_checkpoint_with_a_pickle_beside(saved: Path, model: Closp, tmp_path: Path) -> None:
    """Never looked at: only safetensors and JSON are read."""
    folder = Path(shutil.copytree(saved, tmp_path / saved.name))
    for name in ("optimiser.pt", "model.pth", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Boom(tmp_path / "boom")))
    assert load_checkpoint(folder, model, optimiser_of(model, SMALL.optim)) == 2
    assert not (tmp_path / "boom").exists()
