"""Files that are fetched whole before they are read: vector labels at an address. Rasters are read where they lie."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harmonize.disk import disk_problem
from harmonize.problem import Problem
from pipeline import retry
from pipeline.access import reachable
from pipeline.reach import reach_of
from pipeline.region import Region
from pipeline.retry import GaveUp, Passing, broken, check_answer, insist

if TYPE_CHECKING:
    import requests

MOST_BYTES = 8 << 30
"""Of one file, unpacked; a larger one is for a person to fetch."""
PIECE_BYTES = 1 << 16
"""Taken of a body at once: as deflate it unpacks to 67 MB at the most."""
PACKINGS = ("", "identity", "gzip", "x-gzip", "deflate")
"""Content-Encodings that are unpacked: one, and none that makes gigabytes of a piece."""
PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html)", re.IGNORECASE)
"""How a web page begins; servers also send one without saying so."""
COPY = re.compile(r"[0-9a-f]{16}-(?P<sha256>[0-9a-f]{64})-(?P<size>\d+)-")
"""How a copy's name begins: its address, and its content as it came."""
DRAFT = re.compile(r"\.[0-9a-f]{16}-(?P<host>.+)-(?P<pid>\d+)\.tmp")
LEFT_S = 3600.0
"""A draft that nothing was written to for so long is a killed run's, wherever it ran: a fetch takes no such pause."""


def downloads_of(region: Region) -> Path:
    """Where fetched files are kept, for all regions of an OUT; beside the sample world, so a bucket's are local too."""
    return region.world.parent / "downloads"


def suffix_of(href: str) -> str:
    """The suffix of a file's name, lower case, whatever the query behind it."""
    return PurePosixPath(urlsplit(href).path if "://" in href else href).suffix.lower()


def fetched(href: str, sign: str, folder: Path, where: str, trusted: bool = False) -> Path:
    """A local copy of the file at an http(s) address, made if it is not there yet; it is whole or not there.

    Its address stands for its content: it is not asked whether it has changed; remove the copy to fetch it again. A
    copy that is not as it came any more is fetched again. A redirect leads no nearer to this machine than the address
    is, unless its source is trusted. Raises Problem where it cannot be fetched.
    """
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(urlsplit(href).path).name)[-100:]
    stem = hashlib.sha256(href.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        for copy in sorted(folder.glob(f"{stem}-*")):
            if _as_it_came(copy):
                return copy
            copy.unlink(missing_ok=True)
            retry.count("download of a changed copy")
        draft = folder / f".{stem}-{socket.gethostname()[:64]}-{os.getpid()}.tmp{suffix_of(href)}"
        try:
            insist("download", lambda: _fetch(href, sign, draft, where, trusted))
            with draft.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            target = folder / f"{stem}-{content}-{draft.stat().st_size}-{name}"
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except GaveUp as error:
        fix = "run the same command again later, or fetch the file by hand and give its path as href"
        raise Problem(f"{name} cannot be fetched: {error}", where=where, fix=fix, code=error.code) from None
    except OSError as error:
        fix = "mend that (it may be a right that is missing), or use another OUT"
        told = Problem(f"{name} cannot be stored: {error.strerror}", where=str(folder), fix=fix)
        raise disk_problem(error, str(folder)) or told from None
    return target


def _as_it_came(copy: Path) -> bool:
    told, now = COPY.match(copy.name), copy.stat()
    if told is None or int(told["size"]) != now.st_size:
        return False
    return _sha256(copy, now.st_size, now.st_mtime_ns, now.st_ino) == told["sha256"]


@functools.lru_cache
def _sha256(copy: Path, *_: int) -> str:
    """Read once in a process as long as size, time and inode stay."""
    with copy.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sweep(folder: Path) -> None:
    """Remove the drafts of killed runs."""
    for draft in folder.glob(".*.tmp*"):
        made = DRAFT.match(draft.name)
        ours = made is not None and made["host"] == socket.gethostname()[:64]
        try:
            dead = not _is_alive(int(made["pid"])) if made and ours else time.time() - draft.stat().st_mtime > LEFT_S
        except FileNotFoundError:
            continue  # another run has just ended its own
        if dead:
            draft.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def _fetch(href: str, sign: str, draft: Path, where: str, trusted: bool) -> None:
    """One try. Raises Passing; a body that is shorter than its Content-Length is one (urllib3 counts), and so is one
    of no told length that cannot be read."""
    import requests

    address = reachable(href, sign)
    timeout = retry.PATIENCE.connect_s, retry.PATIENCE.read_s
    try:
        with _session(href, trusted, where) as session, session.get(address, stream=True, timeout=timeout) as response:
            if sign == "planetary-computer" and response.status_code in (401, 403):
                from pipeline.signing import renew

                renew(href, address)
            check_answer(response)
            _keep(response, draft, where)
            has_end = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    except requests.Timeout:
        raise Passing(f"no answer within {retry.PATIENCE.read_s:g} s") from None
    except requests.RequestException as error:
        raise Passing(broken(error)) from None
    if not has_end:
        _check_readable(draft)


def _session(href: str, trusted: bool, where: str) -> requests.Session:
    import requests

    from pipeline.stac_io import GuardedAdapter

    session = requests.Session()
    fix = "give the address of the file itself; if it is yours, write trusted = true into its source"
    for scheme in ("http://", "https://"):
        session.mount(scheme, GuardedAdapter(reach_of(href, trusted), where, "the address of a label file", fix))
    session.headers["Accept-Encoding"] = "identity"
    return session


def _keep(response: requests.Response, draft: Path, where: str) -> None:
    if response.headers.get("Content-Encoding", "").strip().lower() not in PACKINGS:
        raise Passing("it is packed in a way that is not read", hasty=True)
    told = response.headers.get("Content-Length", "").strip()
    _check_size(int(told) if told.isdecimal() else 0, where)
    written = 0
    with draft.open("wb") as out:
        for piece in response.iter_content(PIECE_BYTES):
            if written == 0 and PAGE.match(piece):
                raise Passing("a web page came", hasty=True)
            written += len(piece)
            _check_size(written, where)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())


def _check_size(size: int, where: str) -> None:
    if size > MOST_BYTES:
        what = f"a label file at an address has more than {MOST_BYTES / 2**30:g} GiB"
        raise Problem(what, where=where, fix="check href; fetch the file by hand and give its path as href")


def _check_readable(draft: Path) -> None:
    """Passing for what is no vector file: of a body without a told length nobody sees that it was cut."""
    import pyogrio

    from pipeline.vector_checks import check_whole, damage_told

    try:
        with damage_told("it", str(draft)):
            check_whole(draft)
            if draft.suffix == ".parquet":
                import pyarrow.parquet as pq

                pq.read_metadata(draft)
            else:
                pyogrio.read_info(draft)
    except Problem:
        seen = "it cannot be read, and may have been cut: the server does not tell its length"
        raise Passing(seen, hasty=True) from None
