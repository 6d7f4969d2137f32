"""Which files a region's label sources are: named by the manifest, or the assets of STAC items."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize.manifest import is_there
from harmonize.problem import Problem
from pipeline.access import unsigned
from pipeline.catalog import Item, checked_item, read_items
from pipeline.download import downloads_of, fetched, suffix_of
from pipeline.item import day_shown, footprint, name_of
from pipeline.label_search import label_items
from pipeline.reach import check_href
from pipeline.region import LabelUse, Region
from pipeline.sandbox import SCHEME
from pipeline.source import Source
from pipeline.vector import SUFFIXES
from pipeline.work import Work


@dataclass(frozen=True, eq=False)
class LabelFile:
    """One file of a label source."""

    source: Source
    href: str
    date: dt.date | None
    where: str
    footprint: Any = None


def is_watched(href: str, region: Region) -> bool:
    """Local files are watched for changes, but not those of the sample world, whose version stands for them, and not
    fetched ones, whose address does."""
    ours = (region.world, downloads_of(region))
    return "://" not in href and not any(Path(href).is_relative_to(folder) for folder in ours)


def files_of(work: Work, name: str, notes: list[str]) -> list[LabelFile]:
    """All files of a source, in the order of the manifest; a source may be named with one file after another."""
    return [f for k, use in enumerate(work.region.labels) if use.source == name for f in _files(work, k, use, notes)]


def where_of(region: Region, k: int) -> str:
    return f"{region.path}, key 'labels[{k}]' ({region.labels[k].source})"


def href_of(use: LabelUse, source: Source, region: Region) -> str:
    href = use.href or source.href or ""
    if href.startswith(SCHEME) or (use.href and "://" not in href):
        return str(region.relative(href).resolve())  # a job may run in another folder
    path = source.path_of(href)
    return path if "://" in path or path.startswith("/vsi") else str(Path(path).resolve())


def _files(work: Work, k: int, use: LabelUse, notes: list[str]) -> Iterator[LabelFile]:
    source, where = work.region.source(use.source), where_of(work.region, k)
    if use.href or source.href:
        yield LabelFile(source, _here(_named_file(work.region, k), source, work, where), use.date, where)
        return
    items = read_items(source, where) if source.items else label_items(work, use, where, notes)
    yield from _of_items(items, work, use, where)


def _named_file(region: Region, k: int) -> str:
    """The one file that the manifest, or else the source, names."""
    use = region.labels[k]
    source = region.source(use.source)
    href = href_of(use, source, region)
    if "://" not in href and not href.startswith("/vsi") and not is_there(Path(href)):
        base = "the manifest's folder" if use.href else f"{source.base}; a region gives its own href"
        raise Problem(
            f"there is no label file {href}", where=where_of(region, k), fix=f"check href; it is relative to {base}"
        )
    return href


def check_named_files(region: Region) -> None:
    """Before anything is asked of an archive: the label files that are named are there."""
    for k, use in enumerate(region.labels):
        source = region.source(use.source)
        href = use.href or source.href
        if href and not href.startswith(SCHEME):
            _named_file(region, k)


def _of_items(items: list[Item], work: Work, use: LabelUse, where: str) -> Iterator[LabelFile]:
    source = work.region.source(use.source)
    if source.asset is None:
        raise Problem("the label source does not name its asset", where=where, fix="add asset = 'data' to the source")
    for item in items:
        checked_item(item, item["_file"])
        place = f"{name_of(item)}, key 'assets.{source.asset}'"
        named = unsigned(str(item["assets"].get(source.asset, {}).get("href") or ""))
        if named:
            check_href(named, source, place)
        href = work.openable(named)
        if not named or ("://" not in href and not is_there(Path(href))):
            raise Problem(
                "the label asset is missing", where=place, fix=f"assets there: {', '.join(sorted(item['assets']))}"
            )
        href = _here(href, source, work, name_of(item))
        yield LabelFile(source, href, use.date or day_shown(item), where, footprint(item))


def _here(href: str, source: Source, work: Work, where: str) -> str:
    """A vector file at an address as a local one; rasters are read where they lie."""
    if href.startswith(("http://", "https://")) and suffix_of(href) in SUFFIXES:
        return str(fetched(href, source.sign, downloads_of(work.region), where, source.trusted))
    return href


def check_kinds(files: list[LabelFile]) -> None:
    if len({is_vector(f) for f in files}) > 1:
        raise Problem(
            "a label source has vector and raster files for one day",
            where=files[0].where,
            fix="make two sources of them; their order in the manifest says which one rules",
        )


def is_vector(file: LabelFile) -> bool:
    return Path(file.href).suffix.lower() in SUFFIXES
