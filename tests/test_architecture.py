"""The rules of CONTRIBUTING.md about imports, read from the sources, and what ``import`` and ``--help`` leave out."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("recon", "retrieval", "viewer", "cli")
ABOVE_RECON = ("retrieval", "viewer", "cli")
LABORATORIES = ("recon.lab", "retrieval.lab")
LABORATORY_COMMANDS = ("cli.bench", "cli.lab", "cli.reference")
HEAVY = ("torch", "open3d", "rerun")
HELP = """
from typer.testing import CliRunner
from cli.main import app
assert "run" in CliRunner().invoke(app, ["--help"]).output
"""
Imports = dict[str, set[str]]


def sources() -> dict[str, str]:
    """The text of all modules, by name."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {module_name(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports_of(texts: dict[str, str]) -> Imports:
    """What every module imports, also inside functions and for types alone; by name, modules where there are such."""
    return {name: set(_imported(ast.parse(text), texts)) for name, text in texts.items()}


def _imported(tree: ast.Module, known: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (member if member in known else str(node.module) for member in members)


def upward(imports: Imports) -> list[tuple[str, str]]:
    """Imports of what stands above ``recon`` inside it."""
    return [
        (name, other)
        for name, others in imports.items()
        if name.split(".")[0] == "recon"
        for other in others
        if other.split(".")[0] in ABOVE_RECON
    ]


def laboratory(imports: Imports) -> list[tuple[str, str]]:
    """Imports of a laboratory outside of one."""
    return [
        (name, other)
        for name, others in imports.items()
        if not _is_laboratory(name) and name not in LABORATORY_COMMANDS
        for other in others
        if _is_laboratory(other)
    ]


def _is_laboratory(name: str) -> bool:
    return _part(name) in LABORATORIES


def cycles(imports: Imports) -> list[tuple[str, str]]:
    """Imports between the packages and modules right inside ``recon`` from which a way leads back."""
    graph: Imports = {}
    for name, others in imports.items():
        for other in others:
            ends = _part(name), _part(other)
            if all(end.startswith("recon.") for end in ends) and ends[0] != ends[1]:
                graph.setdefault(ends[0], set()).add(ends[1])
    return [(first, second) for first in graph for second in graph[first] if first in reachable(graph, second)]


def _part(name: str) -> str:
    return ".".join(name.split(".")[:2])


def reachable(graph: Imports, start: str) -> set[str]:
    found: set[str] = set()
    pending = [start]
    while pending:
        new = graph.get(pending.pop(), set()) - found
        found |= new
        pending += new
    return found


@pytest.fixture(scope="module")
def imports() -> Imports:
    return imports_of(sources())


def test_all_modules_are_read(imports: Imports) -> None:
    assert {"recon", "recon.pipeline", "recon.lab.benchmark.walk", "retrieval.lab.reference", "cli.main"} <= set(
        imports
    )
    assert "recon.mapping.loops" in imports["recon.mapping.growing"]  # inside a function


def test_recon_imports_nothing_above_it(imports: Imports) -> None:
    assert upward(imports) == []


def test_only_laboratories_and_their_commands_import_laboratories(imports: Imports) -> None:
    assert laboratory(imports) == []


def test_no_way_of_imports_leads_back(imports: Imports) -> None:
    assert cycles(imports) == []


def test_violations_are_found() -> None:
    texts = {
        "recon.core.types": "",
        "recon.lab.walk": "from recon.core import types",
        "recon.pipeline": "def run():\n    from retrieval.recogniser import LoopFinder",
        "recon.store.map": "import recon.lab.walk\nfrom recon.mapping import loops",
        "recon.mapping.loops": "from recon.core import types\nfrom recon.store.map import open_map",
        "cli.bench": "from recon.lab import walk",
        "cli.run": "from recon.lab import walk",
        "retrieval.index": "from retrieval.lab import reference",
    }
    found = imports_of(texts)
    assert upward(found) == [("recon.pipeline", "retrieval.recogniser")]
    assert laboratory(found) == [
        ("recon.store.map", "recon.lab.walk"), ("cli.run", "recon.lab.walk"), ("retrieval.index", "retrieval.lab"),
    ]  # fmt: skip
    assert sorted(cycles(found)) == [("recon.mapping", "recon.store"), ("recon.store", "recon.mapping")]


@pytest.mark.parametrize("code", ["import recon.pipeline", HELP])
def test_heavy_packages_are_imported_only_where_a_run_needs_them(code: str) -> None:
    asked = f"{code}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.stdout.strip().splitlines()[-1:], ended.returncode) == (["[]"], 0), ended.stderr
