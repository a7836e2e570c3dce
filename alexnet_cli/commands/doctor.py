"""`alexnet doctor`: what will go wrong, one line and one fix each, and what a training would take."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_cli import console
from alexnet_cli.options import Device, Json, Runs, Settings

if TYPE_CHECKING:
    from alexnet_cli.engine.checkup import Finding
    from alexnet_cli.engine.forecast import Forecast, Size
    from alexnet_cli.recipes import Recipe

MARKS = {"good": "✓", "odd": "!", "bad": "✗"}


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET|RUN", help="Look at this too; at ./dataset if it is there.", show_default=False
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="What is to be trained; the run's, or paper.", show_default=False)
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.", show_default=False)] = None,
    precision: Annotated[
        Literal["fp32", "tf32", "bf16", "fp16"] | None,
        typer.Option(help="As of train; the run's, or fp32.", show_default=False),
    ] = None,
    keep_every: Annotated[
        str | None, typer.Option(help="As of train: checkpoints that stay, 10epochs.", show_default=False)
    ] = None,
    device: Device = None,
    runs: Runs = Path("runs"),
    assignments: Settings = None,
    as_json: Json = False,
) -> None:
    """Look at this machine, a dataset or a run: what will fail, what is odd, what a training would take.

    Example: alexnet doctor dataset --recipe small --epochs 10 --precision bf16
    """
    from alexnet_cli.engine import checkup, forecast, inspection, launch, training

    place = launch.placement(device, None, None)
    every = training.limits(None, None, "10m", keep_every).keep
    changes = [*(assignments or []), *([f"schedule.epochs={epochs}"] if epochs else [])]
    patient = inspection.patient(target or _usual(), recipe, changes, precision)
    chosen, size = patient.recipe, forecast.size_of(patient.dataset)
    folder = patient.run.parent if patient.run else runs
    kept = forecast.kept(chosen, size, every)
    disk = forecast.checkpoint_bytes(chosen, size.classes, kept)
    machine = checkup.examined(chosen, size.classes, patient.precision, place, folder, disk, patient.parts)
    findings = [*machine, *patient.findings()]
    found = forecast.made(chosen, size, patient.precision, place, patient.dataset)
    if as_json:
        lines = [asdict(finding) for finding in findings]
        forecasted = asdict(found) | {"seconds": found.seconds, "disk": disk, "kept": kept}
        forecasted |= {"recipe": chosen.name, **asdict(size)}
        console.result_json({"findings": lines, "estimate": forecasted})
    else:
        console.result("\n".join(map(_line, findings)))
        console.result(_estimate(chosen, size, found, patient.precision, _room(disk, kept)))
    raise typer.Exit(any(finding.verdict == "bad" for finding in findings))


def _usual() -> str | None:
    return os.environ.get("ALEXNET_DATASET") or ("dataset" if Path("dataset/manifest.json").exists() else None)


def _line(finding: "Finding") -> str:
    fix = f"\n  → {finding.fix}" if finding.fix else ""
    return f"{MARKS[finding.verdict]} {finding.what}: {finding.said}{fix}"


def _estimate(recipe: "Recipe", size: "Size", found: "Forecast", precision: str, room: str) -> str:
    pictures = min(recipe.optimizer.batch_size, size.training)
    ends = "" if recipe.schedule.drop_epochs or recipe.schedule.drop_steps else ", fewer if plateaus come"
    rate = pictures / found.step_seconds
    idle = f"; up to {rate / found.share:.0f} pictures/s if nothing else ran" if found.share < 1 else ""
    return (
        f"≈ {recipe.name} in {precision} on {size.said}: {rate:.0f} pictures/s, an epoch "
        f"with its validation in {console.duration(found.epoch_seconds)}; at most {found.epochs} epochs{ends}, "
        f"{_long(found.seconds)} and {room}\n"
        f"  (an estimate from a few small steps, for a machine as busy as now{idle})"
    )


def _room(disk: int, kept: int) -> str:
    from alexnet_cli.dataset.space import size

    stay = f", {kept:,} of which stay" if kept else ""
    return f"up to {size(disk)} of checkpoints{stay}"


def _long(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds >= 2 * 86400 else console.duration(seconds)
