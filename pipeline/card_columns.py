"""The columns of the samples as Hugging Face `datasets` types them: `dataset_info` in the head of the dataset card.

Without it `datasets` guesses each column from the first five samples: where none of them has an event, the list of
event ids has no type, and the first event behind them stops the run ("Couldn't cast array of type string to null").
The form is what `Features._to_yaml_list` writes (https://huggingface.co/docs/datasets/about_dataset_features).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pipeline import tables
from pipeline.contents import Contents
from pipeline.sample import DTYPE, GROUPS, SPLITS, group_shape
from pipeline.tars import RECORD_OF_CAPTION, RECORD_OF_CHIP

if TYPE_CHECKING:
    import pyarrow as pa

HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def dataset_info(contents: Contents) -> list[str]:
    """Lines of YAML: columns, and samples and bytes per split, of each sensor. `datasets` compares the counts.

    It finds its Arrow copy of a folder again by these lines and those of `configs` alone, whatever the tars hold: so
    they carry a hash of the tars, or a rebuilt folder of equal sizes would be read as it was.
    """
    lines = ["dataset_info:"]
    for sensor in contents.sensors:
        tars = [shard for shard in contents.shards if shard["sensor"] == sensor]
        digest = hashlib.sha256("".join(tar["sha256"] for tar in tars).encode()).hexdigest()
        lines += [f"- config_name: {sensor}", f"  description: sha256 of the tars' sha256 {digest}", "  features:"]
        lines += [f"  {line}" for line in _columns(contents, sensor)]
        lines += ["  splits:"]
        for split in SPLITS:
            if samples := contents.samples[split, sensor]:
                size = sum(tar["bytes"] for tar in tars if tar["split"] == split)
                lines += [f"  - name: {HUB_SPLITS[split]}", f"    num_bytes: {size}", f"    num_examples: {samples}"]
    return lines


def _columns(contents: Contents, sensor: str) -> list[str]:
    lines = []
    for group in GROUPS[sensor]:
        shape = ", ".join(map(str, group_shape(group, contents.region.size_px)))
        lines += [f"- name: {group.name}.npy", "  dtype:", "    array3_d:", f"      shape: [{shape}]"]
        lines += [f"      dtype: {DTYPE[sensor]}"]
    lines += ["- name: txt", "  dtype: string"]
    lines += ["- name: json", "  struct:", *(f"  {line}" for line in _record())]
    if contents.region.shards.quicklook:
        lines += ["- name: jpg", "  dtype: image"]
    return [*lines, "- name: __key__", "  dtype: string", "- name: __url__", "  dtype: string"]


def _record() -> list[str]:
    """The fields of the `.json` member (pipeline.tars.record_of): of its tables, and those written there otherwise."""
    import pyarrow as pa

    text = pa.string()
    record = {name: tables.CHIPS.field(name).type for name in RECORD_OF_CHIP}
    record |= {name: tables.CAPTIONS.field(name).type for name in RECORD_OF_CAPTION}
    record |= {"datetime": text, "bounds": pa.list_(pa.float64()), "licence": text}
    record |= {"captions": pa.struct([("paper", text), ("rich", text)])}
    return [line for name in sorted(record) for line in _typed(name, record[name])]


def _typed(name: str, kind: pa.DataType) -> list[str]:
    """A field: plain, list or struct, or a list of structs."""
    import pyarrow as pa

    many = pa.types.is_list(kind)
    one = kind.value_type if many else kind
    if pa.types.is_struct(one):
        inner = [line for field in one for line in _typed(field.name, field.type)]
        return [f"- name: {name}", f"  {'list' if many else 'struct'}:", *(f"  {line}" for line in inner)]
    known = {pa.string(): "string", pa.float64(): "float64", pa.int32(): "int32", pa.int64(): "int64"}
    return [f"- name: {name}", f"  {'list' if many else 'dtype'}: {known[one]}"]
