"""Tokens of the Planetary Computer against a stub of its service: how often they are asked for, and when again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_server import CANARY, FAULTS, Answer, FaultServer, Handler, forget_tokens, hurried, send
from world import World

from harmonize.problem import Problem
from pipeline import opening, raster, remote
from pipeline.access import reachable
from pipeline.signing import LEAST_S

BOX = (600_000, 5_000_400, 600_600, 5_001_000)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    world = World(tmp_path, size_m=1200)
    for name in ("a.tif", "b.tif"):
        world.tif(tmp_path / name, world.pixels(1, 10), 10)
    monkeypatch.delenv("PC_SDK_SUBSCRIPTION_KEY", raising=False)
    with FaultServer(root=tmp_path) as found:
        hurried(monkeypatch, found.host)
        found.needs_signature = True
        forget_tokens()
        yield found
    forget_tokens()


def sign(server: FaultServer, name: str = "a.tif") -> str:
    return reachable(f"{server.files}/{name}", "planetary-computer")


def window(server: FaultServer, name: str = "a.tif") -> np.ndarray:
    found = remote.read(f"{server.files}/{name}", "planetary-computer", lambda href: raster.read_window(href, BOX))
    assert found is not None
    return found.values


def test_a_token_is_asked_for_once_per_container(server: FaultServer) -> None:
    hrefs = {sign(server, f"{k}.tif").partition("?")[2] for k in range(20)}
    assert len(hrefs) == 1
    assert f"sig={CANARY}1" in hrefs.pop()
    assert server.tokens == 1
    reachable(f"{server.url}/other/a.tif", "planetary-computer")
    assert server.tokens == 2
    assert sign(server, "a.tif?sig=own") == f"{server.files}/a.tif?sig=own", "signed already"


def test_a_token_is_renewed_before_it_ends(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.lives_s = 200
    assert f"{CANARY}1" in sign(server)
    assert f"{CANARY}2" in sign(server), "less than five minutes are left"
    monkeypatch.setattr("pipeline.signing.YOUNG_S", 30.0)
    assert f"{CANARY}2" in sign(server), "but not at every call: the service may have no better one"
    server.lives_s = 3600
    monkeypatch.setattr("pipeline.signing.YOUNG_S", 0.0)
    assert [f"{CANARY}3" in sign(server) for _ in range(5)] == [True] * 5


def test_a_token_that_holds_is_gone_on_with_while_the_service_is_down(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.lives_s = 200
    assert f"{CANARY}1" in sign(server)
    server.break_("sign", "503")
    server.asked_of.clear()
    assert f"{CANARY}1" in sign(server)
    assert server.asked_of["sign"] == 1, "asked once: 8 tries may outlast the token"
    monkeypatch.setattr("pipeline.signing.YOUNG_S", 30.0)
    assert f"{CANARY}1" in sign(server)
    assert server.asked_of["sign"] == 1, "and not at every call"
    monkeypatch.setattr("pipeline.signing.LEAST_S", 250.0)
    with pytest.raises(Problem, match="gives no token") as caught:
        sign(server)
    assert caught.value.code == 1, "an outage is no mistake of a person's"


def test_a_token_that_is_over_when_it_comes_is_told(server: FaultServer) -> None:
    server.lives_s = LEAST_S - 10
    with pytest.raises(Problem, match="already ended, by this machine's clock; tried 3 times") as caught:
        sign(server)
    assert server.tokens == 3
    assert CANARY not in str(caught.value)


def test_a_refused_signature_is_made_anew(server: FaultServer) -> None:
    good = window(server)
    server.refused_tokens = 1
    assert (window(server, "b.tif") == good).all()
    assert server.tokens == 2


def test_a_new_token_that_is_refused_too_is_not_asked_for_again(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.signing.YOUNG_S", 30.0)
    server.refused_tokens = 10**6
    with pytest.raises(opening.UnreadableRaster, match=r"a\.tif: .*403.*; tried 3 times, may be tried again") as caught:
        window(server)
    assert server.tokens == 1
    assert CANARY not in str(caught.value)


def test_the_subscription_key_is_optional_and_goes_to_the_service_alone(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(server)
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "K3yOfTheSubscriber")
    forget_tokens()
    sign(server)
    assert server.keys == [None, "K3yOfTheSubscriber"]

    def moved(handler: Handler, _: Answer) -> None:
        send(handler, Answer(b"", 302, headers={"Location": f"{server.url}/sas/elsewhere/x"}))

    monkeypatch.setitem(FAULTS, "moved", moved)
    server.break_("sign", "moved", only="/container")
    forget_tokens()
    with pytest.raises(Problem, match="HTTP 302"):
        sign(server)
    assert server.asked_of["sign x"] == 0, "a redirect may lead anywhere"


def test_a_service_that_stands_still_is_left(server: FaultServer) -> None:
    server.break_("sign", "stall")
    started = time.monotonic()
    with pytest.raises(Problem, match="gives no token"):
        sign(server)
    assert time.monotonic() - started < 8
    assert server.asked_of["sign"] == 8
