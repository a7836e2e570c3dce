"""What happens in a training, as values: `loop.train` yields them, and whoever shows or records it reads them."""

from dataclasses import dataclass
from pathlib import Path

from alexnet_cli.engine.checkpoint import Position
from alexnet_cli.engine.evaluation import Tally
from alexnet_cli.runs import Layout

EVERY_STEP_UNTIL = 1000
"""Steps that are all logged; of the later ones each tenth."""


@dataclass(frozen=True)
class Note:
    """Something the user should know."""

    text: str
    warning: bool = False
    """Whether something is not as it should be."""


@dataclass(frozen=True)
class Started:
    run: Path
    position: Position
    steps: int
    """Where this call ends at the latest, counted over the whole run."""
    max_seconds: float | None
    layout: Layout


@dataclass(frozen=True)
class Step:
    epoch: int
    """From 1, as people count."""
    step: int
    """Of the whole run, from 1."""
    loss: float
    gradient: float | None
    """Its length, over all parameters that move; None where it overflowed fp16 and the step was left out."""
    rate: float
    """Of weights whose layer has no rules of its own."""
    pictures: int
    seconds: float = 0.0
    """Wall time of the run so far."""
    waited: float = 0.0
    """Seconds of this step spent waiting for its batch."""

    @property
    def logged(self) -> bool:
        """A pure function of the step, so that a resumed log is the same."""
        return self.step <= EVERY_STEP_UNTIL or self.step % 10 == 0


@dataclass(frozen=True)
class Validating:
    done: int
    pictures: int


@dataclass(frozen=True)
class Validated:
    step: int
    tally: Tally
    classes: int
    best: bool
    plateaus: int
    seconds: float
    took: float
    """Seconds."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on the disk."""

    step: int
    took: float
    """Seconds."""


@dataclass(frozen=True)
class Ended:
    run: Path
    said: str
    signal: int
    position: Position
    seconds: float
    """Wall time of the run, over all its calls."""


Event = Note | Started | Step | Validating | Validated | Saved | Ended
