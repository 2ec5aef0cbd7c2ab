"""What a run may use: the tightest limit on the process counts, in either version of control groups."""

from __future__ import annotations

from pathlib import Path

from recon.core.machine import container_memory, look_at_machine

GB = 10**9
CACHE = "anon 5\ninactive_file 300000000\n"


def _group(folder: Path, limit: object, usage: int, names: tuple[str, str], stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(stat)


def test_version_2_limits_of_the_group_and_its_parents_count(tmp_path: Path) -> None:
    names = ("memory.max", "memory.current")
    _group(tmp_path / "user" / "job", 4 * GB, GB, names, CACHE)
    _group(tmp_path / "user", 2 * GB, GB, names, "inactive_file 0\n")
    _group(tmp_path, "max", GB, names, CACHE)
    (tmp_path / "membership").write_text("0::/user/job\n")
    # The kernel frees the cache before it refuses memory.
    assert container_memory(tmp_path, tmp_path / "membership") == [4 * GB - GB + 300_000_000, GB]


def test_version_1_limit_is_found_where_only_the_root_is_visible(tmp_path: Path) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    _group(tmp_path / "memory", 3 * GB, GB, names, "total_inactive_file 0\n")
    (tmp_path / "membership").write_text("5:cpu:/x\n4:memory:/docker/abc\n0::/\n")
    assert container_memory(tmp_path, tmp_path / "membership") == [2 * GB]


def test_memory_over_the_limit_is_none_left(tmp_path: Path) -> None:
    _group(tmp_path, GB, 2 * GB, ("memory.max", "memory.current"), "")
    (tmp_path / "membership").write_text("0::/\n")
    assert container_memory(tmp_path, tmp_path / "membership") == [0]


def test_other_systems_have_no_such_limits(tmp_path: Path) -> None:
    assert container_memory(tmp_path, tmp_path / "absent") == []


def test_the_machine_can_be_examined_before_the_folder_exists(tmp_path: Path) -> None:
    machine = look_at_machine(tmp_path / "not" / "yet")
    assert machine.memory > 0
    assert machine.disk > 0
    assert machine.processors >= 1
