"""`alexnet study`: the paper's own experiments on any labelled pictures, at the budget there is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_cli import console, paper, settings
from alexnet_cli.errors import AlexNetError
from alexnet_cli.options import Crops, Data, Device, Json, Settings

if TYPE_CHECKING:
    from alexnet_cli.dataset.manifest import Dataset
    from alexnet_cli.engine.events import Event
    from alexnet_cli.engine.launch import Placement
    from alexnet_cli.studies.carrying import Begun, Going, Measured
    from alexnet_cli.studies.directory import Study
    from alexnet_cli.studies.plan import Asked, Plan
    from alexnet_cli.studies.tables import Table

app = typer.Typer(
    name="study",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The paper's own experiments on your pictures, at your budget. After a stop the same command goes on.",
)

HOW = "How long and how wide"
Recipe = Annotated[str, typer.Option(help="Of the net, as in `alexnet describe RECIPE`.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder; studies/NAME-DATASET.", show_default=False)]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time for all runs together, as 30m or 2h; turned into steps, the same for each run. 30m if there is "
        "no --steps either.",
        show_default=False,
        rich_help_panel=HOW,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Of each run, instead of a budget.", show_default=False, rich_help_panel=HOW),
]
Width = Annotated[
    float | None,
    typer.Option(
        min=0.01, max=1, help="Of each layer, beside the paper's.", show_default=False, rich_help_panel=HOW
    ),
]
Seeds = Annotated[int, typer.Option(min=1, max=31, help="Runs of each kind, from seed 1 on.", rich_help_panel=HOW)]
Pictures = Annotated[
    int | None,
    typer.Option(
        min=1, help="Only so many training pictures, evenly spaced.", show_default=False, rich_help_panel=HOW
    ),
]
Measure = Annotated[
    int,
    typer.Option(min=1, help="Pictures of each split, at most, that errors are of.", rich_help_panel=HOW),
]
Precision = Annotated[
    str, typer.Option(help="fp32, or where it is quicker tf32, bf16, fp16.", rich_help_panel=HOW)
]


@app.command()
def relu(
    data: Data = "dataset",
    out: Out = None,
    recipe: Recipe = "small",
    error: Annotated[
        float, typer.Option(min=0.1, max=99, help="Training error to reach, in percent.")
    ] = paper.FIGURE1_ERROR,
    budget: Budget = None,
    steps: Steps = None,
    width: Width = None,
    seeds: Seeds = 1,
    pictures: Pictures = None,
    measure: Measure = 1000,
    precision: Precision = "fp32",
    device: Device = None,
    assignments: Settings = None,
    as_json: Json = False,
) -> None:
    """Figure 1: how soon a net of four layers learns with ReLU, tanh and the logistic function.

    The rate of each is searched first, with a part of the budget. Nothing regularizes.

    Example: alexnet study relu --budget 10m
    """
    from alexnet_cli.studies.plan import Asked

    length = (budget, steps, width, seeds, pictures)
    asked = Asked("relu", recipe, *length, measure, precision, assignments, error=error)
    _carry_out(asked, data, out, device, as_json)


@app.command()
def ablations(
    data: Data = "dataset",
    out: Out = None,
    recipe: Recipe = "small",
    only: Annotated[
        str | None,
        typer.Option(help="These variants, as no-lrn,no-dropout; all of the paper's.", show_default=False),
    ] = None,
    crops: Crops = 1,
    budget: Budget = None,
    steps: Steps = None,
    width: Width = None,
    seeds: Seeds = 3,
    pictures: Pictures = None,
    measure: Measure = 2000,
    precision: Precision = "fp32",
    device: Device = None,
    assignments: Settings = None,
    as_json: Json = False,
) -> None:
    """The net against itself without one of its parts: normalization, dropout, crops, a convolution, a tower.

    Training and validation error and their gap, beside the paper's figures. What is within the noise is called so.

    Example: alexnet study ablations --only no-lrn,no-dropout --budget 30m
    """
    from alexnet_cli.studies.plan import Asked

    names = tuple(name.strip() for name in only.split(",")) if only else ()
    length = (budget, steps, width, seeds, pictures)
    asked = Asked("ablations", recipe, *length, measure, precision, assignments, crops, names)
    _carry_out(asked, data, out, device, as_json)


@app.command()
def ensemble(
    data: Data = "dataset",
    out: Out = None,
    recipe: Recipe = "small",
    crops: Crops = 1,
    budget: Budget = None,
    steps: Steps = None,
    width: Width = None,
    seeds: Seeds = 5,
    pictures: Pictures = None,
    measure: Measure = 5000,
    precision: Precision = "fp32",
    device: Device = None,
    assignments: Settings = None,
    as_json: Json = False,
) -> None:
    """Nets of one recipe that differ by their seeds, each by itself and averaged, as in Table 2.

    Example: alexnet study ensemble --seeds 5 --crops 10
    """
    from alexnet_cli.studies.plan import Asked

    length = (budget, steps, width, seeds, pictures)
    asked = Asked("ensemble", recipe, *length, measure, precision, assignments, crops=crops)
    _carry_out(asked, data, out, device, as_json)


@app.command()
def pretrain(
    data: Data = "dataset",
    out: Out = None,
    recipe: Recipe = "small",
    crops: Crops = 1,
    budget: Budget = None,
    steps: Steps = None,
    width: Width = None,
    seeds: Seeds = 3,
    pictures: Pictures = None,
    measure: Measure = 2000,
    precision: Precision = "fp32",
    device: Device = None,
    assignments: Settings = None,
    as_json: Json = False,
) -> None:
    """A net trained on every other class first and then on the rest, beside one from scratch: "1 CNN*" of Table 2.

    Example: alexnet study pretrain --budget 20m
    """
    from alexnet_cli.studies.plan import Asked

    length = (budget, steps, width, seeds, pictures)
    asked = Asked("pretrain", recipe, *length, measure, precision, assignments, crops=crops)
    _carry_out(asked, data, out, device, as_json)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Of a study, also of one that is going on.")],
    as_json: Json = False,
) -> None:
    """The table and the plot of a study as far as it is; both are written into its folder too.

    Example: alexnet study show studies/ablations-dataset
    """
    from alexnet_cli.studies.directory import open_study

    _show(open_study(folder), as_json)


def _carry_out(asked: "Asked", data: str, out: Path | None, device: str | None, as_json: bool) -> None:
    """Begin the study or go on with it, and show what came of it."""
    from alexnet_cli.dataset.manifest import open_squares
    from alexnet_cli.engine import launch
    from alexnet_cli.studies import carrying, directory

    dataset, place = open_squares(data), launch.placement(device, None, None)
    carrying.check_alone()
    carrying.check_splits(dataset)
    wanted = asked.plan(dataset)
    root = out or Path("studies") / f"{wanted.kind}-{Path(dataset.place).name}"
    study = directory.existing(root, wanted) or _begun(root, wanted, dataset, place)
    console.note(f"{root}: {study.plan.steps:,} steps for each run")
    try:
        _watch(carrying.carried_out(study, dataset, place))
    except AlexNetError:
        _written(study)
        raise
    _show(study, as_json)


def _begun(root: Path, wanted: "Plan", dataset: "Dataset", place: "Placement") -> "Study":
    """A new study; where there is a budget it becomes a number of steps here."""
    from alexnet_cli.studies import carrying, directory

    if not wanted.steps:
        for said in carrying.steps_within(wanted, dataset, place):
            if isinstance(said, int):
                wanted = replace(wanted, steps=said)
            else:
                console.note(said.what)
    return directory.created(root, wanted)


def _watch(events: Iterator["Event | Begun | Going | Measured"]) -> None:
    """One bar over all runs, and a line for each that is done. What the engine says of every run is said once."""
    from alexnet_cli.engine.events import Note
    from alexnet_cli.studies.carrying import Begun, Going, Measured

    said: set[str] = set()
    with console.progress("study", 1, "steps") as bar:
        for event in events:
            if isinstance(event, Going):
                bar.total = event.total
                bar.update(event.done, event.said)
            elif isinstance(event, Begun):
                bar.text = event.what
            elif isinstance(event, Measured):
                train, val = event.point.train.top1_error, event.point.val.top1_error
                console.note(
                    f"{event.trial.name}, step {event.point.steps:,}: training error {train:.2f} %, "
                    f"validation error {val:.2f} %"
                )
            elif isinstance(event, Note) and event.text not in said:
                said.add(event.text)
                (console.warn if event.warning else console.note)(event.text)


def _written(study: "Study") -> "Table":
    """The table and, where matplotlib is there, the plot, in the study's folder."""
    table = study.table()
    table.write(study.root)
    try:
        study.draw()
    except AlexNetError as error:
        console.note(f"no plot: {error.message}: {error.hint}")
    return table


def _show(study: "Study", as_json: bool) -> None:
    table = _written(study)
    if as_json:
        document = {"study": str(study.root), "plan": settings.nested(study.plan)}
        console.result_json(document | {"rows": table.records, "notes": table.notes})
        return
    console.table(table.title, table.columns, table.rows, right=table.right)
    for note in table.notes:
        console.note(note)
    console.note(f"in {study.root}: table.md, table.csv, plot.svg, plot.png, and a run directory for each")
