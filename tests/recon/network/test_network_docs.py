"""The page about the network runs, and importing the network changes nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import main

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "network.md"
IMPORT_ALL = """
import os, pkgutil, importlib, torch
import recon.settings  # OpenCV, which its sources need, edits the environment
def state():
    return (dict(os.environ), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
            torch.backends.cuda.matmul.allow_tf32, torch.get_rng_state().tolist())
before = state()
import recon.network
for module in pkgutil.walk_packages(recon.network.__path__, "recon.network."):
    importlib.import_module(module.name)
assert state() == before
import sys
assert not {"retrieval", "viewer", "cli", "xformers", "huggingface_hub"} & set(sys.modules)
"""


def test_every_block_of_the_page_runs() -> None:
    text = PAGE.read_text()
    for block in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), {})


def test_commands_of_the_page_exist(capsys: pytest.CaptureFixture[str]) -> None:
    named = set(re.findall(r"^recon ((?:weights |bench )?[a-z-]+)", PAGE.read_text(), flags=re.MULTILINE))
    assert named
    for command in named:
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), "--help"])
        assert not ended.value.code, command
        assert f"Usage: recon {command} " in capsys.readouterr().out


def test_importing_changes_nothing() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
