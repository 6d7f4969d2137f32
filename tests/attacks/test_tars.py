"""Shards made by others: what verify says of their tars, and what the reader refuses."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from attack_limits import MEGABYTES, bounded, refused
from fake_shards import write_fake_shards

from pipeline.verify import target_of, verify
from train.reader import Reader
from train.shards import open_shards

Members = list[tuple[tarfile.TarInfo, bytes]]


class Boom:
    """Unpickled, it would leave a file in the test's own folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_fake_shards(tmp_path / "shards", {("train", "s2"): 4})


def rewritten(shards: Path, change: Callable[[Members], Members]) -> None:
    """The tar with other members, and all hashes and sizes right: only what is in it is wrong."""
    path = shards / "train-s2-000000.tar"
    with tarfile.open(path) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in change(members):
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    settled(shards)


def settled(shards: Path, changes: dict[str, Any] | None = None) -> None:
    """shards.json says what lies there; `changes` are of the first tar or, where it has no such key, of all."""
    about = json.loads((shards / "shards.json").read_text())
    one = about["shards"][0]
    data = (shards / "train-s2-000000.tar").read_bytes()
    one |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    about["index"]["sha256"] = hashlib.sha256((shards / "index.parquet").read_bytes()).hexdigest()
    for key, value in (changes or {}).items():
        (one if key in one else about)[key] = value
    (shards / "shards.json").write_text(json.dumps(about))


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def found(shards: Path, *words: str) -> None:
    """Verify ends, soon, with a finding that says these words."""
    with bounded():
        said = " | ".join(f.what for f in verify(target_of(str(shards), ""), share=1, quiet=True).findings)
    for word in words:
        assert word in said, said


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pyd", "pt", "pth", "joblib"])
def test_a_pickle_in_a_tar(shards: Path, tmp_path: Path, suffix: str) -> None:
    """Found by verify, and not opened by the reader, which takes arrays alone."""
    data = pickle.dumps(Boom(tmp_path / "boom"))
    rewritten(shards, lambda old: [*old, member(f"{old[0][0].name.partition('.')[0]}.{suffix}", data)])
    found(shards, "is a pickle: it could run code where it is read")
    samples = open_shards([shards])
    Reader(samples).read(samples)
    assert not (tmp_path / "boom").exists()
    pickle.loads(data)  # noqa: S301
    assert (tmp_path / "boom").exists(), "the pickle is a working one"


@pytest.mark.parametrize("name", ["../../evil.txt", "/etc/evil.txt", "..\\evil.txt", "a/../../b.txt"])
def test_a_member_s_name_that_leads_elsewhere(shards: Path, name: str) -> None:
    rewritten(shards, lambda old: [*old, member(name, b"x")])
    found(shards, "a member's name leads elsewhere")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_file(shards: Path, kind: bytes) -> None:
    rewritten(shards, lambda old: [*old, member("x.txt", kind=kind, link="/etc/passwd")])
    found(shards, "x.txt is no plain file")


def test_a_key_that_stands_twice(shards: Path) -> None:
    rewritten(shards, lambda old: old + old[:5])
    found(shards, "its key stands twice in the tar")


@pytest.mark.parametrize("size", [b"-0000001000", b"77777777777", b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"])
def test_a_size_that_leads_backwards_or_beyond(shards: Path, size: bytes) -> None:
    """A walk that believes it never ends, or ends elsewhere."""
    path = shards / "train-s2-000000.tar"
    data = bytearray(path.read_bytes())
    data[124:135] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(bytes(data))
    settled(shards)
    found(shards, "of the index's 4 samples are not reached")


def npy(header: str) -> bytes:
    text = header.encode() + b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


HEADERS = {
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (4, 12, 12), }",
    "Fortran order": "{'descr': '<u2', 'fortran_order': True, 'shape': (4, 12, 12), }",
    "a billion rows": "{'descr': '<u2', 'fortran_order': False, 'shape': (1000000000000, 12, 12), }",
    "more than int64": f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({10**300}, 12, 12), }}",
    "a record": "{'descr': [('a', '<u2'), ('b', '|O')], 'fortran_order': False, 'shape': (4, 12, 12), }",
    "a deep one": "-" * 3500 + "1",
    "brackets": "(" * 3500,
    "a call": "__import__('os').mkdir('boom')",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_an_array_that_is_another(shards: Path, kind: str) -> None:
    """Both verify and the reader."""
    header = npy(HEADERS[kind])
    where = pq.read_table(shards / "index.parquet").sort_by("chip_id").slice(0, 1).to_pylist()[0]
    path = shards / "train-s2-000000.tar"
    data = bytearray(path.read_bytes())
    at = where["offset_10m"]
    header = header[: where["length_10m"]] if kind in ("a deep one", "brackets") else header
    if len(header) > where["length_10m"]:
        raise AssertionError("the header must fit into the member")
    data[at : at + len(header)] = header
    path.write_bytes(bytes(data))
    settled(shards)
    found(shards, "10m.npy")
    samples = open_shards([shards])
    refused(lambda: Reader(samples).read(samples.where(np.array([0]))), where["chip_id"], code=4)


