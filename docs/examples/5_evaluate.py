"""Compare a map (of example 1) with true poses and true depth."""

from pathlib import Path

from recon.evaluate.depth import evaluate_depth, find_true_depth
from recon.evaluate.poses import evaluate
from recon.store.map import open_map

out, truth = Path("out/example"), Path("data/sample")
poses = evaluate(out / "poses.txt", truth / "poses.txt")
depth = evaluate_depth(open_map(out), find_true_depth(truth / "depth", 1000.0), poses.reference_from_estimated)
print(f"{poses.matched} poses, ATE {poses.ate_rmse:.4f}, {poses.ate_rmse / poses.extent:.2%} of the extent")
print(f"depth error {depth.median_error:.2%} (median), for {depth.kept:.0%} of the pixels")
