"""Verify: every kind of damage is found and named, what is whole is called whole, and the advised command mends it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_shards import write_fake_shards
from PIL import Image
from test_bad_input import cli
from test_cluster import two  # noqa: F401  a fixture
from test_runner import build, hashes
from world import World

from pipeline import tables
from pipeline.cluster import Scheduler
from pipeline.receipt import read_receipt, write_receipt
from pipeline.sample import from_npy, to_npy
from pipeline.stages import STAGES
from pipeline.store import Store
from pipeline.verify import Report, share_of, target_of, verify

TAR = "train-s2-000000.tar"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A region with several tars: `w/` its manifest and files, `out/tiny` what was made of it."""
    root = tmp_path_factory.mktemp("verify")
    dates = ("2020-06-01T10:00:00Z", "2020-07-01T10:00:00Z")
    world = World(root / "w", dates=dates, tail="train = 0.5\nval = 0.1\ntest = 0.4\n[shards]\nshard_mb = 0.5\n")
    build(world.write(), root / "out")
    return root


@pytest.fixture
def region(built: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


@pytest.fixture
def shards(region: Path) -> Shards:
    return Shards(region / "out/tiny/shards")


@dataclass
class Shards:
    """A folder of shards, to be damaged with or without shards.json and the index following it."""

    folder: Path

    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "shards.json").read_text())
        return found

    def rows(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "index.parquet").to_pylist()

    def members(self, tar: str = TAR) -> list[tuple[str, bytes]]:
        with tarfile.open(self.folder / tar) as opened:
            return [(m.name, opened.extractfile(m).read()) for m in opened]  # type: ignore[union-attr]

    def write_tar(self, members: list[tuple[str, bytes]], tar: str = TAR) -> None:
        with tarfile.open(self.folder / tar, "w", format=tarfile.USTAR_FORMAT) as out:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if data == b"link":
                    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
                out.addfile(info, io.BytesIO(data))

    def settle(self, rows: list[dict[str, Any]] | None = None, place: bool = True) -> None:
        """shards.json, the wids lists and the index as if the tars had been written so: no hash tells anything."""
        rows, about = rows or self.rows(), self.about()
        places: dict[str, tuple[int, int]] = {}
        for shard in about["shards"]:
            path = self.folder / shard["url"]
            shard["bytes"], shard["sha256"] = path.stat().st_size, sha256(path)
            with tarfile.open(path) as opened:
                places |= {m.name: (m.offset_data, m.size) for m in opened}
            wids = path.with_name(f"{shard['split']}-{shard['sensor']}.json")
            listed = json.loads(wids.read_text())
            for one in listed["shardlist"]:
                if one["url"] == shard["url"]:
                    one |= {"bytes": shard["bytes"], "sha256": shard["sha256"]}
            wids.write_text(json.dumps(listed))
        for row in rows if place else ():
            for group in ("10m", "20m", "60m"):
                found = places.get(f"{row['chip_id']}.{group}.npy")
                if found:
                    row[f"offset_{group}"], row[f"length_{group}"] = found
        self.write_index(rows, about)

    def write_index(self, rows: list[dict[str, Any]], about: dict[str, Any] | None = None) -> None:
        about = about or self.about()
        data = tables.parquet_bytes(tables.table_of(rows, tables.INDEX))
        (self.folder / "index.parquet").write_bytes(data)
        about["index"]["sha256"] = hashlib.sha256(data).hexdigest()
        sums = self.folder / "SHA256SUMS"
        names = (line.partition("  ")[2] for line in sums.read_text().splitlines())
        sums.write_text("".join(f"{sha256(self.folder / name)}  {name}\n" for name in names))
        about["described_by"]["SHA256SUMS"] = sha256(sums)
        (self.folder / "shards.json").write_text(json.dumps(about))

    def verify(self, share: float = 0.0) -> Report:
        return verify(target_of(str(self.folder), "data"), share, quiet=True)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def found(report: Report) -> list[tuple[str, str, str]]:
    return [(f.file, f.sample, f.what) for f in report.findings]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_what_is_whole_is_called_whole(built: Path) -> None:
    folder = built / "out/tiny"
    for named, tables_too in ((built / "w/tiny.toml", True), (folder, True), (folder / "shards", False)):
        report = verify(target_of(str(named), str(built / "out")), 1.0, quiet=True)
        assert found(report) == []
        assert report.notes == []
        assert report.samples == 48
        assert report.close == (96 if tables_too else 48), "in the tars, and where they are cut from"
        files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "receipts"]
        if tables_too:
            assert report.files == len(files)
            assert report.bytes == sum(p.stat().st_size for p in files)


