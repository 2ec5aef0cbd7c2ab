"""Values of dataclass fields, checked against their types: a program's slip is refused before a run starts."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from recon.core.errors import SettingsError

NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", NoneType: "None"}


def require_types(instance: object) -> None:
    """Raise SettingsError, naming the field, its value and what is allowed, if a value has not its field's type."""
    kind = type(instance)
    for name, allowed in get_type_hints(kind).items():
        value = getattr(instance, name)
        if not _fits(value, allowed):
            raise SettingsError(f"{kind.__name__}.{name} must be {_described(allowed)}, got {value!r}.")


def _fits(value: object, allowed: Any) -> bool:
    origin = get_origin(allowed)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(allowed))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(allowed)
    if allowed in (int, float):
        return isinstance(value, int if allowed is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, allowed)


def _described(allowed: Any) -> str:
    *others, last = _choices(allowed)
    return f"{', '.join(others)} or {last}" if others else last


def _choices(allowed: Any) -> list[str]:
    if get_origin(allowed) in (Union, UnionType):
        return [choice for one in get_args(allowed) for choice in _choices(one)]
    if get_origin(allowed) is Literal:
        return list(get_args(allowed))
    return [NAMES.get(allowed) or f"a {allowed.__name__}"]
