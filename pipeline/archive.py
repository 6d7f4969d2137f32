"""Zip files that others made, unpacked with care: an entry stays in its folder and is as large as it says."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harmonize.disk import disk_told
from harmonize.problem import Problem

DEEPEST = 2
"""Zips in a zip: the download of a whole activation holds one per product."""
MOST_BYTES = 8 * 2**30
"""What one archive, with the archives in it, may unpack to: packages have tens of MB."""
MOST_READ = 2**30
"""What a zip may unpack to that GDAL reads in its place."""
MOST_RATIO, SMALL_BYTES = 500, 64 * 2**20
"""An entry larger than SMALL_BYTES that is packed tighter is no data. Deflate ends at 1032:1, which zeros have; the
padded text of a real .dbf has 165:1 (EMSR332, observed event)."""


MOST_LIST_BYTES = 8 * 2**20
"""Of the list of entries at an archive's end, some 80,000 of them; a package has some hundreds."""

DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError)
"""How zipfile ends on bytes that are not what they were; RuntimeError is also a method of packing that it lacks."""


@dataclass(frozen=True)
class Member:
    """A file of a folder, or of an archive in it."""

    path: Path
    """Where it can be read."""
    name: str
    """As people know it, below the folder or archive that they named: `EMSR1_products.zip/EMSR1_AOI01.zip/x.shp`."""


LONGEST_NAME = 255
"""Bytes of a file's name, on the disks of all systems that we know."""


class Unpacker:
    """Unpacks archives below one folder; all of them together to MOST_BYTES at the most."""

    def __init__(self, into: Path, wanted: Callable[[str], bool], where: str) -> None:
        """wanted: by its file name, whether an entry is unpacked. Archives in an archive always are."""
        self._into, self._wanted, self._where = into, wanted, where
        self._room, self._folders = MOST_BYTES, 0

    def unpack(self, archive: Member, depth: int = 1) -> list[Member]:
        """The wanted files of an archive and of those in it, in the order of the entries.

        Raises Problem for a file that is no zip, and for an entry that is damaged, encrypted, a link, too large, or
        named so that it would leave its folder; the entry is named.
        """
        with self.open(archive) as opened:
            return self._unpack(opened, archive, depth)

    def open(self, archive: Member) -> zipfile.ZipFile:
        """A zip whose entries are fit to be unpacked, wanted or not: an archive with one that is not is not what its
        maker made. Nothing is unpacked yet. Raises Problem."""
        try:
            if _list_bytes(archive.path) > MOST_LIST_BYTES:
                raise self._problem("lists more entries than any package has", archive)
            opened = zipfile.ZipFile(archive.path)
        except (*DAMAGE, OSError) as error:
            raise self._problem(f"cannot be read as a zip: {error}", archive, "fetch it again") from None
        for entry in opened.infolist():
            self._check(entry, archive)
        total, packed = sum(entry.file_size for entry in opened.infolist()), archive.path.stat().st_size
        if total > SMALL_BYTES and total > MOST_RATIO * packed:
            # Many small entries, or entries that share their bytes: no single one shows it.
            what = f"its entries have {total / 2**20:.0f} MiB, packed into {packed} bytes"
            raise self._problem(f"{what}, which no data is", archive)
        return opened

    def _unpack(self, opened: zipfile.ZipFile, archive: Member, depth: int) -> list[Member]:
        folders: dict[str, Path] = {}
        found: list[Member] = []
        for entry in opened.infolist():
            inner = PurePosixPath(entry.filename.replace("\\", "/"))
            is_zip = inner.suffix.lower() == ".zip"
            if entry.is_dir() or is_litter(inner) or not (is_zip or self._wanted(inner.name)):
                continue
            if is_zip and depth == DEEPEST:
                raise self._problem(f"holds '{entry.filename}', an archive too deep", archive, "unpack it")
            # Folders by number: nothing is ever written under a name that the archive chose, but the file's own.
            folder = folders.get(str(inner.parent)) or self._new_folder()
            folders[str(inner.parent)] = folder
            member = Member(folder / _name_on_disk(inner), f"{archive.name}/{inner}")
            self._write(opened, entry, member, archive)
            found += self.unpack(member, depth + 1) if is_zip else [member]
        return found

    def _new_folder(self) -> Path:
        self._folders += 1
        folder = self._into / str(self._folders)
        folder.mkdir()
        return folder

    def _write(self, opened: zipfile.ZipFile, entry: zipfile.ZipInfo, member: Member, archive: Member) -> None:
        self._room -= entry.file_size
        if self._room < 0:
            what = (
                f"unpacks to more than {MOST_BYTES / 2**30:.0f} GiB; '{entry.filename}' is the entry that does not fit"
            )
            raise self._problem(what, archive, "keep the vector layers alone")
        try:
            # zipfile ends at the size that the entry states, and its checksum must fit then.
            with disk_told(str(self._into)), opened.open(entry) as packed, member.path.open("wb") as out:
                shutil.copyfileobj(packed, out)
        except DAMAGE as error:
            raise self._problem(f"'{entry.filename}' cannot be unpacked: {error}", archive, "fetch it again") from None

    def _check(self, entry: zipfile.ZipInfo, archive: Member) -> None:
        name = entry.filename
        if _leaves(name):
            raise self._problem(f"'{name}' would be written outside the archive's folder", archive)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise self._problem(f"'{name}' is a link", archive)
        if entry.flag_bits & 1:
            raise self._problem(f"'{name}' is encrypted", archive, "unpack it with its password")
        if entry.file_size > SMALL_BYTES and entry.file_size > MOST_RATIO * entry.compress_size:
            what = f"'{name}' is {entry.file_size / 2**20:.0f} MiB packed into {entry.compress_size} bytes"
            raise self._problem(f"{what}, which no data is", archive)

    def _problem(self, what: str, archive: Member, fix: str = "fetch the archive again from its publisher") -> Problem:
        return Problem(f"{archive.name}: {what}", where=self._where, fix=fix)


def check_archive(path: Path, where: str) -> None:
    """Problem for a zip (or KMZ) that GDAL shall not read: with entries that Unpacker refuses, or larger than MOST_READ
    in all, since GDAL reads some formats whole."""
    with Unpacker(path.parent, lambda _: False, where).open(Member(path, path.name)) as opened:
        total = sum(entry.file_size for entry in opened.infolist())
    if total > MOST_READ:
        what = f"{path.name} unpacks to {total / 2**30:.1f} GiB"
        raise Problem(what, where=where, fix="unpack it, and name the vector file in it")


def _list_bytes(path: Path) -> int:
    """Of the list of entries, as the record at a zip's end says (APPNOTE 4.3.16); 0 where there is no such record."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (22 + 65535)))
        end = file.read()
    at = end.rfind(b"PK\5\6")
    return int.from_bytes(end[at + 12 : at + 16], "little") if at >= 0 else 0


def is_litter(path: PurePosixPath) -> bool:
    """What a Mac puts beside files: `__MACOSX/._a.shp`, `.DS_Store`; and other hidden files."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _name_on_disk(path: PurePosixPath) -> str:
    """The file's own; where a disk cannot have that, one that the files of a shapefile share but for the suffix."""
    if len(os.fsencode(path.name)) <= LONGEST_NAME:
        return path.name
    return hashlib.sha256(path.stem.encode("utf-8", "surrogateescape")).hexdigest()[:16] + path.suffix


def _leaves(name: str) -> bool:
    """Absolute, upwards or with a drive letter, on any system."""
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", name) is not None
