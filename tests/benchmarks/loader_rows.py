"""Reading and writing of shards: our reader and loader beside webdataset's and the published HDF5 loader's way.

python tests/benchmarks/loader_rows.py [--repeats 5] [--write]

Warm page cache unless a row says cold. Every measure is a process of its own, interleaved with the others; ratios are of
the same repeat. S2 samples of 160 kB in native resolution (see bench_shards.py for what of them is made up).
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench_shards
import numpy as np
from bench_shards import SAMPLE_BYTES, samples, tars
from measure import Measure, Ratio, main

BATCH, WORKERS, WARM, SECONDS = 256, 2, 6, 2.0
GROUP_BYTES = {"10m": 115_200, "20m": 43_200, "60m": 1_600}


def rate(batches: Iterator[int], seconds: float = SECONDS) -> dict[str, Any]:
    """Samples a second of batches that never end; what starts workers and fills buffers is not counted."""
    for _ in range(WARM):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += next(batches)
    return {"samples/s": round(count / (time.perf_counter() - start))}


def rows_of(count: int) -> Iterator[np.ndarray]:
    """Rows of batch after batch, each epoch in another order."""
    for epoch in itertools.count():
        order = np.random.default_rng(epoch).permutation(count)
        yield from (order[k : k + BATCH] for k in range(0, count - BATCH + 1, BATCH))


# One process, into batch arrays.


def plain(paths: list[Path]) -> Iterator[int]:
    """The tars from beginning to end into one small buffer: what the page cache gives at most."""
    buffer = bytearray(1 << 20)
    while True:
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while got := file.readinto(buffer):
                    yield got / SAMPLE_BYTES


def reader(of: Any) -> Iterator[int]:
    from train.reader import Reader

    reading = Reader(of)
    out = reading.buffers("s2", BATCH)
    for rows in rows_of(len(of)):
        reading.read_into(rows, out)
        yield len(rows)


def mapped(of: Any) -> Iterator[int]:
    """The same by copies out of memory maps, headers not looked at."""
    maps = [np.memmap(path, np.uint8, "r") for path in of.tars]
    out = [np.empty((BATCH, size), np.uint8) for size in GROUP_BYTES.values()]
    tar, starts = of["tar"].tolist(), [of[f"offset_{name}"].tolist() for name in GROUP_BYTES]
    for rows in rows_of(len(of)):
        for k, row in enumerate(rows.tolist()):
            for batch, start, size in zip(out, starts, GROUP_BYTES.values(), strict=True):
                at = start[row] + 128
                batch[k] = maps[tar[row]][at : at + size]
        yield len(rows)


def preadv(of: Any) -> Iterator[int]:
    """The same by one system call a sample."""
    files = [os.open(path, os.O_RDONLY) for path in of.tars]
    size = 1024 + sum(GROUP_BYTES.values()) + 3 * 128  # two headers with their padding lie between the arrays
    out = memoryview(bytearray(BATCH * size))
    tar, starts = of["tar"].tolist(), of["offset_10m"].tolist()
    for rows in rows_of(len(of)):
        for k, row in enumerate(rows.tolist()):
            os.preadv(files[tar[row]], [out[k * size : (k + 1) * size]], starts[row])
        yield len(rows)


def web_dataset(paths: list[Path]) -> Any:
    import webdataset

    dataset = webdataset.WebDataset([str(p) for p in paths], shardshuffle=False, nodesplitter=webdataset.split_by_node)
    return dataset.decode().to_tuple(*(f"{name}.npy" for name in GROUP_BYTES), "txt").batched(BATCH).repeat()


def web_pipeline(paths: list[Path]) -> Iterator[int]:
    return (len(batch[3]) for batch in web_dataset(paths))


# Whole loaders, two workers, batches ready for a model: in pinned memory and on the way to it where there is a GPU.


def loader(of: Any, views: str = "caption", resident: Any = "off") -> Iterator[int]:
    """As training has it: batches in training order, with texts and masks."""
    import torch

    from train.batches import Batches
    from train.loader import Loading, training_loader
    from train.recipe import Data

    batches = Batches(of, Data(batch_size=BATCH, views=views), 0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with training_loader(batches, range(1 << 30), device, Loading(WORKERS, resident=resident)) as loading:
        for batch in loading:
            yield len(batch.texts)


def processes(of: Any) -> Iterator[int]:
    """Our reader in two processes of a torch DataLoader, batches handed over in shared memory."""
    import torch
    from torch.utils.data import DataLoader, IterableDataset

    class Reading(IterableDataset):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            from train.reader import Reader

            reading = Reader(of)
            for rows in rows_of(len(of)):
                yield {name: torch.from_numpy(a) for name, a in reading.read(of.where(rows)).items()}

    return (
        len(batch["10m"]) for batch in DataLoader(Reading(), batch_size=None, num_workers=WORKERS, pin_memory=gpu())
    )


def web_loader(paths: list[Path]) -> Iterator[int]:
    import webdataset

    dataset = web_dataset(paths)
    return (len(b[3]) for b in webdataset.WebLoader(dataset, batch_size=None, num_workers=WORKERS, pin_memory=gpu()))


def published(path: Path) -> Iterator[int]:
    """The file opened for each sample, its image, coordinates and attributes read."""
    import h5py
    import torch
    from torch.utils.data import DataLoader, Dataset

    with h5py.File(path) as file:
        keys = list(file)

    class Published(Dataset):
        def __len__(self) -> int:
            return len(keys)

        def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor, str]:
            with h5py.File(path) as file:
                group = file[keys[k]]
                image, coords = group["image"][:], group["coords"][:]
                said = {name: group.attrs[name] for name in ("crs", "timestamp", "labels")}
            return torch.from_numpy(image), torch.from_numpy(coords), ". ".join(said["labels"])

    # One loader without end: a new one for each epoch would be timed with its processes' start. A batch of it takes
    # 800 kB a sample: as large as ours would be many at once.
    order = itertools.chain.from_iterable(np.random.default_rng(k).permutation(len(keys)) for k in itertools.count())
    loading = DataLoader(Published(), 64, sampler=order, num_workers=WORKERS, pin_memory=gpu())
    return (len(batch[2]) for batch in loading)


def gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


# Cold: nothing of the tars is in the page cache.


def cold(of: Any, read: Any) -> dict[str, Any]:
    """Every sample once, in random order."""
    for path in of.tars:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    batches, count, start = read, 0, time.perf_counter()
    while count + BATCH <= len(of):
        count += next(batches)
    return {"samples/s": round(count / (time.perf_counter() - start))}


# Writing.


def write_bytes(of: tuple[Path, bytes]) -> dict[str, Any]:
    """The bytes of a finished tar, out of memory into a file that is on the disk at the end."""
    path, data = of
    start = time.perf_counter()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"samples/s": round(bench_shards.WRITTEN / (time.perf_counter() - start))}


def write_hashed(of: tuple[Path, bytes]) -> dict[str, Any]:
    """The same, hashed as a tar is: the arrays that were read, and the file for its list."""
    data = of[1]
    start = time.perf_counter()
    hashlib.sha256(data).digest()
    write_bytes(of)
    hashlib.sha256(data).digest()
    return {"samples/s": round(bench_shards.WRITTEN / (time.perf_counter() - start))}


def write_tarfile(of: tuple[Path, bytes]) -> dict[str, Any]:
    """The same members, ready in memory, by Python's tarfile: what any writer of such tars does at least."""
    path, data = of
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(info.name, data[info.offset_data : info.offset_data + info.size]) for info in tar]
    start = time.perf_counter()
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, member in members:
                info = tarfile.TarInfo(name)
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
        file.flush()
        os.fsync(file.fileno())
    return {"samples/s": round(bench_shards.WRITTEN / (time.perf_counter() - start))}


