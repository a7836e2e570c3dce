"""The first weights: each layer's distribution, and what seeds and variants have in common."""

import math
from dataclasses import replace

import pytest
import torch

from alexnet_cli import recipes
from alexnet_cli.network.alexnet import AlexNet, initialise

CLASSES = 7
TINY = recipes.Network(kernels=(12, 14, 8, 12, 10), hidden=16)
LAYER = recipes.Normalization(across="layer")


def initialised(net: recipes.Network, seed: int = 0, classes: int = CLASSES) -> AlexNet:
    model = AlexNet(net, classes)
    initialise(model, net, seed)
    return model


def deviations(model: AlexNet) -> dict[str, float]:
    return {name: getattr(model, name).weight.std().item() for name in recipes.LAYERS}


def start(net: recipes.Network, seed: int, name: str) -> list[float]:
    """The first draws of a layer."""
    weight = getattr(initialised(net, seed), name).weight.detach()
    return [round(x, 5) for x in (weight.flatten()[:8] / 0.01).tolist()]


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


def test_the_weights_of_a_seed_stay_those_of_earlier_versions() -> None:
    """A run that is repeated starts where it did."""
    model = initialised(recipes.small().network, seed=1)
    sums = {name: getattr(model, name).weight.abs().double().sum().item() for name in ("conv1", "conv5", "fc8")}
    assert sums == pytest.approx({"conv1": 69.558, "conv5": 438.512, "fc8": 115.276}, abs=0.001)


def test_a_sixth_convolution_has_conv5s_sigma_and_bias_and_leaves_the_others_alone() -> None:
    for base in ("paper", "original"):
        net, six = (replace(recipes.named(name).network, width=0.25) for name in (base, f"{base}+six-conv"))
        model, wider = initialised(net), initialised(six)
        for name in net.layers:
            assert torch.equal(getattr(model, name).weight, getattr(wider, name).weight)
        assert wider.conv6.weight.std().item() == pytest.approx(2 * net.sigma[4], rel=0.02)
        assert torch.all(wider.conv6.bias == 1)


def test_a_sixth_convolution_has_draws_of_its_own() -> None:
    net = replace(TINY, kernels=(*TINY.kernels, 10))
    sixths = [start(net, seed, "conv6") for seed in range(5)]
    others = [start(net, seed, name) for seed in range(40) for name in recipes.LAYERS]
    assert not [draws for draws in sixths if draws in others]
    assert len({tuple(draws) for draws in sixths}) == 5


def test_uniform_weights_keep_within_their_fan_in_at_any_width() -> None:
    model = initialised(replace(recipes.torchvision().network, width=0.25))
    for name in recipes.LAYERS:
        layer = getattr(model, name)
        bound = 1 / math.sqrt(layer.weight[0].numel())
        for values in (layer.weight, layer.bias):
            assert values.abs().max() <= bound
            assert values.abs().max() > 0.5 * bound
        assert not torch.equal(layer.weight.flatten()[: len(layer.bias)], layer.bias)


@pytest.mark.parametrize("layer", recipes.LAYERS[:5])
def test_a_convolution_left_out_leaves_those_that_do_not_touch_it_alone(layer: str) -> None:
    whole, rest = initialised(TINY), initialised(replace(TINY, without=layer))
    same = [n for n in rest.layers if torch.equal(getattr(whole, n).bias, getattr(rest, n).bias)]
    assert same == list(rest.layers)
    shapes = {n: getattr(rest, n).weight.shape == getattr(whole, n).weight.shape for n in rest.layers}
    for name, alike in shapes.items():
        assert not alike or torch.equal(getattr(whole, name).weight, getattr(rest, name).weight)
    assert sum(not alike for alike in shapes.values()) <= 1


def test_a_bottleneck_starts_as_fc8_and_leaves_the_others_as_they_are() -> None:
    net = replace(TINY, hidden=1000, sigma=(0.01,) * 7 + (0.02,))
    plain, narrow = initialised(net), initialised(replace(net, bottleneck=200))
    layer = narrow.bottleneck
    assert layer.weight.shape == (200, 1000) and narrow.fc8.weight.shape == (CLASSES, 200)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.01) and not layer.bias.any()
    for name in recipes.LAYERS[:-1]:
        assert torch.equal(getattr(plain, name).weight, getattr(narrow, name).weight)
    first = layer.weight.detach().flatten()[:6]
    assert not torch.equal(first, narrow.fc8.weight.detach().flatten()[:6])
