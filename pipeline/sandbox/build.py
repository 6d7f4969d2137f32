"""Writing a world: ground and label maps of each place, then scene after scene as COGs, then the catalogue, last.

Every step leaves a file that says it is done, so that a killed build goes on where it was and ends with the same bytes.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.sandbox import SCHEME, SYNTHETIC, VERSION, items, maps, optical, radar, truth
from pipeline.sandbox.acquisitions import Scene, as_dict, scenes_of
from pipeline.sandbox.disasters import Scar, scars_of
from pipeline.sandbox.landscape import Ground, draw_ground, load_ground, save_ground
from pipeline.sandbox.places import BY_NAME, PLACES, SEED, Place, Size, size_named
from pipeline.sandbox.publish import publish_json, published
from pipeline.sandbox.sampling import seen_side

Run = Callable[[Callable[[Any, Any], Any], Sequence[Any], int, str], Iterable[Any]]
"""How jobs are spread over processes, as `Work.jobs` does it: function of (work, argument), arguments, number, what."""
DONE = "world.json"


@dataclass(frozen=True)
class World:
    """Where a world of one size lies."""

    folder: Path
    """Holds one folder per size."""
    size: Size

    @property
    def root(self) -> Path:
        return self.folder / self.size.name

    def href(self, name: str) -> str:
        return f"{SCHEME}{self.size.name}/{name}"


def one_by_one(function: Callable[[Any, Any], Any], arguments: Sequence[Any], total: int, what: str) -> Iterable[Any]:
    """Every job in this process."""
    return (function(None, argument) for argument in arguments)


def is_built(folder: Path, name: str) -> bool:
    """Whether a world of this version is there, whole."""
    try:
        about = json.loads((folder / name / DONE).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(about == _about(size_named(name)))


def _about(size: Size) -> dict[str, Any]:
    return {"size": size.name, "version": VERSION, "seed": SEED, "side_m": size.side_m, "note": SYNTHETIC}


def build_world(name: str, folder: Path, run: Run = one_by_one) -> Path:
    """The world of a size below `folder`, made unless it is there already; its own folder."""
    size = size_named(name)
    world = World(folder, size)
    if is_built(folder, name):
        return world.root
    _begin(world)
    for _ in run(build_place, [(folder, name, place.name) for place in PLACES], len(PLACES), "places"):
        pass
    scenes = scenes_of(size)
    by_place = sorted(scenes, key=lambda s: (s.place, s.sensor, s.id))
    for _ in run(build_scene, [(folder, name, scene) for scene in by_place], len(by_place), "scenes"):
        pass
    _finish(world, scenes)
    return world.root


def _begin(world: World) -> None:
    """Clear away what an older version left; keep what a killed build of this one has done."""
    started = world.root / "building.json"
    if world.root.exists() and not (started.exists() and json.loads(started.read_text()) == _about(world.size)):
        shutil.rmtree(world.root)
    publish_json(started, _about(world.size))


def build_place(_: Any, job: tuple[Path, str, str]) -> None:
    """Ground, label map, events and the truth of a place's cells. job: folder, size, place."""
    folder, name, place_name = job
    world, place = World(folder, size_named(name)), BY_NAME[place_name]
    done = world.root / "truth" / f"cells-{place.name}.json"
    if done.exists():
        return
    ground = draw_ground(place, world.size)
    save_ground(ground, world.root / "ground" / place.name)
    # Where Europe is both maps are there, as in the real world: CORINE rules, and the two can be compared.
    drawn = {items.DYNAMIC_WORLD: maps.dynamic_world(place, world.size, ground)}
    if place.europe:
        drawn[items.CORINE] = maps.corine(place, world.size, ground)
    for kind, label in drawn.items():
        _write_map(world, place, kind, label)
    scars = scars_of(place, world.size, ground)
    for scar in scars:
        for file_name, features in items.event_files(scar, place).items():
            publish_json(world.root / "events" / file_name, features)
    publish_json(done, truth.cell_rows(place, world.size, ground, scars))


def _write_map(world: World, place: Place, kind: str, drawn: maps.Map) -> None:
    file = f"labels/{kind}-{place.name}.tif"
    write_cog(
        world.root / file, drawn.values, drawn.epsg, drawn.west, drawn.north, drawn.resolution_m, nodata=_nodata(kind)
    )
    publish_json(
        world.root / f"items/{kind}/{kind}-{place.name}.json", items.label_item(place, kind, drawn, world.href(file))
    )


