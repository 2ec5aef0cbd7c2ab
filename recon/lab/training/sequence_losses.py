"""Losses of the whole network; each is a plain function that returns a number, smallest for the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from recon.depth.stem import EIGHTH, QUARTER
from recon.lab.compact.compact import CompactNet, Correlation
from recon.lab.compact.matches import cell_centres, refine
from recon.lab.training.losses import LossWeights, losses, total
from recon.lab.training.sequences import Run, SequenceBatch, estimate_depth
from recon.lab.training.truth import Correspondence, correspondence
from recon.network.pose_encoding import encoding_from_matrices, quaternion_from_rotation

HUBER = 0.1
STILL = 0.02  # baselines below this share of the depth have no direction
LARGEST_OFFSET = 2.0  # of the refinement, pixels at 1/4
POSITIVE_SHARPNESS, NEGATIVE_SHARPNESS, MARGIN = 2.0, 40.0, 0.5  # of the multi-similarity loss (Wang 2019)


@dataclass(frozen=True)
class SequenceWeights:
    """match: cross-entropy at 1/8. covisible: cross-entropy of the logits. offset: refinement at 1/4. camera: Huber
    loss. relative: relative poses of pairs. depth: the posed sweep's losses. place: multi-similarity.
    """

    match: float = 1.0
    covisible: float = 0.1
    offset: float = 0.5
    camera: float = 1.0
    relative: float = 1.0
    depth: float = 0.0
    place: float = 0.1
    sweep: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of views. rows: (n, 2) of ``SequenceBatch.seen``. scores: (n, cells, cells). covisible: (n, cells), logits.

    there, back: the truth in both directions.
    """

    rows: Tensor
    scores: Tensor
    covisible: Tensor
    there: Correspondence
    back: Correspondence


def sequence_losses(
    net: CompactNet, batch: SequenceBatch, run: Run, weights: SequenceWeights, *, half: bool
) -> dict[str, Tensor]:
    """Each loss by the name of its weight; depth only if the batch has a sweep and the weight is not 0."""
    pairs = all_pairs(batch, run)
    parts = {
        "match": match_loss(pairs),
        "covisible": covisible_loss(pairs),
        "offset": offset_loss(net, batch, run),
        "camera": camera_loss(run.encodings, batch),
        "relative": relative_loss(batch, run),
        "place": place_loss(run.places, batch.labels.repeat_interleave(batch.images.shape[1])),
    }
    if batch.sweep is not None and weights.depth:
        estimate = estimate_depth(net, batch, run, half=half)
        depth = batch.seen.depth[batch.references]
        parts["depth"] = total(losses(estimate, batch.sweep, depth), weights.sweep)
    return parts


def weighted(parts: dict[str, Tensor], weights: SequenceWeights) -> Tensor:
    """The sum that training minimises."""
    return torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()


def all_pairs(batch: SequenceBatch, run: Run) -> Pairs:
    """All frames of all chunks with their partners."""
    first, rows = 0, []
    found: list[Correlation] = []
    for size, prediction in zip(batch.chunks, run.predictions, strict=True):
        if prediction.correlation is not None:
            rows.append(_pair_rows(prediction.correlation.partners, first, batch))
            found.append(prediction.correlation)
        first += size
    pairs = torch.cat(rows)
    seen = (batch.seen[pairs[:, 0]], batch.seen[pairs[:, 1]])
    return Pairs(
        pairs,
        torch.cat([one.scores.flatten(0, 2) for one in found]),
        torch.cat([one.covisible.flatten(0, 2).flatten(1) for one in found]),
        correspondence(*seen),
        correspondence(seen[1], seen[0]),
    )


def _pair_rows(partners: list[list[int]], first: int, batch: SequenceBatch) -> Tensor:
    """Rows (scenes * frames * partners, 2) of a chunk that starts with frame ``first``."""
    views = [(first + frame, other) for frame, chosen in enumerate(partners) for other in chosen]
    within = torch.tensor(views, device=batch.images.device)
    scenes = torch.arange(len(batch.images), device=batch.images.device) * batch.images.shape[1]
    return (scenes[:, None, None] + within).flatten(0, 1)


def match_loss(pairs: Pairs) -> Tensor:
    """Cross-entropy in both directions of the covisible cells' softmax against bilinear targets."""
    return (cross_entropy(pairs.scores, pairs.there) + cross_entropy(pairs.scores.mT, pairs.back)) / 2


def cross_entropy(scores: Tensor, truth: Correspondence) -> Tensor:
    """Mean over covisible cells of scores (n, cells, others) against the four cells around the true pixel."""
    columns = truth.columns
    rows = scores.shape[2] // columns
    cell = truth.pixels / EIGHTH - 0.5
    low = cell.floor()
    share = cell - low
    target = torch.zeros_like(share[..., 0])
    for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column = (low[..., 0] + right).clamp(0, columns - 1)
        row = (low[..., 1] + down).clamp(0, rows - 1)
        index = (row * columns + column).long()
        weight = (share[..., 0] if right else 1 - share[..., 0]) * (share[..., 1] if down else 1 - share[..., 1])
        target = target + weight * scores.gather(2, index[..., None])[..., 0]
    return _mean(scores.logsumexp(2) - target, truth.covisible)


