"""One run writes a region at a time: a lock of this machine's kernel in a folder, a lease in a bucket.

A bucket has no locks. There the run puts down a small object that says who it is, renews it while it lives, and removes
it at the end; one that was not renewed for LEASE_S is taken over, at once where its process is gone from this machine.
That is as good as the stores and the clocks are: two runs that start within the same moment are told apart by the store
(create if absent), and clocks must agree to about a minute. Tables and tars are replaced whole either way.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.lock import LOCK, POLL_S, Holder, locked, say_waiting, taken, this_process
from harmonize.problem import Problem

if TYPE_CHECKING:
    from pipeline.store import Store

LEASE_S = 180.0
"""A lease that nobody renewed for so long is dead."""
RENEW_S = 30.0


@contextlib.contextmanager
def only_writer(store: Store, wait: bool = False) -> Iterator[None]:
    """Nobody else writes this region while the block runs. Raises Problem where somebody does and we do not wait."""
    with _leased(store, wait) if store.remote else locked(Path(store.root), wait):
        yield


@contextlib.contextmanager
def _leased(store: Store, wait: bool) -> Iterator[None]:
    mine = asdict(this_process()) | {"token": uuid.uuid4().hex}
    _take(store, mine, wait)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(store, mine, ended), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join(timeout=RENEW_S)
        if _token(_lease(store)) == mine["token"]:
            store.remove(LOCK)


def _take(store: Store, mine: dict[str, Any], wait: bool) -> None:
    told = False
    while True:
        if store.create(LOCK, _bytes(mine)):
            if _token(_lease(store)) == mine["token"]:  # of stores that cannot create if absent, the last one has it
                return
            continue
        found = _lease(store)
        if found is None or _is_dead(found):
            with contextlib.suppress(FileNotFoundError):  # another one was faster
                store.remove(LOCK)
            continue
        holder = _holder(found)
        if not wait:
            dead = f"it is given up when that run has not renewed it for {LEASE_S / 60:.0f} minutes"
            raise taken(
                holder, store.root, f"let it end, or add --wait (make …: ARGS=--wait) to go on after it; {dead}"
            )
        if not told:
            say_waiting(holder, store.root)
            told = True
        time.sleep(10 * POLL_S)


def _renew(store: Store, mine: dict[str, Any], ended: threading.Event) -> None:
    """Thread: say again and again that the run lives. A store in trouble is asked again the next time."""
    while not ended.wait(RENEW_S):
        try:
            if _token(found := _lease(store)) not in (mine["token"], ""):
                print(f"another run has taken over {store.root}: {_holder(found or {})}", file=sys.stderr, flush=True)
                return
            store.write(LOCK, _bytes(mine))
        except (OSError, Problem) as error:
            said = str(error).splitlines()[0]
            print(f"{store.root}: the lease could not be renewed: {said}", file=sys.stderr, flush=True)


def _bytes(lease: dict[str, Any]) -> bytes:
    return (json.dumps(lease | {"renewed": time.time()}, sort_keys=True) + "\n").encode()


def _lease(store: Store) -> dict[str, Any] | None:
    """What lies there; None where there is none. A lease that cannot be read is a dead one."""
    try:
        found = json.loads(store.read(LOCK))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _token(lease: dict[str, Any] | None) -> str:
    return str((lease or {}).get("token", ""))


def _holder(lease: dict[str, Any]) -> Holder | None:
    try:
        return Holder(**{key: lease[key] for key in ("host", "pid", "since", "command")})
    except KeyError:
        return None


def _is_dead(lease: dict[str, Any]) -> bool:
    """Whether a lease's run has ended without removing it."""
    renewed, holder = lease.get("renewed"), _holder(lease)
    if holder is None or not isinstance(renewed, (int, float)) or time.time() - renewed > LEASE_S:
        return True
    here = this_process()
    return holder.host == here.host and holder.pid != here.pid and not _lives(holder.pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
