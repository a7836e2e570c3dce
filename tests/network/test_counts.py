"""What `describe` counts: shapes, parameters, multiply-adds and memory, for every recipe and variant."""

from dataclasses import replace

import pytest
import torch

from alexnet_cli import recipes
from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.network.describe import Layer, layers
from alexnet_cli.recipes import Network

CLASSES = 7
TINY = Network(kernels=(12, 14, 8, 12, 10), hidden=16)


def described(name: str) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers(recipes.named(name).network, classes=1000)}


def totals(name: str) -> tuple[int, float]:
    """Parameters, and millions of multiply-adds."""
    found = described(name).values()
    return sum(layer.parameters for layer in found), sum(layer.multiply_adds for layer in found) / 1e6


def test_paper_has_the_papers_shapes_parameters_and_multiply_adds() -> None:
    found = layers(recipes.paper().network, classes=1000)
    assert [(layer.name, layer.output) for layer in found] == [
        ("conv1", (96, 55, 55)),
        ("norm1", (96, 55, 55)),
        ("pool1", (96, 27, 27)),
        ("conv2", (256, 27, 27)),
        ("norm2", (256, 27, 27)),
        ("pool2", (256, 13, 13)),
        ("conv3", (384, 13, 13)),
        ("conv4", (384, 13, 13)),
        ("conv5", (256, 13, 13)),
        ("pool5", (256, 6, 6)),
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


@pytest.mark.parametrize(
    ("name", "parameters", "millions"),
    [
        ("paper", 60_965_224, 724.4),
        ("original", 60_965_224, 724.4),
        ("caffe", 60_965_224, 724.4),
        ("torchvision", 61_100_840, 714.2),
        ("paper+one-gpu", 59_798_312, 391.5),
        ("paper+six-conv", 60_965_224 + 590_080, 745.6),
        ("paper+ungrouped", 62_378_344, 1135.3),  # the 2-tower kernels of conv2, 4 and 5 once more
        ("paper+no-conv5", 60_965_224 - 442_624 + 128 * 36 * 4096, 668.5),
    ],
)
def test_totals(name: str, parameters: int, millions: float) -> None:
    assert totals(name) == (parameters, pytest.approx(millions, abs=0.05))


COMBINATIONS = [
    *recipes.RECIPES,
    *(f"{base}+{variant}" for base in recipes.RECIPES for variant in recipes.VARIANTS),
    *(f"caffe+six-conv+non-overlapping+no-conv{n}" for n in range(1, 6)),
]


@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_sizes_that_a_recipe_names_are_those_of_its_network(name: str) -> None:
    """The forward pass itself would fail if fc6 were given another number of maps or places."""
    try:
        net = recipes.named(name).network
    except AlexNetError:
        return  # refused, as test_recipes.py says
    found = layers(net, CLASSES)
    with_weights = [layer for layer in found if layer.parameters]
    assert tuple(layer.name for layer in with_weights) == net.layers
    widths = [*net.units.values(), *([net.last_inputs] if net.bottleneck else [])]
    assert [layer.output[0] for layer in with_weights[:-1]] == widths
    assert tuple(dict.fromkeys(layer.output[1] for layer in found if len(layer.output) == 3)) == net.sides
    assert sum(layer.kind.startswith("max pooling") for layer in found) == 3
    with torch.device("meta"):
        model = AlexNet(net, CLASSES)
    assert sum(layer.parameters for layer in found) == sum(p.numel() for p in model.parameters())
    assert {key.partition(".")[0] for key in model.state_dict()} == set(net.layers)


def test_non_overlapping_pooling_has_the_sizes_of_2012() -> None:
    found = described("paper+non-overlapping")
    names = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    assert [found[name].output[1] for name in names] == [55, 28, 26, 13, 13, 13, 11, 6]
    assert totals("paper+non-overlapping")[0] == totals("paper")[0]


def test_a_convolution_left_out_is_mended_as_said() -> None:
    kinds = {n: {k: layer.kind for k, layer in described(f"paper+no-conv{n}").items()} for n in range(1, 6)}
    assert kinds[1]["conv2"] == "convolution 5×5 / 4"
    assert kinds[3]["conv4"] == "convolution 3×3"
    assert kinds[4]["conv5"] == "convolution 3×3, 2 towers"
    assert described("paper+no-conv1")["conv2"].output == (256, 55, 55)
    assert described("paper+no-conv1")["conv2"].parameters == 256 * (3 * 25 + 1)
    assert described("paper+no-conv2")["conv3"].parameters == 384 * (96 * 9 + 1)
    assert described("paper+no-conv3")["conv4"].parameters == 384 * (256 * 9 + 1)
    assert described("paper+no-conv5")["fc6"].parameters == 4096 * (384 * 36 + 1)
    assert set(recipes.MENDED) == {f"conv{n}" for n in range(1, 6)}


def test_describe_leaves_out_a_normalization_that_is_switched_off() -> None:
    without = replace(TINY, normalization=recipes.Normalization(size=0))
    assert not any(layer.name.startswith("norm") for layer in layers(without, CLASSES))


def test_what_is_kept_for_the_backward_pass() -> None:
    """The paper's net by hand: 4 bytes a number, 8 for the place of each pooling's maximum."""
    found = described("paper")
    assert {name: layer.kept for name, layer in found.items()} == {
        "conv1": 4 * (3 * 227**2 + 96 * 55**2),  # the padded pixels, and the ReLU's output, which norm1 sees
        "norm1": 4 * 96 * 55**2,
        "pool1": (4 + 8) * 96 * 27**2,
        "conv2": 4 * 256 * 27**2,
        "norm2": 4 * 256 * 27**2,
        "pool2": (4 + 8) * 256 * 13**2,
        "conv3": 4 * 384 * 13**2,
        "conv4": 4 * 384 * 13**2,
        "conv5": 4 * 256 * 13**2,
        "pool5": (4 + 8) * 256 * 6**2,
        "fc6": 4 * 2 * 4096,  # its ReLU's output and its mask
        "fc7": 4 * 3 * 4096,  # and what dropout left of fc6
        "fc8": 4 * 4096,
    }


@pytest.mark.parametrize(
    ("name", "at_once"),
    [("paper", ("norm1", "norm2")), ("original+six-conv", ()), ("torchvision", ()), ("caffe+tanh+no-lrn", ())],
)
def test_kept_is_what_autograd_saves_on_a_machine(name: str, at_once: tuple[str, ...]) -> None:
    """But for normalized maps that a CPU pools at once."""
    net = replace(recipes.named(name).network, width=1 / 8, hidden=128)
    model = AlexNet(net, CLASSES).train()
    masks = tuple(torch.ones(3, width) for width in net.mask_widths)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}
    alive = []

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        model(torch.zeros(3, 3, net.crop, net.crop), (masks[0], masks[1]))
    kept = [layer.kept for layer in layers(net, CLASSES) if layer.name not in at_once]
    assert sum(saved.values()) == 3 * sum(kept)
