"""The doctor: good news, each thing that can be wrong with its fix, no secret, and no network needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_bad_input import cli
from world import World

from harmonize.lock import locked
from pipeline import doctor, doctor_machine, doctor_services
from pipeline.doctor import Check
from pipeline.region import load_region


@pytest.fixture
def no_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch takes ten seconds; its part has a test of its own."""
    monkeypatch.setattr(doctor, "train", lambda: iter([Check("train", "ok", "as it is")]))


def found(checks: Any) -> dict[str, Check]:
    """By what; the last of several."""
    return {check.what: check for check in checks}


def test_a_good_machine(no_train: None, tmp_path: Path) -> None:
    manifest = World(tmp_path / "w").write()
    out = tmp_path / "out"
    code, said = cli("doctor", str(manifest), "--out", str(out), "--runs", str(tmp_path / "runs"), "--json")
    told = json.loads(said)
    assert code == 0, said
    assert told["wrong"] == 0
    whats = {check["what"] for check in told["checks"]}
    assert whats >= {
        "region", "python", "packages", "gdal", "proj", "rustac", "cores", "memory", "open files", "scratch", "OUT",
        "RUNS", "lock", "train", "credentials",
    }  # fmt: skip
    assert not out.exists(), "nothing is written"
    code, said = cli("doctor", str(manifest), "--out", str(out))
    assert code == 0
    assert said.splitlines()[0].split()[:2] == ["ok", "region"]
    assert said.splitlines()[-1].endswith("0 wrong")


def test_what_is_wrong_is_said_with_its_fix(no_train: None, tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    manifest = world.write()
    (world.root / "labels/classes.tif").unlink()
    (tmp_path / "file").write_text("")
    code, said = cli("doctor", str(manifest), "--out", str(tmp_path / "file"))
    assert code == 1
    lines = said.splitlines()
    assert any(line.startswith("wrong   region      there is no label file") for line in lines)
    assert any(line.startswith("wrong   OUT") and "is no folder" in line for line in lines)
    assert sum("fix: " in line for line in lines) >= 2
    assert lines[-1].endswith("2 wrong")


def test_a_broken_library_is_told_and_the_rest_goes_on(
    no_train: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("libproj.so.25: cannot open shared object file")

    monkeypatch.setattr(doctor_machine, "gdal", broken)
    checks = list(doctor.examine(None, str(tmp_path), str(tmp_path)))
    assert found(checks)["gdal"].state == "wrong"
    assert "libproj" in found(checks)["gdal"].said
    assert "memory" in found(checks)


def test_versions_are_held_against_constraints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "_constraints", lambda: {"numpy": "0.1"})
    check = found(doctor_machine.versions())["packages"]
    assert (check.state, check.fix) == ("warning", "make setup")
    assert "(constraints.txt: 0.1)" in check.said
    monkeypatch.setattr(doctor_machine, "PACKAGES", ("numpy", "no-such-package"))
    assert found(doctor_machine.versions())["packages"].state == "wrong"
    monkeypatch.setattr(doctor_machine, "PYTHON", (9, 9))
    assert found(doctor_machine.versions())["python"].state == "wrong"


def test_constraints_of_this_python_are_read() -> None:
    wanted = doctor_machine._constraints()
    assert set(doctor_machine.PACKAGES) <= set(wanted)
    assert wanted["dask"] in (ROOT / "constraints.txt").read_text()


def test_a_driver_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "READS", ("GTiff", "NoSuchDriver"))
    check = found(doctor_machine.gdal())["gdal"]
    assert check.state == "wrong"
    assert "without NoSuchDriver" in check.said


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((1e9, "wrong"), (10e9, "warning"), (100e9, "ok")):
        monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _, free=free: types.SimpleNamespace(free=free))
        assert found(doctor_machine.place("OUT", str(tmp_path / "a/b")))["OUT"].state == state
    monkeypatch.setattr(doctor_machine.os, "statvfs", lambda _: types.SimpleNamespace(f_files=10**6, f_favail=5))
    assert "5 more files only" in found(doctor_machine.place("OUT", str(tmp_path)))["OUT"].said
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o555)
    check = found(doctor_machine.place("RUNS", str(tmp_path / "theirs/runs")))["RUNS"]
    assert (check.state, "RUNS=…" in check.fix) == ("wrong", True)


