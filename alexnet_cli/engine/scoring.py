"""What a model's answers over a split are worth: errors by class, confusion, cross-entropy, calibration.

All that is counted is a whole number; sums of fractions are kept batch by batch and added in the split's order. So
the result is the same, bit for bit, on any number of ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli.engine.evaluation import Answered, Tally, judged
from alexnet_cli.engine.parallel import Ranks

BINS = 15
"""Of calibration: equal parts of the first answer's probability, upper edge included (Guo and others, 2017)."""


@dataclass(frozen=True)
class Score:
    """C classes. Of equally probable classes the one with the lower label ranks first."""

    of_class: NDArray[np.int64]
    """(3, C): pictures, top-1 errors and top-5 errors of each class."""
    loss: float
    """Sum of -log of the right class's probability."""
    bins: NDArray[np.float64]
    """(3, BINS): pictures, right first answers, and the sum of the first answers' probabilities."""
    confusion: NDArray[np.int64] | None
    """(C, C), where it was asked for: how often the class of the row was taken for that of the column."""

    @property
    def pictures(self) -> int:
        return int(self.of_class[0].sum())

    @property
    def tally(self) -> Tally:
        pictures, wrong1, wrong5 = self.of_class.sum(1).tolist()
        return Tally(pictures, wrong1, wrong5, self.loss)

    @property
    def calibration_error(self) -> float:
        """Percent: how far the first answers' probabilities are from their share of right ones, over the bins."""
        _, right, confidence = self.bins
        return 100 * float(np.abs(right - confidence).sum()) / max(1, self.pictures)


class Scorer:
    """Counts the answers of one model to a split that is cut into `batches`."""

    def __init__(self, classes: int, batches: int, confusion: bool) -> None:
        self._of_class = torch.zeros(3, classes, dtype=torch.int64)
        self._bins = torch.zeros(2, BINS, dtype=torch.int64)
        self._sums = torch.zeros(batches, 1 + BINS, dtype=torch.float64)
        self._confusion = torch.zeros(classes if confusion else 0, classes, dtype=torch.int64)

    def add(self, step: int, probabilities: Tensor, labels: Tensor) -> None:
        """Batch `step`: (B, classes) and (B,)."""
        place, loss = judged(probabilities, labels)
        confidence, answer = probabilities.max(1)  # of equals, the first
        for row, counted in zip(self._of_class, (place >= 0, place >= 1, place >= 5), strict=True):
            row += torch.bincount(labels[counted], minlength=len(row))
        confidence = confidence.double()
        bins = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
        self._bins[0] += torch.bincount(bins, minlength=BINS)
        self._bins[1] += torch.bincount(bins[place == 0], minlength=BINS)
        self._sums[step, 0] = loss.sum()
        self._sums[step, 1:].index_add_(0, bins, confidence)
        if len(self._confusion):
            self._confusion.index_put_((labels, answer), torch.ones_like(labels), accumulate=True)

    def score(self, ranks: Ranks) -> Score:
        """What all ranks together have counted; each calls it, and each gets it."""
        of_class, bins, sums, confusion = (
            together(part, ranks).numpy() for part in (self._of_class, self._bins, self._sums, self._confusion)
        )
        loss, *confidences = (math.fsum(column) for column in sums.T.tolist())
        return Score(of_class, loss, np.vstack([bins, confidences]), confusion if len(confusion) else None)


def together(values: Tensor, ranks: Ranks) -> Tensor:
    """The sum over all ranks, on the CPU; where one rank alone has other than zeros it is that, bit for bit."""
    return values if ranks.size == 1 else ranks.summed(values.to(ranks.device)).cpu()


class Jury:
    """Several models, and the weighted mean of their probabilities: the paper's way to make one of many (§6)."""

    def __init__(self, weights: Sequence[float], classes: int, batches: int, confusion: bool) -> None:
        self.weights = weights
        together_too = len(weights) > 1
        self._scorers = [Scorer(classes, batches, confusion) for _ in range(len(weights) + together_too)]

    def take(self, answer: Answered) -> Tensor:
        """Count one batch; gives the mean of the models, (B, classes) float32."""
        found = [*answer.probabilities]
        if len(found) > 1:
            found.append(mean(found, self.weights))
        for scorer, probabilities in zip(self._scorers, found, strict=True):
            scorer.add(answer.step, probabilities, answer.labels)
        return found[-1]

    def scores(self, ranks: Ranks) -> list[Score]:
        """Of each model, and last of their mean if there are several."""
        return [scorer.score(ranks) for scorer in self._scorers]


def mean(probabilities: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """(B, classes) float32 of as many; summed in float64."""
    total = sum(weight * part.double() for weight, part in zip(weights, probabilities, strict=True))
    assert isinstance(total, Tensor)
    return (total / math.fsum(weights)).float()
