"""The dataset card beside the shards (README.md): what is inside, from where, under which licences, how to load it.

Its head is the YAML that the Hugging Face Hub reads (https://huggingface.co/docs/hub/datasets-cards).
"""

from __future__ import annotations

from typing import Any

from harmonize.problem import printable
from harmonize.split_report import leakage_lines
from harmonize.vocabulary import CLASSES
from pipeline.card_columns import HUB_SPLITS, dataset_info
from pipeline.contents import Contents
from pipeline.licences import terms_of
from pipeline.limits import limits
from pipeline.sample import GROUPS, SPLITS, UNIT
from pipeline.sandbox import SYNTHETIC

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
"""Borders of the Hub's size categories."""


def text(contents: Contents, more: list[str] | None = None) -> str:
    """Markdown of the card; `more` are lines that stand before the known limits: reports on splits and sources."""
    region = contents.region
    size = sum(shard["bytes"] for shard in contents.shards) / 1e6
    parts = [
        *_front_matter(contents),
        f"# {region.name}",
        "",
        *([f"**{SYNTHETIC}**", ""] if region.worlds else []),
        f"{contents.rows} Sentinel-1/2 chips of {region.size_px * 10 / 1000:g} km "
        f"({region.size_px} px at 10 m) in {len(contents.shards)} WebDataset tars, {size:.1f} MB, "
        f"taken from {contents.first:%Y-%m-%d} to {contents.last:%Y-%m-%d}: {contents.distinct['cell']} cells of "
        f"{contents.distinct['scene']} scenes.",
        "",
        "S2: uint16 reflectance x 10000, baseline offset removed, 0 = nodata. S1: gamma0 in dB, float16, NaN = nodata.",
        "Bands stay at their native resolution.",
        "",
        *_files(contents),
        *_load(contents),
        "## Samples",
        "",
        *_table(["split", *contents.sensors], _samples(contents)),
        "",
        "## Classes",
        "",
        "Samples that have a class, and samples of which nobody knows whether they have it.",
        "",
        *_table(["class", *SPLITS, "unknown"], _classes(contents)),
        "",
        *_events(contents),
        *_sources(contents),
        *(more or []),
        "## Known limits",
        "",
        *(f"- {_cell(limit)}" for limit in limits(contents)),
        "",
    ]
    return "\n".join(parts)


def split_section(report: dict[str, Any]) -> list[str]:
    """How the split came out (harmonize.split_report): what of train can be seen in val and test."""
    return ["## Split", "", *(f"- {line}" for line in leakage_lines(report)), ""] if leakage_lines(report) else []


def agreement_section(agreed: list[dict[str, Any]]) -> list[str]:
    """Label sources against each other, as agreement.json has it: a table for every two that some cell has both of."""
    lines = []
    for found in agreed:
        if not found["cells"]:
            continue
        a, b = found["sources"]
        rows = [
            [name, f"{c['share_a']:.1%}", f"{c['share_b']:.1%}", c["both"], c["only_a"], c["only_b"], _two(c["iou"])]
            for name, c in found["classes"].items()
        ]
        head = ["class", f"share by {a}", f"share by {b}", "cells: both", f"only {a}", f"only {b}", "IoU of shares"]
        lines += [
            f"{a} and {b} can say the same of {found['at_least']:.0%} to {found['at_most']:.0%} of the area of "
            f"{found['cells']} cells, and see most of the same class in {found['same_dominant']:.0%} of them.",
            "",
            *_table(head, rows),
            "",
        ]
    return ["## Agreement of label sources", "", *lines] if lines else []


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _front_matter(contents: Contents) -> list[str]:
    one = contents.roll_up.one
    licence = (one.hugging_face if one else "") or "other"
    named = ["license_name: see-sources-and-licences"] if licence == "other" else []
    lines = ["---", f"pretty_name: {contents.region.name}", f"license: {licence}", *named, "language:", "- en"]
    lines += ["task_categories:", "- image-classification", "- zero-shot-image-classification", "- image-to-text"]
    lines += ["tags:", "- earth-observation", "- sentinel-1", "- sentinel-2", "- webdataset"]
    lines += ["- synthetic"] if contents.region.worlds else []
    lines += ["size_categories:", f"- {_size(contents.rows)}", "configs:"]
    for sensor in contents.sensors:
        lines += [f"- config_name: {sensor}", "  data_files:"]
        for split in SPLITS:
            if contents.samples[split, sensor]:
                lines += [f"  - split: {HUB_SPLITS[split]}", f"    path: {split}-{sensor}-*.tar"]
    return [*lines, *dataset_info(contents), "---", ""]


def _size(rows: int) -> str:
    """The Hub's category, such as `1K<n<10K`."""
    low = max((size for size in SIZES if size <= rows), default=0)
    high = min((size for size in SIZES if size > rows), default=0)
    if not low:
        return f"n<{_short(high)}"
    return f"{_short(low)}<n<{_short(high)}" if high else f"n>{_short(low)}"


