"""Batches that are there before they are asked for: threads read some ahead, in an order that is settled before.

Threads, not processes: other threads run while one copies, and a batch need not be handed over to another
process (tests/benchmarks/loader_rows.py measures both). What a batch holds is a function of its number alone, so the
number of threads changes nothing but the time.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from pipeline.sample import SENSORS
from train.reader import Reader
from train.resident import Resident, fits

if TYPE_CHECKING:
    import torch

    from train.batches import Batch, Batches
    from train.shards import Samples


class Plan(Protocol):
    """A batch whose samples are chosen; `arrays` is empty until they are read. A dataclass."""

    @property
    def sensor(self) -> str: ...
    @property
    def rows(self) -> np.ndarray: ...
    @property
    def arrays(self) -> dict[str, Any]: ...


Stay = Literal["auto", "on", "off"]
P = TypeVar("P", bound=Plan)

FETCHING = 4
"""Threads where shards are in a bucket: they wait for the network more than they work, whatever the cores."""


@dataclass(frozen=True)
class Loading:
    """How batches are read. Nothing of it changes what they hold."""

    workers: int | None = None
    """Threads that read ahead. 0: none, a batch is read when it is asked for. None: as many as pay on this machine."""
    ahead: int | None = None
    """Batches that are read before they are asked for; None: one per thread, and two at least."""
    resident: Stay = "auto"
    """Keep what was read once on the device. auto: on a GPU with four times as much free memory."""

    @property
    def threads(self) -> int:
        """One leaves the main thread a core of its own where there are two; more than four wait for memory."""
        return min(4, max(1, cores() - 1)) if self.workers is None else self.workers


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Loader(Generic[P]):
    """Batches number 0, 1, … in order, each read by one thread into arrays that are used again.

    A batch on the CPU holds until `keep` more batches were taken: then its arrays are another's. On a GPU it is a copy,
    sent from pinned memory. An error of a thread is raised here, when its batch's turn comes. Leave the `with` block,
    or call close(): no thread stays.
    """

    def __init__(
        self,
        plan: Callable[[int], P],
        count: int,
        samples: Samples,
        device: torch.device,
        loading: Loading | None = None,
        keep: int = 1,
    ) -> None:
        self._plan, self._count, self._keep, self._device = plan, count, keep, device
        loading = loading or Loading()
        if loading.workers is None and any(file.url for file in samples.files):
            loading = replace(loading, workers=FETCHING)
        self._reader = Reader(samples)
        ahead = max(2, loading.threads) if loading.ahead is None else loading.ahead
        self._ahead = ahead if loading.threads else 0
        self._pool = ThreadPoolExecutor(loading.threads, "loader") if loading.threads else None
        self._resident = Resident(samples, self._reader, device) if _stays(samples, device, loading) else None
        self._planning = threading.Lock()
        self._next = 0
        self._coming: deque[tuple[Future[P], _Buffers]] = deque()
        self._held: deque[_Buffers] = deque()
        self._free: list[_Buffers] = []

    def __enter__(self) -> Loader[P]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Batches in all."""
        return self._count

    def __iter__(self) -> Iterator[P]:
        return self

    def __next__(self) -> P:
        if len(self._held) >= self._keep:
            self._free.append(self._held.popleft())
        while self._next < self._count and len(self._coming) <= self._ahead:
            self._start()
        if not self._coming:
            self.close()
            raise StopIteration
        future, buffers = self._coming.popleft()
        self._held.append(buffers)
        try:
            return self._sent(future.result(), buffers)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop reading. Batches under way are read to their end and thrown away."""
        self._next = self._count
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()
        self._held.clear()
        self._free.clear()
        self._reader.close()

    def _start(self) -> None:
        buffers = self._free.pop() if self._free else _Buffers(self._reader, pinned=self._device.type == "cuda")
        number, self._next = self._next, self._next + 1
        if self._pool:
            self._coming.append((self._pool.submit(self._made, number, buffers), buffers))
            return
        future: Future[P] = Future()
        try:
            future.set_result(self._made(number, buffers))
        except Exception as error:  # raised where those of threads are
            future.set_exception(error)
        self._coming.append((future, buffers))

    def _made(self, number: int, buffers: _Buffers) -> P:
        """A batch, read; runs in a thread."""
        with self._planning:
            plan = self._plan(number)
        if self._resident:
            return replace(plan, arrays=self._resident.batch(plan.sensor, plan.rows))  # type: ignore[type-var]
        arrays = buffers.of(plan.sensor, len(plan.rows))
        self._reader.read_into(plan.rows, arrays)
        return replace(plan, arrays=arrays)  # type: ignore[type-var]

    def _sent(self, batch: P, buffers: _Buffers) -> P:
        """A batch on its way to the GPU; its buffers are free again when it has left them."""
        if self._device.type != "cuda" or self._resident:
            return batch
        import torch

        from train.vision import to_tensors

        tensors = to_tensors(batch.arrays, self._device)
        buffers.left = torch.cuda.Event()
        buffers.left.record()
        return replace(batch, arrays=tensors)  # type: ignore[type-var]


class _Buffers:
    """Arrays for one batch at a time, of any sensor and up to the largest size there was; pinned for a GPU."""

    def __init__(self, reader: Reader, pinned: bool) -> None:
        self._reader, self._pinned = reader, pinned
        self._arrays: dict[str, dict[str, np.ndarray]] = {}
        self.left: Any = None
        """An event after the copy to the GPU."""

    def of(self, sensor: str, count: int) -> dict[str, np.ndarray]:
        if self.left is not None:
            self.left.synchronize()
        arrays = self._arrays.get(sensor)
        if arrays is None or len(arrays["10m"]) < count:
            arrays = self._arrays[sensor] = self._made(sensor, count)
        return {name: array[:count] for name, array in arrays.items()}

    def _made(self, sensor: str, count: int) -> dict[str, np.ndarray]:
        arrays = self._reader.buffers(sensor, count)
        if not self._pinned:
            return arrays
        import torch

        return {name: torch.from_numpy(array).pin_memory().numpy() for name, array in arrays.items()}


def _stays(samples: Samples, device: torch.device, loading: Loading) -> bool:
    # On a CPU the page cache holds the same bytes already: only who asks for it keeps them twice.
    auto = loading.resident == "auto" and device.type == "cuda"
    return loading.resident == "on" or (auto and fits(samples, device))


def training_loader(
    batches: Batches, steps: range, device: torch.device, loading: Loading | None = None
) -> Loader[Batch]:
    """A batch of each sensor for each step, in this order; a step's batches hold until the next step's come."""
    sensors = batches.sensors

    def plan(number: int) -> Batch:
        step, sensor = divmod(number, len(sensors))
        return batches.plan(sensors[sensor], steps[step])

    return Loader(plan, len(steps) * len(sensors), batches.samples, device, loading, keep=len(sensors))


@dataclass(frozen=True)
class Chunk:
    """Some rows of one sensor."""

    sensor: str
    rows: np.ndarray
    arrays: dict[str, Any]


def all_of(samples: Samples, size: int, device: torch.device, loading: Loading | None = None) -> Loader[Chunk]:
    """All samples once, up to `size` at a time, each sensor's in their order."""
    chunks = []
    for sensor in SENSORS:
        mine = np.flatnonzero(samples["sensor"] == sensor)
        chunks += [Chunk(sensor, mine[k : k + size], {}) for k in range(0, len(mine), size)]
    # Each is asked for once: nothing is gained by keeping it.
    loading = replace(loading or Loading(), resident="off")
    return Loader(chunks.__getitem__, len(chunks), samples, device, loading)
