"""Zips: names that leave, links, bombs, and zips that GDAL would open by itself."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from attack_limits import refused
from cems_packages import product, read, zipped

from pipeline.vector import read_vector

MIB = 2**20


def with_entry(path: Path, name: str, data: bytes = b"{}", link: bool = False) -> Path:
    """A package with one more entry."""
    zipped(product(path.parent / "x"), path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as out:
        entry = zipfile.ZipInfo("placeholder")
        entry.filename, entry.compress_type = name, zipfile.ZIP_DEFLATED
        if link:
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(entry, data)
    return path


@pytest.mark.parametrize("name", ["../../evil.json", "/etc/cron.d/evil.json", "C:\\evil.json", "x\\..\\..\\evil.json"])
def test_a_package_with_a_name_that_leaves(tmp_path: Path, name: str) -> None:
    path = with_entry(tmp_path / "p.zip", name)
    refused(lambda: read(path), "would be written outside the archive's folder")


def test_a_package_with_a_symbolic_link(tmp_path: Path) -> None:
    path = with_entry(tmp_path / "p.zip", "x/link.json", b"/etc/passwd", link=True)
    refused(lambda: read(path), "'x/link.json' is a link")


def test_one_entry_that_is_a_bomb(tmp_path: Path) -> None:
    path = with_entry(tmp_path / "p.zip", "x/zeros.json", bytes(65 * MIB))
    refused(lambda: read(path), "65 MiB packed into", "which no data is")


def test_many_small_entries_that_are_a_bomb_together(tmp_path: Path) -> None:
    """No entry is larger than what passes alone."""
    path, data = tmp_path / "p.zip", bytes(8 * MIB)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for k in range(12):
            out.writestr(f"EMSR1_AOI{k:02d}_DEL_PRODUCT_observedEventA_v1.json", data)
    refused(lambda: read(path), "its entries have 96 MiB, packed into", "which no data is")


def test_entries_that_share_their_bytes(tmp_path: Path) -> None:
    """Five hundred entries over the same compressed data (as Fifield's bombs)."""
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("EMSR1_AOI01_DEL_PRODUCT_observedEventA_v1.json", bytes(4 * MIB))
    data = path.read_bytes()
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    record = data[start:end]
    many = record * 500
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 500, 500, len(many), start, 0)
    path.write_bytes(data[:start] + many + tail)
    refused(lambda: read(path), "p.zip")


def test_zips_in_zips_in_zips(tmp_path: Path) -> None:
    inner = with_entry(tmp_path / "p.zip", "x/more.json").read_bytes()
    for _ in range(6):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as one:
            one.writestr("next.zip", inner)
        inner = out.getvalue()
    path = tmp_path / "deep.zip"
    path.write_bytes(inner)
    refused(lambda: read(path), "an archive too deep")


def test_a_million_entries(tmp_path: Path) -> None:
    """Their list alone would take a gigabyte: it is not read."""
    path = tmp_path / "p.zip"
    size, count = 46 * 10**6, 10**6
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, 0, 0))
    assert count * 46 == size
    refused(lambda: read(path), "lists more entries than any package has")


@pytest.mark.parametrize("name", ["flood.kmz", "flood.zip", "flood.geojson"])
def test_a_bomb_that_gdal_would_open_by_itself(tmp_path: Path, name: str) -> None:
    """KMZ, a zipped shapefile, and a zip called something else."""
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("doc.kml", b"<kml>" + bytes(70 * MIB))
    refused(lambda: read_vector(path, "the manifest"), "'doc.kml' is 70 MiB packed into")


def test_a_zipped_shapefile_with_a_link(tmp_path: Path) -> None:
    path = tmp_path / "flood.zip"
    with zipfile.ZipFile(path, "w") as out:
        entry = zipfile.ZipInfo("flood.shp")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(entry, "/etc/passwd")
    refused(lambda: read_vector(path, "the manifest"), "'flood.shp' is a link")
