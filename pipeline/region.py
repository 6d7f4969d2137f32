"""Region: the manifest of where, when and what a corpus is (manifests/regions/*.toml)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from harmonize.manifest import is_there
from harmonize.problem import Problem, nearest
from pipeline.access import without_secrets
from pipeline.event import Event
from pipeline.manifest import Day, Manifest, parse, read_toml
from pipeline.sample import LARGEST_PX
from pipeline.sandbox import SCHEME, path_of, size_named_by, size_of
from pipeline.source import Source, known_sources, load_sources, read_crosswalk

Share = Field(ge=0, le=1)


class Imagery(Manifest):
    """One use of an imagery source."""

    source: str
    """Name of an imagery source."""
    per_cell: int = Field(default=2, ge=1, le=100_000)
    """Acquisitions kept per cell and sensor."""
    orbit: Literal["any", "ascending", "descending"] = "any"
    """Pass, for S1."""
    max_days_apart: float = Field(default=6, ge=0, le=36_500)
    """Days between an S1 acquisition and the S2 acquisition it goes with."""


class LabelUse(Manifest):
    """One use of a label source; the order in the manifest is the order of precedence."""

    source: str
    """Name of a label source; it may be named several times, with a file each."""
    href: str | None = None
    """File of this region, before the source's own."""
    date: Day | None = None
    """Day an undated file shows."""

    _plain_href = field_validator("href")(without_secrets)


class Captions(Manifest):
    style: Literal["paper", "rich"] = "paper"
    """Which of the two captions goes into <chip_id>.txt."""
    min_share: float = Field(default=0.05, ge=0, le=1)
    """Area share from which a class counts; 0 = any pixel."""


class Split(Manifest):
    method: Literal["spatial", "stratified"] = "spatial"
    """spatial: by block, whatever the region. stratified: each class has its share in each split of this region."""
    block_km: float = Field(default=12, ge=0.1, le=2000)
    """Side of a block."""
    events: Literal["whole", "blocks"] = "whole"
    """whole: all chips of an event that are kept are of one split. blocks: they may be of several, as they always may
    where the split is stratified."""
    train: float = Share
    val: float = Share
    test: float = Share

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        """Default shares and the default for events. The paper's protocol is 20 % / 80 %, val carved from train; it
        deals out cells by their labels alone, so an event's chips go to every split."""
        if not isinstance(data, dict):
            return data
        paper = data.get("method") == "stratified"
        if paper and data.get("events") == "whole":
            raise ValueError(
                "a stratified split deals out cells by their labels, so no event stays whole | use method = 'spatial' "
                "to keep events whole, or leave out 'events'"
            )
        given: dict[str, Any] = {"events": "blocks"} if paper else {}
        if not {"train", "val", "test"} & set(data):
            given |= {"train": 0.18, "val": 0.02, "test": 0.8} if paper else {"train": 0.7, "val": 0.1, "test": 0.2}
        return {**given, **data}

    @model_validator(mode="after")
    def _sum(self) -> Split:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test is {total:g} | make them sum to 1")
        return self


class Shards(Manifest):
    quicklook: bool = True
    """Whether samples have a .jpg."""
    shard_mb: float = Field(default=256, gt=0, le=1_000_000)
    """Size of a tar, about."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the order of samples."""


