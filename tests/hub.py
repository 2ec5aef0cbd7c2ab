"""A server that answers requests for one file as huggingface.co does."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import numpy as np


def random_bytes(count: int) -> bytes:
    return np.random.default_rng(0).bytes(count)


class Hub:
    """Serves ``content`` under every path. asked: path and first byte of every request. breaks_after: bytes after which
    the connection is lost; silent_after_first: later requests get no data.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = hashlib.sha256(content).hexdigest()
        self.asked: list[tuple[str, int]] = []
        self.breaks_after: int | None = None
        self.silent_after_first = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def given(self, first: int) -> bytes:
        """The data that a request starting at byte ``first`` gets before the connection is lost."""
        if self.silent_after_first and len(self.asked) > 1:
            return b""
        last = None if self.breaks_after is None else first + self.breaks_after
        return self.content[first:last]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._head(0)

            def do_GET(self) -> None:
                if self.path.startswith("/api/"):
                    self.send_error(404)
                    return
                first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
                hub.asked.append((self.path, first))
                self._head(first)
                self.wfile.write(hub.given(first))

            def _head(self, first: int) -> None:
                self.send_response(206 if first else 200)
                self.send_header("Content-Length", str(len(hub.content) - first))
                self.send_header("ETag", f'"{hub.etag}"')
                self.send_header("X-Repo-Commit", "a" * 40)
                if first:
                    self.send_header("Content-Range", f"bytes {first}-{len(hub.content) - 1}/{len(hub.content)}")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
