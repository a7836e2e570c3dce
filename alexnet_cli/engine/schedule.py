"""The paper's schedule (§5): the rate is divided by ten when the validation error stops improving.

The authors did it by hand, three times. Here a plateau is counted, so that the rate is a pure function of what
the validations said.
"""

from dataclasses import dataclass, replace

from alexnet_cli.recipes import Schedule


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
        if self.best is None or error <= self.best - schedule.threshold:
            return replace(self, best=error, waited=0)
        if self.waited + 1 < schedule.patience:
            return replace(self, waited=self.waited + 1)
        return Plateau(min(self.best, error), 0, self.count + 1)

    def rate(self, first: float, schedule: Schedule) -> float:
        return first / schedule.drop ** min(self.count, schedule.drops)

    def ended(self, schedule: Schedule) -> bool:
        return self.count > schedule.drops
