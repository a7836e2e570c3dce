"""Whose weights these are: the recipe that a foreign file's tensors fit, or an error that says what was found."""

from dataclasses import replace

import torch
from torch import Tensor

from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.recipes import LAYERS, Network, Recipe, checked

Weights = dict[str, Tensor]
"""By our names ("conv1.weight"), as in `AlexNet.state_dict`."""


def fitted(recipe: Recipe, weights: Weights, source: str) -> Recipe:
    """The recipe with as many kernels and hidden units as these weights have; all else must be as it says."""
    kernels = tuple(len(weights[f"{layer}.weight"]) for layer in LAYERS[:5])
    network = replace(recipe.network, kernels=kernels, hidden=len(weights["fc6.weight"]), width=1.0)
    try:
        found = checked(replace(recipe, network=network))
        with torch.device("meta"):
            model = AlexNet(found.network, len(weights["fc8.weight"]))
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    except (AlexNetError, ValueError, RuntimeError) as error:
        raise AlexNetError(
            f"{source} does not hold a network: {error}", f"give the weights of {recipe.name}'s net"
        ) from error
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            there = _by(weights[name].shape)
            raise AlexNetError(
                f"{source} does not fit {recipe.name}'s net: {name} is {there}, not {_by(shape)}",
                f"give the weights of {recipe.name}'s net",
            )
    return found


def essence(net: Network) -> Network:
    """The same for two networks that compute the same from the same weights, however many there are."""
    hidden, bottleneck = min(1, net.hidden), min(1, net.bottleneck)
    same = replace(net, width=1.0, kernels=(1,) * len(net.kernels), hidden=hidden, bottleneck=bottleneck)
    same = replace(same, initial="gaussian", sigma=(), bias=0.0, biased=())
    # What scales in training does nothing at test.
    return replace(same, dropout=0.0, dropout_of="outputs") if net.dropout_scaling == "training" else same


def listed(names: list[str]) -> str:
    """The first few, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single number"
