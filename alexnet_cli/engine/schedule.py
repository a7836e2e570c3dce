"""The schedule: when the rates are divided, and when training ends, as pure functions of where a run is.

The paper's (§5) divides them by ten when the validation error stops improving. The authors saw to it by hand,
three times; here a plateau is counted. The other schedules name their epochs or steps, and leave plateaus alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from alexnet_cli.engine import optimizer
from alexnet_cli.engine.optimizer import Row
from alexnet_cli.recipes import Recipe, Schedule


@dataclass(frozen=True)
class Plateau:
    """What the validations so far amount to. Errors are top-1, in percent."""

    best: float | None = None
    """The error that the next must better by the threshold."""
    waited: int = 0
    """Validations since then."""
    count: int = 0
    """Plateaus so far: the number of times the rate was divided, until the last one ends the training."""

    def after(self, error: float, schedule: Schedule) -> "Plateau":
        if schedule.drop_epochs or schedule.drop_steps:
            return self
        if self.best is None or error <= self.best - schedule.threshold:
            return replace(self, best=error, waited=0)
        if self.waited + 1 < schedule.patience:
            return replace(self, waited=self.waited + 1)
        return Plateau(min(self.best, error), 0, self.count + 1)

    def ended(self, schedule: Schedule) -> bool:
        return self.count > schedule.drops


def rows(names: Iterable[str], recipe: Recipe, epoch: int, steps: int, plateaus: int) -> dict[str, Row]:
    """How each parameter moves in the next step, when so many epochs, steps and plateaus are over."""
    schedule = recipe.schedule
    if schedule.drop_epochs:
        drops = sum(epoch >= place for place in schedule.drop_epochs)
    elif schedule.drop_steps:
        drops = steps // schedule.drop_steps
    else:
        drops = min(plateaus, schedule.drops)

    def rate(name: str, first: float) -> float:
        if name.startswith("conv1.") and 0 < schedule.conv1_freeze <= epoch:
            return 0.0
        if name.endswith(".bias") and not schedule.biases_drop:
            return first
        once_more = name == "conv1.weight" and 0 < schedule.conv1_drop <= epoch
        return first / schedule.drop ** (drops + once_more)

    first = optimizer.rows(names, recipe.optimizer, recipe.optimizer.rate)
    return {name: replace(row, rate=rate(name, row.rate)) for name, row in first.items()}
