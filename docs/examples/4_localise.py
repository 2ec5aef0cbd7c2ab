"""Find where photos were taken in a finished map (of example 1), or learn that they are not of this place."""

from pathlib import Path

from recon.sources import open_source
from retrieval.localiser import open_localiser

localiser = open_localiser(Path("out/example"), tell=print)
for candidate in open_source("data/sample/images/00000[0-3].jpg").candidates():
    location = localiser.locate(candidate.frame)
    if location.world_from_cam is None:
        print(candidate.frame.name, "is not of this place:", location.reason)
    else:
        print(candidate.frame.name, location.world_from_cam.translation.round(3), "+-", location.position_deviation)
