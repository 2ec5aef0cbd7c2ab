"""The settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from recon.core.errors import SettingsError
from recon.core.fields import require_types
from recon.core.types import Camera, CameraModel
from recon.sources.base import Keyframes, SourceDescription, SourceOptions

Precision = Literal["float32", "bfloat16", "int8"]
Refine = Literal["auto", "none"]
DenseDepth = Literal["filled", "classical"]
QualityName = Literal["fast", "normal", "best"]
FeaturesName = Literal["auto", "sift", "xfeat+sift"]
DEFAULT_OVERLAP = 12  # frames
FEW_FRAMES = 100  # that are all mapped by default
FEWEST_POINTS = 8  # of a cloud: the coarsest grid has a cell on either side of the origin in each direction


@dataclass(frozen=True)
class NetworkSettings:
    """The geometry transformer as the front end.

    weights: a known name or the path of a file. arithmetic: how global blocks attend across frames; None for the one
    that suits the weights. device: ``auto``, ``cpu``, ``cuda``... pixels: maximum size of an image for the network.
    memory_frames, memory_mebibytes: how much of earlier chunks a stream remembers; None for no limit. precision: of
    the weights in memory. Raises SettingsError for values of other types and for numbers that are not positive.
    """

    weights: str
    arithmetic: Literal["dense", "v1", "v2"] | None = None
    device: str = "auto"
    pixels: int = 518 * 392
    memory_frames: int | None = 64
    memory_mebibytes: float | None = None
    compile: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        require_types(self)
        limits = [limit for limit in (self.memory_frames, self.memory_mebibytes, self.pixels) if limit is not None]
        if min(limits) <= 0:
            raise SettingsError(
                f"The network needs positive numbers for pixels and memory, got {self.pixels} pixels, "
                f"{self.memory_frames} frames and {self.memory_mebibytes} MiB."
            )


@dataclass(frozen=True)
class PlaceSettings:
    """How places are recognised.

    descriptor: a name of ``retrieval.describer.PLACE_DESCRIPTORS``; empty for ImAge where there are weights, else
    vlad. weights: a known name or the path of a file. device: ``auto``, ``cpu``, ``cuda``... Raises SettingsError for
    values of other types.
    """

    descriptor: str = ""
    weights: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        require_types(self)


@dataclass(frozen=True)
class CloudSettings:
    """How to turn depth maps into a cloud or a mesh.

    voxel: edge of the grid that thins the cloud, in world units; None for the median size of a depth pixel on the
    surface. max_points: limit for the cloud; the grid gets coarser until it holds. clean: remove doubtful depth, see
    ``recon.exports.cleaning``. sky: keep the sky. Raises SettingsError for values of other types and for numbers that
    are not positive.
    """

    voxel: float | None = None
    max_points: int = 10_000_000
    clean: bool = True
    sky: bool = True

    def __post_init__(self) -> None:
        require_types(self)
        if self.voxel is not None and not self.voxel > 0:
            raise SettingsError(f"--voxel must be positive, got {self.voxel}.")
        if self.max_points < FEWEST_POINTS:
            raise SettingsError(f"--max-points must be at least {FEWEST_POINTS}, got {self.max_points}.")
        if not (self.clean or self.sky):
            raise SettingsError("--no-sky is part of cleaning. Omit --no-clean.")


@dataclass(frozen=True)
class RunSettings:
    """What a run does. chunk, overlap: frames per chunk, and how many of them repeat the previous chunk.

    intrinsics: a calibrated lens shared by all frames; without it a lens of the ``camera_model`` is estimated.
    overwrite, resume: replace or continue the run in the folder.
    network: reconstructs in place of structure from motion, the lens included. cloud: how to write the cloud.
    refine: ``none`` skips the joint adjustment of all poses at the end. depth: how structure from motion gets dense
    depth; with ``filled`` the learned stage fills the gaps of the ``classical`` one. quality: of structure from motion,
    see ``recon.sfm.quality``.
    front_end: a name in ``recon.frontend.FRONT_ENDS``; empty for the network if one is given, else structure from
    motion. matcher: of structure from motion, a name in ``recon.sfm.matching.MATCHERS``. features: whether pretrained
    features help SIFT: ``auto`` where frames have no place, ``xfeat+sift`` everywhere. places: how the recogniser was
    opened, see ``retrieval.recogniser.open_recogniser``; None for no loops, or for a recogniser of the caller's own.
    tracking: give every frame of a live source a pose at once. watched: and tell listeners what the camera sees, and
    the dense depth of the newest keyframes.
    Raises SettingsError for values that cannot work.
    """

    source: SourceOptions = field(default_factory=SourceOptions)
    chunk: int = 60
    overlap: int = DEFAULT_OVERLAP
    camera_model: CameraModel = "SIMPLE_RADIAL"
    intrinsics: Camera | None = None
    overwrite: bool = False
    resume: bool = False
    network: NetworkSettings | None = None
    cloud: CloudSettings = field(default_factory=CloudSettings)
    refine: Refine = "auto"
    depth: DenseDepth = "filled"
    quality: QualityName = "normal"
    front_end: str = ""
    matcher: str = "sift"
    features: FeaturesName = "auto"
    places: PlaceSettings | None = None
    tracking: bool = True
    watched: bool = False

    def __post_init__(self) -> None:
        require_types(self)
        if self.overlap < 1:
            raise SettingsError(f"--overlap must be at least 1, got {self.overlap}.")
        if self.overlap >= self.chunk:
            raise SettingsError(
                f"--chunk must be larger than --overlap, got {self.chunk} and {self.overlap}"
                f"{' (the default)' if self.overlap == DEFAULT_OVERLAP else ''}."
            )
        if self.resume and self.overwrite:
            raise SettingsError("--resume continues a run that --overwrite would delete. Use only one of them.")
        if self.network and self.intrinsics:
            raise SettingsError(
                "--intrinsics cannot be combined with --weights: the network estimates the lens. Use only one of them."
            )
        if self.network and self.quality != "normal":
            raise SettingsError(
                f"--quality {self.quality} cannot be combined with --weights: it sets how much structure from motion "
                "does. Use --pixels for a smaller or larger network input."
            )
        if self.features == "xfeat+sift" and (self.network or self.matcher != "sift"):
            other = "--weights: the network" if self.network else f"the matcher {self.matcher}, which"
            raise SettingsError(f"--features xfeat+sift cannot be combined with {other} uses no SIFT. Use only one.")
        if self.source.cameras != "auto" and (self.network or self.intrinsics):
            other = "--weights: the network finds the lens" if self.network else "--intrinsics, one lens for all images"
            raise SettingsError(
                f"--cameras {self.source.cameras} cannot be combined with {other}. Use only one of them."
            )

    def decided(self, frames: int, *, live: bool = False) -> RunSettings:
        """These settings with ``auto`` keyframes decided, for a source of this many frames; 0 if it does not say.

        Keyframes are selected from live sources, and from long ones if the map will have the points of a joint
        adjustment, from which the frames between get their poses.
        """
        if self.source.keyframes != "auto":
            return self
        has_points = self.front_end in ("", "sfm") and not self.network and self.refine != "none"
        select = live or (has_points and not 0 < frames <= FEW_FRAMES)
        return self.with_keyframes("select" if select else "all")

    def of_rig(self, source: SourceDescription) -> RunSettings:
        """These settings for a source of several views, whose lenses are known: chunks consist of whole shots.

        Raises SettingsError if they ask for another lens, or a network that estimates one.
        """
        lens, views = source.lens, source.views
        assert lens
        refuse_options(
            source,
            {
                "--weights": self.network is not None,
                "--intrinsics": self.intrinsics not in (None, lens),
                "--cameras": self.source.cameras != "auto",
            },
        )
        chunk, overlap = (-(-frames // views) * views for frames in (self.chunk, self.overlap))
        return replace(
            self, intrinsics=lens, camera_model=lens.model, chunk=max(chunk, overlap + views), overlap=overlap
        )

    def with_keyframes(self, keyframes: Keyframes) -> RunSettings:
        return replace(self, source=replace(self.source, keyframes=keyframes))


def refuse_options(source: SourceDescription, given: Mapping[str, bool]) -> None:
    """Raise SettingsError for an option that is given, although the lenses of the source are known."""
    known = "--rig: its file says which lenses the cameras have"
    if source.unit == "panorama":
        known = "360-degree panoramas: the lens of their faces is known"
    for option, is_given in given.items():
        if is_given:
            raise SettingsError(f"{option} cannot be combined with {known}. Leave {option} out.")
