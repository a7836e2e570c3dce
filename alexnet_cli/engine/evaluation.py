"""Errors over a split, every picture counted once on any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_cli.dataset.manifest import Dataset, Split
from alexnet_cli.engine.checkpoint import Subject
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.prediction import Classifier
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
            f"the dataset in {dataset.root} has no split '{name}'",
            f"it has {', '.join(sorted(dataset.splits))}",
        )
    if dataset.classes != subject.classes and not _same_synsets(subject, dataset):
        raise AlexNetError(
            f"the model knows {_few(subject.classes)}, the dataset in {dataset.root} has {_few(dataset.classes)}",
            "evaluate it on a dataset with the same classes in the same order",
        )
    return dataset.splits[name]


def _same_synsets(subject: Subject, dataset: Dataset) -> bool:
    """Whether all classes are known by WNID and are the same, whatever words each side has for them."""
    return None not in subject.wnids and dataset.wnids == subject.wnids


def _few(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}{', …' if len(classes) > 3 else ''})"


def tallies(classifier: Classifier, split: Split, ranks: Ranks, threads: int) -> Iterator[Tally]:
    """The counts after each batch of this rank; the last are those of all ranks together."""
    keep_freed_memory()
    sums = torch.zeros(4, dtype=torch.float64)
    with Reader(split) as reader:
        for batch in evaluation_batches(reader, BATCH_SIZE, ranks.rank, ranks.size, threads):
            count = len(batch.samples)
            sums += counts(classifier(batch.pictures)[:count], batch.labels[:count])
            yield _tally(sums)
    yield _tally(ranks.summed(sums.to(ranks.device, torch.float32 if ranks.device.type == "mps" else sums.dtype)))


def counts(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(4,) float64: pictures, top-1 errors, top-5 errors, summed cross-entropy."""
    if not probabilities.isfinite().all():
        raise AlexNetError(
            "the network's outputs are not finite numbers",
            "its weights have overflowed: go back to an earlier checkpoint, and train with a lower rate, --lr",
        )
    right = probabilities.gather(1, labels[:, None])
    classes = torch.arange(probabilities.shape[1])
    ahead = (probabilities > right) | ((probabilities == right) & (classes < labels[:, None]))
    place = ahead.sum(1)
    loss = -right.double().clamp_min(1e-38).log().sum()
    return torch.stack([torch.tensor(float(len(labels))), (place >= 1).sum(), (place >= 5).sum(), loss]).double()


def _tally(sums: Tensor) -> Tally:
    pictures, wrong1, wrong5, loss = sums.tolist()
    return Tally(int(pictures), int(wrong1), int(wrong5), loss)
