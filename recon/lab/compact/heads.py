"""Heads that turn tokens into cameras, relative poses of pairs, and a place descriptor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.lab.compact.trunk import TOKEN_DEVIATION, TrunkConfig, blocks
from recon.network.aggregator import EPS
from recon.network.camera_head import CameraHead
from recon.network.config import CameraHeadConfig
from recon.network.layers import Mlp

ROUNDS = 2
HEAD_BLOCKS = 2
RELATIVE = 8  # quaternion x y z w, direction, log of the expected error


class PoseHead(nn.Module):
    """Pose encodings from camera tokens; see ``recon.network.pose_encoding``. Before training, all cameras have one
    pose.

    Lengths are in units of the first frame's median depth. Quaternions have length 1.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        sizes = CameraHeadConfig(
            config.dim,
            HEAD_BLOCKS,
            config.heads,
            config.mlp_ratio,
            activations=("linear", "linear", "linear"),
            iterations=ROUNDS,
        )
        self.head = CameraHead(sizes)
        nn.init.zeros_(self.head.pose_branch.fc2.weight)
        nn.init.zeros_(self.head.pose_branch.fc2.bias)

    def forward(self, camera_tokens: Tensor) -> Tensor:
        """Encodings (batch, frames, 9) of frames that are processed together, in float32."""
        with torch.autocast(camera_tokens.device.type, enabled=False):
            raw = self.head(camera_tokens.float())[-1]
        translation, rotation, fields = raw.split([3, 4, 2], -1)
        return torch.cat([translation, _near_identity(rotation), fields.exp()], -1)


class RelativeHead(nn.Module):
    """Rotation and direction from one frame to another, with the expected error, from their camera tokens alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.read = Mlp(2 * dim, dim, RELATIVE)

    def forward(self, camera_tokens: Tensor, known: Tensor) -> Tensor:
        """(batch, frames, known, RELATIVE): of ``frame_from_known``, from tokens (batch, frames or known, dim)."""
        first, second = self.norm(camera_tokens), self.norm(known)
        frames, others = first.shape[1], second.shape[1]
        pairs = [first[:, :, None].expand(-1, -1, others, -1), second[:, None].expand(-1, frames, -1, -1)]
        raw = self.read(torch.cat(pairs, -1)).float()
        rotation, direction, log_scale = raw.split([4, 3, 1], -1)
        return torch.cat([_near_identity(rotation), functional.normalize(direction, dim=-1), log_scale], -1)


class PlaceHead(nn.Module):
    """A place descriptor: aggregation tokens pass through two blocks together with a frame's tokens (ImAge, see
    ``retrieval``). The frame's tokens are its patches after the trunk's entry blocks, so a descriptor depends on its
    image alone.
    """

    def __init__(self, config: TrunkConfig, count: int) -> None:
        super().__init__()
        self.aggregation = nn.Parameter(TOKEN_DEVIATION * torch.randn(1, count, config.dim))
        self.blocks = blocks(config, HEAD_BLOCKS)
        self.norm = nn.LayerNorm(config.dim, eps=EPS)

    def forward(self, patches: Tensor) -> Tensor:
        """Descriptors (n, count * dim) of length 1 from frames' patch tokens (n, patches, dim)."""
        count = self.aggregation.shape[1]
        tokens = torch.cat([self.aggregation.expand(len(patches), -1, -1), patches], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return functional.normalize(self.norm(tokens[:, :count]).flatten(1).float(), dim=1)


def _near_identity(raw: Tensor) -> Tensor:
    """Unit quaternions x y z w from raw outputs (..., 4); zeros mean no rotation."""
    return functional.normalize(raw + raw.new_tensor([0.0, 0.0, 0.0, 1.0]), dim=-1)
