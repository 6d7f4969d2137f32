"""A Copernicus EMS Rapid Mapping package as delivered: a folder or a zip, with zips in it; its files and its layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from harmonize.problem import Problem
from harmonize.record import from_json
from pipeline.archive import Member, Unpacker, is_litter
from pipeline.cems_names import CODE, SUFFIXES, Layer, Product, newest, parse_layer
from pipeline.vector import with_siblings
from pipeline.vector_checks import check_whole, damage_told, part_of, with_geometry

if TYPE_CHECKING:
    import geopandas
    import pandas

SIBLINGS = (".shx", ".dbf", ".prj", ".cpg")
"""What belongs to a .shp; the .dbf of a source table stands alone."""
LARGEST_ACTIVATION = 5 * 2**20
"""Bytes of an activation as the API tells it."""


@dataclass
class Package:
    """What there is to read."""

    products: list[Product]
    left_out: list[str]
    """Products that are not read, with the reason."""
    activation: dict[str, Any] = field(default_factory=dict)
    """The activation as the dashboard's API tells it, where such a file is there."""

    @property
    def layers(self) -> list[Layer]:
        return [layer for product in self.products for layer in product.layers.values()]


def watched(path: Path) -> list[Path]:
    """The files of a package that count, sorted: archives, layers that we read, the activation."""
    if path.is_file():
        return [path]
    files = _files_in(path)
    found = {file for file in files if file.suffix.lower() == ".zip" or _activation_in(file)}
    for file in files:
        if file.suffix.lower() in SUFFIXES and _may_be_layer(file.name):
            found.update(with_siblings(file))
    return sorted(found)


def open_package(path: Path, into: Path, where: str) -> Package:
    """The products of a folder or zip; `into` is an empty folder for what is unpacked, to be kept until they are read.

    Raises Problem where archives are not fit to be read, or products belong to several activations.
    """
    unpacker = Unpacker(into, _counts, where)
    files = [Member(path, path.name)] if path.is_file() else []
    files += [Member(file, file.relative_to(path).as_posix()) for file in _files_in(path)] if path.is_dir() else []
    members: list[Member] = []
    for file in files:
        members += unpacker.unpack(file) if file.path.suffix.lower() == ".zip" else [file]
    layers = [layer for member in members for layer in _layers_of(member, where)]
    activations = sorted({layer.name.activation for layer in layers})
    if len(activations) > 1:
        what = f"{path.name} holds products of several activations: {', '.join(activations)}"
        raise Problem(what, where=where, fix="make an event of each, with the folder of its own products")
    products, left_out = newest(layers)
    return Package(products, left_out, _activation_of(members, activations, where))


def read_layer(layer: Layer, where: str, notes: list[str]) -> geopandas.GeoDataFrame:
    """Features with a geometry, in file order, fields in lower case; maybe none. No CRS is a Problem.

    How many features have no geometry goes into `notes`: the layer is whole, and its makers gave them no place.
    """
    import geopandas

    with damage_told(layer.told, where):
        _check_files(layer.file.path)
        frame = geopandas.read_file(layer.file.path, layer=layer.inside)
    if "geometry" not in frame.columns:
        frame = geopandas.GeoDataFrame(frame.iloc[:0], geometry=[], crs=4326)
    frame = frame.rename(columns={c: c.lower() for c in frame.columns if c != frame.geometry.name})
    frame = with_geometry(frame, layer.told, where, notes)
    if frame.crs is None:
        if not frame.empty:
            fix = "fetch the whole package again: a .prj belongs to each .shp"
            raise Problem(f"{layer.told} does not say its CRS", where=where, fix=fix)
        frame = frame.set_crs(4326)
    return frame


def read_table(layer: Layer, where: str) -> pandas.DataFrame:
    """A table without geometry, fields in lower case."""
    import pyogrio

    with damage_told(layer.told, where):
        check_whole(layer.file.path)
        frame = pyogrio.read_dataframe(layer.file.path, layer=layer.inside, read_geometry=False)
    return frame.rename(columns=str.lower)


def _check_files(path: Path) -> None:
    """Without its .dbf a .shp can be read, and says of no feature what it is."""
    check_whole(path)
    if path.suffix.lower() == ".shp" and part_of(path, ".dbf") is None:
        raise ValueError("its .dbf is missing, which says what each feature is")


def _files_in(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.is_file() and not is_litter(PurePosixPath(p.relative_to(folder))))
    return sorted(found)


def _counts(name: str) -> bool:
    """Whether an entry of an archive may be wanted."""
    suffix = Path(name).suffix.lower()
    return suffix in (*SUFFIXES, *SIBLINGS) and (_may_be_layer(name) or suffix == ".json")


def _may_be_layer(name: str) -> bool:
    """By its name: one of our layers, or a GeoPackage that may hold some."""
    path = Path(name)
    return parse_layer(path.stem) is not None or (path.suffix.lower() == ".gpkg" and CODE.match(name) is not None)


def _layers_of(member: Member, where: str) -> list[Layer]:
    """A .dbf counts as a layer of its own where no .shp is beside it."""
    path = PurePosixPath(member.name)  # a name too long for a disk has another one there
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or not _may_be_layer(path.name):
        return []
    if suffix == ".gpkg":
        return _layers_of_geopackage(member, where)
    name = parse_layer(path.stem)
    is_table = suffix in (".dbf", ".csv")
    return [Layer(name, member)] if name and (not is_table or name.layer == "source") else []


def _layers_of_geopackage(member: Member, where: str) -> list[Layer]:
    """Its layers have the name of a file, or that of a layer alone; a single one may be called anything."""
    import pyogrio

    stem = PurePosixPath(member.name).stem
    with damage_told(member.name, where):
        inside = [str(name) for name, _ in pyogrio.list_layers(member.path)]
    found = []
    for layer in inside:
        name = parse_layer(layer) or (parse_layer(stem) if len(inside) == 1 else None) or parse_layer(f"{stem}_{layer}")
        if name:
            found.append(Layer(name, member, layer))
    return found


def _activation_in(path: Path) -> dict[str, Any]:
    """The activation that a JSON file tells, as the API answers or one of its results; empty where it is none."""
    if path.suffix.lower() != ".json" or _may_be_layer(path.name) or path.stat().st_size > LARGEST_ACTIVATION:
        return {}
    data = path.read_bytes()
    if b'"eventTime"' not in data:
        return {}
    try:
        told = from_json(data)
    except ValueError:
        return {}  # not the API's answer, which is JSON, and flat
    results = told.get("results") if isinstance(told, dict) else []
    if not isinstance(results, list):
        results = [told]
    return next((one for one in results if isinstance(one, dict) and one.get("eventTime")), {})


def _activation_of(members: list[Member], activations: list[str], where: str) -> dict[str, Any]:
    found = [(member, told) for member in members if (told := _activation_in(member.path))]
    for member, told in found:
        code = str(told.get("code", "")).upper()
        if code and activations and code != activations[0]:
            what = f"{member.name} tells of {code}, and the products are of {activations[0]}"
            raise Problem(what, where=where, fix="keep the file of this activation alone")
    return found[0][1] if found else {}
