"""The order of the tokens of a frame: camera token and registers first, then the patches by rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recon.core.errors import SettingsError
from recon.network.rotary import Turn, turn_for


@dataclass(frozen=True, eq=False)
class FrameLayout:
    """special: tokens before the patches. rows, columns: the grid of patches. turn: rotary tables, or None."""

    special: int
    rows: int
    columns: int
    turn: Turn | None

    @property
    def tokens(self) -> int:
        return self.special + self.rows * self.columns

    def turn_at(self, tokens: Tensor) -> Turn | None:
        return None if self.turn is None else self.turn.at(tokens)

    def descriptor_grid(self, factor: int) -> tuple[int, int]:
        """Rows and columns of descriptors. Raises SettingsError for a frame with fewer patches than one descriptor
        covers.
        """
        if min(self.rows, self.columns) < factor:
            raise SettingsError(
                f"Frames of {self.rows} x {self.columns} patches are too small for descriptors of {factor} x {factor} "
                "patches. Use larger images."
            )
        return self.rows // factor, self.columns // factor

    def sampled(self, factor: int, device: torch.device) -> Tensor:
        """Indices of the special tokens and of the patch nearest (rounded down) to each descriptor."""
        patches = torch.arange(self.rows * self.columns, dtype=torch.float32, device=device)
        # With interpolate, so that positions are rounded as when tokens are resized.
        nearest = functional.interpolate(
            patches.view(1, 1, self.rows, self.columns), size=self.descriptor_grid(factor), mode="nearest"
        )
        special = torch.arange(self.special, device=device)
        return torch.cat([special, self.special + nearest.flatten().long()])


def frame_layout(
    special: int, rows: int, columns: int, *, channels: int, rope_base: float, like: Tensor
) -> FrameLayout:
    """The layout with rotary tables for heads of ``channels`` channels. Patches start at 1; special tokens are 0, 0."""
    if not rope_base:
        return FrameLayout(special, rows, columns, None)
    grid = torch.cartesian_prod(
        torch.arange(1, rows + 1, device=like.device), torch.arange(1, columns + 1, device=like.device)
    )
    positions = torch.cat([grid.new_zeros(special, 2), grid])
    return FrameLayout(special, rows, columns, turn_for(positions, channels, rope_base, like.dtype))
