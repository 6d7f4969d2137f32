"""One tar of samples: how many fit, its members, and the job that writes it."""

from __future__ import annotations

import functools
import json
import math
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from harmonize.problem import Problem
from harmonize.record import from_json
from pipeline.events import PART
from pipeline.parts import Parts
from pipeline.receipt import canonical, digest
from pipeline.sample import DTYPE, GROUPS, arrays_sha256, group_shape, npy_pieces, quicklook_jpeg
from pipeline.store import file_sha256

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.region import Region
    from pipeline.work import Work

VERSION = 2
RECEIPTS = "receipts/tars"
PLAN = f"{RECEIPTS}/plan.json"
TEXT_BYTES = 3072
"""Planned for caption and record with their headers: 1024 + 2048 (the real samples have 1024 + 1536 or 2048)."""
QUICKLOOK_BYTES_PX = {"s1": 0.9, "s2": 0.55}
"""Planned for the quick look: bytes of JPEG a pixel (measured on the real samples, mean: speckle 0.90, S2 0.56)."""
PLACES = [f"{what}_{group}" for group in ("10m", "20m", "60m") for what in ("offset", "length")]
"""Columns of the index that only the finished tar knows."""
RECORD_OF_CHIP = ("chip_id", "cell", "sensor", "scene", "collection", "platform", "orbit", "epsg", "lon", "lat")
RECORD_OF_CAPTION = ("block", "labels", "label_mask", "known_mask", "events", "split", "template")
"""Fields of the `.json` member that are columns of chips and captions."""


@dataclass(frozen=True)
class Tar:
    """What one job needs to write one tar."""

    name: str
    samples: pa.Table
    """A row per sample: columns of chips, captions and pixels."""
    plan: str
    """Identity of the run's plan: a job that was given up must not replace a tar of a later plan."""


@dataclass(frozen=True)
class TarReceipt:
    """A finished tar."""

    url: str
    nsamples: int
    bytes: int
    sha256: str
    key: str
    """Hash of all that decides its bytes."""
    places: dict[str, list[int | None]]
    """Column of PLACES -> value of each sample, read back from the tar."""
    spans: list[tuple[str, int, int, int]] = field(default_factory=list)
    """chip_id, first byte, length and CRC-32 of all members of each sample, headers and padding too: of a tar that was
    damaged they name the chip. Older receipts have none."""


def samples_per_tar(sensor: str, size_px: int, quicklook: bool, shard_mb: float) -> int:
    """How many samples make a tar of about `shard_mb`: a pure function, so tars are planned before any is written."""
    return max(1, round(shard_mb * 1e6 / planned_bytes(sensor, size_px, quicklook)))


def planned_bytes(sensor: str, size_px: int, quicklook: bool) -> int:
    """Bytes of a sample in a tar: arrays are counted exactly, text and quick look as planned above."""
    itemsize = np.dtype(DTYPE[sensor]).itemsize
    arrays = sum(_member(128 + itemsize * math.prod(group_shape(group, size_px))) for group in GROUPS[sensor])
    look = _member(round(QUICKLOOK_BYTES_PX[sensor] * size_px**2)) if quicklook else 0
    return arrays + TEXT_BYTES + look


def _member(size: int) -> int:
    """Bytes of a tar member: a header and the data, padded to blocks of 512."""
    return 512 + math.ceil(size / 512) * 512


def write_tar(work: Work, tar: Tar) -> TarReceipt:
    """Job: write one tar, unless a killed run has left it whole."""
    samples = tar.samples.to_pylist()
    region = work.region
    decides = [VERSION, region.captions.style, region.shards.quicklook]
    records = [record_of(sample, region) for sample in samples]
    said = [[s["sha256"], canonical(r), s[_text(region)]] for s, r in zip(samples, records, strict=True)]
    key = digest([*decides, said])
    receipt = f"{RECEIPTS}/{tar.name}.json"
    done = _whole(work, receipt, tar.name, key)
    if done:
        return done
    with work.store.drafting(f"shards/{tar.name}") as draft:
        with draft.open("wb", buffering=1 << 20) as file, ThreadPoolExecutor(1) as pool:
            _fill(file, samples, records, work)
            file.flush()
            # The disk writes while the tar, still in memory, is hashed.
            on_disk = pool.submit(os.fsync, file.fileno())
            size, sha256 = draft.stat().st_size, file_sha256(draft)
            places, spans = _read_back(draft, samples)
            on_disk.result()
        _still_planned(work, tar)
    done = TarReceipt(tar.name, len(samples), size, sha256, key, places, spans)
    work.store.write(receipt, canonical(asdict(done)).encode())
    return done


