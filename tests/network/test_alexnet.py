"""The network of every recipe and variant, forward, backward and one update, against reference.py's numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from reference import Numbers

from alexnet_cli import recipes
from alexnet_cli.engine import optimizer
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.within import WithinMapNorm
from alexnet_cli.recipes import Network

CLASSES, BATCH = 7, 2

# Each recipe beside the numbers that say the same to the reference; `small`, narrowed, would be `paper`.
PAPER = Numbers()
TEXT = Numbers(norm_whole_layer=True)
ORIGINAL = Numbers(alpha=1e-4 / 5, norm1_before_relu=True, within=True)
CAFFE = Numbers(edges=(0, 0), norm_whole_layer=True, alpha=1e-4 / 5, k=1.0, inverted_dropout=True)
TORCHVISION = Numbers(towers=1, edges=(2, 2), n=0, inverted_dropout=True, dropout_of_inputs=True)
RECIPES = {
    "paper": PAPER,
    "text": TEXT,
    "original": ORIGINAL,
    "caffe": CAFFE,
    "torchvision": TORCHVISION,
}
VARIANTS = {
    "paper+six-conv": PAPER,
    "paper+bottleneck": PAPER,
    "torchvision+six-conv+bottleneck": TORCHVISION,
    "paper+four-layer": replace(PAPER, keep=1.0),
    "paper+one-gpu": replace(PAPER, towers=1),
    "paper+ungrouped": replace(PAPER, towers=1),
    "paper+no-exchange": replace(PAPER, exchange=False),
    "paper+no-lrn": replace(PAPER, n=0),
    "paper+non-overlapping": replace(PAPER, pooled=2),
    "paper+tanh": replace(PAPER, activation="tanh"),
    "paper+sigmoid": replace(PAPER, activation="sigmoid"),
    "paper+no-dropout": replace(PAPER, keep=1.0),
    "paper+no-conv1": PAPER,
    "paper+no-conv2": PAPER,
    "paper+no-conv3": PAPER,
    "paper+no-conv4": PAPER,
    "paper+no-conv5": PAPER,
    "original+non-overlapping+no-conv1+no-exchange": replace(ORIGINAL, pooled=2, exchange=False),
    "original+six-conv+tanh+non-overlapping": replace(ORIGINAL, activation="tanh", pooled=2),
    "caffe+no-conv1": CAFFE,
    "caffe+no-conv3+no-exchange": replace(CAFFE, exchange=False),
    "torchvision+six-conv+no-conv5+non-overlapping": replace(TORCHVISION, pooled=2),
}
BY_HAND = {
    "keep 0.7": (["dropout=0.3", "dropout_scaling=training"], replace(PAPER, keep=0.7, inverted_dropout=True)),
    "no power of 3/4": (
        ["towers=1", *(f"normalization.{value}" for value in ("size=3", "alpha=2e-3", "beta=0.6", "k=1.5"))],
        Numbers(towers=1, n=3, alpha=2e-3, beta=0.6, k=1.5),
    ),
}
READINGS = {
    **{name: (recipes.named(name), numbers) for name, numbers in (RECIPES | VARIANTS).items()},
    **{name: (recipes.chosen("paper", given), numbers) for name, (given, numbers) in BY_HAND.items()},
}

Reading = tuple[Network, Numbers]


def narrow(recipe: recipes.Recipe) -> Network:
    """An eighth of the paper's width, 6 maps a tower in conv1: whole LRN windows."""
    return replace(recipe.network, width=1 / 8, hidden=min(128, recipe.network.hidden))


@pytest.fixture(params=READINGS)
def reading(request: pytest.FixtureRequest) -> Reading:
    recipe, numbers = READINGS[request.param]
    return narrow(recipe), numbers


def random_weights(net: Network) -> reference.Arrays:
    """Weights that keep the activations at some tens, where the normalization bends, and logits of order 1."""
    generator = np.random.default_rng(7)
    weights = {}
    for name, parameter in AlexNet(net, CLASSES).named_parameters():
        layer, fan_in = name.partition(".")[0], parameter[0].numel()
        scale = 1.0 if name.endswith(".bias") else math.sqrt(2 / fan_in) * (0.05 if layer == "fc8" else 1)
        if net.activation != "relu" and name == f"{net.layers[0]}.weight":
            scale /= 60  # the pixels': what saturates has no slope
        weights[name] = generator.normal(0, scale, parameter.shape)
    return weights


