"""What verify finds without opening a tar: shards.json, the index, and the lists beside them against each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from harmonize.captions import paper_text
from harmonize.problem import Problem
from harmonize.record import from_json
from harmonize.vocabulary import ALL_MASK, CLASSES, names_of
from pipeline import tables
from pipeline.sample import FORMAT_VERSION, SENSORS, SPLITS, shards_wrong

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store import Store

_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
SUMS = "SHA256SUMS"
"""The list for `sha256sum -c` beside shards.json."""
Wrong = tuple[str, str, str]
"""File below the shards' folder, sample, what is wrong."""


def read_about(store: Store, name: str) -> dict[str, Any]:
    """shards.json; Problem (code 4) where it cannot be what this program wrote."""

    def broken(what: str) -> Problem:
        return Problem(what, where=f"{store.root}/{name}", fix="make redo STAGE=shards REGION=…", code=4)

    try:
        about = from_json(store.read(name))
    except (ValueError, OSError) as error:
        raise broken(f"it is damaged: {error}") from None
    if not isinstance(about, dict) or about.get("format_version") != FORMAT_VERSION:
        found = about.get("format_version") if isinstance(about, dict) else None
        raise broken(f"it is of format version {found}, this program reads {FORMAT_VERSION}")
    if about.get("vocabulary") != list(CLASSES):
        raise broken("it has another vocabulary than this program")
    if wrong := shards_wrong(about):
        raise broken(wrong)
    return about


def folder_findings(store: Store, prefix: str, about: dict[str, Any]) -> Iterator[Wrong]:
    """Tars that nothing names, and lists for `wids` that differ from shards.json."""
    named = {shard["url"] for shard in about["shards"]}
    there = {name.rpartition("/")[2] for name in store.list(prefix.rstrip("/") or ".")}
    for name in sorted(there - named):
        if name.endswith(".tar"):
            yield name, "", "shards.json does not name this tar: whoever globs *.tar would read it"
    kinds = dict.fromkeys((shard["split"], shard["sensor"]) for shard in about["shards"])
    for split, sensor in kinds:
        name = f"{split}-{sensor}.json"
        if name not in there:
            yield name, "", "the list for wids is missing"
            continue
        mine = [s for s in about["shards"] if (s["split"], s["sensor"]) == (split, sensor)]
        keys = ("url", "nsamples", "bytes", "sha256")
        try:
            listed = [{key: s.get(key) for key in keys} for s in from_json(store.read(prefix + name))["shardlist"]]
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            listed = []
        if listed != [{key: s[key] for key in keys} for s in mine]:
            yield name, "", "the list for wids does not name the tars of shards.json"


def sums_findings(store: Store, prefix: str, about: dict[str, Any]) -> Iterator[Wrong]:
    """Whether the sha256 list names what shards.json does, with the same hashes. Older shards have no list."""
    described = about.get("described_by") or {}
    if SUMS not in described or not store.exists(prefix + SUMS):
        return
    lines = store.read(prefix + SUMS).decode(errors="replace").splitlines()
    listed = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    known = {shard["url"]: shard["sha256"] for shard in about["shards"]}
    known |= {"index.parquet": about["index"].get("sha256")} | {k: v for k, v in described.items() if k != SUMS}
    for name, sha256 in known.items():
        if listed.get(name) != sha256:
            yield SUMS, "", f"it does not have the sha256 that shards.json has of {name}"


def index_findings(index: pa.Table, about: dict[str, Any]) -> Iterator[Wrong]:
    """What is wrong with rows of the index, before any tar is opened."""
    shards = {shard["url"]: shard for shard in about["shards"]}
    columns = {
        name: index[name].to_numpy(zero_copy_only=False)
        for name in ("chip_id", "cell", "split", "sensor", "shard", "label_mask", "known_mask", "size_px")
    }
    for chip, n in Counter(columns["chip_id"]).items():
        if n > 1:
            yield "", chip, f"it stands {n} times in the index"
    counts = Counter(columns["shard"])
    for url in sorted(set(counts) - set(shards)):
        yield "", "", f"{counts[url]} rows name the tar {url}, which shards.json does not"
    for url, shard in shards.items():
        if counts[url] != shard["nsamples"]:
            yield "", "", f"it has {counts[url]} rows of {url}, shards.json says {shard['nsamples']}"
    yield from _rows_wrong(columns, shards, about["size_px"])
    yield from _captions_wrong(columns, index["caption_paper"].to_numpy(zero_copy_only=False))
    yield from _leaks(columns)


