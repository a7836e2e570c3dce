"""`alexnet prepare`: labelled pictures become a dataset directory."""

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_cli import console

if TYPE_CHECKING:
    from alexnet_cli.dataset.manifest import Dataset
    from alexnet_cli.dataset.preparation import Progress

SHOWN = 10  # rejects and ignored files that are named; the manifest has all rejects


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of class folders, a folder of IDX files, or torchvision:NAME.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", envvar="ALEXNET_DATASET", help="The dataset directory to write.")
    ] = Path("dataset"),
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes; if not given, one a core as far as the pictures occupy them.",
            show_default=False,
        ),
    ] = None,
    val_fraction: Annotated[
        float,
        typer.Option(min=0.0, max=0.9, help="Part of each class kept for validation if the source has no val."),
    ] = 0.1,
    max_rejects: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Part of the pictures that may be unusable.")
    ] = 0.01,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="At most this many pictures of each split, evenly over classes.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the dataset that is there.")] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the order of training pictures and the validation part.")
    ] = 0,
    class_names: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Names for IDX labels, one a line.", show_default=False),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where a torchvision set lies or goes.", show_default=False)
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the torchvision set first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make a dataset of 256×256 pictures in shards, with its mean picture and colour components.

    A run that was stopped goes on where it was when the same command is given again.

    Example: alexnet prepare ~/pictures --out dataset
    """
    from alexnet_cli.dataset import preparation
    from alexnet_cli.dataset.manifest import open_dataset
    from alexnet_cli.dataset.preparation import Options
    from alexnet_cli.dataset.sources.recognise import open_source

    listing = open_source(source, root, download, class_names)
    warn_of("not a picture by its name, left out", listing.ignored)
    options = Options(seed, val_fraction, limit)
    workers = workers or preparation.usual_workers(listing)
    steps = preparation.prepare(
        listing, out, options, workers=workers, overwrite=overwrite, max_rejects=max_rejects
    )
    with closing(steps):
        show_progress(steps)
    dataset = open_dataset(out)
    warn_of("cannot be used", [f"{bad['name']}: {bad['reason']}" for bad in rejects(dataset)])
    if as_json:
        console.result_json(summary(dataset))
    else:
        console.table(f"Dataset in {out}", ("", ""), summary_rows(dataset))


def warn_of(what: str, names: Sequence[str]) -> None:
    """Name the first few and count the rest."""
    for name in names[:SHOWN]:
        console.warn(f"{what}: {name}")
    if len(names) > SHOWN:
        console.warn(f"{what}: {len(names) - SHOWN} more")


def show_progress(steps: "Generator[Progress, None, None]") -> None:
    first = next(steps)
    if first.kept:
        console.note(f"going on: {first.kept} of {first.total} pictures were finished before")
    with console.progress("preparing", first.total, "pictures") as bar:
        for step in chain([first], steps):
            bar.update(step.done, f"{step.rejected} rejected" if step.rejected else "")


def rejects(dataset: "Dataset") -> list[dict[str, str]]:
    return [reject for split in dataset.manifest["splits"].values() for reject in split["rejects"]]


def summary(dataset: "Dataset") -> dict[str, Any]:
    """Give what the command reports, as plain values."""
    return {
        "out": str(dataset.root),
        "form": dataset.manifest["form"],
        "classes": len(dataset.classes),
        "pictures": {name: len(split.index) for name, split in dataset.splits.items()},
        "rejects": rejects(dataset),
        "bytes": sum(path.stat().st_size for path in dataset.root.iterdir() if path.is_file()),
        "rgb_mean": dataset.rgb_mean.tolist(),
        "eigenvalues": dataset.eigenvalues.tolist(),
        "eigenvectors": dataset.eigenvectors.tolist(),
        "fingerprint": dataset.fingerprint,
    }


def summary_rows(dataset: "Dataset") -> list[tuple[str, str]]:
    facts = summary(dataset)
    return [
        ("source", facts["form"]),
        ("classes", f"{facts['classes']:,}"),
        *((f"{name} pictures", f"{count:,}") for name, count in facts["pictures"].items()),
        ("rejected", f"{len(facts['rejects']):,}"),
        ("on disk", f"{facts['bytes'] / 1e6:,.1f} MB"),
        ("mean R, G, B", ", ".join(f"{value:.2f}" for value in facts["rgb_mean"])),
        (
            "standard deviations along the colour axes",
            ", ".join(f"{v**0.5:.2f}" for v in facts["eigenvalues"]),
        ),
        ("their squares, the eigenvalues", ", ".join(f"{value:.1f}" for value in facts["eigenvalues"])),
    ]
