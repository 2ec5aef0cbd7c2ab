"""Poses from camera tokens by iterative refinement (VGGT, section 3.3).

The layer norm before the trunk is modulated by the current pose, as in DiT (Peebles and Xie 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.network.activations import POSE
from recon.network.attention import Backend
from recon.network.config import CameraHeadConfig
from recon.network.layers import Mlp, plain_blocks

ENCODING = 9  # translation, quaternion x y z w, vertical and horizontal field of view
EPS = 1e-5
STEERED_EPS = 1e-6


class CameraHead(nn.Module):
    """Camera tokens of the frames of one scene to pose encodings."""

    def __init__(self, config: CameraHeadConfig, backend: Backend = "torch") -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.token_norm = nn.LayerNorm(dim, eps=EPS)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING))
        self.embed_pose = nn.Linear(ENCODING, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.trunk = nn.Sequential(*plain_blocks(config, EPS, backend))
        self.trunk_norm = nn.LayerNorm(dim, eps=EPS)
        self.pose_branch = Mlp(dim, dim // 2, ENCODING)

    def forward(self, camera_tokens: Tensor) -> tuple[Tensor, ...]:
        """Pose encodings (batch, frames, 9) of every iteration, the best last, from tokens (batch, frames, dim).

        ``pose_encoding`` explains the nine numbers. All frames attend to each other: poses of earlier frames change
        when later ones are added.
        """
        tokens = self.token_norm(camera_tokens)
        pose = self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
        raw = torch.zeros_like(pose)
        poses = []
        for _ in range(self.config.iterations):
            raw = raw + self._change(tokens, pose)
            pose = raw  # the pose before activation is fed back
            poses.append(self._activated(raw))
        return tuple(poses)

    def _change(self, tokens: Tensor, pose: Tensor) -> Tensor:
        shift, scale, gate = self.poseLN_modulation(self.embed_pose(pose)).chunk(3, dim=-1)
        normed = functional.layer_norm(tokens, tokens.shape[-1:], eps=STEERED_EPS)
        steered = tokens + gate * (normed * (1 + scale) + shift)
        return self.pose_branch(self.trunk_norm(self.trunk(steered)))

    def _activated(self, raw: Tensor) -> Tensor:
        parts = raw.split([3, 4, 2], dim=-1)
        return torch.cat([POSE[name](part) for part, name in zip(parts, self.config.activations, strict=True)], dim=-1)
