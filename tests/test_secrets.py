"""Canaries in the environment and in signed addresses: after runs that fail in many ways they are in no file and no text."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
from fault_server import CANARY, FaultServer, forget_tokens, hurried, served_region
from world import World

from harmonize.secrets import guard_logs, redacted

KEY, PASSWORD = "C4naryOfTheSubscription", "C4nary/Of+TheBucket"
ADDRESS = f"https://account.blob.core.windows.net/c/a.tif?st=2026&se=2027&sig={CANARY}%2F1"


def test_what_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.setenv("GOOGLE_APPLICATION_TOKEN_FILE", "/home/me/token.json")
    assert redacted(f"cannot open {ADDRESS} now") == (
        "cannot open https://account.blob.core.windows.net/c/a.tif?*** now"
    )
    assert redacted(f"'/c/a.tif?st=2026&sig={CANARY}%2F1' 403") == "'/c/a.tif?st=***&sig=***' 403"
    assert redacted("https://me:pass@host/x#y") == "https://***@host/x#y"
    assert redacted(f"{{'secret': '{PASSWORD}'}}") == "{'secret': '***'}"
    plain = "s3://bucket/a.tif in /home/me/token.json: 3 of 4 rows, key = value, is it so?"
    assert redacted(plain) == plain


def test_log_records_hold_no_secret_whoever_writes_them() -> None:
    guard_logs()
    guard_logs()
    text = io.StringIO()
    log = logging.Logger("somebody's")
    log.addHandler(logging.StreamHandler(text))
    log.warning("HTTP error code: %d - %s. Retrying", 503, ADDRESS)
    try:
        raise OSError(f"no {ADDRESS}")
    except OSError:
        log.exception("it failed")
    log.warning("%d files", ADDRESS)
    said = text.getvalue()
    assert CANARY not in said
    assert "that its arguments do not fit" in said
    assert "HTTP error code: 503 - https://account" in said
    assert "it failed\nTraceback" in said
    assert "OSError: no https://account" in said


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultServer, Path]]:
    """A world behind signatures, its label raster too, with secrets in the environment."""
    root = tmp_path / "archive"
    world = World(root, size_m=1200)
    with FaultServer(root=root) as server:
        hurried(monkeypatch, server.host)
        server.needs_signature = True
        for name, value in {
            "PC_SDK_SUBSCRIPTION_KEY": KEY, "AWS_SECRET_ACCESS_KEY": PASSWORD, "AZURE_STORAGE_KEY": PASSWORD[::-1],
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        manifest = served_region(server, world.write())
        text = manifest.read_text().replace(
            'href = "labels/classes.tif"', f'href = "{server.files}/labels/classes.tif"\nsign = "planetary-computer"'
        )
        manifest.write_text(text)
        forget_tokens()
        yield server, manifest
    forget_tokens()


def test_no_secret_is_kept_or_said_after_runs_that_fail(
    archive: tuple[FaultServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, score: Any
) -> None:
    server, manifest = archive
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)  # as somebody does who looks for the mistake
    said: list[str] = []
    try:
        from distributed import LocalCluster

        with LocalCluster(n_workers=1, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0") as cluster:
            words = (str(manifest), "--out", str(tmp_path / "out"), "--scheduler", cluster.scheduler_address)

            def build(to: str, code: int) -> str:
                found = commands.run("pipeline", "build", *words, "--to", to)
                assert found.returncode == code, found.all
                said.append(found.all)
                return found.all

            server.break_("sign", "403 expired signature")
            assert "gives no token" in build("pixels", 2)
            server.plans.clear()
            server.break_("raster", "503", only="s2_0_B04.tif")
            assert "4 unreadable" in build("pixels", 3)
            server.plans.clear()
            for fault in ("403 expired signature", "200 with a page"):
                server.break_("raster", fault, only="classes.tif")
                assert "a label raster cannot be read: classes.tif" in build("labels", 2)
            server.plans.clear()
            said += unexpected(words, monkeypatch)
            build("shards", 3)
            from distributed import Client

            with Client(cluster) as client:
                said += [json.dumps(client.get_events(), default=repr), repr(client.get_worker_logs())]
                said += [repr(client.get_scheduler_logs()), repr(client.run_on_scheduler(tasks))]
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    written = [p for p in [*(tmp_path / "out").rglob("*"), manifest] if p.is_file()]
    assert len(written) > 15
    assert "Retrying again" in logged.getvalue(), "GDAL's own warnings were logged"
    texts = [*said, logged.getvalue(), *capfd.readouterr()]
    assert leaks(written, texts) == []
    assert server.keys[0] == KEY, "the key was there to be leaked"
    assert server.asked_of["raster"] > 10, "and signatures were used"
    score("secrets leaked", 0, len(written) + len(texts))


def unexpected(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed when a job ends with a mistake of ours whose message holds all there is to hide."""

    def fail(*_: Any) -> None:
        raise RuntimeError(f"{ADDRESS} {KEY} {PASSWORD}")

    hook, text = sys.excepthook, io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.label_shares.measure", fail)
        patch.setattr("pipeline.labels.measure", fail)
        with pytest.raises(RuntimeError) as caught:
            commands.run("pipeline", "build", *words, "--to", "labels")
        patch.setattr(sys, "stderr", text)
        sys.excepthook(caught.type, caught.value, caught.tb)
    sys.excepthook = hook
    assert "RuntimeError" in text.getvalue()
    assert "in _measure_window" in text.getvalue(), "where it happened is told"
    return [text.getvalue(), repr(caught.value)]


def tasks(dask_scheduler: Any) -> str:
    """All that a scheduler knows of its tasks."""
    return repr([(t.key, t.exception_text, t.traceback_text, t.exception) for t in dask_scheduler.tasks.values()])


def leaks(written: list[Path], texts: list[str]) -> list[str]:
    canaries = [CANARY, KEY, PASSWORD, PASSWORD[::-1]]
    found = [f"{c} in {p}" for p in written for c in canaries if c.encode() in p.read_bytes()]
    return found + [f"{c} in …{t[max(0, t.index(c) - 300) : t.index(c)]}" for t in texts for c in canaries if c in t]
