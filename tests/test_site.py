"""The documentation site: it builds without a warning, needs no network, and says what the program says."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from recon import __version__
from tests.pages import ROOT

DOCS = ROOT / "docs"
PARTS = 12  # characters of a quoted sentence that are worth looking for


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not find_spec("mkdocs"):
        pytest.skip("mkdocs is missing. Install it with: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


class Loaded(HTMLParser):
    """What a page loads, links and anchors aside."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.places: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        place = named.get("src") if tag != "link" else named.get("href")
        if place and not place.startswith("data:"):
            self.places.append(place)


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 30
    for page in pages:
        for place in Loaded(page).places:
            assert not re.match(r"\w+:|//", place), f"{page.name} loads {place}"
            assert (page.parent / place.split("#")[0].split("?")[0]).is_file(), f"{page.name} lacks {place}"


def test_search_finds_every_page(site: Path) -> None:
    """The index is a script, which a browser may read from the disk."""
    text = (site / "search" / "search_index.js").read_text()
    found = {entry["location"].split("#")[0] for entry in json.loads(text.removeprefix("var __index = "))["docs"]}
    pages = {page.relative_to(site).as_posix() for page in site.rglob("*.html")} - {"404.html"}
    assert {place or "index.html" for place in found} == pages


def test_the_interface_is_described_from_its_docstrings(site: Path) -> None:
    page = (site / "api.html").read_text()
    names = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    assert len(names) > 40
    assert [name for name in names if f'id="{name}"' not in page] == []
    assert "Reconstruct images or a video into the folder" in page and "every: int = 1" in re.sub("<[^>]+>", "", page)


def sentences() -> Iterator[str]:
    """All texts of the program; what an f-string fills in is an ellipsis."""
    for package in ("recon", "retrieval", "viewer", "cli"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                if isinstance(node, ast.JoinedStr):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)


def test_troubleshooting_quotes_the_program() -> None:
    text = "\n".join(sentences())
    rows = [line for line in (DOCS / "troubleshooting.md").read_text().splitlines() if line.startswith("| ")]
    quoted = [quote for row in rows for quote in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", row.split(" | ")[0])]
    parts = [part.strip(" :,.%") for quote in quoted for part in quote.split("...")]
    assert len(quoted) > 40
    assert [part for part in parts if len(part) >= PARTS and part not in text] == []


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= citation.keys()
    assert all({"name", "family-names"} & author.keys() for author in citation["authors"])
    assert f"{__version__}" in (ROOT / "CHANGELOG.md").read_text()
