"""The geometry transformer as a front end of the pipeline."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon.core.errors import ResourceError, SettingsError, WeightsError
from recon.core.events import Notice
from recon.core.refusal import Unplaced
from recon.core.similarity import Array
from recon.core.types import Camera, Chunk, ChunkGeometry, Frame, FrameGeometry, Image, SparseModel, SparsePoints
from recon.frontend import Workplace
from recon.network.attention import choose_backend
from recon.network.cache import DescriptorCache, MemoryBudget
from recon.network.checkpoints import Checkpoint, fingerprint, identify, load_network, read_checkpoint
from recon.network.config import Dense, NetworkConfig, Rule
from recon.network.known_weights import resolve
from recon.network.model import GeometryNetwork, Prediction
from recon.network.pose_encoding import matrices_from_encoding
from recon.network.preprocess import as_batch, fitted_size, resize, resize_mask
from recon.network.runtime import choose_device, compile_blocks, free_memory, is_shortage, precision
from recon.network.stored_config import arithmetic_of, published_rule, to_text
from recon.network.stored_streams import StoredStreams
from recon.network.stored_weights import Storage, WeightStream, kept_in, planned_storage, resident_bytes
from recon.settings import NetworkSettings, Precision, RunSettings
from recon.store.frame_arrays import rounded

HALF_PIXEL = 0.5  # the network's origin is the centre of the first pixel, ours its corner
PINHOLE_ENTRIES = ((0, 0), (1, 1), (0, 2), (1, 2))
UNUSED = ("point_head.", "track_head.")
NOT_FINITE = "the network's output for it is not finite"
AGAIN = "The stored memory of the network is missing or damaged: the network goes through finished chunks again."
OTHER_SIZE = Unplaced("has another size than the first frame; the network takes one size")


@dataclass(frozen=True, eq=False)
class OpenNetwork:
    """A network with its weights on its device, and its attention rule. about: a sentence about these. fingerprint: of
    the weights, the rule, and how weights are rounded."""

    network: GeometryNetwork
    rule: Rule
    settings: NetworkSettings
    about: str
    fingerprint: str


def open_network(settings: NetworkSettings, free: int | None = None) -> OpenNetwork:
    """The network with the weights, rule and device of the settings.

    free: bytes of the device's memory to plan for, those free now by default. Raises WeightsError, DependencyError
    (weights not fetched yet), SettingsError, or ResourceError if the device's memory does not hold the network.
    """
    device = choose_device(settings.device)
    backend = choose_backend(device)
    checkpoint = read_checkpoint(resolve(settings.weights))
    config, rule = identify(checkpoint)
    if settings.arithmetic:
        rule = published_rule(settings.arithmetic, config.aggregator.depth)
    identity = fingerprint(checkpoint.tensors, to_text(config, rule) + _rounding(settings.precision))
    config, checkpoint = needed_in_a_run(config, checkpoint)
    storage = _storage(config, checkpoint, settings.precision, device, free)
    keep = WeightStream(checkpoint.path, device).kept if storage.streamed else kept_in(settings.precision)
    network = _moved(load_network(checkpoint, config, backend, keep), device)
    if settings.compile and not storage.streamed:
        compile_blocks(network)
    how = f"{arithmetic_of(rule)} attention, computed by {backend} on {device}; {storage}"
    return OpenNetwork(network, rule, settings, f"Geometry by {settings.weights}: {how}.", identity)


def plan_network(settings: NetworkSettings, free: int | None = None) -> Storage:
    """How ``open_network`` would keep the weights; it also says what may be raised."""
    device, checkpoint = choose_device(settings.device), read_checkpoint(resolve(settings.weights))
    config, checkpoint = needed_in_a_run(identify(checkpoint)[0], checkpoint)
    return _storage(config, checkpoint, settings.precision, device, free)


def _storage(
    config: NetworkConfig, checkpoint: Checkpoint, precision: Precision, device: torch.device, free: int | None
) -> Storage:
    return planned_storage(config, checkpoint.path, precision, free_memory(device) if free is None else free)


def needed_in_a_run(config: NetworkConfig, checkpoint: Checkpoint) -> tuple[NetworkConfig, Checkpoint]:
    """Without the heads for points and tracks."""
    tensors = {name: x for name, x in checkpoint.tensors.items() if not name.startswith(UNUSED)}
    return replace(config, points=None, track=None), replace(checkpoint, tensors=tensors)


def _rounding(precision: Precision) -> str:
    """What a fingerprint states besides the weights of the file."""
    return "" if precision == "float32" else precision


def _moved(network: GeometryNetwork, device: torch.device) -> GeometryNetwork:
    try:
        return network.to(device)
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        raise ResourceError(
            f"The memory of {device} does not hold the network, which takes {resident_bytes(network) / 1e9:.1f} GB. "
            "Close other programs that use it, or use --precision int8 or --device cpu."
        ) from error


class TransformerFrontEnd:
    """Poses and depth of chunks by the network.

    With a descriptor rule the chunks are one stream: each attends to the memory of earlier ones, within the memory
    budget. With dense attention every chunk is independent, as in the network's training, and the pipeline joins them
    by their shared frames. All frames must have the size of the first. The stream's memory is stored after every chunk.
    Depth is rounded as the map stores it, so that a resumed run aligns chunks by the same numbers.
    """

    unadjusted = ""

    def __init__(self, opened: OpenNetwork, place: Workplace) -> None:
        self._network, self._rule, self._settings, self._tell = opened.network, opened.rule, opened.settings, place.tell
        self._fingerprint = opened.fingerprint
        self._device = next(opened.network.parameters()).device
        self._budget = MemoryBudget(opened.settings.memory_frames, opened.settings.memory_mebibytes)
        self._stored = StoredStreams(place.folder, opened.fingerprint)
        finished = max(place.finished, default=-1)
        self._cache, self._seen = self._stored.newest(finished, self._device)
        self._original: tuple[int, int] | None = None
        self._at_once = sys.maxsize
        self._tell(Notice(opened.about))
        if self._is_stream and self._seen < finished:
            self._tell(Notice(AGAIN))

    @classmethod
    def prepare(cls, settings: RunSettings) -> Callable[[Workplace], TransformerFrontEnd]:
        """See ``GeometryFrontEnd``, and ``open_network`` for errors."""
        if settings.network is None:
            raise SettingsError("The network as a front end needs --weights.")
        return partial(cls, open_network(settings.network))

    @property
    def cache_bytes(self) -> int:
        """Memory held by the stream between chunks, in bytes."""
        return self._cache.bytes

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        """See ``GeometryFrontEnd``. Poses are relative to the first frame of the stream, or of an independent chunk;
        the unit is the network's.

        Raises ResourceError if the memory does not hold a single frame.
        """
        alike, unplaced = self._of_one_size(chunk.frames)
        placed: list[FrameGeometry] = []
        if not self._is_stream:
            self._cache = DescriptorCache.empty()
        pending = [alike] if alike else []
        while pending:
            frames = pending.pop()
            found = self._advance(frames, last=not pending) if len(frames) <= self._at_once else None
            if found is not None:
                placed += found
            elif len(frames) > 1:
                # Too many for the memory, or one bad frame that corrupts all frames that attend to it.
                pending += [frames[len(frames) // 2 :], frames[: len(frames) // 2]]
            else:
                unplaced[frames[0].index] = Unplaced(NOT_FINITE)
        if self._is_stream and self._cache.length:
            self._stored.write(chunk.frames[-1].index, self._cache)
        return ChunkGeometry(tuple(placed), SparsePoints.empty(), unplaced)

    def memory(self) -> dict[str, Any]:
        """See ``Resumable``. The stream itself is in a file of its own."""
        return {
            "weights": self._fingerprint,
            "device": self._device.type,
            "size": self._original,
            "at_once": self._at_once,
        }

    def recall(self, chunk: Chunk, geometry: ChunkGeometry, memory: Mapping[str, Any]) -> None:
        """See ``Resumable``. If the stream's file is missing or damaged, the network goes through the chunk again.

        Raises WeightsError if the run was made with other weights, SettingsError if it was made on another kind of
        device or by a version that stored no stream.
        """
        self._require_same(memory)
        self._original, self._at_once = tuple(memory["size"]), memory["at_once"]
        last = chunk.frames[-1].index
        if self._is_stream and self._seen < last:
            self.reconstruct(chunk)
            self._seen = last

    def _require_same(self, memory: Mapping[str, Any]) -> None:
        if not memory:
            raise SettingsError(
                "An early version made this run and did not store what the network needs to resume it. Rebuild the map "
                "with --overwrite."
            )
        if memory["weights"] != self._fingerprint:
            raise WeightsError(
                f"{self._settings.weights} does not have the weights with which the run was made. Give the same ones "
                "to resume it, or rebuild the map with --overwrite."
            )
        if memory["device"] != self._device.type:
            raise SettingsError(
                f"The run was made with --device {memory['device']}, not {self._device.type}. Use the same one to "
                "resume it."
            )

    @property
    def _is_stream(self) -> bool:
        return not isinstance(self._rule, Dense)

    def refine(self, cam_from_world: Mapping[int, Array], loops: Sequence[tuple[int, int]]) -> SparseModel:
        """Only report the stream's memory: the chunks' poses stay as they are."""
        if self._cache.length and self._is_stream:
            kept, held = len(self._cache.frames), self.cache_bytes / 1e6
            self._tell(Notice(f"The stream remembers {kept} of {self._cache.length} frames, in {held:.1f} MB."))
        return SparseModel({}, {}, SparsePoints.empty())

    def explain_nothing(self, source: str, names: Mapping[int, str], reasons: Mapping[int, Unplaced]) -> str:
        """See ``GeometryFrontEnd``."""
        index = min(reasons)
        return (
            f"Fewer than two of the {len(names)} frames of {source} could be placed; {names[index]}: "
            f"{reasons[index].reason}. Check the weights: recon weights verify {self._settings.weights}"
        )

    def close(self) -> None:
        """Forget the stream."""
        self._cache = DescriptorCache.empty()

    def _of_one_size(self, frames: Sequence[Frame]) -> tuple[tuple[Frame, ...], dict[int, Unplaced]]:
        """The frames with the size of the stream's first one, and why the others cannot be added."""
        if self._original is None:
            self._original = frames[0].original_size
        alike = tuple(frame for frame in frames if frame.original_size == self._original)
        others = [frame.index for frame in frames if frame.original_size != self._original]
        return alike, dict.fromkeys(others, OTHER_SIZE)

    def _advance(self, frames: Sequence[Frame], *, last: bool) -> list[FrameGeometry] | None:
        """Add frames to the stream; None, and no change, if there are too many or some results are not finite."""
        width, height = frames[0].image.shape[1::-1]
        size = fitted_size(width, height, self._settings.pixels, self._network.config.aggregator.patch_size)
        images = [resize(frame.image, size) for frame in frames]
        try:
            prediction, cache = self._predict(images, last=last)
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            self._take_fewer(len(frames), error)
            return None
        if not finite_frames(prediction).all():
            return None
        self._cache = cache
        return geometries(frames, images, prediction)

    def _predict(self, images: Sequence[Image], *, last: bool) -> tuple[Prediction, DescriptorCache]:
        batch = as_batch(images)[None].to(self._device)
        with torch.inference_mode(), precision(self._device):
            if not self._is_stream and last and not self._cache.length:
                return self._network.predict(batch, self._rule), self._cache  # its memory is not used later
            return self._network.step(batch, self._cache, self._rule, self._budget)

    def _take_fewer(self, count: int, error: RuntimeError) -> None:
        if count == 1:
            raise ResourceError(
                f"The memory of {self._device} does not hold a single frame. Lower --pixels (now "
                f"{self._settings.pixels}) or --memory-frames, or use --device cpu."
            ) from error
        self._at_once = count // 2
        self._tell(
            Notice(
                f"The memory of {self._device} does not hold {count} frames at once; continuing with {self._at_once}. "
                "A smaller --chunk or --pixels avoids this."
            )
        )


