"""A whole reference folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from recon.core.errors import SourceError
from recon.lab.reference.comparison import Comparison, read_json
from recon.lab.reference.geometry import compare_geometry
from recon.lab.reference.manifests import compare_manifests
from recon.lab.reference.preprocess import compare_preprocess
from recon.lab.reference.runs import compare_run
from recon.lab.reference.vit import compare_vit

MANIFESTS = "manifests"
CONFIG = "config.json"
Comparer = Callable[[Path], Iterator[Comparison]]
NOTHING_MORE: Mapping[str, Comparer] = {}


def verify(folder: Path, more: Mapping[str, Comparer] = NOTHING_MORE) -> Iterator[Comparison]:
    """Every comparison that the suites of ``folder`` allow, suite by suite, run by run. For ImAge suites, the features
    of the vision transformer are compared here. more: comparisons by other packages, by the kind in a suite's config.
    Raises SourceError for a folder without suites, and for files that are missing or damaged.
    """
    cases = find_cases(folder)
    if not cases:
        raise SourceError(
            f"{folder} holds no reference suites. Name the folder that holds conv, dinov2, geometry and so on."
        )
    for case in cases:
        yield from compare_case(case)
        kind = str(read_json(case / CONFIG).get("kind")) if (case / CONFIG).is_file() else ""
        if kind in more:
            yield from more[kind](case)


def find_cases(folder: Path) -> list[Path]:
    """Folders that ``compare_case`` takes: runs, and suites without runs."""
    cases: list[Path] = []
    for suite in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ():
        runs = sorted(config.parent for config in suite.glob("*/config.json"))
        cases += runs or ([suite] if (suite / CONFIG).is_file() else [])
    manifests = folder / MANIFESTS
    return [*cases, manifests] if manifests.is_dir() else cases


def compare_case(folder: Path) -> Iterator[Comparison]:
    """The comparisons of one run, or of one suite without runs. Raises SourceError for an unknown kind."""
    if folder.name == MANIFESTS:
        return compare_manifests(folder)
    kind = read_json(folder / CONFIG).get("kind")
    if kind == "geometry":
        return compare_geometry(folder)
    if kind == "preprocess":
        return compare_preprocess(folder)
    if kind == "image":
        return compare_vit(folder)
    return compare_run(folder)