def jpeg(width: int, height: int) -> bytes:
    """A JPEG's head that claims this size (ITU T.81, B.2.2)."""
    frame = b"\xff\xc0\x00\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8" + frame + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01" + b"\xff\xd9"


@pytest.mark.parametrize("side", [9000, 65535])
def test_a_quick_look_that_claims_gigabytes(shards: Path, side: int) -> None:
    """Of 9,000 pixels Pillow only warns, of 65,535 it raises what is no OSError."""

    def with_looks(old: Members) -> Members:
        return [*old[:5], member(f"{old[0][0].name.partition('.')[0]}.jpg", jpeg(side, side)), *old[5:]]

    rewritten(shards, with_looks)
    found(shards, "the quick look")


def test_a_caption_of_gigabytes(shards: Path) -> None:
    """Its data are zeros that no disk holds: a sparse file. None of it is taken into memory."""
    path = shards / "train-s2-000000.tar"
    info = tarfile.TarInfo("x.txt")
    info.size = 1 << 28
    with path.open("r+b") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(512 + info.size + 1024)
    about = json.loads((shards / "shards.json").read_text())
    about["shards"][0]["bytes"] = path.stat().st_size
    (shards / "shards.json").write_text(json.dumps(about))
    found(shards, "the tar has it, the index does not")


def test_an_index_that_claims_a_thousand_million_rows(shards: Path) -> None:
    """Equal values pack into a few bytes, whatever their number: they are counted before they are unpacked."""
    path = shards / "index.parquet"
    table = pq.read_table(path)
    before = path.stat().st_size
    row = table.slice(0, 1)
    batch = pa.concat_tables([row] * 1000).combine_chunks()
    with pq.ParquetWriter(path, table.schema, compression="zstd") as out:
        for _ in range(30):
            out.write_table(pa.concat_tables([batch] * 10).combine_chunks())
    assert pq.ParquetFile(path).metadata.num_rows == 300_000
    assert path.stat().st_size < 30 * before
    settled(shards)
    refused(lambda: open_shards([shards]), "its 300000 rows are more than tars", code=4)


def test_an_index_whose_footer_claims_more_than_it_has(shards: Path) -> None:
    """1e12 rows in the footer alone; shards.json says the same."""
    path = shards / "index.parquet"
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8]
    # FileMetaData.num_rows is field 3, an i64 as a zigzag varint; after the schema's list (thrift compact protocol).
    at = footer.rindex(b"\x16\x08\x19")
    many = bytes(_varint(2 * 10**12))
    changed = footer[: at + 1] + many + footer[at + 2 :]
    path.write_bytes(data[: -8 - size] + changed + len(changed).to_bytes(4, "little") + b"PAR1")
    assert pq.ParquetFile(path).metadata.num_rows == 10**12
    settled(shards)
    refused(lambda: open_shards([shards]), "its 1000000000000 rows are more than tars", code=4)
    settled(shards, {"nsamples": 10**12})
    refused(lambda: open_shards([shards]), "its list of tars is damaged", code=4)


def _varint(number: int) -> list[int]:
    low, rest = number & 127, number >> 7
    return [low | 128, *_varint(rest)] if rest else [low]


ABOUT: dict[str, dict[str, Any]] = {
    "a region that is a path": {"region": "../../x"},
    "a region with a line break": {"region": "a\nb"},
    "an index elsewhere": {"index": {"file": "../../index.parquet", "sha256": "0" * 64}},
    "no index": {"index": []},
    "a tar elsewhere": {"url": "../train-s2-000000.tar"},
    "an absolute tar": {"url": "/etc/passwd"},
    "tars that are no list": {"shards": {"a": 1}},
    "chips of any size": {"size_px": 10**30},
    "more bytes than int64": {"bytes": 10**400, "nsamples": 10**399},
}


