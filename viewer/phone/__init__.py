"""Serves the page that makes a phone the camera of a run. docs/live.md describes what it does.

with serve(feed, options, host) as phone:
    print(phone.address)
    listener = phone.screen
"""

from viewer.phone.server import PhoneServer, serve

__all__ = ["PhoneServer", "serve"]
