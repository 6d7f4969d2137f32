"""Small synthetic shards with a known answer: each class shifts its own band. Only for tests of the trainer."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np

from harmonize.captions import paper_text
from harmonize.vocabulary import ALL_MASK, CLASSES, mask_of
from pipeline import sample as contract
from pipeline import tables

KINDS = (("water",), ("crops",), ("built", "crops"), ("trees",), ("trees", "water"))


def write_fake_shards(
    folder: Path,
    counts: dict[tuple[str, str], int],
    size_px: int = 12,
    region: str = "fake",
    seed: int = 0,
    first_col: int = 0,
    synthetic: bool = False,
) -> Path:
    """Shards of `counts[split, sensor]` synthetic samples; the folder. Sample k has the share (k % 9 + 1) / 10 of each
    of its classes, as its record says."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, shards = [], []
    column = first_col
    for (split, sensor), count in counts.items():
        name = f"{split}-{sensor}-000000.tar"
        made = []
        for k in range(count):
            made.append(_sample(column, k, split, sensor, size_px, seed))
            column += 1
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row, members in made:
                for suffix, data in members.items():
                    info = tarfile.TarInfo(f"{row['chip_id']}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        with tarfile.open(folder / name) as tar:
            places = {m.name: (m.offset_data, m.size) for m in tar}
        for row, _ in made:
            for group in ("10m", "20m", "60m"):
                found = places.get(f"{row['chip_id']}.{group}.npy", (None, None))
                row |= {f"offset_{group}": found[0], f"length_{group}": found[1], "shard": name}
            rows.append({key: row[key] for key in tables.INDEX.names})
        data = (folder / name).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        shards.append(
            {"url": name, "split": split, "sensor": sensor, "nsamples": count, "sha256": sha256, "bytes": len(data)}
        )
    index = tables.parquet_bytes(tables.table_of(rows, tables.INDEX))
    (folder / "index.parquet").write_bytes(index)
    about = {
        "format_version": contract.FORMAT_VERSION,
        "region": region,
        "size_px": size_px,
        **({"synthetic": True} if synthetic else {}),
        "vocabulary": list(CLASSES),
        "vocabulary_version": 1,
        **contract.SAID,
        "shards": shards,
        "index": {"file": "index.parquet", "sha256": hashlib.sha256(index).hexdigest()},
    }
    (folder / "shards.json").write_text(json.dumps(about))
    return folder


def _sample(column: int, k: int, split: str, sensor: str, size_px: int, seed: int) -> tuple[dict, dict[str, bytes]]:
    draw = np.random.default_rng([seed, column])
    names = KINDS[k % len(KINDS)]
    label = mask_of(names)
    arrays = {}
    for group in contract.GROUPS[sensor]:
        shape = contract.group_shape(group, size_px)
        level = np.array([(label >> (b % 9) & 1) for b in range(shape[0])])[:, None, None]
        if sensor == "s2":
            level = np.array([float(label >> b & 1) for b in (0, 1, 4, 6, 0, 1)[: shape[0]]])[:, None, None]
            arrays[group.name] = (800 + 1500 * level + draw.normal(0, 60, shape)).astype(np.uint16)
        else:
            level = np.array([label & 1, (label >> 4 & 1) * 2 - (label >> 1 & 1)], float)[:, None, None]
            arrays[group.name] = (-15 - 6 * level + draw.normal(0, 0.7, shape)).astype(np.float16)
    when = dt.datetime(2020, 1 + k % 12, 1, tzinfo=dt.UTC)
    cell = f"p{size_px}_32632_{column}_4000"
    row = {
        "chip_id": f"{cell}_{sensor}_{when:%Y%m%dt%H%M%S}",
        "cell": cell,
        "block": f"32632_b12_{column // 4}_0",
        "sensor": sensor,
        "scene": f"scene-{k % 3}",
        "platform": "sentinel-2a" if sensor == "s2" else "sentinel-1a",
        "datetime": when,
        "orbit": None,
        "split": split,
        "size_px": size_px,
        "label_mask": label,
        "known_mask": ALL_MASK,
        "caption_paper": paper_text(list(names)),
        "caption_rich": f"An image with {' and '.join(names)}.",
        "events": [],
        "lon": 9 + 0.01 * column,
        "lat": 45.0,
        "sha256": contract.arrays_sha256(list(arrays.values())),
    }
    members = {f"{name}.npy": contract.to_npy(array) for name, array in arrays.items()}
    record = {"labels": [{"name": name, "share": (k % 9 + 1) / 10, "source": "fake"} for name in names]}
    return row, members | {"txt": row["caption_paper"].encode(), "json": json.dumps(record).encode()}
