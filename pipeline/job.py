"""A job on its way to a dask worker: what it is about, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harmonize.problem import Problem

if TYPE_CHECKING:
    from distributed import Future

GATHER_S = 10
"""How long a result may take to be fetched; it may have gone with its worker, and has to be made again then."""
TRIES = 4
"""A job that dask gives up since its workers died is submitted so often: where workers are lost all the time, a few
deaths tell little of a job."""


@dataclass(eq=False)
class Job:
    """A job on its way."""

    function: Callable[..., Any]
    work: Any
    argument: Any
    tries: int = 0
    future: Future | None = None
    died: bool = False
    """Its workers died, and dask has given it up."""
    outcome: Any = None
    """What it gave back, or the exception that it ended with, alone in a tuple."""

    @property
    def name(self) -> str:
        return f"{self.function.__name__.strip('_')} {named(self.argument)}".rstrip()


def named(argument: Any) -> str:
    """What a job is about, for people: the name of its part, tar, file or scene; nothing where none is found."""
    if isinstance(argument, (str, int)):
        return str(argument)
    if isinstance(argument, (list, tuple)):
        return next(filter(None, map(named, argument)), "")
    for key in ("name", "file", "href", "scene", "id"):
        value = argument.get(key) if isinstance(argument, dict) else getattr(argument, key, None)
        if isinstance(value, str):
            return value.partition("?")[0]  # an address may be signed
    return ""


def outcome_of(job: Job, where: str) -> tuple[Any] | None:
    """What a job gave back, or the exception it ended with; what dask says of its own becomes a Problem.

    None where there is nothing yet: its result went with its worker, or its workers `died` and it is to be tried again.
    """
    from distributed import CancelledError, KilledWorker

    again = "start scheduler and workers in the same environment, again after every change of the code"
    assert job.future is not None
    try:
        return (job.future.result(timeout=GATHER_S),)
    except KilledWorker as error:
        if job.tries < TRIES:
            job.died = True
            return None
        deaths = job.tries * (error.allowed_failures + 1)
        what = f"{deaths} workers died over one job, {job.name}: out of memory, or a bad file"
        fix = "run again with --scheduler serial to see it happen, or with fewer workers"
        return (Problem(what, where=where, fix=fix, code=1),)
    except CancelledError:
        return (Problem("the scheduler went away", where=where, fix="run the same command again", code=1),)
    except ImportError as error:
        return (Problem(f"a worker does not have this version of closp: {error}", where=where, fix=again),)
    except Exception as error:
        if isinstance(error, TimeoutError) and job.future.status != "error":
            return None
        if isinstance(error, RuntimeError) and "deserialization of the task graph" in str(error):
            what = f"the scheduler does not have this version of closp: {error.__cause__ or error}"
            return (Problem(what, where=where, fix=again),)
        return (error,)
