"""One-against-rest linear classifiers by stochastic gradient descent, from vectors that need not fit into memory.

Each class has its logistic classifier against all others, so that scores are log-odds. The rate is of the mean
over a batch, and falls to 0 in a straight line. It is large: vectors of length 1 that hardly overlap, as Fisher
vectors are, curve the mean loss of B of them by little more than 1/(4B), so that up to 8B nothing diverges.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli.loading import draws
from alexnet_cli.loading.loader import ahead

BATCH = 32


@dataclass(frozen=True)
class Vectors:
    """Float16 rows in files of `each` rows, the last of fewer, and the labels of all."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    each: int

    def chunk(self, place: int) -> tuple[Tensor, Tensor]:
        """The rows (n, numbers) of one file, as they lie there, and their labels."""
        rows = torch.from_numpy(np.load(self.files[place], allow_pickle=False))
        labels = torch.from_numpy(self.labels[place * self.each :][: len(rows)])
        return rows, labels


@dataclass(frozen=True)
class Learning:
    epochs: int
    rate: float
    decay: float
    seed: int


@dataclass(frozen=True)
class State:
    """After `done` files, counted over all epochs."""

    classifier: Tensor  # (classes, numbers)
    biases: Tensor  # (classes,)
    done: int = 0
    loss: float = 0.0
    """Of the last file: summed over the classes, mean over its pictures."""


def fresh(classes: int, numbers: int) -> State:
    """No class is likelier than chance."""
    return State(torch.zeros(classes, numbers), torch.full((classes,), -float(np.log(max(classes - 1, 1)))))


def learnt(vectors: Vectors, learning: Learning, state: State) -> Iterator[State]:
    """Go on from a state, which is changed in place, file by file to the end of the last epoch."""
    files = len(vectors.files)
    order = [
        int(place)
        for epoch in range(learning.epochs)
        for place in draws.permutation(learning.seed, epoch, files, "shards")
    ]
    for rows, labels in ahead(vectors.chunk, order[state.done :], 1):
        rate = learning.rate * (1 - state.done / len(order))
        loss = _descend(state, rows, labels, rate, learning)
        state = replace(state, done=state.done + 1, loss=loss)
        yield state


def _descend(state: State, rows: Tensor, labels: Tensor, rate: float, learning: Learning) -> float:
    """One pass over a file in an order of its own; the mean loss."""
    total, classes = 0.0, len(state.biases)
    order = torch.from_numpy(draws.permutation(learning.seed, state.done, len(rows), "order"))
    for batch in torch.split(order, BATCH):
        inputs = rows[batch].float()
        targets = torch.nn.functional.one_hot(labels[batch], classes).float()
        scores = torch.addmm(state.biases, inputs, state.classifier.T)
        total += float(torch.nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="sum"))
        slopes = (scores.sigmoid() - targets) / len(batch)
        state.classifier.addmm_(slopes.T, inputs, beta=1 - rate * learning.decay, alpha=-rate)
        state.biases.sub_(rate * slopes.sum(0))
    return total / len(rows)
