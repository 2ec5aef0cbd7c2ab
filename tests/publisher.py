"""Sends a moving picture, 20 frames a second, until it is killed: ``python -m tests.publisher URL``."""

from __future__ import annotations

import http.server
import sys
import time
import urllib.parse
from typing import IO

import av
import numpy as np

RATE, WIDTH, HEIGHT = 20, 160, 120
CODEC = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}


def publish(target: str | IO[bytes]) -> None:
    """Send until the receiver disconnects."""
    blocks = np.random.default_rng(0).integers(0, 255, (HEIGHT // 8, 100, 3), dtype=np.uint8)
    wall = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
    with av.open(target, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=RATE, options=CODEC)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        start, number = time.monotonic(), 0
        while True:
            left = int(300 + 250 * np.sin(number / 10))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(wall[:, left : left + WIDTH]), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
            number += 1
            time.sleep(max(0.0, start + number / RATE - time.monotonic()))


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every request with the stream."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        publish(self.wfile)


if __name__ == "__main__":
    url = urllib.parse.urlsplit(sys.argv[1])
    if url.scheme == "http":
        http.server.HTTPServer(("127.0.0.1", url.port or 0), Handler).serve_forever()
    publish(sys.argv[1])
