"""XFeat (Potje et al., CVPR 2024, arXiv 2404.19174): dense local features from a small convolutional network.

The published network without its matcher. Batch norms are folded into the convolutions and
channels lie together in memory: this takes a third less processor time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from recon.core.errors import WeightsError
from recon.network.checkpoints import Checkpoint, differences

DIM = 64  # values of a feature
CELL = 8  # px, side of the square of the image that a feature describes
MULTIPLE = 32  # px, of which the sides of an image must be multiples
LEFT_OUT = "fine_matcher."
OWN = "block_fusion.2.weight"  # only XFeat has this tensor


class _Layer(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        self.layer = nn.Sequential(convolution, nn.BatchNorm2d(outputs, affine=False), nn.ReLU())

    def forward(self, maps: Tensor) -> Tensor:
        return self.layer(maps)

    def fold(self) -> None:
        """Fold the batch norm into the convolution."""
        convolution, norm, _ = self.layer
        self.layer = nn.Sequential(fuse_conv_bn_eval(convolution, norm), nn.ReLU())  # type: ignore[type-var, arg-type]


class XFeat(nn.Module):
    """Images to one feature per cell. Parameter names are those of the public file."""

    def __init__(self) -> None:
        super().__init__()
        self.skip1 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(_Layer(1, 4), _Layer(4, 8, stride=2), _Layer(8, 8), _Layer(8, 24, stride=2))
        self.block2 = nn.Sequential(_Layer(24, 24), _Layer(24, 24))
        self.block3 = nn.Sequential(_Layer(24, 64, stride=2), _Layer(64, 64), _Layer(64, 64, 1))
        self.block4 = nn.Sequential(_Layer(64, 64, stride=2), _Layer(64, 64), _Layer(64, 64))
        self.block5 = nn.Sequential(_Layer(64, 128, stride=2), _Layer(128, 128), _Layer(128, 128), _Layer(128, DIM, 1))
        self.block_fusion = nn.Sequential(_Layer(64, 64), _Layer(64, 64), nn.Conv2d(64, DIM, 1))
        self.heatmap_head = nn.Sequential(_Layer(64, 64, 1), _Layer(64, 64, 1), nn.Conv2d(64, 1, 1), nn.Sigmoid())
        layers = [_Layer(CELL * CELL, 64, 1), _Layer(64, 64, 1), _Layer(64, 64, 1)]
        self.keypoint_head = nn.Sequential(*layers, nn.Conv2d(64, CELL * CELL + 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Grey images (n, 1, height, width) of any range, sides multiples of ``MULTIPLE``, to features
        (n, 64, height / 8, width / 8), not normalised, and their reliability (n, 1, height / 8, width / 8) in 0..1.
        """
        return self._described(functional.instance_norm(images))

    def detect(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ``forward`` returns, and the probability (n, 1, height, width) of a keypoint at every pixel: each cell
        chooses one of its pixels or none.
        """
        grey = functional.instance_norm(images)
        choices = self.keypoint_head(functional.pixel_unshuffle(grey, CELL)).softmax(dim=1)
        return *self._described(grey), functional.pixel_shuffle(choices[:, :-1], CELL)

    def _described(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.block3(self.block2(self.block1(grey) + self.skip1(grey)))
        middle = self.block4(fine)
        size = fine.shape[-2:]
        coarser = [functional.interpolate(maps, size, mode="bilinear") for maps in (middle, self.block5(middle))]
        features = self.block_fusion(fine + coarser[0] + coarser[1])
        return features, self.heatmap_head(features)


def load_xfeat(checkpoint: Checkpoint) -> XFeat:
    """The network in evaluation mode. Raises WeightsError, naming the differences, for another network's file."""
    tensors = {name: x for name, x in checkpoint.tensors.items() if not name.startswith(LEFT_OUT)}
    network = XFeat()
    wrong = differences({name: tuple(x.shape) for name, x in tensors.items()}, network)
    if wrong.count:
        raise WeightsError(f"{checkpoint.path} does not fit XFeat; tensors: {wrong}. Use the published file.")
    network.load_state_dict(tensors)
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, _Layer):
            module.fold()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def verify_xfeat(checkpoint: Checkpoint) -> str:
    """What a file is, for ``recon.network.architectures``. Raises WeightsError if its tensors do not fit."""
    load_xfeat(checkpoint)
    return "XFeat, for places"
