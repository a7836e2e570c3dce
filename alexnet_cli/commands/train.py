"""`alexnet train`: a recipe on a dataset becomes a run directory."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_cli import console
from alexnet_cli.options import Data, Device, Gpus, Processes, Runs, Settings

if TYPE_CHECKING:
    from alexnet_cli.engine.loop import Ended, Event, Started, Step, Validated


SETTINGS = ("recipe", "epochs", "batch_size", "lr", "seed", "eval_every", "precision", "assignments")
"""The options that say what a run is; --resume needs none of them."""


def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Option(help="As in `alexnet describe RECIPE`, with variants: paper+six-conv.")
    ] = "paper",
    data: Data = Path("dataset"),
    runs: Runs = Path("runs"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.", show_default=False)] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Pause the run at this step.", show_default=False)
    ] = None,
    max_time: Annotated[
        str | None, typer.Option(help="Pause after so long: 90s, 30m, 5h.", show_default=False)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Over all processes together.", show_default=False)
    ] = None,
    lr: Annotated[float | None, typer.Option(min=0.0, help="The first learning rate.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order, crops, colours and dropout.")] = 1,
    eval_every: Annotated[float, typer.Option(min=0.0001, help="Epochs between validations.")] = 1.0,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 where the arithmetic is quicker.")] = "fp32",
    device: Device = None,
    gpus: Gpus = None,
    processes: Processes = None,
    cache: Annotated[
        Literal["none", "memory"], typer.Option(help="memory: read the shards once, keep all pictures decoded.")
    ] = "none",
    name: Annotated[str | None, typer.Option(help="Of the run directory.", show_default=False)] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run.", show_default=False)] = None,
    new: Annotated[bool, typer.Option("--new", help="Start a new run even if one could go on.")] = False,
    assignments: Settings = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show every setting, then stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="One batch of everything; nothing is kept.")] = False,
) -> None:
    """Train the network. The same command again goes on where it stopped.

    Example: alexnet train --recipe small --epochs 10 --set optimizer.rate=0.02
    """
    from alexnet_cli import recipes
    from alexnet_cli.dataset.manifest import open_squares
    from alexnet_cli.engine import launch, training
    from alexnet_cli.engine.loop import Limits
    from alexnet_cli.loading.kept import in_memory

    shortcuts = {"schedule.epochs": epochs, "optimizer.batch_size": batch_size, "optimizer.rate": lr}
    wanted = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    chosen = recipes.chosen(recipe, wanted + (assignments or []))
    if print_config:
        console.result(training.described(chosen))
        return
    dataset = open_squares(data)
    place = launch.placement(device, gpus, processes)
    if resume is not None and not _given(context):
        config = training.config_of(resume, dataset, place)
    else:
        config = training.config(chosen, dataset, seed, eval_every, precision, place)
    if place.ranks > 1 and not launch.launched():
        raise typer.Exit(launch.relaunch(place.ranks))
    if cache == "memory":
        dataset = in_memory(dataset, int(os.environ.get("LOCAL_WORLD_SIZE", place.ranks)))
    limits = Limits(max_steps, training.seconds(max_time))
    job = training.Job(dataset, config, limits, place)
    ended = show(job.rehearsed() if dry_run else job.started(runs, name, resume, new), place.said)
    console.result(_dry_result(ended) if dry_run else _result(ended))
    raise typer.Exit(128 + ended.signal if ended.signal else 0)


def _given(context: typer.Context) -> bool:
    sources = (context.get_parameter_source(name) for name in SETTINGS)
    return any(source is not None and source.name == "COMMANDLINE" for source in sources)


def show(events: Iterator["Event"], where: str) -> "Ended":
    """Show a training as it goes."""
    from alexnet_cli.engine.loop import Ended, Note, Started, Step, Validated, Validating

    ended = None
    with ExitStack() as shown:
        for event in events:
            if isinstance(event, Note):
                console.note(event.text)
            elif isinstance(event, Started):
                begun = f", from step {event.position.steps:,}" if event.position.steps else ""
                console.note(f"training {event.run} on {where}, maps {event.layout}{begun}")
                bar = shown.enter_context(console.progress("training", event.steps, "steps"))
                bar.update(event.position.steps)
                speed, started = _Speed(event), event
            elif isinstance(event, Step):
                bar.update(event.step, _step_line(event, speed.after(event)), _time_left(started, event))
            elif isinstance(event, Validating):
                bar.update(bar.done, f"validating {event.done:,}/{event.pictures:,}", bar.left)
            elif isinstance(event, Validated):
                console.note(_validation_line(event))
            elif isinstance(event, Ended):
                bar.update(bar.done, left=0)
                ended = event
    assert ended is not None
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


class _Speed:
    """Pictures over wall time and the share of it that went on waiting for them, over the last half minute."""

    def __init__(self, started: "Started") -> None:
        self._marks = deque([(started.position.seconds, 0, 0.0)])
        self._pictures, self._waited = 0, 0.0

    def after(self, step: "Step") -> tuple[float, float]:
        self._pictures += step.pictures
        self._waited += step.waited
        self._marks.append((step.seconds, self._pictures, self._waited))
        while len(self._marks) > 2 and step.seconds - self._marks[0][0] > console.RATE_WINDOW:
            self._marks.popleft()
        (then, pictures, waited), (now, *_) = self._marks[0], self._marks[-1]
        return (self._pictures - pictures) / (now - then), (self._waited - waited) / (now - then)


def _step_line(step: "Step", speed: tuple[float, float]) -> str:
    return (
        f"epoch {step.epoch}  loss {step.loss:.3f}  rate {step.rate:g}  "
        f"{speed[0]:.1f} pictures/s  waiting {100 * speed[1]:.0f} %"
    )


def _validation_line(event: "Validated") -> str:
    tally = event.tally
    top5 = f", top-5 {tally.top5_error:.2f} %" if event.classes > 5 else ""
    best = "  best" if event.best else ""
    when = f"step {event.step:,}  {console.duration(event.seconds)}"
    return f"{when}  val loss {tally.cross_entropy:.3f}  errors: top-1 {tally.top1_error:.2f} %{top5}{best}"
