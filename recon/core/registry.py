"""Choices by name. Every list of choices is a ``Registry``; docs/extending.md adds to each of them."""

from __future__ import annotations

import pkgutil
import weakref
from collections.abc import Mapping
from typing import Any, TypeVar

from recon.core.errors import SettingsError

Entry = TypeVar("Entry")


class Registry(dict[str, Entry]):
    """Choices of one kind by name. Assigning to a name adds a choice or replaces the one with that name."""

    def __init__(self, kind: str, choices: Mapping[str, Entry]) -> None:
        super().__init__(choices)
        self._kind, self._first = kind, dict(choices)
        _REGISTRIES.append(weakref.ref(self))

    @property
    def changed(self) -> bool:
        """Whether the choices are other than those that come with the program."""
        return self != self._first

    def known(self, name: str) -> Entry:
        """The choice of that name. Raises SettingsError listing the names."""
        if name not in self:
            raise SettingsError(f"There is no {self._kind} {name}. Choose one of {', '.join(self)}.")
        return self[name]


_REGISTRIES: list[weakref.ref[Registry[Any]]] = []


def extended() -> bool:
    """Whether this process has choices that another one, which imports the same modules, would not have."""
    return any(registry.changed for registry in (reference() for reference in _REGISTRIES) if registry is not None)


def loaded(entry: Entry | str) -> Entry:
    """The choice itself, imported first if it is given as "module:name", as heavy ones are."""
    found: Entry = pkgutil.resolve_name(entry) if isinstance(entry, str) else entry
    return found
