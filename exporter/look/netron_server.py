"""Netron's page about one file, for this machine alone; a program of its own.

Netron's own server hands out the whole folder of the file to whoever asks, shows the last
file only where a process serves two, and its page asks for cookies, reports to its makers
and turns into a request to update when it is half a year old. This one hands out Netron's
files and that one file, to requests for a local name, in a page that does none of that.

Only the standard library may come in. It ends when its standard input does, so that it
never outlives whoever started it.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from datetime import UTC, datetime
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit

HOST = "127.0.0.1"
STATIC = {".html", ".js", ".css", ".png", ".ico", ".json", ".svg"}
COMMON_BRACKETS = {rb"\u3008": rb"\u27e8", rb"\u3009": rb"\u27e9"}
"""Netron puts shapes into brackets that only Chinese and Japanese fonts have."""
NOTHING_FROM_OUTSIDE = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'"
)


def page_about(index: str, name: str) -> str:
    """Netron's ``index.html``, told which file to show.

    Version 0.0.0 is what it calls a copy of its developers, which reports nothing; the date
    of today keeps it from asking for an update.

    Args:
        index: As it is in Netron's package.
        name: The file's name.

    Raises:
        ValueError: The page has another form than known.
    """
    today = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    facts = {
        "type": "Python", "version": "0.0.0", "date": today, "file": f"/data/{quote(name)}",
        "name": name, "identifier": name,
    }  # fmt: skip
    metas = "\n".join(
        f'<meta name="{key}" content="{escape(value)}">' for key, value in facts.items()
    )
    page, dates = re.subn(r'<meta name="date" content="[^"]*">', "", index)
    page, versions = re.subn(r'<meta name="version" content="[^"]*">', lambda _: metas, page)
    if (dates, versions) != (1, 1):
        raise ValueError("this Netron has a page of another form; pip install 'netron<10'")
    return page


class NetronServer(ThreadingHTTPServer):
    """Serves until ``shutdown``."""

    daemon_threads = True

    def __init__(self, netron: Path, file: Path, port: int) -> None:
        name = file.name if file.suffix == ".onnx" else f"{file.name}.onnx"
        page = page_about((netron / "index.html").read_text(encoding="utf-8"), name)
        view = (netron / "view.js").read_bytes()
        for bracket, plain in COMMON_BRACKETS.items():
            view = view.replace(bracket, plain)
        self.changed = {"/": ("text/html", page.encode()), "/view.js": ("text/javascript", view)}
        self.netron, self.file, self.data = netron, file, f"/data/{quote(name)}"
        super().__init__((HOST, port), _Handler)
        self.hosts = {f"{host}:{self.server_port}" for host in (HOST, "localhost")}


class _Handler(SimpleHTTPRequestHandler):
    server: NetronServer
    protocol_version = "HTTP/1.1"

    def send_head(self) -> BytesIO | BinaryIO | None:
        path = urlsplit(self.path).path
        if self.headers.get("Host") not in self.server.hosts:
            # A page elsewhere may have its own name point here to read the model.
            self.send_error(421)
        elif path in self.server.changed:
            kind, content = self.server.changed[path]
            self._begin(kind, len(content))
            return BytesIO(content)
        elif path == self.server.data:
            return self._send_file(self.server.file, "application/octet-stream")
        elif path.count("/") == 1 and Path(path).suffix in STATIC:
            return self._send_file(self.server.netron / path[1:], self.guess_type(path))
        else:
            self.send_error(404)
        return None

    def _send_file(self, path: Path, kind: str) -> BinaryIO | None:
        try:
            file = path.open("rb")
        except OSError:
            self.send_error(404)
            return None
        self._begin(kind, os.fstat(file.fileno()).st_size)
        return file

    def _begin(self, kind: str, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.send_header("Content-Security-Policy", NOTHING_FROM_OUTSIDE)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Set-Cookie", "consent=1; Path=/; SameSite=Strict")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: standard output carries the address only."""


def main(netron: str, file: str, port: str) -> None:
    """Serve ``file`` until standard input ends."""
    try:
        server = NetronServer(Path(netron), Path(file), int(port))
    except (OSError, ValueError) as error:
        sys.exit(str(getattr(error, "strerror", None) or error))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://{HOST}:{server.server_port}", flush=True)  # noqa: T201 - read by who started it
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
