"""`torchvision` is torchvision's own class: the same parameters, outputs, training step and first weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import alexnet

from alexnet_cli import recipes
from alexnet_cli.network.alexnet import AlexNet, initialise

NET = recipes.torchvision().network

THEIRS = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}


def ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's under our names."""
    return {THEIRS[name.rpartition(".")[0]] + "." + name.rpartition(".")[2]: w for name, w in weights.items()}


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(3)
    return alexnet(weights=None)


@pytest.fixture(scope="module")
def model(theirs: torch.nn.Module) -> AlexNet:
    with torch.device("meta"):
        model = AlexNet(NET, 1000)
    model.load_state_dict(ours(theirs.state_dict()), assign=True)
    return model


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(4))


def test_the_parameters_are_theirs(theirs: torch.nn.Module, model: AlexNet) -> None:
    assert sum(p.numel() for p in theirs.parameters()) == 61_100_840
    shapes = {name: p.shape for name, p in model.state_dict().items()}
    assert shapes == {name: p.shape for name, p in ours(theirs.state_dict()).items()}


def test_the_logits_are_theirs(theirs: torch.nn.Module, model: AlexNet, pixels: Tensor) -> None:
    with torch.inference_mode():
        expected, found = theirs.eval()(pixels), model.eval()(pixels)
    print(f"largest difference {(found - expected).abs().max():.1e} of {expected.abs().max():.2f}")
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_training_with_the_masks_that_they_draw_is_theirs(
    theirs: torch.nn.Module, model: AlexNet, pixels: Tensor
) -> None:
    theirs.train()
    drawn: list[Tensor] = []
    hooks = [
        theirs.classifier[place].register_forward_hook(
            lambda _, given, dropped: drawn.append(((dropped != 0) | (given[0] == 0)).float())
        )
        for place in (0, 3)
    ]
    with torch.inference_mode():
        expected = theirs(pixels)
        assert [mask.shape[1] for mask in drawn] == list(NET.mask_widths)
        found = model.train()(pixels, (drawn[0], drawn[1]))
    for hook in hooks:
        hook.remove()
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(found, F.relu(expected))


def test_the_first_weights_have_their_bounds(theirs: torch.nn.Module) -> None:
    with torch.device("meta"):
        model = AlexNet(NET, 1000)
    model = model.to_empty(device="cpu")
    initialise(model, NET, seed=1)
    there = ours(theirs.state_dict())
    for name, values in model.state_dict().items():
        fan_in = model.get_submodule(name.partition(".")[0]).weight[0].numel()
        bound, spread = 1 / math.sqrt(fan_in), 1 / math.sqrt(3 * values.numel())
        assert values.abs().max() <= bound
        assert values.abs().max() > bound * (1 - 20 / values.numel())
        for known in (values, there[name]):  # each has the mean and deviation of the uniform distribution
            assert abs(known.mean().item()) < 5 * bound * spread
            assert known.std().item() == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(values.numel()))
