"""The network as a front end of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.core.errors import ReconstructionError, ResourceError, SettingsError, SourceError, WeightsError
from recon.core.events import Event, Notice
from recon.core.projection import points_in_chunk
from recon.core.refusal import Unplaced
from recon.core.types import Chunk, Frame, FrameGeometry
from recon.evaluate.check import check_folder
from recon.frontend import Workplace
from recon.network.checkpoints import save_checkpoint
from recon.network.config import Dense, DescriptorsV1, Rule
from recon.network.frontend import NOT_FINITE, OpenNetwork, TransformerFrontEnd, finite_frames, open_network
from recon.network.model import GeometryNetwork, Prediction
from recon.network.pose_encoding import matrices_from_encoding, unproject
from recon.pipeline import reconstruct
from recon.settings import NetworkSettings, RunSettings
from recon.sources.base import SourceOptions
from recon.store.map import open_map
from recon.store.report import read
from tests.network_support import random_network

V1 = DescriptorsV1(2)
SETTINGS = NetworkSettings("small", pixels=70 * 56)
WIDTH, HEIGHT = 140, 112  # twice the network's size
SAMPLE = Path(__file__).resolve().parents[3] / "data" / "sample" / "images"


def make_frame(index: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Frame:
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    mask = np.ones(pixels.shape[:2], dtype=bool)
    mask[: size[1] // 4] = False
    original = (2 * size[0], 2 * size[1])
    return Frame(index, float(index), pixels, f"{index}.png", original, "lens", 0.0, mask)


def make_chunk(*frames: Frame, index: int = 0) -> Chunk:
    return Chunk(index, frames, 0)


def front_end(
    network: GeometryNetwork, rule: Rule = V1, settings: NetworkSettings = SETTINGS
) -> tuple[TransformerFrontEnd, list[str]]:
    """The front end, whose files go to the current folder, and its notices."""
    told: list[str] = []
    place = Workplace(Path(), lambda event: told.append(event.text))  # type: ignore[union-attr]
    return TransformerFrontEnd(OpenNetwork(network, rule, settings, "about", "weights"), place), told


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where front ends of ``front_end`` store their streams."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def small() -> GeometryNetwork:
    return random_network()


def test_geometry_is_the_networks_in_our_conventions(small: GeometryNetwork) -> None:
    frames = [make_frame(0), make_frame(1)]
    geometry = front_end(small)[0].reconstruct(make_chunk(*frames))
    batch = torch.from_numpy(np.stack([frame.colour for frame in geometry.frames])).permute(0, 3, 1, 2)[None] / 255
    prediction = small.predict(batch, V1)
    poses, intrinsics = matrices_from_encoding(prediction.encodings[0], (56, 70))
    stored = prediction.depth.values[0, ..., 0].half().float()  # with the precision of the map
    points = unproject(stored, poses, intrinsics).points_world.numpy()
    for number, frame in enumerate(geometry.frames):
        assert frame.depth.shape == frame.confidence.shape == frame.colour.shape[:2] == (56, 70)
        rows, columns = np.nonzero(frame.depth)
        ours = points_in_chunk(frame, rows, columns)
        np.testing.assert_allclose(ours, points[number][rows, columns], atol=1e-4)
        assert (frame.depth[:14] == 0).all()  # masked
        assert (frame.depth[14:] > 0).all()
        assert (frame.confidence[14:] > 0).all()
        assert frame.confidence.max() <= 1
        camera = frame.camera.matrix()
        np.testing.assert_allclose(camera[:2], 4 * frame.intrinsics[:2])
        assert (frame.camera.width, frame.camera.height) == frames[number].original_size


def test_chunks_are_one_stream_under_a_descriptor_rule(small: GeometryNetwork) -> None:
    frames = [make_frame(index) for index in range(4)]
    whole = front_end(small)[0]
    whole.reconstruct(make_chunk(*frames[:2]))
    second = whole.reconstruct(make_chunk(*frames[2:], index=1))
    alone = front_end(small)[0].reconstruct(make_chunk(*frames[2:]))
    assert not np.allclose(second.frames[0].depth, alone.frames[0].depth)
    assert whole.cache_bytes > 0
    whole.close()
    assert whole.cache_bytes == 0


def test_chunks_are_independent_under_dense_attention(small: GeometryNetwork) -> None:
    frames = [make_frame(index) for index in range(4)]
    whole = front_end(small, Dense())[0]
    whole.reconstruct(make_chunk(*frames[:2]))
    second = whole.reconstruct(make_chunk(*frames[2:], index=1))
    alone = front_end(small, Dense())[0].reconstruct(make_chunk(*frames[2:]))
    np.testing.assert_array_equal(second.frames[0].depth, alone.frames[0].depth)


def test_memory_is_bounded_by_the_settings(small: GeometryNetwork) -> None:
    settings = replace(SETTINGS, memory_frames=3)
    bounded = front_end(small, V1, settings)[0]
    sizes = []
    for number in range(5):
        bounded.reconstruct(make_chunk(make_frame(2 * number), make_frame(2 * number + 1), index=number))
        sizes.append(bounded.cache_bytes)
    assert sizes[1:] == [sizes[1]] * 4


class Short(GeometryNetwork):
    """Runs out of memory above a number of frames."""

    limit = 2
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory")

    def step(self, images, *rest):  # type: ignore[no-untyped-def]
        if images.shape[1] > self.limit:
            raise self.error
        return super().step(images, *rest)

    def predict(self, images, *rest):  # type: ignore[no-untyped-def]
        if images.shape[1] > self.limit:
            raise self.error
        return super().predict(images, *rest)


def as_kind(network: GeometryNetwork, kind: type[GeometryNetwork]) -> GeometryNetwork:
    other = kind(network.config).eval().requires_grad_(False)
    other.load_state_dict(network.state_dict())
    return other


@pytest.mark.parametrize("rule", [V1, Dense()], ids=str)
def test_a_chunk_too_large_for_the_memory_is_halved(small: GeometryNetwork, rule: Rule) -> None:
    short, told = front_end(as_kind(small, Short), rule)
    geometry = short.reconstruct(make_chunk(*(make_frame(index) for index in range(5))))
    assert [frame.index for frame in geometry.frames] == [0, 1, 2, 3, 4]
    assert [text for text in told if "does not hold 5 frames at once; continuing with 2" in text]
    before = len(told)
    short.reconstruct(make_chunk(*(make_frame(index) for index in range(5)), index=1))
    assert len(told) == before  # it has learned


def test_halves_of_a_stream_equal_chunks_of_that_size(small: GeometryNetwork) -> None:
    frames = [make_frame(index) for index in range(4)]
    halved = front_end(as_kind(small, Short))[0].reconstruct(make_chunk(*frames))
    chunked = front_end(small)[0]
    parts = [chunked.reconstruct(make_chunk(*frames[k : k + 2], index=k)) for k in (0, 2)]
    expected = [frame for part in parts for frame in part.frames]
    for ours, theirs in zip(halved.frames, expected, strict=True):
        np.testing.assert_array_equal(ours.depth, theirs.depth)


def test_no_memory_for_one_frame_names_the_settings(small: GeometryNetwork) -> None:
    short = as_kind(small, Short)
    short.limit = 0
    with pytest.raises(ResourceError, match=r"does not hold a single frame\. Lower --pixels \(now 3920\)"):
        front_end(short)[0].reconstruct(make_chunk(make_frame(0), make_frame(1)))


def test_memory_shortage_on_the_cpu_is_recognised_and_other_faults_are_not(small: GeometryNetwork) -> None:
    short = as_kind(small, Short)
    short.error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    assert len(front_end(short)[0].reconstruct(make_chunk(*map(make_frame, range(3)))).frames) == 3
    short.error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        front_end(short)[0].reconstruct(make_chunk(*map(make_frame, range(3))))


class Poisoned(GeometryNetwork):
    """Returns no finite numbers for frames that attend to a frame starting with a black pixel."""

    def step(self, images, *rest):  # type: ignore[no-untyped-def]
        prediction, cache = super().step(images, *rest)
        if not bool((images[..., 0, 0].sum(dim=2) > 0).all()):
            prediction = Prediction(
                prediction.encodings * torch.nan, prediction.depth, prediction.points, prediction.camera_tokens
            )
        return prediction, cache


def test_a_frame_without_finite_output_is_named_and_the_others_are_unaffected(small: GeometryNetwork) -> None:
    frames = [make_frame(index) for index in range(5)]
    frames[2].image[:2, :2] = 0
    frames[2].image[:8, :8] = 0
    poisoned, _ = front_end(as_kind(small, Poisoned))
    geometry = poisoned.reconstruct(make_chunk(*frames))
    assert geometry.unplaced == {2: Unplaced("the network's output for it is not finite")}
    assert [frame.index for frame in geometry.frames] == [0, 1, 3, 4]
    assert all(np.isfinite(frame.depth).all() for frame in geometry.frames)


def test_frames_of_another_size_are_named(small: GeometryNetwork) -> None:
    geometry = front_end(small)[0].reconstruct(make_chunk(make_frame(0), make_frame(1, (100, 100)), make_frame(2)))
    assert [frame.index for frame in geometry.frames] == [0, 2]
    assert "another size" in geometry.unplaced[1].reason


def test_frames_smaller_than_a_patch_are_refused(small: GeometryNetwork) -> None:
    with pytest.raises(SourceError, match="Frames of 13 x 40 px are smaller than a patch"):
        front_end(small)[0].reconstruct(make_chunk(make_frame(0, (13, 40))))


def test_refine_changes_nothing_and_reports_the_streams_memory(small: GeometryNetwork) -> None:
    stream, told = front_end(small, V1, replace(SETTINGS, memory_frames=2))
    stream.reconstruct(make_chunk(*map(make_frame, range(3))))
    assert stream.refine({0: np.eye(4)}, ()).cam_from_model == {}
    assert told[-1] == f"The stream remembers 2 of 3 frames, in {stream.cache_bytes / 1e6:.1f} MB."
    alone, told = front_end(small, Dense())
    alone.reconstruct(make_chunk(make_frame(0)))
    alone.refine({}, ())
    assert told == ["about"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, random_network(), V1)
    return path


def test_open_network_follows_the_settings(weights: Path) -> None:
    opened = open_network(NetworkSettings(str(weights), device="cpu"))
    assert opened.rule == V1
    assert "v1 attention, computed by torch on cpu" in opened.about
    assert open_network(NetworkSettings(str(weights), "dense", "cpu")).rule == Dense()
    compiled = open_network(NetworkSettings(str(weights), device="cpu", compile=True))
    assert compiled.network.aggregator.frame_blocks[0]._compiled_call_impl is not None
    for device in ("moon", "meta"):
        with pytest.raises(SettingsError, match=f"--device {device} cannot be used here"):
            open_network(NetworkSettings(str(weights), device=device))
    with pytest.raises(SettingsError, match="positive numbers"):
        NetworkSettings(str(weights), memory_frames=-1)


def test_a_network_too_large_for_the_device_is_reported_in_a_sentence(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GeometryNetwork, "to", full)
    with pytest.raises(ResourceError, match=r"memory of cpu does not hold the network, which takes 0\.0 GB"):
        open_network(NetworkSettings(str(weights), device="cpu"))


def test_poses_that_cannot_be_read_are_not_finite(small: GeometryNetwork) -> None:
    """A quaternion of length 0 is finite and no rotation."""
    prediction = small.predict(torch.rand(1, 2, 3, 56, 70), V1)
    assert finite_frames(prediction).tolist() == [True, True]
    prediction.encodings[0, 1, 3:7] = 0
    assert finite_frames(prediction).tolist() == [True, False]


def test_pipeline_runs_end_to_end(weights: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    network = NetworkSettings(str(weights), device="cpu", pixels=70 * 56, memory_frames=6)
    settings = RunSettings(SourceOptions(max_frames=10, size=160), chunk=5, overlap=2, network=network)
    report = reconstruct(str(SAMPLE), tmp_path / "out", settings, [events.append])
    assert report.frames_placed == report.frames_read == 10
    assert any("v1 attention" in event.text for event in events if isinstance(event, Notice))
    found = open_map(tmp_path / "out")
    assert found.complete
    assert read(tmp_path / "out" / "report.json").settings == settings.decided(10)
    assert all(np.isfinite(frame.world_from_cam.matrix()).all() for frame in found.frames)
    assert (tmp_path / "out" / "cloud.ply").stat().st_size > 1000


def test_frames_without_numbers_are_reported_with_the_reason(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's output for the third frame of the source is never finite."""
    advance = TransformerFrontEnd._advance

    def spoilt(self: TransformerFrontEnd, frames: Sequence[Frame], *, last: bool) -> list[FrameGeometry] | None:
        return None if any(frame.index == 2 for frame in frames) else advance(self, frames, last=last)

    monkeypatch.setattr(TransformerFrontEnd, "_advance", spoilt)
    network = NetworkSettings(str(weights), device="cpu", pixels=70 * 56)
    settings = RunSettings(SourceOptions(max_frames=5, size=160), network=network)
    report = reconstruct(str(SAMPLE), tmp_path / "out", settings)
    assert report.frames_placed == 4
    assert [(frame.index, frame.reason) for frame in report.skipped] == [(2, NOT_FINITE)]
    checked = {item.name: item for item in check_folder(tmp_path / "out").items}
    # A network of random weights makes a map whose scale jumps, with lenses that cannot be.
    assert "the scale jumps by" in checked.pop("sanity").sentence
    assert all(item.ok for name, item in checked.items() if name not in ("recording", "map"))
    assert "no sparse points" in checked["reprojection"].sentence


def test_wrong_weights_leave_an_earlier_run_alone(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "poses.txt").write_text("precious")
    weights.write_bytes(weights.read_bytes()[:1000])
    settings = RunSettings(overwrite=True, network=NetworkSettings(str(weights)))
    with pytest.raises(WeightsError, match=r"small\.safetensors is damaged"):
        reconstruct(str(SAMPLE), out, settings)
    assert (out / "poses.txt").read_text() == "precious"


def test_a_run_without_any_finite_frame_says_so(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.network.frontend.finite_frames", lambda prediction: np.zeros(1, dtype=bool))
    settings = RunSettings(SourceOptions(max_frames=3, size=160), network=NetworkSettings(str(weights), device="cpu"))
    with pytest.raises(ReconstructionError, match=f"of the 3 frames of .*: {NOT_FINITE}.*weights verify"):
        reconstruct(str(SAMPLE), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
