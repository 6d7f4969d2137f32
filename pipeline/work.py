"""What a stage is given and what it gives back."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.cluster import SERIAL, Scheduler
from pipeline.receipt import receipt_name
from pipeline.retry import drain
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
    retried: Counter[str] = field(default_factory=Counter)
    """What jobs had to try again, by kind of request."""
    stage: str = ""
    """The stage that is given this; jobs do not know it."""

    def begin(self) -> None:
        """Called before the first output is written: the old receipt goes. It would be believed if the run died over
        half of its outputs and the edit that had asked for it were taken back. Raises Problem where another run has
        taken over."""
        self.store.check_held()
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

        self.retried.update(drain())  # this process may run the jobs
        with Progress(what, total, self.quiet) as progress:
            done = self.scheduler.run(
                _Counting(function),
                self.for_jobs(),
                self._held(arguments),
                total,
                lambda told: progress.advance(dropped(told[0])),
            )
            for result, retried in done:
                self.retried.update(retried)
                yield result

    def _held(self, arguments: Iterable[A]) -> Iterator[A]:
        """The arguments, as long as this run is the one that writes."""
        for argument in arguments:
            self.store.check_held()
            yield argument

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

    def openable(self, href: str) -> str:
        """An href of a table as something that can be opened; local ones are relative to the manifest."""
        if href.startswith(SCHEME):
            return str(path_of(href, self.region.world))
        if "://" not in href:
            return str((self.region.path.parent / href).resolve())
        return href

    def read(self, href: str, source: str, reader: Callable[[str], T]) -> T:
        """What `reader` makes of a raster of a table: signed as its source says, and tried again where it is remote.

        Raises what `reader` and `remote.read` raise.
        """
        from pipeline import remote

        return remote.read(self.openable(href), self.region.source(source).sign, reader)


@dataclass(frozen=True)
class _Counting(Generic[A, R]):
    """A job's function that also gives what had to be tried again; it goes by the function's name."""

    function: Callable[[Work, A], R]

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self, work: Work, argument: A) -> tuple[R, Counter[str]]:
        drain()  # what a job before this one left when it failed
        return self.function(work, argument), drain()


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
