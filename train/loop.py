"""The training loop: batches -> losses -> steps, with metrics, checkpoints and exact resume."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonize.command import doing
from harmonize.disk import disk_told
from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES
from train.batches import Batch, Batches
from train.checkpoint import checkpoints, load_checkpoint, order_of, save_checkpoint, write_whole
from train.draws import counter
from train.loader import Loader, Loading, training_loader
from train.loss import each_class, mean_loss, multi_positive, one_to_one, relation, same_place
from train.model import Closp, save_model
from train.optim import learning_rate, optimiser_of
from train.recipe import Recipe
from train.shards import Samples
from train.vision import to_tensors

LOG_SECONDS = 30
"""Between two lines about the training where nobody looks at a bar."""


@dataclass
class Training:
    """What the loop works on."""

    recipe: Recipe
    model: Closp
    batches: Batches
    optimiser: torch.optim.Optimizer
    device: torch.device
    total: int
    started: int = 0
    speed: dict[str, float] = field(default_factory=lambda: {"images": 0.0, "wait": 0.0})
    losses: list[Tensor] = field(default_factory=list)
    """Of the steps since they were last looked at."""

    @property
    def mixed(self) -> bool:
        return self.device.type == "cuda" and self.recipe.optim.precision == "auto"


def fit(
    recipe: Recipe,
    samples: Samples,
    run: Path,
    model: Closp,
    stop_at: int | None = None,
    loading: Loading | None = None,
) -> bool:
    """Train a recipe's fresh model on the train split of shards in a run folder; go on from its last checkpoint.

    `stop_at` ends this call after that step (the run can go on later). True when the run is complete.
    """
    train = samples.of("train")
    train = train.where(train["label_mask"] != 0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = False
    model = model.to(device)
    batches = Batches(train, recipe.data, recipe.seed)
    total = recipe.optim.steps or batches.steps(recipe.optim.epochs)
    training = Training(recipe, model, batches, optimiser_of(model, recipe.optim), device, total)
    saved = checkpoints(run)
    training.started = load_checkpoint(saved[-1], model, training.optimiser) if saved else 0
    if training.started:
        batches.resume(order_of(saved[-1]))
        print(f"{run}: going on after step {training.started} of {total}", file=sys.stderr)
    _cut(run / "metrics.jsonl", training.started)
    end = min(total, stop_at or total)
    step, every = training.started, recipe.checkpoint_steps
    with (
        doing(lambda: f"step {step} of {total}, kept up to step {max(training.started, step - step % every)}"),
        training_loader(batches, range(training.started, end), device, loading) as loader,
    ):
        for step in _progress(training, end):
            _one_step(training, step, loader, run, samples)
    if end < total:
        return False
    save_model(model, run, samples.size_px)
    return True


def _one_step(training: Training, step: int, loader: Loader[Batch], run: Path, samples: Samples) -> None:
    row = train_step(training, step, loader)
    done, recipe = step + 1, training.recipe
    epoch_done = done % training.batches.steps_per_epoch == 0
    training.losses.append(row["loss"])
    logs = done % recipe.log_steps == 0 or done == training.total
    if logs or epoch_done or done % recipe.checkpoint_steps == 0:
        _check_losses(training, done)
    if logs:
        _append(run / "metrics.jsonl", {k: v.item() if isinstance(v, Tensor) else v for k, v in row.items()})
    if (epoch_done and done % _validation_steps(training) == 0) or done == training.total:
        found = validate(training, samples)
        if found:
            _append(run / "metrics.jsonl", {"step": done, **found})
    if done % recipe.checkpoint_steps == 0 or done == training.total:
        _append(run / "speed.jsonl", {"step": done, **_speed(training)})
        save_checkpoint(run, done, training.model, training.optimiser, training.batches.state(done))


def _check_losses(training: Training, done: int) -> None:
    """Raises Problem for a loss that is no number. Losses are looked at together, and before anything is kept: to ask a
    GPU for one number is to wait until all its work is done."""
    losses = torch.stack([loss.detach() for loss in training.losses])
    first, training.losses = done - len(losses), []
    for k in torch.nonzero(~torch.isfinite(losses))[:1].flatten().tolist():
        what = f"the loss is {losses[k].item()} at step {first + k + 1}"
        raise Problem(what, fix="lower optim.lr in the recipe", code=1)


def _validation_steps(training: Training) -> int:
    """Every epoch, but no more than about ten times a run."""
    per_epoch = training.batches.steps_per_epoch
    return per_epoch * max(1, round(training.total / per_epoch / 10))


def train_step(training: Training, step: int, loader: Iterator[Batch]) -> dict[str, Any]:
    """One step: a batch of each sensor, the mean of their losses. The row that goes into metrics.jsonl, its measures
    still where they were computed.

    loader: gives this step's batches next (`training_loader`).
    """
    recipe, model = training.recipe, training.model
    model.train()
    torch.manual_seed(int(counter(recipe.seed, 4, step).integers(2**62)))
    rate = learning_rate(recipe.optim, step, training.total)
    for group in training.optimiser.param_groups:
        group["lr"] = group["base_lr"] * rate
    losses: dict[str, Tensor] = {}
    for sensor in training.batches.sensors:
        started = time.perf_counter()
        batch = next(loader)
        training.speed["wait"] += time.perf_counter() - started
        training.speed["images"] += len(batch.texts)
        with torch.autocast(training.device.type, torch.bfloat16, enabled=training.mixed):
            losses[sensor] = batch_loss(model, batch, recipe, training.device)
    loss = mean_loss(losses, training.batches.weights)
    training.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip)
    training.optimiser.step()
    model.clamp_scale()
    return {
        "step": step + 1,
        "epoch": round((step + 1) / training.batches.steps_per_epoch, 4),
        "loss": loss.detach(),
        **{f"loss_{sensor}": value.detach() for sensor, value in losses.items()},
        "scale": model.scale.detach(),
        "grad_norm": norm,
        "lr": recipe.optim.lr * rate,
    }


def batch_loss(model: Closp, batch: Batch, recipe: Recipe, device: torch.device) -> Tensor:
    """Loss of one batch: image-text and, for GeoCLOSP, image-location."""
    arrays = to_tensors(batch.arrays, device)
    images = model.encode_image(batch.sensor, flipped(arrays) if recipe.data.flips else arrays)
    asked = list(CLASSES) if recipe.loss.classes else []
    texts, classes = model.encode_text([*batch.texts, *asked]).split([len(batch.texts), len(asked)])
    places = model.encode_location(torch.from_numpy(batch.lonlat).to(device)) if recipe.location else None
    # Towers may run in bfloat16, logits at a scale of 100 may not.
    with torch.autocast(device.type, enabled=False):
        loss = pair_loss(images, texts, places, model.scale, batch, recipe)
        return loss + recipe.loss.classes * class_loss(model, images, classes, batch) if asked else loss


def class_loss(model: Closp, images: Tensor, classes: Tensor, batch: Batch) -> Tensor:
    """Every image asked for each class by its name; images (B, D) and classes (C, D) are unit vectors."""
    assert model.class_scale is not None
    assert model.class_bias is not None
    bits = torch.arange(len(CLASSES))
    labels, known = (
        (torch.from_numpy(masks)[:, None] >> bits & 1).bool().to(images.device)
        for masks in (batch.label_masks, batch.known_masks)
    )
    return each_class(model.class_scale.exp() * images @ classes.T + model.class_bias, labels, known)


def pair_loss(
    images: Tensor, texts: Tensor, places: Tensor | None, scale: Tensor, batch: Batch, recipe: Recipe
) -> Tensor:
    """Image-text loss of unit vectors (B, D) and, where there are places, the image-location loss beside it."""
    device = images.device
    if recipe.loss.targets == "one-to-one":
        loss = one_to_one(images, texts, scale)
    else:
        labels, known, named = (
            torch.from_numpy(m).to(device) for m in (batch.label_masks, batch.known_masks, batch.text_masks)
        )
        right, excluded = relation(labels, known, named, recipe.loss.targets)
        loss = multi_positive(images, texts, scale, right, excluded)
    if recipe.location is None or places is None:
        return loss
    if recipe.loss.targets == "one-to-one":
        placed = one_to_one(images, places, scale)
    else:
        here = same_place(list(batch.cells), device)
        placed = multi_positive(images, places, scale, here, torch.zeros_like(here))
    return (1 - recipe.location.share) * loss + recipe.location.share * placed


def flipped(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each image turned one of the eight ways a square can lie, at random; 16-bit native arrays (B, C, H, W)."""
    way = torch.randint(8, (len(arrays["10m"]),))
    order = torch.argsort(way, stable=True)
    counts = torch.bincount(way, minlength=8).tolist()
    rows_of = order.to(arrays["10m"].device).split(counts)  # one small copy: each is a wait for a GPU
    turned = {}
    for name, values in arrays.items():
        bits = values.view(torch.int16)  # torch turns no uint16
        out = torch.empty_like(bits)
        for k, rows in enumerate(rows_of):
            some = bits[rows]
            some = some.flip(-1) if k & 1 else some
            some = some.flip(-2) if k & 2 else some
            out[rows] = some.transpose(-1, -2) if k & 4 else some
        turned[name] = out.view(values.dtype)
    return turned


