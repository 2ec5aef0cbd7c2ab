import gc
from pathlib import PurePosixPath

import pytest

from recon.core import registry as registry_module
from recon.core.errors import SettingsError
from recon.core.registry import Registry, extended, loaded


def test_choices_are_added_replaced_and_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[int] = Registry("number", {"one": 1})
    monkeypatch.setitem(registry, "two", 3)  # taken back at the end: a changed registry keeps runs in one process
    monkeypatch.setitem(registry, "two", 2)
    assert (registry.known("one"), registry.known("two")) == (1, 2)
    with pytest.raises(SettingsError, match=r"There is no number three\. Choose one of one, two\."):
        registry.known("three")


def test_a_choice_is_imported_when_it_is_needed() -> None:
    assert loaded("pathlib:PurePosixPath") is PurePosixPath
    assert loaded(PurePosixPath) is PurePosixPath


def test_a_changed_registry_counts_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_REGISTRIES", [])  # whatever other tests have changed
    registry: Registry[int] = Registry("number", {"one": 1})
    assert not extended()
    registry["two"] = 2
    assert extended()
    del registry
    gc.collect()
    assert not extended()
