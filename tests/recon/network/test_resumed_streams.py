"""Runs with the network that were killed and resumed: the stream continues bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.core.errors import ReconError, SettingsError, WeightsError
from recon.core.events import Event, Notice
from recon.core.types import Chunk, ChunkGeometry, SparsePoints
from recon.frontend import Workplace
from recon.network.cache import DescriptorCache, KeysValues
from recon.network.checkpoints import save_checkpoint
from recon.network.config import DescriptorsV1
from recon.network.frontend import AGAIN, TransformerFrontEnd, open_network
from recon.network.stored_streams import StoredStreams
from recon.pipeline import reconstruct
from recon.settings import NetworkSettings, RunSettings
from recon.sources.base import SourceOptions
from recon.store.journal import read_journal
from recon.store.map import open_map
from recon.store.report import RunReport
from tests.network_support import random_network

SAMPLE = Path(__file__).resolve().parents[3] / "data" / "sample" / "images"
NAMES = sorted(path.name for path in SAMPLE.glob("*"))
SETTINGS = RunSettings(SourceOptions(size=160), chunk=5, overlap=2)  # of 14 frames: 0-4, 3-7, 6-10, 9-13
CPU = torch.device("cpu")


class Killed(BaseException):
    """Like SIGKILL, it gives the program no notice."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, images, a whole run of 14 of them, and the same run killed after two chunks of four."""
    folder = tmp_path_factory.mktemp("streams")
    save_checkpoint(folder / "weights.safetensors", random_network(), DescriptorsV1(2))
    for name, chosen in (("images", NAMES[:14]), ("more", NAMES[20:26])):
        (folder / name).mkdir()
        for file in chosen:
            shutil.copy(SAMPLE / file, folder / name)
    settings = with_weights(folder)
    reconstruct(str(folder / "images"), folder / "whole", settings)
    with pytest.MonkeyPatch.context() as patched:
        advance = TransformerFrontEnd.reconstruct

        def dying(self: TransformerFrontEnd, chunk: Chunk) -> ChunkGeometry:
            geometry = advance(self, chunk)
            if chunk.index == 2:  # its stream is stored already
                raise Killed
            return geometry

        patched.setattr(TransformerFrontEnd, "reconstruct", dying)
        with pytest.raises(Killed):
            reconstruct(str(folder / "images"), folder / "killed", settings)
    return folder


def with_weights(folder: Path, name: str = "weights", **network: object) -> RunSettings:
    chosen = NetworkSettings(str(folder / f"{name}.safetensors"), device="cpu", pixels=70 * 56, memory_frames=6)
    return replace(SETTINGS, network=replace(chosen, **network))  # type: ignore[arg-type]


