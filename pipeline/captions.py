"""Stage captions: chips + labels -> LabelSet, captions and split of every chip. All judgement is in `harmonize`."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from harmonize.captions import TEMPLATE_VERSION, write_caption
from harmonize.crosswalk import Crosswalk, parse_crosswalk
from harmonize.labelset import Evidence, LabelSet, combine, gap_days
from harmonize.problem import Problem
from harmonize.splits import SplitShares, block_of, spatial_split, stratified_split
from harmonize.vocabulary import VOCABULARY_VERSION
from pipeline import tables
from pipeline.region import Region
from pipeline.source import crosswalk_path
from pipeline.work import Outcome, Work


def params(region: Region) -> dict[str, Any]:
    return {
        "min_share": region.captions.min_share,
        "split": region.split.model_dump(mode="json"),
        "order": [use.source for use in region.labels],
        "crosswalks": {use.source: region.source(use.source).crosswalk for use in region.labels},
        "template": TEMPLATE_VERSION,
        "vocabulary": VOCABULARY_VERSION,
    }


def outside(region: Region) -> list[Path]:
    return [_existing(region, k) for k in range(len(region.labels))]


def _existing(region: Region, k: int) -> Path:
    source = region.source(region.labels[k].source)
    path = crosswalk_path(source)
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.csv"))) or "none"
        where = f"{region.path}, source '{region.labels[k].source}', key 'crosswalk'"
        raise Problem(
            f"there is no crosswalk '{source.crosswalk}'", where=where, fix=f"there are: {known}; or give a path"
        )
    return path


def write_captions(work: Work) -> Outcome:
    """One row per chip; a chip with neither land cover nor a crisis label is dropped `no labels`."""
    region = work.region
    evidence = _evidence(work)
    order = [use.source for use in region.labels]
    chips = work.rows("chips")
    sets: dict[str, LabelSet] = {
        chip["chip_id"]: combine(evidence[chip["cell"]], order, chip["datetime"].date(), region.captions.min_share)
        for chip in work.track(chips, len(chips), "captions")
    }
    splits = _splits(chips, sets, region)
    rows = [_row(chip, sets[chip["chip_id"]], splits[chip["chip_id"]], region) for chip in chips]
    rows.sort(key=lambda r: r["chip_id"])
    return Outcome(len(rows), tables.table_of(rows, tables.CAPTIONS), notes=_notes(rows))


def _crosswalks(region: Region) -> dict[str, Crosswalk]:
    paths = {use.source: crosswalk_path(region.source(use.source)) for use in region.labels}
    try:
        return {name: parse_crosswalk(path.read_text("utf-8"), str(path)) for name, path in paths.items()}
    except UnicodeDecodeError as error:
        raise Problem(f"a crosswalk is not UTF-8: {error}", fix="save it as UTF-8") from None


def _evidence(work: Work) -> dict[str, list[Evidence]]:
    """cell -> what each source says on each of its days, in classes of the vocabulary."""
    crosswalks = _crosswalks(work.region)
    shares: dict[tuple[str, str, dt.date | None], dict[str, float]] = defaultdict(dict)
    for row in work.rows("labels"):
        if row["dropped"] is not None:
            continue
        class_ = crosswalks[row["source"]].classify(row["code"])
        if class_ is not None:
            said = shares[row["cell"], row["source"], row["date"]]
            said[class_] = said.get(class_, 0.0) + row["share"]
    found: dict[str, list[Evidence]] = defaultdict(list)
    for (cell, source, date), said in shares.items():
        found[cell].append(Evidence(source, date, said))
    return found


def _block(chip: dict[str, Any], region: Region) -> str:
    middle = (chip["west"] + chip["east"]) / 2, (chip["south"] + chip["north"]) / 2
    return block_of(chip["epsg"], *middle, region.split.block_km)


def _splits(chips: list[dict[str, Any]], sets: dict[str, LabelSet], region: Region) -> dict[str, str]:
    """chip -> split. Stratified: all dates and sensors of a cell together, by the labels of the chips that are kept."""
    shares = SplitShares(region.split.train, region.split.val, region.split.test)
    spatial = {chip["chip_id"]: spatial_split(_block(chip, region), shares) for chip in chips}
    if region.split.method == "spatial":
        return spatial
    masks: dict[str, int] = {}
    for chip in chips:
        labels = sets[chip["chip_id"]]
        if chip["dropped"] is None and not labels.empty:
            masks[chip["cell"]] = masks.get(chip["cell"], 0) | labels.label_mask
    cells = stratified_split(masks, shares)
    return {chip["chip_id"]: cells.get(chip["cell"], spatial[chip["chip_id"]]) for chip in chips}


def _row(chip: dict[str, Any], labels: LabelSet, split: str, region: Region) -> dict[str, Any]:
    day = chip["datetime"].date()
    caption = write_caption(labels, chip["sensor"], day, chip["lat"])
    dropped = chip["dropped"] or ("no labels" if labels.empty else None)
    return {
        "chip_id": chip["chip_id"],
        "cell": chip["cell"],
        "block": _block(chip, region),
        "split": split,
        "label_mask": labels.label_mask,
        "known_mask": labels.known_mask,
        "labels": [{"name": n, "share": round(s, 6), "source": labels.sources[n]} for n, s in labels.shares.items()],
        "evidence": json.dumps([_said(e, day) for e in labels.evidence], sort_keys=True),
        "caption_paper": caption.paper,
        "caption_rich": caption.rich,
        "template": caption.template,
        "events": [],
        "dropped": dropped,
    }


def _said(evidence: Evidence, day: dt.date) -> dict[str, Any]:
    said: dict[str, Any] = {
        "source": evidence.source,
        "labelled": round(evidence.labelled, 6),
        "shares": {name: round(share, 6) for name, share in evidence.shares.items()},
    }
    if evidence.date:
        said |= {"date": str(evidence.date), "gap_days": gap_days(evidence, day)}
    return said


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """What a person should know of the splits: empty ones, and classes that a split lacks."""
    kept = [row for row in rows if row["dropped"] is None]
    counts = Counter(row["split"] for row in kept)
    notes = ["chips per split: " + ", ".join(f"{s} {counts[s]}" for s in ("train", "val", "test"))]
    everywhere = {label["name"] for row in kept for label in row["labels"]}
    for split in ("train", "val", "test"):
        if not counts[split]:
            notes.append(f"warning: split {split} is empty")
            continue
        lacking = everywhere - {label["name"] for row in kept if row["split"] == split for label in row["labels"]}
        if lacking:
            notes.append(f"warning: split {split} has no {', '.join(sorted(lacking))}")
    return notes
