"""A process that reads shards in a bucket: `python bucket_reading.py CACHE RANK WORLD [COUNT]`, rows RANK, RANK + WORLD, …
of the train split of `counted://shards`, COUNT at a time. It checks every pixel, and says `ready` and `read N`."""

from __future__ import annotations

import sys
from pathlib import Path

import counted_bucket  # noqa: F401  it registers the address
import numpy as np

from pipeline.sample import arrays_sha256
from train.reader import Reader
from train.shards import open_shards


def main(cache: str, rank: int, world: int, count: int = 4) -> None:
    samples = open_shards(["counted://shards"], cache=Path(cache)).of("train", "s2")
    rows = np.random.default_rng(0).permutation(len(samples))[rank::world]
    reader = Reader(samples)
    print("ready", flush=True)
    for k in range(0, len(rows), count):
        some = samples.where(rows[k : k + count])
        arrays = reader.read(some)
        for j, sha256 in enumerate(some["sha256"]):
            assert arrays_sha256([array[j] for array in arrays.values()]) == sha256
    print(f"read {len(rows)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *(int(word) for word in sys.argv[2:]))