@pytest.fixture
def out(place: Path, tmp_path: Path) -> Path:
    """A copy of the killed run."""
    return Path(shutil.copytree(place / "killed", tmp_path / "out"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunks that the network goes through."""
    chunks: list[int] = []
    advance = TransformerFrontEnd.reconstruct

    def noted(self: TransformerFrontEnd, chunk: Chunk) -> ChunkGeometry:
        chunks.append(chunk.index)
        return advance(self, chunk)

    monkeypatch.setattr(TransformerFrontEnd, "reconstruct", noted)
    return chunks


def resume(place: Path, out: Path, settings: RunSettings, source: str = "images") -> tuple[RunReport, list[str]]:
    """The report of a resumed run and its notices."""
    events: list[Event] = []
    report = reconstruct(str(place / source), out, replace(settings, resume=True), [events.append])
    return report, [event.text for event in events if isinstance(event, Notice)]


def streams(out: Path) -> list[int]:
    return [int(path.stem.removeprefix("stream_")) for path in sorted((out / "map").glob("stream_*"))]


def expect_same(out: Path, other: Path) -> None:
    """Assert that poses, lenses, depth and confidence are equal, bit for bit."""
    ours, theirs = (list(open_map(folder).geometry()) for folder in (out, other))
    assert len(ours) == 14
    for (one, ours_geometry), (two, theirs_geometry) in zip(ours, theirs, strict=True):
        assert (one.index, one.timestamp, one.name, one.camera) == (two.index, two.timestamp, two.name, two.camera)
        np.testing.assert_array_equal(one.world_from_cam.matrix(), two.world_from_cam.matrix())
        for name in ("cam_from_chunk", "intrinsics", "depth", "confidence", "colour"):
            np.testing.assert_array_equal(getattr(ours_geometry, name), getattr(theirs_geometry, name))


def test_a_killed_run_continues_bit_for_bit(place: Path, out: Path, asked: list[int]) -> None:
    assert streams(out) == [4, 7, 10]
    _, told = resume(place, out, with_weights(place))
    assert asked == [2, 3]
    assert AGAIN not in told
    expect_same(out, place / "whole")
    assert streams(out) == streams(place / "whole") == [7, 10, 13]  # no more, however long the run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "again"),
    [
        (lambda folder: (folder / "stream_000007.safetensors").unlink(), [1]),
        (lambda folder: flip(folder / "stream_000007.safetensors"), [1]),
        (lambda folder: [path.write_bytes(b"no stream") for path in folder.glob("stream_*")], [0, 1]),
    ],
    ids=["missing", "one bit", "all"],
)
def test_a_lost_stream_is_computed_again(
    place: Path, out: Path, asked: list[int], spoil: Callable[[Path], object], again: list[int]
) -> None:
    spoil(out / "map")
    _, told = resume(place, out, with_weights(place))
    assert told.count(AGAIN) == 1
    assert asked == [*again, 2, 3]
    expect_same(out, place / "whole")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_other_weights_or_options_are_refused_and_nothing_changes(place: Path, out: Path) -> None:
    save_checkpoint(place / "other.safetensors", random_network(seed=1), DescriptorsV1(2))
    before = contents(out)
    for settings, error, sentence in [
        (with_weights(place, "other"), WeightsError, r"other\.safetensors does not have the weights .* was made"),
        (with_weights(place, memory_frames=5), SettingsError, "with --memory-frames 6, not with --memory-frames 5"),
        (with_weights(place, pixels=56 * 56), SettingsError, "with --pixels 3920, not with --pixels 3136"),
        (with_weights(place, arithmetic="dense"), SettingsError, "without --arithmetic, not with --arithmetic dense"),
        (with_weights(place, precision="int8"), SettingsError, "with --precision float32, not with --precision int8"),
        (SETTINGS, SettingsError, "by the front end network, not sfm"),
    ]:
        with pytest.raises(ReconError, match=sentence) as caught:
            resume(place, out, settings)
        assert isinstance(caught.value, error)
        assert contents(out) == before


def test_runs_of_a_gpu_and_of_early_versions_are_refused(place: Path, tmp_path: Path) -> None:
    network = with_weights(place).network
    assert network is not None
    front_end = TransformerFrontEnd(open_network(network), Workplace(tmp_path, lambda event: None))
    chunk, nothing = Chunk(0, (), 0), ChunkGeometry((), SparsePoints.empty())
    with pytest.raises(SettingsError, match="made with --device cuda, not cpu"):
        front_end.recall(chunk, nothing, front_end.memory() | {"device": "cuda"})
    with pytest.raises(SettingsError, match="An early version made this run"):
        front_end.recall(chunk, nothing, {})


def test_the_same_weights_in_another_file_are_the_same(place: Path, out: Path) -> None:
    copy = place / "copy.safetensors"
    shutil.copy(place / "weights.safetensors", copy)
    resume(place, out, with_weights(place, "copy"))
    expect_same(out, place / "whole")


def test_another_source_continues_the_stream(place: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(place / "whole", tmp_path / "out"))
    report, told = resume(place, out, with_weights(place), "more")
    assert report.frames_placed == 20
    assert [part.first for part in read_journal(out).parts] == [0, 14]
    assert AGAIN not in told
    # Chunks of 14-18 and 17-19 with their overlap; every frame has entered the stream, shared ones twice.
    entered = sum(len(chunk.frames) for chunk in read_journal(out).finished)
    assert any(f"of {entered} frames" in text for text in told)


def test_dense_attention_has_no_stream_to_store(place: Path, tmp_path: Path) -> None:
    settings = with_weights(place, arithmetic="dense")
    settings = replace(settings, source=replace(settings.source, max_frames=8))
    reconstruct(str(place / "images"), tmp_path / "out", settings)
    assert streams(tmp_path / "out") == []
    report, told = resume(place, tmp_path / "out", settings, "more")
    assert (report.frames_placed, AGAIN in told) == (14, False)


def test_states_are_stored_exactly_and_the_newest_three_stay(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values, tokens = (torch.randn(1, 2, 5, 4, generator=generator) for _ in range(3))
    layer = KeysValues(keys.bfloat16(), values.half())
    cache = DescriptorCache((None, layer), tokens[0], (0, 3), frozenset({3}), 5, 1, 2, (3, 4))
    stored = StoredStreams(tmp_path, "weights")
    assert stored.newest(9, CPU)[1] == -1
    for last in (8, 2, 5, 6, 7):
        stored.write(last, cache)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"stream_{k:06d}.safetensors" for k in (5, 6, 7)]
    (found, last), (_, earlier) = stored.newest(9, CPU), stored.newest(6, CPU)
    assert (last, earlier) == (7, 6)
    assert StoredStreams(tmp_path, "other weights").newest(9, CPU)[1] == -1
    assert found.layers[0] is None
    assert found.layers[1] is not None
    for ours, theirs in [
        (found.layers[1].keys, layer.keys),
        (found.layers[1].values, layer.values),
        (found.camera_tokens, cache.camera_tokens),
    ]:
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert (found.frames, found.keyframes, found.length) == ((0, 3), {3}, 5)
    assert (found.anchor_tokens, found.tokens_per_frame, found.grid) == (1, 2, (3, 4))
