"""The optimisation of a pose graph by gtsam, in steps that remove wrong loops.

1. Least squares over the chain and the largest set of loops that agree.
2. From there, all loops with Cauchy's kernel: right loops left out before return, wrong ones have little influence.
3. A loop whose residual then exceeds its noise is rejected. If these are more than half, the result is refused:
   the map itself is then more likely to be wrong than most of its loops.
4. Least squares over the remaining loops, to remove the influence of wrong ones.

Residuals are those of the full Lie group Sim(3). With separate rotation, translation and log scale, the optimisation
diverges from the scale drift of long sequences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import gtsam
import numpy as np

from recon.core.similarity import Sim3
from recon.mapping.posegraph.agreement import largest_agreeing_set
from recon.mapping.posegraph.graph import Edge, EdgeNoise, Optimised, PoseGraph

KERNEL = 3.75  # standard deviations: 95% of right loops stay below, with 7 degrees of freedom
MAX_RESIDUAL = 6.0  # standard deviations: far beyond right loops, far below wrong ones
MAX_ITERATIONS = 200
ANCHOR = EdgeNoise(1e-6, 1e-6, 1e-6)


def optimise(graph: PoseGraph) -> Optimised:
    """The poses that agree best with the chain and the right loops; the module's docstring lists the steps.

    A graph without loops is returned unchanged.
    """
    if not graph.loops:
        return Optimised(graph.world_from_submap, 0.0, 0.0, 0, (), ())
    every, start = range(len(graph.loops)), _values(graph.world_from_submap)
    agreed, first_steps = _solve(_factors(graph, largest_agreeing_set(graph), None), start)
    judged, second_steps = _solve(_factors(graph, every, KERNEL), agreed)
    kept = [row for row in every if _residual(graph.loops[row], judged) <= MAX_RESIDUAL]
    believed = _factors(graph, kept, None)
    values, last_steps = _solve(believed, judged)
    refused = _why_refused(len(every) - len(kept), len(every))
    return Optimised(
        world_from_submap=graph.world_from_submap if refused else _poses(graph, values),
        error_before=believed.error(start),
        error_after=believed.error(start if refused else values),
        iterations=first_steps + second_steps + last_steps,
        residuals=tuple(_residual(edge, values) for edge in graph.loops),
        rejected=tuple(row for row in every if row not in kept),
        refused=refused,
    )


def closing_error(graph: PoseGraph) -> float:
    """Distance of the loops from the chain, in standard deviations of both, once the chain has bent optimally.

    Unlike a sum of variances along the chain, this accounts for a lost scale, which stretches or shrinks the path that
    follows but neither rotates nor shifts it.
    """
    factors = _factors(graph, range(len(graph.loops)), None)
    values, _ = _solve(factors, _values(graph.world_from_submap))
    return float(np.sqrt(2 * factors.error(values)))


def _why_refused(rejected: int, loops: int) -> str:
    if 2 * rejected <= loops:
        return ""
    return f"{rejected} of {loops} loops contradict the rest of the map, so none of them is used"


def _factors(graph: PoseGraph, loops: Collection[int], kernel: float | None) -> gtsam.NonlinearFactorGraph:
    """Factors of the chain, of the loops in some rows, and of the fixed first submap."""
    factors = gtsam.NonlinearFactorGraph()
    first = next(iter(graph.world_from_submap))
    factors.add(
        gtsam.PriorFactorSimilarity3(first, to_gtsam(graph.world_from_submap[first]), _noise_model(ANCHOR, None))
    )
    for edge in graph.chain:
        factors.add(_factor(edge, None))
    for row in loops:
        factors.add(_factor(graph.loops[row], kernel))
    return factors


def _factor(edge: Edge, kernel: float | None) -> gtsam.BetweenFactorSimilarity3:
    measured = to_gtsam(edge.first_from_second)
    return gtsam.BetweenFactorSimilarity3(edge.first, edge.second, measured, _noise_model(edge.noise, kernel))


def _noise_model(noise: EdgeNoise, kernel: float | None) -> gtsam.noiseModel.Base:
    sigmas = np.repeat([noise.rotation, noise.translation, noise.log_scale], [3, 3, 1])
    model = gtsam.noiseModel.Diagonal.Sigmas(sigmas)
    if kernel is None:
        return model
    return gtsam.noiseModel.Robust.Create(gtsam.noiseModel.mEstimator.Cauchy.Create(kernel), model)


def _solve(factors: gtsam.NonlinearFactorGraph, start: gtsam.Values) -> tuple[gtsam.Values, int]:
    """The Levenberg-Marquardt optimum and the number of steps."""
    parameters = gtsam.LevenbergMarquardtParams()
    parameters.setMaxIterations(MAX_ITERATIONS)
    optimiser = gtsam.LevenbergMarquardtOptimizer(factors, start, parameters)
    return optimiser.optimize(), int(optimiser.iterations())


def _residual(edge: Edge, values: gtsam.Values) -> float:
    """Length of an edge's residual in standard deviations."""
    return float(np.sqrt(2 * _factor(edge, None).error(values)))


def _values(poses: Mapping[int, Sim3]) -> gtsam.Values:
    values = gtsam.Values()
    for node, pose in poses.items():
        values.insert(node, to_gtsam(pose))
    return values


def _poses(graph: PoseGraph, values: gtsam.Values) -> dict[int, Sim3]:
    return {node: from_gtsam(values.atSimilarity3(node)) for node in graph.world_from_submap}


def to_gtsam(similarity: Sim3) -> gtsam.Similarity3:
    """gtsam's ``Similarity3(R, t, s)`` maps p to s (R p + t), ours to s R p + t."""
    rotation, translation = gtsam.Rot3(similarity.rotation), similarity.translation / similarity.scale
    return gtsam.Similarity3(rotation, translation, similarity.scale)


def from_gtsam(similarity: gtsam.Similarity3) -> Sim3:
    """The inverse of ``to_gtsam``."""
    scale = similarity.scale()
    # The product of many small rotations is a rotation only up to rounding; Sim3 needs six digits.
    left, _, right = np.linalg.svd(similarity.rotation().matrix())
    return Sim3(scale, left @ right, scale * np.asarray(similarity.translation()))
