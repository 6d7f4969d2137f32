"""An S3 server of this machine (moto's) as a fixture, and what other programs do in its bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BUCKET = "corpus"


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """The server's address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def bucket(s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An OUT in an empty bucket, and no copies on the disk; child processes find it too."""
    import s3fs

    (tmp_path / "copies").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    for name, value in (environment(s3_address) | {"TMPDIR": str(tmp_path / "copies")}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client().create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}/data"
    empty()
    client().delete_bucket(Bucket=BUCKET)
    s3fs.S3FileSystem.clear_instance_cache()


def environment(address: str) -> dict[str, str]:
    """What a user sets for a bucket that is not Amazon's."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def client() -> Any:
    """Another program than ours: it shares no memory of listings with fsspec."""
    import boto3

    return boto3.client("s3")


def objects(prefix: str = "") -> dict[str, int]:
    """Key -> bytes."""
    pages = client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", [])}


def content(key: str) -> bytes:
    data: bytes = client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return data


def empty() -> None:
    for key in objects():
        client().delete_object(Bucket=BUCKET, Key=key)


def put(key: str, data: bytes) -> None:
    client().put_object(Bucket=BUCKET, Key=key, Body=data)
