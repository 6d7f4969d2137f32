"""Job of verify: one tar against shards.json and its rows of the index."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harmonize.record import from_json
from pipeline.sample import SENSORS
from pipeline.tar_stream import BrokenTar, Member, TarStream
from pipeline.tars import RECEIPTS
from pipeline.verify_sample import OTHER_WORDS, chosen, close_findings, member_findings, sample_findings, suffixes_of

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store import Store

HEAD = 256
"""Bytes of an array that are looked at where the rest is only hashed with the tar."""
LARGEST_TEXT = 1 << 20
"""Bytes of a caption or record: the largest have some kilobytes."""


@dataclass
class Place:
    """What a job of verify gets: the folder, region's or shards', that names are below."""

    store: Store


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    file: str
    """Below the folder that was verified."""
    sample: str
    """chip_id, or the cell; empty where it is the file's."""
    what: str
    fix: str


@dataclass(frozen=True)
class TarCheck:
    """What one job needs to check one tar."""

    file: str
    bytes: int
    sha256: str
    size_px: int
    style: str | None
    """Caption that the `.txt` member holds; None: shards.json does not say, either is good."""
    quicklook: bool | None
    """Whether samples have one; None: shards.json does not say, all or none."""
    share: float
    """Of the samples, whose arrays are hashed."""
    rows: pa.Table
    """Its samples as the index has them."""
    fix: str
    fix_captions: str
    crcs: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """chip_id -> first byte, length and CRC-32 of all its members, headers and padding too, as they were written; they
    name the chip of any byte that differs. Nobody knows them of a folder of shards alone."""


@dataclass
class Checked:
    """What a job looked at, and what it found."""

    findings: list[Finding] = field(default_factory=list)
    bytes: int = 0
    samples: int = 0
    close: int = 0
    """Samples whose arrays were hashed."""


def check_tar(place: Place, check: TarCheck) -> Checked:
    """Job: read a tar once, and where its hash is wrong again, to name the samples that are damaged."""
    size = place.store.size(check.file)
    if size is None:
        return Checked([Finding(check.file, "", "it is not there, and shards.json names it", check.fix)])
    walk = _Walk(check, check.share)
    if size != check.bytes:
        walk.add("", f"it has {size} bytes, shards.json says {check.bytes}")
    sha256 = walk.read(place)
    if sha256 != check.sha256 and size == check.bytes:
        walk.add("", "a byte differs: it does not have the sha256 that shards.json says")
        again = _Walk(check, 1.0)
        again.read(place)
        walk.found |= again.found
        for chip in _changed(place, check):
            if not any(sample == chip for sample, _ in walk.found):
                walk.add(chip, "its members are not, byte for byte, what was written")
    as_written = sha256 == check.sha256
    findings = [
        Finding(check.file, sample, what, check.fix_captions if as_written and OTHER_WORDS in what else check.fix)
        for sample, what in sorted(walk.found, key=lambda of: of[0] != "")  # what is wrong with the file comes first
    ]
    return Checked(findings, size, walk.samples, walk.close)


def _changed(place: Place, check: TarCheck) -> Iterator[str]:
    """Chips whose bytes in the tar are not those that were written."""
    with place.store.open(check.file) as file:
        for chip, (start, length, crc) in check.crcs.items():
            file.seek(start)
            if zlib.crc32(file.read(length)) != crc:
                yield chip


def crcs_of(store: Store, url: str) -> dict[str, tuple[int, int, int]]:
    """`TarCheck.crcs` of a tar, from what was noted when it was written; empty where it is damaged or older."""
    name = f"{RECEIPTS}/{url}.json"
    try:
        spans = from_json(store.read(name))["spans"]
        return {str(chip): (int(start), int(length), int(crc)) for chip, start, length, crc in spans}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


class _Walk:
    """One pass over a tar."""

    def __init__(self, check: TarCheck, share: float) -> None:
        self.check, self.share = check, share
        self.rows = {row["chip_id"]: row for row in check.rows.to_pylist()}
        self.found: dict[tuple[str, str], None] = {}
        """(sample, what) in the order of the tar."""
        self.samples = self.close = 0
        self._near = False
        """Whether the sample that is being read is looked at array by array."""
        self._looks: dict[bool, str] = {}
        """With and without a quick look: the first such sample."""

    def add(self, sample: str, *whats: str) -> None:
        for what in whats:
            self.found[sample, what] = None

    def read(self, place: Place) -> str:
        """Look at every member; the sha256 of the file."""
        seen: set[str] = set()
        with place.store.open(self.check.file) as file:
            stream = TarStream(file, strict=self.share == 1)
            broken = ""
            try:
                for key, places, data in self._samples(stream):
                    if key in seen:
                        self.add(key, "its key stands twice in the tar")
                    seen.add(key)
                    self._sample(key, places, data)
            except BrokenTar as error:
                broken = str(error)
            sha256 = stream.rest()
        missing = [key for key in self.rows if key not in seen]
        if broken:
            self.add("", f"it {broken}: {len(missing)} of the index's {len(self.rows)} samples are not reached")
        else:
            for key in missing:
                self.add(key, "the index has it, the tar does not")
        if self.check.quicklook is None and len(self._looks) > 1:
            self.add(self._looks[False], "it has no .jpg member, others of this tar have one")
        return sha256

    def _samples(self, stream: TarStream) -> Iterator[tuple[str, dict[str, Member], dict[str, bytes]]]:
        """Key, members by suffix, and what was read of them: members of one key stand together."""
        key, places, data = "", dict[str, Member](), dict[str, bytes]()
        for member in stream.members():
            name, _, suffix = member.name.partition(".")
            again = name == key and suffix == next(iter(places))
            if name != key or again:
                if places:
                    yield key, places, data
                key, places, data = name, {}, {}
                self._near = chosen(key, self.share)
            self.add(name, *member_findings(member, suffix))
            if suffix in places:
                self.add(name, f"its member {suffix} stands twice")
            places[suffix] = member
            data[suffix] = stream.take(self._wanted(suffix, member.size))
        if places:
            yield key, places, data

    def _wanted(self, suffix: str, size: int) -> int:
        """How much of a member is looked at, in bytes: of most arrays their beginning."""
        if suffix in ("txt", "json"):
            return size if size <= LARGEST_TEXT else 0
        if self._near:
            return size if size < 1 << 30 else 0  # no member of ours is that large: not worth the memory
        return min(size, HEAD) if suffix.endswith(".npy") else 0

    def _sample(self, key: str, places: dict[str, Member], data: dict[str, bytes]) -> None:
        self.samples += 1
        row = self.rows.get(key)
        if row is None:
            self.add(key, "the tar has it, the index does not")
            return
        if row["sensor"] not in SENSORS:
            return  # told of the index
        look = "jpg" in places
        self._looks.setdefault(look, key)
        wanted = suffixes_of(row["sensor"], look if self.check.quicklook is None else self.check.quicklook)
        self.add(key, *(f"its member {name} is missing" for name in wanted if name not in places))
        self.add(key, *(f"its member {name} is none of a sample's" for name in places if name not in wanted))
        self.add(key, *sample_findings(row, places, data, self.check.size_px, self.check.style))
        if self._near and set(places) >= set(suffixes_of(row["sensor"], quicklook=False)):
            self.close += 1
            self.add(key, *close_findings(row, data, self.check.size_px))
