"""Which frames a stream evicts when its memory is full: those most similar to others.

Farthest-point sampling (Gonzalez 1985) on the frames' camera tokens, which encode the viewpoint: starting from the
protected frames, the frame least similar to all chosen ones is kept next, until the budget is full.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from recon.core.similarity import Array
from recon.network.cache import DescriptorCache, MemoryBudget, protected_frames


def evict(cache: DescriptorCache, budget: MemoryBudget) -> DescriptorCache:
    """Reduce the cache to its budget.

    The first frame (the anchor) is never evicted. The newest frame and the keyframes are evicted only if they alone
    exceed the budget, and then by the same rule. See ``MemoryBudget.frames_allowed`` for errors.
    """
    allowed = budget.frames_allowed(cache)
    if len(cache.frames) <= allowed:
        return cache
    distances = camera_distances(cache.camera_tokens)
    protected = farthest_points(distances, [0], list(protected_frames(cache)), allowed)
    return cache.keep(sorted(farthest_points(distances, protected, range(len(cache.frames)), allowed)))


def camera_distances(camera_tokens: Tensor) -> Array:
    """One minus the cosine between camera tokens (batch, frames, channels): (frames, frames), mean of the batch."""
    unit = functional.normalize(camera_tokens.detach().double(), dim=-1)
    return np.asarray(1 - (unit @ unit.transpose(1, 2)).mean(dim=0).cpu().numpy())


def farthest_points(distances: Array, start: Sequence[int], candidates: Sequence[int], count: int) -> list[int]:
    """``start`` and the candidates farthest from it and from each other, ``count`` in all; of equals the earlier."""
    chosen = list(start)[:count]
    remaining = sorted(set(candidates) - set(chosen))
    while remaining and len(chosen) < count:
        nearest = distances[np.ix_(remaining, chosen)].min(axis=1)
        chosen.append(remaining.pop(int(nearest.argmax())))
    return chosen
