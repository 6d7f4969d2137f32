"""Rasters and vector files that claim more than they hold, or name other files in their place."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from attack_limits import bounded, refused
from rasterio.transform import Affine, from_origin
from world import World

from harmonize.problem import Problem
from pipeline import classes, opening, raster
from pipeline.region import load_region
from pipeline.vector import read_vector
from pipeline.vector_checks import damage_told

WEST, NORTH = 600_000.0, 5_001_600.0
BOUNDS = (WEST, NORTH - 600, WEST + 600, NORTH)


def tif(path: Path, side: int = 60, pixel: float = 10, **keys: object) -> Path:
    options = {
        "driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint8", "crs": "EPSG:32632",
        "transform": from_origin(WEST, NORTH, pixel, pixel),
    } | keys  # fmt: skip
    with rasterio.open(path, "w", **options) as out:
        if side <= 60:
            out.write(np.ones((int(options["count"]), side, side), str(options["dtype"])))
    return path


def vrt(path: Path, source: str) -> Path:
    """Bytes of any file as pixels."""
    path.write_text(
        f"""<VRTDataset rasterXSize="60" rasterYSize="10"><SRS>EPSG:32632</SRS>
        <GeoTransform>{WEST}, 10, 0, {NORTH}, 0, -10</GeoTransform>
        <VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">
        <SourceFilename relativetoVRT="0">{source}</SourceFilename><ImageOffset>0</ImageOffset>
        <PixelOffset>1</PixelOffset><LineOffset>60</LineOffset></VRTRasterBand></VRTDataset>"""
    )
    return path


def as_imagery(path: Path) -> None:
    try:
        raster.read_window(str(path), BOUNDS)
    except opening.UnreadableRaster as error:
        raise Problem(str(error), where="as a reason in the row", fix="mend the file") from None


def as_labels(path: Path) -> None:
    world = World(path.parent / "world")
    source = load_region(world.write_manifest()).source("classes")
    try:
        classes.read_classes(str(path), 32632, BOUNDS, source, "the manifest")
    except opening.UnreadableRaster as error:
        raise Problem(str(error), where="the manifest", fix="mend the file") from None


BOTH = pytest.mark.parametrize("read", [as_imagery, as_labels])
Read = Callable[[Path], None]


@BOTH
@pytest.mark.parametrize("name", ["evil.vrt", "evil.tif"])
def test_a_vrt_that_names_a_file_of_this_machine(tmp_path: Path, read: Read, name: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("s3cret" * 200)
    path = vrt(tmp_path / name, str(secret))
    refused(lambda: read(path), name, "a VRT is not")
    import os

    os.environ["GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE"] = "ALL"
    try:
        refused(lambda: read(path), name, "a VRT is not")
        with rasterio.open(path) as opened:
            assert bytes(opened.read(1)[0, :6]) == b"s3cret", "the VRT is a working one"
    finally:
        del os.environ["GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE"]


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        '<GDAL_WMS><Service name="TMS"><ServerUrl>http://169.254.169.254/${z}</ServerUrl></Service></GDAL_WMS>',
        "<WCS_GDAL><ServiceURL>http://169.254.169.254/?</ServiceURL></WCS_GDAL>",
        '{"type": "gdal_streamed_alg", "command_line": "gdal raster reproject /etc/passwd"}',
        '{"stac_version": "1.0.0", "type": "Feature", "id": "a", "assets": {"a": {"href": "/etc/passwd"}}}',
        "root:x:0:0:root:/root:/bin/bash\n",
        "",
    ],
)
def test_texts_that_gdal_takes_for_rasters(tmp_path: Path, read: Read, text: str) -> None:
    path = tmp_path / "evil.tif"
    path.write_text(text)
    refused(lambda: read(path), "evil.tif")


@BOTH
@pytest.mark.parametrize(
    "name", ["vrt:///etc/passwd", "NETCDF:/etc/passwd:a", "GTIFF_RAW:/etc/passwd", "a\0b.tif", "n" * 10_000]
)
def test_names_that_are_commands(tmp_path: Path, read: Read, name: str) -> None:
    """Reached only past the checks of items and manifests."""
    try:
        if read is as_imagery:
            raster.read_window(name, BOUNDS)
        else:
            source = load_region(World(tmp_path / "world").write_manifest()).source("classes")
            classes.read_classes(name, 32632, BOUNDS, source, "the manifest")
    except opening.UnreadableRaster:
        return
    raise AssertionError("it was read")


@BOTH
def test_a_raster_of_a_million_by_a_million(tmp_path: Path, read: Read) -> None:
    """Sparse: a few megabytes on the disk. With pixels of 10 m only those of the chip are read; with pixels of
    micrometres a chip would have 1e12 of them."""
    keys = {"tiled": True, "blockxsize": 4096, "blockysize": 4096, "sparse_ok": True, "BIGTIFF": "YES"}
    wide = tif(tmp_path / "wide.tif", 1_000_000, **keys)
    with bounded():
        read(wide)
    fine = tif(tmp_path / "fine.tif", 1_000_000, 0.0006, **keys)
    refused(lambda: read(fine), "fine.tif", "pixels in one window, more than 2 GiB")


@BOTH
def test_a_raster_in_one_block(tmp_path: Path, read: Read) -> None:
    """GDAL would read all of it for one pixel."""
    keys = {"tiled": True, "blockxsize": 40_000, "blockysize": 40_000, "sparse_ok": True, "BIGTIFF": "YES"}
    path = tif(tmp_path / "block.tif", 40_000, **keys)
    refused(lambda: read(path), "block.tif", "its blocks have 1525 MiB")


@BOTH
def test_a_raster_with_a_header_that_claims_more(tmp_path: Path, read: Read) -> None:
    """Width and height of 1e6 in the header of a small file, in one strip."""
    path = tif(tmp_path / "claims.tif")
    data = bytearray(path.read_bytes())
    at, count = struct.unpack_from("<I", data, 4)[0], 0
    for k in range(struct.unpack_from("<H", data, at)[0]):
        place = at + 2 + 12 * k
        tag = struct.unpack_from("<H", data, place)[0]
        if tag in (256, 257, 278):  # ImageWidth, ImageLength, RowsPerStrip (TIFF 6.0)
            struct.pack_into("<HII", data, place + 2, 4, 1, 1_000_000)
            count += 1
    assert count == 3
    path.write_bytes(bytes(data))
    refused(lambda: read(path), "claims.tif")


@BOTH
def test_a_raster_of_65535_bands(tmp_path: Path, read: Read) -> None:
    keys = {"count": 65_535, "interleave": "pixel", "tiled": True, "blockxsize": 512, "blockysize": 512}
    path = tif(tmp_path / "bands.tif", 512, sparse_ok=True, BIGTIFF="YES", **keys)
    refused(lambda: read(path), "bands.tif")


@BOTH
@pytest.mark.parametrize(
    "transform",
    [Affine(0, 0, WEST, 0, 0, NORTH), Affine(10, 10, WEST, 10, 10, NORTH), Affine(float("nan"), 0, 0, 0, -10, 0),
     Affine(float("inf"), 0, 0, 0, -10, 0)],
)  # fmt: skip
def test_a_raster_whose_pixels_have_no_size(tmp_path: Path, read: Read, transform: Affine) -> None:
    path = tif(tmp_path / "flat.tif", transform=transform)
    refused(lambda: read(path), "flat.tif")


@pytest.mark.parametrize("sidecar", [".aux.xml", ".ovr", ".msk", ".tfw"])
def test_sidecars_change_nothing(tmp_path: Path, sidecar: str) -> None:
    """Beside an image GDAL looks for files that say another CRS, place, nodata or pixels."""
    path = tif(tmp_path / "image.tif")
    before = raster.read_window(str(path), BOUNDS)
    assert before is not None
    beside = path.with_name(f"image{sidecar}" if sidecar == ".tfw" else f"image.tif{sidecar}")
    if sidecar == ".aux.xml":
        beside.write_text(
            "<PAMDataset><SRS>EPSG:3857</SRS><GeoTransform>0, 1, 0, 0, 0, -1</GeoTransform>"
            "<PAMRasterBand band='1'><NoDataValue>1</NoDataValue><Scale>7</Scale></PAMRasterBand></PAMDataset>"
        )
    elif sidecar == ".tfw":
        beside.write_text("1\n0\n0\n-1\n0\n0\n")
    else:
        vrt(beside, "/etc/passwd")
    after = raster.read_window(str(path), BOUNDS)
    assert after is not None
    assert after.equals(before)
    assert after.rio.crs == before.rio.crs
    assert after.rio.transform() == before.rio.transform()
    assert after.rio.nodata == before.rio.nodata


VECTORS = {
    "a VRT": '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>SECRET</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>',
    "a VRT behind blanks": '\n\n   <OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>SECRET</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>',
    "a WFS": "<OGRWFSDataSource><URL>http://169.254.169.254/</URL></OGRWFSDataSource>",
    "a pipeline": '{"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read SECRET ! write"}',
}


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("suffix", [".geojson", ".vrt", ".gpkg", ".shp", ".json", ".kml"])
def test_vector_files_that_name_others(tmp_path: Path, kind: str, suffix: str) -> None:
    secret = tmp_path / "secret.geojson"
    ring = [[10, 45], [11, 45], [11, 46], [10, 45]]
    secret.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    path = tmp_path / f"evil{suffix}"
    path.write_text(VECTORS[kind].replace("SECRET", str(secret)))
    refused(lambda: read_vector(path, "the manifest"), path.name)


def polygon(*rings: str) -> str:
    return f'{{"type": "Polygon", "coordinates": [{", ".join(rings)}]}}'


GEOMETRIES = {
    "NaN": polygon("[[NaN, 45], [11, 45], [11, 46], [NaN, 45]]"),
    "infinite": polygon("[[1e999, 45], [11, 45], [11, 46], [1e999, 45]]"),
    "huge": polygon("[[1e308, 45], [11, 45], [11, 46], [1e308, 45]]"),
    "metres": polygon("[[600000, 5000000], [600100, 5000000], [600100, 5000100], [600000, 5000000]]"),
    "deep": "[" * 100_000,
    "deep coordinates": '{"type": "Polygon", "coordinates": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep collections": '{"type": "GeometryCollection", "geometries": [' * 50_000,
    "no closed ring": polygon("[[10, 45]]"),
    "texts": polygon('[["a", "b"], ["c", "d"], ["e", "f"], ["a", "b"]]'),
    "a null": "null",
}


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_a_region_whose_geometry_is_none(tmp_path: Path, kind: str) -> None:
    from pipeline.place import area_of

    world = World(tmp_path, manifest={"bounds": None, "geometry": "aoi.geojson"})
    region = load_region(world.write_manifest())
    (tmp_path / "aoi.geojson").write_text(GEOMETRIES[kind])
    refused(lambda: area_of(region), "aoi.geojson")


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_an_event_whose_geometry_is_none(tmp_path: Path, kind: str) -> None:
    from pipeline.events import load_events

    world = World(tmp_path)
    (tmp_path / "e.geojson").write_text(GEOMETRIES[kind])
    world.tail = '[[events]]\nkind = "flood"\nsource = "geojson"\nhref = "e.geojson"\nstart = 2020-06-01\n'
    region = load_region(world.write_manifest())
    refused(lambda: load_events(region), "e.geojson")


def test_a_shapefile_of_a_thousand_million_vertices(tmp_path: Path) -> None:
    """Claimed in the record of a polygon (ESRI Shapefile Technical Description, 1998)."""
    from cems_packages import WET, event, write

    path = write(tmp_path / "flood.shp", [event(WET)])
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, 100 + 8 + 4 + 32 + 4, 10**9)
    path.write_bytes(bytes(data))
    refused(lambda: read_vector(path, "the manifest"), "flood.shp")


def test_a_table_of_a_thousand_million_records(tmp_path: Path) -> None:
    from cems_packages import WET, event, write

    path = write(tmp_path / "flood.shp", [event(WET)])
    table = path.with_suffix(".dbf")
    data = bytearray(table.read_bytes())
    struct.pack_into("<I", data, 4, 10**9)
    table.write_bytes(bytes(data))
    refused(lambda: read_vector(path, "the manifest"), "flood.dbf was cut off")


@pytest.mark.parametrize("suffix", [".fgb", ".gpkg", ".parquet"])
def test_a_geometry_that_claims_a_thousand_million_vertices(tmp_path: Path, suffix: str) -> None:
    import geopandas
    import shapely

    frame = geopandas.GeoDataFrame({"a": [1]}, geometry=[shapely.box(10, 45, 11, 46)], crs=4326)
    path = tmp_path / f"flood{suffix}"
    frame.to_parquet(path, compression=None) if suffix == ".parquet" else frame.to_file(path)
    data, five = path.read_bytes(), struct.pack("<I", 5)
    # Five points: in WKB their number stands before the first of them, in FlatGeobuf before all coordinates.
    at = data.index(struct.pack("<d", 45.0)) if suffix != ".fgb" else -1
    if suffix == ".fgb":
        at = data.rindex(struct.pack("<I", 10) + struct.pack("<d", 11.0))
    else:
        at = data.rindex(five, 0, at + 64)
    path.write_bytes(data[:at] + struct.pack("<I", 10**9) + data[at + 4 :])
    refused(lambda: read_vector(path, "the manifest"), "flood")


def test_control_damage_is_told_as_such() -> None:
    with pytest.raises(Problem, match="x cannot be read: odd"), damage_told("x", "here"):
        raise ValueError("odd")
