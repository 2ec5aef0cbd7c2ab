"""JSON files as dataclasses: a file whose values do not match the types of the fields is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from recon.core.errors import MapError, SettingsError
from recon.core.failures import short

T = TypeVar("T")


def read_object(path: Path, version: int | tuple[int, ...], remedy: str) -> dict[str, Any]:
    """The object in a file, of one of these versions. remedy: what to do about a damaged file.

    Raises OSError if the file cannot be read, MapError if it is damaged or of another version.
    """
    try:
        content = json.loads(path.read_text())
        found = content["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise MapError(f"{path} is damaged ({short(error)}). {remedy}") from error
    known = version if isinstance(version, tuple) else (version,)
    if found not in known:
        raise MapError(f"{path} has version {found}, this program reads {max(known)}. {remedy}")
    return dict(content)


def typed(content: object, kind: type[T], path: Path, remedy: str, root: str = "$") -> T:
    """Convert parsed JSON to ``kind``: a dataclass, or a list or dict of them. root: its name in messages.

    Unknown keys are ignored; the keys of a dict with numeric keys may be strings.
    Raises MapError naming the file, the field, and the expected type.
    """
    try:
        return msgspec.convert(content, kind, str_keys=True, dec_hook=_path)
    except (msgspec.ValidationError, SettingsError) as error:
        raise MapError(f"{path} is damaged: {_plain(error, root)}. {remedy}") from error


def _plain(error: Exception, root: str) -> str:
    """The error of msgspec or a dataclass as part of a sentence: expected `int`, got `str` - at `chunks[0].first`."""
    text = str(error).rstrip(".").replace("`$.", "`").replace("`$", f"`{root}")
    return text[0].lower() + text[1:]


def _path(kind: type[Any], value: object) -> object:
    if kind is not Path or not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return Path(value)
