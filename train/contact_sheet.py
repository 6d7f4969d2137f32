"""Contact sheets: quick looks of chips side by side, each with a few words below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.vocabulary import names_of
from pipeline.sample import quicklook
from train.page import SYNTHETIC
from train.shards import Reader, Samples

if TYPE_CHECKING:
    from PIL import Image

SIDE = 180
WORDS = 46
GAP = 8


def sheet(title: str, samples: Samples, notes: Sequence[str], columns: int = 5) -> Image.Image:
    """A picture of samples in their order; `notes` stand in each caption's first line."""
    from PIL import Image, ImageDraw

    rows = -(-len(samples) // columns)
    canvas = Image.new("RGB", (columns * (SIDE + GAP) + GAP, 30 + rows * (SIDE + WORDS + GAP) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 7), _titled(title, samples), fill="black", font=_font(15))
    reader = Reader(samples)
    for k in range(len(samples)):
        one = samples.where(np.array([k]))
        x, y = GAP + k % columns * (SIDE + GAP), 30 + k // columns * (SIDE + WORDS + GAP)
        canvas.paste(_look(reader, one, SIDE), (x, y))
        day = str(one["datetime"][0])[:10]
        sensor = str(one["sensor"][0])
        lines = [f"{notes[k]}  {sensor} {day}", *_wrapped(", ".join(names_of(int(one["label_mask"][0]))), 32)[:2]]
        draw.multiline_text((x, y + SIDE + 2), "\n".join(lines), fill="black", font=_font(11), spacing=2)
    return canvas


def rows_sheet(
    title: str, samples: Samples, rows: Sequence[tuple[str, np.ndarray, Sequence[str]]], columns: int, side: int = 120
) -> Image.Image:
    """A picture with a row of samples per name: (name, rows of `samples`, a line below each); a row may be empty."""
    from PIL import Image, ImageDraw

    left, height = 130, side + 18 + GAP
    canvas = Image.new("RGB", (left + columns * (side + GAP), 30 + len(rows) * height + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 7), _titled(title, samples), fill="black", font=_font(15))
    reader = Reader(samples)
    for line, (name, chosen, notes) in enumerate(rows):
        y = 30 + line * height
        draw.multiline_text((GAP, y + side // 2 - 8), name, fill="black", font=_font(12), spacing=2)
        if not len(chosen):
            draw.text((left, y + side // 2 - 8), "no sample has it", fill="gray", font=_font(12))
        for k, row in enumerate(chosen):
            x = left + k * (side + GAP)
            canvas.paste(_look(reader, samples.where(np.array([row])), side), (x, y))
            draw.text((x, y + side + 2), notes[k], fill="black", font=_font(11))
    return canvas


def _titled(title: str, samples: Samples) -> str:
    return f"{title}   ({SYNTHETIC.split(':')[0]})" if samples.synthetic else title


def _look(reader: Reader, one: Samples, side: int) -> Image.Image:
    """The quick look of one sample, `side` pixels wide."""
    from PIL import Image

    arrays = {name: array[0] for name, array in reader.read(one).items()}
    picture = Image.fromarray(quicklook(arrays, str(one["sensor"][0])))
    return picture.resize((side, side), Image.Resampling.NEAREST)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or ["no labels"]