def finite_frames(prediction: Prediction) -> Array:
    """Which frames of the first sequence (frames,) have finite poses, depth and confidence."""
    cam_from_world, _ = matrices_from_encoding(prediction.encodings[0], (1, 1))
    parts = (cam_from_world, prediction.depth.values[0], prediction.depth.confidence[0])
    return np.asarray(torch.stack([part.flatten(1).isfinite().all(dim=1) for part in parts]).all(dim=0).cpu())


def geometries(frames: Sequence[Frame], images: Sequence[Image], prediction: Prediction) -> list[FrameGeometry]:
    """The pipeline's geometry from the network's results for the first sequence of the batch.

    images: the frames as the network saw them.
    """
    depths = _as_array(prediction.depth.values[0, ..., 0])
    confidences = 1 - 1 / _as_array(prediction.depth.confidence[0])  # from 1..infinity to 0..1
    size = (depths.shape[1], depths.shape[2])
    poses, intrinsics = map(_as_array, matrices_from_encoding(prediction.encodings[0].double(), size))
    intrinsics[:, :2, 2] += HALF_PIXEL
    return [
        _geometry(frame, image, pose, matrix, depth=depth, confidence=confidence)
        for frame, image, pose, matrix, depth, confidence in zip(
            frames, images, poses, intrinsics, depths, confidences, strict=True
        )
    ]


def _geometry(
    frame: Frame, image: Image, pose: Array, intrinsics: Array, *, depth: Array, confidence: Array
) -> FrameGeometry:
    mask = resize_mask(frame.mask, (image.shape[1], image.shape[0]))
    kept = mask & (confidence > 0) & (depth > 0)
    width, height = frame.original_size
    to_original = np.diag([width / image.shape[1], height / image.shape[0], 1.0]) @ intrinsics
    geometry = FrameGeometry(
        index=frame.index,
        cam_from_chunk=np.vstack([pose, [0, 0, 0, 1]]),
        camera=Camera("PINHOLE", width, height, tuple(float(to_original[k]) for k in PINHOLE_ENTRIES)),
        intrinsics=intrinsics,
        depth=np.where(kept, depth, 0).astype(np.float32),
        confidence=np.where(kept, confidence, 0).astype(np.float32),
        colour=image,
    )
    return rounded(geometry)


def _as_array(x: Tensor) -> Array:
    return x.double().cpu().numpy()