def _fill(file: BinaryIO, samples: list[dict[str, Any]], records: list[dict[str, Any]], work: Work) -> None:
    parts = Parts(work.store)
    for sample, record in zip(samples, records, strict=True):
        for member, pieces in members_of(sample, record, parts, work.region):
            _add(file, member, pieces)
    # Two blocks of zeros end a tar, and more of them its last record, as tarfile has it.
    file.write(bytes(2 * tarfile.BLOCKSIZE + -(file.tell() + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE))


def _whole(work: Work, receipt: str, name: str, key: str) -> TarReceipt | None:
    """The receipt of a tar that is there with just these samples and the bytes that were written then."""
    store = work.store
    if not (store.exists(receipt) and store.exists(f"shards/{name}")):
        return None
    try:
        found = TarReceipt(**from_json(store.read(receipt)))
    except (ValueError, TypeError):
        return None  # half written by a machine that went down: the tar is written again
    if found.key != key or store.remote:
        return None  # a bucket's tar would have to be fetched to be checked
    return found if file_sha256(store.local(f"shards/{name}")) == found.sha256 else None


def _still_planned(work: Work, tar: Tar) -> None:
    try:
        planned = from_json(work.store.read(PLAN)) == tar.plan
    except (FileNotFoundError, ValueError):
        planned = False
    if not planned:
        raise Problem(
            f"another run plans other tars in this folder, so {tar.name} is not put there",
            where=f"{work.store.root}/shards",
            fix="let one run at a time write a region",
            code=1,
        )


def _add(file: BinaryIO, name: str, pieces: Sequence[bytes | memoryview]) -> None:
    size = sum(map(len, pieces))
    file.write(_header(name, size))
    for piece in pieces:
        file.write(piece)
    file.write(bytes(-size % tarfile.BLOCKSIZE))


def _header(name: str, size: int) -> bytes:
    """A member's header as tarfile makes it, USTAR: it holds nothing but name and size, so that a rebuilt tar has the
    same bytes. Made from one without a name, since tarfile takes as long for a header as the disk for its arrays."""
    known = name.encode()
    if len(known) >= tarfile.LENGTH_NAME:
        return _info(name, size).tobuf(tarfile.USTAR_FORMAT)
    blank, checksum = _nameless(size)
    return b"".join((known, blank[len(known) : 148], b"%06o\0 " % (checksum + sum(known)), blank[156:]))


@functools.lru_cache(4096)
def _nameless(size: int) -> tuple[bytes, int]:
    """A header and its checksum: the sum of its bytes, its own field (148 to 155) being blanks."""
    header = _info("", size).tobuf(tarfile.USTAR_FORMAT)
    return header, sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info


def members_of(
    sample: dict[str, Any], record: dict[str, Any], parts: Parts, region: Region
) -> Iterator[tuple[str, Sequence[bytes | memoryview]]]:
    """Name of each member and its bytes, in pieces of a sample, in the order of DESIGN §5."""
    key, sensor = sample["chip_id"], sample["sensor"]
    arrays = parts.read_chip(sample["part"], sample["row"], sensor, sample["size_px"])
    if arrays_sha256([arrays[g.name] for g in GROUPS[sensor]]) != sample["sha256"]:
        raise Problem(
            f"the stored pixels of {key} are damaged", where=sample["part"], fix="make redo STAGE=pixels", code=4
        )
    for group in GROUPS[sensor]:
        yield f"{key}.{group.name}.npy", npy_pieces(arrays[group.name])
    yield f"{key}.txt", [sample[_text(region)].encode()]
    yield f"{key}.json", [(json.dumps(record, sort_keys=True) + "\n").encode()]
    if region.shards.quicklook:
        yield f"{key}.jpg", [quicklook_jpeg(arrays, sensor)]


def _text(region: Region) -> str:
    return f"caption_{region.captions.style}"


def record_of(sample: dict[str, Any], region: Region) -> dict[str, Any]:
    """The `.json` member: what is known of a sample besides its pixels."""
    sources = [sample["source"], *sorted({label["source"] for label in sample["labels"]})]
    licences = {event.id: event.licence for event in region.events}
    licences |= {source: licences[use] for source in sources if (use := source.split(PART)[0]) in licences}
    return {
        **{key: sample[key] for key in (*RECORD_OF_CHIP, *RECORD_OF_CAPTION)},
        "datetime": f"{sample['datetime']:%Y-%m-%dT%H:%M:%SZ}",
        "bounds": [sample[side] for side in ("west", "south", "east", "north")],
        "captions": {"paper": sample["caption_paper"], "rich": sample["caption_rich"]},
        "licence": "; ".join(dict.fromkeys(licences.get(s) or region.source(s).licence for s in sources)),
    }


def _read_back(
    draft: Path, samples: list[dict[str, Any]]
) -> tuple[dict[str, list[int | None]], list[tuple[str, int, int, int]]]:
    """Offset and length of every array, and the spans of a TarReceipt, read back from the finished tar."""
    with draft.open("rb") as file:
        members = list(_walked(file))
        found = {name: {"offset": start, "length": size} for name, start, size in members}
        places: dict[str, list[int | None]] = {}
        for column in PLACES:
            what, group = column.split("_")
            places[column] = [found.get(f"{s['chip_id']}.{group}.npy", {}).get(what) for s in samples]
        first: dict[str, int] = {}
        for name, start, _ in members:
            first.setdefault(name.partition(".")[0], start - tarfile.BLOCKSIZE)
        _, last, size = members[-1]
        ends = [*list(first.values())[1:], last + size + -size % tarfile.BLOCKSIZE]
        spans = []
        for (chip, start), end in zip(first.items(), ends, strict=True):
            file.seek(start)
            spans.append((chip, start, end - start, zlib.crc32(file.read(end - start))))
    return places, spans


def _walked(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each member, from the headers alone: tarfile takes longer for them than for writing."""
    while (header := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
        name, prefix = (header[a:b].rstrip(b"\0").decode() for a, b in ((0, 100), (345, 500)))
        size, start = int(header[124:135], 8), file.tell()
        yield f"{prefix}/{name}" if prefix else name, start, size
        file.seek(start + size + -size % tarfile.BLOCKSIZE)