def test_a_disk_without_locks_and_one_with_another_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "_has_locks", lambda _: False)
    now = doctor_machine.time.time()
    monkeypatch.setattr(doctor_machine.time, "time", lambda: now + 3600)
    checks = list(doctor_machine.place("OUT", str(tmp_path)))
    assert [check.what for check in checks if check.state == "warning"][-2:] == ["OUT", "clock"]
    assert "3600 s" in checks[-1].said


def test_who_is_writing(tmp_path: Path) -> None:
    region = load_region(World(tmp_path / "w").write())
    with locked(tmp_path / "out/tiny"):
        check = found(doctor_machine.writers(region, str(tmp_path / "out")))["lock"]
    assert check.state == "warning"
    assert f"process {os.getpid()}" in check.said
    assert found(doctor_machine.writers(region, str(tmp_path / "out")))["lock"].state == "ok"


def test_credentials_are_never_shown(no_train: None, tmp_path: Path) -> None:
    names = ("PC_SDK_SUBSCRIPTION_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setenv(name, "S3CRET")
        _, said = cli("doctor", "--out", "s3://me:S3CRET@bucket/x", "--runs", str(tmp_path))
        assert "PC_SDK_SUBSCRIPTION_KEY: set" in said
        assert "AWS: set" in said
        assert "S3CRET" not in said
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name, raising=False)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        checks = list(doctor_services.credentials(None, "s3://bucket/x"))
    assert Counter(check.state for check in checks) == {"ok": 1, "warning": 1}
    assert "not set" in checks[1].said


class Answer:
    def __init__(self, code: int, date: str) -> None:
        self.status_code, self.headers = code, {"Date": date}

    def close(self) -> None:
        pass


def test_apis_and_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import email.utils
    import time

    import requests

    world = World(tmp_path / "w")
    manifest = world.write()
    text = manifest.read_text().replace(
        'items = "catalog/s1/*.json"', 'api = "http://127.0.0.1:9/v1"\ncollection = "s1"'
    )
    manifest.write_text(text)
    region = load_region(manifest)
    [check] = doctor_services.apis(region)
    assert (check.what, check.state) == ("api", "warning"), "told, and not wrong"
    assert "cannot be reached from here (ConnectionError)" in check.said
    for code, ahead, states in ((200, 0, ["ok", "ok"]), (503, 0, ["warning", "ok"]), (200, 300, ["ok", "warning"])):
        date = email.utils.formatdate(time.time() - ahead, usegmt=True)
        monkeypatch.setattr(requests, "get", lambda *_, code=code, date=date, **__: Answer(code, date))
        assert [check.state for check in doctor_services.apis(region)] == states


def test_the_trainers_half() -> None:
    checks = found(doctor.train())
    assert checks["train"].state == "ok"
    assert "torch" in checks["train"].said
    assert checks["gpu"].state == "ok"


def test_a_trainer_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    assert found(doctor.train())["torch"].state == "wrong"
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 5\n")
    slow.chmod(0o755)
    monkeypatch.setattr(doctor.sys, "executable", str(slow))
    monkeypatch.setattr(doctor, "TRAIN_S", 0.2)
    assert found(doctor.train())["torch"].state == "warning"


def test_the_pipelines_doctor_imports_no_torch() -> None:
    program = (
        "import sys; from pipeline import doctor; doctor.train = lambda: iter(())\n"
        "list(doctor.examine(None, 'data', 'runs')); print(sorted({'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