def covisible_loss(pairs: Pairs) -> Tensor:
    """Binary cross-entropy of the logits where depth is known."""
    target = pairs.there.covisible.to(pairs.covisible.dtype)
    cost = functional.binary_cross_entropy_with_logits(pairs.covisible.float(), target.float(), reduction="none")
    return _mean(cost, pairs.there.known)


def offset_loss(net: CompactNet, batch: SequenceBatch, run: Run) -> Tensor:
    """Bounded error of the refinement at 1/4, in pixels of that map, for neighbouring views and guesses within half a
    cell.
    """
    views = batch.images.shape[1]
    first = torch.arange(batch.samples, device=batch.images.device)
    second = first // views * views + (first + 1) % views
    truth = correspondence(batch.seen[first], batch.seen[second])
    cells = torch.arange(truth.pixels.shape[1], device=first.device)
    pixels = cell_centres(cells, truth.columns).expand_as(truth.pixels)
    guesses = (truth.pixels / EIGHTH - 0.5).round().add(0.5) * EIGHTH
    found = refine(run.features.fine[first], run.features.fine[second], pixels, guesses, net.fine_temperature)
    error = (found - truth.pixels).norm(dim=2) / QUARTER
    return _mean(error.clamp(max=LARGEST_OFFSET), truth.covisible)


def camera_loss(encodings: Tensor, batch: SequenceBatch) -> Tensor:
    """Huber loss of translation, quaternion and log field of view (scenes, views, 9)."""
    size = (batch.images.shape[3], batch.images.shape[4])
    true = encoding_from_matrices(batch.seen.cam_from_world[:, :3], batch.seen.intrinsics, size)
    true = true.unflatten(0, encodings.shape[:2])
    error = torch.cat([encodings[..., :7] - true[..., :7], (encodings[..., 7:] / true[..., 7:]).log()], -1)
    return functional.smooth_l1_loss(error, torch.zeros_like(error), beta=HUBER)


def relative_loss(batch: SequenceBatch, run: Run) -> Tensor:
    """Likelihood of the pairs' rotation and direction errors [rad] under Laplace distributions of predicted scales."""
    poses = batch.seen.cam_from_world.unflatten(0, batch.images.shape[:2])
    costs, apart, first = [], [], 0
    for size, known, prediction in zip(batch.chunks, run.known, run.predictions, strict=True):
        seen = torch.tensor(known, device=poses.device)
        frames = torch.arange(first, first + size, device=poses.device)
        true = poses[:, frames, None] @ torch.linalg.inv(poses[:, seen])[:, None]
        quaternion, direction, log_scale = prediction.relative.split([4, 3, 1], -1)
        error = rotation_error(quaternion, true) + direction_error(direction, true)
        log_scale = log_scale[..., 0].clamp(-6, 3)
        costs.append((error * (-log_scale).exp() + log_scale).flatten())
        apart.append((frames[:, None] != seen).expand_as(error).flatten())
        first += size
    return _mean(torch.cat(costs), torch.cat(apart))


def rotation_error(quaternion: Tensor, true: Tensor) -> Tensor:
    """Angle [rad], for small ones, between unit quaternions x y z w (..., 4) and the rotations of poses (..., 4, 4)."""
    target = quaternion_from_rotation(true[..., :3, :3])
    apart = torch.minimum(_length(quaternion - target), _length(quaternion + target))
    return 2 * apart


def direction_error(direction: Tensor, true: Tensor) -> Tensor:
    """Chord between unit vectors (..., 3) and the translations of poses (..., 4, 4); 0 if these are very short."""
    target = functional.normalize(true[..., :3, 3], dim=-1)
    return torch.where(true[..., :3, 3].norm(dim=-1) > STILL, _length(direction - target), 0)


def place_loss(descriptors: Tensor, labels: Tensor) -> Tensor:
    """Multi-similarity loss (Wang et al. 2019) of descriptors (n, dim) of length 1; equal labels mean one place."""
    similarity = descriptors @ descriptors.T
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    pull = torch.where(same & ~itself, (-POSITIVE_SHARPNESS * (similarity - MARGIN)).exp(), 0).sum(1)
    push = torch.where(same, 0, (NEGATIVE_SHARPNESS * (similarity - MARGIN)).exp()).sum(1)
    return (pull.log1p() / POSITIVE_SHARPNESS + push.log1p() / NEGATIVE_SHARPNESS).mean()


def _length(vectors: Tensor) -> Tensor:
    """Lengths with a finite gradient at zero."""
    return (vectors.square().sum(-1) + 1e-10).sqrt()


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values, 0).sum() / known.sum().clamp(min=1)
