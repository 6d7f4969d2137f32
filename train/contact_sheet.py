"""Contact sheets: quick looks of chips side by side, each with a few words below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harmonize.vocabulary import names_of
from pipeline.sample import quicklook
from train.shards import Reader, Samples

if TYPE_CHECKING:
    from PIL import Image

SIDE = 180
WORDS = 46
GAP = 8


def sheet(title: str, samples: Samples, notes: Sequence[str], columns: int = 5) -> Image.Image:
    """A picture of samples in their order; `notes` stand in each caption's first line."""
    from PIL import Image, ImageDraw, ImageFont

    rows = -(-len(samples) // columns)
    canvas = Image.new("RGB", (columns * (SIDE + GAP) + GAP, 30 + rows * (SIDE + WORDS + GAP) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 7), title, fill="black", font=ImageFont.load_default(15))
    small = ImageFont.load_default(11)
    reader = Reader(samples)
    for k in range(len(samples)):
        one = samples.where(np.array([k]))
        sensor = str(one["sensor"][0])
        arrays = {name: array[0] for name, array in reader.read(one).items()}
        picture = Image.fromarray(quicklook(arrays, sensor)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        x, y = GAP + k % columns * (SIDE + GAP), 30 + k // columns * (SIDE + WORDS + GAP)
        canvas.paste(picture, (x, y))
        day = str(one["datetime"][0])[:10]
        lines = [f"{notes[k]}  {sensor} {day}", *_wrapped(", ".join(names_of(int(one["label_mask"][0]))), 32)[:2]]
        draw.multiline_text((x, y + SIDE + 2), "\n".join(lines), fill="black", font=small, spacing=2)
    return canvas


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or ["no labels"]
