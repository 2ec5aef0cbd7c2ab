"""``recon bench locate``: photos located in a map of every second frame, and photos of other places.

The poses are compared with the truth after a Sim(3) alignment of the map's frames, so they share the errors of the map.
Three more figures tell these apart: the errors of the map's own frames; the errors of each photo relative to the frame
before it; and those left after a constant offset of the camera, which is also fitted to the map's frames only. Truth
from a tracker or a depth camera has such an offset from the colour images.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from recon.core.errors import MapError, SourceError
from recon.core.files import make_folder, write_atomically
from recon.core.similarity import Array, Sim3
from recon.core.types import Frame
from recon.evaluate.poses import compare
from recon.exports.trajectory import Trajectory, read_tum, rigid_trajectory
from recon.lab.benchmark.commit import current_commit
from recon.lab.benchmark.programs import run_pipeline
from recon.lab.benchmark.sets import BenchmarkSet
from recon.lab.synthetic.look_alikes import rearranged, redecorated
from recon.lab.synthetic.paths import inverse_rigid
from recon.lab.synthetic.render import render_single
from recon.lab.synthetic.sample import HEIGHT, WIDTH, sample_intrinsics, walk
from recon.sources import open_source
from recon.sources.base import Candidate
from recon.store.map import ReconstructedMap, open_map
from retrieval.localiser import Localiser, Location, open_localiser

VERSION = 1
FOREIGN = ("fox/images", "sceaux/images", "strecha/castle-P30/images", "strecha/entry-P10/images")
LOOK_ALIKES = 99  # together with the photos of FOREIGN: 200
VIEWS_OF_A_ROOM = 9
MAX_POSITION, MAX_ROTATION = 0.05, 5.0  # metres, degrees
Tell = Callable[[str], None]
Poses = Mapping[int, Sim3]  # world_from_cam of scale 1, by frame index


@dataclass(frozen=True)
class Errors:
    """Errors of some poses: position [unit of the truth, metres], rotation_deg."""

    position: tuple[float, ...]
    rotation_deg: tuple[float, ...]

    def share_within(self, count: int) -> float:
        """Share of ``count`` photos whose errors are within the limits."""
        pairs = zip(self.position, self.rotation_deg, strict=True)
        return sum(position <= MAX_POSITION and rotation <= MAX_ROTATION for position, rotation in pairs) / count


@dataclass(frozen=True)
class Evidence:
    """Of some photos: features that agree with the pose, and share of the detail that is alike; see ``Location``."""

    inliers: tuple[int, ...]
    agreement: tuple[float, ...]

    @classmethod
    def of(cls, found: Sequence[Location]) -> Evidence:
        return cls(tuple(one.inliers for one in found), tuple(one.agreement for one in found))


@dataclass(frozen=True)
class LocateResult:
    """photos: of the place, which are not in the map of ``frames`` frames. absolute, relative, offset: errors of those
    that were located: of their pose, relative to the frame before, and with the camera's offset. of_map: errors of the
    map's frames. evidence, foreign: of the photos, and of photos of other places. accepted: names of the latter that
    were located. seconds: processor time of each photo, without reading it. prepared: processor time to open the map,
    with its preparation if that was not stored.
    """

    name: str
    frames: int
    photos: int
    absolute: Errors
    relative: Errors
    offset: Errors
    of_map: Errors
    evidence: Evidence
    foreign: Evidence
    accepted: tuple[str, ...]
    seconds: tuple[float, ...]
    prepared: float


def measure(member: BenchmarkSet, data: Path, out: Path, tell: Tell) -> LocateResult:
    """Map every second frame of a set into ``out``, unless that was done before; locate the others, and photos of other
    places.

    Raises SourceError if data are missing, MapError if the set cannot be mapped.
    """
    reconstruction = _mapped(member, data, out / member.name, tell)
    foreign = [data / place for place in FOREIGN] + [_look_alikes(out / "look-alikes", tell)]
    begun = time.process_time()
    localiser = open_localiser(out / member.name, tell=tell)
    prepared = time.process_time() - begun
    tell(f"{member.name}: locating")
    mapped = {frame.index: _rigid(frame.world_from_cam) for frame in reconstruction.posed}
    photos = [frame for frame in _photos(data / member.folder / member.source) if frame.index not in mapped]
    found, seconds = _located(photos, localiser)
    strangers = [(f"{folder}/{frame.name}", localiser.locate(frame)) for folder in foreign for frame in _photos(folder)]
    poses = {photo.index: one.world_from_cam for photo, one in zip(photos, found, strict=True) if one.world_from_cam}
    truth = read_tum(data / member.folder / str(member.reference))
    true, start = _by_index(truth), compare(rigid_trajectory(reconstruction, by_index=True), truth)
    moved, alignment = with_offset(poses, mapped, true, start.reference_from_estimated)
    return LocateResult(
        name=member.name,
        frames=len(mapped),
        photos=len(photos),
        absolute=errors_of(poses, true, start.reference_from_estimated),
        relative=relative_errors(poses, mapped, true, start.reference_from_estimated.scale),
        offset=errors_of(moved, true, alignment),
        of_map=errors_of(mapped, true, start.reference_from_estimated),
        evidence=Evidence.of(found),
        foreign=Evidence.of([one for _, one in strangers]),
        accepted=tuple(name for name, one in strangers if one.world_from_cam),
        seconds=tuple(seconds),
        prepared=prepared,
    )


def _mapped(member: BenchmarkSet, data: Path, folder: Path, tell: Tell) -> ReconstructedMap:
    """The map of every second frame of a set; the one in ``folder`` if it is finished."""
    with suppress(MapError):
        stored = open_map(folder)
        if stored.complete:
            return stored
    tell(f"{member.name}: recon run")
    ended = run_pipeline(replace(member, every=2), data, folder)
    if ended.failure:
        raise MapError(f"{member.name} cannot be mapped: {ended.failure}.")
    return open_map(folder)


def _photos(folder: Path) -> Iterator[Frame]:
    for item in open_source(str(folder)).candidates():
        if not isinstance(item, Candidate):
            raise SourceError(f"{folder / item.name} cannot be read: {item.reason}.")
        yield item.frame


def _located(photos: Sequence[Frame], localiser: Localiser) -> tuple[list[Location], list[float]]:
    """Where each photo was taken, and the processor time that this took."""
    found, seconds = [], []
    for photo in photos:
        begun = time.process_time()
        found.append(localiser.locate(photo))
        seconds.append(time.process_time() - begun)
    return found, seconds


def errors_of(poses: Poses, true: Poses, true_from_map: Sim3) -> Errors:
    """Errors of poses in the map after its alignment, where the truth is known."""
    return _differences([(true[index], true_from_map @ pose) for index, pose in poses.items() if index in true])


def relative_errors(poses: Poses, mapped: Poses, true: Poses, scale: float) -> Errors:
    """Errors relative to the frame of the map before each pose, which leaves out those of the map as a whole.

    scale: of the truth relative to the map.
    """
    unit = Sim3(scale, np.eye(3), np.zeros(3))
    pairs = []
    for index, pose in poses.items():
        before = max((other for other in mapped if other < index), default=None)
        if before in true and index in true and before is not None:
            pairs.append((true[before].inverse() @ true[index], unit @ mapped[before].inverse() @ pose))
    return _differences(pairs)


def with_offset(poses: Poses, mapped: Poses, true: Poses, start: Sim3) -> tuple[Poses, Sim3]:
    """The poses moved by a constant offset of the camera, and true_from_map: both fitted together to the map's frames.

    start: true_from_map without an offset.
    """
    indices = [index for index in mapped if index in true]
    turns, places = _stacked([start @ mapped[index] for index in indices])
    true_turns, true_places = _stacked([true[index] for index in indices])
    middle = places.mean(axis=0)

    def residuals(step: Array) -> Array:
        turned, offset = Rotation.from_rotvec(step[:3]), Rotation.from_rotvec(step[7:10])
        moved = turned.apply(np.exp(step[6]) * (places - middle) + turns.apply(step[10:])) + middle + step[3:6]
        left = (true_turns.inv() * turned * turns * offset).as_rotvec()
        return np.concatenate(
            [((moved - true_places) / MAX_POSITION).ravel(), (np.degrees(left) / MAX_ROTATION).ravel()]
        )

    step = least_squares(residuals, np.zeros(13), loss="soft_l1").x
    scale, rotation = float(np.exp(step[6])), Rotation.from_rotvec(step[:3]).as_matrix()
    true_from_map = Sim3(scale, rotation, middle + step[3:6] - scale * rotation @ middle) @ start
    offset = Sim3(1.0, Rotation.from_rotvec(step[7:10]).as_matrix(), step[10:] / true_from_map.scale)
    return {index: pose @ offset for index, pose in poses.items()}, true_from_map


def _stacked(poses: Sequence[Sim3]) -> tuple[Rotation, Array]:
    """Rotations and positions (n, 3)."""
    return Rotation.from_matrix([pose.rotation for pose in poses]), np.array([pose.translation for pose in poses])


def _differences(pairs: Sequence[tuple[Sim3, Sim3]]) -> Errors:
    """Between true poses and estimates."""
    turns = [Rotation.from_matrix(true.rotation.T @ found.rotation).magnitude() for true, found in pairs]
    shifts = [float(np.linalg.norm(true.translation - found.translation)) for true, found in pairs]
    return Errors(tuple(shifts), tuple(np.degrees(turns).tolist()))


def _by_index(truth: Trajectory) -> dict[int, Sim3]:
    poses = zip(truth.timestamps, truth.world_from_cam, strict=True)
    return {round(float(index)): Sim3.from_matrix(pose) for index, pose in poses}


def _rigid(pose: Sim3) -> Sim3:
    return replace(pose, scale=1.0)


def _look_alikes(folder: Path, tell: Tell) -> Path:
    """Rendered photos of rooms that look like the sample's, in ``folder``; those already there are kept."""
    make_folder(folder)
    tell("look-alikes: rendering")
    for number, pose in enumerate(walk(LOOK_ALIKES)):
        path = folder / f"{number:03d}.png"
        if not path.is_file():
            room = number // VIEWS_OF_A_ROOM
            scene = (redecorated if room % 2 else rearranged)(room)
            cam_from_world = inverse_rigid(pose).float()[None, None]
            seen = render_single(scene, cam_from_world, sample_intrinsics(), HEIGHT, WIDTH)
            image = Pillow.fromarray((255 * seen.colour[0, 0]).round().to(torch.uint8).numpy())
            write_atomically(path, lambda file, image=image: image.save(file, "PNG"))  # type: ignore[misc]
    return folder


