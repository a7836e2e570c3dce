"""Errors are counted as plain numpy would, and ten crops are what the paper says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_cli import recipes
from alexnet_cli.dataset.manifest import Dataset, open_dataset
from alexnet_cli.engine import evaluation
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject
from alexnet_cli.engine.evaluation import Tally, counts, split_for, tallies
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.prediction import NetworkClassifier, classifier
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.augmentation import Colours, Patches
from alexnet_cli.loading.loader import Reader
from alexnet_cli.network.alexnet import AlexNet, initialise

ALONE = Ranks(0, 1, torch.device("cpu"))
NETWORK = recipes.chosen(
    "small", ["width=0.05", "biased=", "sigma=0.01,0.03,0.03,0.03,0.03,0.03,0.03,0.03"]
).network


@pytest.fixture(scope="module")
def dataset(tiny: Path) -> Dataset:
    return open_dataset(tiny)


@pytest.fixture(scope="module")
def model() -> AlexNet:
    """A net whose answers differ from picture to picture and from crop to crop."""
    made = AlexNet(NETWORK, 7)
    initialise(made, NETWORK, 1)
    return made


def counted(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """The reference: every row sorted by probability, and by label among equals."""
    wrong1 = wrong5 = 0
    loss = 0.0
    for row, label in zip(probabilities, labels, strict=True):
        order = sorted(range(len(row)), key=lambda c, row=row: (-row[c], c))
        wrong1 += label != order[0]
        wrong5 += label not in order[:5]
        loss -= np.log(np.float64(row[label]))
    return [len(labels), wrong1, wrong5, loss]


@pytest.mark.parametrize("classes", [2, 5, 6, 40])
@pytest.mark.parametrize("levels", [2, 3, 1000])  # few levels: many ties
def test_counts_are_those_of_numpy_with_ties(classes: int, levels: int) -> None:
    generator = np.random.default_rng(classes * levels)
    probabilities = generator.integers(1, levels + 1, (300, classes)).astype(np.float32) / levels / classes
    labels = generator.integers(0, classes, 300)
    found = counts(torch.from_numpy(probabilities), torch.from_numpy(labels))
    assert found.dtype == torch.float64
    assert np.allclose(found.numpy(), counted(probabilities, labels), rtol=1e-12)


def test_of_equals_the_lower_label_is_first() -> None:
    equal = torch.full((8, 8), 1 / 8)
    assert counts(equal, torch.arange(8))[:3].tolist() == [8, 7, 3]


def test_a_probability_of_zero_is_a_finite_loss() -> None:
    assert torch.isfinite(counts(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_are_not_counted(value: float) -> None:
    with pytest.raises(AlexNetError, match="outputs are not finite"):
        counts(torch.tensor([[0.5, 0.5], [value, 0.0]]), torch.tensor([0, 0]))


def test_percent() -> None:
    tally = Tally(pictures=8, wrong1=3, wrong5=1, loss=4.0)
    assert (tally.top1_error, tally.top5_error, tally.cross_entropy) == (37.5, 12.5, 0.5)
    assert Tally().top1_error == 0


def patches(dataset: Dataset) -> Patches:
    return Patches(224, torch.from_numpy(np.array(dataset.mean)))


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def explicit_views(pictures: np.ndarray, mean: np.ndarray, crops: int, side: int) -> list[np.ndarray]:
    """Slices of the pictures less the mean, in float64: four corners and the centre, then their reflections."""
    x = pictures.astype(np.float64) - mean.astype(np.float64)
    margin, middle = 256 - side, slice((256 - side) // 2, (256 + side) // 2)
    if crops == 1:
        return [x[:, :, middle, middle]]
    patches = [
        x[:, :, :side, :side],
        x[:, :, :side, margin:],
        x[:, :, margin:, :side],
        x[:, :, margin:, margin:],
        x[:, :, middle, middle],
    ]
    return patches + [patch[:, :, :, ::-1] for patch in patches]


@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("side", [224, 227])
def test_crops_are_slices_averaged_after_the_softmax(
    dataset: Dataset, model: AlexNet, crops: int, side: int
) -> None:
    with Reader(dataset.splits["val"]) as reader:
        pictures = torch.stack([reader.picture(k) for k in (0, 3, 9, 17)])
    mean = torch.from_numpy(np.array(dataset.mean))
    network = NETWORK if side == 224 else replace(NETWORK, crop=227, conv1_padding=(0, 0))
    same = AlexNet(network, 7)
    same.load_state_dict(model.state_dict())
    found = NetworkClassifier(same, Patches(side, mean), crops, torch.device("cpu"))(pictures)
    precise = AlexNet(network, 7).double().eval()
    precise.load_state_dict(model.state_dict())
    with torch.no_grad():
        views = explicit_views(pictures.numpy(), mean.numpy(), crops, side)
        answers = [softmax(precise(torch.from_numpy(view.copy())).numpy()) for view in views]
    assert len(views) == crops and found.dtype == torch.float32
    assert np.allclose(found.numpy(), np.mean(answers, 0), rtol=1e-4, atol=1e-6)
    assert np.ptp(found.numpy(), 0).max() > 0.01, "the pictures differ"
    assert crops == 1 or np.ptp(answers, 0).max() > 0.01, "the crops differ"


@pytest.mark.parametrize("name", ["paper", "original", "caffe", "torchvision"])
def test_a_checkpoint_is_fed_as_its_recipe_says(dataset: Dataset, name: str) -> None:
    """Against the mean, scale and crop of each recipe, written out."""
    recipe = recipes.chosen(name, ["width=0.05"])
    model = AlexNet(recipe.network, 2)
    initialise(model, recipe.network, 1)
    weights = dict(model.named_parameters())
    checkpoint = Checkpoint(recipe, subject(dataset, dataset.classes), Position(), weights, {})
    with Reader(dataset.splits["val"]) as reader:
        pictures = torch.stack([reader.picture(k) for k in (0, 9)])
    x, mean = pictures.double(), torch.from_numpy(np.array(dataset.mean)).double()
    means, deviations = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double().view(2, 3, 1, 1)
    patch, right = {  # the central patch, and the upper right one of ten, reflected
        "paper": (x - mean, (x - mean)[:, :, :224, 32:].flip(3)),
        "original": (x - mean, x[:, :, :224, 32:].flip(3) - mean[:, 16:240, 16:240]),
        "caffe": (x - mean, (x - mean)[:, :, :227, 29:].flip(3)),
        "torchvision": ((x / 255 - means) / deviations, ((x / 255 - means) / deviations)[:, :, :224, 32:].flip(3)),
    }[name]
    seen: list[torch.Tensor] = []
    for crops in (1, 10):
        classify = classifier(checkpoint, crops, torch.device("cpu"))
        classify.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        classify(pictures)
    assert len(seen) == 11
    window = slice(14, 241) if name == "caffe" else slice(16, 240)
    assert torch.allclose(seen[0].double(), patch[:, :, window, window], rtol=0, atol=3e-5)
    assert torch.allclose(seen[7].double(), right, rtol=0, atol=3e-5)


def test_a_classifier_has_no_dropout_even_from_a_model_in_training(dataset: Dataset, model: AlexNet) -> None:
    classify = NetworkClassifier(model, patches(dataset), 1, torch.device("cpu"))
    picture = torch.full((1, 3, 256, 256), 99, dtype=torch.uint8)
    model.eval()
    wanted = classify(picture)
    model.train()
    assert torch.equal(classify(picture), wanted) and not wanted.requires_grad


@pytest.mark.parametrize("batch_size", [4, 5, 18, 128])
def test_a_split_is_counted_once_whatever_the_batch_size(
    dataset: Dataset, model: AlexNet, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = dataset.splits["val"]
    classify = NetworkClassifier(model, patches(dataset), 1, torch.device("cpu"))
    with Reader(split) as reader:
        pictures = torch.stack([reader.picture(k) for k in range(18)])
    wanted = counted(classify(pictures).numpy(), split.index["label"])
    monkeypatch.setattr(evaluation, "BATCH_SIZE", batch_size)
    steps = list(tallies(classify, split, ALONE, 2))
    assert [tally.pictures for tally in steps[:-1]] == [min(18, batch_size * k) for k in range(1, len(steps))]
    last = steps[-1]
    assert [last.pictures, last.wrong1, last.wrong5] == wanted[:3]
    assert last.loss == pytest.approx(wanted[3], rel=1e-4)


def subject(dataset: Dataset, classes: tuple[str, ...]) -> Subject:
    colours = Colours(torch.from_numpy(np.array(dataset.mean)), dataset.eigenvalues, dataset.eigenvectors)
    return Subject(classes, (None,) * len(classes), colours, {}, dataset.fingerprint)


def test_labels_must_mean_what_the_outputs_mean(dataset: Dataset) -> None:
    assert split_for(subject(dataset, ("bars", "discs")), dataset, "test") is dataset.splits["test"]
    with pytest.raises(AlexNetError, match=r"has no split 'holdout'") as caught:
        split_for(subject(dataset, ("bars", "discs")), dataset, "holdout")
    assert caught.value.hint == "it has test, train, val"
    others = (("discs", "bars"), ("bars",), ("bars", "discs", "rings", "stars"))
    for classes in others:
        with pytest.raises(AlexNetError, match=r"has 2 classes \(bars, discs\)") as caught:
            split_for(subject(dataset, classes), dataset, "val")
        assert f"the model knows {len(classes)} classes ({', '.join(classes[:3])}" in caught.value.message
        assert "same classes in the same order" in caught.value.hint


def test_a_picture_that_is_damaged_names_its_shard(place: Path, tiny: Path) -> None:
    split = open_dataset(tiny).splits["val"]
    damaged = place / "val-000000.tar"
    data = bytearray(split.shards[0].read_bytes())
    offset = int(split.index["offset"][5])
    data[offset : offset + 400] = bytes(400)
    damaged.write_bytes(data)
    with pytest.raises(AlexNetError, match=rf"the picture at byte {offset} of .*val-000000.tar is damaged"):
        list(tallies(lambda batch: torch.ones(len(batch), 2) / 2, replace(split, shards=(damaged,)), ALONE, 2))
