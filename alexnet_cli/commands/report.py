"""`alexnet report`: one HTML page about runs, to look at, keep or send."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_cli import console
from alexnet_cli.options import Crops, Device, OwnData, Runs

if TYPE_CHECKING:
    import torch

    from alexnet_cli.report.answers import Answers
    from alexnet_cli.report.sources import Source


def report(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Runs or model files; the newest run if none.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    data: OwnData = None,
    runs: Runs = Path("runs"),
    split: Annotated[str, typer.Option(help="To evaluate: val, test or train.")] = "val",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many pictures of it, evenly spaced.", show_default=False)
    ] = None,
    crops: Crops = 1,
    device: Device = None,
) -> None:
    """Write a page about runs: results, curves, classes, predictions, kernels and settings, side by side.

    It is one file that needs no network. The runs are evaluated for it, each on the dataset it was trained on.

    Example: alexnet report runs/paper-1 runs/small-1 -o report.html --limit 5000
    """
    from alexnet_cli import runs as directories
    from alexnet_cli.engine import launch
    from alexnet_cli.files import check_place, write_bytes
    from alexnet_cli.report import page, sources

    check_place(out)
    where = launch.device(device)
    entries = []
    for given in models or [directories.newest_model(runs).parent]:
        source = sources.opened(given, data)
        if source.without:
            console.warn(f"{source.without}: {source.name} is not evaluated")
        answers = None if source.without else _answers(source, split, limit, crops, where)
        entries.append(page.Entry(source, split, crops, limit, answers))
    write_bytes(out, page.html(entries).encode())
    console.result(str(out))


def _answers(source: "Source", split: str, limit: int | None, crops: int, device: "torch.device") -> "Answers":
    from alexnet_cli.report.answers import Answers, asked

    pictures = source.split(split).part(limit)
    with console.progress(f"evaluating {source.name}", len(pictures.index), "pictures") as bar:
        for found in asked(source.model.classifier(crops, device), pictures):
            if isinstance(found, Answers):
                return found
            bar.update(found)
    raise AssertionError("the answers come last")
