"""The Typer app, and the one door by which errors leave.

Nothing here or in the commands' signatures imports torch, numpy or PIL: `alexnet --help` answers at once.
"""

import os
import signal
import sys
from types import FrameType

import typer

from alexnet_cli import __version__, console
from alexnet_cli.commands import demo, describe, eval, predict, prepare, train
from alexnet_cli.errors import AlexNetError

app = typer.Typer(
    name="alexnet",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The AlexNet of 2012: from labelled pictures to a trained network and its predictions.",
    epilog="Start here: alexnet demo",
)
for module in (prepare, train, eval, predict, describe, demo):
    app.command()(getattr(module, module.__name__.rpartition(".")[2]))


def _version(wanted: bool) -> None:
    if wanted:
        console.result(f"alexnet-cli {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def _stop(number: int, _: FrameType | None) -> None:
    raise AlexNetError("stopped", exit_code=128 + number)


def main() -> None:
    """Run a command; a mistake is a message, a hint and an exit code, never a traceback."""
    # Arithmetic threads that wait by spinning make two processes on the same cores ten times slower, not two.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except AlexNetError as error:
        console.error(error.message, error.hint)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read the result has seen enough; there is nobody to tell.
        sys.stderr.close()
        sys.exit(141)
