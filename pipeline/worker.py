"""The other end of a job: what a dask worker does with it, and what must be equal there and here."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import platform
import socket
import traceback
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.disk import disk_problem
from harmonize.problem import Problem
from harmonize.secrets import guard_logs, redacted

if TYPE_CHECKING:
    from pipeline.work import Work

PACKAGES = ("numpy", "pyarrow", "rasterio", "rioxarray", "shapely", "pyproj", "pillow")
"""What decides bytes besides our own code: workers must have the same versions."""


def perform(expected: dict[str, str], job: bytes) -> Any:
    """Run a pickled job on a worker that has the same code and sees the same files.

    A Problem is given back, not raised: exceptions travel with all that led to them, and GDAL's cannot be pickled.
    """
    guard_logs()
    try:
        _check_same(expected)
        function, work, argument = pickle.loads(job)  # noqa: S301  our own bytes, from a scheduler that may run anything
        _check_shared(work)
        work.store.writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        return function(work, argument)
    except Problem as problem:
        return Problem(problem.what, where=problem.where, fix=problem.fix, code=problem.code)
    except Exception as error:
        if isinstance(error, OSError) and (told := disk_problem(error, f"worker on {socket.gethostname()}")):
            return told
        text = "".join(traceback.format_exception(error))
        if redacted(text) == text:
            raise
    # Outside the block: the exception with the secret in its message must not travel as what led to this one.
    raise RuntimeError(redacted(text))


def _check_same(expected: dict[str, str]) -> None:
    mine = about()
    differs = [f"{name} {mine[name]} (here {expected[name]})" for name in expected if mine.get(name) != expected[name]]
    if differs:
        raise Problem(
            f"a worker has another version: {', '.join(differs)}",
            where=f"worker on {socket.gethostname()}",
            fix="start the workers in the same environment, again after every change of the code",
        )


def _check_shared(work: Work) -> None:
    if not work.store.remote and not Path(work.store.root).is_dir():
        raise Problem(
            f"a worker does not see {work.store.root}",
            where=f"worker on {socket.gethostname()}",
            fix="OUT, the manifests and local imagery must be on a file system that all workers share, or in a bucket",
        )


@functools.cache
def about() -> dict[str, str]:
    """What must be equal here and on the workers, so that a corpus does not depend on where it was made."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("closp", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    code = hashlib.sha256()
    here = Path(__file__).resolve().parent
    for path in sorted([*here.rglob("*.py"), *(here.parent / "harmonize").rglob("*.py")]):
        code.update(path.read_bytes())
    return found | {"code": code.hexdigest()[:12]}
