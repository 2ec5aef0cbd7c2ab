"""A map can be written and read after any order of imports, although pycolmap's own zlib mixes with the system's."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

SYSTEM_PYTHON = Path("/usr/bin/python3")
ROOT = Path(__file__).resolve().parents[3]
ROUND_TRIP = """
import sys
from pathlib import Path
import numpy as np
from recon.store.archive import load_arrays, save_arrays
noise = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float16)
path = Path(sys.argv[1])
with path.open("wb") as file:
    save_arrays(file, {"depth": noise, "zeros": np.zeros((640, 480), np.uint8)})
back = load_arrays(path)
assert sorted(back) == ["depth", "zeros"] and (back["depth"] == noise).all() and not back["zeros"].any()
old = load_arrays(Path(sys.argv[2]))
assert (old["ramp"] == np.arange(100000)).all()
"""
COMPRESSED = """
import io, cv2, PIL.Image
import numpy as np
np.savez_compressed(io.BytesIO(), a=np.zeros(9))
pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
assert (cv2.imdecode(cv2.imencode(".png", pixels)[1], 1) == pixels).all()
file = io.BytesIO()
PIL.Image.fromarray(pixels).save(file, "PNG")
assert (np.asarray(PIL.Image.open(file)) == pixels).all()
"""


def python(code: str, *arguments: Path, program: Path = Path(sys.executable), path: str = "") -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path]))}
    command = [str(program), "-c", code, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive like those of maps of version 1, written by a separate process."""
    path = tmp_path_factory.mktemp("old") / "points.npz"
    python("import sys, numpy; numpy.savez_compressed(sys.argv[1], ramp=numpy.arange(100000))", path)
    assert {member.compress_type for member in zipfile.ZipFile(path).infolist()} == {zipfile.ZIP_DEFLATED}
    return path


@pytest.mark.parametrize(
    "first", ["pycolmap", "recon", "zlib, pycolmap", "pycolmap, zlib, cv2", "open3d", "torch, pycolmap, open3d"]
)
def test_a_map_is_written_and_read_after_any_import(tmp_path: Path, old: Path, first: str) -> None:
    python(f"import {first}\n{ROUND_TRIP}", tmp_path / "new.npz", old)


@pytest.mark.parametrize("first", ["pycolmap, recon", "recon, pycolmap"])
def test_other_packages_compress_safely_once_recon_is_imported(first: str) -> None:
    python(f"import {first}\n{COMPRESSED}")


def test_any_order_works_if_python_contains_zlib(tmp_path: Path, old: Path) -> None:
    """Such as Debian's."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"{SYSTEM_PYTHON} does not exist")
    version = subprocess.run([SYSTEM_PYTHON, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    if version.split(".")[:2] != list(map(str, sys.version_info[:2])):
        pytest.skip(f"{SYSTEM_PYTHON} is {version}, the packages are not for it")
    packages = str(Path(np.__file__).parents[1])
    for first in ("pycolmap", "zlib, pycolmap"):
        python(f"import {first}\n{ROUND_TRIP}", tmp_path / "new.npz", old, program=SYSTEM_PYTHON, path=packages)
