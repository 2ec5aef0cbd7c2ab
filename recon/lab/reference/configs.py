"""Converts the public constructors' arguments, from the reference configs, to our configuration."""

from __future__ import annotations

from recon.core.errors import SourceError
from recon.lab.reference.comparison import Json
from recon.network.config import (
    AggregatorConfig,
    CameraHeadConfig,
    Dense,
    DescriptorsV1,
    DescriptorsV2,
    DptConfig,
    NetworkConfig,
    Rule,
    TrackerConfig,
    TrackHeadConfig,
    VitConfig,
)

POSE_ENCODING = "absT_quaR_FoV"


def network_config(run: Json) -> NetworkConfig:
    """The network of a run: the heads that it names."""
    return NetworkConfig(
        aggregator=_aggregator(run["aggregator"], run.get("patch_embed_vit")),
        camera=_camera(run["camera_head"]) if "camera_head" in run else None,
        depth=_dpt(run["depth_head"]) if "depth_head" in run else None,
        points=_dpt(run["point_head"]) if "point_head" in run else None,
        track=_track(run["track_head"]) if "track_head" in run else None,
    )


def rule_of(run: Json) -> Rule:
    """How the global blocks of a run attend across frames."""
    kind, stated = run["kind"], run["aggregator"]
    if kind == "vggt":
        return Dense()
    if kind in ("flashvggt_v1", "flashvggt_stream_v1"):
        return DescriptorsV1(stated["kv_downfactor"])
    if kind in ("flashvggt_v2", "flashvggt_stream_v2"):
        return DescriptorsV2(stated["kv_downfactor"], stated["global_start_idx"], stated["global_end_idx"])
    raise SourceError(f"The reference run {run.get('run')} is of kind {kind}, which is not known here.")


def vit_config(stated: Json) -> VitConfig:
    """A DINOv2 vision transformer."""
    return VitConfig(
        image_size=stated["img_size"],
        patch_size=stated["patch_size"],
        dim=stated["embed_dim"],
        depth=stated["depth"],
        heads=stated["num_heads"],
        mlp_ratio=stated["mlp_ratio"],
        registers=stated["num_register_tokens"],
        layer_scale=bool(stated["init_values"]),
        antialias=stated["interpolate_antialias"],
        offset=stated["interpolate_offset"],
    )


def _aggregator(stated: Json, vit: Json | None) -> AggregatorConfig:
    return AggregatorConfig(
        patch_size=stated["patch_size"],
        dim=stated["embed_dim"],
        depth=stated["depth"],
        heads=stated["num_heads"],
        mlp_ratio=stated["mlp_ratio"],
        registers=stated["num_register_tokens"],
        biases=(stated["qkv_bias"], stated["proj_bias"], stated["ffn_bias"]),
        layer_scale=bool(stated["init_values"]),
        qk_norm=stated["qk_norm"],
        rope_base=max(stated["rope_freq"], 0),
        order=tuple(stated["aa_order"]),
        block_size=stated["aa_block_size"],
        vit=vit_config(vit) if vit and stated["patch_embed"] != "conv" else None,
    )


def _camera(stated: Json) -> CameraHeadConfig:
    if stated["pose_encoding_type"] != POSE_ENCODING:
        raise SourceError(f"Poses are encoded as {stated['pose_encoding_type']}; only {POSE_ENCODING} is known here.")
    return CameraHeadConfig(
        dim=stated["dim_in"],
        depth=stated["trunk_depth"],
        heads=stated["num_heads"],
        mlp_ratio=stated["mlp_ratio"],
        layer_scale=bool(stated["init_values"]),
        activations=(stated["trans_act"], stated["quat_act"], stated["fl_act"]),
    )


def _dpt(stated: Json) -> DptConfig:
    first, second, third, fourth = stated["out_channels"]
    a, b, c, d = stated["intermediate_layer_idx"]
    return DptConfig(
        dim=stated["dim_in"],
        patch_size=stated["patch_size"],
        output_dim=None if stated["feature_only"] else stated["output_dim"],
        activation=stated.get("activation", "inv_log"),
        confidence=stated.get("conf_activation", "expp1"),
        features=stated["features"],
        channels=(first, second, third, fourth),
        levels=(a, b, c, d),
        position_embedding=stated["pos_embed"],
        down_ratio=stated["down_ratio"],
    )


def _track(stated: Json) -> TrackHeadConfig:
    tracker = stated["ctor"]
    return TrackHeadConfig(
        extractor=_dpt(stated["feature_extractor"]),
        tracker=TrackerConfig(
            features=tracker["features"],
            iterations=tracker["iters"],
            confidence=tracker["predict_conf"],
            stride=tracker["stride"],
            levels=tracker["corr_levels"],
            radius=tracker["corr_radius"],
            hidden=tracker["hidden_size"],
        ),
    )
