"""CLOSP and GeoCLOSP: towers -> one unit sphere; saving a model, and loading it without the trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harmonize.problem import Problem
from harmonize.record import sealed
from harmonize.vocabulary import CLASSES, VOCABULARY_VERSION
from pipeline.sample import CANONICAL_BANDS, SENSORS, UNIT
from train.location import LocationTower, load_satclip
from train.recipe import Location, Recipe, Text
from train.text import distinct, text_from_config, text_tower
from train.vision import ImageTower, load_weights, normalisation
from train.whole import check_files, digests, read_sealed

MODEL_VERSION = 2
MAX_SCALE = 100.0
"""Upper bound of the logit scale, as CLIP and open_clip have it."""


class Closp(nn.Module):
    """One image tower per sensor, a text tower and, for GeoCLOSP, a location tower, all onto one unit sphere."""

    def __init__(
        self, images: dict[str, ImageTower], text: nn.Module, location: LocationTower | None, spec: dict[str, Any]
    ) -> None:
        super().__init__()
        dim = spec["embed_dim"]
        self.spec = spec
        self.images = nn.ModuleDict(images)
        self.image_heads = nn.ModuleDict({s: nn.Linear(tower.width, dim) for s, tower in images.items()})
        self.text = text
        same = spec["text"]["projection"] == "none" and text.width == dim
        self.text_head = nn.Identity() if same else nn.Linear(text.width, dim, bias=False)  # type: ignore[arg-type]
        self.location = location
        self.location_head = nn.Linear(location.width, dim) if location else None
        learned = spec["scale"] == "learned"
        start = math.log(1 / 0.07) if learned else math.log(float(spec["scale"]))
        self.log_scale = nn.Parameter(torch.tensor(start), requires_grad=learned)
        # For the term that asks for each class by its name; rankings by cosine need neither.
        self.class_scale = nn.Parameter(torch.tensor(math.log(10.0))) if spec["classes"] else None
        self.class_bias = nn.Parameter(torch.full((len(CLASSES),), -3.0)) if spec["classes"] else None

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with in the loss."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """After each step, as open_clip does: a clamp in the forward pass would leave no gradient to come back by."""
        self.log_scale.clamp_(max=math.log(MAX_SCALE))

    def stack(self, sensor: str, arrays: dict[str, Tensor]) -> Tensor:
        """Normalised (B, bands, H, W) of a sensor's native arrays."""
        return self.images[sensor].stack(arrays)  # type: ignore[operator]

    def encode_stack(self, sensor: str, stacked: Tensor) -> Tensor:
        """Unit vectors (B, D) of what `stack` gives."""
        return F.normalize(self.image_heads[sensor](self.images[sensor](stacked)).float(), dim=-1)

    def encode_image(self, sensor: str, arrays: dict[str, Tensor]) -> Tensor:
        """Unit vectors (B, D) of native arrays: uint16 reflectance x 10000, or float16 dB."""
        return self.encode_stack(sensor, self.stack(sensor, arrays))

    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit vectors (B, D) of texts; equal texts are encoded once."""
        once, place = distinct(texts)
        features = F.normalize(self.text_head(self.text(once)).float(), dim=-1)
        return features[place.to(features.device)]

    def encode_location(self, lonlat: Tensor) -> Tensor:
        """Unit vectors (B, D) of (B, 2) lon, lat in degrees; GeoCLOSP only."""
        if self.location is None or self.location_head is None:
            raise Problem("this model has no location tower", fix="train a GeoCLOSP recipe ([location] table)")
        return F.normalize(self.location_head(self.location(lonlat)).float(), dim=-1)


def build_model(recipe: Recipe) -> Closp:
    """A model as its recipe says, with the weights it names. The seed decides what has none."""
    torch.manual_seed(recipe.seed)
    vision = recipe.vision
    images = {}
    for sensor in SENSORS:
        tower = ImageTower(sensor, getattr(vision, sensor), *normalisation(vision.normalise, sensor))
        load_weights(
            tower, getattr(vision, f"weights_{sensor}"), f"recipe '{recipe.name}', key 'vision.weights_{sensor}'"
        )
        images[sensor] = tower
    location = LocationTower(recipe.location) if recipe.location else None
    if location and recipe.location and recipe.location.weights != "none":
        load_satclip(location, recipe.location.weights)
    return Closp(images, text_tower(recipe.text), location, spec_of(recipe))


def spec_of(recipe: Recipe) -> dict[str, Any]:
    """All that is needed to build the model again without its recipe and first weights."""
    return {
        "embed_dim": recipe.embed_dim,
        "scale": recipe.loss.scale,
        "classes": recipe.loss.classes > 0,
        "images": {
            sensor: {
                "model": getattr(recipe.vision, sensor),
                "bands": list(CANONICAL_BANDS[sensor]),
                "unit": UNIT[sensor],
                "mean": list(normalisation(recipe.vision.normalise, sensor)[0]),
                "std": list(normalisation(recipe.vision.normalise, sensor)[1]),
            }
            for sensor in SENSORS
        },
        "text": recipe.text.model_dump(mode="json"),
        "location": recipe.location.model_dump(mode="json") if recipe.location else None,
    }


def save_model(model: Closp, folder: Path, size_px: int) -> None:
    """model.safetensors, tokenizer and, last, config.json: a model folder that loads without the trainer."""
    from safetensors.torch import save

    from train.checkpoint import write_whole

    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_whole(folder / "model.safetensors", save(state))
    text_config = model.text.config()  # type: ignore[operator]
    if text_config["tokenizer"] == "tokenizer/":
        model.text.tokenizer.save_pretrained(folder / "tokenizer")  # type: ignore[operator, union-attr]
    config = {
        "model_version": MODEL_VERSION,
        "size_px": size_px,
        "vocabulary": list(CLASSES),
        "vocabulary_version": VOCABULARY_VERSION,
        "spec": model.spec,
        "text_config": text_config,
        "files": digests(folder, ("model.safetensors", "tokenizer")),
    }
    write_whole(folder / "config.json", sealed(config))


def load_model(folder: Path) -> Closp:
    """The model of a run or export folder, in eval mode, from config.json and model.safetensors alone.

    Raises Problem where they are missing, of another version, or not what was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = read_sealed(folder / "config.json", "train again")
        (folder / "model.safetensors").stat()
        check_files(folder, config.get("files"), "train again, or export it again")
        state = load_file(folder / "model.safetensors")
    except FileNotFoundError:
        raise Problem("there is no finished model here", where=str(folder), fix="make train first") from None
    except (ValueError, SafetensorError, RecursionError, OSError, MemoryError) as error:
        raise Problem(f"the model is damaged: {error}", where=str(folder), fix="train again", code=4) from None
    if not isinstance(config, dict):
        raise Problem("the model is damaged: config.json is no table", where=str(folder), fix="train again", code=4)
    if config.get("model_version") != MODEL_VERSION:
        what = f"this model is of version {config.get('model_version')}, this program reads {MODEL_VERSION}"
        raise Problem(what, where=str(folder), fix="train again with this version")
    try:
        model = _of_config(config, folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"config.json is damaged: {type(error).__name__}: {error}"
        raise Problem(what, where=str(folder), fix="train again", code=4) from None
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        what = f"the weights do not fit config.json: {str(error).splitlines()[-1].strip()}"
        raise Problem(what, where=str(folder), fix="train again", code=4) from None
    return model.eval()


def _of_config(config: dict[str, Any], folder: Path) -> Closp:
    """The model that config.json describes, its weights not loaded yet."""
    spec = config["spec"]
    images = {
        sensor: ImageTower(sensor, said["model"], tuple(said["mean"]), tuple(said["std"]))
        for sensor, said in spec["images"].items()
    }
    location = LocationTower(Location(**spec["location"])) if spec["location"] else None
    return Closp(images, text_from_config(Text(**spec["text"]), config["text_config"], folder), location, spec)
