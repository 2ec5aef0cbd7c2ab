"""A proxy of Rerun's web page that adds a policy against outside connections.

In a browser the page sends usage data and checks for new releases, and no setting turns that off; the browser enforces
a Content-Security-Policy.
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
    "connect-src 'self' http://{host}:* blob: data:"
)
FORWARDED = ("Content-Type", "Content-Length", "Content-Encoding", "rerun-final-length")


class _Page(BaseHTTPRequestHandler):
    def __init__(self, origin: str, host: str, *arguments: Any) -> None:
        self._origin = origin
        self._policy = POLICY.format(host=host)
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Forward the response of Rerun's own server, with the policy added."""
        accepted = {"Accept-Encoding": self.headers.get("Accept-Encoding", "identity")}
        request = urllib.request.Request(self._origin + self.path, headers=accepted)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                self.send_response(answer.status)
                for name in FORWARDED:
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Security-Policy", self._policy)
                self.end_headers()
                shutil.copyfileobj(answer, self.wfile)
        except urllib.error.URLError as error:
            self.send_error(getattr(error, "code", 502))

    def log_message(self, *_: Any) -> None:
        """Print nothing about requests."""


def serve_page(origin: str, host: str, port: int) -> None:
    """Forward ``origin`` (http://host:port) at ``port`` until this process ends."""
    server = ThreadingHTTPServer((host, port), partial(_Page, origin, host))
    threading.Thread(target=server.serve_forever, daemon=True).start()
