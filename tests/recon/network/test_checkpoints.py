"""Weight files: public ones load unchanged, others are refused in a sentence that names the fault."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from recon.core.errors import DependencyError, WeightsError
from recon.network import known_weights
from recon.network.checkpoints import METADATA, identify, load_network, misfit, read_checkpoint, save_checkpoint
from recon.network.config import (
    FLASHVGGT,
    VGGT_1B,
    AggregatorConfig,
    Dense,
    DescriptorsV1,
    DescriptorsV2,
    NetworkConfig,
    TrackHeadConfig,
    VitConfig,
)
from recon.network.model import GeometryNetwork
from recon.network.stored_config import from_text, published_rule, to_text
from recon.network.vit import VisionTransformer
from tests.hub import Hub, random_bytes
from tests.network_support import SMALL, random_images, random_network

V1 = DescriptorsV1(2)
PIECE = 10_000  # bytes that the hub's client reads at once


@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [(VGGT_1B, 1797, 1_256_537_516), (FLASHVGGT, 1341, 1_157_941_492)],
    ids=["vggt-1b", "flashvggt"],
)
def test_full_size_networks_have_the_published_numbers_of_tensors(
    config: NetworkConfig, tensors: int, parameters: int
) -> None:
    with torch.device("meta"):
        state = GeometryNetwork(config).state_dict()
    assert len(state) == tensors
    assert sum(x.numel() for x in state.values()) == parameters


@pytest.mark.parametrize(
    ("dim", "heads", "parameters"), [(768, 12, 86_583_552), (384, 6, 22_058_112)], ids=["base", "small"]
)
def test_vision_transformers_have_the_published_size(dim: int, heads: int, parameters: int) -> None:
    with torch.device("meta"):
        state = VisionTransformer(VitConfig(dim=dim, depth=12, heads=heads)).state_dict()
    assert len(state) == 176
    assert sum(x.numel() for x in state.values()) == parameters


def meta_state(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(x.shape) for name, x in GeometryNetwork(config).state_dict().items()}


def test_misfits_are_named() -> None:
    shapes = meta_state(SMALL)
    assert misfit(shapes, SMALL).count == 0
    del shapes["camera_head.embed_pose.bias"]
    shapes["surprise"] = (1,)
    shapes["aggregator.camera_token"] = (1, 2, 1, 7)
    wrong = misfit(shapes, SMALL)
    assert wrong.count == 3
    assert str(wrong) == (
        "1 missing (camera_head.embed_pose.bias); 1 unknown (surprise); "
        "1 of another shape (aggregator.camera_token: [1, 2, 1, 7] instead of [1, 2, 1, 32])"
    )


@pytest.mark.parametrize(
    ("wrapper", "prefix"), [(None, ""), ("state_dict", ""), ("model", ""), (None, "module."), ("model", "module.")]
)
def test_public_wrappers_are_removed(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    network = random_network()
    state = {prefix + name: x for name, x in network.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "weights.pt")
    checkpoint = read_checkpoint(tmp_path / "weights.pt")
    loaded = load_network(checkpoint, SMALL)
    images = random_images(1, 2, 3, 56, 56)
    assert torch.equal(loaded.predict(images, V1).encodings, network.predict(images, V1).encodings)


def test_old_pytorch_format_and_shards_are_read(tmp_path: Path) -> None:
    state = random_network().state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.pth").tensors.keys() == state.keys()
    names = sorted(state)
    shards = {"one.safetensors": names[:50], "two.safetensors": names[50:]}
    for file, part in shards.items():
        save_file({name: state[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_checkpoint(tmp_path / "model.safetensors.index.json").tensors.keys() == state.keys()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_parameters_are_the_files_memory_not_a_copy(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    state = random_network().state_dict()
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    checkpoint = read_checkpoint(path)
    loaded = load_network(checkpoint, SMALL)
    for name, parameter in loaded.named_parameters():
        assert parameter.data_ptr() == checkpoint.tensors[name].data_ptr()
        assert not parameter.requires_grad
    with Path("/proc/self/maps").open() as maps:
        assert any(str(path) in line for line in maps)


def test_half_precision_files_are_computed_in_full(tmp_path: Path) -> None:
    save_file({name: x.half() for name, x in random_network().state_dict().items()}, tmp_path / "half.safetensors")
    loaded = load_network(read_checkpoint(tmp_path / "half.safetensors"), SMALL)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_our_own_files_describe_themselves(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "small.safetensors", random_network(), DescriptorsV2(2, 1, 2))
    assert identify(read_checkpoint(tmp_path / "small.safetensors")) == (SMALL, DescriptorsV2(2, 1, 2))


@pytest.mark.parametrize("rule", [Dense(), V1, DescriptorsV2(2, 1, 2)], ids=str)
@pytest.mark.parametrize("config", [VGGT_1B, FLASHVGGT, SMALL, replace(SMALL, track=TrackHeadConfig())])
def test_configurations_survive_as_text(config: NetworkConfig, rule: Dense | DescriptorsV1 | DescriptorsV2) -> None:
    assert from_text(to_text(config, rule)) == (config, rule)


def test_weights_of_another_version_are_refused(tmp_path: Path) -> None:
    text = to_text(SMALL, V1).replace('"version": 1', '"version": 9')
    save_file(random_network().state_dict(), tmp_path / "new.safetensors", {METADATA: text})
    with pytest.raises(WeightsError, match=r"new\.safetensors .*version 9, this program reads 1"):
        read_checkpoint(tmp_path / "new.safetensors")


def test_published_rules() -> None:
    assert published_rule("dense") == Dense()
    assert published_rule("v1") == DescriptorsV1(4)
    assert published_rule("v2") == DescriptorsV2(3, 9, 19)
    assert published_rule("v2", depth=6) == DescriptorsV2(3, 2, 4)


def on_meta(config: NetworkConfig) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in meta_state(config).items()}


@pytest.mark.parametrize(
    ("config", "rule"), [(VGGT_1B, Dense()), (FLASHVGGT, DescriptorsV1(4))], ids=["vggt", "flashvggt"]
)
def test_public_files_are_recognised_by_names_and_shapes(
    config: NetworkConfig, rule: Dense | DescriptorsV1, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "public.pt").touch()
    state = on_meta(config)
    monkeypatch.setattr(torch, "load", lambda *_, **__: {"model": state})
    assert identify(read_checkpoint(tmp_path / "public.pt")) == (config, rule)
    state.pop("depth_head.norm.weight")
    with pytest.raises(WeightsError, match=r"public\.pt .*missing .*depth_head\.norm\.weight"):
        identify(read_checkpoint(tmp_path / "public.pt"))


def test_place_descriptor_is_not_geometry(tmp_path: Path) -> None:
    state = {"module.learnable_aggregation_tokens": torch.zeros(1, 8, 16), "module.backbone.cls_token": torch.zeros(1)}
    torch.save({"model_state_dict": state}, tmp_path / "ImAge.pth")
    checkpoint = read_checkpoint(tmp_path / "ImAge.pth")
    assert checkpoint.is_place_descriptor
    with pytest.raises(WeightsError, match=r"ImAge\.pth holds ImAge, which recognises places"):
        identify(checkpoint)


def test_training_branch_is_recognised(tmp_path: Path) -> None:
    state = random_network().state_dict()
    state["aggregator.global_blocks.0.attn.spatial_compressor.compressor.weight"] = torch.zeros(32, 1, 3, 3)
    save_file(state, tmp_path / "train.safetensors")
    with pytest.raises(WeightsError, match=r"training branch.*spatial_compressor"):
        identify(read_checkpoint(tmp_path / "train.safetensors"))


class Malicious:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"evil.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": Malicious()}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(WeightsError, match=rf"evil\.{suffix} holds more than tensors"):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"weights.{suffix}"
    state = random_network().state_dict()
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=rf"weights\.{suffix} is damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {"x": 3}}, {"state_dict": {}}])
def test_files_without_named_tensors_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt is damaged or no weight file"):
        read_checkpoint(tmp_path / "other.pt")


def test_file_for_another_network_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "small.safetensors", random_network(), V1)
    other = replace(SMALL, aggregator=AggregatorConfig(dim=32, depth=4, heads=2))
    with pytest.raises(WeightsError, match=r"small\.safetensors .*missing \(aggregator\.frame_blocks\.3"):
        load_network(read_checkpoint(tmp_path / "small.safetensors"), other)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"Weight file .*nothing\.pt not found"):
        read_checkpoint(tmp_path / "nothing.pt")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(known_weights.FOLDER_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_imported_weights_are_found_by_name(folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "mine.safetensors", random_network(), V1)
    with pytest.raises(DependencyError, match="recon weights pull FlashVGGT"):
        known_weights.resolve("flashvggt")
    imported = known_weights.import_file(tmp_path / "mine.safetensors", "FlashVGGT")
    assert imported == known_weights.resolve("flashvggt")
    assert imported.is_relative_to(folder)
    assert known_weights.kept_checksum(imported) == known_weights.sha256(imported)
    assert identify(read_checkpoint(imported)) == (SMALL, V1)


def test_a_file_imported_under_its_own_name_is_found_by_it(folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "mine.safetensors", random_network(), V1)
    assert known_weights.import_file(tmp_path / "mine.safetensors", None) == known_weights.resolve("mine")


def test_places_are_not_imported_as_geometry_nor_geometry_as_places(folder: Path, tmp_path: Path) -> None:
    torch.save({"learnable_aggregation_tokens": torch.zeros(1, 8, 16)}, tmp_path / "ImAge.pth")
    save_checkpoint(tmp_path / "mine.safetensors", random_network(), V1)
    with pytest.raises(WeightsError, match=r"ImAge\.pth recognises places, so it cannot be FlashVGGT"):
        known_weights.import_file(tmp_path / "ImAge.pth", "FlashVGGT")
    with pytest.raises(WeightsError, match=r"mine\.safetensors finds geometry, so it cannot be ImAge"):
        known_weights.import_file(tmp_path / "mine.safetensors", "ImAge")
    assert not folder.exists()
    assert known_weights.import_file(tmp_path / "ImAge.pth", "ImAge") == known_weights.resolve("ImAge")


def test_unknown_names_and_paths(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"Unknown weights VGGT-2B\. Use one of VGGT-1B, .*ImAge"):
        known_weights.resolve("VGGT-2B")
    with pytest.raises(WeightsError, match="Weight file some/file not found"):
        known_weights.resolve("some/file")
    assert known_weights.weights_folder() == folder


def test_checksum_record_that_is_damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / known_weights.CHECKSUMS).write_text("[")
    with pytest.raises(WeightsError, match=r"checksums\.json is damaged"):
        known_weights.kept_checksum(folder / "x.pt")
    assert known_weights.kept_checksum(folder / "elsewhere" / "x.pt") is None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine in place of huggingface.co."""
    with Hub(random_bytes(PIECE * 3)) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
        monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *parts: "/".join((running.address, *parts)))
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own attempts
        yield running


