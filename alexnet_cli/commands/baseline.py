"""`alexnet baseline`: what the network is measured against, Fisher vectors of dense descriptors."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alexnet_cli import console
from alexnet_cli.options import Json, Runs, not_far

if TYPE_CHECKING:
    from alexnet_cli.engine.evaluation import Tally
    from alexnet_cli.fisher.building import Building


def baseline(
    dataset: Annotated[
        Path,
        typer.Argument(
            envvar="ALEXNET_DATASET",
            callback=not_far,
            help="Dataset directory that `prepare` wrote.",
            metavar="DATASET",
        ),
    ] = Path("dataset"),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Its folder; runs/baseline-1.", show_default=False)
    ] = None,
    runs: Runs = Path("runs"),
    descriptor: Annotated[
        Literal["sift", "colour", "both"], typer.Option(help="both: a classifier of each, their scores averaged.")
    ] = "both",
    gaussians: Annotated[int, typer.Option(min=1, max=65536, help="Of the mixture.")] = 256,
    dimensions: Annotated[int, typer.Option(min=1, max=128, help="Principal components of a descriptor.")] = 64,
    step: Annotated[int, typer.Option(min=1, max=64, help="Pixels from one patch to the next.")] = 4,
    pyramid: Annotated[
        Literal["none", "bands", "full"],
        typer.Option(help="Regions: the picture; and its three bands; and its quarters."),
    ] = "bands",
    epochs: Annotated[int, typer.Option(min=1, help="Of the classifiers.")] = 30,
    rate: Annotated[float, typer.Option(min=0.0, help="The classifiers' first; it falls to 0.")] = 32.0,
    decay: Annotated[float, typer.Option(min=0.0, help="Of the classifiers' weights.")] = 1e-6,
    sample: Annotated[
        int, typer.Option(min=100, help="Descriptors that components and mixture are learnt from.")
    ] = 100_000,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many training pictures, evenly spaced.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample, the mixture and the order.")] = 1,
    as_json: Json = False,
) -> None:
    """Train the baseline that the paper's network beat: Fisher vectors of SIFT and of colour.

    Table 1's "SIFT + FVs", 45.7 % and 25.7 % on ILSVRC-2010, averages two such classifiers, of two kinds of
    descriptors; Table 2's 26.2 % is of more kinds. The same command again goes on where it stopped.
    `eval`, `predict` and `report` take the folder.

    Example: alexnet baseline dataset --descriptor sift --gaussians 64
    """
    from alexnet_cli import files
    from alexnet_cli.dataset.manifest import open_squares
    from alexnet_cli.fisher import building, descriptors
    from alexnet_cli.fisher.model import Settings

    descriptors.needed(training=True)
    settings = Settings(descriptor, gaussians, dimensions, step, pyramid, epochs, rate, decay, sample, limit, seed)
    made = building.opened(out, runs, open_squares(dataset), settings)
    with files.locked(
        made.root / ".lock", f"another process is at {made.root}", "stop that one, or name another --out"
    ):
        _show(made)
        tally = _validated(made)
        _result(made, tally, as_json)


def _show(made: "Building") -> None:
    """Do the stages, each with a bar of its own."""
    console.note(f"{made.root}: {made.settings.length:,} numbers a picture and descriptor")
    current = None
    with ExitStack() as shown:
        for stage in made.stages():
            if (stage.name, stage.kind) != current:
                current = stage.name, stage.kind
                shown.close()
                bar = shown.enter_context(console.progress(f"{stage.kind}: {stage.name}", stage.total, stage.unit))
            bar.update(stage.done, stage.said)


def _validated(made: "Building") -> "Tally | None":
    """The errors on the validation pictures, if there are any."""
    import torch

    from alexnet_cli.engine import models
    from alexnet_cli.engine.evaluation import Tally, split_for, tallies
    from alexnet_cli.engine.parallel import Ranks
    from alexnet_cli.loading.loader import threads

    if "val" not in made.dataset.splits:
        return None
    model, cpu = models.load(made.model), torch.device("cpu")
    split, tally = split_for(model.subject, made.dataset, "val"), Tally()
    with console.progress("validating", len(split.index), "pictures") as bar:
        for tally in tallies(model.classifier(1, cpu), split, Ranks(0, 1, cpu), threads()):
            bar.update(tally.pictures)
    return tally


def _result(made: "Building", tally: "Tally | None", as_json: bool) -> None:
    from alexnet_cli.machine import peak_memory

    seconds, top5 = made.seconds(), len(made.dataset.classes) > 5
    if as_json:
        console.result_json(
            {
                "baseline": str(made.root),
                "pictures": len(made.split.index),
                "settings": vars(made.settings),
                "numbers": made.settings.length,
                "val": tally and {"top1_error": tally.top1_error, "top5_error": tally.top5_error},
                "seconds": seconds,
                "peak_bytes": peak_memory(),
            }
        )
        return
    rows: list[tuple[str, Any]] = [(stage, console.duration(spent)) for stage, spent in seconds.items()]
    if tally is not None:
        rows.append(("top-1 validation error", f"{tally.top1_error:.2f} %"))
        rows += [("top-5 validation error", f"{tally.top5_error:.2f} %")] * top5
    rows.append(("peak memory", f"{peak_memory() / 1e9:.2f} GB"))
    console.table(str(made.root), ("", ""), rows, right=(1,))
