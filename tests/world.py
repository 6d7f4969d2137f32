"""A tiny synthetic catalogue on disk with known answers, for tests: S2 and S1 items, label files, a region manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin

S2 = {
    "B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10, "B8A": 20, "B09": 60,
    "B11": 20, "B12": 20,
}  # fmt: skip


@dataclass
class World:
    """Files below `root`; change the fields, then `write()`."""

    root: Path
    epsg: int = 32632
    west: float = 600_000.0
    north: float = 5_001_600.0
    size_m: int = 2_400
    size_px: int = 60
    baseline: str | None = "05.10"
    offset: bool = True
    native: bool = True
    """False: every S2 band at 10 m."""
    dates: tuple[str, ...] = ("2020-06-01T10:00:00Z",)
    s1_dates: tuple[str, ...] = ("2020-06-02T05:00:00Z",)
    manifest: dict[str, Any] = field(default_factory=dict)
    """Top-level keys that replace the default ones; None removes a key."""
    tail: str = ""
    name: str = "tiny"
    crosswalk: str = "code,name,class,status\n1,a,water,judgement\n2,b,crops,judgement\n0,none,,judgement\n"

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Of the imagery, in degrees."""
        move = Transformer.from_crs(self.epsg, 4326, always_xy=True)
        x, y = [self.west, self.west + self.size_m], [self.north - self.size_m, self.north]
        lon, lat = move.transform([x[0], x[0], x[1], x[1]], [y[0], y[1], y[0], y[1]])
        return min(lon), min(lat), max(lon), max(lat)

    def pixels(self, seed: int, resolution: int, low: int = 1200, high: int = 4000) -> np.ndarray:
        side = self.size_m // resolution
        return np.random.default_rng(seed).integers(low, high, (side, side)).astype(np.uint16)

    def tif(self, path: Path, data: np.ndarray, resolution: float, nodata: float | None = None) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path, "w", driver="GTiff", height=data.shape[0], width=data.shape[1], count=1, dtype=data.dtype,
            crs=f"EPSG:{self.epsg}", transform=from_origin(self.west, self.north, resolution, resolution), nodata=nodata,
        ) as out:  # fmt: skip
            out.write(data, 1)
        return str(path)

    def item(self, kind: str, name: str, when: str, assets: dict[str, str], properties: dict[str, Any]) -> None:
        west, south, east, north = self.bounds
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        side = self.size_m // 10
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "collection": kind,
            "bbox": list(self.bounds),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "datetime": when,
                "proj:epsg": self.epsg,
                "proj:shape": [side, side],
                "proj:transform": [10, 0, self.west, 0, -10, self.north],
                **properties,
            },
            "assets": {key: {"href": f"../../{href}"} for key, href in assets.items()},
            "links": [],
        }
        path = self.root / "catalog" / kind / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(item))

    def event(self, name: str, area: Any, properties: dict[str, Any] | None = None, **keys: Any) -> None:
        """An event of the manifest: `area` (metres of the world's CRS) as events/<name>.geojson, with these keys."""
        import geopandas
        import shapely

        path = self.root / "events" / f"{name}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = [shapely.segmentize(part, 100) for part in (area if isinstance(area, list) else [area])]
        geopandas.GeoDataFrame([properties or {}] * len(parts), geometry=parts, crs=self.epsg).to_crs(4326).to_file(
            path
        )
        keys = {"kind": "flood", "source": "geojson", "href": f"events/{name}.geojson"} | keys
        self.tail += "[[events]]\n" + "".join(f"{k} = {_toml(k, v)}\n" for k, v in keys.items() if v is not None)

    def write(self) -> Path:
        """All files; the manifest's path."""
        for k, when in enumerate(self.dates):
            assets = {}
            for j, (band, native) in enumerate(S2.items()):
                resolution = native if self.native else 10
                href = f"cogs/s2_{k}_{band}.tif"
                self.tif(self.root / href, self.pixels(100 * k + j, resolution), resolution)
                assets[band] = href
            properties: dict[str, Any] = {"platform": "Sentinel-2A"}
            if self.baseline:
                properties["s2:processing_baseline"] = self.baseline
            self.item("s2", f"S2-{k}", when, assets, properties)
        for k, when in enumerate(self.s1_dates):
            assets = {}
            for j, key in enumerate(("vv", "vh")):
                href = f"cogs/s1_{k}_{key}.tif"
                power = np.random.default_rng(900 + 10 * k + j).gamma(4.4, 0.02, (self.size_m // 10,) * 2)
                self.tif(self.root / href, power.astype(np.float32), 10, -32768)
                assets[key] = href
            self.item("s1", f"S1-{k}", when, assets, {"platform": "SENTINEL-1A", "sar:polarizations": ["VV", "VH"]})
        classes = np.ones((self.size_m // 10,) * 2, np.uint8)
        classes[:, self.size_m // 20 :] = 2
        self.tif(self.root / "labels/classes.tif", classes, 10)
        return self.write_manifest()

    def write_manifest(self) -> Path:
        keys: dict[str, Any] = {
            "name": self.name,
            "bounds": [round(b, 6) for b in self.bounds],
            "start": "2020-01-01",
            "end": "2020-12-31",
            "size_px": self.size_px,
            "max_cloud": 1.0,
        }
        keys |= self.manifest
        lines = [f"{k} = {_toml(k, v)}" for k, v in keys.items() if v is not None]
        bands = ", ".join(f'{b} = "{b}"' for b in S2)
        text = (
            "\n".join(lines)
            + f"""
[[imagery]]
source = "s2-here"
[[imagery]]
source = "s1-here"
[[labels]]
source = "classes"
[split]
block_km = 1.2
{self.tail}
[sources.s2-here]
kind = "imagery"
sensor = "s2"
items = "catalog/s2/*.json"
baseline_offset = {str(self.offset).lower()}
assets = {{ {bands} }}
nodata = 0
[sources.s1-here]
kind = "imagery"
sensor = "s1"
items = "catalog/s1/*.json"
assets = {{ VV = "vv", VH = "vh" }}
unit = "power"
nodata = -32768
[sources.classes]
kind = "labels"
href = "labels/classes.tif"
crosswalk = "labels/classes.csv"
nodata = [0]
"""
        )
        (self.root / "labels").mkdir(parents=True, exist_ok=True)
        (self.root / "labels/classes.csv").write_text(self.crosswalk)
        path = self.root / f"{self.name}.toml"
        path.write_text(text)
        return path


def _toml(key: str, value: Any) -> str:
    """Dates stand bare in TOML; everything else is written as JSON is."""
    return value if key in ("start", "end") else json.dumps(value)
