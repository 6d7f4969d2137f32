"""What the doctor looks at on this machine: versions, GDAL, disks, memory, limits, and who is writing."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harmonize.problem import Problem
from pipeline.doctor import Check

if TYPE_CHECKING:
    from pipeline.region import Region

PYTHON = (3, 11)
PACKAGES = (
    "dask", "distributed", "fsspec", "geopandas", "netcdf4", "numpy", "pandas", "pillow", "planetary-computer",
    "pyarrow", "pydantic", "pyogrio", "pyproj", "pystac-client", "rasterio", "rich", "rioxarray", "rustac", "scipy",
    "shapely", "typer", "xarray",
)  # fmt: skip
READS = ("GTiff", "COG", "netCDF")
VECTORS = ("GPKG", "GeoJSON", "ESRI Shapefile")
FREE_GB, LITTLE_GB = 2, 20
"""Of a disk: less is wrong, or little. The demo takes 2.8 GB, a region of one Sentinel-2 tile and year about 20."""
MEMORY_GB = 2
"""The demo takes 2.0 GB."""
FILES = 1024
"""Open files: parts of which shards are packed stay open, at most half of what is allowed, and workers need some."""
SKEW_S = 60
"""Signatures of addresses hold for minutes."""


def versions() -> Iterator[Check]:
    """Python and the packages that the work rests on, against constraints.txt."""
    from importlib.metadata import PackageNotFoundError, version

    here = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON:
        wanted = ".".join(map(str, PYTHON))
        yield Check("python", "wrong", f"{here}, and {wanted} or later is needed", "make setup with a newer python3")
    else:
        yield Check("python", "ok", f"{here} ({sys.prefix})")
    wanted_versions, missing, other = _constraints(), [], []
    for name in PACKAGES:
        try:
            found = version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if found != wanted_versions.get(name, found):
            other.append(f"{name} {found} (constraints.txt: {wanted_versions[name]})")
    if missing:
        yield Check("packages", "wrong", f"not installed: {', '.join(missing)}", "make setup")
    elif other:
        said = f"other versions than those this was tested with: {', '.join(other)}"
        yield Check("packages", "warning", said, "make setup")
    else:
        told = (
            "as constraints.txt has them" if wanted_versions else "installed (no constraints.txt here to compare with)"
        )
        yield Check("packages", "ok", f"{len(PACKAGES)} {told}")


def _constraints() -> dict[str, str]:
    """Package -> version in constraints.txt, for this Python and system; empty where the checkout is not there."""
    from packaging.requirements import Requirement

    path = Path(__file__).resolve().parent.parent / "constraints.txt"
    if not path.exists():
        return {}
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    needs = [Requirement(line) for line in lines if line]
    return {
        n.name: next(iter(n.specifier)).version for n in needs if n.specifier and (not n.marker or n.marker.evaluate())
    }


def gdal() -> Iterator[Check]:
    """GDAL with its drivers, and PROJ with its data."""
    import pyogrio
    import rasterio
    from rasterio.drivers import raster_driver_extensions

    with rasterio.Env() as env:
        drivers = set(env.drivers()) | set(raster_driver_extensions().values())
    missing = [name for name in READS if name not in drivers]
    missing += [name for name in VECTORS if name not in pyogrio.list_drivers()]
    said = f"GDAL {rasterio.__gdal_version__} for rasters, {pyogrio.__gdal_version_string__} for vectors"
    if missing:
        fix = "install rasterio and pyogrio as wheels: make setup"
        yield Check("gdal", "wrong", f"{said}, without {', '.join(missing)}", fix)
    else:
        yield Check("gdal", "ok", f"{said}, with {', '.join((*READS, *VECTORS))}")
    yield from _proj()
    for name in ("GDAL_DATA", "PROJ_DATA", "PROJ_LIB", "GDAL_DRIVER_PATH"):
        if os.environ.get(name):
            yield Check("gdal", "warning", f"{name} is set: it may be another installation's", f"unset {name}")


def _proj() -> Iterator[Check]:
    """A known place: the lower left corner of DESIGN's worked cell, in degrees."""
    import rasterio.warp
    from pyproj import Transformer, datadir

    wanted = (10.270, 45.149)
    found = {"pyproj": Transformer.from_crs(32632, 4326, always_xy=True).transform(600_000, 5_000_400)}
    xs, ys = rasterio.warp.transform("EPSG:32632", "EPSG:4326", [600_000], [5_000_400])
    found["rasterio"] = (xs[0], ys[0])
    for name, place in found.items():
        if max(abs(a - b) for a, b in zip(place, wanted, strict=True)) > 0.01:
            said = f"{name} puts EPSG:32632 600000 5000400 at {place[0]:.3f} {place[1]:.3f} and not at {wanted}"
            yield Check("proj", "wrong", said, "unset PROJ_DATA and PROJ_LIB, or make setup")
            return
    yield Check("proj", "ok", f"data in {datadir.get_data_dir()}")