def _short(number: int) -> str:
    return f"{number // 1_000_000}M" if number >= 1_000_000 else f"{number // 1_000}K"


def _files(contents: Contents) -> list[str]:
    look = ", `jpg` (quick look)" if contents.region.shards.quicklook else ""
    arrays = {sensor: " ".join(f"`{g.name}.npy`" for g in GROUPS[sensor]) for sensor in contents.sensors}
    members = "; ".join(f"{sensor}: {names} ({UNIT[sensor]})" for sensor, names in arrays.items())
    rows = [
        ["`<split>-<sensor>-<n>.tar`", f"samples: {members}; `txt` (caption), `json` (labels, place, time){look}"],
        ["`shards.json`", "all tars with their sha256; bands, units and classes by bit"],
        ["`index.parquet`", "a row per sample: place of its arrays in the tar, labels, captions, split, place, time"],
        ["`stac.parquet`, `collection.json`", "the samples as STAC items (stac-geoparquet), and their collection"],
        ["`croissant.json`", "Croissant with GeoCroissant fields"],
        ["`SHA256SUMS`", "the sha256 of each file but `shards.json`: `sha256sum -c SHA256SUMS`"],
        ["`<split>-<sensor>.json`", "lists of tars for `wids` (`cache_dir` = this folder: it then copies no tar)"],
    ]
    return ["## Files", "", *_table(["file", "holds"], rows), ""]


def _load(contents: Contents) -> list[str]:
    """A few lines that run in the folder of the card."""
    shard = contents.shards[0]
    return [
        "## Load",
        "",
        "```python",
        "import pyarrow.parquet as pq",
        "import webdataset",
        "",
        f'samples = webdataset.WebDataset("{shard["url"]}", shardshuffle=False).decode("pil")',
        "sample = next(iter(samples))",
        'print(sample["__key__"], sample["10m.npy"].shape, sample["txt"], sample["json"]["label_mask"])',
        'print(pq.read_table("index.parquet").num_rows)',
        "```",
        "",
        f'Hugging Face: `datasets.load_dataset("<this folder>", "{shard["sensor"]}")`; the head types the columns.',
        "",
    ]


def _cell(value: Any) -> str:
    """A value in a table: names and licences come from others, and are shown as they are written, never as HTML."""
    return printable(value).replace("<", "&lt;").replace("|", "\\|")


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in [head, *rows]]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def _samples(contents: Contents) -> list[list[Any]]:
    return [[split, *(contents.samples[split, sensor] for sensor in contents.sensors)] for split in SPLITS]


def _classes(contents: Contents) -> list[list[Any]]:
    return [[name, *(contents.classes[name, split] for split in SPLITS), contents.unknown[name]] for name in CLASSES]


def _events(contents: Contents) -> list[str]:
    """The section on crisis events, with the samples that bear each one's label."""
    if not contents.region.events:
        return []
    rows = [
        [e.id, e.kind, e.start or "as its file says", e.effect_days, contents.with_event(e.id)]
        for e in contents.region.events
    ]
    return ["## Events", "", *_table(["event", "kind", "first day", "days of effect", "samples"], rows), ""]


def _sources(contents: Contents) -> list[str]:
    """Licences one by one, what they ask for together, and the sentences to put beside what is made of this."""
    region = contents.region
    kinds = {name: region.source(name).kind for name in region.used} | {e.id: "event" for e in region.events}
    rows = [[name, kinds[name], _licence(licence)] for name, licence in contents.licences.items()]
    credits_ = {text: None for text in contents.attributions.values() if text}
    lines = ["## Sources and licences", "", *_table(["source", "kind", "licence"], rows), "", *_together(contents), ""]
    if credits_:
        lines += [
            "Put these sentences beside what is made of these samples:",
            "",
            *(f"- {_cell(text)}" for text in credits_),
            "",
        ]
    if silent := [name for name, text in contents.attributions.items() if not text and not _free(contents, name)]:
        lines += [f"No sentence is known for {', '.join(silent)}: name them as their licence asks.", ""]
    return lines


def _free(contents: Contents, name: str) -> bool:
    """Whether a source's licence asks for nothing."""
    return terms_of(contents.licences[name]).conditions == ()


def _licence(licence: str) -> str:
    url = terms_of(licence).url
    return f"[{licence}]({url})" if url else licence


def _together(contents: Contents) -> list[str]:
    told = contents.roll_up
    lines = []
    if told.strictest:
        asked = ", ".join(told.conditions) or "nothing"
        lines.append(f"Together the known licences ask for: {asked}. The strictest of them is {_cell(told.strictest)}.")
    if told.clash:
        lines.append(f"{' and '.join(told.clash)} each want the whole under themselves: ask before publishing.")
    if told.unknown:
        lines.append(
            f"**Unknown licence: {_cell(', '.join(told.unknown))}.** Find out before publishing these samples."
        )
    return lines
