"""How every command of this project ends: a person's mistake, a signal, or done."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from harmonize.disk import disk_problem
from harmonize.problem import Problem
from harmonize.secrets import guard_logs, redacted

STOPPED = 130
"""Exit code of a run that was stopped, by Ctrl-C or a batch system's SIGTERM."""
END_S = 20.0
"""How long a stopped run may take to end what it has started; then it ends at once. Files are whole or not there."""
AGAIN_S = 0.05

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_DOING: list[Callable[[], str]] = []
_SAID = threading.Event()


class Stopped(SystemExit):
    """A signal asked this process to end. Raised in the main thread, wherever that is."""


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


@contextlib.contextmanager
def doing(said: Callable[[], str]) -> Iterator[None]:
    """In the block, `said` tells how far the work is, for the line that a stopped run leaves."""
    _DOING.append(said)
    try:
        yield
    finally:
        _DOING.remove(said)


def stop_on_interrupt() -> None:
    """Ctrl-C and a batch system's SIGTERM leave with 130 and one line that says how far the work is: by an exception,
    so that processes we started end too, and after END_S or a second signal in any case.

    Files are whole or not there, so there is nothing else to clean up.
    """
    stopping = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopping
        if not stopping or number == signal.SIGALRM:
            stopping = True
            _say_stopped()
            raise Stopped(STOPPED)

    def swallowed(ignored: sys.UnraisableHookArgs) -> None:
        """Where Python cannot raise, in a finaliser or a C library's callback, it drops what is raised: once more."""
        if ignored.exc_type is not None and issubclass(ignored.exc_type, Stopped):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            before(ignored)

    before, sys.unraisablehook = sys.unraisablehook, swallowed
    _end_in_time()
    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, stop)


def _say_stopped() -> None:
    """Not by print: the signal may have come in the middle of one, and Python refuses a second one inside."""
    if _SAID.is_set():
        return
    _SAID.set()
    told = [text for said in list(_DOING) if (text := said())]
    line = f"stopped{' in ' if told else ''}{', '.join(told)}; the same command goes on from there\n"
    start = "\n" if os.isatty(2) else ""  # a progress bar may stand there
    with contextlib.suppress(OSError):
        os.write(2, (start + line).encode())


def _end_in_time() -> None:
    """A thread that ends the process END_S after a signal, or at a second one: the main thread may be in a library that
    does not come back, and runs no handler until it does."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)

    def watch() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are for the main thread, where it does not block them
        count = 0
        while count < 2:
            count += os.read(ours, 1)[0] in SIGNALS
            if count == 1:
                last = threading.Timer(END_S, end)
                last.daemon = True
                last.start()
        end()

    def end() -> None:
        _say_stopped()
        os._exit(STOPPED)

    threading.Thread(target=watch, name="signals", daemon=True).start()