def model_with(net: Network, weights: reference.Arrays) -> AlexNet:
    model = AlexNet(net, CLASSES).double()
    model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in weights.items()})
    return model


Masks = tuple[np.ndarray, np.ndarray]


def random_batch(net: Network) -> tuple[np.ndarray, np.ndarray, Masks]:
    generator = np.random.default_rng(8)
    pixels = generator.normal(0, 60, (BATCH, 3, net.crop, net.crop))
    mask6, mask7 = ((generator.random((BATCH, n)) < 0.6).astype(float) for n in net.mask_widths)
    if net.dropout == 0:
        mask6, mask7 = np.ones_like(mask6), np.ones_like(mask7)
    return pixels, generator.integers(0, CLASSES, BATCH), (mask6, mask7)


def tensors(masks: Masks) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(masks[0]), torch.from_numpy(masks[1])


def observed(model: AlexNet) -> dict[str, np.ndarray]:
    """Filled by the next forward pass: the outputs of the layers, and what fc6, fc7 and fc8 are given."""
    found: dict[str, np.ndarray] = {}

    def seen(name: str, value: torch.Tensor) -> None:
        pooled = ["pool1", "pool2", "pool5"][sum(key.startswith("pool") for key in found) % 3]
        found[pooled if name == "pool" else name] = value.detach().numpy().copy()  # ReLU works in place

    for name, module in model.named_children():
        if not isinstance(module, torch.nn.Identity):
            module.register_forward_hook(lambda _module, _given, value, name=name: seen(name, value))
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _module, given, name=name: seen(f"into {name}", given[0]))
    return found


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a part of the largest number."""
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def agree(what: str, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    differences = {name: difference(ours[name], theirs[name]) for name in theirs}
    worst = max(differences, key=differences.__getitem__)
    print(f"{what}: largest relative difference {differences[worst]:.1e}, in {worst}")
    assert differences[worst] < 1e-10


@pytest.mark.parametrize("training", [True, False], ids=["training", "test"])
def test_every_layers_output_is_that_of_the_formulas(reading: Reading, training: bool) -> None:
    net, numbers = reading
    weights = random_weights(net)
    pixels, _, masks = random_batch(net)
    model = model_with(net, weights).train(training)
    found = observed(model)
    logits = model(torch.from_numpy(pixels), tensors(masks) if training else None)
    expected = reference.forward(weights, pixels, masks if training else None, numbers).outputs
    assert np.array_equal(logits.detach().numpy(), found["fc8"])
    agree(f"outputs in {'training' if training else 'test'}", found, expected)
    # The comparison says something only where the normalization bends and units are alive.
    assert all(0.05 < (expected[name] > 0).mean() < 0.95 for name in net.layers)
    if "norm1" in expected and net.activation == "relu":
        plain = expected["conv1"] if numbers.norm1_before_relu else reference.relu(expected["conv1"])
        assert difference(plain / numbers.k**numbers.beta, expected["norm1"]) > 0.05
    if "within2" in expected and net.activation == "relu":
        assert difference(expected["norm2"], expected["within2"]) > 0.05


def test_gradients_are_those_by_hand(reading: Reading) -> None:
    net, numbers = reading
    weights = random_weights(net)
    pixels, labels, masks = random_batch(net)
    model = model_with(net, weights).train()
    given = torch.from_numpy(pixels).requires_grad_()
    loss = F.cross_entropy(model(given, tensors(masks)), torch.from_numpy(labels))
    loss.backward()
    seen = reference.forward(weights, pixels, masks, numbers)
    expected_loss, at_logits = reference.cross_entropy(seen.outputs["fc8"], labels)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    found = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    agree("gradients", {"pixels": given.grad.numpy(), **found}, reference.backward(seen, at_logits))


@pytest.mark.parametrize(
    "name", [*RECIPES, "paper+non-overlapping", "paper+tanh", "paper+sigmoid", "caffe+no-conv1"]
)
def test_the_references_gradients_are_its_slopes(name: str) -> None:
    """Along one random direction, by finite differences."""
    recipe, numbers = READINGS[name]
    weights = random_weights(narrow(recipe))
    pixels, labels, masks = random_batch(narrow(recipe))

    def loss_and_gradient(weights: reference.Arrays) -> tuple[float, np.ndarray, reference.Pass]:
        seen = reference.forward(weights, pixels, masks, numbers)
        return *reference.cross_entropy(seen.outputs["fc8"], labels), seen

    _, at_logits, seen = loss_and_gradient(weights)
    gradients = reference.backward(seen, at_logits)
    generator = np.random.default_rng(9)
    step = {name: generator.normal(0, 1e-7 * w.std(), w.shape) for name, w in weights.items()}
    up, down = (loss_and_gradient({name: w + s * step[name] for name, w in weights.items()})[0] for s in (1, -1))
    predicted = sum((gradients[name] * step[name]).sum() for name in weights)
    assert (up - down) / 2 == pytest.approx(predicted, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("paper", {}),
        ("text", {"bias_decay": True}),
        ("original", {"bias_rate": 2.0}),
        ("caffe", {"bias_rate": 2.0}),
    ],
)
def test_one_whole_update_is_that_of_the_formulas(name: str, rates: dict[str, float]) -> None:
    recipe, numbers = READINGS[name]
    net = narrow(recipe)
    weights = random_weights(net)
    pixels, labels, masks = random_batch(net)
    generator = np.random.default_rng(10)
    moving = {name: generator.normal(0, 0.01, w.shape) for name, w in weights.items()}

    model = model_with(net, weights).train()
    velocity = {name: torch.from_numpy(v.copy()) for name, v in moving.items()}
    F.cross_entropy(model(torch.from_numpy(pixels), tensors(masks)), torch.from_numpy(labels)).backward()
    table = optimizer.rows(velocity, recipe.optimizer, recipe.optimizer.rate)
    optimizer.update(model, velocity, table, recipe.optimizer.momentum)

    seen = reference.forward(weights, pixels, masks, numbers)
    gradients = reference.backward(seen, reference.cross_entropy(seen.outputs["fc8"], labels)[1])
    expected, expected_v = reference.update(weights, moving, gradients, 0.01, **rates)
    agree(f"{name}: velocity after one update", {n: v.numpy() for n, v in velocity.items()}, expected_v)
    agree(
        f"{name}: weights after one update", {n: p.detach().numpy() for n, p in model.named_parameters()}, expected
    )


def test_default_numbers_are_the_papers() -> None:
    """The reference has the constants written out a second time."""
    numbers, norm = Numbers(), recipes.paper().network.normalization
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (numbers.n, numbers.alpha, numbers.beta, numbers.k)
    assert recipes.paper().network.dropout == 1 - numbers.keep


# -- the parts ------------------------------------------------------------------------------------------------


def test_the_normalization_over_places_has_the_gradients_of_its_formula() -> None:
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 60
    assert torch.autograd.gradcheck(WithinMapNorm(), x.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_normalization_over_places_holds_in_half_precision(dtype: torch.dtype) -> None:
    x = torch.full((1, 2, 9, 9), 300.0)
    x[:, 1] = -300.0
    y = WithinMapNorm()(x.to(dtype))
    assert y.dtype == dtype
    assert torch.allclose(y.float(), WithinMapNorm()(x), rtol=0.01)


HIDDEN = 16
TINY = Network(kernels=(12, 14, 8, 12, 10), hidden=HIDDEN)


def test_inverted_dropout_is_torchs() -> None:
    model = AlexNet(replace(TINY, dropout=0.3, dropout_scaling="training"), CLASSES)
    x = torch.randn(50, HIDDEN, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    theirs = F.dropout(x, 0.3)
    mask = (theirs != 0).float()
    assert 0.6 < mask.mean() < 0.8
    assert torch.allclose(model.train().drop(x, mask), theirs, rtol=1e-6, atol=0)
    assert torch.equal(model.eval().drop(x, None), F.dropout(x, 0.3, training=False))


def test_the_papers_dropout_halves_at_test_and_only_masks_in_training() -> None:
    model = AlexNet(TINY, CLASSES)
    x, mask = torch.randn(5, HIDDEN), torch.arange(5 * HIDDEN).view(5, HIDDEN) % 2.0
    assert torch.equal(model.train().drop(x, mask), x * mask)
    assert torch.equal(model.eval().drop(x, None), x / 2)


def test_without_dropout_training_and_test_are_one() -> None:
    model = AlexNet(replace(TINY, dropout=0.0), CLASSES)
    initialise(model, TINY, seed=3)
    pixels = torch.randn(2, 3, 224, 224)
    assert torch.equal(model.train()(pixels), model.eval()(pixels))
