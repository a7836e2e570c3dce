"""`alexnet figures`: the paper's figures for a run, and what the trainer sees."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from alexnet_cli import console
from alexnet_cli.options import Data, Device, Json, OwnData, Runs, Settings

if TYPE_CHECKING:
    from alexnet_cli.report.answers import Answers
    from alexnet_cli.report.sources import Source


class _RunIsMeant(TyperGroup):
    """`figures runs/paper-1 --only kernels` is `figures run runs/paper-1 --only kernels`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="figures",
    cls=_RunIsMeant,
    rich_markup_mode="rich",
    help="Draw the paper's figures for a run: `alexnet figures runs/paper-1`; or a batch as the trainer sees it.",
)


@app.command()
def run(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="A run or a model file; the newest run if none.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; figures/ inside the run.", show_default=False)
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Of kernels, curves, panel, confusion, colours, maps; all that are possible.", show_default=False
        ),
    ] = None,
    data: OwnData = None,
    runs: Runs = Path("runs"),
    split: Annotated[str, typer.Option(help="Of the panel and the confusion matrix.")] = "val",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many pictures of it, evenly spaced.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="For the maps and the colours; the first of the split.", show_default=False),
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Draw kernels, curves, panel, confusion, colours and feature maps of a run, as PNG and SVG.

    Example: alexnet figures run runs/paper-1 --only kernels,curves
    """
    from alexnet_cli import runs as directories
    from alexnet_cli.report import figures, plotting, sources

    plotting.needed()
    names = figures.chosen(only)
    source = sources.opened(model or directories.newest_model(runs).parent, data)
    lacking = figures.possible(source, split, picture is not None)
    names = _without(names, lacking, asked_for=only is not None)
    folder = out or source.folder / "figures"
    answers = _answers(source, split, limit, device) if {*names} & {*figures.ASKED} else None
    shown = figures.picture(source, split, picture) if {*names} & {"colours", "maps"} else None
    subject = figures.Subject(source, split, answers, limit, shown)
    paths = [str(path) for name in names for path in figures.write(name, subject, folder)]
    if as_json:
        console.result_json({"model": str(source.path), "figures": paths})
    else:
        for path in paths:
            console.result(path)


def _without(names: tuple[str, ...], lacking: dict[str, str], asked_for: bool) -> tuple[str, ...]:
    """The figures that can be drawn; one that was asked for by name and cannot is an error."""
    from alexnet_cli.errors import AlexNetError

    for name in names:
        if name in lacking and asked_for:
            message = f"the figure '{name}' cannot be drawn: {lacking[name]}"
            raise AlexNetError(message, "name a run, and its dataset with --data")
        if name in lacking:
            console.note(f"without {name}: {lacking[name]}")
    return tuple(name for name in names if name not in lacking)


def _answers(source: "Source", split: str, limit: int | None, device: str | None) -> "Answers":
    from alexnet_cli.engine import launch
    from alexnet_cli.engine.prediction import classifier
    from alexnet_cli.report.answers import Answers, asked

    pictures = source.split(split).part(limit)
    classify = classifier(source.checkpoint, 1, launch.device(device))
    with console.progress(f"evaluating {source.name}", len(pictures.index), "pictures") as bar:
        for found in asked(classify, pictures):
            if isinstance(found, Answers):
                return found
            bar.update(found)
    raise AssertionError("the answers come last")


@app.command()
def batch(
    recipe: Annotated[str, typer.Option(help="A recipe, with variants.")] = "paper",
    data: Data = "dataset",
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png, .svg or .pdf file.")] = Path("batch.png"),
    count: Annotated[int, typer.Option(min=1, max=64, help="Pictures of the batch to show.")] = 8,
    epoch: Annotated[int, typer.Option(min=1, help="Which epoch.")] = 1,
    step: Annotated[int, typer.Option(min=1, help="Which batch of it.")] = 1,
    seed: Annotated[int, typer.Option(help="That of the run.")] = 1,
    assignments: Settings = None,
) -> None:
    """Draw a training batch as it is stored, and as the network is given it.

    Example: alexnet figures batch --recipe original --data dataset -o batch.png
    """
    from alexnet_cli import recipes
    from alexnet_cli.dataset.manifest import open_squares
    from alexnet_cli.errors import AlexNetError
    from alexnet_cli.report import batch as batches
    from alexnet_cli.report import plotting

    plotting.needed()
    chosen, dataset = recipes.chosen(recipe, assignments or []), open_squares(data)
    if "train" not in dataset.splits:
        raise AlexNetError(f"the dataset in {dataset.place} has no training pictures", "prepare one that has")
    seen = batches.seen(dataset, chosen, seed, epoch - 1, step - 1, count)
    with plotting.figure(*batches.size(len(seen.labels))) as figure:
        batches.draw(figure, seen, dataset.classes, chosen)
        plotting.save(figure, out, f"A training batch of recipe {chosen.name}")
    console.result(str(out))
