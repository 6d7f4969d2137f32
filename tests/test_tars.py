"""Tars are written member by member without tarfile, and are the ones tarfile would write."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from harmonize.problem import Problem
from pipeline import tars
from pipeline.sample import arrays_sha256, from_npy, npy_pieces, to_npy
from pipeline.store import Store
from pipeline.verify_tar import crcs_of

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.work import Work


@pytest.mark.parametrize("name", ["a", "32632_500_4167_s2_20200601t100000.10m.npy", "x" * 99, "x" * 100, "Ü.txt"])
@pytest.mark.parametrize("size", [0, 1, 512, 115_328, 8**11 - 1])
def test_headers_are_tarfile_s(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    assert tars._header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "utf-8")


def test_a_name_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="too long"):
        tars._header("x" * 300, 1)


def test_walking_finds_what_tarfile_finds(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    folder = "d" * 120
    members = {f"k{k}.npy": b"x" * size for k, size in enumerate((0, 1, 511, 512, 513, 40_000))}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in {**members, f"{folder}/long.txt": b"yz"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar, path.open("rb") as file:
        assert list(tars._walked(file)) == [(m.name, m.offset_data, m.size) for m in tar]


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<f2", "<f4", "|u1"])
def test_npy_members_are_numpy_s(kind: str) -> None:
    array = np.arange(4 * 6 * 6).reshape(4, 6, 6).astype(kind)
    expected = io.BytesIO()
    little = array.astype(array.dtype.newbyteorder("<"))
    np.lib.format.write_array(expected, little, version=(1, 0), allow_pickle=False)
    for some in (array, array[:, ::2], array.transpose(2, 0, 1)):
        data = to_npy(some)
        assert data == b"".join(npy_pieces(some))
        assert (from_npy(data) == some).all()
        assert arrays_sha256([some, some]) == hashlib.sha256(2 * some.astype(little.dtype).tobytes()).hexdigest()
    assert to_npy(array) == expected.getvalue()


@pytest.mark.parametrize("data", [b"[" * 200_000, b"\xff", b"{"], ids=["deep", "no text", "cut"])
def test_records_of_a_tar_that_cannot_be_read(data: bytes, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    work, tar = cast("Work", SimpleNamespace(store=store)), tars.Tar("a.tar", cast("pa.Table", None), "plan")
    for name in (f"{tars.RECEIPTS}/a.tar.json", "shards/a.tar", tars.PLAN):
        store.write(name, data)
    assert tars._whole(work, f"{tars.RECEIPTS}/a.tar.json", "a.tar", "key") is None, "it is written again"
    assert crcs_of(store, "a.tar") == {}
    with pytest.raises(Problem, match="another run plans other tars") as caught:
        tars._still_planned(work, tar)
    assert caught.value.code == 1
