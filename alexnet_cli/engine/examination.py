"""`alexnet eval`'s work: models and pictures, or saved probabilities, to scores beside the paper's."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli.dataset.manifest import Dataset, Split
from alexnet_cli.engine import comparison, probabilities, submission
from alexnet_cli.engine.comparison import Measured, Net, edition_of, net_of
from alexnet_cli.engine.evaluation import BATCH_SIZE, Answered, answered, label_order, split_for
from alexnet_cli.engine.models import Model
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.probabilities import About, Saved
from alexnet_cli.engine.scoring import Jury, Score, together
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import csv_line, write_bytes
from alexnet_cli.loading.loader import threads


@dataclass(frozen=True)
class Wanted:
    """What else to make of the answers, of the last model or of the mean."""

    weights: tuple[float, ...] | None = None
    save_probs: Path | None = None
    confusion: Path | None = None
    submission: Path | None = None
    devkit: Path | None = None


@dataclass(frozen=True)
class Examination:
    """Models on a split, or files of their probabilities: `answers` has the batches of this rank."""

    about: About
    names: tuple[str, ...]
    answers: Iterator[Answered]
    pictures: int
    wanted: Wanted
    ranks: Ranks
    split: Split | None = None
    """None when the probabilities come from files."""
    ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def weights(self) -> tuple[float, ...]:
        return self.wanted.weights or (1.0,) * len(self.names)

    def scored(self) -> Iterator[int | list[Score]]:
        """How many pictures are done, batch by batch; at last the scores, that of the mean after those of each.

        Whoever goes on from there has the files of `wanted` written: what they hold may be lost, the scores not.
        """
        wanted, classes = self.wanted, len(self.about.classes)
        batches = -(-self.pictures // BATCH_SIZE)
        jury = Jury(self.weights, classes, batches, wanted.confusion is not None)
        lines = torch.zeros(self.pictures if wanted.submission else 0, submission.GUESSES, dtype=torch.int64)
        with ExitStack() as stack:
            save = None
            if wanted.save_probs is not None and self.split is not None:
                saving = probabilities.saving(wanted.save_probs, self.about, self.split, self.ranks)
                save = stack.enter_context(saving)
            for answer in self.answers:
                mean = jury.take(answer)
                if save is not None:
                    save(answer.samples, mean)
                if wanted.submission:
                    lines[answer.samples] = submission.best(mean)
                yield int(answer.samples[-1]) + 1
        scores = jury.scores(self.ranks)
        lines = together(lines, self.ranks)
        yield scores
        if self.ranks.rank == 0:
            self._write(scores[-1], lines)

    def _write(self, last: Score, lines: Tensor) -> None:
        if self.wanted.confusion is not None and last.confusion is not None:
            write_confusion(self.wanted.confusion, self.about.classes, last.confusion)
        if self.wanted.submission is not None:
            submission.write(self.wanted.submission, lines, self.ids)

    def beside_the_paper(self, scores: Sequence[Score]) -> tuple[str, list[comparison.Row]] | None:
        nets = [Net(m["recipe"], m["starred"], m["papers"]) for m in self.about.models]
        errors = [(score.tally.top1_error, score.tally.top5_error) for score in scores]
        count = len(self.names)
        if len(nets) > count:  # a file may hold the mean of several: what it is of is known, their errors are not
            return None
        mean = errors[count] if count > 1 else None
        measured = Measured(nets, errors[:count], mean, self.weights, self.about.crops, self.pictures)
        return comparison.table(self.about.edition, self.about.split, measured)


def of_models(
    models: Sequence[Model],
    dataset: Dataset,
    name: str,
    crops: int,
    limit: int | None,
    wanted: Wanted,
    ranks: Ranks,
) -> Examination:
    splits = [split_for(model.subject, dataset, name) for model in models]
    split = splits[0].part(limit)
    _check_weights(wanted.weights, len(models))
    ids = np.zeros(0, dtype=np.int64)
    form = str(dataset.manifest["form"])
    if wanted.submission is not None:
        submission.check_whole(dataset, name, limit)
        ids = submission.ids(wanted.devkit, form, dataset.wnids)
    about = About(
        tuple({"model": str(model.path)} | asdict(net_of(model.recipe)) for model in models),
        crops,
        name,
        dataset.fingerprint,
        edition_of(form, dataset.wnids),
        dataset.classes,
        dataset.wnids,
        label_order(dataset.classes, dataset.wnids),
    )
    classifiers = [model.classifier(crops, ranks.device) for model in models]
    answers = answered(classifiers, split, ranks, threads())
    names = tuple(str(model.path) for model in models)
    return Examination(about, names, answers, len(split.index), wanted, ranks, split, ids)


def of_files(files: Sequence[Saved], wanted: Wanted) -> Examination:
    """The same of saved probabilities."""
    if not files:
        raise AlexNetError("--from-probs: no files are given", "name files that `alexnet eval --save-probs` wrote")
    _check_weights(wanted.weights, len(files))
    probabilities.check_alike(files)
    if wanted.submission is not None or wanted.save_probs is not None:
        raise AlexNetError(
            "--submission and --save-probs are for models, not for saved probabilities",
            "give the models themselves, several at once",
        )
    names = tuple(str(file.path) for file in files)
    answers = probabilities.all_answered(files)
    ranks = Ranks(0, 1, torch.device("cpu"))
    return Examination(probabilities.joined(files), names, answers, len(files[0].labels), wanted, ranks)


def parsed_weights(text: str | None) -> tuple[float, ...] | None:
    """1,1,2 → (1, 1, 2)."""
    if text is None:
        return None
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if not weights or not all(0 <= weight < float("inf") for weight in weights) or not sum(weights):
        raise AlexNetError(f"--ensemble-weights {text}: not understood", "give a number for each model, as 1,1,2")
    return weights


def _check_weights(weights: tuple[float, ...] | None, models: int) -> None:
    if weights is not None and len(weights) != models:
        raise AlexNetError(
            f"--ensemble-weights has {len(weights)} weights, and there are {models} models",
            "give one for each, in their order",
        )


def write_confusion(path: Path, classes: Sequence[str], confusion: NDArray[np.int64]) -> None:
    """A CSV file: a row for each right class, a column for each answer."""
    rows = ([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))
    lines = [csv_line(row) for row in (["right class", *classes], *rows)]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))


def described(score: Score, about: About) -> dict[str, Any]:
    """A score for JSON, errors in percent."""
    pictures, wrong1, wrong5 = score.of_class.tolist()
    named = zip(about.classes, about.wnids, pictures, wrong1, wrong5, strict=True)
    keys = ("name", "wnid", "pictures", "top1_wrong", "top5_wrong")
    return {
        "pictures": score.pictures,
        "top1_wrong": score.tally.wrong1,
        "top5_wrong": score.tally.wrong5,
        "top1_error": score.tally.top1_error,
        "top5_error": score.tally.top5_error,
        "cross_entropy": score.tally.cross_entropy,
        "calibration": {
            "error": score.calibration_error,
            "bins": [
                {
                    "up_to": (n + 1) / len(score.bins[0]),
                    "pictures": int(count),
                    "right": int(right),
                    "confidence": sure,
                }
                for n, (count, right, sure) in enumerate(score.bins.T.tolist())
            ],
        },
        "by_class": [dict(zip(keys, row, strict=True)) for row in named],
    }
