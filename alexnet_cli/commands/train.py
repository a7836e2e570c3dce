"""`alexnet train`: a recipe on a dataset becomes a run directory."""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_cli import console
from alexnet_cli.options import Data, Device, Gpus, Processes, Runs, Settings

if TYPE_CHECKING:
    from alexnet_cli.engine.events import Ended, Event, Started, Step, Validated


MACHINE, FILES = "Where and how it is computed", "Runs, checkpoints and display"
"""Parts of the help."""

SETTINGS = ("recipe", "init_from", "epochs", "batch_size", "lr", "seed", "eval_every", "precision", "assignments")
"""The options that say what a run is; --resume needs none of them."""


def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Option(help="As in `alexnet describe RECIPE`, with variants: paper+six-conv.")
    ] = "paper",
    data: Data = "dataset",
    runs: Runs = Path("runs"),
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|FILE", help="Begin with the weights of a run, .pth or .caffemodel.", show_default=False
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.", show_default=False)] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Pause the run at this step.", show_default=False, rich_help_panel=FILES),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(help="Pause after so long: 90s, 30m, 5h.", show_default=False, rich_help_panel=FILES),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Over all processes together.", show_default=False)
    ] = None,
    lr: Annotated[float | None, typer.Option(min=0.0, help="The first learning rate.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order, crops, colours and dropout.")] = 1,
    eval_every: Annotated[float, typer.Option(min=0.0001, help="Epochs between validations.")] = 1.0,
    precision: Annotated[
        str, typer.Option(help="fp32, or where it is quicker tf32, bf16, fp16.", rich_help_panel=MACHINE)
    ] = "fp32",
    device: Device = None,
    gpus: Gpus = None,
    processes: Processes = None,
    parallel: Annotated[
        Literal["data", "towers", "hybrid"] | None,
        typer.Option(
            help="Of processes: data is a part of the batch each, hybrid splits fully connected layers too; "
            "towers is half the net on each of two GPUs.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Parts of a batch that does not fit; the same result.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile", help="Compile the step by torch.compile.", rich_help_panel=MACHINE)
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option("--deterministic", help="The same bits each time on a GPU too.", rich_help_panel=MACHINE),
    ] = None,
    cache: Annotated[
        Literal["none", "memory", "device", "disk"],
        typer.Option(
            help="memory, device: all pictures stay decoded there. disk: shards from afar stay here.",
            rich_help_panel=MACHINE,
        ),
    ] = "none",
    name: Annotated[
        str | None, typer.Option(help="Of the run directory.", show_default=False, rich_help_panel=FILES)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run.", show_default=False, rich_help_panel=FILES)
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start a new run even if one could go on.", rich_help_panel=FILES)
    ] = False,
    save_every: Annotated[
        str,
        typer.Option(
            help="Checkpoints, beside those at validations: 10m, 500steps, 2epochs.", rich_help_panel=FILES
        ),
    ] = "10m",
    keep_every: Annotated[
        str | None,
        typer.Option(help="Checkpoints that stay: 10epochs.", show_default=False, rich_help_panel=FILES),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files too, in the run.", rich_help_panel=FILES)
    ] = False,
    assignments: Settings = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show every setting, then stop.", rich_help_panel=FILES)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One batch of everything; nothing is kept.", rich_help_panel=FILES)
    ] = False,
) -> None:
    """Train the network. The same command again goes on where it stopped.

    Example: alexnet train --recipe small --epochs 10 --set optimizer.rate=0.02
    """
    from alexnet_cli import recipes
    from alexnet_cli.dataset.manifest import open_squares
    from alexnet_cli.engine import launch, starting, training
    from alexnet_cli.engine import tensorboard as board

    shortcuts = {"schedule.epochs": epochs, "optimizer.batch_size": batch_size, "optimizer.rate": lr}
    wanted = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    chosen = recipes.chosen(recipe, wanted + (assignments or []))
    if print_config:
        console.result(training.described(chosen))
        return
    limits = training.limits(max_steps, max_time, save_every, keep_every)
    if tensorboard:
        board.needed()
    source = starting.source(init_from) if init_from else None
    dataset = open_squares(data, keep=cache == "disk")
    place = launch.placement(device, gpus, processes, parallel)
    if resume is not None and not _given(context):
        config = training.config_of(resume, dataset, place)
    else:
        config = training.config(chosen, dataset, seed, eval_every, precision, place, source)
    if place.ranks > 1 and not launch.launched():
        raise typer.Exit(launch.relaunch(place.ranks))
    asked = training.Asked(compiled, accumulate, deterministic, parallel)
    job = training.Job(dataset, config, limits, place, asked, tensorboard, source, cache)
    ended = show(job.rehearsed() if dry_run else job.started(runs, name, resume, new), place.said)
    console.result(_dry_result(ended) if dry_run else _result(ended))
    raise typer.Exit(128 + ended.signal if ended.signal else 0)


