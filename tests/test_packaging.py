"""The built package: it declares every dependency and contains everything that it needs at run time."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from cli.dependencies import DISTRIBUTIONS, EXTRAS
from recon.core import bundled

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("recon", "retrieval", "viewer", "cli")
# Imported by others: PyTorch finds xformers by itself.
INDIRECT = {"xformers"}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(package: str) -> Iterator[str]:
    """Top-level names that the modules of a package import anywhere, without the standard library and our own."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            yield from {name.split(".")[0] for name in names} - sys.stdlib_module_names - {*PACKAGES}


def declared(extra: str = "") -> set[str]:
    lines = PROJECT["project"]["optional-dependencies"][extra] if extra else PROJECT["project"]["dependencies"]
    return {normalised(re.match(r"[\w.-]+", line)[0]) for line in lines}


def test_every_import_is_declared_and_every_dependency_is_imported() -> None:
    distributions = metadata.packages_distributions()
    names = {name for package in PACKAGES for name in imported(package)}
    optional = declared("usd") | declared("las") | declared("phone") | declared("fleet") | declared("ros")
    found = {
        name: {normalised(owner) for owner in distributions.get(name, [DISTRIBUTIONS.get(name, name)])}
        for name in sorted(names)
    }
    assert {name for name, owners in found.items() if not owners & (declared() | optional)} == set()
    assert set(EXTRAS) == optional
    assert declared() - {owner for owners in found.values() for owner in owners} == INDIRECT


def test_installed_weights_take_precedence_over_those_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundled.bundled_weights("posed-depth.safetensors") == ROOT / "data" / "weights" / "posed-depth.safetensors"
    assert bundled.sample_folder() == ROOT / "data" / "sample"
    installed = tmp_path / "data" / "weights" / "posed-depth.safetensors"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    monkeypatch.setattr(bundled, "CHECKOUT", tmp_path / "none")
    assert bundled.bundled_weights("posed-depth.safetensors") == installed
    assert bundled.sample_folder() == Path("sample")


def test_the_build_includes_every_package_and_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(ROOT)
    exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {})
    modules = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {str(path.relative_to(ROOT)).replace("/", ".") for path in modules} <= set(given["packages"])
    assert given["package_dir"] == {"recon.data.weights": "data/weights"}
    assert "recon.data.weights" in given["packages"]
    data = PROJECT["tool"]["setuptools"]["package-data"]
    assert data["recon.data.weights"] == ["*.safetensors"]
    assets = {path.name for path in (ROOT / "viewer" / "report").iterdir() if path.suffix in (".html", ".css", ".js")}
    assert set(data["viewer.report"]) == assets


def test_the_supported_pythons_match_the_classifiers() -> None:
    versions = re.findall(r"Python :: (3\.\d+)", "".join(PROJECT["project"]["classifiers"]))
    assert PROJECT["project"]["requires-python"] == f">={versions[0]}"
    assert versions == ["3.11", "3.12", "3.13"]
