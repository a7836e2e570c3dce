"""What is within the noise: differences paired by seed, against their own spread.

Two nets that were trained from the same seeds saw the same pictures in the same order, so what a seed does to both
cancels. Of the differences of n seeds with the standard deviation s, mean ± t·s/√n is the 95 % interval of their
mean (Student); a difference is said to be there where that interval leaves zero out. It speaks of the seeds alone:
other pictures would add a spread of their own. Of twenty differences that are not there, one is said to be.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CRITERION = (
    "± after an error is the standard deviation over the seeds, after a difference half the 95 % interval of its "
    "mean (paired by seed, Student's t); where that interval holds zero the difference is within the noise"
)
Verdict = Literal["higher", "lower", "within the noise", "one seed"]

# Student's t, 97.5 %: of 1 to 30 degrees of freedom.
T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Difference:
    """Over the seeds that both have."""

    seeds: int
    mean: float
    error: float | None
    """Standard error of the mean; None of a single seed."""

    @property
    def reach(self) -> float | None:
        """Half of the 95 % interval."""
        return None if self.error is None else T975[min(self.seeds - 1, len(T975)) - 1] * self.error

    @property
    def verdict(self) -> Verdict:
        if self.reach is None:
            return "one seed"
        if abs(self.mean) <= self.reach:
            return "within the noise"
        return "higher" if self.mean > 0 else "lower"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Ours less theirs, by seed; None where they have no seed in common."""
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not differences:
        return None
    deviation = spread(differences)
    error = None if deviation is None else deviation / math.sqrt(len(differences))
    return Difference(len(differences), mean(differences), error)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation, as of a sample (n - 1); None of a single value."""
    if len(values) < 2:
        return None
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))
