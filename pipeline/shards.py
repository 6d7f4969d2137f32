"""Stage shards: pixels + captions -> WebDataset tars, their index, the `wids` lists, and what describes them: the
dataset card, Croissant, the samples as STAC items, and the sha256 of all.

Tables stay columns here: as Python rows, the chips of a country would take some GB.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from harmonize.problem import Problem
from harmonize.vocabulary import CLASSES, VOCABULARY_VERSION
from pipeline import card, croissant, stac_table, tables
from pipeline.contents import contents_of, licences
from pipeline.label_agreement import AGREEMENT
from pipeline.receipt import counted_as, digest
from pipeline.region import Region
from pipeline.sample import FORMAT_VERSION, SAID, SENSORS, SPLITS
from pipeline.splits import report_of
from pipeline.tars import PLACES, PLAN, RECEIPTS, Tar, TarReceipt, samples_per_tar, write_tar
from pipeline.verify_index import SUMS
from pipeline.work import Outcome, Work

if TYPE_CHECKING:
    import pyarrow as pa

CHIP = (
    "chip_id", "cell", "size_px", "epsg", "west", "south", "east", "north", "lon", "lat", "sensor", "source",
    "collection", "scene", "platform", "datetime", "orbit",
)  # fmt: skip
CAPTION = (
    "block", "split", "label_mask", "known_mask", "labels", "caption_paper", "caption_rich", "template", "events",
)  # fmt: skip
PIXEL = ("part", "row", "sha256")


def params(region: Region) -> dict[str, Any]:
    attributions = {name: region.source(name).attribution for name in region.used}
    attributions |= {event.id: event.attribution for event in region.events}
    return {
        **region.shards.model_dump(),
        "style": region.captions.style,
        "size_px": region.size_px,
        "licences": licences(region),
        "attributions": attributions,
        "events": [
            event.model_dump(mode="json", include={"id", "kind", "start", "effect_days"}) for event in region.events
        ],
    }


def pack_shards(work: Work) -> Outcome:
    """Tars of about `shard_mb` per split and sensor; samples in an order that a seeded hash of the chip_id decides."""
    samples, dropped = _samples(work)
    if not samples.num_rows:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items())) or "there is no chip"
        raise Problem(
            f"no chip is left to pack: {reasons}",
            where=f"{work.region.path}",
            fix="check max_nodata, max_cloud and whether the label sources cover the region",
        )
    work.begin()
    # Tars are replaced one by one: until they all are, no index may say that this folder is whole.
    work.store.remove("shards/shards.json")
    slices = plan_tars(samples, work.region)
    plan = digest([[name, samples["sha256"][first].as_py(), count] for name, first, count in slices])
    files = {PLAN: work.store.write(PLAN, json.dumps(plan).encode())}
    tars = (Tar(name, _rows(samples, first, count), plan) for name, first, count in slices)
    done = list(work.jobs(write_tar, tars, len(slices), "shards"))
    files |= {f"shards/{tar.url}": tar.sha256 for tar in done}
    for name in (f"{RECEIPTS}/{tar.url}.json" for tar in done):
        files[name] = hashlib.sha256(work.store.read(name)).hexdigest()
    work.store.sweep("shards", set(files))  # before shards.json is there: whoever takes all tars must find no other one
    files |= _write_index(work, samples, _index(samples, done), done)
    work.store.sweep(RECEIPTS, set(files))
    counts = Counter(zip(samples["sensor"].to_pylist(), samples["split"].to_pylist(), strict=True))
    notes = ["samples: " + ", ".join(f"{n} {sensor} {split}" for (sensor, split), n in sorted(counts.items()))]
    total = samples.num_rows + sum(dropped.values())
    return Outcome(total, files=files, kept=samples.num_rows, dropped=dropped, notes=notes)


def _samples(work: Work) -> tuple[pa.Table, Counter[str]]:
    """What goes into the tars, in order, with the columns of CHIP, CAPTION and PIXEL; and why other chips do not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chips = work.tables["chips"]
    table, reasons = chips.select(CHIP), [chips["dropped"]]
    for stage, columns in (("pixels", PIXEL), ("captions", CAPTION)):
        other = work.tables[stage]
        row = pc.index_in(chips["chip_id"], other["chip_id"])
        if row.null_count:
            raise AssertionError(f"{row.null_count} chips are not in {stage}")
        reasons.append(other["dropped"].take(row))
        for name in columns:
            table = table.append_column(other.schema.field(name), other[name].take(row))
    reason = pc.coalesce(*reasons)
    dropped = Counter(map(counted_as, reason.drop_null().to_pylist()))
    kept = table.filter(pc.is_null(reason))
    order = pa.array(_order(kept, work.region.shards.seed), pa.int64())  # of no type where nothing is kept
    return kept.take(order).combine_chunks(), dropped