def test_pull_fetches_the_file_once_and_keeps_its_checksum(folder: Path, hub: Hub) -> None:
    weights = known_weights.known("flashvggt-stream")
    path = known_weights.pull(weights)
    assert path == known_weights.resolve("FlashVGGT-stream")
    assert path.read_bytes() == hub.content
    assert known_weights.kept_checksum(path) == known_weights.sha256(path)
    assert [file.name for file in path.parent.iterdir() if file.name.endswith(".part")] == []
    assert hub.asked == [("/ZipW/FlashVGGT/flashvggt_stream.pt", 0)]
    known_weights.pull(weights)
    assert len(hub.asked) == 1


def test_pull_resumes_where_a_broken_connection_stopped_it(folder: Path, hub: Hub) -> None:
    hub.breaks_after = PIECE + 10
    hub.silent_after_first = True
    weights = known_weights.known("FlashVGGT")
    with pytest.raises(WeightsError, match=r"cannot be downloaded .*resumes where it stopped"):
        known_weights.pull(weights)
    with pytest.raises(DependencyError):
        known_weights.resolve("FlashVGGT")
    hub.breaks_after, hub.silent_after_first = None, False
    hub.asked.clear()
    assert known_weights.pull(weights).read_bytes() == hub.content
    assert [first for _, first in hub.asked] == [PIECE]