def test_the_share_that_is_looked_at_closely_is_chosen_by_name(built: Path) -> None:
    folder = str(built / "out/tiny/shards")
    few, more = (verify(target_of(folder, "data"), share, quiet=True).close for share in (0.25, 0.5))
    assert 0 < few < more < 48
    assert verify(target_of(folder, "data"), 0.25, quiet=True).close == few
    assert [share_of(text) for text in ("0.05", "5%", " 100 % ", "0", "1")] == [0.05, 0.05, 1, 0, 1]
    for odd in ("1.5", "150%", "-1", "nan", "inf", "five", "%", ""):
        code, said = cli("verify", folder, "--sample", odd)
        assert code == 2, odd
        assert "fix:   --sample 5%" in said
    assert cli("verify", folder, "--sample", "25%")[0] == 0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_flipped_byte_is_found_and_its_sample_named(shards: Shards, share: float) -> None:
    row = next(row for row in shards.rows() if row["shard"] == TAR)
    flip(shards.folder / TAR, row["offset_20m"] + 1000)
    assert found(shards.verify(share)) == [
        (TAR, "", "a byte differs: it does not have the sha256 that shards.json says"),
        (TAR, row["chip_id"], "its arrays do not have the sha256 that the index has"),
    ]


def test_a_flipped_byte_in_a_header_says_where(shards: Shards) -> None:
    row = next(row for row in shards.rows() if row["shard"] == TAR)
    at = row["offset_20m"] - 512
    flip(shards.folder / TAR, at + 106)  # the mode of the member: nothing but the sums of header and file tell
    whats = [what for _, _, what in found(shards.verify())]
    assert any(f"has no readable header at byte {at}" in what for what in whats)


def test_arrays_that_are_not_the_index_s_are_found_in_the_share(shards: Shards) -> None:
    members = shards.members()
    name, data = members[0]
    other = from_npy(data).copy()
    other[0, 0, 0] ^= 1
    shards.write_tar([(name, to_npy(other)), *members[1:]])
    shards.settle()
    key = name.partition(".")[0]
    assert found(shards.verify(1.0)) == [(TAR, key, "its arrays do not have the sha256 that the index has")]
    assert found(shards.verify(0.0)) == [], "shards.json and tar agree: only the share that is hashed can tell"


@pytest.mark.parametrize("cut", [0, 100, 512, 30_000, -1024, -512])
def test_a_truncated_tar_is_found(shards: Shards, cut: int) -> None:
    size = (shards.folder / TAR).stat().st_size
    os.truncate(shards.folder / TAR, cut if cut >= 0 else size + cut)
    whats = [what for file, _, what in found(shards.verify()) if file == TAR]
    left = cut if cut >= 0 else size + cut
    assert f"it has {left} bytes, shards.json says {size}" in whats
    if cut >= 0:
        assert any("it ends in the middle" in what for what in whats)
    assert len(whats) <= 2, "not a line for each sample that is gone"