@pytest.mark.parametrize("kind", ABOUT)
def test_a_shards_json_that_lies(shards: Path, kind: str) -> None:
    settled(shards, ABOUT[kind])
    refused(lambda: open_shards([shards]), "shards", code=4)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 10_000])
def test_a_shards_json_that_is_deep(shards: Path, text: str) -> None:
    (shards / "shards.json").write_text(text)
    refused(lambda: open_shards([shards]), "shards.json is damaged", code=4)
    found(shards, "it is damaged")


def test_places_beyond_int64_and_beyond_the_tar(shards: Path) -> None:
    path = shards / "index.parquet"
    table = pq.read_table(path)
    for place in (2**63 - 1, -(2**63), 2**62):
        column = pa.array([place] * table.num_rows, pa.int64())
        changed = table.set_column(table.schema.get_field_index("offset_10m"), table.schema.field("offset_10m"), column)
        pq.write_table(changed, path)
        settled(shards)
        samples = open_shards([shards])
        refused(lambda s=samples: Reader(s).read(s), code=4)


IDS = [
    "../../x",
    "a/b",
    "a.b",
    "x\ny",
    "x\n",
    "x 0 y 1",
    "a\0b",
    "' OR 1=1 --",
    "x" * 10_000,
    "<b>x</b>",
    "",
    "\u202ex",
    "a\u200b",
]


@pytest.mark.parametrize("name", IDS, ids=[repr(name)[:20] for name in IDS])
@pytest.mark.parametrize("column", ["chip_id", "cell", "block", "sensor", "split"])
def test_names_that_are_paths_lists_or_commands(shards: Path, column: str, name: str) -> None:
    """They stand in qrels, on contact sheets and in what a search says."""
    if (column, name) == ("block", "a.b"):
        return  # blocks of 1.2 km have a dot in their name
    changed(shards, column, lambda values: [name, *values[1:]])
    told = f"its column {column} has" if column in ("sensor", "split") else f"a sample's {column} is"
    refused(lambda: open_shards([shards]), told, code=4)
    if column != "block":  # which verify does not look at: nothing is named after it there
        found(shards, {"sensor": "its sensor is none of", "split": "its split is none of"}.get(column, "is no name"))


def changed(shards: Path, column: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """The index with other values in a column, and shards.json says that it is the right one."""
    path = shards / "index.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    values = pa.array(change(table.column(column).to_pylist()), table.schema.field(column).type)
    pq.write_table(table.set_column(place, table.schema.field(place), values), path)
    settled(shards)


@pytest.mark.parametrize(
    "text", ["water<script>alert(1)</script>", "wa\u200bter", "wаter", "\u202eretaw", "water\0", "x" * 100_000]
)
def test_captions_that_hide_something(shards: Path, text: str) -> None:
    """In the tar, where the trainers of others read it, and in the index, where ours does."""
    rewritten(
        shards, lambda old: [(i, d) if not i.name.endswith(".txt") else member(i.name, text.encode()) for i, d in old]
    )
    found(shards, "the caption")
    changed(shards, "caption_paper", lambda values: [text] * len(values))
    found(shards, "caption_paper is")


@pytest.mark.parametrize("url", ["pipe:touch evil", "http://169.254.169.254/x.tar", "/etc/passwd", "../x.tar"])
def test_a_list_for_wids_that_leads_elsewhere(shards: Path, url: str) -> None:
    """wids and webdataset run what stands behind pipe:."""
    one = json.loads((shards / "shards.json").read_text())["shards"][0]
    keys = {key: one[key] for key in ("nsamples", "bytes", "sha256")}
    (shards / "train-s2.json").write_text(json.dumps({"shardlist": [keys | {"url": one["url"]}]}))
    assert not [f for f in verify(target_of(str(shards), ""), quiet=True).findings if "wids" in f.what]
    (shards / "train-s2.json").write_text(json.dumps({"shardlist": [keys | {"url": url}]}))
    found(shards, "the list for wids does not name the tars of shards.json")


def test_control_limits_are_measured() -> None:
    """What the limits are measured with sees memory that is taken, and given back before the end."""
    with pytest.raises(AssertionError, match="it took"), bounded():
        np.ones((MEGABYTES + 100) << 20, np.uint8)
