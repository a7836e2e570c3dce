"""What the first steps of a training on several devices show of its exchange, and what helps if that is much."""

from alexnet_cli.engine import traffic
from alexnet_cli.engine.placed import Placed
from alexnet_cli.network.towers import Towers
from alexnet_cli.recipes import Recipe

FIRST, LAST = 10, 50
"""Steps of a call between which it is measured: before, memory is new and connections are made."""
MUCH = 0.3
"""Share of the time in which arithmetic stands still for the exchange."""


class Pace:
    """Counts the steps of this call and speaks once. `rows` are each process's pictures of a step."""

    def __init__(self, placed: Placed, recipe: Recipe, classes: int) -> None:
        self.placed, self.recipe, self.classes = placed, recipe, classes
        self.rows = -(-recipe.optimizer.batch_size // placed.ranks.size)
        self._steps = self._pictures = 0
        self._seconds = 0.0

    def said_of(self, pictures: int, seconds: float) -> list[str]:
        """What there is to say after a step of so many seconds, mostly nothing."""
        ranks, towers = self.placed.ranks, self.placed.module
        alone = ranks.size == 1 and not isinstance(towers, Towers)
        self._steps += 1
        if alone or self._steps > LAST:
            return []
        if self._steps == FIRST:
            self._begin()
        if self._steps > FIRST:
            self._pictures += pictures
            self._seconds += seconds
        return self._said() if self._steps == LAST else []

    def _begin(self) -> None:
        self.placed.ranks.exchange.watch()
        if isinstance(self.placed.module, Towers):
            self.placed.module.watch()

    def _said(self) -> list[str]:
        steps = LAST - FIRST
        ranks, rate = self.placed.ranks, f"{self._pictures / self._seconds:.1f} pictures/s over {steps} steps"
        said = []
        if isinstance(self.placed.module, Towers):
            said.append(f"towers: {rate}; {self.placed.module.balance(steps)}")
        if ranks.size > 1:
            waited, sent = ranks.exchange.waited(), sum(ranks.exchange.sent.values()) / steps
            share = waited / self._seconds
            said.append(
                f"{ranks.size} × {ranks.device.type}: {rate}; each process sends {sent / 1e6:.1f} MB a step, and "
                f"for {100 * share:.0f} % of the time its arithmetic stands still for that or for a slower process"
            )
            if share > MUCH:
                said.append("the exchange dominates. " + self._advice())
        return said

    def _advice(self) -> str:
        """What sends less, or sends it less often, in order of its effect."""
        layers, ranks = traffic.shapes(self.recipe, self.classes), self.placed.ranks.size
        ways = {"data": traffic.data(layers, ranks), "hybrid": traffic.hybrid(layers, ranks, self.rows)}
        now = "data" if self.placed.module is self.placed.model or ranks == 1 else "hybrid"
        other = "hybrid" if now == "data" else "data"
        words = []
        if not isinstance(self.placed.module, Towers) and ways[other] < ways[now] / 1.5:
            words.append(f"--parallel {other} would send {ways[other] / 1e6:.1f} MB a step")
        if now == "data":
            words.append(
                "twice the --batch-size would send the same for twice the pictures (with a rate of its own)"
            )
        words.append("fewer processes with more pictures each would wait less")
        return "; ".join(words)
