"""The program ``recon``. Commands live in their own files and import what they need when they are called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from cli import bench, doctor, evaluate, live, loops, outputs, places, reference, run, weights
from cli.dependencies import explain
from cli.text import printable
from recon.errors import ReconError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="3D reconstruction from images or a video: camera poses, a dense colour cloud, and a map.",
)
app.command("run")(run.run)
app.command("live")(live.live)
app.command("plan")(run.plan)
app.command("view")(outputs.view)
app.command("export")(outputs.export)
app.command("eval")(evaluate.evaluate)
app.command("check")(outputs.check)
app.command("loops")(loops.loops)
app.command("doctor")(doctor.doctor)
app.add_typer(weights.app, name="weights")
app.add_typer(bench.app, name="bench")
app.add_typer(places.app, name="places")
app.command("verify-reference")(reference.verify_reference)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program with ``arguments``, or those of the command line, and exit.

    Exit codes: 0 done, 1 a check failed, 2 an error that the user can mend, told in a sentence, 130 interrupted.
    """
    # COLMAP logs every image that it registers, which would tear the progress bar apart; 0 brings that back.
    os.environ.setdefault("GLOG_minloglevel", "3")
    # PyTorch's threads would spin while they wait for each other, which stalls a machine that has other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(args=arguments, prog_name="recon")
    except ReconError as error:
        _fail(error)
    except (ImportError, OSError) as error:
        explained = explain(error)
        if explained is None:
            raise
        _fail(explained)


def _fail(error: ReconError) -> None:
    print(f"recon: {printable(str(error))}", file=sys.stderr)
    sys.exit(2)
