"""Names of the layers in Copernicus EMS Rapid Mapping packages, and which version of each is the one to read.

Three generations (the manual of Rapid Mapping products, emergency.copernicus.eu/mapping/book/export/html/138108):

    EMSR332_02PADOVA_DEL_MONIT01_v1_observed_event_a.shp      to 2018: the version is the product's
    EMSR517_AOI15_GRA_MONIT01_observedEventA_r1_v3.json       to 2023: release and version are the layer's
    EMSR884_AOI02_GRA_MONIT01_v2/EMSR884_AOI02_GRA_MONIT01_notAnalysedA_v1.shp      since: the product's is its folder's
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.archive import Member

CODE = re.compile(r"EMSR\d+", re.IGNORECASE)
VERSION = re.compile(r"[rv]\d{1,4}", re.IGNORECASE)
KINDS_OF_PRODUCT = re.compile(r"\d*(REF|FEP|DEL|GRA|GRM)", re.IGNORECASE)
"""Reference (before the event), first estimate, delineation, grading, ground movement; `01DELINEATION` in old names."""
LAYERS = {
    "observedeventa",
    "observedeventp",
    "observedeventl",
    "builtupa",
    "builtupp",
    "areaofinteresta",
    "areaofinterest",
    "imagefootprinta",
    "imagefootprint",
    "notanalyseda",
    "source",
}
"""Lower case, without underscores."""
SUFFIXES = (".gpkg", ".shp", ".json", ".geojson", ".dbf", ".csv")
"""Packages bring a layer in several formats; the first of these is read."""
LONGEST = 4
"""Words of a layer's name: area of interest a."""

Version = tuple[int, int]
"""Release and version: a second release comes after all versions of the first. 0 where a name does not say."""


@dataclass(frozen=True)
class LayerName:
    """What a name says."""

    product: str
    """Activation, area, kind and monitoring: `emsr332_02padova_del_monit01`."""
    layer: str
    """One of LAYERS."""
    released: Version
    """Of the product, in names to 2018."""
    version: Version
    """Of the layer, in names since."""

    @property
    def activation(self) -> str:
        return self.product.split("_")[0].upper()

    @property
    def area(self) -> str:
        """Activation and area of interest: `emsr332_02padova`."""
        return "_".join(self.product.split("_")[:2])

    @property
    def kind(self) -> str:
        """REF, FEP, DEL, GRA, GRM, or nothing where the name does not say."""
        found = (KINDS_OF_PRODUCT.match(word) for word in self.product.split("_")[2:])
        return next((match[1].upper() for match in found if match), "")


@dataclass(frozen=True)
class Layer:
    """One layer of one product in one file."""

    name: LayerName
    file: Member
    inside: str | None = None
    """The layer's name in a GeoPackage of several."""

    @property
    def released(self) -> Version:
        """Of the product: as the name says, else as its folder or archive does."""
        if self.name.released != (0, 0):
            return self.name.released
        for folder in reversed(PurePosixPath(self.file.name).parts[:-1]):
            words = folder.removesuffix(".zip").split("_")
            plain = "_".join(word for word in words if not VERSION.fullmatch(word)).lower()
            if f"{plain}_".startswith(f"{self.name.product}_"):
                return _version([word for word in words if VERSION.fullmatch(word)])
        return (0, 0)

    @property
    def told(self) -> str:
        """For people."""
        return f"{self.file.name}, layer {self.inside}" if self.inside else self.file.name


@dataclass(frozen=True)
class Product:
    """The layers of one product that are read: of its newest version, each once."""

    key: str
    layers: dict[str, Layer]

    @property
    def name(self) -> LayerName:
        return next(iter(self.layers.values())).name


def parse_layer(stem: str) -> LayerName | None:
    """What a file's or layer's name (without suffix) says; None where it names no layer that we know."""
    words = stem.split("_")
    if not CODE.fullmatch(words[0]):
        return None
    end = len(words)
    while VERSION.fullmatch(words[end - 1]):
        end -= 1
    for count in range(min(LONGEST, end - 2), 0, -1):
        layer = "".join(words[end - count : end]).lower()
        if layer in LAYERS:
            head = words[: end - count]
            product = "_".join(word for word in head if not VERSION.fullmatch(word)).lower()
            return LayerName(product, layer, _version(head), _version(words[end:]))
    return None


def newest(layers: list[Layer]) -> tuple[list[Product], list[str]]:
    """The products to read, by name, and those that are left out with the reason.

    Of a product its newest version, of a layer in it the newest version, of several files of that the best format.
    Reference maps show what was there before the event. A first estimate is rough: it is left out where a delineation
    or grading of the same area is there.
    """
    products, left_out = [], []
    for key, group in itertools.groupby(sorted(layers, key=lambda x: x.name.product), key=lambda x: x.name.product):
        mine = list(group)
        released = max(layer.released for layer in mine)
        products.append(Product(key, _each_once([layer for layer in mine if layer.released == released])))
        if older := {layer.released for layer in mine} - {released}:
            left_out.append(f"{key.upper()}: {len(older)} older version{'s' if len(older) > 1 else ''}")
    mapped = {p.name.area for p in products if p.name.kind in ("DEL", "GRA")}
    kept = []
    for product in products:
        if product.name.kind == "REF":
            left_out.append(f"{product.key.upper()}: shows the time before the event")
        elif product.name.kind == "FEP" and product.name.area in mapped:
            left_out.append(f"{product.key.upper()}: a first estimate, and a later product is there")
        else:
            kept.append(product)
    return kept, left_out


def _each_once(layers: list[Layer]) -> dict[str, Layer]:
    """Layer -> where it is read from."""

    def rank(layer: Layer) -> tuple[int, int, int, str]:
        release, version = layer.name.version
        return -release, -version, SUFFIXES.index(layer.file.path.suffix.lower()), layer.told

    found: dict[str, Layer] = {}
    for layer in sorted(layers, key=rank):
        found.setdefault(layer.name.layer, layer)
    return dict(sorted(found.items()))


def _version(words: list[str]) -> Version:
    said = {word[0].lower(): int(word[1:]) for word in words if VERSION.fullmatch(word)}
    return said.get("r", 0), said.get("v", 0)