def _given(context: typer.Context) -> bool:
    sources = (context.get_parameter_source(name) for name in SETTINGS)
    return any(source is not None and source.name == "COMMANDLINE" for source in sources)


def show(events: Iterator["Event"], where: str) -> "Ended":
    """Show a training as it goes."""
    from alexnet_cli.engine.events import Ended, Note, Saved, Started, Step, Validated, Validating

    ended = None
    with ExitStack() as shown:
        for event in events:
            if isinstance(event, Note):
                (console.warn if event.warning else console.note)(event.text)
            elif isinstance(event, Started):
                begun = f", from step {event.position.steps:,}" if event.position.steps else ""
                console.note(f"training {event.run} on {where}, maps {event.layout}{begun}")
                bar = shown.enter_context(console.progress("training", event.steps, "steps"))
                bar.update(event.position.steps)
                spent, started = _Spent(event), event
            elif isinstance(event, Step):
                bar.update(event.step, _step_line(event, spent.lately(event)), _time_left(started, event))
            elif isinstance(event, Validating):
                bar.update(bar.done, f"validating {event.done:,}/{event.pictures:,}", bar.left)
            elif isinstance(event, Validated):
                spent.validating += event.took
                console.note(_validation_line(event))
            elif isinstance(event, Saved):
                spent.saving += event.took
            elif isinstance(event, Ended):
                bar.update(bar.done, left=0)
                ended = event
    assert ended is not None
    if spent.steps:
        console.note(spent.altogether(ended))
    console.note(f"{ended.said}, at step {ended.position.steps:,}")
    return ended


def _result(ended: "Ended") -> str:
    best = ended.position.best_error
    return f"{ended.run}" + (f": lowest validation error {best:.2f} %" if best is not None else "")


def _dry_result(ended: "Ended") -> str:
    return "stopped" if ended.signal else "one batch of everything works; nothing was kept"


def _time_left(started: "Started", step: "Step") -> float | None:
    """Of --max-time; without it the bar's own rate tells."""
    if started.max_seconds is None:
        return None
    return max(0.0, started.max_seconds - (step.seconds - started.position.seconds))


class _Spent:
    """Where the wall time goes: pictures over all of it, and the shares of what is not a step."""

    def __init__(self, started: "Started") -> None:
        self.pictures = self.steps = 0
        self.waiting = self.validating = self.saving = 0.0
        self._first = self._mark(started.position.seconds)
        self._marks = deque([self._first])

    def _mark(self, seconds: float) -> tuple[float, ...]:
        return seconds, self.pictures, self.waiting, self.validating, self.saving

    def lately(self, step: "Step") -> str:
        """Over the last half minute."""
        self.steps += 1
        self.pictures += step.pictures
        self.waiting += step.waited
        self._marks.append(self._mark(step.seconds))
        while len(self._marks) > 2 and step.seconds - self._marks[0][0] > console.RATE_WINDOW:
            self._marks.popleft()
        return _shares(self._marks[0], self._marks[-1])

    def altogether(self, ended: "Ended") -> str:
        """Over this call."""
        spent = console.duration(ended.seconds - self._first[0])
        return f"{self.steps:,} steps in {spent}  {_shares(self._first, self._mark(ended.seconds))}"


def _shares(then: tuple[float, ...], now: tuple[float, ...]) -> str:
    seconds, pictures, *parts = (after - before for after, before in zip(now, then, strict=True))
    waiting, *others = (100 * part / seconds for part in parts)
    shown = [f"waiting {waiting:.0f} %"]
    shown += [
        f"{name} {share:.0f} %" for name, share in zip(("validating", "saving"), others, strict=True) if share
    ]
    return f"{pictures / seconds:.1f} pictures/s  " + "  ".join(shown)


def _step_line(step: "Step", speed: str) -> str:
    return f"epoch {step.epoch}  loss {step.loss:.3f}  rate {step.rate:g}  {speed}"


def _validation_line(event: "Validated") -> str:
    tally = event.tally
    top5 = f", top-5 {tally.top5_error:.2f} %" if event.classes > 5 else ""
    best = "  best" if event.best else ""
    when = f"step {event.step:,}  {console.duration(event.seconds)}"
    return f"{when}  val loss {tally.cross_entropy:.3f}  errors: top-1 {tally.top1_error:.2f} %{top5}{best}"