def validate(training: Training, samples: Samples) -> dict[str, float]:
    """mAP over single classes on the val split, per sensor; nothing where val is empty."""
    from train.embed import embed_images, embed_texts
    from train.evaluate import class_map

    val = samples.of("val")
    if not len(val):
        return {}
    training.model.eval()
    vectors = embed_images(training.model, val, training.device)
    found = class_map(vectors, val, embed_texts(training.model, training.device))
    return {f"val_map_{scope}": value for scope, value in found.items()}


def _cut(path: Path, step: int) -> None:
    """Keep the metrics up to a checkpoint: what came after it is computed again, and comes out the same."""
    if not path.exists():
        return
    # A killed run may have left half a line at the end.
    whole = [line for line in path.read_text(errors="replace").splitlines() if line.endswith("}")]
    try:
        lines = [line for line in whole if json.loads(line)["step"] <= step]
    except (ValueError, TypeError, KeyError) as error:
        fix = "remove the line that is no JSON; what stands in it is for people alone"
        raise Problem(f"{path.name} is damaged: {error}", where=str(path), fix=fix, code=4) from None
    write_whole(path, "".join(line + "\n" for line in lines).encode())


def _append(path: Path, row: dict[str, Any]) -> None:
    with disk_told(str(path)), path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _speed(training: Training) -> dict[str, float]:
    seconds = max(1e-9, time.perf_counter() - training.speed["clock"])
    found = {
        "images_per_second": round(training.speed["images"] / seconds, 1),
        "data_wait": round(training.speed["wait"] / seconds, 4),
    }
    training.speed |= {"images": 0.0, "wait": 0.0, "clock": time.perf_counter()}
    return found


def _progress(training: Training, end: int) -> Iterator[int]:
    """Steps to do, with a bar of loss-free facts: rate, images per second, time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    training.speed["clock"] = time.perf_counter()
    console = Console(stderr=True)
    columns = (
        TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    per_step = sum(training.batches.size(s) for s in training.batches.sensors)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("train", total=training.total, completed=training.started, rate="")
        told = begun = time.perf_counter()
        for step in range(training.started, end):
            yield step
            speed = progress.tasks[0].speed
            progress.update(task, advance=1, rate=f"{speed * per_step:.0f} images/s" if speed else "")
            now = time.perf_counter()
            if not console.is_terminal and now - told >= LOG_SECONDS:
                # A log has no bar: a line now and then says that it goes on.
                told, pace = now, (now - begun) / (step + 1 - training.started)
                left = f"{pace * (end - step - 1):.0f} s left"
                print(
                    f"train: {step + 1} of {end}, {per_step / pace:.0f} images/s, {left}", file=sys.stderr, flush=True
                )
