"""Reprojection errors of a COLMAP model."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest

from recon.core.cameras import reprojection_errors

NOISE = 0.7  # px


def synthetic(noise: float) -> pycolmap.Reconstruction:
    """A model whose observations have normal noise [px] in each coordinate."""
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_frames_per_rig=6, num_points3D=400)
    model = pycolmap.synthesize_dataset(options)
    pycolmap.synthesize_noise(pycolmap.SyntheticNoiseOptions(point2D_stddev=noise), model)
    return model


def test_every_observation_has_its_error() -> None:
    model = synthetic(NOISE)
    errors = reprojection_errors(model)
    assert len(errors) == model.compute_num_observations()
    model.update_point_3d_errors()
    assert errors.mean() == pytest.approx(model.compute_mean_reprojection_error(), rel=1e-6)
    assert reprojection_errors(synthetic(0.0)) == pytest.approx(np.zeros(len(errors)), abs=1e-6)
    assert len(reprojection_errors(pycolmap.Reconstruction())) == 0
