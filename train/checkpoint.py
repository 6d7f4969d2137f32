"""Checkpoints: weights, optimiser, position and random state as safetensors + JSON, whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.disk import disk_told
from harmonize.problem import Problem
from harmonize.record import sealed
from train.whole import check_files, read_sealed

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
    files = {}
    for name, held in (("model", weights), ("optimiser", tensors), ("random", randomness)):
        data = save(held)
        write_whole(draft / f"{name}.safetensors", data)
        files[f"{name}.safetensors"] = hashlib.sha256(data).hexdigest()
    about = {"step": step, "groups": state["param_groups"], "order": order, "files": files}
    write_whole(draft / "state.json", sealed(about))


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first; what a killed run left half done is not among them."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "state.json").exists())


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises Problem (code 4) where it is damaged."""
    about = read_sealed(folder / "state.json", _before(folder))
    kinds = {"step": int, "groups": list, "order": dict}
    if wrong := [key for key, kind in kinds.items() if not isinstance(about.get(key), kind)]:
        raise _damaged(folder / "state.json", f"it has no {', '.join(wrong)}")
    return about


def _before(folder: Path) -> str:
    return f"remove {folder}: the same call then goes on from the checkpoint before it, or from the start"


def _damaged(path: Path, why: object) -> Problem:
    said = str(why).strip() or type(why).__name__
    return Problem(
        f"{path.name} is damaged: {said.splitlines()[-1].strip()}", where=str(path), fix=_before(path.parent), code=4
    )


def order_of(folder: Path) -> dict[str, Any]:
    """Where the streams of samples are at a checkpoint (`Batches.resume`)."""
    order: dict[str, Any] = read_state(folder)["order"]
    return order


def load_checkpoint(folder: Path, model: Closp, optimiser: torch.optim.Optimizer) -> int:
    """Put a checkpoint back; the step it was taken after.

    Raises Problem (code 4) that names the file where one is not, byte for byte, what was written.
    """
    import torch

    about = read_state(folder)
    check_files(folder, about.get("files"), _before(folder))
    weights, optimised, randomness = (
        _tensors(folder / f"{name}.safetensors") for name in ("model", "optimiser", "random")
    )
    # What an older version wrote has no hashes: it may be damaged and still be read.
    name = "model"
    try:
        model.load_state_dict(weights)
        name = "optimiser"
        entries: dict[int, dict[str, Any]] = {}
        for key, value in optimised.items():
            index, _, part = key.partition(".")
            entries.setdefault(int(index), {})[part] = value
        optimiser.load_state_dict({"state": entries, "param_groups": about["groups"]})
        name = "random"
        torch.set_rng_state(randomness["cpu"])
        if "cuda" in randomness and torch.cuda.is_available():
            torch.cuda.set_rng_state(randomness["cuda"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(folder / f"{name}.safetensors", error) from None
    return int(about["step"])


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None
