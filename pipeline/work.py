"""What a stage is given and what it gives back."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.cluster import SERIAL, Scheduler
from pipeline.receipt import receipt_name
from pipeline.sandbox import SCHEME, path_of
from pipeline.sandbox import VERSION as WORLD_VERSION

if TYPE_CHECKING:
    import pyarrow as pa
    import shapely

    from pipeline.grid import Cell
    from pipeline.region import Region
    from pipeline.store import Store

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


@dataclass
class Work:
    """A stage's inputs: the region, the folder it writes to, and the tables of the stages it reads."""

    region: Region
    store: Store
    tables: Mapping[str, pa.Table]
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of outside files, by absolute path."""
    quiet: bool = False
    scheduler: Scheduler = SERIAL
    stage: str = ""
    """The stage that is given this; jobs do not know it."""

    def begin(self) -> None:
        """Called before the first output is written: the old receipt goes. It would be believed if the run died over
        half of its outputs and the edit that had asked for it were taken back."""
        self.store.remove(receipt_name(self.stage))

    @functools.cached_property
    def area(self) -> shapely.Geometry:
        """The region's geometry, EPSG:4326."""
        from pipeline.place import area_of

        return area_of(self.region)

    @functools.cached_property
    def cells(self) -> list[Cell]:
        """The region's cells, sorted."""
        from pipeline.grid import cells_of

        return cells_of(self.area, self.region.size_px)

    def rows(self, stage: str, columns: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """A table's rows; with `columns` only those, since a row of all of chips takes some 2 kB."""
        table = self.tables[stage]
        return (table if columns is None else table.select(list(columns))).to_pylist()

    def track(self, things: Iterable[T], total: int, what: str) -> Iterator[T]:
        """The things, with a progress bar (rate and remaining time) where somebody looks."""
        from pipeline.progress import track

        return track(things, total, what, quiet=self.quiet)

    def jobs(
        self,
        function: Callable[[Work, A], R],
        arguments: Iterable[A],
        total: int,
        what: str,
        dropped: Callable[[R], Mapping[str, int]] = lambda _: {},
    ) -> Iterator[R]:
        """`function(work, argument)` for each argument, wherever the scheduler runs it; results in their order.

        The function is module-level and gets this work `for_jobs`; arguments and results are small and can be pickled.
        `dropped` says of a result how many rows it lost by reason, for the progress bar.
        """
        from pipeline.progress import Progress

        with Progress(what, total, self.quiet) as progress:
            yield from self.scheduler.run(
                function, self.for_jobs(), arguments, total, lambda result: progress.advance(dropped(result))
            )

    def for_jobs(self) -> Work:
        """What a job gets: the region and its folder by absolute paths, since it may run elsewhere; no tables."""
        path, world = self.region.path.resolve(), self.region.world
        region = self.region.model_copy(
            update={"path": path, "world": world if "://" in str(world) else world.resolve()}
        )
        return Work(region, self.store.absolute(), {}, quiet=True)

    def content_of(self, href: str) -> str:
        """What stands for an href's bytes in hashes: the sha256 of a local file, else the address; the sample world's
        files change with its version alone.

        Local files are known to the stage that watches them, in `outside` or `outside_of_inputs`, and not in its jobs.
        """
        if href.startswith(SCHEME):
            return f"{href}#{WORLD_VERSION}"
        if "://" in href:
            return href
        path = self.openable(href)
        if path not in self.digests:
            raise AssertionError(f"the content of {path} is not known here: its stage does not watch it")
        return self.digests[path]

    def openable(self, href: str, source: str | None = None) -> str:
        """An href of a table as something that can be opened; local ones are relative to the manifest.

        With the name of its source a remote one is signed as the source says: for opening, never for a table or text.
        """
        if href.startswith(SCHEME):
            return str(path_of(href, self.region.world))
        if "://" not in href:
            return str((self.region.path.parent / href).resolve())
        from pipeline.access import reachable

        return reachable(href, self.region.source(source).sign) if source else href


@dataclass
class Outcome:
    """A stage's result: one table, or files it has written itself, and the count of every row."""

    rows_in: int
    table: pa.Table | None = None
    files: dict[str, str] = field(default_factory=dict)
    """File below the region's folder -> sha256, for what the stage wrote itself."""
    dropped: Counter[str] = field(default_factory=Counter)
    kept: int | None = None
    """Rows that go on; taken from the table's `dropped` column where there is one."""
    losers: Counter[str] = field(default_factory=Counter)
    """Candidates that were not chosen, by reason; they are no rows."""
    notes: list[str] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)
    """Further outside files that the stage found it depends on."""
