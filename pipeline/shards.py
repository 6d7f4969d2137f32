"""Stage shards: pixels + captions -> WebDataset tars, their index, the `wids` lists and the dataset card."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES, VOCABULARY_VERSION
from pipeline import card, tables
from pipeline.pixels import read_chip
from pipeline.region import Region
from pipeline.sample import (
    DTYPE,
    FORMAT_VERSION,
    GROUPS,
    SENSORS,
    SPLITS,
    UNIT,
    arrays_sha256,
    quicklook_jpeg,
    to_npy,
)
from pipeline.store import file_sha256
from pipeline.work import Outcome, Work

VERSION = 1


def params(region: Region) -> dict[str, Any]:
    licences = {name: region.source(name).licence for name in region.used}
    licences |= {event.id: event.licence for event in region.events}
    return {
        **region.shards.model_dump(),
        "style": region.captions.style,
        "size_px": region.size_px,
        "licences": licences,
        "events": [
            event.model_dump(mode="json", include={"id", "kind", "start", "effect_days"}) for event in region.events
        ],
    }


def pack_shards(work: Work) -> Outcome:
    """Tars of about `shard_mb` per split and sensor; samples in an order that a seeded hash of the chip_id decides."""
    samples, dropped = _samples(work)
    if not samples:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items())) or "there is no chip"
        raise Problem(
            f"no chip is left to pack: {reasons}",
            where=f"{work.region.path}",
            fix="check max_nodata, max_cloud and whether the label sources cover the region",
        )
    # Tars are replaced one by one: until they all are, no index may say that this folder is whole.
    work.store.remove("shards/shards.json")
    files: dict[str, str] = {}
    lists: dict[tuple[str, str], list[dict[str, Any]]] = {}
    index: list[dict[str, Any]] = []
    stream = iter(work.track(samples, len(samples), "shards"))
    for (split, sensor), members in _by_kind(samples).items():
        tars = _write_tars(work, f"{split}-{sensor}", (next(stream) for _ in members), index)
        lists[split, sensor] = tars
        files |= {f"shards/{tar['url']}": tar["sha256"] for tar in tars}
        files |= _json(work, f"shards/{split}-{sensor}.json", _wids(work.region, split, sensor, tars))
    files |= _write_index(work, index, lists)
    work.store.sweep("shards", set(files))
    counts = Counter((s["chip"]["sensor"], s["caption"]["split"]) for s in samples)
    notes = ["samples: " + ", ".join(f"{n} {sensor} {split}" for (sensor, split), n in sorted(counts.items()))]
    total = len(samples) + sum(dropped.values())
    return Outcome(total, files=files, kept=len(samples), dropped=dropped, notes=notes)


def _samples(work: Work) -> tuple[list[dict[str, Any]], Counter[str]]:
    """What goes into the tars, in order, and why the other chips do not."""
    captions = {row["chip_id"]: row for row in work.rows("captions")}
    pixels = {row["chip_id"]: row for row in work.rows("pixels")}
    dropped: Counter[str] = Counter()
    samples = []
    for chip in work.rows("chips"):
        caption, pixel = captions[chip["chip_id"]], pixels[chip["chip_id"]]
        reason = chip["dropped"] or pixel["dropped"] or caption["dropped"]
        if reason:
            dropped[reason.split(":")[0]] += 1
        else:
            samples.append({"chip": chip, "caption": caption, "pixel": pixel})
    seed = work.region.shards.seed

    def place(sample: dict[str, Any]) -> tuple[int, int, bytes, str]:
        name = sample["chip"]["chip_id"]
        key = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
        return SPLITS.index(sample["caption"]["split"]), SENSORS.index(sample["chip"]["sensor"]), key, name

    return sorted(samples, key=place), dropped


def _by_kind(samples: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for sample in samples:
        kinds.setdefault((sample["caption"]["split"], sample["chip"]["sensor"]), []).append(sample)
    return kinds


def _write_tars(
    work: Work, stem: str, samples: Iterator[dict[str, Any]], index: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Fill tar after tar; a tar is closed with the sample that takes it to `shard_mb`."""
    tars: list[dict[str, Any]] = []
    limit = work.region.shards.shard_mb * 1e6
    sample = next(samples, None)
    while sample is not None:
        name = f"{stem}-{len(tars):06d}.tar"
        draft = work.store.draft(f"shards/{name}")
        written: list[dict[str, Any]] = []
        with draft.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                while sample is not None and (not written or tar.offset < limit):
                    for member, data in members_of(sample, work):
                        _add(tar, member, data)
                    written.append(sample)
                    sample = next(samples, None)
            file.flush()
            os.fsync(file.fileno())
        index += _index_rows(draft, name, written)
        size, sha256 = draft.stat().st_size, file_sha256(draft)
        work.store.adopt(draft, f"shards/{name}")
        tars.append({"url": name, "nsamples": len(written), "bytes": size, "sha256": sha256})
    return tars


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member whose header holds nothing but its name and size, so that a rebuilt tar has the same bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, 0o644
    tar.addfile(info, io.BytesIO(data))


