"""A client of ``recon fleet serve`` that sends paths as they are."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Client:
    url: str
    token: str

    @property
    def authorization(self) -> str:
        return f"Basic {b64encode(f'any:{self.token}'.encode()).decode()}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """The status of a request, and its answer: JSON, or bytes."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        sent = {"Authorization": self.authorization} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        is_json = answer.getheader("Content-Type") == "application/json"
        return answer.status, json.loads(content) if is_json else content
