"""The weight file: it is read as written, and a file that does not fit is refused with a sentence."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recon.core.errors import ReconError
from recon.depth.network import PosedDepthNet
from recon.depth.weights import load_weights
from recon.lab.compact.weights import save_weights
from tests.recon.depth.test_network import TINY, tiny_net

CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "posed-depth.safetensors"
    save_weights(tiny_net(), file)
    return file


def test_round_trip_in_half_precision(path: Path) -> None:
    net = load_weights(path, CPU)
    assert net.config == TINY
    assert not net.training
    for name, tensor in tiny_net().state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], tensor.half().float(), rtol=0, atol=0)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.99])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ReconError, match=rf"{path.name} is damaged or cut short"):
        load_weights(path, CPU)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"none\.safetensors does not exist"):
        load_weights(tmp_path / "none.safetensors", CPU)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(ReconError, match="holds 'something else', not 'recon posed-depth 1'"):
        load_weights(other, CPU)


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    net = PosedDepthNet(TINY)
    net.hourglass.score = torch.nn.Linear(8, 2)
    save_weights(net, tmp_path / "odd.safetensors")
    with pytest.raises(ReconError, match=r"hourglass\.score\.bias has shape \(2,\), expected \(1,\)"):
        load_weights(tmp_path / "odd.safetensors", CPU)