def finished_tar() -> tuple[Path, bytes]:
    work, tar = bench_shards.to_write(quicklook=False)
    found = work.store.local(f"shards/{tar.name}")
    if not found.exists():
        write_tar((work, tar))
    return found.with_suffix(".copy"), found.read_bytes()


def write_tar(of: tuple[Any, Any]) -> dict[str, Any]:
    from pipeline.tars import write_tar as write

    start = time.perf_counter()
    done = write(*of)
    return {"samples/s": round(done.nsamples / (time.perf_counter() - start)), "MB": round(done.bytes / 1e6)}


# Memory.


def epoch_of_50_000(of: Any) -> dict[str, Any]:
    """The most memory that is no file's over 50,000 samples, less what was there before; and its growth after a fifth."""
    many = of.where(np.arange(50_000) % len(of))
    before, seen, count = anonymous_mb(), [], 0
    for size in loader(many):
        count += size
        seen.append(anonymous_mb())
        if count >= 50_000:
            break
    fifth = len(seen) // 5
    return {"samples": count, "MB above": round(max(seen) - before), "MB growth": round(max(seen) - max(seen[:fifth]))}


def anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


MEASURES = [
    Measure("plain sequential read", 0, tars, lambda of: rate(plain(of))),
    Measure("reader", 0, samples, lambda of: rate(reader(of))),
    Measure("reader, 2,600 tars", 0, bench_shards.many_tars, lambda of: rate(reader(of))),
    Measure("reader, kept of a bucket", 0, bench_shards.kept, lambda of: rate(reader(of))),
    Measure("bare memory maps", 0, samples, lambda of: rate(mapped(of))),
    Measure("bare system calls", 0, samples, lambda of: rate(preadv(of))),
    Measure("webdataset pipeline", 0, tars, lambda of: rate(web_pipeline(of))),
    Measure("loader, 2 threads", 0, samples, lambda of: rate(loader(of))),
    Measure("loader, 2 threads, views", 0, samples, lambda of: rate(loader(of, "subsets"))),
    Measure("loader, kept in memory", 0, samples, lambda of: rate(loader(of, resident="on"))),
    Measure("reader in 2 processes", 0, samples, lambda of: rate(processes(of))),
    Measure("WebLoader, 2 processes", 0, tars, lambda of: rate(web_loader(of))),
    Measure("published way, 2 processes", 0, bench_shards.hdf5, lambda of: rate(published(of))),
    Measure("reader, cold", 0, samples, lambda of: cold(of, reader(of))),
    Measure("bare memory maps, cold", 0, samples, lambda of: cold(of, mapped(of))),
    Measure("write of the same bytes", 0, finished_tar, write_bytes),
    Measure("write of the same bytes, hashed twice", 0, finished_tar, write_hashed),
    Measure("write by tarfile", 0, finished_tar, write_tarfile),
    Measure("write a tar", 0, lambda: bench_shards.to_write(False), write_tar),
    Measure("write a tar with quick looks", 0, lambda: bench_shards.to_write(True), write_tar),
    Measure("epoch of 50,000 samples", 0, samples, epoch_of_50_000),
]

