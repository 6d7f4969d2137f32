"""Where the jobs of a stage run: in this process, on processes of this machine, or on a dask scheduler somewhere.

A job is a module-level function of a `Work` without tables and one small argument. It opens its own rasters, writes
its own files and gives back a small receipt. Futures only, a few per worker at a time: the scheduler never holds half a
million of them, and no array travels. Results come in the order of the arguments, so that what a stage writes does not
depend on where and in which order its jobs ran.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import pickle
import queue
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from harmonize.problem import Problem
from pipeline.job import Job, outcome_of
from pipeline.worker import about, perform

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

A = TypeVar("A")
R = TypeVar("R")
W = TypeVar("W")
"""What every job gets: a Work without tables, or another thing with a `store` that workers must see."""

AHEAD = 4
"""Jobs submitted per worker thread: one runs, the others wait beside it."""
DEATHS = 3
"""So many workers may die under a job, or while it waits beside another, before dask gives it up."""
REFILL_S = 1.0
"""How often it is looked whether a local cluster has lost a worker for good."""
START_S = 10.0
"""A local cluster is started when the first jobs, done here, say that it would save more than this: it takes 3 s to
start and as long to import the raster libraries in each process, more on a busy machine."""
IMPORTED = ("pipeline.stages", "pyarrow.parquet", "rioxarray")
"""A local worker imports these before it takes a job, not in its first one: where workers live a few seconds only, no
job would ever come to its end."""
ANSWER_S = 5
"""How long a scheduler's address may take to answer."""
WORKERS_S = 60
"""How long to wait for a first worker, and for the scheduler or a worker to come back."""


