"""Structure from motion and plane sweep as a geometry front end: no weights, no GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recon.core.events import Listener, Notice
from recon.core.refusal import Hindrance, Unplaced, refusal
from recon.core.rigs import rig_scale
from recon.core.similarity import Array
from recon.core.types import Camera, CameraModel, Chunk, ChunkGeometry, FrameGeometry, SparseModel
from recon.depth.plane_sweep import PlaneSweep
from recon.depth.propagation import Propagated
from recon.depth.stages import open_depth_stage
from recon.depth.views import DepthStage, frame_geometry, known_depth, make_view
from recon.frontend import Workplace
from recon.mapping.doubts import FOLDED
from recon.settings import FeaturesName, RunSettings
from recon.sfm.chunk_mapper import ChunkMapper
from recon.sfm.consistency import match_map, refine_map, torn_neighbours
from recon.sfm.crops import have_different_centres
from recon.sfm.database import MatchDatabase
from recon.sfm.evidence import is_nearly_flat, is_ordered, shared_over
from recon.sfm.lens_table import LensState
from recon.sfm.matching import AnyMatcher, ImageMatcher, Matcher, Pair, SiftMatcher, open_matcher
from recon.sfm.mirrored import find_mirrored
from recon.sfm.motions import find_moving
from recon.sfm.pairs import window_pairs
from recon.sfm.products import fastest_product
from recon.sfm.quality import QUALITIES
from recon.sources.base import Cameras

# Near neighbours only: distant frames that look alike may show two places, which only the whole map can separate.
WINDOW = (1, 2, 3, 4, 6, 8, 12, 16)
FLAT_MOTION = "the scene is nearly flat: what stands out from its plane may be depth or motion. Nothing is masked."
SLOW_WINDOW = (24, 32, 48)
SLOW_SHARE = 0.4
STABILISED = (
    "The centre of the image moves from frame to frame, as in a stabilised video. It is estimated for each frame; "
    "video without stabilisation gives better maps."
)
AMBIGUOUS_SHARE = 0.3  # of the pairs that match well: 61% on a mug with a repeated print, at most 16% elsewhere


@dataclass(frozen=True)
class SfmSettings:
    """Settings of structure from motion. camera: a calibrated lens, never changed. depth_size, adjusted_features: see
    ``Quality``. cameras: how frames share lenses. features: ``auto`` opens pretrained ones when a frame has no place.
    wide_matcher: pretrained features that are used everywhere."""

    model: CameraModel = "SIMPLE_RADIAL"
    camera: Camera | None = None
    depth_size: int = 320
    adjusted_features: int = 1200
    matcher: AnyMatcher = field(default_factory=SiftMatcher)
    depth_stage: DepthStage = field(default_factory=PlaneSweep)
    cameras: Cameras = "auto"
    features: FeaturesName = "auto"
    wide_matcher: Matcher | None = None


class StructureFromMotion:
    """Places the frames of a chunk by their local features and estimates depth by plane sweep.

    A database on disk keeps the features and matches of all frames, including those ``finished`` by an earlier run.
    """

    unadjusted = "adjusting all frames together gives an impossible lens, so the poses are those of the growing map"

    def __init__(self, folder: Path, settings: SfmSettings, listener: Listener, finished: Sequence[int] = ()) -> None:
        self._settings = settings
        self._tell = listener
        path, matcher = folder / "features.db", settings.matcher
        self.database = MatchDatabase(
            path, matcher, settings.model, settings.camera, finished, cameras=settings.cameras
        )
        self._last: dict[int, FrameGeometry] = {}
        self._mirrored: set[int] = set()
        self._tried: dict[Pair, int] = {}  # before the present chunk
        self._recalled: dict[Pair, int] | None = {}  # pairs that finished chunks tried; None if one does not say
        features = settings.features if isinstance(matcher, SiftMatcher) else "sift"
        self._mapper = ChunkMapper(self.database, listener, settings.camera, features, settings.wide_matcher)

    @classmethod
    def prepare(cls, settings: RunSettings) -> Callable[[Workplace], StructureFromMotion]:
        """See ``GeometryFrontEnd``."""
        matcher = open_matcher(settings.matcher)
        if isinstance(matcher, SiftMatcher):
            features = QUALITIES[settings.quality].features
            matcher = replace(matcher, max_features=features, product=fastest_product())
        wide = None
        if settings.features == "xfeat+sift":
            from recon.sfm.xfeat_matching import open_xfeat_matcher  # noqa: PLC0415  torch takes seconds to import

            wide = open_xfeat_matcher("auto")
        return partial(cls._start, settings, matcher, wide)

    @classmethod
    def _start(
        cls, settings: RunSettings, matcher: AnyMatcher, wide: Matcher | None, place: Workplace
    ) -> StructureFromMotion:
        stage, quality = open_depth_stage(settings.depth, place.tell), QUALITIES[settings.quality]
        sfm = SfmSettings(
            settings.camera_model,
            settings.intrinsics,
            depth_size=quality.depth_size,
            adjusted_features=quality.adjusted,
            matcher=matcher,
            depth_stage=Propagated(stage) if quality.propagates else stage,
            cameras=settings.source.cameras,
            features=settings.features,
            wide_matcher=wide,
        )
        return cls(place.folder, sfm, place.tell, place.finished)

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        self._forget_unfinished()
        self._tried = self.database.tried()
        known = len(self.database.lenses)
        self.database.add(*chunk.frames)
        if len(self.database.lenses) > known:
            self._mapper.unsettle()
        indices, lenses = [frame.index for frame in chunk.frames], self.database.lenses.state
        self._match(chunk.index, indices)
        self._leave_out_mirrored(chunk)
        chunk = self._leave_out_moving(chunk)
        frames = [frame for frame in chunk.frames if frame.index not in self._mirrored]
        model, revised = self._mapper.map(chunk.index, indices, frames, lenses)
        geometry = replace(self._densify(chunk, model.restricted(indices)), revised=revised)
        self._last = {frame.index: frame for frame in geometry.frames}
        return geometry

    def memory(self) -> dict[str, Any]:
        lenses = self.database.lenses.state
        return {
            **self._mapper.memory(),
            "lenses": lenses.lenses,
            "lens_of": lenses.lens_of,
            "mirrored": sorted(self._mirrored),
            "tried": [
                (*pair, inliers) for pair, inliers in self.database.tried().items() if self._tried.get(pair) != inliers
            ],
        }

    def recall(self, chunk: Chunk, geometry: ChunkGeometry, memory: Mapping[str, Any]) -> None:
        self.database.add(*chunk.frames)
        lenses, lens_of = (
            {int(number): value for number, value in memory.get(name, {}).items()} for name in ("lenses", "lens_of")
        )
        self.database.lenses.restore(LensState(lenses, lens_of))
        self._mapper.recall(memory)
        self._last = {frame.index: frame for frame in geometry.frames}
        self._mirrored = set(memory.get("mirrored", ()))
        if "tried" not in memory:  # of an early version
            self._recalled = None
        elif self._recalled is not None:
            self._recalled |= {(first, second): inliers for first, second, inliers in memory["tried"]}

    def _forget_unfinished(self) -> None:
        """Forget the pairs that an earlier run matched after its last chunk, in an unfinished one or for the joint
        adjustment: which pairs are matched there depends on those that are matched already."""
        if self._recalled:
            self.database.restore_tried(self._recalled)
        self._recalled = None

    def refine(self, cam_from_world: Mapping[int, Array], loops: Sequence[Pair]) -> SparseModel:
        self._forget_unfinished()
        cam_from_world = self._in_unit_of_rig(cam_from_world)
        matched, contradicting = match_map(self.database, cam_from_world, loops, misled=self._mapper.misled)
        if contradicting > AMBIGUOUS_SHARE * matched:
            self._tell(
                Notice(
                    f"Ambiguous images: {contradicting} of {matched} distant pairs look alike but contradict the "
                    "path between them, and count as different places. Check that no two places overlap in the map."
                )
            )
        model = refine_map(self.database, cam_from_world, self._settings.adjusted_features)
        if have_different_centres(model.cameras.values()):
            self._tell(Notice(STABILISED))
        self._doubt_tears(model)
        return model

    def _in_unit_of_rig(self, cam_from_world: Mapping[int, Array]) -> Mapping[int, Array]:
        """The poses in the unit in which the distances between the cameras of a rig are known."""
        centres = {index: -pose[:3, :3].T @ pose[:3, 3] for index, pose in cam_from_world.items()}
        unit = rig_scale(centres, self.database.shots.mounts)
        if not unit:
            return cam_from_world
        longer = np.array([1, 1, 1, unit])  # times the columns of a pose
        return {index: pose * longer for index, pose in cam_from_world.items()}

    def _doubt_tears(self, model: SparseModel) -> None:
        """Say so if the map contradicts the matches of images that follow each other."""
        torn = torn_neighbours(self.database, model) if is_ordered(self.database, sorted(model.cam_from_model)) else []
        if torn:
            first, second = (self.database.name(index) for index in torn[0])
            where = f"({first} and {second}, one of {len(torn)} such pairs)"
            text = f"The map tears apart images that follow each other and match {where}: {FOLDED}."
            self._tell(Notice(text, doubtful=True))

    def explain_nothing(self, source: str, names: Mapping[int, str], reasons: Mapping[int, Unplaced]) -> str:
        return refusal(source, len(names), [reason.kind for reason in reasons.values()])

    def close(self) -> None:
        self.database.close()

    def _match(self, number: int, chosen: list[int]) -> None:
        indices = [index for index in chosen if index not in self._mirrored]
        frames = sorted({*self._mapper.context, *indices})
        self.database.match(self.database.shots.within(frames) + self.database.shots.window(frames, WINDOW))
        if shared_over(self.database, indices, WINDOW[-1]) > SLOW_SHARE:
            self.database.match(self.database.shots.window(frames, SLOW_WINDOW))
        if not is_ordered(self.database, indices):
            self._tell(Notice(f"Chunk {number + 1}: neighbouring images show different things; matching all pairs."))
            self.database.match(window_pairs(indices, range(1, len(indices))))

    def _leave_out_mirrored(self, chunk: Chunk) -> None:
        """Remove the features of mirrored frames, so that they are matched with nothing."""
        matcher = self._settings.matcher
        if isinstance(matcher, ImageMatcher) or self.database.shots.views > 1:
            return
        found = find_mirrored(self.database, matcher, chunk.frames, chunk.overlap, self._mirrored) - self._mirrored
        if not found:
            return
        self._mirrored |= found
        hidden = [replace(frame, mask=np.zeros_like(frame.mask)) for frame in chunk.frames if frame.index in found]
        self.database.describe_again(hidden)
        self._match(chunk.index, [frame.index for frame in chunk.frames])

    def _leave_out_moving(self, chunk: Chunk) -> Chunk:
        """Mask objects that move in front of the scene and remove their features."""
        moving = find_moving(self.database, chunk.frames)
        if (moving.masks or moving.torn) and is_nearly_flat(self.database, [frame.index for frame in chunk.frames]):
            self._tell(Notice(f"Chunk {chunk.index + 1}: {FLAT_MOTION}", moving.is_doubtful))
            return chunk
        if moving.masks or moving.torn:
            self._tell(Notice(f"Chunk {chunk.index + 1}: {moving.describe(chunk.frames)}", moving.is_doubtful))
        if moving.surrounds or not moving.masks:
            return chunk
        frames = moving.leave_out(chunk.frames)
        # Frames of the previous chunk have their poses, and most have their masks.
        changed = moving.masks.keys() - self._mirrored
        self.database.describe_again([frame for frame in frames[chunk.overlap :] if frame.index in changed])
        self._match(chunk.index, [frame.index for frame in frames])
        return replace(chunk, frames=frames)

    def _densify(self, chunk: Chunk, model: SparseModel) -> ChunkGeometry:
        """Depth of the placed frames; those that keep the pose from the previous chunk also keep their depth."""
        frames = [frame for frame in chunk.frames if frame.index in model.cam_from_model]
        kept = self._kept(model)
        solved = {index: known_depth(geometry) for index, geometry in kept.items()}
        views = [make_view(frame, model, self._settings.depth_size) for frame in frames]
        depths = self._settings.depth_stage.depth(views, solved)
        placed = tuple(
            kept.get(view.index) or frame_geometry(view, depth, model.cameras[view.index])
            for view, depth in zip(views, depths, strict=True)
        )
        hindrance = self._mapper.hindrance or Hindrance.UNCONNECTED
        unplaced = {
            frame.index: (Hindrance.MIRRORED if frame.index in self._mirrored else hindrance).unplaced
            for frame in chunk.frames
            if frame.index not in model.cam_from_model
        }
        return ChunkGeometry(placed, model.points, unplaced)

    def _kept(self, model: SparseModel) -> dict[int, FrameGeometry]:
        """The last chunk's frames if the model continues it; none if the model has a new coordinate frame."""
        shared = {index: geometry for index, geometry in self._last.items() if index in model.cam_from_model}
        if all(np.allclose(model.cam_from_model[index], frame.cam_from_chunk) for index, frame in shared.items()):
            return shared
        return {}
