"""`alexnet bench`: how fast the parts are on this machine, each next to the plain ways of doing the same."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alexnet_cli import console
from alexnet_cli.options import Json

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Measure the parts on this machine, next to the plain ways of doing the same work.",
)


@app.callback()
def bench() -> None:
    pass  # with a callback a single command keeps its name


@app.command()
def prepare(
    pictures: Annotated[Path, typer.Argument(help="A folder of pictures.", exists=True, file_okay=False)],
    count: Annotated[int, typer.Option(min=1, help="Pictures to measure on.")] = 300,
    whole: Annotated[
        bool, typer.Option("--whole", help="Instead, thousands of pictures to disk, by one worker and by two.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pictures a second, on one core, from files in memory to stored 256×256 JPEG.

    Example: alexnet bench prepare ~/pictures --count 100
    """
    if whole:
        _whole(pictures, as_json)
        return
    from alexnet_cli.bench.prepare import rows

    found = rows(pictures, count)
    if as_json:
        console.result_json([asdict(row) for row in found])
        return
    cells = [(row.way, f"{row.rate:.0f}", f"{row.ours:.2f}×") for row in found]
    console.table("Preparing, one core", ("way", "pictures/s", "ours is faster by"), cells, right=(1, 2))


def _whole(pictures: Path, as_json: bool) -> None:
    from alexnet_cli.bench.prepare import whole

    found = whole(pictures)
    if as_json:
        console.result_json([asdict(row) for row in found])
        return
    cells = [(row.workers, f"{row.rate:.0f}", f"{row.times:.2f}×") for row in found]
    console.table("Preparing, to disk", ("workers", "pictures/s", "one worker's"), cells, right=(0, 1, 2))
