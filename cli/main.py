"""The program ``recon``. Each command has its own file and imports what it needs when it is called."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from cli import (
    bench,
    compare,
    doctor,
    evaluate,
    fleet,
    importing,
    info,
    lab,
    live,
    locate,
    loops,
    merge,
    outputs,
    parts,
    places,
    reference,
    run,
    scale,
    weights,
)
from cli.dependencies import explain
from cli.ending import INTERRUPTED, interrupting_imports
from cli.streams import lost_output, use_standard_streams
from cli.text import one_line
from recon import __version__
from recon.core.errors import ReconError, UnexpectedError

UNEXPECTED = 3

HELP_WIDTH = 120


class Commands(TyperGroup):
    """The commands, which tell a wrong choice without pydantic's prefix."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


# Without markup, typer's help distinguishes switches from options with a value and uses the full width.
app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH},
)
app.command("run", options_metavar="--out DIR [OPTIONS]")(run.run)
app.command("live", options_metavar="--out DIR | --map MAP [OPTIONS]")(live.live)
app.command("plan")(run.plan)
app.command("view")(outputs.view)
app.command("report")(outputs.report)
app.command("export")(outputs.export)
app.command("info")(info.info)
app.command("eval")(evaluate.evaluate)
app.command("check")(outputs.check)
app.command("locate")(locate.locate)
app.command("scale")(scale.scale)
app.command("import")(importing.import_map)
app.command("merge")(merge.merge)
app.command("split")(parts.split)
app.command("crop")(parts.crop)
app.command("compare")(compare.compare)
app.command("loops")(loops.loops)
app.command("doctor")(doctor.doctor)
app.add_typer(fleet.app, name="fleet")
app.add_typer(weights.app, name="weights")
app.add_typer(bench.app, name="bench")
app.add_typer(places.app, name="places")
app.add_typer(lab.app, name="lab", hidden=True)
app.command("verify-reference")(reference.verify_reference)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recon {__version__}")
        raise typer.Exit


@app.callback()
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
def program_command() -> Any:
    """The whole program as a command of click's, which takes a tenth of a second to build."""
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
            program_command()(args=arguments, prog_name="recon")
    except SystemExit as end:
        lost = lost_output()
        if end.code or not lost:
            raise
        print(f"recon: The output could not be written: {lost.strerror}.", file=sys.stderr)
    sys.exit(run.UNWRITTEN)


def _explained(error: BaseException | None) -> ReconError | None:
    return explain(error) if isinstance(error, ImportError | OSError) else None


def _fail(error: ReconError) -> None:
    print(f"recon: {one_line(str(error))}", file=sys.stderr)
    sys.exit(UNEXPECTED if isinstance(error, UnexpectedError) else 2)
