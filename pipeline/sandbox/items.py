"""The planet as a catalogue: STAC items and collections in the Planetary Computer's spellings, events as GeoJSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.grid import transformer
from pipeline.sample import CANONICAL_BANDS, GROUPS
from pipeline.sandbox import SYNTHETIC
from pipeline.sandbox.acquisitions import Scene
from pipeline.sandbox.disasters import Scar
from pipeline.sandbox.maps import Map
from pipeline.sandbox.places import Place
from pipeline.sandbox.radar import ENL, NODATA, ZERO_BORDER_M
from pipeline.sandbox.sampling import lean

if TYPE_CHECKING:
    import shapely

S2, S1, CORINE, DYNAMIC_WORLD = "sentinel-2-l2a", "sentinel-1-rtc", "corine-land-cover", "dynamic-world"
LICENCE = "CC0-1.0"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def footprint(scene: Scene, place: Place) -> shapely.Geometry:
    """What a scene says it covers, in degrees: its raster up to the swath's edge. For S1 unmarked zeros are inside."""
    import shapely

    outline = shapely.segmentize(shapely.box(*scene.bounds), 3_000)
    if scene.edge is not None:
        here = outline
        if scene.epsg != place.epsg:
            here = shapely.transform(outline, lambda xy: _moved(xy, scene.epsg, place.epsg))
        cut = shapely.intersection(here, _swath(scene))
        outline = (
            cut if scene.epsg == place.epsg else shapely.transform(cut, lambda xy: _moved(xy, place.epsg, scene.epsg))
        )
    return shapely.transform(outline, lambda xy: _moved(xy, scene.epsg, 4326).round(7))


def _moved(xy: np.ndarray, source: int, target: int) -> np.ndarray:
    return np.column_stack(transformer(source, target).transform(*xy.T))


def _swath(scene: Scene) -> shapely.Geometry:
    """The seen side of a scene's edge as a polygon in home-zone metres."""
    import shapely

    assert scene.edge is not None
    x, y, side = scene.edge
    reach = 60_000
    grow = ZERO_BORDER_M if scene.sensor == "s1" else 0
    x += grow if side == "west" else -grow
    ends = [(x - reach * lean(scene), y - reach), (x + reach * lean(scene), y + reach)]
    beyond = -reach if side == "west" else reach
    return shapely.Polygon([*ends, (ends[1][0] + beyond, ends[1][1]), (ends[0][0] + beyond, ends[0][1])])


