"""Source: a collection of imagery or labels somewhere, as manifests/sources.toml describes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from harmonize.crosswalk import Crosswalk, parse_crosswalk
from harmonize.manifest import is_there
from harmonize.problem import Problem
from pipeline.access import without_secrets
from pipeline.manifest import Manifest, parse, read_toml
from pipeline.sample import CANONICAL_BANDS
from pipeline.sandbox import NAMES, size_of

LONGEST_NAME = 100
MOST_CROSSWALK_BYTES = 4 << 20
"""The largest that we know has 44 codes in 4 kB."""


class Source(Manifest):
    """Where a collection is, which assets it has and what their numbers mean."""

    base: Path = Field(exclude=True, default=Path())
    """Folder of the manifest this source stands in; relative paths start here. Not part of any hash."""

    kind: Literal["imagery", "labels"]
    sensor: Literal["s1", "s2"] | None = None
    api: str | None = None
    """Address of a STAC API; or "sandbox", the embedded sample world."""
    items: str | None = None
    """A catalogue on disk: items/*.json, one .json or .parquet."""
    trusted: bool = False
    """Whether items of the api may name files of this machine and addresses of its network, as a catalogue on disk and
    an API on this machine may (see reach)."""
    href: str | None = None
    """File of a label source."""
    collection: str | None = None
    """STAC collection."""
    sign: Literal["none", "planetary-computer", "requester-pays"] = "none"
    baseline_offset: bool = False
    """Subtract 1000 from items of baseline >= 04.00 (false where the provider has done it)."""
    assets: dict[str, str] = Field(default_factory=dict)
    """Band -> asset key of the STAC item."""
    scene_classes: str | None = None
    """Asset key of the scene classification (SCL); absent: no screening by cloud."""
    unit: Literal["power", "db", "amplitude"] = "power"
    nodata: float | tuple[float, ...] = ()
    licence: str = "unknown"
    attribution: str = ""
    """The sentence that its licence wants beside what is made of it. `{years}` stands for the years that are used."""
    crosswalk: str | None = None
    """Name of a CSV in manifests/labels, or a path to one."""
    asset: str | None = None
    """Asset key of a label source whose files come as STAC items."""
    attribute: str | None = None
    """Field of a vector file that holds the class code."""
    layer: str | None = None
    """Layer of a vector file that has several."""
    band: Annotated[int, Field(ge=1, le=65_535)] | str | None = None
    """Band of a label raster that holds the codes: its number from 1, or its name; needed where there are several."""
    probabilities: int | None = Field(default=None, ge=2, le=1000)
    """The first so many bands of a label raster are class probabilities: the code is the highest one's number, from 0.
    9 for Dynamic World's, in its order: water, trees, …, snow_and_ice."""

    @property
    def nodata_values(self) -> tuple[float, ...]:
        return self.nodata if isinstance(self.nodata, tuple) else (self.nodata,)

    @property
    def asset_keys(self) -> set[str]:
        """Keys of the assets that are read of each item."""
        return {key for key in (*self.assets.values(), self.scene_classes, self.asset) if key}

    @field_validator("href", "items", "api")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("must not be empty | give a path or an address")
        return value

    _plain_href = field_validator("href")(without_secrets)

    @field_validator("api")
    @classmethod
    def _without_secrets(cls, value: str | None) -> str | None:
        """An API's address stands in receipts and messages."""
        if value and "://" in value and ("?" in value or "@" in value):
            raise ValueError(
                "an address with a key or password would be written into tables | give the plain address; "
                "keys belong into the environment (PC_SDK_SUBSCRIPTION_KEY, ~/.netrc)"
            )
        return value

    @field_validator("api")
    @classmethod
    def _known_world(cls, value: str | None) -> str | None:
        if (size := size_of(value)) and size not in NAMES:
            raise ValueError(f"there is no sample world '{size}' | use api = 'sandbox' or 'sandbox:tiny'")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Source:
        if self.api and not self.collection:
            raise ValueError("a STAC API is asked for a collection | add collection = '…'")
        if self.kind == "imagery":
            self._check_imagery()
        elif self.band is not None and self.probabilities is not None:
            raise ValueError("band and probabilities exclude each other | keep one of them")
        elif self.crosswalk is None:
            raise ValueError("a labels source needs a crosswalk | add crosswalk = 'corine' or the path of a CSV")
        return self

    def _check_imagery(self) -> None:
        if self.sensor is None:
            raise ValueError("an imagery source needs a sensor | add sensor = 's2' or sensor = 's1'")
        if not self.api and not self.items:
            raise ValueError(
                "an imagery source needs items or an api | add items = 'folder/*.json' or api = 'https://…'"
            )
        wanted = CANONICAL_BANDS[self.sensor]
        missing = [band for band in wanted if band not in self.assets]
        if missing:
            raise ValueError(f"no asset is named for {', '.join(missing)} | complete assets = {{ … }}")
        extra = [band for band in self.assets if band not in wanted]
        if extra:
            raise ValueError(f"{', '.join(extra)} is no band of {self.sensor} | bands: {', '.join(wanted)}")

    def path_of(self, href: str) -> str:
        """`href` as something that can be opened: a URL as it is, a path relative to the manifest."""
        return href if "://" in href or href.startswith("/vsi") else str(self.base / href)


def manifests_folder() -> Path:
    """`manifests/` of the folder we run in, else of the checkout this package stands in."""
    here = Path("manifests")
    return here if here.is_dir() else Path(__file__).resolve().parent.parent / "manifests"


def load_sources(data: dict[str, Any], path: Path, prefix: str = "") -> dict[str, Source]:
    """Sources of one file, by name."""
    if not isinstance(data, dict):
        raise Problem("'sources' is not a table", where=str(path), fix="write [sources.<name>]")
    found = {}
    for name, table in data.items():
        if not isinstance(table, dict):
            raise Problem(f"'{prefix}{name}' is not a table", where=str(path), fix=f"write [{prefix}{name}]")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or len(name) > LONGEST_NAME:
            fix = "it goes into tables and cards: use letters, digits, -, _ and ."
            raise Problem(f"'{name[:80]}' is no name of a source", where=str(path), fix=fix)
        if "base" in table:
            raise Problem(f"unknown key '{prefix}{name}.base'", where=str(path), fix="remove it")
        found[name] = parse(Source, {**table, "base": path.parent}, path, f"{prefix}{name}.")
    return found


def known_sources() -> dict[str, Source]:
    """All sources of manifests/sources.toml."""
    path = manifests_folder() / "sources.toml"
    return load_sources(read_toml(path), path) if path.exists() else {}


def read_crosswalk(source: Source, where: str) -> Crosswalk:
    """The crosswalk of a labels source; Problem where there is none, or it is no good."""
    path = crosswalk_path(source)
    if not (is_there(path) and path.is_file()):
        named = (source.crosswalk or "").endswith(".csv")
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.csv"))) or "none"
        fix = "check the path; it is relative to the manifest's folder" if named else f"there are: {known}; or a path"
        raise Problem(f"there is no crosswalk {path if named else repr(source.crosswalk)}", where=where, fix=fix)
    if path.stat().st_size > MOST_CROSSWALK_BYTES:
        what = f"a crosswalk of {path.stat().st_size >> 20} MiB is none"
        raise Problem(what, where=str(path), fix="give the CSV that has a line per code of the source")
    return parse_crosswalk(path.read_bytes(), str(path))


def crosswalk_path(source: Source) -> Path:
    """The CSV a labels source is translated with."""
    name = source.crosswalk or ""
    if name.endswith(".csv"):
        return source.base / name
    return manifests_folder() / "labels" / f"{name}.csv"
