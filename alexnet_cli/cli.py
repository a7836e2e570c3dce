"""The Typer app, and the one door by which errors leave.

Nothing here or in the commands' signatures imports torch, numpy or PIL: `alexnet --help` answers at once.
"""

import errno
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

from alexnet_cli import __version__, console
from alexnet_cli.commands import (
    baseline,
    bench,
    convert,
    demo,
    describe,
    doctor,
    eval,
    figures,
    predict,
    prepare,
    report,
    runs,
    similar,
    study,
    train,
    verify,
)
from alexnet_cli.errors import REPORTS, AlexNetError, LostProcess
from alexnet_cli.files import FULL

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
for module in (prepare, verify, train, eval, predict, similar, report, baseline, describe, convert, demo, doctor):
    app.command()(getattr(module, module.__name__.rpartition(".")[2]))
app.add_typer(figures.app)
app.add_typer(runs.app)
app.add_typer(study.app)
app.add_typer(bench.app)


def _version(wanted: bool) -> None:
    if wanted:
        console.result(f"alexnet-cli {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


class _Stopped(BaseException):
    """Not an Exception, so that nothing on the way (torch's imports, say) takes it for a failure to live with."""


def _stop(number: int, _: FrameType | None) -> None:
    raise _Stopped(number)


def main() -> None:
    """Run a command; a mistake is a message, a hint and an exit code, never a traceback."""
    # Arithmetic threads that wait by spinning make two processes on the same cores ten times slower, not two.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings of a lost process are pages long
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except _Stopped as stopped:
        _leave(AlexNetError("stopped", exit_code=128 + stopped.args[0]))
    except AlexNetError as error:
        _leave(error)
    except OSError as error:  # met outside of what writes and reads: in a closed folder, say
        if error.filename is None or error.errno not in {*FULL, errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        hint = "free some space" if error.errno in FULL else "see to its permissions, or name another place"
        _leave(AlexNetError(f"{os.fsdecode(error.filename)}: {error.strerror}", hint))
    except Exception:
        if not _reported({"traceback": traceback.format_exc(), "rank": os.environ.get("RANK", "0")}):
            raise
        sys.exit(1)


def _leave(error: AlexNetError) -> NoReturn:
    lost, ranks = isinstance(error, LostProcess), int(os.environ.get("WORLD_SIZE", "1"))
    message = error.message
    if ranks > 1 and error.exit_code == 1 and not lost:
        message += f" (process {os.environ.get('RANK', '0')} of {ranks})"
    if not _reported({"message": message, "hint": error.hint, "exit_code": error.exit_code, "lost": lost}):
        console.error(message, error.hint)
    if error.exit_code > 128:  # a signal: torch would take seconds to leave, and everything is tidied up already
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.exit_code)
    sys.exit(error.exit_code)


def _reported(error: dict[str, object]) -> bool:
    """In a rank, leave the error to the parent: when one fails all do, and only it can tell the cause."""
    folder = os.environ.get(REPORTS)
    if folder is None:
        return False
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent ends all ranks as soon as one of them is gone
    Path(folder, f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(error))
    return True
