"""A program that lives no longer than the process that wants it, even one that is killed, and its scratch folder.

Between the two stands a small process, this file. It holds the reading end of a pipe and does nothing but wait for the
pipe's end, which comes with the end of the process that holds the other one, whatever ends it. Only the standard
library, so that it starts at once, and nothing that Linux has and macOS has not.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path


class Guard:
    """A program to be, and its folder."""

    def __init__(self, watcher: subprocess.Popen[str]) -> None:
        self._watcher = watcher
        assert watcher.stdout is not None
        self.folder = Path(watcher.stdout.readline().rstrip("\n"))
        """Scratch folder; it goes with the program."""
        self.log = self.folder / "log.txt"
        """What the program says."""

    def start(self, command: list[str]) -> None:
        """Start the program, once."""
        assert self._watcher.stdin is not None
        self._watcher.stdin.write(json.dumps(command) + "\n")
        self._watcher.stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether the program has ended by itself."""
        return self._watcher.poll() is not None

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@contextlib.contextmanager
def guarded(prefix: str) -> Iterator[Guard]:
    """A guard whose folder's name begins with `prefix`; with the block, or with this process, its program ends."""
    command = [sys.executable, "-I", __file__, prefix]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:  # noqa: S603
        yield Guard(watcher)  # leaving closes the pipe and waits


def main(prefix: str) -> None:
    """Make the folder, say its name, run the command that comes as a line of JSON, and end it with the input."""
    # Ctrl-C and a closed terminal reach the whole group: the one that wants the program ends then, and with it this.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        print(folder, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        with (Path(folder) / "log.txt").open("wb") as log:
            program = subprocess.Popen(json.loads(line), stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
        threading.Thread(target=_end_with_input, args=[program], daemon=True).start()
        program.wait()


def _end_with_input(program: subprocess.Popen[bytes]) -> None:
    sys.stdin.read()
    program.kill()


if __name__ == "__main__":
    main(sys.argv[1])