class Region(Manifest):
    """Where, when and what."""

    path: Path = Field(exclude=True, default=Path())
    """The file this was read from; not part of any hash."""
    world: Path = Field(exclude=True, default=Path("data/sandbox"))
    """Folder of the embedded sample worlds, for `sandbox://` hrefs; not part of any hash."""

    name: str
    """The file's stem; names the region's folder."""
    bounds: tuple[float, float, float, float] | None = None
    """west, south, east, north in degrees (EPSG:4326); west > east for a region across the antimeridian."""
    geometry: str | None = None
    """Vector file of polygons."""
    mgrs: tuple[str, ...] | None = Field(default=None, min_length=1)
    """MGRS tiles such as 32TQR: their 100 km squares."""
    start: Day
    """First day, UTC."""
    end: Day
    """Last day, included."""
    size_px: int = Field(default=120, gt=0, le=LARGEST_PX)
    """Side of a chip in 10 m pixels; a multiple of 6, so that 20 m and 60 m pixels nest."""
    max_cloud: float = Field(default=0.10, ge=0, le=1)
    """Share of a chip in cloud, shadow or cirrus (SCL); 1: clouds are not looked at."""
    max_nodata: float = Field(default=0.05, ge=0, le=1)
    """Share of a chip without data."""
    imagery: tuple[Imagery, ...] = Field(min_length=1)
    labels: tuple[LabelUse, ...] = ()
    events: tuple[Event, ...] = ()
    captions: Captions = Captions()
    split: Split = Field(default_factory=lambda: Split.model_validate({}))
    shards: Shards = Shards()
    sources: dict[str, Source] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
            raise ValueError(f"'{value}' names a folder | use lower-case letters, digits, - and _")
        return value

    @field_validator("size_px")
    @classmethod
    def _nests(cls, value: int) -> int:
        if value % 6:
            below = value // 6 * 6
            raise ValueError(f"{value} is not a multiple of 6, so 60 m pixels do not nest | use {below} or {below + 6}")
        return value

    @field_validator("bounds")
    @classmethod
    def _bounds(cls, value: tuple[float, float, float, float] | None) -> Any:
        if value is None:
            return value
        west, south, east, north = value
        if south >= north:
            raise ValueError(f"south {south:g} is not less than north {north:g} | order: west, south, east, north")
        if not (min(west, east) >= -180 and max(west, east) <= 180 and south >= -90 and north <= 90):
            raise ValueError("bounds are outside the world | give degrees, longitude -180..180, latitude -90..90")
        if west == east or (west > east and east + 360 - west > 180):
            raise ValueError(
                f"west {west:g} is not less than east {east:g} | order: west, south, east, north; "
                "a region across the antimeridian has west > east, as in 179, -18, -179, -17"
            )
        return value

    @model_validator(mode="after")
    def _whole(self) -> Region:
        places = [key for key in ("bounds", "geometry", "mgrs") if getattr(self, key) is not None]
        if len(places) != 1:
            said = " and ".join(places) or "none"
            raise ValueError(f"a region needs one of bounds, geometry, mgrs; here: {said} | keep one")
        if self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start} | swap them")
        taken = {use.source: f"the label source labels[{k}]" for k, use in enumerate(self.labels)}
        for k, event in enumerate(self.events):
            if event.id in taken:
                raise ValueError(f"'events[{k}].id' is '{event.id}', and so is {taken[event.id]} | give it another id")
            taken[event.id] = f"events[{k}]"
        return self

    @property
    def used(self) -> list[str]:
        """Names of the sources this region uses, imagery first."""
        return list(dict.fromkeys([*(u.source for u in self.imagery), *(u.source for u in self.labels)]))

    def source(self, name: str) -> Source:
        return self.sources[name]

    def relative(self, path: str) -> Path:
        """A path of this manifest: relative paths start at its folder, `sandbox://` is a file of the sample world."""
        return path_of(path, self.world) if path.startswith(SCHEME) else self.path.parent / path

    @property
    def worlds(self) -> list[str]:
        """Sizes of the sample worlds that anything of this region comes from."""
        hrefs = [self.geometry, *(href for event in self.events for href in (event.href, event.analysed, event.damage))]
        hrefs += [use.href for use in self.labels] + [source.href for source in self.sources.values()]
        sizes = [size_of(source.api) for source in self.sources.values()]
        return sorted({size for size in [*sizes, *map(size_named_by, hrefs)] if size})


def load_region(path: str | Path) -> Region:
    """The region of a manifest file, with every source it uses resolved and checked.

    Raises Problem, naming file, key and fix, for anything a person got wrong.
    """
    path = Path(path)
    data = read_toml(path)
    own = load_sources(data.pop("sources", {}), path, "sources.")
    region = parse(Region, {**data, "path": path}, path)
    if region.name != path.stem:
        raise Problem(
            f"name is '{region.name}' but the file is called '{path.name}'",
            where=f"{path}, key 'name'",
            fix=f'write name = "{path.stem}", or rename the file to {region.name}.toml',
        )
    known = {**known_sources(), **own}
    uses = [(f"imagery[{k}]", use.source, "imagery") for k, use in enumerate(region.imagery)]
    uses += [(f"labels[{k}]", use.source, "labels") for k, use in enumerate(region.labels)]
    for key, name, kind in uses:
        _check_use(path, key, name, kind, known)
    for k, event in enumerate(region.events):
        _check_event(region, k, event)
    used = {name: known[name] for _, name, _ in uses}
    for k, use in enumerate(region.labels):
        _check_label(path, k, use, used[use.source])
    return region.model_copy(update={"sources": used})


def _check_use(path: Path, key: str, name: str, kind: str, known: dict[str, Source]) -> None:
    where = f"{path}, key '{key}.source'"
    if name not in known:
        raise Problem(
            f"unknown source '{name}'",
            where=where,
            fix=nearest(name, known) + "; or add a table [sources." + name + "]",
        )
    if known[name].kind != kind:
        fix = f"use a source of kind '{kind}'"
        raise Problem(f"source '{name}' is of kind '{known[name].kind}'", where=where, fix=fix)


def _check_label(path: Path, k: int, use: LabelUse, source: Source) -> None:
    if not (use.href or source.href or source.items or source.api):
        raise Problem(
            f"label source '{use.source}' does not say where its file is",
            where=f"{path}, key 'labels[{k}].href'",
            fix="add href = 'path/to/file.tif' there, or items / api to the source",
        )
    read_crosswalk(source, f"{path}, key 'labels[{k}]' ({use.source}), its crosswalk")


def _check_event(region: Region, k: int, event: Event) -> None:
    where = f"{region.path}, key 'events[{k}]' ({event.id})"
    for key, href in (("href", event.href), ("analysed", event.analysed), ("damage", event.damage)):
        # A file of the sample world is there once the world is.
        if not href or href.startswith(SCHEME):
            continue
        path = region.relative(href)
        is_package = event.source == "cems" and key == "href"
        if is_package and is_there(path) and path.is_file() and path.suffix.lower() != ".zip":
            fix = (
                "name the folder that it lies in, with its other layers; or read this file alone as source = 'geojson'"
            )
            raise Problem(
                f"{path.name} is no package of Rapid Mapping, which is a folder or a .zip", where=where, fix=fix
            )
        may_be_folder = is_package or key == "damage"
        if not (is_there(path) and (may_be_folder or path.is_file())):
            what = "event package" if is_package else "event file"
            fix = f"check {key}; it is relative to the manifest's folder"
            raise Problem(f"there is no {what} {path}", where=where, fix=fix)
