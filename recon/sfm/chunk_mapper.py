"""Maps chunk after chunk by their matches, in as many attempts as it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recon.core.errors import DependencyError
from recon.core.events import Listener, Notice
from recon.core.refusal import Hindrance
from recon.core.similarity import Array
from recon.core.types import Camera, Frame, SparseModel
from recon.settings import FeaturesName
from recon.sfm.consistency import adjust_model, drop_contradictions, torn_neighbours
from recon.sfm.database import MatchDatabase
from recon.sfm.evidence import find_hindrance, hardly_moves, is_nearly_flat, is_ordered
from recon.sfm.lens import largest_change
from recon.sfm.lens_check import join_equal, reassign, several_lenses
from recon.sfm.lens_choice import clearly_better, divide, lend_focals
from recon.sfm.lens_table import LensState
from recon.sfm.mapping import EFFORTS, NO_MODEL, Effort, map_frames
from recon.sfm.matching import Matcher
from recon.sfm.wide_pairs import WidePairs

CONTEXT = 60
UNSETTLED_CONTEXT = 180  # frames that determine the lens together
WIDE_WINDOW = tuple(range(1, 21))
BENDING, SETTLED = 0.01, 0.003  # lens changes; see largest_change
NOTABLE = 0.03  # a change worth a notice if the lens does not settle
SETTLING_ROUNDS = 4
MOST_MAPPINGS = 10  # limit per chunk
HARDLY_MOVED = (
    "the camera hardly moved: rotation alone explains nearly all matches, so the path and the depth may be wrong. "
    "Record while walking sideways."
)
UNSETTLED = (
    "The lens estimate does not converge: every attempt gives another lens. The map uses the last one. Give "
    "--intrinsics, or mask moving objects with --masks."
)
FLAT_LENS = (
    "The scene is nearly flat and does not determine the lens: every attempt gives another one. The map uses the last "
    "one. Give --intrinsics, or record the scene from more directions."
)
CLOSE_WINDOW = tuple(range(1, 11))
ENOUGH_LINKS = 60
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
MAY_BE_WIDE = "Some frames have no place by SIFT; pretrained features might find one."
FOREIGN_EXIF = "The focal length in the images' EXIF does not fit the images; it is ignored."


class Mapped(NamedTuple):
    """An attempt at a chunk. effort: what placed its frames. restarted: whether it has a new coordinate frame."""

    model: SparseModel
    effort: Effort
    restarted: bool


class ChunkMapper:
    """Places the frames of each chunk, whose matches are in the database.

    A chunk is mapped together with the CONTEXT frames before it, or more until the lens is settled; these keep their
    poses. The chunk thus inherits the coordinate frame of the previous one, and points over more than the overlap fix
    its scale. If that fails, the chunk is mapped again in a new coordinate frame.

    lens: a calibrated one, never changed. features, wide: see ``SfmSettings``. context: poses (4, 4) of the frames
    before the next chunk. misled: whether what looks alike has misled the mapping of any chunk. hindrance: why the last
    chunk has frames without a place, if that is known.
    """

    def __init__(
        self,
        database: MatchDatabase,
        tell: Listener,
        lens: Camera | None,
        features: FeaturesName,
        wide: Matcher | None,
    ) -> None:
        self._database, self._tell, self._lens = database, tell, lens
        self.context: dict[int, Array] = {}
        self.misled = False
        self.hindrance: Hindrance | None = None
        self._settled = lens is not None
        self._effort = EFFORTS[0]
        self._mappings = 0
        self._features: FeaturesName = features
        self._wide = WidePairs(database, wide) if wide else None

    def memory(self) -> dict[str, Any]:
        """What ``recall`` needs after the chunks so far."""
        return {
            "context": {index: pose.tolist() for index, pose in self.context.items()},
            "settled": self._settled,
            "effort": EFFORTS.index(self._effort),
            "misled": self.misled,
        }

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Return to where ``memory`` was made."""
        self.context = {int(index): np.array(pose) for index, pose in memory["context"].items()}
        self._settled, self._effort = memory["settled"], EFFORTS[memory["effort"]]
        self.misled = memory.get("misled", False)

    def unsettle(self) -> None:
        """A lens is only guessed, so the next chunk must settle it."""
        self._settled = self._lens is not None

    def map(
        self, number: int, indices: list[int], frames: Sequence[Frame], lenses: LensState
    ) -> tuple[SparseModel, dict[int, Array]]:
        """The model of chunk ``number`` and its context, and the new poses of earlier frames if the lens has changed.

        indices: all frames of the chunk. frames: those of them that may be matched. lenses: before the chunk was
        matched.
        """
        self._mappings, kinds = 0, len(self._database.lenses)
        if self._wide and self._features == "xfeat+sift":
            self._wide.connect(frames, indices)
        mapped = self._map_with_lenses(number, indices)
        if self._strengthen(mapped.model):
            mapped = self._map(indices)
        mapped = self._mended(number, indices, self._widened(frames, indices, mapped), lenses)
        if mapped.effort != self._effort:
            self._effort = mapped.effort
            self._tell(Notice(f"Chunk {number + 1}: frames are placed with the settings for {mapped.effort.name}."))
        if mapped.restarted and hardly_moves(self._database, indices, self._lens):
            self._tell(Notice(f"Chunk {number + 1}: {HARDLY_MOVED}", doubtful=True))
        model, revised = self._with_settled_lens(mapped, indices)
        join_equal(self._database, model)
        if len(self._database.lenses) > kinds:
            self._tell(Notice(f"Chunk {number + 1}: {SEVERAL}"))
        recent = sorted(model.cam_from_model)[-(CONTEXT if self._settled else UNSETTLED_CONTEXT) :]
        self.context = {index: model.cam_from_model[index] for index in recent}
        return model, revised

    def _with_settled_lens(self, mapped: Mapped, indices: list[int]) -> tuple[SparseModel, dict[int, Array]]:
        """See ``map``; the model is adjusted until its lens is settled, unless it is settled already."""
        model, effort, restarted = mapped
        if restarted:
            # Later chunks and all depth depend on this lens: fit it to every frame, not only to the growing model.
            return (model if effort == EFFORTS[-1] else self._settle_lens(model, effort)), {}
        if not model.cam_from_model or not effort.refine_lens or self._settled:
            return model, {}
        adjusted = self._settle_lens(model, effort)
        self._settled = adjusted is not model and largest_change(model, adjusted) < SETTLED
        return adjusted, {index: pose for index, pose in adjusted.cam_from_model.items() if index not in indices}

    def _widened(self, frames: Sequence[Frame], indices: list[int], mapped: Mapped) -> Mapped:
        """``mapped``, or a model with more frames by pretrained features, which match those that have no place.

        They only add frames to a model with more than half of them, which keep their poses: what SIFT has placed cannot
        be folded by what looks alike.
        """
        model, _, restarted = mapped
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
        return Mapped(wider, effort, restarted)

    def _mended(self, number: int, indices: list[int], mapped: Mapped, lenses: LensState) -> Mapped:
        """``mapped``, or if that is torn, a model by the matches of near neighbours alone: what looks alike elsewhere
        has misled the mapper. Other matches that fit the new model come back. lenses: before the mapping.
        """
        model, frames = mapped.model, sorted({*self.context, *indices})
        if not is_ordered(self._database, indices) or not torn_neighbours(self._database, model):
            return mapped
        far = set(self._database.verified_pairs(frames)).difference(self._database.shots.window(frames, NEIGHBOURS))
        geometries, misled_lenses = {pair: self._database.two_views(pair) for pair in far}, self._database.lenses.state
        for pair in far:
            self._database.forget(pair)
        self._database.lenses.restore(lenses)
        self._mappings = 0
        mended = self._map(indices)
        torn = torn_neighbours(self._database, mended.model)
        self._database.restore_geometries(geometries)
        if torn or count_placed(mended.model, indices) < count_placed(model, indices):
            self._database.lenses.restore(misled_lenses)
            return mapped
        drop_contradictions(self._database, mended.model.cam_from_model, sorted(far), misled=True)
        self.misled = True
        self._tell(Notice(f"Chunk {number + 1}: {MISLED}"))
        return mended

    def _open_wide(self) -> bool:
        """Whether there are pretrained features. If they are not installed, a notice says so, once."""
        if self._wide or self._features == "sift":
            return self._wide is not None
        from recon.sfm.xfeat_matching import open_xfeat_matcher  # noqa: PLC0415  torch takes seconds to import

        try:
            self._wide = WidePairs(self._database, open_xfeat_matcher("auto"))
        except DependencyError as error:
            self._features = "sift"
            self._tell(Notice(f"{MAY_BE_WIDE} {error}"))
        return self._wide is not None

    def _strengthen(self, model: SparseModel) -> bool:
        """Match closer frames if few points carry the scale; returns whether that was necessary."""
        if not model.cam_from_model or self._weakest_link(model) >= ENOUGH_LINKS or self._is_spent:
            return False
        self._database.match(self._database.shots.window(sorted(model.cam_from_model), CLOSE_WINDOW))
        return True

    def _map_with_lenses(self, number: int, indices: list[int]) -> Mapped:
        """Like ``_map``, with as many lenses as the matches suggest and the map supports."""
        before = self._database.lenses.state
        if not divide(self._database, sorted({*self.context, *indices}), self.context):
            self._settled &= not self._database.lenses.may_differ
            return self._reassigned(indices, self._map(indices))
        settled, self._settled = self._settled, False
        mapped = self._map(indices)
        if self._database.lenses.sharing == "per-image":
            return mapped
        join_equal(self._database, mapped.model)
        if not several_lenses(self._database) or count_placed(mapped.model, indices) < len(indices):
            after = self._database.lenses.state
            self._database.lenses.restore(before)
            lend_focals(self._database, mapped.model)
            shared = self._map(indices)
            if not clearly_better(mapped.model, shared.model):
                self._settled = settled
                if len(mapped.model.points.point_ids) > len(shared.model.points.point_ids):
                    self._tell(Notice(f"Chunk {number + 1}: {MAY_DIFFER}"))
                return shared
            self._database.lenses.restore(after)
        return self._reassigned(indices, mapped)

    def _reassigned(self, indices: list[int], mapped: Mapped) -> Mapped:
        """Map frames again for which the map suggests another lens than their pairs do."""
        model, restarted = mapped.model, mapped.restarted
        changed = reassign(self._database, model, [index for index in indices if index not in self.context])
        if changed:
            known = {index: pose for index, pose in model.cam_from_model.items() if index not in changed}
            again, effort = self._escalate(indices, known)
            if count_placed(again, indices) >= count_placed(model, indices):
                return Mapped(again, effort, restarted)
        return mapped

    def _map(self, indices: list[int]) -> Mapped:
        """The model that places most frames, its effort, and whether it has a new coordinate frame."""
        model, effort = self._escalate(indices, self.context) if self.context else (NO_MODEL, EFFORTS[0])
        self.hindrance = None
        if count_placed(model, indices) < 0.5 * len(indices):
            self.hindrance = find_hindrance(self._database, indices, self._lens)
            if self.hindrance and self.hindrance.invents:
                return Mapped(model, effort, False)
            fresh, fresh_effort = self._escalate(indices, {})
            if not fresh.cam_from_model and not self.context and self._database.lenses.forget_focals(indices):
                fresh, fresh_effort = self._escalate(indices, {})
                if fresh.cam_from_model:
                    self._tell(Notice(FOREIGN_EXIF))
            if count_placed(fresh, indices) > count_placed(model, indices):
                self._database.lenses.update(fresh.cameras)
                return Mapped(fresh, fresh_effort, True)
        return Mapped(model, effort, False)

    def _escalate(
        self, indices: list[int], known: dict[int, Array], efforts: tuple[Effort, ...] = EFFORTS
    ) -> tuple[SparseModel, Effort]:
        """Increase the effort while frames are missing; placed frames stay placed."""
        if not known:
            self._database.lenses.calibrate(self._database.path)
        frames = sorted({*known, *indices})
        best, best_effort = NO_MODEL, efforts[0]
        for effort in efforts:
            model = map_frames(self._database, frames, known, effort)
            self._mappings += 1
            if len(model.cam_from_model) > len(best.cam_from_model):
                best, best_effort = model, effort
            if len(best.cam_from_model) == len(frames) or self._is_spent:
                break
            if count_placed(best, indices) > 0.5 * len(indices):
                known = best.cam_from_model
            if effort == efforts[0] and best.cam_from_model:
                missing = set(frames).difference(best.cam_from_model)
                wide = self._database.shots.window(frames, WIDE_WINDOW)
                self._database.match(pair for pair in wide if missing.intersection(pair))
        return best, best_effort

    def _settle_lens(self, model: SparseModel, effort: Effort) -> SparseModel:
        """Fit the lens to the chunk and the frames before it until it converges.

        A wrong lens bends the map and admits only points that fit it. If the lens changes much, the map is therefore
        rebuilt as far back as the model reaches, which determines the lens better.
        """
        for _ in range(SETTLING_ROUNDS):
            adjusted = adjust_model(self._database, model.cam_from_model, distortion=effort.refine_lens)
            if not adjusted.cam_from_model:
                return model
            self._database.lenses.update(adjusted.cameras)
            change = largest_change(model, adjusted)
            if change < BENDING:
                return adjusted
            if self._is_spent:
                break
            new, _ = self._escalate(sorted(model.cam_from_model), {}, EFFORTS[EFFORTS.index(effort) :])
            weakened = 2 * self._weakest_link(new) < self._weakest_link(model)
            if len(new.cam_from_model) < len(adjusted.cam_from_model) or weakened:
                return adjusted
            self._database.lenses.update(new.cameras)
            is_back = largest_change(model, new) < SETTLED  # the next round would repeat this one
            model = adjusted = new
            if is_back:
                break
        if change >= NOTABLE:
            self._tell(Notice(FLAT_LENS if is_nearly_flat(self._database, sorted(model.cam_from_model)) else UNSETTLED))
        return adjusted

    def _weakest_link(self, model: SparseModel) -> int:
        return weakest_link(self._database.shots.merged(model))

    @property
    def _is_spent(self) -> bool:
        """Whether the chunk has been mapped too often to try again."""
        return self._mappings >= MOST_MAPPINGS


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
