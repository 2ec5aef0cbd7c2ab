"""The rooms of the program (its packages and top modules), their imports, and a picture of both.
tests/test_architecture.py checks the same imports against the rules of CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("recon", "retrieval", "viewer", "cli")
Imports = dict[str, set[str]]
Arrow = tuple[str, str]


def sources(root: Path) -> dict[str, str]:
    """The text of all modules of a checkout, by name."""
    paths = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return {_module_name(path.relative_to(root)): path.read_text(encoding="utf-8") for path in paths}


def _module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports_of(texts: Mapping[str, str]) -> Imports:
    """The imports of every module by name, also those inside functions and only for types; modules where possible."""
    return {name: set(_imported(ast.parse(text), texts)) for name, text in texts.items()}


def _imported(tree: ast.Module, known: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (member if member in known else str(node.module) for member in members)


def room_of(module: str) -> str:
    """The room of a module: a package or top module of ``recon``, a laboratory, or one of the other packages."""
    return ".".join(module.split(".")[: 2 if module.startswith(("recon.", "retrieval.lab")) else 1])


@dataclass(frozen=True)
class Building:
    """modules: number by room. floors: by room, the longest path down to a room that imports no other. arrows: number
    of imports by pair of rooms. circular: the arrows that are part of a cycle; all others go down.
    """

    modules: dict[str, int]
    floors: dict[str, int]
    arrows: dict[Arrow, int]
    circular: tuple[Arrow, ...]

    def figures(self) -> tuple[int, int, int, int, int]:
        """Numbers of rooms, floors, arrows, imports behind the arrows, and circular arrows."""
        floors = 1 + max(self.floors.values())
        return len(self.floors), floors, len(self.arrows), sum(self.arrows.values()), len(self.circular)

    def direct(self) -> tuple[Arrow, ...]:
        """The arrows that no path through other rooms replaces."""
        below = _below(self.arrows)
        return tuple(
            (room, other)
            for room, other in self.arrows
            if not any(other in reachable(below, way) for way in below[room] - {other})
        )


def building(imports: Imports) -> Building:
    """The rooms of all modules except ``recon/__init__.py``, which is the house itself."""
    modules = Counter(room_of(name) for name in imports if name != "recon")
    pairs = [(room_of(name), room_of(other)) for name, others in imports.items() for other in others]
    counted = Counter(pair for pair in pairs if pair[0] != pair[1] and modules.keys() >= set(pair))
    arrows = dict(sorted(counted.items()))
    below = _below(arrows)
    circular = tuple(pair for pair in arrows if pair[0] in reachable(below, pair[1]))
    downward = _below(pair for pair in arrows if pair not in circular)
    return Building(dict(sorted(modules.items())), _floors(sorted(modules), downward), arrows, circular)


def _below(arrows: Iterable[Arrow]) -> dict[str, set[str]]:
    below: dict[str, set[str]] = {}
    for room, other in arrows:
        below.setdefault(room, set()).add(other)
    return below


def _floors(rooms: Iterable[str], below: Mapping[str, set[str]]) -> dict[str, int]:
    floors: dict[str, int] = {}
    left = list(rooms)
    while left:
        ready = {room for room in left if below.get(room, set()) <= floors.keys()}
        floors |= {
            room: 1 + max((floors[other] for other in below.get(room, ())), default=-1) for room in sorted(ready)
        }
        left = [room for room in left if room not in ready]
    return floors


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Everything reachable from ``start``."""
    found: set[str] = set()
    pending = [start]
    while pending:
        new = graph.get(pending.pop(), set()) - found
        found |= new
        pending += new
    return found
