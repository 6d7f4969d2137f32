"""A run: its folder, what it was made of, and whether it is finished. Imports nothing heavy."""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.manifest import parse, parse_toml
from harmonize.problem import Problem, nearest
from harmonize.record import sealed
from train.checkpoint import write_whole
from train.recipe import Recipe
from train.whole import digests, read_sealed

if TYPE_CHECKING:
    from train.shards import Samples

AT_BEGIN = ("recipe.toml", "environment.json")
AT_END = ("metrics.jsonl", "speed.jsonl", "config.json", "model.safetensors", "tokenizer")
"""What run.json has the sha256 of, from when on."""
PACKAGES = ("closp", "torch", "timm", "open-clip-torch", "transformers", "numpy", "safetensors")


def default_name(recipe: Recipe, regions: tuple[str, ...]) -> str:
    """`<recipe>-<regions>`: the same call again is the same run."""
    return f"{recipe.name}-{'+'.join(sorted(regions))}"


def run_folder(runs: Path, name: str) -> Path:
    """The folder of a run. Raises Problem for a name that leads elsewhere."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
        what = f"'{name}' is no name of a run"
        raise Problem(what, where="--run (RUN=…)", fix="use letters, digits and - _ . +; --runs says where they lie")
    return runs / name


def read_run(run: Path) -> dict[str, Any] | None:
    """run.json of a folder, None where there is none."""
    path = run / "run.json"
    if not path.exists():
        return None
    return read_sealed(path, "remove the run and train again")


def is_finished(run: Path, recipe: Recipe, samples: Samples) -> bool:
    """Whether this run is done. A run of another recipe or other shards under this name is a Problem."""
    about = read_run(run)
    if about is None:
        return False
    fix = f"give the new run a name (RUN=… or --run), or remove {run}"
    for key, what in _identity(recipe, samples).items():
        if about.get(key) != what:
            with_what = "other shards" if key == "shards_sha256" else f"another recipe{_differs(recipe, run)}"
            raise Problem(f"this run was made with {with_what}", where=str(run), fix=fix)
    return bool(about.get("finished"))


def _differs(recipe: Recipe, run: Path) -> str:
    """Keys in which a recipe is not a run's."""
    mine, its = (_flat(one.model_dump(mode="json")) for one in (recipe, recipe_of(run)))
    keys = [key for key in sorted(set(mine) | set(its)) if mine.get(key) != its.get(key)]
    return f": {', '.join(f'{key} was {its.get(key)}, is {mine.get(key)}' for key in keys[:3])}" if keys else ""


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _identity(recipe: Recipe, samples: Samples) -> dict[str, str]:
    return {"recipe_sha256": recipe.sha256, "shards_sha256": samples.sha256}


def begin(run: Path, recipe: Recipe, recipe_path: Path, samples: Samples, folders: list[Path]) -> None:
    """Set up a run's folder, unless it is set up already."""
    if read_run(run):
        return
    write_whole(run / "recipe.toml", recipe_path.read_bytes())
    write_whole(run / "environment.json", (json.dumps(environment(), indent=1, sort_keys=True) + "\n").encode())
    about = {**_identity(recipe, samples), "recipe": recipe.name, "regions": list(samples.regions)}
    files = digests(run, AT_BEGIN)
    _write(run, {**about, "shards": [str(f) for f in folders], "finished": False, "files": files})


def recipe_of(run: Path) -> Recipe:
    """The recipe a run was made of, from its own copy."""
    path = run / "recipe.toml"
    return parse(Recipe, parse_toml(path.read_text(encoding="utf-8"), path), path)


def shards_of(run: Path, named: list[Path] | None) -> list[Path]:
    """The shard folders that were named, else those the run was trained on."""
    return named or [Path(folder) for folder in (read_run(run) or {}).get("shards", [])]


def finish(run: Path) -> None:
    about = read_run(run) or {}
    files = {**about.get("files", {}), **digests(run, AT_END)}
    _write(run, {**about, "finished": True, "files": files})


def _write(run: Path, about: dict[str, Any]) -> None:
    write_whole(run / "run.json", sealed(about))


def environment() -> dict[str, Any]:
    """What a run ran on: versions and hardware, no names of people or machines."""
    import os

    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.system(), "cpus": os.cpu_count()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    import torch

    found["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return found


def finished_run(runs: Path, name: str | None) -> Path:
    """The folder of a finished run: the one named, else the newest. Of the others a damaged run.json is no matter."""
    folders = [p.parent for p in runs.glob("*/run.json")]
    if name is None:
        done = [folder for folder in folders if _is_finished(folder)]
        if not done:
            raise Problem("there is no finished run", where=str(runs), fix="make train REGION=… RECIPE=…")
        return max(done, key=lambda p: (p / "model.safetensors").stat().st_mtime)
    run = run_folder(runs, name)
    if run not in folders:
        raise Problem(f"there is no run '{name}'", where=str(runs), fix=nearest(name, [p.name for p in folders]))
    if not (read_run(run) or {}).get("finished"):
        raise Problem(f"run '{name}' is not finished", where=str(run), fix="run make train again to go on with it")
    return run


def _is_finished(folder: Path) -> bool:
    try:
        about = read_run(folder) or {}
    except Problem:
        return False
    return bool(about.get("finished")) and (folder / "model.safetensors").exists()