def _nodata(kind: str) -> int:
    return 0 if kind == items.CORINE else 255


@functools.lru_cache(maxsize=1)
def _ground(root: Path, size_name: str, place_name: str) -> tuple[Ground, list[Scar]]:
    """A place's ground and scars; scenes come place by place, so the last one is kept."""
    place, size = BY_NAME[place_name], size_named(size_name)
    ground = load_ground(root / "ground" / place.name, place, size)
    return ground, scars_of(place, size, ground)


def build_scene(_: Any, job: tuple[Path, str, Scene]) -> None:
    """COGs of one scene, the truth of its clouds and coverage, and its item, last. job: folder, size, scene."""
    folder, name, scene = job
    world, place = World(folder, size_named(name)), BY_NAME[scene.place]
    collection = items.S2 if scene.sensor == "s2" else items.S1
    done = world.root / f"items/{collection}/{scene.id}.json"
    if done.exists():
        return
    ground, scars = _ground(world.root, name, place.name)
    state = optical.state_of(ground, scars, place, scene.when.date())
    classes = None
    if scene.sensor == "s2":
        weather = optical.weather_of(place, world.size, scene.number, ground)
        bands, classes = optical.render(scene, place, world.size, ground, state, weather)
        valid = seen_side(scene, place)
        layers = bands | {"SCL": classes}
    else:
        layers = radar.render(scene, place, ground, state)
        valid = layers["VV"] > 0
    hrefs = {}
    for key, band in items.asset_names(scene.sensor).items():
        file = f"cogs/{scene.id}/{key}.tif"
        nodata = radar.NODATA if scene.sensor == "s1" else None
        step = scene.rows // layers[band].shape[0]
        write_cog(world.root / file, layers[band], scene.epsg, scene.west, scene.north, 10 * step, nodata)
        hrefs[key] = world.href(file)
    rows = truth.scene_rows(scene, place, world.size, classes, valid)
    publish_json(world.root / f"truth/{scene.id}.json", rows)
    cloudy = 100 * float(np.isin(classes, truth.CLOUDED).mean()) if classes is not None else 0.0
    missing = 100 * float(1 - valid.mean())
    publish_json(done, items.scene_item(scene, place, hrefs, cloudy, missing))


def _finish(world: World, scenes: list[Scene]) -> None:
    """The catalogue's files and the truth as one table each; the mark that the world is whole comes last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [json.loads(path.read_text()) for path in sorted((world.root / "items").glob("*/*.json"))]
    publish_json(world.root / "items.json", {"type": "FeatureCollection", "features": found})
    publish_json(world.root / "collections.json", items.collections(found))
    cells = [row for place in PLACES for row in json.loads((world.root / f"truth/cells-{place.name}.json").read_text())]
    seen = [row for scene in scenes for row in json.loads((world.root / f"truth/{scene.id}.json").read_text())]
    for name, rows in (("cells", cells), ("seen", seen), ("scenes", [as_dict(scene) for scene in scenes])):
        with published(world.root / f"truth_{name}.parquet") as draft:
            pq.write_table(pa.Table.from_pylist(rows), draft)
    for left in world.root.rglob(".*.tmp"):  # drafts of killed builds
        left.unlink()
    publish_json(world.root / DONE, _about(world.size))


def write_cog(
    path: Path, values: np.ndarray, epsg: int, west: float, north: float, pixel_m: float, nodata: float | None
) -> None:
    """A cloud-optimised GeoTIFF (H, W), whole or not there. S2 files carry no nodata tag, as many real ones do not."""
    import rasterio
    import rasterio.shutil
    from rasterio.io import MemoryFile
    from rasterio.transform import from_origin

    profile = {
        "driver": "GTiff", "height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype,
        "crs": f"EPSG:{epsg}", "transform": from_origin(west, north, pixel_m, pixel_m), "nodata": nodata,
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as plain:
            plain.write(values, 1)
        options = {"COMPRESS": "DEFLATE", "LEVEL": "1", "PREDICTOR": "YES", "BLOCKSIZE": "512", "OVERVIEWS": "NONE"}
        with published(path) as draft, rasterio.Env(GDAL_NUM_THREADS=1), memory.open() as plain:
            rasterio.shutil.copy(plain, str(draft), driver="COG", **options)