def table(results: Sequence[LocateResult]) -> str:
    """Markdown with a column per map."""
    columns = [_figures(result) for result in results]
    rows = [("", *(result.name for result in results)), ("---",) * (len(results) + 1)]
    rows += [(name, *(column[name] for column in columns)) for name in columns[0]]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _figures(result: LocateResult) -> dict[str, str]:
    """The cells of a map by the name of their row."""
    return {
        "frames of the map": str(result.frames),
        "photos located": f"{len(result.absolute.position)} of {result.photos}",
        "within 5 cm and 5 degrees": f"{result.absolute.share_within(result.photos):.1%}",
        "the map's own frames": f"{result.of_map.share_within(result.frames):.1%}",
        "photos, with the camera's offset": f"{result.offset.share_within(result.photos):.1%}",
        "photos, relative to the frame before": f"{result.relative.share_within(result.photos):.1%}",
        "median error": _median_errors(result.absolute),
        "with the camera's offset": _median_errors(result.offset),
        "relative to the frame before": _median_errors(result.relative),
        "photos of other places accepted": f"{len(result.accepted)} of {len(result.foreign.agreement)}",
        "alike: least of the photos, most of other places": _margin(
            result.evidence.agreement, result.foreign.agreement
        ),
        "features: fewest of the photos, most of other places": (
            f"{min(result.evidence.inliers)}, {max(result.foreign.inliers)}"
        ),
        "processor seconds per photo, median": f"{statistics.median(result.seconds):.2f}",
        "processor seconds to open the map": f"{result.prepared:.0f}",
    }


def _margin(place: Sequence[float], others: Sequence[float]) -> str:
    return f"{min(place):.0%}, {max(others):.0%}"


def _median_errors(errors: Errors) -> str:
    if not errors.position:
        return ""
    return f"{100 * statistics.median(errors.position):.2f} cm, {statistics.median(errors.rotation_deg):.3f} degrees"


def write_results(results: Sequence[LocateResult], folder: Path) -> None:
    """Write locate.json and locate.md. Raises OutputError."""
    content = {"version": VERSION, "commit": current_commit(), "maps": [asdict(result) for result in results]}
    write_atomically(folder / "locate.json", lambda file: file.write(json.dumps(content, indent=1).encode()))
    write_atomically(folder / "locate.md", lambda file: file.write(table(results).encode()))
