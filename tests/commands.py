"""The two command lines, run in this process: importing torch and open_clip again would cost ten seconds each time."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from importlib import import_module


@dataclass
class Said:
    returncode: int
    stdout: str
    stderr: str

    @property
    def all(self) -> str:
        return self.stdout + self.stderr


def run(package: str, *words: str) -> Said:
    """`python -m <package> <words>`: its exit code and what it printed."""
    main = import_module(f"{package}.__main__").main
    out, err, before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = [package, *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return Said(code, out.getvalue(), err.getvalue())
