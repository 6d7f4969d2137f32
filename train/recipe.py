"""Recipe: everything a training run is made of (manifests/recipes/*.toml)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from harmonize.manifest import Manifest, is_there, parse, parse_toml
from harmonize.problem import Problem, nearest

Positive = Annotated[int, Field(gt=0, lt=2**31)]
RICH_TOKENS = 96
"""Room for the longest rich caption (all twelve classes), start and end included; one of three classes has about 30."""


class Vision(Manifest):
    """The image towers: one timm model per sensor, 12 and 2 input bands."""

    s2: str = "resnet50"
    s1: str = "resnet50"
    weights_s2: str = "none"
    """none | timm | hf-hub:… | torchgeo:<Enum.MEMBER> | path of a .safetensors, .pt or .pth file."""
    weights_s1: str = "none"
    normalise: Literal["standard", "paper"] = "standard"
    """standard: (x - mean) / std per band. paper: S2 / 10000, S1 as it is (dB)."""


class Text(Manifest):
    tower: Literal["open_clip", "minilm"] = "minilm"
    weights: str = "package"
    """minilm: package (the minilm extra) | a folder | a hub name. open_clip: none."""
    pooling: Literal["mean", "cls", "eot"] = "mean"
    projection: Literal["linear", "none"] = "linear"
    context: Positive = 64
    width: Positive = 256
    layers: Positive = 4
    heads: Positive = 4

    @model_validator(mode="after")
    def _fits(self) -> Text:
        if self.tower == "open_clip" and self.pooling != "eot":
            raise ValueError("pooling of the open_clip tower is eot | set pooling = 'eot'")
        if self.tower == "minilm" and self.pooling == "eot":
            raise ValueError("minilm has no end-of-text pooling | set pooling = 'mean' or 'cls'")
        if self.tower == "open_clip" and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads} | change one of them")
        return self


class Location(Manifest):
    """GeoCLOSP's location tower: SatCLIP's spherical harmonics and SIREN (arXiv 2311.17179)."""

    weights: str = "none"
    """none | a SatCLIP checkpoint file."""
    harmonics: Positive = 10
    width: Positive = 512
    output: Positive = 256
    hidden: Positive = 2
    dropout: float = Field(default=0.0, ge=0, lt=1)
    share: float = Field(default=0.5, gt=0, lt=1)
    """Weight of the image-location term in the loss; 0.5 is the paper's (all cross-entropies averaged)."""


class Loss(Manifest):
    scale: Literal["learned"] | Annotated[float, Field(gt=0, le=100)] = "learned"
    """learned: exp(t), from 1/0.07, at most 100. A number: that constant."""
    targets: Literal["one-to-one", "contains", "same-labels"] = "contains"
    """Which texts of a batch an image is right for: its own; those it has every class of; those of equal label sets."""
    classes: float = Field(default=0.0, ge=0)
    """Weight of a term that asks every image for each class by its name (binary cross-entropy of the cosine)."""


class Data(Manifest):
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Per sensor and step. One image alone has nothing to be told from."""
    style: Literal["paper", "rich"] = "paper"
    views: Literal["caption", "order", "subsets", "synonyms"] = "subsets"
    """caption: the chip's caption; of the others half of the time too, else: order: its classes, shuffled. subsets: a
    random part of them, in random order. synonyms: as subsets, and each class by its name or a synonym."""
    sampling: Literal["plain", "balanced"] = "plain"
    """plain: every sample once an epoch. balanced: each class equally likely, then each of its samples. More is in
    train/order.py."""
    region_weights: dict[str, Annotated[float, Field(gt=0, le=1000, strict=True)]] = Field(default_factory=dict)
    """How many times as often a region's samples come as they would; of regions that are not named, once."""
    s1_share: float | None = Field(default=None, gt=0, lt=1)
    """S1's share of a step's 2 x batch_size samples; the loss is then the mean over samples. Without it each sensor
    has batch_size of them, or as many as there are, and the loss is the mean over sensors."""
    flips: bool = True