RATIOS = [
    Ratio("reader", "plain sequential read", 0.8, "or 12,000 samples/s"),
    Ratio(
        "reader, 2,600 tars",
        "plain sequential read",
        None,
        "or 12,000 samples/s; predicted 0.5: a tar is asked for per sample",
    ),
    Ratio("reader, kept of a bucket", "reader", None, "predicted 0.9: a mark is looked at, no tar header"),
    Ratio("reader", "bare memory maps", None, "predicted 0.9: headers are looked at"),
    Ratio("reader", "bare system calls", None, "predicted 1.4"),
    Ratio("reader", "webdataset pipeline", 4, "predicted 5: 10,131 and 2,022 samples/s of 346 kB before"),
    Ratio("loader, 2 threads", "WebLoader, 2 processes", 2.5, "predicted 4"),
    Ratio("loader, 2 threads", "published way, 2 processes", 10, "predicted 15"),
    Ratio("loader, 2 threads", "reader in 2 processes", None, "predicted 2: no batch is handed over"),
    Ratio("loader, kept in memory", "loader, 2 threads", None, "predicted 1 on a CPU: the page cache is memory too"),
    Ratio("reader, cold", "bare memory maps, cold", None, "predicted 2: a batch is asked for at once"),
    Ratio("write a tar", "write by tarfile", 0.6, "predicted 0.7: pixels are read and hashed, the tar is hashed"),
    Ratio("write a tar", "write of the same bytes", None, "one write of 200 MB from memory, nothing hashed"),
    Ratio(
        "write a tar", "write of the same bytes, hashed twice", None, "predicted 0.7: what no writer with hashes beats"
    ),
    Ratio("write a tar with quick looks", "write a tar", None, "predicted 0.2: 2 ms a JPEG"),
]

if __name__ == "__main__":
    main("loader_rows", MEASURES, RATIOS)
