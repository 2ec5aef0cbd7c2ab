"""Runs of the network: one pass, stream or tracking, as the config says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from recon.lab.reference.comparison import TOLERANCE, Comparison, Json, compare, read_json, read_tensors
from recon.lab.reference.configs import network_config, rule_of
from recon.network.aggregator import Aggregated
from recon.network.cache import DescriptorCache, MemoryBudget
from recon.network.keyframes import choose_keyframes
from recon.network.model import GeometryNetwork

WEIGHTS = "../weights.safetensors"
Outputs = dict[str, Tensor]  # by the names of the files


def compare_run(folder: Path) -> Iterator[Comparison]:
    """Every output that the run's config names, computed in float32 on the CPU."""
    run, case = read_json(folder / "config.json"), f"{folder.parent.name}/{folder.name}"
    stored = read_tensors(folder / "outputs.safetensors")
    with torch.inference_mode():
        ours = _compute(run, _network(run, folder / run.get("weights", WEIGHTS)), folder)
    for output, stated in run["outputs"].items():
        bound = TOLERANCE * stated.get("fp32_vs_fp64_max_abs", 0.0)
        if output in stored:
            yield compare(case, output, ours.get(output), stored[output], bound)
        else:
            yield Comparison(case, output, float("inf"), bound, "not in outputs.safetensors")
    if "kv_tokens_after_chunk_per_global_block" in run:
        expected = torch.tensor(run["kv_tokens_after_chunk_per_global_block"])
        yield compare(case, "kv_tokens", ours["kv_tokens"], expected, 0.0)


def _network(run: Json, weights: Path) -> GeometryNetwork:
    """The run's network with the suite's weights, without those of heads that the run does not name."""
    with torch.device("meta"):
        network = GeometryNetwork(network_config(run))
    wanted = network.state_dict().keys()
    network.load_state_dict({name: x for name, x in read_tensors(weights).items() if name in wanted}, assign=True)
    return network.eval()


def _compute(run: Json, network: GeometryNetwork, folder: Path) -> Outputs:
    inputs = read_tensors(folder / "inputs.safetensors")
    images = inputs["images_u8"].float() / 255
    if "chunk_size" in run:
        return _stream(run, network, images)
    outputs = _one_pass(run, network, images, folder)
    if network.track_head:
        outputs |= _tracks(run, network, images, inputs["query_points"])
    return outputs


def _one_pass(run: Json, network: GeometryNetwork, images: Tensor, folder: Path) -> Outputs:
    """Keyframes are those of the config, because the public choice depends on random starts."""
    stored = run.get("keyframe_indices")
    aggregated = network.aggregate(
        images,
        rule_of(run),
        levels=_levels(run, network),
        keyframes=None if stored is None else torch.tensor(stored),
    )
    outputs = _dense_outputs(network, aggregated)
    if network.camera_head:
        outputs |= _poses(network, network.camera_tokens(aggregated))
    if stored is not None:
        outputs |= _keyframes(run, network, images, folder)
    return outputs


def _keyframes(run: Json, network: GeometryNetwork, images: Tensor, folder: Path) -> Outputs:
    """Our clustering, started from the public result, because the public start is random."""
    means = network.aggregator.embed(images, start=True).frame_means()
    start = read_tensors(folder / "outputs.safetensors").get("kmeans_centers")
    chosen = choose_keyframes(means, run["aggregator"]["keyframe_every"], start)
    return {"kmeans_frame_tokens": means, "kmeans_centers": chosen.centres, "keyframe_indices": chosen.indices}


def _stream(run: Json, network: GeometryNetwork, images: Tensor) -> Outputs:
    outputs: Outputs = {}
    cache, budget, rule = DescriptorCache.empty(), MemoryBudget(drop_rate=run["memory_drop_rate"]), rule_of(run)
    held, camera_tokens = [], []
    for number, chunk in enumerate(images.split(run["chunk_size"], dim=1)):
        aggregated, cache = network.extend(chunk, cache, rule, budget, levels=_levels(run, network))
        held.append(cache.tokens_held())
        camera_tokens.append(network.camera_tokens(aggregated))
        outputs |= {f"chunk{number}.{name}": x for name, x in _dense_outputs(network, aggregated).items()}
        outputs[f"prefix_pose_enc.after_chunk{number}"] = network.poses(torch.cat(camera_tokens, dim=1))
    return outputs | _poses(network, torch.cat(camera_tokens, dim=1)) | {"kv_tokens": torch.tensor(held)}


def _levels(run: Json, network: GeometryNetwork) -> frozenset[int]:
    names = {name.split(".")[-1] for name in run["outputs"]}
    tokens = frozenset(int(name.removeprefix("tokens_")) for name in names if name.startswith("tokens_"))
    return tokens | network.levels_read()


def _dense_outputs(network: GeometryNetwork, aggregated: Aggregated) -> Outputs:
    outputs = {f"tokens_{level}": tokens for level, tokens in aggregated.levels.items()}
    for head, name in ((network.depth_head, "depth"), (network.point_head, "world_points")):
        if head:
            dense = head(aggregated.levels, aggregated.layout)
            outputs |= {name: dense.values, f"{name}_conf": dense.confidence}
    return outputs


def _poses(network: GeometryNetwork, camera_tokens: Tensor) -> Outputs:
    assert network.camera_head is not None
    return {f"pose_enc_iter{k}": encoding for k, encoding in enumerate(network.camera_head(camera_tokens))}


def _tracks(run: Json, network: GeometryNetwork, images: Tensor, queries: Tensor) -> Outputs:
    assert network.track_head is not None
    aggregated = network.aggregate(images, rule_of(run), levels=_levels(run, network))
    tracks = network.track_head(aggregated.levels, aggregated.layout, queries)
    outputs = {f"track_iter{k}": points for k, points in enumerate(tracks.points)}
    outputs |= {"vis": tracks.visibility, "track_features": tracks.features}
    return outputs if tracks.confidence is None else outputs | {"conf": tracks.confidence}
