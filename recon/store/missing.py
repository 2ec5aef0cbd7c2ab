"""Why a folder contains no map, or not all of it, and what to do: the sentences for every command that reads a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from recon.store.ledger import Ledger
from recon.store.lock import writer_in

REPLACED = "replaced"  # holds what --overwrite replaces until there is a new map
PART = "replaced.part"  # what is being moved there or back


def why_no_map(folder: Path) -> str:
    """The sentence for a folder without a map."""
    if not folder.exists():
        return f"{folder} does not exist. Give the folder of a run."
    if not folder.is_dir():
        return f"{folder} is a file. Give the folder of a run{_run_above(folder)}."
    if writer := writer_in(folder):
        return (
            f"{folder} contains no map yet: a {writer.what} is writing to it (process {writer.process} on "
            f"{writer.host}), and none of its chunks is finished. Try again later.{about_replaced(folder)}"
        )
    return f"{folder} contains no map{_why_unfinished(folder)}"


def _why_unfinished(folder: Path) -> str:
    about, resume = about_replaced(folder), _resume(folder)
    create = resume.removesuffix(" --resume")
    if (folder / PART / "map").exists():
        return f".{about}"
    if Ledger(folder).has("parts"):
        return f": its run ended before the first chunk was finished. Resume it with: {resume}{_then(about)}"
    if about:
        return f": its run was killed. Start again with: {create} --overwrite{_then(about)}"
    if _has_depth(folder):
        return f": {Ledger(folder).path} is missing. Put it back from a copy, or start again with: {create} --overwrite"
    return f": {Ledger(folder).path} is missing. Create one with: {create}"


def why_no_run(folder: Path) -> str:
    """The sentence for a folder without the record of a run."""
    if Ledger(folder).has("map"):
        return (
            f"The map in {folder} has no record of a run, so it cannot be resumed; recon import, merge, split and crop "
            "make such maps. Extend what it was made from, then repeat that."
        )
    about = about_replaced(folder)
    if _has_depth(folder):
        remedy = " Put it back from a copy, or use --overwrite."
    else:
        remedy = " Use --overwrite." if (folder / REPLACED).is_dir() else "" if about else " Omit --resume."
    return f"No run to resume in {folder}: {Ledger(folder).path} is missing.{remedy}{about}"


def why_no_report(folder: Path) -> str:
    """The sentence for a folder without ``report.json``."""
    if not Ledger(folder).has("map"):
        return why_no_map(folder)
    return (
        f"{folder / 'report.json'} is missing: the run has not finished. Resume it with: {_resume(folder)}"
        f"{_then(about_replaced(folder))}"
    )


def about_replaced(folder: Path) -> str:
    """What an ``--overwrite`` that was killed has left of the map before it, after a space; empty if nothing."""
    if (folder / PART).is_dir():
        return (
            f" An --overwrite was killed while it moved the old map to {folder / PART} or back. Bring everything back "
            f"with: {_resume(folder)}"
        )
    if Ledger(folder / REPLACED).has("map"):
        return f" The map that --overwrite replaces is in {folder / REPLACED} until the new one is finished."
    return ""


def _has_depth(folder: Path) -> bool:
    """Whether there are files of a map that has lost its ledger."""
    return next((folder / "map").glob("submap_*.npz"), None) is not None


def _then(sentence: str) -> str:
    """A sentence that follows a command."""
    return f".{sentence}" if sentence else ""


def _resume(folder: Path) -> str:
    return f"recon run SOURCE --out {shlex.quote(str(folder))} --resume"


def _run_above(file: Path) -> str:
    """The folder of the run that a file is part of, as the end of a sentence."""
    run = next((folder for folder in file.parents if Ledger(folder).has("map")), None)
    return f", here {run}" if run else ""