def scene_item(scene: Scene, place: Place, hrefs: dict[str, str], cloud_cover: float, nodata: float) -> dict[str, Any]:
    """The STAC item of a scene. cloud_cover, nodata in percent, as catalogues have them."""
    properties = _optical(scene, cloud_cover, nodata) if scene.sensor == "s2" else _radar(scene)
    collection = S2 if scene.sensor == "s2" else S1
    assets = {}
    for key, href in hrefs.items():
        step = 1 if scene.sensor == "s1" else _step(key)
        shape = [scene.rows // step, scene.cols // step]
        assets[key] = _asset(key, href, shape, [10.0 * step, 0.0, scene.west, 0.0, -10.0 * step, scene.north])
    if scene.sensor == "s1":
        properties |= {key: assets["vv"][key] for key in ("proj:shape", "proj:transform", "proj:bbox")}
        for asset in assets.values():
            asset["raster:bands"] = [{"data_type": "float32", "nodata": NODATA, "spatial_resolution": 10.0}]
    properties |= {"datetime": f"{scene.when:%Y-%m-%dT%H:%M:%S.%fZ}", "proj:epsg": scene.epsg}
    return _item(scene.id, collection, footprint(scene, place), properties, assets)


def _step(key: str) -> int:
    if key == "SCL":
        return 2
    return next(group.resolution_m // 10 for group in GROUPS["s2"] if key in group.bands)


def _optical(scene: Scene, cloud_cover: float, nodata: float) -> dict[str, Any]:
    return {
        "platform": scene.platform,
        "constellation": "Sentinel 2",
        "instruments": ["msi"],
        "eo:cloud_cover": round(cloud_cover, 4),
        "s2:mgrs_tile": scene.tile,
        "s2:processing_baseline": scene.baseline,
        "s2:generation_time": scene.generated,
        "s2:nodata_pixel_percentage": round(nodata, 4),
        "s2:product_type": "S2MSI2A",
        "sat:orbit_state": scene.orbit,
        "sat:relative_orbit": int(scene.id.split("_R")[1][:3]),
    }


def _radar(scene: Scene) -> dict[str, Any]:
    return {
        "platform": scene.platform,
        "constellation": "Sentinel-1",
        "start_datetime": f"{scene.when:%Y-%m-%d %H:%M:%S.%f}+00:00",
        "end_datetime": f"{scene.when:%Y-%m-%d %H:%M:%S.%f}+00:00",
        "sar:instrument_mode": "IW",
        "sar:polarizations": ["VV", "VH"],
        "sar:product_type": "GRD",
        "sar:frequency_band": "C",
        "sar:looks_equivalent_number": ENL,
        "sat:orbit_state": scene.orbit,
    }


def label_item(place: Place, name: str, drawn: Map, href: str) -> dict[str, Any]:
    """The STAC item of a land-cover raster; it shows the place before its first event."""
    import shapely

    rows, cols = drawn.values.shape
    box = (drawn.west, drawn.north - rows * drawn.resolution_m, drawn.west + cols * drawn.resolution_m, drawn.north)
    outline = shapely.segmentize(shapely.box(*box), 3_000)
    degrees = shapely.transform(outline, lambda xy: _moved(xy, drawn.epsg, 4326).round(7))
    size = float(drawn.resolution_m)
    asset = _asset("data", href, [rows, cols], [size, 0.0, drawn.west, 0.0, -size, drawn.north])
    day = "2018-01-01" if name == CORINE else "2021-01-01"
    properties = {"datetime": f"{day}T00:00:00Z", "proj:epsg": drawn.epsg}
    return _item(f"{name}-{place.name}", name, degrees, properties, {"data": asset})


def _asset(key: str, href: str, shape: list[int], transform: list[float]) -> dict[str, Any]:
    west, north, step = transform[2], transform[5], transform[0]
    box = [west, north - shape[0] * step, west + shape[1] * step, north]
    return {
        "href": href, "type": COG, "title": key, "roles": ["data"],
        "proj:shape": shape, "proj:transform": transform, "proj:bbox": box,
    }  # fmt: skip


def _item(
    name: str, collection: str, outline: shapely.Geometry, properties: dict[str, Any], assets: dict[str, Any]
) -> dict[str, Any]:
    import shapely

    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": collection,
        "geometry": json.loads(shapely.to_geojson(outline)),
        "bbox": [round(v, 7) for v in outline.bounds],
        "properties": dict(sorted((properties | {"description": SYNTHETIC}).items())),
        "assets": dict(sorted(assets.items())),
        "links": [{"rel": "collection", "href": f"./{collection}", "type": "application/json"}],
    }


def asset_names(sensor: str) -> dict[str, str]:
    """Asset key -> band; the scene classes stand beside the bands of S2."""
    if sensor == "s1":
        return {"vv": "VV", "vh": "VH"}
    return {band: band for band in CANONICAL_BANDS["s2"]} | {"SCL": "SCL"}


def collections(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One STAC collection for each that the items name, with their extent."""
    found = []
    for name in sorted({item["collection"] for item in items}):
        mine = [item for item in items if item["collection"] == name]
        boxes = np.array([item["bbox"] for item in mine])
        days = sorted(item["properties"]["datetime"] for item in mine)
        found.append(
            {
                "type": "Collection",
                "stac_version": "1.0.0",
                "id": name,
                "title": f"{name} (synthetic)",
                "description": SYNTHETIC,
                "license": LICENCE,
                "extent": {
                    "spatial": {"bbox": [[*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()]]},
                    "temporal": {"interval": [[days[0], days[-1]]]},
                },
                "links": [],
            }
        )
    return found


def event_files(scar: Scar, place: Place) -> dict[str, dict[str, Any]]:
    """File name -> GeoJSON of an event's outline and, where it is published, of its analysed extent."""
    disaster = scar.disaster
    about = {"event": disaster.id, "kind": disaster.kind, "start": str(disaster.start), "note": SYNTHETIC}
    found = {f"{disaster.id}.geojson": _features(scar.outline, place, about)}
    if scar.analysed is not None:
        found[f"{disaster.id}-analysed.geojson"] = _features(scar.analysed, place, about | {"what": "analysed extent"})
    return found


def _features(shape: shapely.Geometry, place: Place, about: dict[str, Any]) -> dict[str, Any]:
    import shapely

    degrees = shapely.transform(shapely.segmentize(shape, 2_000), lambda xy: _moved(xy, place.epsg, 4326).round(7))
    features = [
        {"type": "Feature", "properties": about, "geometry": json.loads(shapely.to_geojson(part))}
        for part in shapely.get_parts(degrees)
    ]
    return {"type": "FeatureCollection", "features": features}
