"""Packages in zips: nested ones are read like folders, and no archive writes anywhere but where it is unpacked."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest
from cems_packages import DEL, WET, event, product, read, same, write, zipped
from shapely import affinity

from harmonize.problem import Problem
from pipeline import archive
from pipeline.archive import Member, Unpacker
from pipeline.cems_package import watched

LAYER = f"{DEL}_observedEventA_v1.json"
MONITORING = DEL.replace("PRODUCT", "MONIT01")
EAST = affinity.translate(WET, 0.05)


def test_a_zip_is_read_like_its_folder(tmp_path: Path) -> None:
    folder = read(product(tmp_path / "x"))
    for suffix in (".zip", ".ZIP"):
        found = read(zipped(tmp_path / "x", tmp_path / f"{DEL}_v1{suffix}"))
        assert found.shape.equals(folder.shape)
        assert found.analysed is not None
        assert found.analysed.equals(folder.analysed)


def test_zips_in_a_folder_and_in_a_zip(tmp_path: Path) -> None:
    """As a whole activation is delivered: `EMSR884_products.zip`, one zip per product in it."""
    old = product(tmp_path / "a" / f"{DEL}_v1", observedEventA=[event(affinity.translate(WET, 0.02))])
    new = product(tmp_path / "b" / f"{DEL}_v2")
    other = product(tmp_path / "c" / f"{MONITORING}_v1", MONITORING, observedEventA=[event(EAST)])
    for folder in (old, new, other):
        zipped(folder, tmp_path / "x" / f"{folder.name}.zip")
    both = WET.union(EAST)
    assert same(read(tmp_path / "x").shape, both)
    assert same(read(zipped(tmp_path / "x", tmp_path / "EMSR884_products.zip")).shape, both), (
        "versions are those of the zips"
    )
    deeper = zipped(tmp_path / "x", tmp_path / "y" / "EMSR884_products.zip").parent
    with pytest.raises(
        Problem, match=r"EMSR884_products\.zip/x/EMSR884\S+\.zip', an archive too deep|holds 'x/EMSR884\S+'"
    ):
        read(zipped(deeper, tmp_path / "all.zip"))


def test_what_a_mac_puts_into_a_zip(tmp_path: Path) -> None:
    path = zipped(product(tmp_path / "x"), tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a") as out:
        out.writestr(f"__MACOSX/x/._{LAYER}", b"\0\5\26\7")
        out.writestr(f"x/._{LAYER}", b"\0\5\26\7")
    assert same(read(path).shape, WET)
    (tmp_path / "x" / f"._{LAYER}").write_bytes(b"\0\5\26\7")
    assert same(read(tmp_path / "x").shape, WET)


def hostile(path: Path, name: str, data: bytes = b"{}") -> Path:
    """A package with one more entry of this name."""
    folder = product(path.parent / "x")
    zipped(folder, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as out:
        entry = zipfile.ZipInfo("placeholder")
        entry.filename = name  # as it is: ZipInfo would mend it
        entry.compress_type = zipfile.ZIP_DEFLATED
        out.writestr(entry, data)
    return path


@pytest.mark.parametrize(
    "name",
    [
        f"../{LAYER}", f"x/../../{LAYER}", f"/tmp/{LAYER}", f"C:/{LAYER}", f"c:{LAYER}", f"..\\..\\{LAYER}",
        f"\\\\server\\{LAYER}", "../outside.txt", "x/..",
    ],
)  # fmt: skip
def test_entries_that_would_leave_their_folder(tmp_path: Path, name: str) -> None:
    path = hostile(tmp_path / "p" / "evil.zip", name)
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(Problem) as caught:
        read(path)
    assert caught.value.what == f"evil.zip: '{name}' would be written outside the archive's folder"
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_links_and_encrypted_entries(tmp_path: Path) -> None:
    path = zipped(product(tmp_path / "x"), tmp_path / "link.zip")
    with zipfile.ZipFile(path, "a") as out:
        entry = zipfile.ZipInfo(f"x/{LAYER}")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(entry, "/etc/passwd")
    with pytest.raises(Problem, match=rf"link\.zip: 'x/{LAYER}' is a link"):
        read(path)
    path = zipped(product(tmp_path / "x"), tmp_path / "locked.zip")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")  # the last entry in the central directory
    data[at + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(Problem, match=r"locked\.zip: 'x/\S+' is encrypted"):
        read(path)


def test_an_entry_that_is_no_data(tmp_path: Path) -> None:
    """65 MiB of zeros are 65 kB; and a hill of honest entries ends somewhere too."""
    path = hostile(tmp_path / "p" / "bomb.zip", "x/zeros.bin", bytes(65 * 2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(Problem, match=r"bomb\.zip: 'x/zeros\.bin' is 65 MiB packed into \d+ bytes"):
        read(path)


def test_all_entries_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(product(tmp_path / "x"), tmp_path / "x.zip")
    with zipfile.ZipFile(path) as opened:
        total = sum(entry.file_size for entry in opened.infolist())
    monkeypatch.setattr(archive, "MOST_BYTES", total)
    assert same(read(path).shape, WET)
    monkeypatch.setattr(archive, "MOST_BYTES", total - 1)
    with pytest.raises(Problem, match=r"x\.zip: unpacks to more than .*'x/\S+' is the entry that does not fit"):
        read(path)


def test_damaged_zips(tmp_path: Path) -> None:
    path = zipped(product(tmp_path / "x"), tmp_path / "x.zip")
    whole = path.read_bytes()
    at = whole.rindex(b"PK\1\2")
    path.write_bytes(whole[: at + 6] + bytes([107]) + whole[at + 7 :])  # made by a version of zip that does not exist
    with pytest.raises(Problem, match=r"x\.zip: cannot be read as a zip: zip file version 10\.7"):
        read(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Problem, match=r"x\.zip: cannot be read as a zip"):
        read(path)
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as out:  # stored, so that a byte can be changed
        out.writestr(LAYER, '{"type": "FeatureCollection", "features": []}')
    data = (tmp_path / "y.zip").read_bytes()
    (tmp_path / "y.zip").write_bytes(data.replace(b"FeatureCollection", b"featureCollection"))
    with pytest.raises(Problem, match=rf"y\.zip: '{LAYER}' cannot be unpacked: Bad CRC"):
        read(tmp_path / "y.zip")


def test_unpacked_files_are_told_by_their_place(tmp_path: Path) -> None:
    path = zipped(product(tmp_path / "x"), tmp_path / "inner.zip")
    outer = zipped(Path(zipped_alone(path, tmp_path / "one")), tmp_path / "outer.zip")
    (tmp_path / "out").mkdir()
    found = Unpacker(tmp_path / "out", lambda name: name.endswith(".shp"), "here").unpack(Member(outer, "outer.zip"))
    assert {m.name for m in found} == {
        f"outer.zip/one/inner.zip/x/{DEL}_{layer}_v1.shp"
        for layer in ("observedEventA", "areaOfInterestA", "imageFootprintA")
    }
    assert all(m.path.is_relative_to(tmp_path / "out") and m.path.read_bytes()[:4] == b"\0\0\x27\x0a" for m in found)


def zipped_alone(path: Path, folder: Path) -> Path:
    folder.mkdir()
    return path.rename(folder / path.name).parent


def test_a_missing_crs_in_a_zip_is_told_by_name(tmp_path: Path) -> None:
    product(tmp_path / "x")
    (tmp_path / "x" / f"{DEL}_areaOfInterestA_v1.prj").unlink()
    with pytest.raises(Problem, match=rf"^x\.zip/x/{DEL}_areaOfInterestA_v1\.shp does not say its CRS"):
        read(zipped(tmp_path / "x", tmp_path / "x.zip"))


def test_files_that_count(tmp_path: Path) -> None:
    """Whatever else lies in the folder changes nothing, and is not watched."""
    folder = product(tmp_path / "x")
    zipped(product(tmp_path / "y"), folder / "more.zip")
    write(folder / f"{DEL}_hydrographyA_v1.shp", [event()])
    (folder / "style.json").write_text("{}")
    (folder / "activation.json").write_text('{"eventTime": "2024-05-01T00:00:00"}')
    (folder / "map.pdf").write_bytes(b"%PDF")
    found = watched(folder)
    assert found == sorted(found)
    stems = ("observedEventA", "areaOfInterestA", "imageFootprintA")
    suffixes = (".cpg", ".dbf", ".prj", ".shp", ".shx")
    assert {p.name for p in found} == {"activation.json", "more.zip"} | {
        f"{DEL}_{s}_v1{x}" for s in stems for x in suffixes
    }
    assert watched(folder / "more.zip") == [folder / "more.zip"]


def test_names_too_long_for_a_disk(tmp_path: Path) -> None:
    """A zip may hold them: they are unpacked under others, that the files of a shapefile share."""
    long = f"EMSR884_AOI01_DEL_{'N' * 300}"
    folder = product(tmp_path / "x")
    path = zipped(folder, tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a") as out:
        out.writestr("n" * 300 + ".json", "{}")
        for suffix in (".shp", ".shx", ".dbf", ".prj"):
            east = write(tmp_path / "y" / "east.shp", [event(EAST)]).with_suffix(suffix)
            out.write(east, f"y/{long}_observedEventA_v1{suffix}")
    assert same(read(path).shape, WET.union(EAST))
