"""One run writes a region at a time: a lock of this machine's kernel in a folder, a lease in a bucket.

A bucket has no locks. There the run puts down a small object that says who it is, renews it while it lives, and removes
it at the end; one that was not renewed for LEASE_S is taken over, at once where its process is gone from this machine.
Of those that find the same dead lease, the one that creates (if absent) an object named by its bytes may write over it.
That is as good as the stores and the clocks are: where a store cannot create if absent, the last of two that write at
once has it, which is why it is read again a while later; and clocks must agree to about a minute. A run that has lost
its lease stops before it writes another receipt. Tables and tars are replaced whole either way.
"""

from __future__ import annotations

import contextlib
import hashlib
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

from harmonize.lock import LOCK, POLL_S, Holder, holder_of, locked, say_waiting, taken, this_process
from harmonize.problem import Problem
from harmonize.record import from_json

if TYPE_CHECKING:
    from pipeline.store import Store

LEASE_S = 180.0
"""A lease that nobody renewed for so long is dead."""
RENEW_S = 30.0
SETTLE = 3
"""So many times as long as a lease took to write, we wait until we believe that it stays."""
SETTLE_S = 10.0
"""But no longer."""


@contextlib.contextmanager
def only_writer(store: Store, wait: bool = False) -> Iterator[None]:
    """Nobody else writes this region while the block runs. Raises Problem where somebody does and we do not wait.

    Where another run takes over a bucket's lease in the block, `store.check_held` raises from then on.
    """
    with _leased(store, wait) if store.remote else locked(Path(store.root), wait):
        yield


def writer_of(store: Store) -> Holder | None:
    """Who is writing a region now; None where nobody is."""
    if not store.remote:
        return holder_of(Path(store.root))
    found = _read(store, LOCK)
    return None if found is None or _is_dead(found) else _holder(_fields(found))


@contextlib.contextmanager
def _leased(store: Store, wait: bool) -> Iterator[None]:
    mine = asdict(this_process()) | {"token": uuid.uuid4().hex}
    store.taken_by = ""
    _take(store, mine, wait)
    ended = threading.Event()
    keeping = threading.Thread(target=_keep, args=(store, mine, ended), name="lease", daemon=True)
    keeping.start()
    try:
        yield
    finally:
        ended.set()
        keeping.join(timeout=RENEW_S)  # of a store that is slower we do not wait for the answer


def _take(store: Store, mine: dict[str, Any], wait: bool) -> None:
    told = False
    while True:
        started = time.monotonic()
        if store.create(LOCK, _bytes(mine)):
            if _stays(store, mine, started):
                return
            continue
        found = _read(store, LOCK)
        if found is None:
            continue
        if _is_dead(found):
            if _replace(store, LOCK, found, mine) and _stays(store, mine, started):
                return
            time.sleep(POLL_S)  # another one was faster
            continue
        holder = _holder(_fields(found))
        if not wait:
            dead = f"it is given up when that run has not renewed it for {LEASE_S / 60:.0f} minutes"
            raise taken(
                holder, store.root, f"let it end, or add --wait (make …: ARGS=--wait) to go on after it; {dead}"
            )
        if not told:
            say_waiting(holder, store.root)
            told = True
        time.sleep(10 * POLL_S)


def _replace(store: Store, name: str, dead: bytes, mine: dict[str, Any]) -> bool:
    """Put our lease where a dead one lies; whether we did.

    Whoever creates the claim on just these bytes may, if they still lie there: to look, to remove and to create in turn
    would remove what another one has created in between. A claim is a lease itself, of one who may have died over it.
    """
    claim = f"{LOCK}-{hashlib.sha256(dead).hexdigest()[:16]}"
    if not store.create(claim, _bytes(mine)):
        other = _read(store, claim)
        if other is None or not _is_dead(other) or not _replace(store, claim, other, mine):
            return False
    try:
        if _read(store, name) != dead:
            return False
        store.write(name, _bytes(mine))
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            store.remove(claim)


def _stays(store: Store, mine: dict[str, Any], started: float) -> bool:
    """Whether what we have written is there still when all who wrote at the same time have ended."""
    time.sleep(min(SETTLE * (time.monotonic() - started), SETTLE_S))
    return _is_mine(_read(store, LOCK), mine)


def _keep(store: Store, mine: dict[str, Any], ended: threading.Event) -> None:
    """Thread: say again and again that the run lives, and in the end remove the lease, so that no renewal that is still
    on its way puts it back. A store in trouble is asked again the next time."""
    renewed = time.time()
    while not ended.wait(RENEW_S):
        try:
            if not _renew(store, mine, renewed):
                return
            renewed = time.time()
        except (OSError, Problem) as error:
            _say(store, "the lease could not be renewed", error)
    try:
        if _is_mine(_read(store, LOCK), mine):
            store.remove(LOCK)
    except (OSError, Problem) as error:  # the run's own end, good or bad, is what matters
        _say(store, "the lease could not be removed", error)


def _renew(store: Store, mine: dict[str, Any], renewed: float) -> bool:
    """Whether the lease still is ours. renewed: when it was so last (s since 1970). One that somebody has removed is
    put back, unless there was time for another run to come and go."""
    found = _read(store, LOCK)
    if found is None and time.time() - renewed < LEASE_S:
        if store.create(LOCK, _bytes(mine)):
            return True
        found = _read(store, LOCK)
    if _is_mine(found, mine):
        store.write(LOCK, _bytes(mine))
        return True
    store.taken_by = str(_holder(_fields(found or b"")) or "it has not said which")
    print(f"another run has taken over {store.root}: {store.taken_by}", file=sys.stderr, flush=True)
    return False


def _say(store: Store, what: str, error: Exception) -> None:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    print(f"{store.root}: {what}: {said}", file=sys.stderr, flush=True)


def _bytes(lease: dict[str, Any]) -> bytes:
    return (json.dumps(lease | {"renewed": time.time()}, sort_keys=True) + "\n").encode()


def _read(store: Store, name: str) -> bytes | None:
    """What lies there; None where there is none."""
    try:
        return store.read(name)
    except FileNotFoundError:
        return None


def _fields(lease: bytes) -> dict[str, Any]:
    """What a lease says; nothing where it cannot be read."""
    try:
        found = from_json(lease)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_mine(lease: bytes | None, mine: dict[str, Any]) -> bool:
    return lease is not None and _fields(lease).get("token") == mine["token"]


def _holder(fields: dict[str, Any]) -> Holder | None:
    try:
        holder = Holder(**{key: fields[key] for key in ("host", "pid", "since", "command")})
    except KeyError:
        return None
    return holder if isinstance(holder.pid, int) else None


def _is_dead(lease: bytes) -> bool:
    """Whether a lease's run has ended without removing it. One that cannot be read is dead."""
    fields = _fields(lease)
    renewed, holder = fields.get("renewed"), _holder(fields)
    if holder is None or not isinstance(renewed, (int, float)) or not time.time() - renewed <= LEASE_S:
        return True
    here = this_process()
    return holder.host == here.host and holder.pid != here.pid and not _lives(holder.pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
