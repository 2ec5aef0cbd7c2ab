"""The rules of CONTRIBUTING.md about imports, the page that draws them, and what ``import recon`` and the help omit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recon.lab.architecture import Arrow, Imports, building, imports_of, room_of, sources
from recon.lab.floor_plan import draw

ROOT = Path(__file__).resolve().parents[1]
ABOVE_RECON = ("retrieval", "viewer", "cli")
LABORATORIES = ("recon.lab", "retrieval.lab")
LABORATORY_COMMANDS = ("cli.bench", "cli.lab", "cli.reference")
HEAVY = ("torch", "open3d", "rerun")
HELP = """
from cli.main import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
"""


def upward(imports: Imports) -> list[Arrow]:
    """Imports inside ``recon`` of packages above it."""
    return [
        (name, other)
        for name, others in imports.items()
        if name.split(".")[0] == "recon"
        for other in others
        if other.split(".")[0] in ABOVE_RECON
    ]


def laboratory(imports: Imports) -> list[Arrow]:
    """Imports of a laboratory outside laboratories."""
    return [
        (name, other)
        for name, others in imports.items()
        if room_of(name) not in LABORATORIES and name not in LABORATORY_COMMANDS
        for other in others
        if room_of(other) in LABORATORIES
    ]


@pytest.fixture(scope="module")
def imports() -> Imports:
    return imports_of(sources(ROOT))


def test_all_modules_are_read(imports: Imports) -> None:
    assert {"recon", "recon.pipeline", "recon.lab.benchmark.walk", "retrieval.lab.reference", "cli.main"} <= set(
        imports
    )
    assert "recon.mapping.loops" in imports["recon.mapping.growing"]  # inside a function


def test_recon_imports_no_package_above_it(imports: Imports) -> None:
    assert upward(imports) == []


def test_only_laboratories_and_their_commands_import_laboratories(imports: Imports) -> None:
    assert laboratory(imports) == []


def test_imports_form_no_cycle(imports: Imports) -> None:
    assert building(imports).circular == ()


def test_the_page_matches_the_imports(imports: Imports) -> None:
    """If this fails, run ``recon lab architecture --out docs/architecture.svg`` and copy its figures into the table."""
    found = building(imports)
    assert (ROOT / "docs" / "architecture.svg").read_text() == draw(found)
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert re.findall(r"^\| now \| (.+) \|$", page, flags=re.MULTILINE) == [" | ".join(map(str, found.figures()))]


def test_the_layout_lists_every_room(imports: Imports) -> None:
    rows = re.findall(r"^\| (`.+`) \| .+ \|$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    paths = [path for row in rows for path in re.findall("`([^`]+)`", row)]
    assert all((ROOT / path).exists() for path in paths)
    assert {path.removesuffix(".py").replace("/", ".") for path in paths} == building(imports).floors.keys()


def test_rooms_stand_above_the_rooms_that_they_import() -> None:
    found = building(
        {
            "recon": {"recon.core"},
            "recon.core": set(),
            "recon.core.types": {"numpy"},
            "recon.store.map": {"recon.core.types", "recon.core"},
            "recon.pipeline": {"recon.store.map", "recon.core.types", "recon.loops"},
            "recon.loops": {"recon.pipeline"},
            "cli.run": {"recon.pipeline"},
        }
    )
    assert found.modules == {"cli": 1, "recon.core": 2, "recon.loops": 1, "recon.pipeline": 1, "recon.store": 1}
    assert found.arrows[("recon.store", "recon.core")] == 2
    assert found.floors == {"recon.core": 0, "recon.loops": 0, "recon.store": 1, "recon.pipeline": 2, "cli": 3}
    assert found.circular == (("recon.loops", "recon.pipeline"), ("recon.pipeline", "recon.loops"))
    assert ("recon.pipeline", "recon.core") not in found.direct()
    assert found.figures() == (5, 4, 6, 7, 2)
    assert draw(found).count('class="arrow circular"') == 2


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
    assert building(found).circular == (("recon.mapping", "recon.store"), ("recon.store", "recon.mapping"))


@pytest.mark.parametrize("code", ["import recon.pipeline", HELP])
def test_heavy_packages_are_imported_only_where_a_run_needs_them(code: str) -> None:
    asked = f"{code}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.stdout.strip().splitlines()[-1:], ended.returncode) == (["[]"], 0), ended.stderr
