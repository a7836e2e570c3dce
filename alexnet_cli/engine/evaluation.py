"""Errors over a split: each picture decoded and counted once, for any number of nets on any number of ranks."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli.dataset.manifest import Dataset, Split
from alexnet_cli.engine.arithmetic import enough_memory
from alexnet_cli.engine.checkpoint import Subject
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.prediction import Classifier, check_finite
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.loader import Reader, evaluation_batches
from alexnet_cli.machine import keep_freed_memory

# Batches are cut by index at this size whatever the ranks, so that each is computed in the same way.
BATCH_SIZE = 128


@dataclass(frozen=True)
class Tally:
    """Counts so far. Of equally probable classes the one with the lower label ranks first."""

    pictures: int = 0
    wrong1: int = 0
    wrong5: int = 0
    loss: float = 0.0
    """Sum of -log of the right class's probability."""

    @property
    def top1_error(self) -> float:
        """Percent."""
        return 100 * self.wrong1 / max(1, self.pictures)

    @property
    def top5_error(self) -> float:
        return 100 * self.wrong5 / max(1, self.pictures)

    @property
    def cross_entropy(self) -> float:
        return self.loss / max(1, self.pictures)


def split_for(subject: Subject, dataset: Dataset, name: str) -> Split:
    """The split, after checking that its labels mean what the model's outputs mean."""
    if name not in dataset.splits:
        raise AlexNetError(
            f"the dataset in {dataset.place} has no split '{name}'",
            f"it has {', '.join(sorted(dataset.splits))}",
        )
    if dataset.classes != subject.classes and not _same_synsets(subject, dataset):
        raise AlexNetError(
            f"the model knows {_few(subject.classes)}, the dataset in {dataset.place} has {_few(dataset.classes)}"
            f": {_difference(subject.classes, dataset.classes)}",
            "evaluate it on a dataset with the same classes in the same order",
        )
    return dataset.splits[name]


def label_order(classes: Sequence[str], wnids: Sequence[str | None]) -> str:
    """A fingerprint of which label means what: SHA-256 of a line each, the WNIDs, or the names if one lacks."""
    known = classes if None in wnids else wnids
    return hashlib.sha256("".join(f"{name}\n" for name in known).encode("utf-8", "surrogatepass")).hexdigest()


def _same_synsets(subject: Subject, dataset: Dataset) -> bool:
    """Whether all classes are known by WNID and are the same, whatever words each side has for them."""
    return None not in subject.wnids and dataset.wnids == subject.wnids


def _few(classes: Sequence[str]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}{', …' if len(classes) > 3 else ''})"


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Which classes only one side has, or where their orders part."""
    lacking = [f"{_few(only)} only {where}" for only, where in _one_sided(ours, theirs) if only]
    if lacking:
        return ", ".join(lacking)
    label = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if label is None:  # the same names; of different synsets, or some of them twice
        return "their WNIDs differ"
    return f"label {label} is {ours[label]} for the model, {theirs[label]} in the dataset"


def _one_sided(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[list[str], str]]:
    known, there = set(ours), set(theirs)
    return [
        ([name for name in ours if name not in there], "the model has"),
        ([name for name in theirs if name not in known], "the dataset has"),
    ]


@dataclass(frozen=True)
class Answered:
    """What each of some models says of batch number `step` of a split, B pictures."""

    step: int
    samples: NDArray[np.int64]  # (B,) places in the split's index
    labels: Tensor  # (B,) int64, the right ones
    probabilities: tuple[Tensor, ...]  # of each model (B, classes) float32


def answered(
    classifiers: Sequence[Classifier],
    split: Split,
    ranks: Ranks,
    threads: int,
    given_up: Callable[[], bool] | None = None,
) -> Iterator[Answered]:
    """This rank's batches of the split, each picture decoded once for all models; GivenUp as of the loader."""
    keep_freed_memory()
    with Reader(split) as reader:
        batches = evaluation_batches(reader, BATCH_SIZE, ranks.rank, ranks.size, threads, given_up)
        for place, batch in enumerate(batches):
            count = len(batch.samples)
            with enough_memory(
                f"for {BATCH_SIZE} pictures at a time", "close other programs that take it, or take --device cpu"
            ):
                probabilities = tuple(classify(batch.pictures)[:count] for classify in classifiers)
            step = ranks.rank + place * ranks.size
            yield Answered(step, batch.samples, batch.labels[:count], probabilities)


def tallies(
    classifier: Classifier,
    split: Split,
    ranks: Ranks,
    threads: int,
    given_up: Callable[[], bool] | None = None,
) -> Iterator[Tally]:
    """The counts after each batch of this rank; the last are those of all ranks. GivenUp as of the loader."""
    sums = torch.zeros(4, dtype=torch.float64)
    for answer in answered([classifier], split, ranks, threads, given_up):
        sums += counts(answer.probabilities[0], answer.labels)
        yield _tally(sums)
    yield _tally(ranks.summed(sums.to(ranks.device, torch.float32 if ranks.device.type == "mps" else sums.dtype)))


def counts(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(4,) float64: pictures, top-1 errors, top-5 errors, summed cross-entropy."""
    place, loss = judged(probabilities, labels)
    sums = torch.tensor(float(len(labels))), (place >= 1).sum(), (place >= 5).sum(), loss.sum()
    return torch.stack(sums).double()


def judged(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each picture, (B,): how many classes are ahead of the right one, and -log of its probability."""
    right = check_finite(probabilities).gather(1, labels[:, None])
    classes = torch.arange(probabilities.shape[1])
    ahead = (probabilities > right) | ((probabilities == right) & (classes < labels[:, None]))
    return ahead.sum(1), -right[:, 0].double().clamp_min(1e-38).log()


def _tally(sums: Tensor) -> Tally:
    pictures, wrong1, wrong5, loss = sums.tolist()
    return Tally(int(pictures), int(wrong1), int(wrong5), loss)