def test_a_download_that_differs_from_the_hubs_file_is_not_kept(folder: Path, hub: Hub) -> None:
    hub.etag = "0" * 64
    with pytest.raises(WeightsError, match="the downloaded file differs from the one there"):
        known_weights.pull(known_weights.known("FlashVGGT"))
    assert list((folder / "FlashVGGT").iterdir()) == []


def test_the_reason_for_a_failed_download_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = GatedRepoError.__new__(GatedRepoError)  # its constructor needs a response of the hub's HTTP client
    faults = [gated, LocalEntryNotFoundError("no connection"), OSError("no room"), Exception("protocol broken")]
    sentences = ["Accept its licence at https://huggingface.co/facebook", "no connection", "no room", "protocol broken"]
    for fault, sentence in zip(faults, sentences, strict=True):

        def metadata(*_: object, error: Exception = fault, **__: object) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
        with pytest.raises(WeightsError, match=sentence):
            known_weights.pull(known_weights.known("VGGT-1B-Commercial"))
    with pytest.raises(WeightsError, match=r"ImAge is not on huggingface\.co\. Download ImAge_Merged\.pth"):
        known_weights.pull(known_weights.known("ImAge"))


def test_values_that_are_not_finite_are_found(tmp_path: Path) -> None:
    save_file({"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}, tmp_path / "x.safetensors")
    assert known_weights.unusable_tensors(read_checkpoint(tmp_path / "x.safetensors")) == ["bad"]
