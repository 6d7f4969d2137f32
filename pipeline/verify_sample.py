"""One sample of a tar against its row of the index: members, arrays, caption and record say the same."""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from harmonize.captions import TEMPLATE_VERSION, write_caption
from harmonize.labelset import LabelSet
from harmonize.record import from_json
from harmonize.vocabulary import BIT, CLASSES
from pipeline.sample import DTYPE, GROUPS, Group, group_shape, npy_header, npy_shape, quicklook
from pipeline.tar_stream import PLAIN, Member

PICKLES = ("pkl", "pickle", "pyd", "pt", "pth", "joblib")
"""Endings of what readers of tars unpickle (webdataset's decoders, torch): such a member could run code."""
OTHER_WORDS = "caption_rich does not say what the labels do"
"""This stands in the tables too where a tar has the bytes that were written: captions have to be made again."""
LOOK_DIFFERS = 9.0
"""Mean difference of a quick look (0-255) from what its arrays look like. Of 1,387 samples, real and drawn, their own
differs by 6.1 at most (uniform noise by 6.4), that of another sample by 11.5 or more."""
SAME = (
    "chip_id", "cell", "block", "sensor", "scene", "platform", "orbit", "split", "label_mask", "known_mask", "events",
    "lon", "lat",
)  # fmt: skip
"""What the `.json` member and the index both say."""


def chosen(chip_id: str, share: float) -> bool:
    """Whether this sample is one of the share (0-1) that is looked at closely: a hash of its name decides."""
    drawn = int.from_bytes(hashlib.blake2b(b"verify:" + chip_id.encode(), digest_size=8).digest(), "big")
    return drawn < share * 2**64


def member_findings(member: Member, suffix: str) -> Iterator[str]:
    """What is wrong with a member's name or kind."""
    if member.kind not in PLAIN:
        yield f"{member.name} is no plain file"
    if "/" in member.name or ".." in member.name or "\\" in member.name:
        yield f"a member's name leads elsewhere: {member.name!r}"
    if suffix.rpartition(".")[2].lower() in PICKLES:
        yield f"{member.name} is a pickle: it could run code where it is read"


def suffixes_of(sensor: str, quicklook: bool) -> list[str]:
    """The members a sample has, without its name, in order."""
    return [f"{g.name}.npy" for g in GROUPS[sensor]] + ["txt", "json"] + (["jpg"] if quicklook else [])


def sample_findings(
    row: dict[str, Any], places: dict[str, Member], data: dict[str, bytes], size_px: int, style: str | None
) -> Iterator[str]:
    """What is wrong with a sample. `data`: the text, the record, and the first bytes (or all) of each array."""
    for group in GROUPS[row["sensor"]]:
        suffix = f"{group.name}.npy"
        member = places.get(suffix)
        if member is None:
            continue
        said = row[f"offset_{group.name}"], row[f"length_{group.name}"]
        if said != (member.offset, member.size):
            yield (
                f"the index has {suffix} at byte {said[0]} (length {said[1]}), it is at {member.offset} "
                f"(length {member.size})"
            )
        if wrong := _array_wrong(data[suffix], member.size, group, row["sensor"], size_px):
            yield f"{suffix} {wrong}"
    if "txt" in data:
        texts = [row[f"caption_{style}"]] if style else [row["caption_paper"], row["caption_rich"]]
        text = data["txt"].decode(errors="replace")
        if text not in texts:
            yield f"the caption {text!r} is not the index's {texts[0]!r}"
    if "json" in data:
        yield from _record_findings(data["json"], row)


@functools.lru_cache(16)
def _npy(group: Group, sensor: str, size_px: int) -> tuple[bytes, int]:
    """What an array of this group begins with, and how many bytes it has in all."""
    shape, kind = group_shape(group, size_px), np.dtype(DTYPE[sensor])
    header = npy_header(shape, kind.newbyteorder("<").str)
    return header, len(header) + kind.itemsize * math.prod(shape)


def _array_wrong(start: bytes, size: int, group: Group, sensor: str, size_px: int) -> str | None:
    header, wanted = _npy(group, sensor, size_px)
    return None if size == wanted and start.startswith(header) else _another_array(start, size, group, sensor, size_px)