def _rows_wrong(columns: dict[str, np.ndarray], shards: dict[str, Any], size_px: int) -> Iterator[Wrong]:
    label, known = columns["label_mask"], columns["known_mask"]
    of = {key: np.array([shards.get(url, {}).get(key, "") for url in columns["shard"]]) for key in ("split", "sensor")}
    listed = of["split"] != ""
    for wrong, what in (
        ((label & ~ALL_MASK) != 0, "label_mask has bits outside the vocabulary"),
        ((known & ~ALL_MASK) != 0, "known_mask has bits outside the vocabulary"),
        ((label & ~known) != 0, "label_mask has classes that known_mask does not know"),
        (_odd_names(columns), "its chip_id or cell is no name: letters, digits, _ and -"),
        (~np.isin(columns["sensor"], SENSORS), "its sensor is none of " + ", ".join(SENSORS)),
        (~np.isin(columns["split"], SPLITS), "its split is none of " + ", ".join(SPLITS)),
        (columns["size_px"] != size_px, f"its size_px is not the {size_px} of shards.json"),
        (listed & (of["split"] != columns["split"]), "it stands in a tar of another split"),
        (listed & (of["sensor"] != columns["sensor"]), "it stands in a tar of another sensor"),
    ):
        for k in np.flatnonzero(wrong):
            yield "", columns["chip_id"][k], what


def _odd_names(columns: dict[str, np.ndarray]) -> np.ndarray:
    """bool (N,): names that lead elsewhere, or would be two words in a list."""
    names = zip(columns["chip_id"], columns["cell"], strict=True)
    return np.array([not all(_NAME.fullmatch(str(name)) for name in pair) for pair in names], bool)


def _captions_wrong(columns: dict[str, np.ndarray], texts: np.ndarray) -> Iterator[Wrong]:
    masks, of = np.unique(columns["label_mask"], return_inverse=True)
    wanted = np.array([paper_text(names_of(int(mask))) for mask in masks], object)[of]
    for k in np.flatnonzero(wanted != texts):
        mask = columns["label_mask"][k]
        yield "", columns["chip_id"][k], f"caption_paper is {texts[k]!r}, label_mask {mask} says {wanted[k]!r}"


def _leaks(columns: dict[str, np.ndarray]) -> Iterator[Wrong]:
    pairs = sorted(set(zip(columns["cell"], columns["split"], strict=True)))
    splits: dict[str, list[str]] = {}
    for cell, split in pairs:
        splits.setdefault(cell, []).append(split)
    for cell, found in splits.items():
        if len(found) > 1:
            chips = int((columns["cell"] == cell).sum())
            yield "", cell, f"this cell's {chips} chips stand in {' and '.join(found)}: what is searched was trained on"


def rows_by_tar(index: pa.Table, urls: list[str]) -> Iterator[pa.Table]:
    """The rows of each tar, with buffers of their own; sorted once, so that many tars cost no more."""
    import pyarrow as pa
    import pyarrow.compute as pc

    of = pc.fill_null(pc.index_in(index["shard"], pa.array(urls, pa.string())), len(urls)).to_numpy()
    order = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[order], np.arange(len(urls)), side="right")
    for start, end in zip([0, *ends][: len(urls)], ends, strict=True):
        yield index.take(order[start:end]).combine_chunks()


def read_index(store: Store, name: str) -> pa.Table:
    """index.parquet, checked against its schema and its texts for UTF-8; Problem (code 4) where it is damaged."""
    import pyarrow as pa

    index = tables.read_table(store, name, tables.INDEX)
    try:
        index.validate(full=True)
    except pa.ArrowInvalid as error:
        fix = "make redo STAGE=shards REGION=…"
        raise Problem(f"{name} is damaged: {error}", where=store.root, fix=fix, code=4) from None
    return index