def rustac() -> Iterator[Check]:
    """The program that serves the sample world."""
    import subprocess

    from pipeline.sandbox.server import _program

    program = _program()
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    if done.returncode:
        yield Check("rustac", "wrong", f"{program} does not run (exit code {done.returncode})", "make setup")
    else:
        yield Check("rustac", "ok", f"{done.stdout.strip()} ({program})")


def machine() -> Iterator[Check]:
    """Cores, memory, open files, scratch folder; a container's limits count."""
    import resource

    import psutil
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    yield Check("cores", "ok", f"{CPU_COUNT} (the machine has {os.cpu_count()})")
    total, free = MEMORY_LIMIT / 1e9, min(psutil.virtual_memory().available, MEMORY_LIMIT) / 1e9
    said = f"{free:.1f} of {total:.1f} GB free"
    fix = "end other programs; --scheduler serial takes less, as one process works"
    yield Check("memory", "ok" if free >= MEMORY_GB else "warning", said, fix)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < FILES
    yield Check("open files", "warning" if few else "ok", f"{soft} at once", f"ulimit -n {FILES} (at most {hard})")
    scratch = Path(tempfile.gettempdir())
    yield _space("scratch", scratch, f"{scratch}", "name another folder: export TMPDIR=…")


def place(name: str, where: str) -> Iterator[Check]:
    """OUT or RUNS: whether it can be written, has locks and room, and whose clock it keeps. Leaves nothing behind."""
    if "://" in where:
        yield _bucket(name, where)
        return
    folder = next(p for p in (Path(where).absolute(), *Path(where).absolute().parents) if p.exists())
    said = where if folder == Path(where).absolute() else f"{where} (to be made in {folder})"
    fix = f"name another {name}=…, or let this user write there"
    if not folder.is_dir():
        yield Check(name, "wrong", f"{folder} is no folder", fix)
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", suffix=".tmp") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            written = os.fstat(file.fileno()).st_mtime
            has_locks = _has_locks(file.fileno())
    except OSError as error:
        yield Check(name, "wrong", f"cannot write in {folder}: {error.strerror}", fix)
        return
    yield _space(name, folder, said, f"free some, or name another {name}=…")
    if not has_locks:
        yield Check(name, "warning", f"{folder}: this file system has no locks", "run one command at a time there")
    if abs(written - time.time()) > SKEW_S:
        said = f"the clock of {folder} and this machine's differ by {abs(written - time.time()):.0f} s"
        yield Check("clock", "warning", said, "set both by NTP")


def _has_locks(file: int) -> bool:
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _space(what: str, folder: Path, said: str, fix: str) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    files = os.statvfs(folder)
    if files.f_files and files.f_favail < 10_000:
        return Check(what, "wrong", f"{said}: room for {files.f_favail} more files only", fix)
    least = FREE_GB if what != "scratch" else 0.2
    state = "wrong" if free < least else "warning" if free < LITTLE_GB and what != "scratch" else "ok"
    return Check(what, state, f"{said}: {free:.1f} GB free", fix)  # type: ignore[arg-type]


def _bucket(name: str, where: str) -> Check:
    """A bucket: whether its package is there and it can be listed. Nothing is written."""
    from pipeline.access import unsigned
    from pipeline.store import Store

    said = unsigned(where)
    if name == "RUNS":
        return Check(name, "wrong", f"{said}: runs are written into a folder", "RUNS=<folder of this machine>")
    try:
        store = Store(where)
        store.list("receipts")
    except Problem as problem:  # its package is not installed, or it is no address
        return Check(name, "wrong", problem.what, problem.fix)
    except Exception as error:  # each store has exceptions of its own, and their text may hold what is secret
        return Check(
            name, "warning", f"{said} does not answer ({type(error).__name__})", "check network and credentials"
        )
    return Check(name, "ok", f"{said} answers")


def writers(region: Region | None, out: str) -> Iterator[Check]:
    """Who is writing the region now, and what a killed run left."""
    from harmonize.lock import holder_of

    if region is None or "://" in out:
        return
    holder = holder_of(Path(out) / region.name)
    if holder:
        yield Check("lock", "warning", f"{region.name} is being written: {holder}", "let it end, or add --wait")
    else:
        yield Check("lock", "ok", f"nobody is writing {region.name}")
