"""Structure from motion and plane sweep as a geometry front end: no weights, no GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recon.core.errors import DependencyError
from recon.core.events import Listener, Notice
from recon.core.refusal import Hindrance, Unplaced, refusal
from recon.core.rigs import rig_scale
from recon.core.similarity import Array
from recon.core.types import Camera, CameraModel, Chunk, ChunkGeometry, Frame, FrameGeometry, SparseModel
from recon.depth.plane_sweep import PlaneSweep
from recon.depth.propagation import Propagated
from recon.depth.stages import open_depth_stage
from recon.depth.views import DepthStage, frame_geometry, known_depth, make_view
from recon.frontend import Workplace
from recon.mapping.doubts import FOLDED
from recon.settings import FeaturesName, RunSettings
from recon.sfm.consistency import adjust_model, drop_contradictions, match_map, refine_map, torn_neighbours
from recon.sfm.crops import have_different_centres
from recon.sfm.database import MatchDatabase
from recon.sfm.evidence import find_hindrance, hardly_moves, is_nearly_flat
from recon.sfm.lens import largest_change
from recon.sfm.lens_check import join_equal, reassign, several_lenses
from recon.sfm.lens_choice import clearly_better, divide, lend_focals
from recon.sfm.lens_table import LensState
from recon.sfm.mapping import EFFORTS, NO_MODEL, Effort, map_frames
from recon.sfm.matching import AnyMatcher, ImageMatcher, Matcher, Pair, SiftMatcher, open_matcher
from recon.sfm.mirrored import find_mirrored
from recon.sfm.motions import find_moving
from recon.sfm.pairs import window_pairs
from recon.sfm.products import fastest_product
from recon.sfm.quality import QUALITIES
from recon.sfm.wide_pairs import WidePairs
from recon.sources.base import Cameras

# Near neighbours only: distant frames that look alike may show two places, which only the whole map can separate.
WINDOW = (1, 2, 3, 4, 6, 8, 12, 16)
WIDE_WINDOW = tuple(range(1, 21))
CONTEXT = 60
UNSETTLED_CONTEXT = 180  # frames that determine the lens together
BENDING, SETTLED = 0.01, 0.003  # lens changes; see largest_change
NOTABLE = 0.03  # a change worth a notice if the lens does not settle
SETTLING_ROUNDS = 4
MOST_MAPPINGS = 10  # limit per chunk
UNSETTLED = (
    "The lens estimate does not converge: every attempt gives another lens. The map uses the last one. Give "
    "--intrinsics, or mask moving objects with --masks."
)
FLAT_LENS = (
    "The scene is nearly flat and does not determine the lens: every attempt gives another one. The map uses the last "
    "one. Give --intrinsics, or record the scene from more directions."
)
FLAT_MOTION = "the scene is nearly flat: what stands out from its plane may be depth or motion. Nothing is masked."
HARDLY_MOVED = (
    "the camera hardly moved: rotation alone explains nearly all matches, so the path and the depth may be wrong. "
    "Record while walking sideways."
)
SLOW_WINDOW = (24, 32, 48)
SLOW_SHARE = 0.4
CLOSE_WINDOW = tuple(range(1, 11))
ENOUGH_LINKS = 60
ORDERED_SHARE = 0.7
NEIGHBOURS = (1, 2)
MISLED = (
    "images that look alike contradict the path between them, so neighbours alone are matched first. Check that no two "
    "places overlap in the map."
)
SEVERAL = "one lens does not fit all images of the same size; several are estimated."
MAY_DIFFER = (
    "one lens may not fit all images of the same size, but several give no better map. If you used several cameras or "
    "zoomed, give --cameras per-image or per-folder."
)
STABILISED = (
    "The centre of the image moves from frame to frame, as in a stabilised video. It is estimated for each frame; "
    "video without stabilisation gives better maps."
)
MAY_BE_WIDE = "Some frames have no place by SIFT; pretrained features might find one."
FOREIGN_EXIF = "The focal length in the images' EXIF does not fit the images; it is ignored."
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

    Each chunk is mapped together with the CONTEXT frames before it, or more until the lens is settled; these keep their
    poses. The chunk thus inherits the coordinate frame of the previous one, and points over more than the overlap fix
    its scale. If that fails, the chunk is mapped again in a new coordinate frame. A database on disk keeps the features
    and matches of all frames, including those ``finished`` by an earlier run.
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
        self._context: dict[int, Array] = {}
        self._settled = settings.camera is not None
        self._effort = EFFORTS[0]
        self._hindrance: Hindrance | None = None
        self._mappings = 0
        self._mirrored: set[int] = set()
        self._misled = False  # by what looks alike, in any chunk
        self._tried: dict[Pair, int] = {}  # before the present chunk
        self._recalled: dict[Pair, int] | None = {}  # pairs that finished chunks tried; None if one does not say
        self._features = settings.features if isinstance(matcher, SiftMatcher) else "sift"
        self._wide = WidePairs(self.database, settings.wide_matcher) if settings.wide_matcher else None

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
        self._mappings, self._tried = 0, self.database.tried()
        known = len(self.database.lenses)
        self.database.add(*chunk.frames)
        indices, lenses = [frame.index for frame in chunk.frames], len(self.database.lenses)
        if lenses > known and not self._settings.camera:
            self._settled = False  # the focal length of a new lens is only guessed
        before = self.database.lenses.state
        self._match(chunk.index, indices)
        self._leave_out_mirrored(chunk)
        chunk = self._leave_out_moving(chunk)
        if self._wide and self._features == "xfeat+sift":
            self._wide.connect(self._unmirrored(chunk), indices)
        model, effort, restarted = self._map_with_lenses(chunk.index, indices)
        if self._strengthen(model):
            model, effort, restarted = self._map(indices)
        model, effort, restarted = self._widened(chunk, (model, effort, restarted))
        model, effort, restarted = self._mended(chunk.index, indices, (model, effort, restarted), before)
        if effort != self._effort:
            self._effort = effort
            self._tell(Notice(f"Chunk {chunk.index + 1}: frames are placed with the settings for {effort.name}."))
        revised: dict[int, Array] = {}
        if restarted and hardly_moves(self.database, indices, self._settings.camera):
            self._tell(Notice(f"Chunk {chunk.index + 1}: {HARDLY_MOVED}", doubtful=True))
        if restarted:
            # Later chunks and all depth depend on this lens: fit it to every frame, not only to the growing model.
            model = model if effort == EFFORTS[-1] else self._settle_lens(model, effort)
        elif model.cam_from_model and effort.refine_lens and not self._settled:
            unsettled, model = model, self._settle_lens(model, effort)
            self._settled = model is not unsettled and largest_change(unsettled, model) < SETTLED
            revised = {index: pose for index, pose in model.cam_from_model.items() if index not in indices}
        join_equal(self.database, model)
        if len(self.database.lenses) > lenses:
            self._tell(Notice(f"Chunk {chunk.index + 1}: {SEVERAL}"))
        geometry = replace(self._densify(chunk, model.restricted(indices)), revised=revised)
        self._last = {frame.index: frame for frame in geometry.frames}
        recent = sorted(model.cam_from_model)[-(CONTEXT if self._settled else UNSETTLED_CONTEXT) :]
        self._context = {index: model.cam_from_model[index] for index in recent}
        return geometry

    def memory(self) -> dict[str, Any]:
        lenses = self.database.lenses.state
        return {
            "context": {index: pose.tolist() for index, pose in self._context.items()},
            "settled": self._settled,
            "effort": EFFORTS.index(self._effort),
            "lenses": lenses.lenses,
            "lens_of": lenses.lens_of,
            "mirrored": sorted(self._mirrored),
            "misled": self._misled,
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
        self._last = {frame.index: frame for frame in geometry.frames}
        self._context = {int(index): np.array(pose) for index, pose in memory["context"].items()}
        self._settled, self._effort = memory["settled"], EFFORTS[memory["effort"]]
        self._mirrored, self._misled = set(memory.get("mirrored", ())), memory.get("misled", False)
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
        matched, contradicting = match_map(self.database, cam_from_world, loops, misled=self._misled)
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
        frames = sorted({*self._context, *indices})
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

    def _widened(self, chunk: Chunk, mapped: tuple[SparseModel, Effort, bool]) -> tuple[SparseModel, Effort, bool]:
        """``mapped``, or a model with more frames by pretrained features, which match those that have no place.

        They only add frames to a model with more than half of them, which keep their poses: what SIFT has placed cannot
        be folded by what looks alike.
        """
        model, _, restarted = mapped
        frames, indices = self._unmirrored(chunk), [frame.index for frame in chunk.frames]
        lost = {frame.index for frame in frames} - model.cam_from_model.keys()
        too_few = 2 * count_placed(model, indices) <= len(indices)
        if not lost or too_few or self._is_spent or not self._open_wide():
            return mapped
        before = self._wide.connect(frames, lost) if self._wide else {}
        if not before:
            return mapped
        wider, effort = self._escalate(indices, model.cam_from_model)
        if self._wide and count_placed(wider, indices) <= count_placed(model, indices):
            self._wide.withdraw(before)
            return mapped
        return wider, effort, restarted

    def _mended(
        self, number: int, indices: list[int], mapped: tuple[SparseModel, Effort, bool], lenses: LensState
    ) -> tuple[SparseModel, Effort, bool]:
        """``mapped``, or if that is torn, a model by the matches of near neighbours alone: what looks alike elsewhere
        has misled the mapper. Other matches that fit the new model come back. lenses: before the mapping.
        """
        model, frames = mapped[0], sorted({*self._context, *indices})
        if not is_ordered(self.database, indices) or not torn_neighbours(self.database, model):
            return mapped
        far = set(self.database.verified_pairs(frames)).difference(self.database.shots.window(frames, NEIGHBOURS))
        geometries, misled_lenses = {pair: self.database.two_views(pair) for pair in far}, self.database.lenses.state
        for pair in far:
            self.database.forget(pair)
        self.database.lenses.restore(lenses)
        self._mappings = 0
        mended = self._map(indices)
        torn = torn_neighbours(self.database, mended[0])
        self.database.restore_geometries(geometries)
        if torn or count_placed(mended[0], indices) < count_placed(model, indices):
            self.database.lenses.restore(misled_lenses)
            return mapped
        drop_contradictions(self.database, mended[0].cam_from_model, sorted(far), misled=True)
        self._misled = True
        self._tell(Notice(f"Chunk {number + 1}: {MISLED}"))
        return mended

    def _open_wide(self) -> bool:
        """Whether there are pretrained features. If they are not installed, a notice says so, once."""
        if self._wide or self._features == "sift":
            return self._wide is not None
        from recon.sfm.xfeat_matching import open_xfeat_matcher  # noqa: PLC0415  torch takes seconds to import

        try:
            self._wide = WidePairs(self.database, open_xfeat_matcher("auto"))
        except DependencyError as error:
            self._features = "sift"
            self._tell(Notice(f"{MAY_BE_WIDE} {error}"))
        return self._wide is not None

    def _unmirrored(self, chunk: Chunk) -> list[Frame]:
        return [frame for frame in chunk.frames if frame.index not in self._mirrored]

    def _strengthen(self, model: SparseModel) -> bool:
        """Match closer frames if few points carry the scale; returns whether that was necessary."""
        if not model.cam_from_model or self._weakest_link(model) >= ENOUGH_LINKS or self._is_spent:
            return False
        self.database.match(self.database.shots.window(sorted(model.cam_from_model), CLOSE_WINDOW))
        return True

    def _map_with_lenses(self, number: int, indices: list[int]) -> tuple[SparseModel, Effort, bool]:
        """Like ``_map``, with as many lenses as the matches suggest and the map supports."""
        before = self.database.lenses.state
        if not divide(self.database, sorted({*self._context, *indices}), self._context):
            self._settled &= not self.database.lenses.may_differ
            return self._reassigned(indices, self._map(indices))
        settled, self._settled = self._settled, False
        mapped = self._map(indices)
        if self.database.lenses.sharing == "per-image":
            return mapped
        join_equal(self.database, mapped[0])
        if not several_lenses(self.database) or count_placed(mapped[0], indices) < len(indices):
            after = self.database.lenses.state
            self.database.lenses.restore(before)
            lend_focals(self.database, mapped[0])
            shared = self._map(indices)
            if not clearly_better(mapped[0], shared[0]):
                self._settled = settled
                if len(mapped[0].points.point_ids) > len(shared[0].points.point_ids):
                    self._tell(Notice(f"Chunk {number + 1}: {MAY_DIFFER}"))
                return shared
            self.database.lenses.restore(after)
        return self._reassigned(indices, mapped)

    def _reassigned(
        self, indices: list[int], mapped: tuple[SparseModel, Effort, bool]
    ) -> tuple[SparseModel, Effort, bool]:
        """Map frames again for which the map suggests another lens than their pairs do."""
        model, effort, restarted = mapped
        changed = reassign(self.database, model, [index for index in indices if index not in self._context])
        if changed:
            known = {index: pose for index, pose in model.cam_from_model.items() if index not in changed}
            again, effort_again = self._escalate(indices, known)
            if count_placed(again, indices) >= count_placed(model, indices):
                return again, effort_again, restarted
        return model, effort, restarted

    def _map(self, indices: list[int]) -> tuple[SparseModel, Effort, bool]:
        """The model that places most frames, its effort, and whether it has a new coordinate frame."""
        model, effort = self._escalate(indices, self._context) if self._context else (NO_MODEL, EFFORTS[0])
        self._hindrance = None
        if count_placed(model, indices) < 0.5 * len(indices):
            self._hindrance = find_hindrance(self.database, indices, self._settings.camera)
            if self._hindrance and self._hindrance.invents:
                return model, effort, False
            fresh, fresh_effort = self._escalate(indices, {})
            if not fresh.cam_from_model and not self._context and self.database.lenses.forget_focals(indices):
                fresh, fresh_effort = self._escalate(indices, {})
                if fresh.cam_from_model:
                    self._tell(Notice(FOREIGN_EXIF))
            if count_placed(fresh, indices) > count_placed(model, indices):
                self.database.lenses.update(fresh.cameras)
                return fresh, fresh_effort, True
        return model, effort, False

    def _escalate(
        self, indices: list[int], known: dict[int, Array], efforts: tuple[Effort, ...] = EFFORTS
    ) -> tuple[SparseModel, Effort]:
        """Increase the effort while frames are missing; placed frames stay placed."""
        if not known:
            self.database.lenses.calibrate(self.database.path)
        frames = sorted({*known, *indices})
        best, best_effort = NO_MODEL, efforts[0]
        for effort in efforts:
            model = map_frames(self.database, frames, known, effort)
            self._mappings += 1
            if len(model.cam_from_model) > len(best.cam_from_model):
                best, best_effort = model, effort
            if len(best.cam_from_model) == len(frames) or self._is_spent:
                break
            if count_placed(best, indices) > 0.5 * len(indices):
                known = best.cam_from_model
            if effort == efforts[0] and best.cam_from_model:
                missing = set(frames).difference(best.cam_from_model)
                wide = self.database.shots.window(frames, WIDE_WINDOW)
                self.database.match(pair for pair in wide if missing.intersection(pair))
        return best, best_effort

    def _settle_lens(self, model: SparseModel, effort: Effort) -> SparseModel:
        """Fit the lens to the chunk and the frames before it until it converges.

        A wrong lens bends the map and admits only points that fit it. If the lens changes much, the map is therefore
        rebuilt as far back as the model reaches, which determines the lens better.
        """
        for _ in range(SETTLING_ROUNDS):
            adjusted = adjust_model(self.database, model.cam_from_model, distortion=effort.refine_lens)
            if not adjusted.cam_from_model:
                return model
            self.database.lenses.update(adjusted.cameras)
            change = largest_change(model, adjusted)
            if change < BENDING:
                return adjusted
            if self._is_spent:
                break
            new, _ = self._escalate(sorted(model.cam_from_model), {}, EFFORTS[EFFORTS.index(effort) :])
            weakened = 2 * self._weakest_link(new) < self._weakest_link(model)
            if len(new.cam_from_model) < len(adjusted.cam_from_model) or weakened:
                return adjusted
            self.database.lenses.update(new.cameras)
            is_back = largest_change(model, new) < SETTLED  # the next round would repeat this one
            model = adjusted = new
            if is_back:
                break
        if change >= NOTABLE:
            self._tell(Notice(FLAT_LENS if is_nearly_flat(self.database, sorted(model.cam_from_model)) else UNSETTLED))
        return adjusted

    def _weakest_link(self, model: SparseModel) -> int:
        return weakest_link(self.database.shots.merged(model))

    @property
    def _is_spent(self) -> bool:
        """Whether the chunk has been mapped too often to try again."""
        return self._mappings >= MOST_MAPPINGS

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
        hindrance = self._hindrance or Hindrance.UNCONNECTED
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


def weakest_link(model: SparseModel) -> int:
    """The smallest number of points that link the two sides of a place in the sequence.

    A point links them, and carries the scale across, if at least two frames on either side see it. The first and last
    three frames are ignored.
    """
    frames = np.array(sorted(model.cam_from_model))
    if len(frames) < 8:
        return len(model.points.positions)
    points, places = model.points.point_ids, np.searchsorted(frames, model.points.frame_indices)
    order = np.lexsort((places, points))
    points, places = points[order], places[order]
    starts = np.flatnonzero(np.r_[True, points[1:] != points[:-1]])
    ends = np.r_[starts[1:], len(points)]
    long = ends - starts >= 4
    # A point links the places between its second and its last but one observation.
    opens = np.bincount(places[starts[long] + 1], minlength=len(frames))
    closes = np.bincount(places[ends[long] - 2], minlength=len(frames))
    return int(np.cumsum(opens - closes)[3:-4].min())


def count_placed(model: SparseModel, indices: list[int]) -> int:
    """Number of the frames that have a pose in the model."""
    return sum(index in model.cam_from_model for index in indices)


def shared_over(database: MatchDatabase, indices: list[int], step: int) -> float:
    """Matches of frames ``step`` places apart, relative to neighbours; near 1 in slow motion."""
    windows = (database.shots.window(indices, (gap,), same=True) for gap in (1, step))
    near, far = ([database.inliers(*pair) for pair in window] for window in windows)
    return float(np.median(far) / max(np.median(near), 1)) if far else 0.0


def is_ordered(database: MatchDatabase, indices: list[int]) -> bool:
    """Whether most frames match the next one, as in a walk or a ring of photos; of a rig, any of a shot."""
    neighbours: dict[int, bool] = {}
    for first, second in database.shots.window(indices, (1,)):
        shot = database.shots.of(first)
        neighbours[shot] = neighbours.get(shot, False) or database.inliers(first, second) > 0
    return sum(neighbours.values()) >= ORDERED_SHARE * len(neighbours)
