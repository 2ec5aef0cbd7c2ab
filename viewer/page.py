"""Rerun's web page, served again with a policy that keeps it on this machine.

In a browser the page posts usage data and looks for new releases, and has no setting against either; a
Content-Security-Policy is what the browser itself enforces.
"""

from __future__ import annotations

import shutil
import threading
import urllib.error
import urllib.request
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob: data:; "
    "connect-src 'self' http://127.0.0.1:* blob: data:"
)
FORWARDED = ("Content-Type", "Content-Length", "Content-Encoding", "rerun-final-length")


class _Page(BaseHTTPRequestHandler):
    def __init__(self, origin: str, *arguments: Any) -> None:
        self._origin = origin
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Pass on the answer of Rerun's own server, with the policy added."""
        accepted = {"Accept-Encoding": self.headers.get("Accept-Encoding", "identity")}
        request = urllib.request.Request(self._origin + self.path, headers=accepted)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                self.send_response(answer.status)
                for name in FORWARDED:
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Security-Policy", POLICY)
                self.end_headers()
                shutil.copyfileobj(answer, self.wfile)
        except urllib.error.URLError as error:
            self.send_error(getattr(error, "code", 502))

    def log_message(self, *_: Any) -> None:
        """Say nothing about requests on the terminal."""


def serve_page(origin: str, host: str) -> int:
    """Serve what ``origin`` (http://host:port) serves, until this process ends, and return the port."""
    server = ThreadingHTTPServer((host, 0), partial(_Page, origin))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port
