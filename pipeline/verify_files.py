"""What verify does with files as a whole: hash one, compare the sha256 list, and name those that nothing names."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.label_agreement import AGREEMENT
from pipeline.receipt import receipt_name
from pipeline.splits import SPLIT_REPORT
from pipeline.tar_stream import BLOCK
from pipeline.tars import RECEIPTS
from pipeline.verify_tar import Checked, Finding, Place

if TYPE_CHECKING:
    from pipeline.store import Store

FOLDERS = {"screen": "screen", "pixels": "pixels", "shards": "shards", RECEIPTS: "shards"}
"""Folder -> the stage that alone writes there."""
REPORTS = {AGREEMENT: "captions", SPLIT_REPORT: "captions"}
BESIDE = ("queries",)
"""Folders beside them that other commands write: `python -m train queries`."""


@dataclass(frozen=True)
class FileCheck:
    """What one job needs to check a file that is no tar of samples."""

    file: str
    sha256: str
    bytes: int | None
    """None: nobody has noted it."""
    fix: str


def check_file(place: Place, one: FileCheck) -> Checked:
    """Job: one file, its size and its hash."""
    size = place.store.size(one.file)
    if size is None:
        return Checked([Finding(one.file, "", "it is not there", one.fix)])
    if one.bytes is not None and size != one.bytes:
        return Checked([Finding(one.file, "", f"it has {size} bytes, {one.bytes} were written", one.fix)])
    digest = hashlib.sha256()
    with place.store.open(one.file) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    same = digest.hexdigest() == one.sha256
    what = "a byte differs: it does not have the sha256 that was noted when it was written"
    return Checked([] if same else [Finding(one.file, "", what, one.fix)], size)


def orphans(store: Store, named: Collection[str], stages: Mapping[str, bool]) -> Iterator[tuple[str, str | None]]:
    """Files of a region that no receipt names, and the stage that writes where they lie (None: no stage does).

    stages: every stage, and whether its receipt is there. Where it is not, the stage is not at its end: what lies
    there is what it goes on with. Hidden files that are no drafts are not ours.
    """
    known = {*named, *(receipt_name(stage) for stage in stages)}
    for name in store.walk():
        folder, _, file = name.rpartition("/")
        draft = file.startswith(".") and file.endswith(".tmp")
        if name in known or name.split("/")[0] in BESIDE or (file.startswith(".") and not draft):
            continue
        stage = FOLDERS.get(folder) or _of_draft(file, stages)
        if stage is None or stages[stage]:
            yield name, stage


def _of_draft(file: str, stages: Mapping[str, bool]) -> str | None:
    """The stage whose table or receipt this is, or a draft of it."""
    whole = file.removeprefix(".").removesuffix(".tmp") if file.startswith(".") else file
    stem = whole.partition(".")[0]
    return stem if stem in stages else REPORTS.get(whole)