class Scheduler:
    """Runs jobs. `serial`: one after another in this process. Empty: processes of this machine, started when they
    pay. Otherwise the address of a dask scheduler. Use it in a `with` block: leaving it leaves no process behind.
    """

    def __init__(self, address: str = "serial") -> None:
        self.address = address
        self._client: Client | None = None
        self._cluster: LocalCluster | None = None

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def run(
        self,
        function: Callable[[W, A], R],
        work: W,
        arguments: Iterable[A],
        total: int,
        done: Callable[[R], None] = lambda _: None,
    ) -> Iterator[R]:
        """Results in the order of the arguments; `done` is called with each as soon as it is there.

        Raises what a job raises: a Problem arrives as itself.
        """
        left = iter(arguments)
        self.connect()
        if self._client is None:
            yield from self._here(function, work, left, total, done)
        if self._client is not None:
            yield from self._there(function, work, left, done)

    def _here(
        self, function: Callable[[W, A], R], work: W, left: Iterator[A], total: int, done: Callable[[R], None]
    ) -> Iterator[R]:
        """In this process: all of the jobs, or as many as it takes to see that a local cluster pays."""
        from dask.system import CPU_COUNT

        started = time.perf_counter()
        for count, argument in enumerate(left, start=1):
            result = function(work, argument)
            done(result)
            yield result
            if count == 1:
                started = time.perf_counter()  # the first one also imports libraries
            elif self.address != "serial" and total - count > 1:
                rest = (time.perf_counter() - started) / (count - 1) * (total - count)
                if rest * (1 - 1 / CPU_COUNT) >= START_S:
                    self._start()
                    return

    def _there(
        self, function: Callable[[W, A], R], work: W, left: Iterator[A], done: Callable[[R], None]
    ) -> Iterator[R]:
        waiting: collections.deque[Job] = collections.deque()
        ready: queue.SimpleQueue[Job] = queue.SimpleQueue()
        running: set[Job] = set()
        try:
            while True:
                for argument in self._room(left, running):
                    job = Job(function, work, argument)
                    self._submit(job, ready)
                    waiting.append(job)
                    running.add(job)
                if not waiting:
                    return
                job = self._next(ready)
                outcome = outcome_of(job, self._where)
                if outcome is None:
                    if job.died:
                        self._submit(job, ready)  # once more: perhaps it was not to blame
                    else:
                        _announce(job, ready)
                    continue
                running.discard(job)
                job.outcome = outcome
                if isinstance(outcome[0], Exception):
                    left = iter(())  # jobs before this one may fail too: the first in order is told, as in one process
                else:
                    done(outcome[0])
                while waiting and waiting[0].outcome is not None:
                    result = waiting.popleft().outcome[0]
                    if isinstance(result, Exception):
                        raise result
                    yield result
        finally:
            if running and self._client is not None:
                with contextlib.suppress(Exception):  # on the way out of an error that matters more
                    self._client.cancel([job.future for job in running], force=True)

    def _room(self, left: Iterator[A], running: set[Job]) -> Iterator[A]:
        """Arguments for as many more jobs as may be submitted now; running grows while they are taken."""
        assert self._client is not None
        limit = AHEAD * max(1, sum(self._threads()))
        while len(running) < limit:
            try:
                yield next(left)
            except StopIteration:
                return

    def _threads(self) -> list[int]:
        """Threads of each worker, as far as this process has heard."""
        assert self._client is not None
        return [worker["nthreads"] for worker in self._client.scheduler_info()["workers"].values()]

    def _submit(self, job: Job, ready: queue.SimpleQueue[Job]) -> None:
        assert self._client is not None
        # Pickled here, or dask would search every argument for futures.
        pickled = pickle.dumps((job.function, job.work, job.argument), protocol=5)
        key = f"{job.function.__name__.strip('_')}-{uuid.uuid4().hex}"
        job.tries, job.died = job.tries + 1, False
        job.future = self._client.submit(perform, about(), pickled, key=key, pure=False)
        _announce(job, ready)

    def _next(self, ready: queue.SimpleQueue[Job]) -> Job:
        """The next finished job; Problem where for WORKERS_S no scheduler or no worker has been there."""
        assert self._client is not None
        alone_since = time.monotonic()
        while True:
            try:
                return ready.get(timeout=1)
            except queue.Empty:
                pass
            if self._client.status == "running" and self._threads():
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > WORKERS_S:
                raise Problem(
                    f"for {WORKERS_S} s no worker has been there", where=self._where, fix=_START_WORKERS, code=1
                )

    @property
    def _where(self) -> str:
        return f"SCHEDULER={self.address}" if self.address else "the local cluster"

    def _start(self) -> None:
        """A cluster of one process per core of this machine."""
        import dask.config
        from dask.system import CPU_COUNT
        from distributed import Client, LocalCluster

        dask.config.set({"distributed.scheduler.allowed-failures": DEATHS - 1})
        dask.config.set({"distributed.deploy.lost-worker-timeout": WORKERS_S})  # a busy machine is slow to start one
        try:
            with _sigint_blocked():
                self._cluster = LocalCluster(
                    n_workers=CPU_COUNT,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",  # no address at all would be port 8787
                    memory_limit=0,  # a job's arrays are not dask's to spill; a paused worker would only stand still
                    silence_logs=logging.CRITICAL,
                    preload=list(IMPORTED),
                )
        except (OSError, RuntimeError, TimeoutError) as error:
            raise Problem(
                f"no local cluster could be started: {error}",
                fix="python -m pipeline … --scheduler serial runs the jobs one after another",
                code=1,
            ) from None
        _keep_full(self._cluster, CPU_COUNT)
        self._client = Client(self._cluster, set_as_default=False)

    def connect(self) -> None:
        """Reach the scheduler at the address, where there is one, and wait for a first worker. Raises Problem."""
        if self._client is not None or self.address in ("", "serial"):
            return
        from distributed import Client
        from distributed.comm import get_address_host_port

        for name in ("distributed", "tornado.application"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            get_address_host_port(self.address)  # raises here, since a client that cannot be made is not quiet about it
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of versions: our own check is stricter and says what to do
                self._client = Client(self.address, timeout=ANSWER_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError, RuntimeError) as error:
            raise Problem(
                f"no dask scheduler answers: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                where=self._where,
                fix="check the address (tcp://host:8786, as `dask scheduler` prints it); empty is this machine",
            ) from None
        if not self._threads():
            print(f"waiting up to {WORKERS_S} s for workers at {self.address}", file=sys.stderr, flush=True)
            try:
                self._client.wait_for_workers(1, timeout=WORKERS_S)
            except TimeoutError:
                raise Problem("the scheduler has no workers", where=self._where, fix=_START_WORKERS) from None

    def close(self) -> None:
        """Let go of the scheduler; a local cluster's processes end."""
        client, cluster, self._client, self._cluster = self._client, self._cluster, None, None
        if client is not None:
            with contextlib.suppress(TimeoutError, OSError):
                client.close(timeout=2)
        if cluster is not None:
            with contextlib.suppress(TimeoutError, OSError):
                cluster.close(timeout=5)


SERIAL = Scheduler("serial")
_START_WORKERS = "dask worker <address> --nworkers auto --nthreads 1, in the same environment and with the same files"


def _announce(job: Job, ready: queue.SimpleQueue[Job]) -> None:
    """Put the job into the queue when it is done, at once where it is."""
    assert job.future is not None
    job.future.add_done_callback(lambda _: ready.put(job))


def _keep_full(cluster: LocalCluster, workers: int) -> None:
    """A local cluster starts a worker again that dies at work, but not one that dies while it starts: it would have
    fewer and fewer, and wait for ever in the end."""
    from distributed.core import Status
    from tornado.ioloop import PeriodicCallback

    def look() -> None:
        for name, nanny in list(cluster.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del cluster.workers[name]
        if len(cluster.workers) < workers:
            cluster.scale(workers)  # nothing, once it closes

    assert cluster.loop is not None
    cluster.loop.add_callback(PeriodicCallback(look, REFILL_S * 1000).start)


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Threads started in the block, and the workers they start then or later, never see Ctrl-C: it is ours to handle.

    A terminal sends it to all processes at once; workers would die over it, and say so at length.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start would let the signal in again, in the thread that needs it first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
