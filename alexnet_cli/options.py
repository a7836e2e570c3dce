"""Options that several commands share, so that one idea has one name and one help text everywhere."""

import re
from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DIR|URL",
        envvar="ALEXNET_DATASET",
        help="Dataset directory that `prepare` wrote, or where it lies: https://…, s3://…, gs://….",
    ),
]
OwnData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR|URL",
        envvar="ALEXNET_DATASET",
        help="Dataset directory, or where it lies; the one that the run was trained on.",
        show_default=False,
    ),
]


def not_far(path: Path) -> Path:
    """Refuse a URL where there must be a folder; as a path it has lost a slash."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise typer.BadParameter("it must be a folder of this machine; train and eval take URLs")
    return path


Runs = Annotated[Path, typer.Option("--runs", envvar="ALEXNET_RUNS", help="Folder of run directories.")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        envvar="ALEXNET_DEVICE",
        help="cpu, cuda or mps; a GPU if there is one.",
        show_default=False,
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option("--gpus", help="A count, a list (0,1) or all; one if there is one.", show_default=False),
]
Processes = Annotated[
    int | None, typer.Option("--processes", min=1, help="Processes on the CPU.", show_default=False)
]


def _one_or_ten(crops: int) -> int:
    if crops not in (1, 10):
        raise typer.BadParameter("it is 1 or 10")
    return crops


Crops = Annotated[
    int, typer.Option("--crops", callback=_one_or_ten, help="1: the centre patch; 10: the paper's ten patches.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any setting; train --print-config lists them.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Submission = Annotated[
    Path | None, typer.Option(help="Write five ILSVRC IDs a picture for ILSVRC's server.", show_default=False)
]
Devkit = Annotated[
    Path | None, typer.Option(help="Folder of ILSVRC's development kit, for --submission.", show_default=False)
]
