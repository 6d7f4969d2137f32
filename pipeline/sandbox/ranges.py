"""A small HTTP server over a folder that answers byte ranges, as object stores do. For tests of remote reading.

It is a process of its own: GDAL may hold Python's lock while it waits for an answer.
"""

from __future__ import annotations

import contextlib
import http.server
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.sandbox.guard import Guard, guarded

START_SECONDS = 20


class Ranges(http.server.SimpleHTTPRequestHandler):
    """GET and HEAD of files; every request is a line on standard error: method, path, range."""

    left = 0

    def log_message(self, format: str, *args: Any) -> None:
        """Instead of the server's own log."""
        sys.stderr.write(f"{self.command} {self.path} {self.headers.get('Range', '-')}\n")
        sys.stderr.flush()

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return None
        size = path.stat().st_size
        first, last, code = 0, size - 1, 200
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match:
            first, last, code = int(match[1]), min(int(match[2] or size - 1), size - 1), 206
        self.send_response(code)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if code == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        file = path.open("rb")
        file.seek(first)
        self.left = last - first + 1
        return file

    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.write(source.read(self.left))


class RangeServer:
    """Where it answers, and what it was asked."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        end = time.monotonic() + START_SECONDS
        while not guard.said.endswith("\n") and not guard.ended and time.monotonic() < end:
            time.sleep(0.01)
        self.address = f"http://127.0.0.1:{int(guard.said)}"

    @property
    def requests(self) -> list[tuple[str, str, str]]:
        """method, path and range of every request so far."""
        lines = self._guard.said.splitlines()
        return [(words[0], words[1], words[2]) for line in lines if len(words := line.split()) == 3]


@contextlib.contextmanager
def range_server(folder: Path) -> Iterator[RangeServer]:
    """A server over a folder, on a free port of this machine, until the block ends."""
    with guarded("closp-ranges-") as guard:
        guard.start([sys.executable, "-m", "pipeline.sandbox.ranges", str(folder)])
        yield RangeServer(guard)


def main(folder: str) -> None:
    """Serve a folder until terminated; the port is the first line of the output."""

    def handler(*args: Any) -> Ranges:
        return Ranges(*args, directory=folder)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