class Optim(Manifest):
    epochs: Positive = 30
    steps: Positive | None = None
    """Instead of epochs."""
    lr: float = Field(default=5e-4, gt=0)
    lr_text: float | None = Field(default=None, gt=0)
    """Of the text tower; default: lr."""
    weight_decay: float = Field(default=0.05, ge=0)
    schedule: Literal["cosine", "onecycle"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps."""
    clip: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "fp32"] = "auto"
    """auto: bfloat16 autocast on a GPU, float32 on a CPU."""

    @model_validator(mode="after")
    def _one_length(self) -> Optim:
        if self.steps is not None and "epochs" in self.model_fields_set:
            raise ValueError("steps and epochs both say how long | keep one of them")
        return self


class Asked(Manifest):
    """What a run must reach at least, as macro means; it is printed beside what was found."""

    ndcg_gain: float | None = None
    """(nDCG@1000 - random) / (1 - random)."""
    map_over_prior: float | None = None
    """mAP minus prior-only's."""


class Evaluation(Manifest):
    split: Literal["train", "val", "test"] = "test"
    min_relevant: Positive = 10
    asked: dict[Annotated[str, Field(pattern="^(all|s1|s2)$")], Asked] = Field(default_factory=dict)
    """By the images that are ranked: those of one sensor, or all."""


class Recipe(Manifest):
    name: str
    seed: int = Field(default=0, ge=0, lt=2**62)
    embed_dim: Positive = 384
    vision: Vision = Vision()
    text: Text = Text()
    location: Location | None = None
    loss: Loss = Loss()
    data: Data = Data()
    optim: Optim = Optim()
    evaluation: Evaluation = Evaluation()
    checkpoint_steps: Positive = 500
    log_steps: Positive = 10

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not value or not all(c.isalnum() or c in "-_" for c in value):
            raise ValueError(f"'{value}' names a folder | use letters, digits, - and _")
        return value

    @model_validator(mode="after")
    def _whole_captions(self) -> Recipe:
        """A text that is cut would lose classes that the losses think it names."""
        if self.data.style == "rich" and self.text.context < RICH_TOKENS:
            what = f"rich captions have up to {RICH_TOKENS} tokens, and text.context is {self.text.context}"
            raise ValueError(f"{what} | set text.context = {RICH_TOKENS}")
        return self

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def load_recipe(path: Path) -> Recipe:
    """The recipe of a file. Raises Problem, naming file, key and fix, for what a person got wrong."""
    if not path.is_file():
        others = [str(p) for p in (*path.parent.glob("*.toml"), *Path("manifests/recipes").glob("*.toml"))]
        others = [other for other in others if Path(other).name != "pyproject.toml"]
        fix = nearest(str(path), others) if others else "check the path"
        if path.is_dir():
            fix = "the recipe comes first, then the shard folders"
        raise Problem("there is no such recipe", where=str(path), fix=fix)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Problem(f"this is not UTF-8: {error}", where=str(path), fix="save it as UTF-8") from None
    recipe = parse(Recipe, parse_toml(text, path), path)
    if recipe.name != path.stem:
        raise Problem(
            f"name is '{recipe.name}' but the file is called '{path.name}'",
            where=f"{path}, key 'name'",
            fix=f'write name = "{path.stem}", or rename the file',
        )
    for key, base in (("weights_s1", recipe.vision), ("weights_s2", recipe.vision), ("weights", recipe.text)):
        _check_file(getattr(base, key), f"{path}, key '{'vision' if base is recipe.vision else 'text'}.{key}'")
    if recipe.location:
        _check_file(recipe.location.weights, f"{path}, key 'location.weights'")
    return recipe


def _check_file(weights: str, where: str) -> None:
    """A weights entry that looks like a path must exist: found before anything heavy starts."""
    looks = weights.endswith((".safetensors", ".pt", ".pth", ".ckpt")) or weights.startswith(("./", "../", "/"))
    if looks and not is_there(weights):
        raise Problem(f"the weights are not there: {weights}", where=where, fix="download them there, or use 'none'")
