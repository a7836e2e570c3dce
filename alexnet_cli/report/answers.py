"""What a model says of each picture of a split, kept small: the best guesses, and the place of the right class."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_cli.dataset.manifest import Split
from alexnet_cli.engine.evaluation import Answered, answered, judged
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.prediction import Classifier
from alexnet_cli.loading.loader import threads

KEPT = 5


@dataclass(frozen=True)
class Answers:
    """Of N pictures; of equally probable classes the one with the lower label comes first."""

    samples: NDArray[np.int64]
    """(N,) places in the split's index."""
    labels: NDArray[np.int64]
    """(N,) the right ones."""
    guesses: NDArray[np.int64]
    """(N, 5) the most probable classes, or all if there are fewer."""
    shares: NDArray[np.float32]
    """(N, 5) their probabilities."""
    places: NDArray[np.int64]
    """(N,) how many classes are ahead of the right one."""
    loss: float
    """Sum of -log of the right class's probability."""

    def __len__(self) -> int:
        return len(self.labels)

    def error(self, top: int) -> float:
        """Percent."""
        return 100 * int((self.places >= top).sum()) / max(1, len(self))


@dataclass(frozen=True)
class ClassResult:
    label: int
    pictures: int
    wrong1: int
    wrong5: int
    taken_for: int | None
    """The class that it was taken for most often, when it was not seen for what it is."""
    times: int


def asked(classify: Classifier, split: Split) -> Iterator[int | Answers]:
    """How many pictures are done, batch by batch; at last the answers to all."""
    parts: list[Answers] = []
    for answer in answered([classify], split, Ranks(0, 1, torch.device("cpu")), threads()):
        parts.append(kept(answer))
        yield int(answer.samples[-1]) + 1
    yield joined(parts)


def kept(answer: Answered) -> Answers:
    """What is kept of one model's answers to a batch."""
    probabilities = answer.probabilities[0]
    places, loss = judged(probabilities, answer.labels)
    shares, order = (part[:, :KEPT].numpy() for part in probabilities.sort(dim=1, descending=True, stable=True))
    columns = answer.samples, answer.labels.numpy(), order.copy(), shares.copy(), places.numpy()
    return Answers(*columns, loss=float(loss.sum()))


def joined(parts: Iterable[Answers]) -> Answers:
    found = [*parts]
    names = ("samples", "labels", "guesses", "shares", "places")
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in found]) for name in names}
    return Answers(**columns, loss=sum(part.loss for part in found))


def confusion(answers: Answers, classes: int, most: int = 100) -> NDArray[np.int64]:
    """How often the class of the row was taken for that of the column, (n, n).

    Of more than `most` classes neighbouring labels are counted together, in `most` groups as equal as can be.
    """
    size = min(classes, most)
    rows, columns = (labels * size // classes for labels in (answers.labels, answers.guesses[:, 0]))
    return np.bincount(rows * size + columns, minlength=size**2).reshape(size, size)


def most_confused(answers: Answers, count: int) -> list[tuple[int, int, int]]:
    """(right class, what it was taken for, times), the most frequent first; of equals, the lower labels."""
    wrong = answers.places >= 1
    pairs = np.stack([answers.labels[wrong], answers.guesses[wrong, 0]], 1)
    found, times = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-times, kind="stable")[:count]
    return [(int(found[i, 0]), int(found[i, 1]), int(times[i])) for i in order]


def by_class(answers: Answers) -> list[ClassResult]:
    """One row for each class of which there are pictures, in label order."""
    taken: dict[int, tuple[int | None, int]] = {}
    for right, guess, times in most_confused(answers, len(answers)):
        taken.setdefault(right, (guess, times))
    found = []
    for label in np.unique(answers.labels).tolist():
        places = answers.places[answers.labels == label]
        taken_for, often = taken.get(label, (None, 0))
        wrong1, wrong5 = int((places >= 1).sum()), int((places >= 5).sum())
        found.append(ClassResult(label, len(places), wrong1, wrong5, taken_for, often))
    return found


def evenly(answers: Answers, count: int) -> list[int]:
    """Rows of the answers, evenly spaced: a split may be ordered by class."""
    count = min(count, len(answers))
    return [place * len(answers) // count for place in range(count)]


def surest_mistakes(answers: Answers, count: int) -> NDArray[np.int64]:
    """Rows of the wrong answers that the model was surest of, the surest first."""
    wrong = np.flatnonzero(answers.places >= 1)
    order: NDArray[np.int64] = wrong[np.argsort(-answers.shares[wrong, 0], kind="stable")[:count]]
    return order
