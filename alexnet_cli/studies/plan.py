"""What a study is, what its runs are, and what was measured of them: values, as its directory keeps them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from alexnet_cli import recipes
from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.engine.evaluation import Tally
from alexnet_cli.errors import AlexNetError
from alexnet_cli.recipes import Recipe

BUDGET = "30m"
"""Where neither a budget nor steps are named."""
WHEN = {"drop", "drops", "drop_epochs", "drop_steps", "patience", "threshold"}
"""Settings of the schedule that say when the rate is divided."""
Kind = Literal["relu", "ablations", "ensemble", "pretrain"]


@dataclass(frozen=True)
class Plan:
    """Fixed when a study begins: study.json holds it, and the same command finds it there."""

    kind: Kind
    recipe: str
    settings: tuple[str, ...]
    """KEY=VALUE, as by --set."""
    data: str
    """The dataset in words: its name and form."""
    fingerprint: str
    classes: int
    pictures: int
    """For training."""
    limit: int
    """The part of them that is used, evenly spaced; 0 is all."""
    validation: int
    """Pictures of the validation set."""
    measured: int
    """Of the training and of the validation pictures, at most, on which errors are measured."""
    seeds: int
    precision: str
    crops: int = 1
    only: tuple[str, ...] = ()
    """Of ablations: these variants."""
    error: float = 0.0
    """Of relu: the training error to reach, in percent."""
    budget: str = ""
    steps: int = 0
    """Of each run; of relu and pretrain see there."""

    @property
    def base(self) -> Recipe:
        return recipes.chosen(self.recipe, [*self.settings])

    @property
    def used(self) -> int:
        """Training pictures."""
        return min(self.limit or self.pictures, self.pictures)

    def epochs(self, steps: int, batch_size: int) -> float:
        return steps / math.ceil(self.used / batch_size)

    def scheduled(self, recipe: Recipe, steps: int, dropped: bool = True) -> Recipe:
        """The recipe for so many steps: its own schedule, of plateaus over 90 epochs, would never come to a drop.

        The rate is divided once, after two thirds of the steps, or not at all; where --set says when, it prevails.
        """
        per_epoch = math.ceil(self.used / recipe.optimizer.batch_size)
        epochs = max(1, math.ceil(steps / per_epoch))
        schedule = replace(recipe.schedule, epochs=epochs)
        said = {setting.partition("=")[0].strip().removeprefix("schedule.") for setting in self.settings}
        if said.isdisjoint(WHEN):
            last = math.ceil(2 * steps / 3) if dropped else steps
            schedule = replace(schedule, drop_epochs=(), drop_steps=max(1, last))
        return recipes.checked(replace(recipe, schedule=schedule))


@dataclass(frozen=True)
class Asked:
    """What the options of a study say, before it is known of which pictures."""

    kind: Kind
    recipe: str
    budget: str | None
    steps: int | None
    width: float | None
    seeds: int
    pictures: int | None
    measure: int
    precision: str
    settings: list[str] | None
    crops: int = 1
    only: tuple[str, ...] = ()
    error: float = 0.0

    def plan(self, dataset: Dataset) -> Plan:
        """Raises AlexNetError where an option makes no sense."""
        if self.budget is not None and self.steps is not None:
            raise AlexNetError("--budget and --steps: one says the other", "leave one of them away")
        if self.kind == "pretrain" and len(dataset.classes) < 4:
            raise AlexNetError(
                f"the dataset in {dataset.place} has {len(dataset.classes)} classes, too few for two halves",
                "take one of at least four",
            )
        width = [] if self.width is None else [f"network.width={self.width:g}"]
        train, val = (len(dataset.splits[name].index) for name in ("train", "val"))
        plan = Plan(
            kind=self.kind,
            recipe=self.recipe,
            settings=(*width, *(self.settings or ())),
            data=f"{Path(dataset.place).name} ({dataset.manifest['form']})",
            fingerprint=dataset.fingerprint,
            classes=len(dataset.classes),
            pictures=train,
            limit=self.pictures if self.pictures is not None and self.pictures < train else 0,
            validation=val,
            measured=self.measure,
            seeds=self.seeds,
            precision=self.precision,
            crops=self.crops,
            only=self.only,
            error=self.error,
            budget="" if self.steps else self.budget or BUDGET,
            steps=self.steps or 0,
        )
        recipes.checked(plan.base)
        return plan


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    name: str
    """Of its directory."""
    row: str
    """What it is an instance of."""
    seed: int
    recipe: Recipe
    marks: tuple[int, ...]
    """Steps at which it is measured; it ends with the last."""
    data: str = ""
    """The part of the dataset it is trained on; empty is the dataset."""
    start: str = ""
    """The run with whose weights it begins."""
    beside: tuple[str, ...] = ()
    """Runs before it whose probabilities are averaged with its own."""


@dataclass(frozen=True)
class Point:
    """What was measured of a run at one step."""

    steps: int
    train: Tally
    val: Tally
    mean: Tally | None = None
    """Of its probabilities and those of the runs `beside` it, averaged, on the validation pictures."""

    @property
    def gap(self) -> float:
        """Points of top-1 error."""
        return self.val.top1_error - self.train.top1_error


@dataclass(frozen=True)
class Result:
    points: tuple[Point, ...] = ()
    diverged: str = ""
    """Why it could not go on."""

    def finished(self, trial: Trial) -> bool:
        return bool(self.diverged) or len(self.points) == len(trial.marks)


Results = Mapping[str, Result]
"""By the name of the run."""


def finals(trials: list[Trial], results: Results) -> Iterator[tuple[Trial, Point]]:
    """The last point of each trial that came to its end."""
    for trial in trials:
        result = results.get(trial.name, Result())
        if result.finished(trial) and not result.diverged:
            yield trial, result.points[-1]