def members_of(sample: dict[str, Any], work: Work) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each member of a sample, in the order of DESIGN §5."""
    chip, caption, pixel = sample["chip"], sample["caption"], sample["pixel"]
    key, sensor = chip["chip_id"], chip["sensor"]
    arrays = read_chip(work.store, pixel["part"], pixel["row"], sensor, chip["size_px"])
    if arrays_sha256([arrays[g.name] for g in GROUPS[sensor]]) != pixel["sha256"]:
        raise Problem(
            f"the stored pixels of {key} are damaged", where=pixel["part"], fix="make redo STAGE=pixels", code=4
        )
    for group in GROUPS[sensor]:
        yield f"{key}.{group.name}.npy", to_npy(arrays[group.name])
    yield f"{key}.txt", caption[f"caption_{work.region.captions.style}"].encode()
    yield f"{key}.json", (json.dumps(record_of(chip, caption, work.region), sort_keys=True) + "\n").encode()
    if work.region.shards.quicklook:
        yield f"{key}.jpg", quicklook_jpeg(arrays, sensor)


def record_of(chip: dict[str, Any], caption: dict[str, Any], region: Region) -> dict[str, Any]:
    """The `.json` member: what is known of a sample besides its pixels."""
    keys = ("chip_id", "cell", "sensor", "scene", "collection", "platform", "orbit", "epsg", "lon", "lat")
    sources = [chip["source"], *sorted({label["source"] for label in caption["labels"]})]
    licences = {event.id: event.licence for event in region.events}
    return {
        **{key: chip[key] for key in keys},
        **{key: caption[key] for key in ("block", "labels", "label_mask", "known_mask", "events", "split", "template")},
        "datetime": f"{chip['datetime']:%Y-%m-%dT%H:%M:%SZ}",
        "bounds": [chip[side] for side in ("west", "south", "east", "north")],
        "captions": {"paper": caption["caption_paper"], "rich": caption["caption_rich"]},
        "licence": "; ".join(dict.fromkeys(licences.get(s) or region.source(s).licence for s in sources)),
    }


def _index_rows(draft: Any, name: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Index rows of a finished tar, with offsets read back from it."""
    with tarfile.open(draft, "r:") as tar:
        places = {member.name: (member.offset_data, member.size) for member in tar}
    rows = []
    for sample in samples:
        chip, caption = sample["chip"], sample["caption"]
        row = {k: chip[k] for k in ("chip_id", "cell", "sensor", "scene", "platform", "datetime", "orbit", "size_px")}
        row |= {k: caption[k] for k in ("block", "split", "label_mask", "known_mask", "events")}
        row |= {k: caption[k] for k in ("caption_paper", "caption_rich")} | {"lon": chip["lon"], "lat": chip["lat"]}
        for group in ("10m", "20m", "60m"):
            offset, length = places.get(f"{chip['chip_id']}.{group}.npy", (None, None))
            row |= {f"offset_{group}": offset, f"length_{group}": length}
        rows.append(row | {"shard": name, "sha256": sample["pixel"]["sha256"]})
    return rows


def _wids(region: Region, split: str, sensor: str, tars: list[dict[str, Any]]) -> dict[str, Any]:
    """The shard-index layout of the `wids` package: tars beside this file."""
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"{region.name}-{split}-{sensor}",
        "shardlist": [{**tar, "filesize": tar["bytes"]} for tar in tars],
    }


def _json(work: Work, name: str, value: Any) -> dict[str, str]:
    return {name: work.store.write(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())}


def _write_index(
    work: Work, index: list[dict[str, Any]], lists: dict[tuple[str, str], list[dict[str, Any]]]
) -> dict[str, str]:
    """index.parquet, README.md and, last, shards.json, which names them all."""
    region, name = work.region, "shards/index.parquet"
    table = tables.table_of([{k: row[k] for k in tables.INDEX.names} for row in index], tables.INDEX)
    files = {name: tables.write_table(work.store, name, table, tables.INDEX)}
    shards = [{**tar, "split": split, "sensor": sensor} for (split, sensor), tars in lists.items() for tar in tars]
    about = {
        "format_version": FORMAT_VERSION,
        "region": region.name,
        "size_px": region.size_px,
        "vocabulary": list(CLASSES),
        "vocabulary_version": VOCABULARY_VERSION,
        "bands": {sensor: {g.name: list(g.bands) for g in GROUPS[sensor]} for sensor in SENSORS},
        "dtype": DTYPE,
        "unit": UNIT,
        "caption_style": region.captions.style,
        "shards": shards,
        "index": {"file": "index.parquet", "sha256": files[name]},
    }
    files["shards/README.md"] = work.store.write("shards/README.md", card.text(region, index, shards).encode())
    return files | _json(work, "shards/shards.json", about)
