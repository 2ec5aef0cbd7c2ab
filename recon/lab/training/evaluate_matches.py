"""Compare the whole network's matches, and the poses solved from them, with SIFT's on pairs of real views.

pycolmap's two-view geometry solves poses from both kinds of matches. Errors are medians over pairs; a pair without a
pose counts as 180 degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pycolmap
import torch
from torch import Tensor

from recon.core.errors import ReconError
from recon.core.similarity import Array
from recon.depth.views import PosedView
from recon.lab.compact.compact import STRIDE, CompactNet, CompactPrediction
from recon.lab.compact.weights import load_compact
from recon.lab.training.presets import PRESETS, WholePreset
from recon.lab.training.real import MEASURED_SETS, MeasuredSet, MeasuredViews, read_views, sift_matches
from recon.lab.training.truth import Seen, correspondence
from recon.network.pose_encoding import matrices_from_encoding

SETS = (*MEASURED_SETS, MeasuredSet("strecha/castle-P30", 1), MeasuredSet("strecha/entry-P10", 1))
GAPS = (1, 2, 4)  # views between the two of a pair
FEWEST = 8
THRESHOLD_PX = 1.5
NEAR_PX = 4.0
CELL_PX = 8.0
POSED_DEG = 5.0


@dataclass(frozen=True, eq=False)
class Solved:
    """matches: number. right: share of them within NEAR_PX of the truth, NaN if unknown. Errors in degrees."""

    matches: int
    right: float
    rotation: float
    direction: float


@dataclass(frozen=True, eq=False)
class MeasuredPair:
    """Two views. moved: second_from_first (4, 4). seen: both with true depth, None if one has none."""

    first: PosedView
    second: PosedView
    seen: tuple[Seen, Seen] | None

    @property
    def moved(self) -> Array:
        moved: Array = self.second.cam_from_chunk @ np.linalg.inv(self.first.cam_from_chunk)
        return moved


Matcher = Callable[[MeasuredPair], tuple[Array, Array]]


def pairs_of(measured: MeasuredViews, gap: int) -> list[MeasuredPair]:
    """Pairs of views that are ``gap`` apart, each view in at most one pair."""
    views = [_cropped(view) for view in measured.views]
    chosen = list(pairwise(range(0, len(views), gap)))[::2]
    return [MeasuredPair(views[i], views[j], _seen(views[i], views[j], measured)) for i, j in chosen]


def _cropped(view: PosedView) -> PosedView:
    """The view without the rows and columns that exceed a multiple of the network's stride."""
    height, width = (size // STRIDE * STRIDE for size in view.mask.shape)
    cut = {"image": view.image[:height, :width], "mask": view.mask[:height, :width]}
    return PosedView(**(vars(view) | cut))


def _seen(first: PosedView, second: PosedView, measured: MeasuredViews) -> tuple[Seen, Seen] | None:
    if first.index not in measured.depth or second.index not in measured.depth:
        return None
    return _with_depth(first, measured), _with_depth(second, measured)


def _with_depth(view: PosedView, measured: MeasuredViews) -> Seen:
    height, width = view.mask.shape
    depth = torch.from_numpy(measured.depth[view.index][:height, :width].astype(np.float32))
    matrices = (torch.from_numpy(matrix.astype(np.float32))[None] for matrix in (view.intrinsics, view.cam_from_chunk))
    return Seen(depth[None, None], *matrices)


def predict(net: CompactNet, pair: MeasuredPair) -> CompactPrediction:
    """The network on a pair as a sequence of two."""
    images = np.stack([pair.first.image, pair.second.image])
    with torch.inference_mode():
        prediction, _ = net(torch.from_numpy(images).permute(0, 3, 1, 2)[None].float() / 255)
    return prediction  # type: ignore[no-any-return]


def network_matches(net: CompactNet, pair: MeasuredPair, least: float) -> tuple[Array, Array]:
    """Pixels (n, 2) in both views of the network's matches."""
    with torch.inference_mode():
        found = net.matches(predict(net, pair), 0, 1, least)
    return found.first.double().numpy(), found.second.double().numpy()


def covisible_errors(net: CompactNet, pair: MeasuredPair) -> tuple[Tensor, Tensor]:
    """Errors [px] of all covisible cells: the larger of x and y for the best cell, and the distance after refinement.
    Empty if the truth is unknown.
    """
    if pair.seen is None:
        return torch.zeros(0), torch.zeros(0)
    truth = correspondence(*pair.seen)
    prediction = predict(net, pair)
    with torch.inference_mode():
        best, refined = net.every_cell(prediction, 0, 1)
    coarse, fine = (best - truth.pixels[0]).abs().amax(1), (refined - truth.pixels[0]).norm(dim=1)
    return coarse[truth.covisible[0]], fine[truth.covisible[0]]


def solve(pair: MeasuredPair, pixels: tuple[Array, Array]) -> Solved:
    """The pose solved from matches, compared with the true one."""
    enough = len(pixels[0]) >= FEWEST
    rotation, direction = _pose_errors(pair, _relative_pose(pair, pixels) if enough else None)
    return Solved(len(pixels[0]), _share_right(pair, pixels), rotation, direction)


def _relative_pose(pair: MeasuredPair, pixels: tuple[Array, Array]) -> Array | None:
    """second_from_first (3, 4) with a translation of length 1."""
    options = pycolmap.TwoViewGeometryOptions(
        min_num_inliers=FEWEST, compute_relative_pose=True, detect_watermark=False
    )
    options.ransac.max_error = THRESHOLD_PX
    options.ransac.random_seed = 0
    both = np.repeat(np.arange(len(pixels[0]), dtype=np.uint32)[:, None], 2, axis=1)
    cameras = [_camera(view) for view in (pair.first, pair.second)]
    geometry = pycolmap.estimate_calibrated_two_view_geometry(
        cameras[0], pixels[0], cameras[1], pixels[1], both, options
    )
    found = geometry.cam2_from_cam1
    return None if found is None else np.asarray(found.matrix())


def _camera(view: PosedView) -> pycolmap.Camera:
    height, width = view.mask.shape
    fx, fy, cx, cy = (view.intrinsics[at] for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=[fx, fy, cx, cy])


def _pose_errors(pair: MeasuredPair, found: Array | None) -> tuple[float, float]:
    if found is None:
        return 180.0, 180.0
    moved = pair.moved
    cosine = (np.trace(found[:, :3].T @ moved[:3, :3]) - 1) / 2
    lengths = float(np.linalg.norm(found[:, 3])) * float(np.linalg.norm(moved[:3, 3]))
    return _degrees(float(cosine)), _degrees(float(found[:, 3] @ moved[:3, 3]) / max(lengths, 1e-12))


def _degrees(cosine: float) -> float:
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _share_right(pair: MeasuredPair, pixels: tuple[Array, Array]) -> float:
    """Share of the matches with known depth that lie within NEAR_PX of the truth."""
    if pair.seen is None or not len(pixels[0]):
        return float("nan")
    depth = pair.seen[0].depth[0, 0].numpy()
    columns, rows = np.floor(pixels[0]).astype(int).T
    columns, rows = columns.clip(0, depth.shape[1] - 1), rows.clip(0, depth.shape[0] - 1)
    length = depth[rows, columns]
    rays = np.column_stack([pixels[0], np.ones(len(rows))]) @ np.linalg.inv(pair.first.intrinsics).T
    points = rays * length[:, None] @ pair.moved[:3, :3].T + pair.moved[:3, 3]
    projected = points @ pair.second.intrinsics.T
    known = (length > 0) & (projected[:, 2] > 0)
    error = np.linalg.norm(projected[known, :2] / projected[known, 2:] - pixels[1][known], axis=1)
    return float((error < NEAR_PX).mean()) if known.any() else float("nan")


def regressed(net: CompactNet, pair: MeasuredPair) -> Solved:
    """The pose from the camera head."""
    poses, _ = matrices_from_encoding(predict(net, pair).encodings[0].float(), pair.first.mask.shape)
    first, second = (np.vstack([pose, [0, 0, 0, 1]]) for pose in poses.double().numpy())
    rotation, direction = _pose_errors(pair, (second @ np.linalg.inv(first))[:3])
    return Solved(0, float("nan"), rotation, direction)


HEADER = (
    "| matches | number | within 4 px | rotation [deg] | direction [deg] | posed within 5 deg |\n" + "|---" * 6 + "|"
)


def row(name: str, solved: list[Solved]) -> str:
    """A Markdown row: means of number and share, medians of the errors."""
    rotation, direction = (np.array([getattr(one, side) for one in solved]) for side in ("rotation", "direction"))
    shares = [one.right for one in solved if not np.isnan(one.right)]
    right = f"{np.mean(shares):.1%}" if shares else "-"
    posed = (np.maximum(rotation, direction) < POSED_DEG).mean()
    number = np.mean([one.matches for one in solved])
    return f"| {name} | {number:.0f} | {right} | {np.median(rotation):.2f} | {np.median(direction):.1f} | {posed:.1%} |"


def report(net: CompactNet, pairs: list[MeasuredPair], least: float) -> str:
    """The table of a set's pairs, and how the network matches every covisible cell."""
    matchers: dict[str, Matcher] = {
        "SIFT": lambda pair: sift_matches(pair.first, pair.second),
        "network": lambda pair: network_matches(net, pair, least),
    }
    rows = [row(name, [solve(pair, match(pair)) for pair in pairs]) for name, match in matchers.items()]
    rows.append(row("network, regressed pose", [regressed(net, pair) for pair in pairs]))
    errors = [covisible_errors(net, pair) for pair in pairs]
    coarse, fine = (torch.cat(side) for side in zip(*errors, strict=True))
    text = "\n".join([HEADER, *rows])
    if not len(coarse):
        return text
    shares = (coarse <= CELL_PX).float().mean(), (fine <= NEAR_PX).float().mean()
    return f"{text}\ncovisible cells: {shares[0]:.1%} within one cell, {shares[1]:.1%} within {NEAR_PX:g} px"


def load_net(path: Path, preset: str) -> CompactNet:
    """A network from a weight file, or the averaged one of a training's best.pt or checkpoint.pt of a preset."""
    if path.suffix != ".pt":
        return load_compact(path, torch.device("cpu"))
    chosen = PRESETS[preset]
    if not path.is_file() or not isinstance(chosen, WholePreset):
        raise ReconError(f"{path} with the preset {preset!r} is no training of the whole network: name another.")
    net = CompactNet(chosen.network).eval()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["mean"])
    return net


def tables(net: CompactNet, data: Path, least: float, views: int = 0, longest_side: int = 320) -> Iterator[str]:
    """A table for each sequence in ``data`` and gap, of its first ``views`` views (0: all) at this size [px].

    least: smallest confidence of a match, 0 to 1. Raises ReconError if a file is missing or damaged.
    """
    for measured_set in SETS:
        measured = read_views(data / measured_set.name, measured_set, views, longest_side)
        for gap in GAPS:
            if pairs := pairs_of(measured, gap):
                heading = f"{measured_set.name}, {gap * measured_set.step} frames apart, {len(pairs)} pairs"
                yield f"{heading}\n\n{report(net, pairs, least)}\n"
