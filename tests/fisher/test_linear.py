from dataclasses import replace

import numpy as np
import pytest
import torch

from alexnet_cli.fisher import linear
from alexnet_cli.fisher.linear import Learning, State, Vectors, fresh, learnt

CLASSES, NUMBERS, EACH = 3, 20, 16
LEARNING = Learning(epochs=4, rate=4.0, decay=1e-3, seed=1)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    """75 vectors of length 1 in five files, of three classes that can be told apart."""
    folder, rng = tmp_path_factory.mktemp("vectors"), np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, 75)
    rows = rng.normal(0, 0.4, (75, NUMBERS))
    rows[np.arange(75), labels] += 1.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    files = tuple(folder / f"{place}.npy" for place in range(5))
    for place, file in enumerate(files):
        np.save(file, rows[place * EACH : (place + 1) * EACH].astype(np.float16))
    return Vectors(files, labels, EACH)


def errors(state: State, vectors: Vectors) -> float:
    rows = torch.cat([vectors.chunk(place)[0] for place in range(5)]).float()
    answers = (rows @ state.classifier.T + state.biases).argmax(1).numpy()
    return float((answers != vectors.labels).mean())


def last(vectors: Vectors, learning: Learning, state: State | None = None) -> State:
    return [*learnt(vectors, learning, state or fresh(CLASSES, NUMBERS))][-1]


class Watched(Vectors):
    """Notes which files are read; they are in order, some of them ahead."""

    def chunk(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        SEEN.append(place)
        return super().chunk(place)


SEEN: list[int] = []


@pytest.fixture
def watched(vectors: Vectors) -> Vectors:
    SEEN.clear()
    return Watched(vectors.files, vectors.labels, EACH)


def test_a_step_is_torchs_own_on_the_summed_logistic_loss(
    watched: Vectors, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through autograd and torch.optim.SGD, with one file for a batch."""
    monkeypatch.setattr(linear, "BATCH", EACH)
    layer = torch.nn.Linear(NUMBERS, CLASSES)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.constant_(layer.bias, -np.log(CLASSES - 1))
    for done, state in enumerate(learnt(watched, LEARNING, fresh(CLASSES, NUMBERS))):
        rows, labels = vectors.chunk(SEEN[done])
        targets = torch.nn.functional.one_hot(labels, CLASSES).float()
        logits = layer(rows.float())
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(rows)
        assert loss.item() == pytest.approx(state.loss, rel=1e-4)
        decayed = {"params": [layer.weight], "weight_decay": LEARNING.decay}
        optimizer = torch.optim.SGD([decayed, {"params": [layer.bias]}], lr=LEARNING.rate * (1 - done / 20))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(state.classifier, layer.weight.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state.biases, layer.bias.detach(), rtol=1e-4, atol=1e-5)
    assert done == 19


def test_each_epoch_sees_every_file_once_in_an_order_of_its_own(watched: Vectors) -> None:
    last(watched, LEARNING)
    epochs = [SEEN[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_it_learns(vectors: Vectors) -> None:
    assert errors(last(vectors, replace(LEARNING, epochs=30)), vectors) < 0.05
    assert errors(fresh(CLASSES, NUMBERS), vectors) > 0.5


@pytest.mark.parametrize("stop", [1, 7, 19])
def test_from_any_file_on_it_learns_the_same_bits(vectors: Vectors, stop: int) -> None:
    whole = last(vectors, LEARNING)
    for part in learnt(vectors, LEARNING, fresh(CLASSES, NUMBERS)):
        if part.done == stop:
            break
    again = State(part.classifier.clone(), part.biases.clone(), part.done, part.loss)
    resumed = last(vectors, LEARNING, again)
    assert torch.equal(resumed.classifier, whole.classifier) and torch.equal(resumed.biases, whole.biases)


def test_a_rate_that_is_too_high_for_vectors_so_alike_is_survived(vectors: Vectors) -> None:
    """A slope is at most 1, so that it swings, and comes to rest as the rate falls."""
    found = last(vectors, replace(LEARNING, rate=64.0, epochs=20, decay=0.0))
    assert np.isfinite(found.loss) and errors(found, vectors) < 0.05


def test_before_it_learns_no_class_is_likelier_than_chance() -> None:
    assert fresh(4, NUMBERS).biases.sigmoid().numpy() == pytest.approx(0.25)