def _another_array(start: bytes, size: int, group: Group, sensor: str, size_px: int) -> str | None:
    """What an array is that does not begin as we write it; None where another program wrote the same array."""
    shape = group_shape(group, size_px)
    try:
        found, fortran, kind, header = npy_shape(start[:4096])
    except ValueError:
        return "has no readable .npy header"
    if kind.hasobject:
        return "holds Python objects, which are pickles"
    said = header + kind.itemsize * math.prod(found)
    if size != said:
        return f"has {size} bytes, its header says {said}"
    if fortran or found != shape or kind != np.dtype(DTYPE[sensor]):
        return f"is {kind} {found}{' in Fortran order' if fortran else ''}, not {DTYPE[sensor]} {shape}"
    return None


def _record_findings(data: bytes, row: dict[str, Any]) -> Iterator[str]:
    try:
        record = from_json(data)
        labels = {label["name"]: float(label["share"]) for label in record["labels"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        yield f"the .json member cannot be read: {type(error).__name__}: {error}"
        return
    if any(record.get(name, record) != row[name] for name in SAME):
        for name in SAME:
            if name not in record:
                yield f"the .json member has no '{name}'"
            elif record[name] != row[name]:
                yield f"{name} is {record[name]!r} in the .json member and {row[name]!r} in the index"
    when = row["datetime"].strftime("%Y-%m-%dT%H:%M:%SZ")
    if record.get("datetime") != when:
        yield f"datetime is {record.get('datetime')!r} in the .json member and {when!r} in the index"
    if record.get("captions") != {"paper": row["caption_paper"], "rich": row["caption_rich"]}:
        yield "the captions of the .json member are not the index's"
    if unknown := sorted(set(labels) - set(CLASSES)):
        yield f"labels of the .json member are not in the vocabulary: {', '.join(unknown)}"
    elif sum(1 << BIT[name] for name in labels) != row["label_mask"]:
        yield f"the labels of the .json member ({', '.join(labels)}) are not those of label_mask {row['label_mask']}"
    elif record.get("template") == TEMPLATE_VERSION and not _says(row, labels):
        yield f"{OTHER_WORDS}: {row['caption_rich']!r}"
    if odd := [f"{name} {share}" for name, share in labels.items() if not 0 <= share <= 1]:
        yield f"a share is not between 0 and 1: {', '.join(odd)}"


def _says(row: dict[str, Any], shares: dict[str, float]) -> bool:
    """Whether the rich caption is the one that these labels give. Their shares were rounded to six digits after it was
    written, so they may stand on the other side of a limit."""
    for off in (0.0, 5e-7, -5e-7):
        exact = {name: share + off for name, share in shares.items()}
        labels = LabelSet(exact, {}, row["known_mask"])
        day, lat, orbit = row["datetime"].date(), row["lat"], row["orbit"]
        if write_caption(labels, row["sensor"], day, lat, orbit, row["chip_id"]).rich == row["caption_rich"]:
            return True
    return False


def close_findings(row: dict[str, Any], data: dict[str, bytes], size_px: int) -> Iterator[str]:
    """What only reading everything of a sample shows: the hash of its arrays, and whether the quick look is theirs."""
    groups, digest = GROUPS[row["sensor"]], hashlib.sha256()
    for group in groups:
        array = data[f"{group.name}.npy"]
        digest.update(memoryview(array)[10 + int.from_bytes(array[8:10], "little") :])
    same = digest.hexdigest() == row["sha256"]
    if not same:
        yield "its arrays do not have the sha256 that the index has"
    if "jpg" in data:
        ten = _array(data["10m.npy"], groups[0], row["sensor"], size_px) if same else None
        yield from _look_wrong(data["jpg"], ten, row["sensor"], size_px)


def _array(npy: bytes, group: Group, sensor: str, size_px: int) -> np.ndarray | None:
    """The array of a member whose header may be damaged, None where its bytes are not as many as they must be."""
    header, wanted = _npy(group, sensor, size_px)
    if len(npy) != wanted:
        return None
    return np.frombuffer(npy[len(header) :], DTYPE[sensor]).reshape(group_shape(group, size_px))


def _look_wrong(jpg: bytes, ten: np.ndarray | None, sensor: str, size_px: int) -> Iterator[str]:
    """`ten`: the 10 m array that the quick look was drawn from; None where nobody knows it any more."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(jpg), formats=["JPEG"]) as image:
            if image.size != (size_px, size_px):  # before it is unpacked: it may claim any size
                yield f"the quick look has {image.width} x {image.height} pixels, not {size_px} x {size_px}"
                return
            look = np.asarray(image.convert("RGB"), np.int16)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        yield f"the quick look cannot be read: {error}"
        return
    if ten is not None and np.abs(look - quicklook({"10m": ten}, sensor)).mean() > LOOK_DIFFERS:
        yield "the quick look shows something else than its arrays"
