"""GStreamer's RTSP server with a bouncing ball, for Debian's Python: ``/usr/bin/python3 tests/rtsp_server.py PORT``.

Needs the packages gir1.2-gst-rtsp-server-1.0, python3-gi, gstreamer1.0-plugins-base and gstreamer1.0-plugins-good.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURES = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate=20/1"
CODEC = "videoconvert ! vp8enc deadline=1 keyframe-max-dist=10 ! rtpvp8pay name=pay0"

Gst.init(None)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory(shared=True, launch=f"( {PICTURES} ! {CODEC} )")
server.get_mount_points().add_factory("/live", factory)
if not server.attach(None):
    sys.exit("the port is taken")
print("ready", flush=True)
GLib.MainLoop().run()
