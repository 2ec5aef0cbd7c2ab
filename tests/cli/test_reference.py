"""``recon verify-reference``."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.cli.conftest import Recon


def test_command_prints_the_worst_of_each_case_and_exits_1_on_a_difference(
    reference_folder: Path, tmp_path: Path, recon: Recon
) -> None:
    shutil.copytree(reference_folder / "geometry", tmp_path / "geometry")
    good = recon("verify-reference", tmp_path)
    assert good.code == 0
    assert "outputs in 1 cases agree" in good.out
    cases = load_file(tmp_path / "geometry" / "cases.safetensors")
    cases["extrinsics"][0, 0, 0, 3] += 1e-3
    save_file(cases, tmp_path / "geometry" / "cases.safetensors")
    bad = recon("verify-reference", tmp_path)
    assert bad.code == 1
    assert "FAILED  geometry  extrinsics" in bad.out


def test_folder_without_suites_is_refused(tmp_path: Path, recon: Recon) -> None:
    outcome = recon("verify-reference", tmp_path)
    assert outcome.code == 2
    assert str(tmp_path) in outcome.err
