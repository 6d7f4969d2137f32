"""How every command of this project ends: a person's mistake, Ctrl-C, or done."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from harmonize.disk import disk_problem
from harmonize.problem import Problem
from harmonize.secrets import guard_logs, redacted


def run_command(app: Callable[[], object]) -> None:
    """Run a command line; a Problem is printed without a traceback and leaves with its code, and so does a full disk,
    wherever it strikes.

    Any other exception is a mistake of ours: its traceback is printed, without what addresses and the environment hide.
    """
    sys.excepthook = _say_redacted
    guard_logs()
    try:
        app()
    except Problem as problem:
        _leave(problem)
    except OSError as error:
        told = disk_problem(error)
        if told is None:
            raise
        _leave(told)


def _leave(problem: Problem) -> None:
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(problem.code)


def _say_redacted(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    print(redacted("".join(traceback.format_exception(kind, error, where))), file=sys.stderr, end="")


def stop_on_interrupt() -> None:
    """Ctrl-C leaves with 130, a batch system's SIGTERM with 143: by an exception, so that processes we started end too.

    Files are whole or not there, so there is nothing else to clean up.
    """

    def stop(number: int, _: object) -> None:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
