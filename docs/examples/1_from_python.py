"""Reconstruct a folder of images, look at the map, and export it with a check."""

from pathlib import Path

from recon.evaluate.proof import prove
from recon.exports import export
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.store.map import open_map

out = Path("out/example")
report = reconstruct("data/sample/images", out, RunSettings(overwrite=True))
print(report.frames_placed, "of", report.frames_read, "frames placed;", report.suspicions or "nothing is doubtful")

room = open_map(out)
for frame, geometry in room.geometry():
    depth = frame.world_from_cam.scale * geometry.depth  # in the unit of the map, 0 = none
    print(frame.name, "camera at", frame.world_from_cam.translation.round(3), "farthest", depth.max().round(2))

print(prove(room, "kitti", export(room, "kitti", out / "poses_kitti.txt")))
