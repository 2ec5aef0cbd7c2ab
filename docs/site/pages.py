"""What the site has beside docs/*.md: the pages at the top of the repository, and a page for every example.

The pages are written for the repository, where links lead to files. Here they lead to the pages that are made of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "README.md": "index.md",
    "BENCHMARKS.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "data/README.md": "data.md",
}
EXAMPLES = "docs/examples"
FOLDERS = {EXAMPLES: "examples/README.md", "docs/guides": "guides/video-to-splat.md"}
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not Markdown files of docs."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for example in sorted((ROOT / EXAMPLES).glob("*.py")):
        text = f"# {example.name}\n\n```python\n{example.read_text()}```\n"
        files.append(File.generated(config, f"examples/{example.stem}.md", content=text))
    for notebook in sorted((ROOT / EXAMPLES).glob("*.ipynb")):
        files.append(File.generated(config, f"examples/{notebook.stem}.md", content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to pages of the site."""
    source = page.file.abs_src_path
    return LINK.sub(to_page(page.file.src_uri, Path(source).parent), markdown) if source else markdown


def to_page(page: str, folder: Path) -> Callable[[re.Match[str]], str]:
    """How to replace a link of ``page``, written for ``folder``; what is no file stays as it is."""

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return link[0]
        place = os.path.relpath(place_of(target.relative_to(ROOT)), PurePosixPath(page).parent)
        return f"]({place}{link[2] or ''})"

    return replaced


def place_of(path: Path) -> str:
    """Where the site has a file of the repository."""
    if path.as_posix() in ELSEWHERE:
        return ELSEWHERE[path.as_posix()]
    if path.suffix in (".py", ".ipynb") and path.parent.as_posix() == EXAMPLES:
        return f"examples/{path.stem}.md"
    return FOLDERS.get(path.as_posix(), os.path.relpath(path, "docs"))


def notebook_page(path: Path) -> str:
    """Markdown of a notebook with its text outputs and pictures."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if picture := data.get("image/png"):
                parts.append(f"![The picture that the cell draws](data:image/png;base64,{''.join(picture.split())})")
            elif text := output.get("text") or data.get("text/plain"):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