@pytest.mark.parametrize("look", ["another's", "none", "larger"])
def test_a_quick_look_that_is_not_its_own_is_found_in_the_share(shards: Shards, look: str) -> None:
    members = shards.members()
    looks = [k for k, (name, _) in enumerate(members) if name.endswith(".jpg")]
    (name, mine), (_, theirs) = (members[k] for k in looks[:2])
    picture = io.BytesIO()
    Image.open(io.BytesIO(mine)).resize((64, 64)).save(picture, "JPEG")
    data, words = {
        "another's": (theirs, "the quick look shows something else than its arrays"),
        "none": (mine[: len(mine) // 2], "the quick look cannot be read"),
        "larger": (picture.getvalue(), "the quick look has 64 x 64 pixels, not 60 x 60"),
    }[look]
    members[looks[0]] = (name, data)
    shards.write_tar(members)
    shards.settle()
    report = shards.verify(1.0)
    assert [(f.file, f.sample) for f in report.findings] == [(TAR, name.partition(".")[0])]
    assert words in report.findings[0].what


Members = list[tuple[str, bytes]]


def _change(suffix: str, data: Callable[[bytes], bytes]) -> Callable[[Members], Members]:
    """Change that member of the first sample."""

    def edit(members: Members) -> Members:
        key = members[0][0].partition(".")[0]
        return [(n, data(d) if n == f"{key}.{suffix}" else d) for n, d in members]

    return edit


def _without(suffix: str) -> Callable[[Members], Members]:
    return lambda members: [(n, d) for n, d in members if n != f"{members[0][0].partition('.')[0]}.{suffix}"]


def _with(name: str, data: bytes) -> Callable[[Members], Members]:
    """One more member of the first sample, after its own."""
    return lambda members: [*members[:6], (name.format(key=members[0][0].partition(".")[0]), data), *members[6:]]


def _record(**changes: Any) -> Callable[[Members], Members]:
    return _change("json", lambda data: json.dumps(json.loads(data) | changes).encode())


def _shares(data: bytes, share: float) -> bytes:
    record = json.loads(data)
    return json.dumps(record | {"labels": [label | {"share": share} for label in record["labels"]]}).encode()


def _objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    return buffer.getvalue()


IN_A_TAR = {
    "no 20m": (_without("20m.npy"), "its member 20m.npy is missing"),
    "no txt": (_without("txt"), "its member txt is missing"),
    "no json": (_without("json"), "its member json is missing"),
    "no jpg": (_without("jpg"), "its member jpg is missing"),
    "no sample": (lambda members: members[6:], "the index has it, the tar does not"),
    "one more sample": (lambda m: [*m, ("other.txt", b"x")], "the tar has it, the index does not"),
    "key again": (lambda m: [*m, *m[:6]], "its key stands twice in the tar"),
    "key again at once": (lambda m: [*m[:6], *m], "its key stands twice in the tar"),
    "member twice": (lambda m: [*m[:2], m[1], *m[2:]], "its member 20m.npy stands twice"),
    "another caption": (_change("txt", lambda _: b"snow and ice"), "the caption 'snow and ice' is not the index's"),
    "record is none": (_change("json", lambda _: b"{"), "the .json member cannot be read"),
    "record is a list": (_change("json", lambda _: b"[]"), "the .json member cannot be read"),
    "record, mask": (_record(label_mask=3), "label_mask is 3 in the .json member and "),
    "record, split": (_record(split="test"), "split is 'test' in the .json member and 'train' in the index"),
    "record, cell": (_record(cell="p60_32632_1_1"), "cell is 'p60_32632_1_1' in the .json member"),
    "record, date": (_record(datetime="2020-01-01T00:00:00Z"), "datetime is '2020-01-01T00:00:00Z' in the .json"),
    "record, captions": (_record(captions={}), "the captions of the .json member are not the index's"),
    "record, labels": (_record(labels=[]), "the labels of the .json member () are not those of label_mask"),
    "rich caption": (_change("json", lambda data: _shares(data, 0.07)), "caption_rich does not say what the labels do"),
    "record, class": (_record(labels=[{"name": "moon", "share": 1}]), "are not in the vocabulary: moon"),
    "array is short": (_change("20m.npy", lambda d: d[:-2]), "20m.npy has 10926 bytes, its header says 10928"),
    "array is none": (_change("20m.npy", lambda _: b"x"), "20m.npy has no readable .npy header"),
    "array of objects": (_change("20m.npy", lambda _: _objects()), "20m.npy holds Python objects, which are pickles"),
    "array of floats": (
        _change("20m.npy", lambda d: to_npy(from_npy(d).astype("f4"))),
        "20m.npy is float32 (6, 30, 30), not uint16 (6, 30, 30)",
    ),
    "pickle": (_with("{key}.meta.pkl", pickle.dumps(1)), ".meta.pkl is a pickle: it could run code"),
    "unknown member": (_with("{key}.tif", b"x"), "its member tif is none of a sample's"),
    "folder": (_with("a/{key}.txt", b"x"), "a member's name leads elsewhere: 'a/"),
    "upwards": (_with("../{key}.txt", b"x"), "a member's name leads elsewhere: '../"),
    "absolute": (_with("/{key}.txt", b"x"), "a member's name leads elsewhere: '/"),
    "link": (_with("{key}.tif", b"link"), "is no plain file"),
}


@pytest.mark.parametrize("damage", IN_A_TAR)
def test_what_is_wrong_in_a_tar_is_found_where_every_hash_is_right(shards: Shards, damage: str) -> None:
    edit, words = IN_A_TAR[damage]
    before = shards.members()
    shards.write_tar(edit(before))
    shards.settle()
    report = shards.verify()
    assert [f for f in report.findings if f.file == TAR and words in f.what], found(report)
    assert {f.file for f in report.findings} == {TAR}
    key = before[0][0].partition(".")[0]
    assert {f.sample for f in report.findings} <= {key, "other", "a/" + key, "/" + key, ""}
    assert all(f.fix for f in report.findings)


def test_other_words_want_other_captions_and_not_other_tars_alone(shards: Shards) -> None:
    edit, words = IN_A_TAR["rich caption"]
    shards.write_tar(edit(shards.members()))
    assert {("STAGE=shards" in f.fix) for f in shards.verify().findings} == {True}
    shards.settle()
    (found,) = shards.verify().findings
    assert words in found.what
    assert "STAGE=captions" in found.fix


def _set(**changes: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[0].update(changes)


def _cell_in_test(rows: list[dict[str, Any]]) -> None:
    other = next(row for row in rows if row["split"] == "test")
    other["cell"] = next(row["cell"] for row in rows if row["split"] == "train")


IN_THE_INDEX = {
    "offset": (lambda rows: rows[0].update(offset_10m=rows[0]["offset_10m"] + 512), "it is at"),
    "offsets of two": (
        lambda rows: rows[0].update({k: rows[1][k] for k in rows[0] if k.startswith("offset")}),
        "it is at",
    ),
    "length": (lambda rows: rows[0].update(length_20m=rows[0]["length_20m"] - 2), "the index has 20m.npy at byte"),
    "outside the tar": (_set(offset_10m=1 << 40), "the index has 10m.npy at byte 1099511627776"),
    "cell in train and test": (_cell_in_test, "stand in test and train: what is searched was trained on"),
    "row twice": (lambda rows: rows.append(dict(rows[0])), "it stands 2 times in the index"),
    "row gone": (lambda rows: rows.pop(0), "the tar has it, the index does not"),
    "no such tar": (_set(shard="train-s2-000009.tar"), "1 rows name the tar train-s2-000009.tar"),
    "bit of no class": (_set(label_mask=1 << 12, known_mask=1 << 12 | 7), "label_mask has bits outside the vocabulary"),
    "known bit of no class": (_set(known_mask=1 << 20 | 4095), "known_mask has bits outside the vocabulary"),
    "label of an unknown class": (_set(known_mask=0), "label_mask has classes that known_mask does not know"),
    "caption of other labels": (_set(caption_paper="snow and ice"), "caption_paper is 'snow and ice', label_mask"),
    "another sensor": (_set(sensor="s1"), "it stands in a tar of another sensor"),
    "no sensor": (_set(sensor="x"), "its sensor is none of s1, s2"),
    "another split": (_set(split="val"), "it stands in a tar of another split"),
    "another size": (_set(size_px=120), "its size_px is not the 60 of shards.json"),
}


@pytest.mark.parametrize("damage", IN_THE_INDEX)
def test_what_is_wrong_in_the_index_is_found_where_every_hash_is_right(shards: Shards, damage: str) -> None:
    edit, words = IN_THE_INDEX[damage]
    rows = sorted(shards.rows(), key=lambda row: row["shard"] != TAR)
    edit(rows)
    shards.write_index(rows)
    report = shards.verify()
    assert any(words in f.what for f in report.findings), found(report)


def test_a_row_that_points_at_another_s_arrays_is_one_finding(shards: Shards) -> None:
    rows = shards.rows()
    for key in ("offset_10m", "offset_20m", "offset_60m"):
        rows[0][key] = rows[1][key]
    shards.write_index(rows)
    report = shards.verify()
    assert {f.sample for f in report.findings} == {rows[0]["chip_id"]}
    assert {f.file for f in report.findings} == {rows[0]["shard"]}


def _about(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "shards.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


IN_THE_FOLDER: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "tar of nobody": (
        lambda f: shutil.copy(f / TAR, f / "train-s2-000099.tar"),
        "train-s2-000099.tar",
        "does not name",
    ),
    "tar gone": (lambda f: (f / TAR).unlink(), TAR, "it is not there"),
    "index gone": (lambda f: (f / "index.parquet").unlink(), "index.parquet", "it is not there"),
    "index cut off": (lambda f: os.truncate(f / "index.parquet", 500), "index.parquet", "it cannot be read"),
    "card edited": (lambda f: (f / "README.md").write_text("mine"), "README.md", "a byte differs"),
    "Croissant gone": (lambda f: (f / "croissant.json").unlink(), "croissant.json", "it is not there"),
    "wids gone": (lambda f: (f / "train-s2.json").unlink(), "train-s2.json", "the list for wids is missing"),
    "wids of others": (lambda f: shutil.copy(f / "train-s1.json", f / "train-s2.json"), "train-s2.json", "wids"),
    "wids is none": (lambda f: (f / "train-s2.json").write_text("[]"), "train-s2.json", "wids"),
    "shards.json gone": (lambda f: (f / "shards.json").unlink(), "shards.json", "it is not there"),
    "shards.json cut off": (lambda f: os.truncate(f / "shards.json", 100), "shards.json", "it is damaged"),
    "shards.json is a list": (lambda f: (f / "shards.json").write_text("[]"), "shards.json", "format version None"),
    "another version": (_about(format_version=9), "shards.json", "format version 9"),
    "another vocabulary": (_about(vocabulary=["moon"]), "shards.json", "another vocabulary"),
    "no tars": (_about(shards=[{}]), "shards.json", "its list of tars is damaged"),
    "no index": (_about(index=None), "shards.json", "does not name index.parquet with its sha256"),
}


@pytest.mark.parametrize("damage", IN_THE_FOLDER)
def test_what_is_wrong_in_the_folder_is_found(shards: Shards, damage: str) -> None:
    edit, file, words = IN_THE_FOLDER[damage]
    edit(shards.folder)
    report = shards.verify()
    assert [f for f in report.findings if f.file == file and words in f.what], found(report)


def test_a_tar_that_lies_elsewhere_is_not_followed(shards: Shards) -> None:
    about = shards.about()
    about["shards"][0]["url"] = "../../secret.tar"
    (shards.folder / "shards.json").write_text(json.dumps(about))
    assert shards.verify().findings[0].what.startswith("its list of tars is damaged")


def test_every_tar_is_told_not_the_first_alone(shards: Shards) -> None:
    tars = sorted(shards.folder.glob("*.tar"))
    for tar in tars:
        os.truncate(tar, 700)
    assert {f.file for f in shards.verify().findings} == {tar.name for tar in tars}


@pytest.mark.parametrize("file", ["*.parquet", "pixels/*.arrow", "screen/*.parquet", "agreement.json", "shards/*.tar"])
@pytest.mark.parametrize("damage", ["flipped", "cut off", "gone"])
def test_the_advised_command_mends_it(region: Path, file: str, damage: str) -> None:
    out, manifest = region / "out", str(region / "w/tiny.toml")
    before = hashes(out)
    for path in sorted((out / "tiny").glob(file)):
        if damage == "flipped":
            flip(path, path.stat().st_size // 2)
        elif damage == "cut off":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.unlink()
    damaged = {name for name, digest in before.items() if hashes(out).get(name) != digest}
    assert damaged
    code, said = cli("verify", manifest, "--out", str(out), "--json")
    assert code == 4, said
    report = json.loads(said.splitlines()[0])
    assert {f["file"] for f in report["findings"]} == {name.removeprefix("tiny/") for name in damaged}
    order = list(STAGES)
    for stage in sorted({f["fix"].split("STAGE=")[1].split()[0] for f in report["findings"]}, key=order.index):
        assert f"redo STAGE={stage} REGION={manifest} OUT={out}" in {f["fix"][5:] for f in report["findings"]}
        code, said = cli("redo", stage, manifest, "--out", str(out), "--to", stage)
        assert code == 0, said
    assert cli("verify", manifest, "--out", str(out))[0] == 0
    assert hashes(out) == before


@pytest.mark.parametrize(
    "file", ["chips.parquet", "screen/*.parquet", "pixels/*.arrow", "captions.parquet", "shards/*"]
)
def test_what_is_cut_off_is_not_up_to_date(region: Path, file: str) -> None:
    out, manifest = region / "out", region / "w/tiny.toml"
    before = hashes(out)
    path = sorted((out / "tiny").glob(file))[-1]
    size = path.stat().st_size
    os.truncate(path, size - 10)
    code, said = cli("status", str(manifest), "--out", str(out))
    assert code == 0
    assert f"{path.relative_to(out / 'tiny')} has {size - 10} bytes, {size} were written" in said
    assert len(build(manifest, out)) == 1, "the stages after it have what they were made of"
    assert hashes(out) == before


def test_receipts_without_sizes_stay_valid(region: Path) -> None:
    out, manifest = region / "out", region / "w/tiny.toml"
    for path in (out / "tiny/receipts").glob("*.json"):
        receipt = json.loads(path.read_text())
        assert set(receipt["sizes"]) == set(receipt["outputs"])
        del receipt["sizes"], receipt["sha256"]
        path.write_text(json.dumps(receipt))
    assert build(manifest, out) == []
    assert cli("verify", str(manifest), "--out", str(out))[0] == 0
    flip(out / "tiny/chips.parquet", 300)
    assert cli("verify", str(manifest), "--out", str(out))[0] == 4


def test_a_damaged_receipt_and_an_unfinished_region_are_told(region: Path) -> None:
    out, manifest = region / "out", str(region / "w/tiny.toml")
    (out / "tiny/receipts/shards.json").unlink()
    shutil.rmtree(out / "tiny/shards")
    code, said = cli("verify", manifest, "--out", str(out))
    assert code == 0, "a corpus without shards is whole"
    assert "shards has no receipt: it has not run, or not to its end" in said
    os.truncate(out / "tiny/receipts/labels.json", 30)
    code, said = cli("verify", manifest, "--out", str(out))
    assert code == 4
    assert "receipts/labels.json  -  the receipt cannot be read, or a byte differs  fix: make redo STAGE=labels" in said
    assert "labels    its receipt is damaged" in cli("status", manifest, "--out", str(out))[1]


def test_what_an_older_version_wrote_is_not_held_against_this_one(region: Path) -> None:
    store = Store(str(region / "out/tiny"))
    for stage in ("captions", "shards"):
        receipt = read_receipt(store, stage)
        assert receipt
        tars = {name: sha for name, sha in receipt.outputs.items() if not name.startswith("receipts/")}
        write_receipt(store, dataclasses.replace(receipt, version=1, outputs=tars))
    table = tables.read_table(store, "captions.parquet", tables.CAPTIONS).drop_columns(["diversity"])
    receipt = read_receipt(store, "captions")
    assert receipt
    receipt.outputs["captions.parquet"] = store.write("captions.parquet", tables.parquet_bytes(table))
    receipt.sizes["captions.parquet"] = store.size("captions.parquet") or 0
    write_receipt(store, receipt)
    report = verify(target_of(str(region / "out/tiny"), "data"), 0.0, quiet=True)
    assert found(report) == []
    assert any(note.startswith("captions was written by another version") for note in report.notes)
    flip(region / "out/tiny/captions.parquet", 300)
    report = verify(target_of(str(region / "out/tiny"), "data"), 0.0, quiet=True)
    assert [f.file for f in report.findings] == ["captions.parquet"]


ORPHANS = {
    "pixels/left.arrow": "STAGE=pixels",
    "screen/left.parquet": "STAGE=screen",
    "shards/notes.txt": "STAGE=shards",
    "shards/train-s2-000099.tar": "STAGE=shards",
    "receipts/tars/old.tar.json": "STAGE=shards",
    "pixels/.left.arrow.tmp": "STAGE=pixels",
    ".chips.parquet.tmp": "STAGE=chips",
    ".agreement.json.tmp": "STAGE=captions",
    "mine.txt": "remove it, or keep it elsewhere",
    "more/mine.txt": "remove it, or keep it elsewhere",
}


def test_files_that_no_receipt_names_are_told(region: Path) -> None:
    root = region / "out/tiny"
    for name in ORPHANS:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    for name in (
        "queries/test/queries.json",
        ".DS_Store",
        "pixels/.hidden",
    ):  # of other commands, and of other programs
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text("x")
    report = verify(target_of(str(root), "data"), 0.0, quiet=True)
    assert {f.file for f in report.findings} == set(ORPHANS)
    assert len(report.findings) == len(ORPHANS)
    assert all(ORPHANS[f.file] in f.fix for f in report.findings)


def test_what_an_unfinished_stage_goes_on_with_is_no_orphan(region: Path) -> None:
    root = region / "out/tiny"
    (root / "receipts/pixels.json").unlink()
    (root / "pixels/.half.arrow.tmp").write_text("x")
    report = verify(target_of(str(root), "data"), 0.0, quiet=True)
    assert found(report) == []
    assert report.notes == ["pixels has no receipt: it has not run, or not to its end"]


def test_the_sha256_list_is_read_by_sha256sum(built: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built / "out/tiny/shards", tmp_path / "shards"))
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == {p.name for p in folder.iterdir()} - {"SHA256SUMS", "shards.json"}
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=folder, capture_output=True, timeout=60).returncode == 0
    flip(folder / TAR, 3000)
    said = subprocess.run(check, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout.strip()) == (1, f"{TAR}: FAILED")


def test_a_sha256_list_of_other_hashes_is_found(shards: Shards) -> None:
    path, about = shards.folder / "SHA256SUMS", shards.about()
    path.write_text(path.read_text().replace("  train-s2-000000.tar", "  other.tar"))
    about["described_by"]["SHA256SUMS"] = sha256(path)
    (shards.folder / "shards.json").write_text(json.dumps(about))
    what = "it does not have the sha256 that shards.json has of train-s2-000000.tar"
    assert found(shards.verify()) == [("SHA256SUMS", "", what)]


def _table(region: Path, stage: str, edit: Callable[[list[dict[str, Any]]], Any], counts: bool = False) -> None:
    """Write a table anew with changed rows, as if the stage had written it so: hashes and receipts follow."""
    store = Store(str(region / "out/tiny"))
    name = f"{stage}.parquet"
    rows = tables.read_table(store, name, tables.SCHEMAS[stage]).to_pylist()
    edit(rows)
    sha = tables.write_table(store, name, tables.table_of(rows, tables.SCHEMAS[stage]), tables.SCHEMAS[stage])
    receipt = read_receipt(store, stage)
    assert receipt
    before = receipt.identity
    receipt.outputs[name], receipt.sizes[name] = sha, store.size(name) or 0
    if counts:
        receipt = dataclasses.replace(receipt, rows_in=len(rows), kept=sum(row["dropped"] is None for row in rows))
    write_receipt(store, receipt)
    moved = {before: receipt.identity}
    for other in STAGES:
        mine = read_receipt(store, other)
        assert mine
        old = mine.identity
        mine.inputs.update({name: moved.get(identity, identity) for name, identity in mine.inputs.items()})
        moved[old] = mine.identity
        write_receipt(store, mine)


def _first(**changes: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[0].update(changes)


def _other_split(rows: list[dict[str, Any]]) -> None:
    one, other = (next(row for row in rows if row["split"] == split) for split in ("train", "test"))
    other["cell"] = one["cell"]


IN_A_TABLE: dict[str, tuple[str, Callable[[list[dict[str, Any]]], Any], bool, str]] = {
    "chip twice": ("chips", lambda rows: rows.append(dict(rows[0])), True, "stands in 2 rows"),
    "scene twice": ("scenes", lambda rows: rows.append(dict(rows[0])), False, "stands in 2 rows"),
    "label twice": ("labels", lambda rows: rows.append(dict(rows[0])), True, "stands in 2 rows"),
    "row gone": ("pixels", lambda rows: rows.pop(), True, "chips has it, pixels does not"),
    "row gone, counts": ("captions", lambda rows: rows.pop(), False, "rows that are kept, the receipt says"),
    "row of nobody": ("captions", _first(chip_id="other"), False, "captions has it, chips does not"),
    "dropped": ("chips", _first(dropped="cloud"), False, "dropped as 'cloud', the receipt says 0"),
    "dropped, packed": ("pixels", _first(dropped="cloud"), False, "pixels.parquet has it as dropped"),
    "other hash": ("pixels", _first(sha256="0" * 64), False, "the pixels table has another sha256 than the part"),
    "other row": ("pixels", _first(row=1), False, "where the part has"),
    "no such row": ("pixels", _first(row=10**6), False, "the pixels table has it as row 1000000"),
    "other text": ("captions", _first(caption_paper="moon"), False, "caption_paper is 'moon', label_mask"),
    "other labels": ("captions", _first(labels=[]), False, "its labels () are not those of label_mask"),
    "unknown label": ("captions", _first(known_mask=0), False, "has classes that known_mask 0 does not know"),
    "cell in two splits": ("captions", _other_split, False, "this cell stands in test and train"),
    "index of another": ("captions", _first(caption_rich="moon"), False, "captions.parquet has 'moon'"),
    "index of another cell": ("chips", _first(cell="p60_32632_1_1"), False, "chips.parquet has 'p60_32632_1_1'"),
}


@pytest.mark.parametrize("damage", IN_A_TABLE)
def test_what_is_wrong_in_a_table_is_found_where_every_hash_is_right(region: Path, damage: str) -> None:
    stage, edit, counts, words = IN_A_TABLE[damage]
    _table(region, stage, edit, counts)
    report = verify(target_of(str(region / "out/tiny"), "data"), 1.0, quiet=True)
    assert any(words in f.what for f in report.findings), found(report)
    assert all("byte differs" not in f.what for f in report.findings)


def test_tables_of_another_schema_are_told(region: Path) -> None:
    store = Store(str(region / "out/tiny"))
    table = tables.read_table(store, "labels.parquet", tables.LABELS).drop_columns(["analysed"])
    receipt = read_receipt(store, "labels")
    assert receipt
    receipt.outputs["labels.parquet"] = store.write("labels.parquet", tables.parquet_bytes(table))
    receipt.sizes["labels.parquet"] = store.size("labels.parquet") or 0
    write_receipt(store, receipt)
    report = verify(target_of(str(region / "out/tiny"), "data"), 0.0, quiet=True)
    assert found(report) == [("labels.parquet", "", "columns differ from this version's schema: analysed")]
    assert "STAGE=labels" in report.findings[0].fix


def test_what_is_wrong_with_many_rows_is_not_told_of_each(region: Path) -> None:
    _table(region, "captions", lambda rows: [row.update(caption_paper="moon") for row in rows])
    whats = [f.what for f in verify(target_of(str(region / "out/tiny"), "data"), 0.0, quiet=True).findings]
    assert len(whats) < 60
    assert any(what.startswith("and so 28 more rows: caption_paper is 'moon'") for what in whats), whats


def test_a_flip_in_a_record_names_its_chip_in_a_region(region: Path) -> None:
    """What nothing repeats, as a licence: nobody knows it of a folder of shards alone, the tar's receipt does."""
    root = region / "out/tiny"
    data = (root / "shards" / TAR).read_bytes()
    at = data.index(b'"licence": ') + 4
    key = Shards(root / "shards").members()[0][0].partition(".")[0]
    flip(root / "shards" / TAR, at)
    report = verify(target_of(str(root), "data"), 0.0, quiet=True)
    assert {(f.file, f.sample) for f in report.findings} == {(f"shards/{TAR}", ""), (f"shards/{TAR}", key)}


def test_a_line_has_file_sample_what_and_fix(region: Path) -> None:
    shards = Shards(region / "out/tiny/shards")
    shards.write_tar(_change("txt", lambda _: b"a\n\x1b[31mb")(shards.members()))
    shards.settle()
    code, said = cli("verify", str(shards.folder))
    key = shards.members()[0][0].partition(".")[0]
    assert code == 4
    lines = [line for line in said.splitlines() if line.startswith(TAR)]
    assert len(lines) == 1
    assert lines[0].split("  ")[:2] == [TAR, key]
    assert "fix: copy it again, or where it was made: make redo STAGE=shards REGION=…" in lines[0]
    assert "1 finding in 1 file" in said


@pytest.mark.parametrize("named", ["nowhere", "nowhere.toml", "file"])
def test_what_is_no_place_of_ours_is_told(tmp_path: Path, named: str) -> None:
    (tmp_path / "file").write_text("x")
    code, said = cli("verify", str(tmp_path / named))
    assert code == 2
    assert "Traceback" not in said


def test_two_processes_find_the_same(region: Path, two: Scheduler) -> None:  # noqa: F811
    folder = region / "out/tiny"
    for tar in sorted((folder / "shards").glob("*.tar"))[::2]:
        flip(tar, 30_000)
    flip(next((folder / "pixels").iterdir()), 500)
    target = target_of(str(folder), "data")
    here, there = (verify(target, 0.5, scheduler, quiet=True) for scheduler in (Scheduler("serial"), two))
    assert len(here.findings) > 5
    assert found(here) == found(there)
    assert (here.samples, here.close, here.bytes) == (there.samples, there.close, there.bytes)


def test_damage_of_any_kind_ends_in_words(shards: Shards) -> None:
    """Bytes changed anywhere, hashes made right: whatever is read of it, nothing raises, and nothing is eaten."""
    draw, whole = random.Random(5), (shards.folder / TAR).read_bytes()
    about = shards.about()
    shard = next(s for s in about["shards"] if s["url"] == TAR)
    silent = 0
    for _ in range(80):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 1, 8, 200])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.3:
            del data[draw.randrange(len(data)) :]
        (shards.folder / TAR).write_bytes(data)
        shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (shards.folder / "shards.json").write_text(json.dumps(about))
        silent += not [f for f in shards.verify(1.0).findings if f.file == TAR]
    assert silent < 20, "only padding and pixels of a quick look can hide"


@pytest.mark.parametrize("file", ["shards.json", "index.parquet", "train-s2.json"])
def test_lists_damaged_anywhere_are_found_in_words(shards: Shards, file: str) -> None:
    draw, path = random.Random(7), shards.folder / file
    whole = path.read_bytes()
    named = b'"sha256"' if file == "shards.json" else b""
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 1, 4, 60])):
            data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        path.write_bytes(data)
        try:
            same = json.loads(data) == json.loads(whole)
        except ValueError:
            same = False
        # What describes the folder to people alone (its region, its bands) nothing else repeats; receipts have its hash.
        if not same and (file != "shards.json" or named not in data):
            assert shards.verify().findings
        else:
            shards.verify()


@pytest.mark.parametrize("file", [TAR, "shards.json", "index.parquet", "train-s2.json", "README.md"])
def test_what_cannot_be_read_is_a_finding(shards: Shards, file: str) -> None:
    path = shards.folder / file
    path.unlink()
    path.mkdir()
    assert file in {f.file for f in shards.verify().findings}


def test_memory_does_not_grow_with_the_tar(tmp_path: Path) -> None:
    peaks = []
    for count in (4, 64):
        folder = write_fake_shards(tmp_path / str(count), {("train", "s2"): count}, size_px=300)
        target = target_of(str(folder), "data")
        verify(target, 0.0, quiet=True)
        tracemalloc.start()
        verify(target, 0.0, quiet=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = sum(path.stat().st_size for path in (tmp_path / "64").glob("*.tar"))
    assert size > 60e6
    assert max(peaks) < 4e6
