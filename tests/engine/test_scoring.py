"""Scores are what plain numpy counts, and a mean of models is what numpy averages."""

import math

import numpy as np
import pytest
import torch

from alexnet_cli.engine.evaluation import Answered
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.scoring import BINS, Jury, Score, Scorer, mean

ALONE = Ranks(0, 1, torch.device("cpu"))
CLASSES, PICTURES, BATCH = 7, 300, 128


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities among which there are many equal ones, and labels."""
    generator = np.random.default_rng(3)
    shares = generator.integers(1, 5, (PICTURES, CLASSES)).astype(np.float32)
    return shares / shares.sum(1, keepdims=True), generator.integers(0, CLASSES, PICTURES)


def scored(probabilities: np.ndarray, labels: np.ndarray) -> Score:
    scorer = Scorer(CLASSES, -(-PICTURES // BATCH), confusion=True)
    for step, start in enumerate(range(0, PICTURES, BATCH)):
        rows = slice(start, start + BATCH)
        scorer.add(step, torch.from_numpy(probabilities[rows]), torch.from_numpy(labels[rows]))
    return scorer.score(ALONE)


def test_counts_by_class_and_confusion(answers: tuple[np.ndarray, np.ndarray]) -> None:
    """Every row sorted by probability, and by label among equals."""
    probabilities, labels = answers
    found = scored(*answers)
    wrong1, wrong5, taken = np.zeros(CLASSES, int), np.zeros(CLASSES, int), np.zeros((CLASSES, CLASSES), int)
    for row, label in zip(probabilities, labels, strict=True):
        order = sorted(range(CLASSES), key=lambda k: (-row[k], k))
        taken[label, order[0]] += 1
        wrong1[label] += label != order[0]
        wrong5[label] += label not in order[:5]
    assert found.of_class.tolist() == [np.bincount(labels).tolist(), wrong1.tolist(), wrong5.tolist()]
    assert found.confusion is not None and found.confusion.tolist() == taken.tolist()
    assert (found.pictures, found.tally.wrong1, found.tally.wrong5) == (PICTURES, wrong1.sum(), wrong5.sum())
    assert 0 < found.tally.wrong5 < found.tally.wrong1 and found.tally.top1_error == 100 * wrong1.sum() / PICTURES
    loss = -np.log(probabilities[np.arange(PICTURES), labels].astype(np.float64)).mean()
    assert found.tally.cross_entropy == pytest.approx(loss, rel=1e-12)


def test_calibration_over_bins_whose_upper_edge_is_theirs(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = answers
    sure = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    apart, counted = 0.0, []
    for number in range(BINS):
        inside = (sure > number / BINS) & (sure <= (number + 1) / BINS)
        counted.append([inside.sum(), right[inside].sum()])
        if inside.any():
            apart += inside.sum() * abs(right[inside].mean() - sure[inside].mean())
    found = scored(*answers)
    assert found.bins[:2].T.tolist() == counted and found.bins[0].sum() == PICTURES
    assert found.calibration_error == pytest.approx(100 * apart / PICTURES, rel=1e-9)


def test_a_sure_and_right_model_is_calibrated() -> None:
    labels = np.arange(PICTURES) % CLASSES
    found = scored(np.eye(CLASSES, dtype=np.float32)[labels], labels)
    assert (found.calibration_error, found.tally.top1_error, found.bins[0, -1]) == (0, 0, PICTURES)
    other = scored(np.eye(CLASSES, dtype=np.float32)[(labels + 1) % CLASSES], labels)
    assert (other.calibration_error, other.tally.top1_error) == (100, 100)


def test_the_mean_of_models_is_numpys() -> None:
    generator = np.random.default_rng(4)
    parts = generator.random((3, 50, CLASSES), dtype=np.float32)
    weights = (0.5, 2.0, 0.25)
    found = mean([torch.from_numpy(part) for part in parts], weights)
    wanted = np.average(parts.astype(np.float64), axis=0, weights=weights)
    assert found.dtype == torch.float32 and np.array_equal(found.numpy(), wanted.astype(np.float32))


def test_a_jury_scores_each_model_and_their_mean(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = answers
    other = probabilities[:, ::-1].copy()
    jury = Jury((1.0, 3.0), CLASSES, 1, confusion=False)
    given = tuple(torch.from_numpy(part) for part in (probabilities, other))
    combined = jury.take(Answered(0, np.arange(PICTURES), torch.from_numpy(labels), given))
    first, second, both = jury.scores(ALONE)
    assert first.of_class.tolist() == scored(probabilities, labels).of_class.tolist()
    assert second.of_class.tolist() == scored(other, labels).of_class.tolist()
    assert both.of_class.tolist() == scored(combined.numpy(), labels).of_class.tolist()
    assert first.confusion is None and len({math.fsum(s.loss for s in (x,)) for x in (first, second, both)}) == 3
