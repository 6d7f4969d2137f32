"""Stage captions: chips + labels -> LabelSet, captions and split of every chip. All judgement is in `harmonize`."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from harmonize.captions import TEMPLATE_VERSION, write_caption
from harmonize.crosswalk import Crosswalk, parse_crosswalk
from harmonize.events import CrisisEvent, Touch, Verdict, judge
from harmonize.labelset import Evidence, LabelSet, combine, gap_days
from harmonize.problem import Problem
from harmonize.splits import SplitShares, block_of, event_split, spatial_split, stratified_split, torn_from_event
from harmonize.vocabulary import VOCABULARY_VERSION
from pipeline import events, tables
from pipeline.region import Region
from pipeline.source import crosswalk_path
from pipeline.work import Outcome, Work

NEEDED = (
    "chip_id", "cell", "epsg", "west", "south", "east", "north", "lat", "sensor", "datetime", "role", "dropped",
)  # fmt: skip
"""Columns of chips that a caption and a split depend on."""


def params(region: Region) -> dict[str, Any]:
    return {
        "min_share": region.captions.min_share,
        "split": region.split.model_dump(mode="json"),
        "events": events.params(region, "kind", "effect_days", "min_event_share"),
        "order": [use.source for use in region.labels],
        "crosswalks": {use.source: region.source(use.source).crosswalk for use in region.labels},
        "template": TEMPLATE_VERSION,
        "vocabulary": VOCABULARY_VERSION,
    }


def outside(region: Region) -> list[Path]:
    crosswalks = [_existing(region, k) for k in range(len(region.labels))]
    return crosswalks + (events.files(region, "href") if _whole(region) else [])


def _whole(region: Region) -> bool:
    """Whether events stay in one split. The stratified protocol knows no events: it deals out cells by their labels."""
    return region.split.method == "spatial" and region.split.events == "whole"


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
    """One row per chip. Dropped are chips with neither land cover nor a crisis label (`no labels`), and those of an
    event that belongs to another split than they do (`split: event`)."""
    region = work.region
    evidence, touched = _evidence(work), _touched(work)
    order = [use.source for use in region.labels]
    chips = work.rows("chips", NEEDED)
    sets: dict[str, LabelSet] = {}
    for chip in work.track(chips, len(chips), "captions"):
        day = chip["datetime"].date()
        verdicts = [judge(event, touch, day) for event, touch in touched[chip["cell"]]]
        sets[chip["chip_id"]] = combine(evidence[chip["cell"]], order, day, region.captions.min_share, verdicts)
    splits = _splits(chips, sets, region)
    of_events = _splits_of_events(region)
    rows = []
    for chip in chips:
        name = chip["chip_id"]
        torn = torn_from_event(splits[name], [of_events[e] for e in _events_of(chip, sets[name]) if e in of_events])
        rows.append(_row(chip, sets[name], splits[name], region, torn))
    rows.sort(key=lambda r: r["chip_id"])
    told = [f"event '{name}' belongs to {split}" for name, split in of_events.items()]
    return Outcome(len(rows), tables.table_of(rows, tables.CAPTIONS), notes=[*told, *_notes(rows)])


def _touched(work: Work) -> dict[str, list[tuple[CrisisEvent, Touch]]]:
    """cell -> the events near it, and what their maps say about it."""
    found: dict[str, list[tuple[CrisisEvent, Touch]]] = defaultdict(list)
    for row in work.rows("labels"):
        if row["event"] is not None:
            found[row["cell"]].append(events.verdict_of(row, work.region))
    return found


def _splits_of_events(region: Region) -> dict[str, str]:
    """Event -> its split; none where events are not kept whole."""
    if not _whole(region):
        return {}
    shares = SplitShares(region.split.train, region.split.val, region.split.test)
    return {
        mapped.event.id: event_split(events.blocks_of(mapped.shape, region.split.block_km), shares)
        for mapped in events.load_events(region, extents=False)
    }


def _events_of(chip: dict[str, Any], labels: LabelSet) -> list[str]:
    """The events a chip is one of: those that cover some of its cell, if it is in their window or was taken as their
    `before`."""
    return [
        v.event.id
        for v in labels.verdicts
        if v.touch.share > 0 and (0 <= v.days <= v.event.effect_days or f"before:{v.event.id}" in chip["role"].split())
    ]


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
        if row["dropped"] is not None or row["event"] is not None:
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


def _row(chip: dict[str, Any], labels: LabelSet, split: str, region: Region, torn: bool) -> dict[str, Any]:
    day = chip["datetime"].date()
    caption = write_caption(labels, chip["sensor"], day, chip["lat"])
    dropped = chip["dropped"] or ("no labels" if labels.empty else "split: event" if torn else None)
    said = [_said(e, day) for e in labels.evidence] + [_said_by_event(v) for v in labels.verdicts]
    return {
        "chip_id": chip["chip_id"],
        "cell": chip["cell"],
        "block": _block(chip, region),
        "split": split,
        "label_mask": labels.label_mask,
        "known_mask": labels.known_mask,
        "labels": [{"name": n, "share": round(s, 6), "source": labels.sources[n]} for n, s in labels.shares.items()],
        "evidence": json.dumps(said, sort_keys=True),
        "caption_paper": caption.paper,
        "caption_rich": caption.rich,
        "template": caption.template,
        "events": labels.events,
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


def _said_by_event(verdict: Verdict) -> dict[str, Any]:
    """Why a crisis bit is what it is: share, extent, distance in metres, days since the event's first day."""
    touch = verdict.touch
    said = {"event": verdict.event.id, "kind": verdict.event.kind, "says": verdict.says, "days": verdict.days}
    far = touch.distance_m == float("inf")
    return said | {
        "share": round(touch.share, 6),
        "analysed": touch.analysed,
        "distance_m": None if far else round(touch.distance_m, 1),
    }


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
