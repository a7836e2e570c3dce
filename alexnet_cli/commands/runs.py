"""`alexnet runs`: the runs at hand, and rates changed by hand."""

import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_cli import console
from alexnet_cli.options import Json, Runs

if TYPE_CHECKING:
    from alexnet_cli.engine.overview import Entry

app = typer.Typer(
    name="runs",
    invoke_without_command=True,
    rich_markup_mode="rich",
    help="List the runs at hand, or change the rate of one.\n\nExample: alexnet runs --json",
)


@app.callback()
def runs(context: typer.Context, runs: Runs = Path("runs"), as_json: Json = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from alexnet_cli.engine.overview import entries

    found = [*entries(runs)]
    if as_json:
        console.result_json([_document(entry) for entry in found])
    elif not found:
        console.note(f"there are no runs in {runs}")
    else:
        columns = ("run", "state", "recipe", "dataset", "epoch", "step", "error", "changed")
        console.table("", columns, map(_row, found), right=(4, 5, 6, 7))
    for entry in found:
        if entry.said and entry.state != "finished":
            console.warn(f"{entry.path}: {entry.said}")


def _document(entry: "Entry") -> dict[str, Any]:
    changed = datetime.fromtimestamp(entry.changed, timezone.utc).isoformat(timespec="seconds")
    return asdict(entry) | {"path": str(entry.path), "changed": changed}


def _row(entry: "Entry") -> tuple[str, ...]:
    known = entry.epoch is not None
    return (
        str(entry.path),
        entry.state,
        entry.recipe or "",
        Path(entry.dataset).name if entry.dataset else "",
        f"{entry.epoch}/{entry.epochs}" if known else "",
        f"{entry.step:,}" if known else "",
        "" if entry.best_error is None else f"{entry.best_error:.2f} %",
        _ago(time.time() - entry.changed),
    )


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "now"


@app.command()
def set_lr(
    run: Annotated[Path, typer.Argument(help="Run directory; of a run that trains, or is paused.")],
    divide: Annotated[
        float | None, typer.Option(help="By this number; the authors' was 10.", show_default=False)
    ] = None,
    to: Annotated[
        float | None, typer.Option(help="To this rate, of weights; later drops divide it.", show_default=False)
    ] = None,
) -> None:
    """Change the learning rate of a run by hand, also while it trains: from its next step on.

    Example: alexnet runs set-lr runs/paper-1 --divide 10
    """
    from alexnet_cli.engine import rates
    from alexnet_cli.runs import is_locked, open_run

    if (divide is None) == (to is None):
        raise typer.BadParameter("say either --divide 10 or --to 0.001")
    opened, request = open_run(run), rates.Request(divide, to)
    rates.ask(opened, request)
    when = "from its next step on" if is_locked(opened) else "when it goes on"
    console.result(f"{run}: the rate is {request.words} {when}")