def _order(table: pa.Table, seed: int) -> list[int]:
    """Rows by split, sensor, and a seeded hash of the chip_id."""

    def place(sample: tuple[int, str, str, str]) -> tuple[int, int, bytes, str]:
        _, split, sensor, name = sample
        return SPLITS.index(split), SENSORS.index(sensor), _key(seed, name), name

    columns = [table[name].to_pylist() for name in ("split", "sensor", "chip_id")]
    rows = zip(range(table.num_rows), *columns, strict=True)
    return [row[0] for row in sorted(rows, key=place)]


def _key(seed: int, chip_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{chip_id}".encode(), digest_size=8).digest()


FEW = 256
"""Samples of a tar from which on tars are ranges of the hash: those of fewer would differ too much in size."""


def plan_tars(samples: pa.Table, region: Region) -> list[tuple[str, int, int]]:
    """Name, first sample and number of samples of each tar; samples are in order.

    A tar holds a range of the hash, so that a new chip changes one tar, not all that come after it. Only where so many
    come that there is one tar more do all of that split and sensor change.
    """
    kinds = Counter(zip(samples["split"].to_pylist(), samples["sensor"].to_pylist(), strict=True))
    tars, first = [], 0
    for (split, sensor), count in kinds.items():  # in the order of the samples
        each = samples_per_tar(sensor, region.size_px, region.shards.quicklook, region.shards.shard_mb)
        starts = list(range(0, count, each))
        if each >= FEW:
            names = samples["chip_id"].slice(first, count).to_pylist()
            starts = _ranges([_key(region.shards.seed, name) for name in names], max(1, round(count / each)))
        sizes = (end - start for start, end in itertools.pairwise([*starts, count]))
        tars += [
            (f"{split}-{sensor}-{k:06d}.tar", first + start, size)
            for k, (start, size) in enumerate(zip(starts, sizes, strict=True))
        ]
        first += count
    return tars


def _ranges(keys: list[bytes], number: int) -> list[int]:
    """Where each of `number` equal ranges of 64-bit keys, which are in order, begins; ranges without a key are none."""
    starts = (bisect.bisect_left(keys, ((k << 64) // number).to_bytes(8, "big")) for k in range(number))
    return [start for start in dict.fromkeys(starts) if start < len(keys)]


def _rows(samples: pa.Table, first: int, count: int) -> pa.Table:
    """Some rows with buffers of their own: a slice would travel with those of the whole table."""
    return samples.take(list(range(first, first + count))).combine_chunks()


def _index(samples: pa.Table, tars: list[TarReceipt]) -> pa.Table:
    import pyarrow as pa

    columns = {name: samples[name] for name in tables.INDEX.names if name in samples.schema.names}
    columns["shard"] = pa.array([tar.url for tar in tars for _ in range(tar.nsamples)])
    for name in PLACES:
        columns[name] = pa.array([value for tar in tars for value in tar.places[name]], pa.int64())
    table = pa.table([columns[name] for name in tables.INDEX.names], names=tables.INDEX.names)
    return table.cast(tables.INDEX).combine_chunks()


def _wids(region: Region, split: str, sensor: str, tars: list[dict[str, Any]]) -> dict[str, Any]:
    """The shard-index layout of the `wids` package: tars beside this file."""
    keys = ("url", "nsamples", "bytes", "sha256")
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"{region.name}-{split}-{sensor}",
        "shardlist": [{**{key: tar[key] for key in keys}, "filesize": tar["bytes"]} for tar in tars],
    }


def _json(work: Work, name: str, value: Any) -> dict[str, str]:
    return {name: work.store.write_json(name, value)}


def _write_index(work: Work, samples: pa.Table, index: pa.Table, tars: list[TarReceipt]) -> dict[str, str]:
    """The `wids` lists, index.parquet, what describes them and, last, shards.json, which names them all."""
    region, name = work.region, "shards/index.parquet"
    shards: list[dict[str, Any]] = [
        {"url": t.url, "nsamples": t.nsamples, "bytes": t.bytes, "sha256": t.sha256, "split": split, "sensor": sensor}
        for t in tars
        for split, sensor, _ in [t.url.split("-")]
    ]
    files: dict[str, str] = {}
    for split, sensor in dict.fromkeys((s["split"], s["sensor"]) for s in shards):
        mine = [s for s in shards if (s["split"], s["sensor"]) == (split, sensor)]
        files |= _json(work, f"shards/{split}-{sensor}.json", _wids(region, split, sensor, mine))
    files[name] = tables.write_table(work.store, name, index, tables.INDEX)
    described = _describe(work, samples, index, shards)
    listed = {f"shards/{shard['url']}": shard["sha256"] for shard in shards} | files | described
    described[f"shards/{SUMS}"] = work.store.write(f"shards/{SUMS}", _sums(listed))
    about = {
        "format_version": FORMAT_VERSION,
        "region": region.name,
        "synthetic": bool(region.worlds),
        "size_px": region.size_px,
        "vocabulary": list(CLASSES),
        "vocabulary_version": VOCABULARY_VERSION,
        **SAID,
        "caption_style": region.captions.style,
        "quicklook": region.shards.quicklook,
        "licences": licences(region),
        "shards": shards,
        "index": {"file": "index.parquet", "sha256": files[name]},
        "described_by": {path.removeprefix("shards/"): sha256 for path, sha256 in described.items()},
    }
    return files | described | _json(work, "shards/shards.json", about)


def _sums(files: dict[str, str]) -> bytes:
    """SHA256SUMS as `sha256sum -c` reads it: all that lies beside it but shards.json, which is written after it and
    has its hash."""
    return "".join(f"{files[name]}  {name.removeprefix('shards/')}\n" for name in sorted(files)).encode()


def _describe(work: Work, samples: pa.Table, index: pa.Table, shards: list[dict[str, Any]]) -> dict[str, str]:
    """The card, the samples as STAC items with their collection, and croissant.json, which names the Parquet files."""
    import pyarrow.compute as pc
    import shapely

    chips = work.tables["chips"]
    geometry = chips["geometry"].take(pc.index_in(samples["chip_id"], chips["chip_id"])).combine_chunks()
    bounds = shapely.bounds(shapely.from_wkb(geometry.to_numpy(zero_copy_only=False)))
    contents = contents_of(work.region, samples, bounds, work.tables["labels"], shards)
    items = stac_table.items(contents, samples, index, geometry, bounds)
    files = {"shards/stac.parquet": work.store.write("shards/stac.parquet", items)}
    files |= _json(work, "shards/collection.json", stac_table.collection(contents))
    listed = {"stac.parquet": (len(items), files["shards/stac.parquet"])}
    index_bytes = work.store.read("shards/index.parquet")
    listed["index.parquet"] = (len(index_bytes), hashlib.sha256(index_bytes).hexdigest())
    files |= _json(work, "shards/croissant.json", croissant.describe(contents, listed))
    captions = work.tables["captions"]
    packed = captions.filter(pc.is_in(captions["chip_id"], samples["chip_id"].combine_chunks()))
    more = card.split_section(report_of(chips, packed, work.region))
    more += card.agreement_section(json.loads(work.store.read(AGREEMENT)))
    files["shards/README.md"] = work.store.write("shards/README.md", card.text(contents, more).encode())
    return files
