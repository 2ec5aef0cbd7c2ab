"""A front end of your own: poses that are known from elsewhere, here the true ones of the sample, and depth for them.

docs/extending.md has one that estimates the poses by a network.
"""

from pathlib import Path

import numpy as np

from recon.core.similarity import Sim3
from recon.core.types import Camera, ChunkGeometry, PlacedFrame, SparseModel, SparsePoints
from recon.depth.plane_sweep import PlaneSweep
from recon.depth.views import frame_geometry, make_view
from recon.exports.trajectory import read_tum
from recon.frontend import FRONT_ENDS
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.sfm.triangulation import triangulate

DEPTH_SIZE = 320  # longest side of the depth maps [px]


class KnownPoses:
    """Places every frame by its number in a trajectory."""

    unadjusted = ""  # poses are not refined, which is no reason for doubt

    @classmethod
    def prepare(cls, settings):
        known = read_tum(Path("data/sample/poses.txt"))
        poses = {round(time): pose for time, pose in zip(known.timestamps, known.world_from_cam, strict=True)}
        return lambda workplace: cls(workplace, poses, tuple(np.loadtxt("data/sample/intrinsics.txt")))

    def __init__(self, workplace, world_from_cam, intrinsics):
        self.database, self.world_from_cam, self.intrinsics = (
            workplace.folder / "triangulation.db",
            world_from_cam,
            intrinsics,
        )

    def reconstruct(self, chunk):
        placed = {frame.index: self.placed(frame) for frame in chunk.frames}
        points, _ = triangulate(self.database, chunk.frames, placed)  # they tell how far away the scene is
        poses = {index: frame.cam_from_world for index, frame in placed.items()}
        model = SparseModel(poses, {index: frame.camera for index, frame in placed.items()}, points)
        views = [make_view(frame, model, DEPTH_SIZE) for frame in chunk.frames]
        depths = PlaneSweep().depth(views, {})
        frames = [frame_geometry(*both, placed[both[0].index].camera) for both in zip(views, depths, strict=True)]
        return ChunkGeometry(tuple(frames), points)

    def placed(self, frame):
        lens, pose = Camera("PINHOLE", *frame.original_size, self.intrinsics), self.world_from_cam[frame.index]
        return PlacedFrame(frame.index, frame.timestamp, frame.name, lens, Sim3.from_matrix(pose))

    def refine(self, cam_from_world, loops):
        return SparseModel({}, {}, SparsePoints.empty())  # leaves the map as it is

    def explain_nothing(self, source, names, reasons):
        return f"None of the {len(names)} frames of {source} has a known pose."

    def close(self):
        pass


FRONT_ENDS["known-poses"] = KnownPoses
settings = RunSettings(front_end="known-poses", overwrite=True)
report = reconstruct("data/sample/images", Path("out/known-poses"), settings)
print(report.frames_placed, "of", report.frames_read, "frames placed;", report.suspicions or "nothing is doubtful")
