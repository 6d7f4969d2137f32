"""Checkpoints: weights, optimiser, position and random state as safetensors + JSON, whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.disk import disk_told
from harmonize.problem import Problem

if TYPE_CHECKING:
    import torch

    from train.model import Closp

KEEP = 2


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by tmp, fsync and rename."""
    write_parts(path, [data])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file, piece after piece, by tmp, fsync and rename; a failure half way leaves nothing.

    Raises Problem (code 1) where the disk takes no more.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_told(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
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
    folder = run / "checkpoints" / f"step-{step:08d}"
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for left in folder.parent.glob(".step-*.tmp"):  # by a killed process
        shutil.rmtree(left)
    try:
        with disk_told(str(run)):
            draft.mkdir(parents=True)
            _write_draft(draft, step, model, optimiser, order)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # a full disk wants its space back
        raise
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    for old in checkpoints(run)[:-KEEP]:
        shutil.rmtree(old)


def _write_draft(draft: Path, step: int, model: Closp, optimiser: torch.optim.Optimizer, order: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save

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


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first; what a killed run left half done is not among them."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "state.json").exists())


def order_of(folder: Path) -> dict[str, Any]:
    """Where the streams of samples are at a checkpoint (`Batches.resume`). Raises Problem (code 4)."""
    with _damage_told(folder):
        order: dict[str, Any] = json.loads((folder / "state.json").read_text())["order"]
    return order


@contextlib.contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    """What safetensors, JSON and torch say of a checkpoint that is none, as a Problem."""
    from safetensors import SafetensorError

    odd = (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, OverflowError)
    try:
        yield
    except (*odd, AttributeError, MemoryError, RecursionError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        fix = f"remove {folder.name}: the run goes on from the checkpoint before, or from the start"
        raise Problem(f"a checkpoint is damaged: {words[-1][:200]}", where=str(folder), fix=fix, code=4) from None


def load_checkpoint(folder: Path, model: Closp, optimiser: torch.optim.Optimizer) -> int:
    """Put a checkpoint back; the step it was taken after. Raises Problem (code 4) where it is damaged."""
    with _damage_told(folder):
        return _load(folder, model, optimiser)


def _load(folder: Path, model: Closp, optimiser: torch.optim.Optimizer) -> int:
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
