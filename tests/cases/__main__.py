"""Run the cases as a user would and print a row for each: ``python -m tests.cases [NAME ...]``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.mapping.alignment import fit_similarity
from recon.store import report
from recon.store.ledger import Ledger
from recon.store.map import ReconstructedMap, open_map
from tests.cases import images, lenses, mirrored, motion, moving, order, overlays, robust, seams, stabilised, videos
from tests.cases.case import Case, Input

CASES: tuple[Case, ...] = (
    *order.CASES,
    *motion.CASES,
    *moving.CASES,
    *lenses.CASES,
    *robust.CASES,
    *seams.CASES,
    *mirrored.CASES,
    *stabilised.CASES,
    *overlays.CASES,
    *images.CASES,
    *videos.CASES,
)
TIMEOUT = 900.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended. code: exit code. ate: see ``Case``. failures: differences from what was expected."""

    code: int
    placed: str
    ate: float | None
    seconds: float
    failures: tuple[str, ...]


def run_case(case: Case, folder: Path) -> Outcome:
    """Create a case in ``folder``, run it, and compare the result with what is expected."""
    made = case.make(folder / "in")
    start = time.monotonic()
    command = [sys.executable, "-m", "cli", "run", str(made.source), "--out", str(folder / "out"), *made.options]
    ended = subprocess.run(
        [*command, "--viewer", "none"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        check=False,
        env=dict(os.environ),
    )
    seconds = time.monotonic() - start
    said = ended.stdout + ended.stderr
    found = open_map(folder / "out") if Ledger(folder / "out").has("map") else None
    placed = len(found.frames) if found else 0
    error = centre_error(found, made) if found else None
    failures = []
    if ended.returncode != case.exit_code:
        failures.append(f"exit code {ended.returncode}: {said.strip().splitlines()[-1:]}")
    if placed < case.placed:
        failures.append(f"{placed} of {case.placed} frames placed")
    if case.ate is not None and (error is None or error > case.ate):
        failures.append(f"ATE {error if error is None else round(error, 4)}, at most {case.ate} expected")
    if " ".join(case.says.split()) not in " ".join(said.split()):
        failures.append(f"does not say: {case.says}")
    if "Traceback" in said:
        failures.append("a traceback")
    read = report.read(folder / "out" / "report.json").frames_read if found else 0
    return Outcome(ended.returncode, f"{placed} of {read}" if read else "", error, seconds, tuple(failures))


def centre_error(found: ReconstructedMap, made: Input) -> float | None:
    """RMSE of the camera centres after Sim(3) alignment; None without a truth or a unique alignment."""
    if made.truth is None:
        return None
    known = [frame for frame in found.posed if frame.index in made.truth]
    centres = np.array([frame.world_from_cam.translation for frame in known]).reshape(-1, 3)
    wanted = np.array([made.truth[frame.index][:3, 3] for frame in known]).reshape(-1, 3)
    try:
        aligned = fit_similarity(centres, wanted, np.ones(len(known))).apply(centres)
    except ValueError:
        return None
    return float(np.sqrt(((aligned - wanted) ** 2).sum(axis=1).mean()))


def main(names: list[str]) -> int:
    """Print the table; returns 1 if a result is not what was expected."""
    chosen = [case for case in CASES if not names or case.name in names]
    print("| case | expected | exit | frames placed | ATE [m] | seconds | as expected |")
    print("|---|---|---|---|---|---|---|")
    failed = False
    for case in chosen:
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_case(case, Path(folder))
        ate = "" if outcome.ate is None else f"{outcome.ate:.4f}"
        verdict = "; ".join(outcome.failures) or "yes"
        columns = (case.name, case.expected, outcome.code, outcome.placed, ate, f"{outcome.seconds:.0f}", verdict)
        print(f"| {' | '.join(map(str, columns))} |", flush=True)
        failed |= bool(outcome.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
