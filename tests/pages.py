"""The blocks and commands of a Markdown page, and whether the command line accepts a command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer

from cli.main import program_command

ROOT = Path(__file__).parents[1]


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks of a page in some language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Arguments of every ``recon`` command in the shell blocks of a page, in order."""
    lines = [line for block in blocks("sh", text) for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [row[1:] for row in words if row and row[0] == "recon"]


def parse(arguments: list[str]) -> None:
    """Read a command without running it. Raises an error of click's for options that it does not have."""
    command, rest = program_command(), list(arguments)
    context = typer.Context(command)
    while hasattr(command, "get_command"):
        name = rest.pop(0)
        command = command.get_command(context, name)
        assert command, f"there is no command {name} in: recon {' '.join(arguments)}"
    command.make_context(command.name, rest)
