"""Checkpoints: weights, optimiser, position and random state as safetensors + JSON, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from train.model import Closp

KEEP = 2


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by tmp, fsync and rename."""
    write_parts(path, [data])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file, piece after piece, by tmp, fsync and rename; a failure half way leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def save_checkpoint(
    run: Path, step: int, model: Closp, optimiser: torch.optim.Optimizer, order: dict[str, Any]
) -> None:
    """checkpoints/step-NNNNNNNN with all that a run needs to go on as if it had never stopped.

    order: where the streams of samples are (`Batches.state`).
    """
    import torch
    from safetensors.torch import save

    folder = run / "checkpoints" / f"step-{step:08d}"
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for left in folder.parent.glob(".step-*.tmp"):  # by a killed process
        shutil.rmtree(left)
    draft.mkdir(parents=True)
    state = optimiser.state_dict()
    tensors = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, entry in state["state"].items()
        for name, value in entry.items()
    }
    randomness = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        randomness["cuda"] = torch.cuda.get_rng_state()
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_whole(draft / "model.safetensors", save(weights))
    write_whole(draft / "optimiser.safetensors", save(tensors))
    write_whole(draft / "random.safetensors", save(randomness))
    about = {"step": step, "groups": state["param_groups"], "order": order}
    write_whole(draft / "state.json", (json.dumps(about, sort_keys=True) + "\n").encode())
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    for old in checkpoints(run)[:-KEEP]:
        shutil.rmtree(old)


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first; what a killed run left half done is not among them."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "state.json").exists())


def order_of(folder: Path) -> dict[str, Any]:
    """Where the streams of samples are at a checkpoint (`Batches.resume`)."""
    order: dict[str, Any] = json.loads((folder / "state.json").read_text())["order"]
    return order


def load_checkpoint(folder: Path, model: Closp, optimiser: torch.optim.Optimizer) -> int:
    """Put a checkpoint back; the step it was taken after."""
    import torch
    from safetensors.torch import load_file

    about: dict[str, Any] = json.loads((folder / "state.json").read_text())
    model.load_state_dict(load_file(folder / "model.safetensors"))
    entries: dict[int, dict[str, Any]] = {}
    for key, value in load_file(folder / "optimiser.safetensors").items():
        index, _, name = key.partition(".")
        entries.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": entries, "param_groups": about["groups"]})
    randomness = load_file(folder / "random.safetensors")
    torch.set_rng_state(randomness["cpu"])
    if "cuda" in randomness and torch.cuda.is_available():
        torch.cuda.set_rng_state(randomness["cuda"])
    return int(about["step"])
