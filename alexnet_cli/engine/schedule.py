"""The schedule: when the rates are divided, and when training ends, as pure functions of where a run is.

The paper's (§5) divides them by ten when the validation error stops improving. The authors saw to it by hand,
three times; here a plateau is counted. The other schedules name their epochs or steps, and leave plateaus alone.
Any of them can be changed by hand while a run goes on: see `rates`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from alexnet_cli.engine import optimizer
from alexnet_cli.engine.optimizer import Row
from alexnet_cli.engine.rates import Change
from alexnet_cli.recipes import Recipe, Schedule

ROUNDING = 1e-9
"""Of percentages and of parts of epochs: 1.2 − 0.1 is not 1.1 in binary."""


@dataclass(frozen=True)
class Plateau:
    """What the validations so far amount to. Errors are top-1, in percent."""

    best: float | None = None
    """The error that the next must better by the threshold."""
    waited: float = 0.0
    """Epochs since then, or since the rate was divided."""
    count: int = 0
    """Plateaus so far: the number of times the rate was divided, until the last one ends the training."""

    def after(self, error: float, schedule: Schedule, epochs: float) -> "Plateau":
        """`epochs` lie between the validation before and this one, or the beginning and this one."""
        if schedule.drop_epochs or schedule.drop_steps:
            return self
        if self.best is None or error <= self.best - schedule.threshold + ROUNDING:
            return replace(self, best=error, waited=0.0)
        waited = self.waited + epochs
        if waited < schedule.patience - ROUNDING:
            return replace(self, waited=waited)
        return Plateau(min(self.best, error), 0.0, self.count + 1)

    def ended(self, schedule: Schedule) -> bool:
        return self.count > schedule.drops


def drops(schedule: Schedule, epoch: int, steps: int, plateaus: int) -> int:
    """How often the rate was divided, when so many epochs, steps and plateaus are over."""
    if schedule.drop_epochs:
        return sum(epoch >= place for place in schedule.drop_epochs)
    if schedule.drop_steps:
        return steps // schedule.drop_steps
    return min(plateaus, schedule.drops)


def rows(
    names: Collection[str], recipe: Recipe, epoch: int, steps: int, plateaus: int, changes: Sequence[Change] = ()
) -> dict[str, Row]:
    """How each parameter moves in the next step, when so many epochs, steps and plateaus are over.

    `changes` are those by hand, in the order of their steps. They do what the schedule's own drops do: biases that
    these leave alone keep their rate, and what stands still stays so.
    """
    schedule, done = recipe.schedule, drops(recipe.schedule, epoch, steps, plateaus)
    begun, divided, since = recipe.optimizer.rate, 1.0, 0
    for change in changes:
        if change.step <= steps and change.request.to is not None:
            begun, divided, since = change.request.to, 1.0, change.drops
        elif change.step <= steps:
            divided *= change.request.divide or 1.0
    dropping = optimizer.rows(names, recipe.optimizer, begun)
    staying = optimizer.rows(names, recipe.optimizer, recipe.optimizer.rate)

    def rate(name: str) -> float:
        if name.startswith("conv1.") and 0 < schedule.conv1_freeze <= epoch:
            return 0.0
        if name.endswith(".bias") and not schedule.biases_drop:
            return staying[name].rate
        once_more = name == "conv1.weight" and 0 < schedule.conv1_drop <= epoch
        return dropping[name].rate / schedule.drop ** (max(0, done - since) + once_more) / divided

    return {name: replace(row, rate=rate(name)) for name, row in staying.items()}


def rate(recipe: Recipe, epoch: int, steps: int, plateaus: int, changes: Sequence[Change] = ()) -> float:
    """The rate of weights whose layer has no rules of its own."""
    return rows(["any.weight"], recipe, epoch, steps, plateaus, changes)["any.weight"].rate
