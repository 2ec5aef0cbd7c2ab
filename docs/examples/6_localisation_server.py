"""Answer over HTTP where a photo was taken: curl --data-binary @photo.jpg http://127.0.0.1:8123

For one machine: it has no encryption, and everybody who reaches it may ask.
"""

import json
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from recon.core.errors import SourceError
from recon.core.types import Frame
from recon.sources import SourceOptions, open_source
from retrieval.localiser import open_localiser

LARGEST = 50_000_000  # bytes
FIRST = SourceOptions(max_frames=2)  # frames of a video, of which the first counts
localiser = open_localiser(Path("out/example"))  # of example 1


class Answer(BaseHTTPRequestHandler):
    """Takes an image file of any format, answers with JSON."""

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if length > LARGEST:
            return self.reply(413, {"error": f"The photo has more than {LARGEST} bytes."})
        with tempfile.TemporaryDirectory() as folder:
            photo = Path(folder) / "photo"  # the format is recognised by its content
            photo.write_bytes(self.rfile.read(length))
            try:
                frame = next(item for item in open_source(str(photo), FIRST) if isinstance(item, Frame))
            except (SourceError, StopIteration):
                return self.reply(400, {"error": "This is not an image."})
        found = localiser.locate(frame)
        if found.world_from_cam is None:
            return self.reply(200, {"found": False, "reason": found.reason})
        centre, near = found.world_from_cam.translation.tolist(), found.frame.name
        return self.reply(200, {"found": True, "centre": centre, "deviation": found.position_deviation, "near": near})

    def reply(self, status, content):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


server = HTTPServer(("127.0.0.1", 8123), Answer)  # one photo at a time: a localiser belongs to one thread
if __name__ == "__main__":
    server.serve_forever()
