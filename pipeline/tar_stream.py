"""A tar read once, from its start to its end: hashed on the way, its members given one by one, never held whole.

Python's own tarfile takes longer over the headers of our samples than sha256 over their bytes, and walks by seeking,
which a bucket answers slowly. Layout of a header: POSIX ustar (pubs.opengroup.org/onlinepubs/9699919799, pax).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

RECORD = 512
"""Bytes of a header; data is padded to a multiple of it."""
BLOCK = 1 << 18
"""Bytes read at once: they are hashed and looked at while they are still in the processor's cache."""
PLAIN = (b"0", b"\0")
"""Kinds of a plain file."""
_ZEROS = bytes(RECORD)
_BLANK = 8 * ord(" ")
"""The checksum counts its own field as blanks."""


class BrokenTar(Exception):
    """This is no tar from here on: the text says why, in words that follow the file's name."""


class Member(NamedTuple):
    """A file of the tar; its data is still to be taken or passed over."""

    name: str
    kind: bytes
    offset: int
    """Of its data, from the start of the tar."""
    size: int


class TarStream:
    """The members of an open tar, in order. `strict` also sums up each header: dear, and the hash covers them."""

    def __init__(self, file: Any, strict: bool = False) -> None:
        self.position = 0
        self._file, self._strict, self._hash = file, strict, hashlib.sha256()
        self._block = memoryview(bytearray(BLOCK))
        self._at = self._end = 0
        """What of the block was not given out yet."""

    def members(self) -> Iterator[Member]:
        """Every member; what of it was not taken is passed over. Raises BrokenTar."""
        following = 0
        while True:
            self._pass(following - self.position)
            header = self.take(RECORD)
            if header[:1] == b"\0" and header == _ZEROS:
                if self.take(RECORD) != _ZEROS:
                    raise BrokenTar(f"has a record of zeros at byte {self.position - 2 * RECORD}, and then more")
                return
            member = _member(header, self.position, self._strict)
            following = self.position + -(-member.size // RECORD) * RECORD
            yield member

    def take(self, count: int) -> bytes:
        """The next bytes. Raises BrokenTar where the file ends before."""
        self.position += count
        start, stop = self._at, self._at + count
        if stop <= self._end:
            self._at = stop
            return bytes(self._block[start:stop])
        parts, left = [bytes(self._block[start : self._end])], stop - self._end
        while left:
            self._fill()
            self._at = min(left, self._end)
            parts.append(bytes(self._block[: self._at]))
            left -= self._at
        return b"".join(parts)

    def _pass(self, count: int) -> None:
        self.position += count
        while count > self._end - self._at:
            count -= self._end - self._at
            self._fill()
        self._at += count

    def _fill(self) -> None:
        self._at, self._end = 0, self._file.readinto(self._block)
        if not self._end:
            raise BrokenTar("ends in the middle")
        self._hash.update(self._block[: self._end])

    def rest(self) -> str:
        """Read what is left of the file; the sha256 (hex) of all of it."""
        while count := self._file.readinto(self._block):
            self._hash.update(self._block[:count])
        return self._hash.hexdigest()


def _member(header: bytes, offset: int, strict: bool) -> Member:
    try:
        size, ustar = int(header[124:135], 8), header[257:262] == b"ustar"
        if size < 0:  # int() takes a minus, and the walk would go backwards for ever
            raise ValueError
        if (strict or not ustar) and int(header[148:156].strip(b"\0 "), 8) != _checksum(header):
            raise ValueError
        name = header[: header.index(0)] if not header[99] else header[:100]
        if ustar and header[345]:
            name = header[345:500].rstrip(b"\0") + b"/" + name
        return Member(name.decode(), header[156:157], offset, size)
    except ValueError:
        raise BrokenTar(f"has no readable header at byte {offset - RECORD}") from None


def _checksum(header: bytes) -> int:
    return sum(header) - sum(header[148:156]) + _BLANK
