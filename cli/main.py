"""The program ``recon``. Each command has its own file, which is imported when the command or the help is asked for."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from cli.dependencies import explain
from cli.ending import INTERRUPTED, UNWRITTEN, interrupting_imports
from cli.streams import lost_output, use_standard_streams
from cli.text import one_line
from recon import __version__
from recon.core.errors import ReconError, UnexpectedError

UNEXPECTED = 3

HELP_WIDTH = 120
# The commands in the order of the help: modules of ``cli``, with the function or group in them.
COMMANDS = {
    "run": "run:run",
    "live": "live:live",
    "plan": "run:plan",
    "view": "outputs:view",
    "report": "outputs:report",
    "export": "outputs:export",
    "info": "info:info",
    "eval": "evaluate:evaluate",
    "check": "outputs:check",
    "locate": "locate:locate",
    "scale": "scale:scale",
    "import": "importing:import_map",
    "merge": "merge:merge",
    "split": "parts:split",
    "crop": "parts:crop",
    "compare": "compare:compare",
    "loops": "loops:loops",
    "doctor": "doctor:doctor",
    "fleet": "fleet:app",
    "weights": "weights:app",
    "bench": "bench:app",
    "places": "places:app",
    "lab": "lab:app",
    "verify-reference": "reference:verify_reference",
}
USAGES = {"run": "--out DIR [OPTIONS]", "live": "--out DIR | --map MAP [OPTIONS]"}
HIDDEN = ("lab",)


class Commands(TyperGroup):
    """The commands, which tell a wrong choice without pydantic's prefix."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recon {__version__}")
        raise typer.Exit


def program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Reconstruct a scene in 3D from images or video.

    Estimates camera poses, a dense colour cloud, and a map that you can extend. To start:

    \b
      recon plan photos/             estimate time, memory and disk
      recon run photos/ --out room   reconstruct
      recon view room                explore the result
    """


@cache
def program_command(only: str | None = None) -> Any:
    """The program as a command of click's: with all commands, which takes a tenth of a second, or with one alone."""
    # Without markup, typer's help distinguishes switches from options with a value and uses the full width.
    app = typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH},
    )
    app.callback()(program)
    for name in [only] if only else COMMANDS:
        module, _, member = COMMANDS[name].partition(":")
        found = getattr(import_module(f"cli.{module}"), member)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, hidden=name in HIDDEN)
        else:
            app.command(name, options_metavar=USAGES.get(name, "[OPTIONS]"))(found)
    return get_command(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program with ``arguments``, or those of the command line, and exit.

    Exit codes: 0 success, 1 a check failed or a file could not be written, 2 an error that the user can fix, reported
    in one line, 3 an unexpected error, 130 interrupted by Ctrl-C, 143 by SIGTERM.
    """
    use_standard_streams()
    # COLMAP logs every registered image, which would break the progress bar; set 0 to see the log.
    os.environ.setdefault("GLOG_minloglevel", "3")
    # PyTorch's waiting threads would spin and slow down other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        _run_command(arguments)
    except UnexpectedError as error:
        _fail(_explained(error.__cause__) or error)
    except ReconError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        explained = _explained(error)
        if explained is None:
            traceback.print_exc()
        _fail(explained or UnexpectedError(f"Unexpected error: {error!r}."))


def _run_command(arguments: Sequence[str] | None) -> NoReturn:
    """Run a command and exit, with 1 if it succeeded but its output was lost."""
    try:
        with interrupting_imports():
            words = sys.argv[1:] if arguments is None else arguments
            only = words[0] if words and words[0] in COMMANDS else None
            program_command(only)(args=arguments, prog_name="recon")
    except SystemExit as end:
        lost = lost_output()
        if end.code or not lost:
            raise
        print(f"recon: The output could not be written: {lost.strerror}.", file=sys.stderr)
    sys.exit(UNWRITTEN)


def _explained(error: BaseException | None) -> ReconError | None:
    return explain(error) if isinstance(error, ImportError | OSError) else None


def _fail(error: ReconError) -> None:
    print(f"recon: {one_line(str(error))}", file=sys.stderr)
    sys.exit(UNEXPECTED if isinstance(error, UnexpectedError) else 2)
