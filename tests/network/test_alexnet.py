"""The network of `paper` and `text`, forward, backward and one update, against float64 numpy (reference.py)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F

from alexnet_cli import recipes
from alexnet_cli.engine import optimizer
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.describe import layers

CLASSES, BATCH, HIDDEN = 7, 3, 16
TINY = recipes.Network(kernels=(12, 14, 8, 12, 10), hidden=HIDDEN)  # 6 and 7 maps a tower: whole LRN windows
LAYER = recipes.Normalization(across="layer")

# Each reading of the text beside the numbers that say the same to the reference.
READINGS = {
    "paper": (TINY, reference.Numbers()),
    "text": (replace(TINY, normalization=LAYER), reference.Numbers(norm_whole_layer=True)),
    "before relu": (
        replace(TINY, normalization=recipes.Normalization(order="before-relu")),
        reference.Numbers(norm1_before_relu=True),
    ),
    "inverted dropout": (
        replace(TINY, dropout=0.3, dropout_scaling="training"),
        reference.Numbers(keep=0.7, inverted_dropout=True),
    ),
    "one tower, no power of 3/4": (
        replace(TINY, towers=1, normalization=recipes.Normalization(size=3, alpha=2e-3, beta=0.6, k=1.5)),
        reference.Numbers(towers=1, n=3, alpha=2e-3, beta=0.6, k=1.5),
    ),
}


@pytest.fixture(params=READINGS)
def reading(request: pytest.FixtureRequest) -> tuple[recipes.Network, reference.Numbers]:
    return READINGS[request.param]


def random_weights(net: recipes.Network) -> reference.Arrays:
    """Weights that keep the activations at some tens, where the normalization bends, and logits of order 1."""
    generator = np.random.default_rng(7)
    weights = {}
    for name, parameter in AlexNet(net, CLASSES).named_parameters():
        fan_in = parameter[0].numel()
        scale = 1.0 if name.endswith(".bias") else math.sqrt(2 / fan_in) * (0.05 if name == "fc8.weight" else 1)
        weights[name] = generator.normal(0, scale, parameter.shape)
    return weights


def model_with(net: recipes.Network, weights: reference.Arrays) -> AlexNet:
    model = AlexNet(net, CLASSES).double()
    model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in weights.items()})
    return model


def random_batch() -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(8)
    pixels = generator.normal(0, 60, (BATCH, 3, 224, 224))
    masks = tuple((generator.random((BATCH, HIDDEN)) < 0.6).astype(float) for _ in range(2))
    return pixels, generator.integers(0, CLASSES, BATCH), (masks[0], masks[1])


def observed(model: AlexNet) -> dict[str, np.ndarray]:
    """Filled by the next forward pass: the outputs of the layers, and what fc7 and fc8 are given."""
    found: dict[str, np.ndarray] = {}

    def output(name: str, value: torch.Tensor) -> None:
        pooled = ["pool1", "pool2", "pool5"][sum(key.startswith("pool") for key in found) % 3]
        found[pooled if name == "pool" else name] = value.detach().numpy().copy()  # ReLU works in place

    for name, module in model.named_children():
        module.register_forward_hook(lambda _module, _given, value, name=name: output(name, value))
    model.fc7.register_forward_pre_hook(lambda _, given: output("fc6 dropped", given[0]))
    model.fc8.register_forward_pre_hook(lambda _, given: output("fc7 dropped", given[0]))
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
def test_every_layers_output_is_that_of_the_formulas(
    reading: tuple[recipes.Network, reference.Numbers], training: bool
) -> None:
    net, numbers = reading
    weights = random_weights(net)
    pixels, _, masks = random_batch()
    model = model_with(net, weights).train(training)
    found = observed(model)
    given = (torch.from_numpy(masks[0]), torch.from_numpy(masks[1])) if training else None
    logits = model(torch.from_numpy(pixels), given)
    expected = reference.forward(weights, pixels, masks if training else None, numbers).outputs
    assert np.array_equal(logits.detach().numpy(), found["fc8"])
    agree(f"outputs in {'training' if training else 'test'}", found, expected)
    # The comparison says something only where the normalization bends and units are alive.
    assert difference(reference.relu(expected["conv1"]) / numbers.k**numbers.beta, expected["norm1"]) > 0.05
    assert all(0.05 < (expected[name] > 0).mean() < 0.95 for name in recipes.LAYERS)


def test_gradients_are_those_by_hand(reading: tuple[recipes.Network, reference.Numbers]) -> None:
    net, numbers = reading
    weights = random_weights(net)
    pixels, labels, masks = random_batch()
    model = model_with(net, weights).train()
    given = torch.from_numpy(pixels).requires_grad_()
    loss = F.cross_entropy(
        model(given, (torch.from_numpy(masks[0]), torch.from_numpy(masks[1]))), torch.from_numpy(labels)
    )
    loss.backward()
    seen = reference.forward(weights, pixels, masks, numbers)
    expected_loss, at_logits = reference.cross_entropy(seen.outputs["fc8"], labels)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    found = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    agree(
        "gradients", {"pixels": given.grad.numpy(), **found}, reference.backward(weights, seen, at_logits, numbers)
    )


def test_the_references_gradients_are_its_slopes(reading: tuple[recipes.Network, reference.Numbers]) -> None:
    """Along one random direction, by finite differences."""
    net, numbers = reading
    weights = random_weights(net)
    pixels, labels, masks = random_batch()

    def loss_and_gradient(weights: reference.Arrays) -> tuple[float, np.ndarray, reference.Pass]:
        seen = reference.forward(weights, pixels, masks, numbers)
        return *reference.cross_entropy(seen.outputs["fc8"], labels), seen

    _, at_logits, seen = loss_and_gradient(weights)
    gradients = reference.backward(weights, seen, at_logits, numbers)
    generator = np.random.default_rng(9)
    step = {name: generator.normal(0, 1e-7, w.shape) for name, w in weights.items()}
    up, down = (loss_and_gradient({name: w + s * step[name] for name, w in weights.items()})[0] for s in (1, -1))
    predicted = sum((gradients[name] * step[name]).sum() for name in weights)
    assert (up - down) / 2 == pytest.approx(predicted, rel=1e-4)


@pytest.mark.parametrize("recipe", [recipes.paper(), recipes.text()], ids=lambda recipe: recipe.name)
def test_one_whole_update_is_the_papers(recipe: recipes.Recipe) -> None:
    net, numbers = READINGS[recipe.name]
    weights = random_weights(net)
    pixels, labels, masks = random_batch()
    generator = np.random.default_rng(10)
    moving = {name: generator.normal(0, 0.01, w.shape) for name, w in weights.items()}

    model = model_with(net, weights).train()
    velocity = {name: torch.from_numpy(v.copy()) for name, v in moving.items()}
    logits = model(torch.from_numpy(pixels), (torch.from_numpy(masks[0]), torch.from_numpy(masks[1])))
    F.cross_entropy(logits, torch.from_numpy(labels)).backward()
    table = optimizer.rows(velocity, recipe.optimizer, recipe.optimizer.rate)
    optimizer.update(model, velocity, table, recipe.optimizer.momentum)

    seen = reference.forward(weights, pixels, masks, numbers)
    gradients = reference.backward(weights, seen, reference.cross_entropy(seen.outputs["fc8"], labels)[1], numbers)
    expected, expected_v = reference.update(weights, moving, gradients, 0.01, bias_decay=recipe.name == "text")
    agree("velocity after one update", {name: v.numpy() for name, v in velocity.items()}, expected_v)
    agree("weights after one update", {name: p.detach().numpy() for name, p in model.named_parameters()}, expected)


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


# -- what `describe` counts -----------------------------------------------------------------------------------


def test_paper_has_the_papers_shapes_parameters_and_multiply_adds() -> None:
    found = layers(recipes.paper().network, classes=1000)
    assert [(layer.name, layer.output) for layer in found] == [
        ("conv1", (96, 55, 55)),
        ("norm1", (96, 55, 55)),
        ("pool", (96, 27, 27)),
        ("conv2", (256, 27, 27)),
        ("norm2", (256, 27, 27)),
        ("pool", (256, 13, 13)),
        ("conv3", (384, 13, 13)),
        ("conv4", (384, 13, 13)),
        ("conv5", (256, 13, 13)),
        ("pool", (256, 6, 6)),
        ("fc6", (4096,)),
        ("fc7", (4096,)),
        ("fc8", (1000,)),
    ]
    weighted = {layer.name: layer for layer in found if layer.parameters}
    assert {name: layer.parameters for name, layer in weighted.items()} == {
        "conv1": 34_848 + 96,
        "conv2": 307_200 + 256,
        "conv3": 884_736 + 384,
        "conv4": 663_552 + 384,
        "conv5": 442_368 + 256,
        "fc6": 37_748_736 + 4096,
        "fc7": 16_777_216 + 4096,
        "fc8": 4_096_000 + 1000,
    }
    assert sum(layer.parameters for layer in found) == 60_965_224
    millions = {name: layer.multiply_adds / 1e6 for name, layer in weighted.items()}
    expected = {"conv1": 105.4, "conv2": 223.9, "conv3": 149.5, "conv4": 112.1, "conv5": 74.8}
    assert millions == pytest.approx(expected | {"fc6": 37.7, "fc7": 16.8, "fc8": 4.1}, abs=0.06)
    assert sum(millions.values()) == pytest.approx(724.4, abs=0.05)


def test_describe_counts_the_parameters_that_a_model_has() -> None:
    for net in (TINY, recipes.small().network, replace(TINY, normalization=recipes.Normalization(size=0))):
        model = AlexNet(net, CLASSES)
        assert sum(layer.parameters for layer in layers(net, CLASSES)) == sum(
            p.numel() for p in model.parameters()
        )


def test_describe_leaves_out_a_normalization_that_is_switched_off() -> None:
    without = replace(TINY, normalization=recipes.Normalization(size=0))
    assert not any(layer.name.startswith("norm") for layer in layers(without, CLASSES))


# -- the first weights ----------------------------------------------------------------------------------------


def initialised(net: recipes.Network, seed: int = 0, classes: int = 1000) -> AlexNet:
    model = AlexNet(net, classes)
    initialise(model, net, seed)
    return model


def deviations(model: AlexNet) -> dict[str, float]:
    return {name: getattr(model, name).weight.std().item() for name in recipes.LAYERS}


def test_each_layer_has_its_sigma_and_the_papers_biases() -> None:
    sigma = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08)
    # Full width in name (σ is not scaled), a few kernels in fact.
    model = initialised(recipes.Network(kernels=(48, 32, 48, 48, 32), hidden=128, sigma=sigma))
    for name, expected in zip(recipes.LAYERS, sigma, strict=True):
        layer = getattr(model, name)
        count = layer.weight.numel()
        assert layer.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * count))
        assert abs(layer.weight.mean().item()) < 5 * expected / math.sqrt(count)
        assert layer.weight.abs().max() > 3.2 * expected  # not truncated
        assert torch.all(layer.bias == (1.0 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0))


def test_a_quarter_of_the_width_doubles_sigma_but_for_conv1() -> None:
    expected = dict.fromkeys(recipes.LAYERS, 0.02) | {"conv1": 0.01}
    assert deviations(initialised(recipes.small().network)) == pytest.approx(expected, rel=0.04)


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, again, other = (initialised(TINY, seed).state_dict() for seed in (5, 5, 6))
    for name in one:
        assert torch.equal(one[name], again[name])
        assert name.endswith(".bias") or not torch.equal(one[name], other[name])


def test_a_seed_may_be_any_whole_number() -> None:
    assert torch.isfinite(initialised(TINY, seed=2**70 + 1).conv1.weight).all()


def test_no_two_layers_or_seeds_share_their_draws() -> None:
    starts = {
        tuple((getattr(model, name).weight.flatten()[:8] / sigma).tolist())
        for model in (initialised(TINY, seed) for seed in range(4))
        for name, sigma in zip(recipes.LAYERS, TINY.sigma, strict=True)
    }
    assert len(starts) == 4 * 8


def test_variants_share_the_weights_of_the_layers_they_have_in_common() -> None:
    base = initialised(TINY).state_dict()
    text = initialised(replace(TINY, normalization=LAYER)).state_dict()
    assert all(torch.equal(base[name], text[name]) for name in base)
    wider = initialised(replace(TINY, hidden=32)).state_dict()
    fewer = initialised(TINY, classes=3).state_dict()
    for name in base:
        if name.startswith("conv"):
            assert torch.equal(base[name], wider[name])
        if not name.startswith("fc8"):
            assert torch.equal(base[name], fewer[name])


def test_default_numbers_are_the_papers() -> None:
    """The reference has the constants written out a second time."""
    numbers, norm = reference.Numbers(), recipes.paper().network.normalization
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (numbers.n, numbers.alpha, numbers.beta, numbers.k)
    assert recipes.paper().network.dropout == 1 - numbers.keep
