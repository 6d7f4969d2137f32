"""Views of a caption for training: its classes in another order, a part of them, other words for them.

Every view is a function of the classes, the kind and a seed alone: no generator is shared, so the same place of a run
has the same text in any process, whatever was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal, get_args

import numpy as np

from harmonize.problem import Problem, nearest
from harmonize.vocabulary import CLASSES, mask_of, names_of

Kind = Literal["order", "subset", "synonyms"]
"""order: all classes, shuffled. subset: one class at least, shuffled. synonyms: that, and each class by its name or by
one of its synonyms, all equally likely."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "water": ("open water", "a water body"),
    "trees": ("woodland", "tree cover"),
    "grass": ("grassland", "meadow"),
    "flooded vegetation": ("wetland vegetation", "marshland"),
    "crops": ("cropland", "farmed fields"),
    "shrub and scrub": ("shrubland", "scrubland"),
    "built": ("built-up area", "buildings and roads"),
    "bare": ("bare ground", "bare soil and rock"),
    "snow and ice": ("snow cover", "ice and snow"),
    "flooded area": ("flood water", "inundated land"),
    "burned area": ("burnt land", "a fire scar"),
    "earthquake damage": ("damage from an earthquake", "quake damage"),
}
"""Other words for each class, for training. Reviewed by hand: none is another class's name or synonym, and none
has a content word of the paraphrases that evaluation keeps to itself."""


def view(said: str | Sequence[str], kind: Kind, seed: int) -> str:
    """The text of a view. said: class names, or a `paper` caption; without any class the text is empty. seed: any
    integer of 0 or more (`seed_of`)."""
    return view_and_mask(said, kind, seed)[0]


def view_and_mask(said: str | Sequence[str], kind: Kind, seed: int) -> tuple[str, int]:
    """The text of a view, and the bit mask of the classes it names. The order in which `said` has them is no matter.

    Raises Problem for a class or kind that does not exist.
    """
    if kind not in get_args(Kind):
        raise Problem(f"there is no view '{kind}'", fix=nearest(kind, get_args(Kind)))
    names = names_of(mask_of(_checked(said)))
    # 256 bits; the choices of twelve classes are fewer than 2**53, so their remainders are as good as even.
    number = int.from_bytes(blake2b(f"view:{seed}".encode(), digest_size=32).digest(), "big")
    number = _shuffle(names, number)
    if kind != "order" and names:
        number, dropped = divmod(number, len(names))
        names = names[dropped:]
    words = list(names)
    if kind == "synonyms":
        for k, name in enumerate(names):
            number, which = divmod(number, 1 + len(SYNONYMS[name]))
            words[k] = (name, *SYNONYMS[name])[which]
    return ". ".join(words), mask_of(names)


def seed_of(*where: int) -> int:
    """One seed for a place of a run: its seed, epoch, position, … (integers of any size)."""
    return int.from_bytes(blake2b(",".join(map(str, where)).encode(), digest_size=8).digest(), "big")


def subset_view(caption: str, label_mask: int, draw: np.random.Generator) -> tuple[str, int]:
    """A text for training and the classes it names: half of the time the caption, else some classes in random order.

    Runs that were measured had these very texts, so it keeps its generator; new kinds of views take a seed.
    """
    names = names_of(label_mask)
    if len(names) == 0 or draw.random() < 0.5:
        return caption, label_mask
    size = int(draw.integers(1, len(names) + 1))
    chosen = [names[k] for k in draw.permutation(len(names))[:size]]
    return ". ".join(chosen), mask_of(chosen)


def half_view(caption: str, label_mask: int, kind: Kind, seed: int) -> tuple[str, int]:
    """A text for training and the classes it names: half of the time the caption, else a view of its classes."""
    names = names_of(label_mask)
    if not names or seed_of(seed, 0) % 2:
        return caption, label_mask
    return view_and_mask(names, kind, seed)


def _checked(said: str | Sequence[str]) -> list[str]:
    names = [name for name in said.split(". ") if name] if isinstance(said, str) else list(said)
    for name in names:
        if name not in CLASSES:
            raise Problem(f"'{name}' is no class of the vocabulary", fix=nearest(name, CLASSES))
    return names


def _shuffle(names: list[str], number: int) -> int:
    """Fisher and Yates in place, with remainders of the number as draws; what is left of the number."""
    for k in range(len(names) - 1, 0, -1):
        number, j = divmod(number, k + 1)
        names[k], names[j] = names[j], names[k]
    return number
