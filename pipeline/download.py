"""Files that are fetched whole before they are read: vector labels at an address. Rasters are read where they lie."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harmonize.problem import Problem
from pipeline import retry
from pipeline.access import reachable
from pipeline.region import Region
from pipeline.retry import GaveUp, Passing, broken, check_answer, insist

if TYPE_CHECKING:
    import requests

BLOCK = 2**20
PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html)", re.IGNORECASE)
"""How a web page begins; servers also send one without saying so."""


def downloads_of(region: Region) -> Path:
    """Where fetched files are kept, for all regions of an OUT; beside the sample world, so a bucket's are local too."""
    return region.world.parent / "downloads"


def suffix_of(href: str) -> str:
    """The suffix of a file's name, lower case, whatever the query behind it."""
    return PurePosixPath(urlsplit(href).path if "://" in href else href).suffix.lower()


def fetched(href: str, sign: str, folder: Path, where: str) -> Path:
    """A local copy of the file at an http(s) address, made if it is not there yet; it is whole or not there.

    Its address stands for its content: it is not asked whether it has changed; remove the copy to fetch it again.
    Raises Problem where it cannot be fetched.
    """
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(urlsplit(href).path).name)[-100:]
    target = folder / f"{hashlib.sha256(href.encode()).hexdigest()[:16]}-{name}"
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            insist("download", lambda: _fetch(href, sign, draft))
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except GaveUp as error:
        fix = "run the same command again later, or fetch the file by hand and give its path as href"
        raise Problem(f"{name} cannot be fetched: {error}", where=where, fix=fix, code=error.code) from None
    except OSError as error:
        raise Problem(f"{name} cannot be stored: {error.strerror}", where=str(folder), fix="make room") from None
    return target


def _fetch(href: str, sign: str, draft: Path) -> None:
    """One try. Raises Passing; a body that is shorter than its Content-Length is one (urllib3 counts)."""
    import requests

    address = reachable(href, sign)
    timeout = retry.PATIENCE.connect_s, retry.PATIENCE.read_s
    try:
        with requests.get(address, stream=True, timeout=timeout) as response:
            if sign == "planetary-computer" and response.status_code in (401, 403):
                from pipeline.signing import renew

                renew(href, address)
            check_answer(response)
            _keep(response, draft)
    except requests.Timeout:
        raise Passing(f"no answer within {retry.PATIENCE.read_s:g} s") from None
    except requests.RequestException as error:
        raise Passing(broken(error)) from None


def _keep(response: requests.Response, draft: Path) -> None:
    with draft.open("wb") as out:
        for k, block in enumerate(response.iter_content(BLOCK)):
            if k == 0 and PAGE.match(block):
                raise Passing("a web page came", hasty=True)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
