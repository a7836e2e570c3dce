"""How many bytes each way of training on several devices sends for a step, counted from the net alone.

What `exchange.Exchange` and `towers.Link` count while a training goes on are these numbers (a test holds them
together); here they are for any number of ranks, and for choosing a way.
"""

from dataclasses import dataclass

from torch import nn

from alexnet_cli.engine import checkpoint
from alexnet_cli.network import describe
from alexnet_cli.recipes import Recipe

FLOAT = 4


@dataclass(frozen=True)
class Shape:
    """What counts of a layer with weights."""

    name: str
    parameters: int
    inputs: int
    """For one picture."""
    outputs: int
    multiply_adds: int
    """For one picture, forward."""
    full: bool
    """Fully connected."""
    meets: bool
    """Whether its units see the maps of both towers."""


def shapes(recipe: Recipe, classes: int) -> list[Shape]:
    """The layers in the order in which they run."""
    model = checkpoint.empty_model(recipe, classes)
    found = []
    for layer in describe.layers(recipe.network, classes):
        if layer.parameters:
            module = getattr(model, layer.name)
            full = isinstance(module, nn.Linear)
            places = layer.multiply_adds // module.weight.numel()  # of conv3, say, as many as it sees
            found.append(
                Shape(
                    layer.name, layer.parameters, places * module.weight.shape[1],
                    places * module.weight.shape[0], layer.multiply_adds, full,
                    layer.name != model.layers[0] and getattr(module, "groups", 1) == 1,
                )
            )  # fmt: skip
    return found


def data(layers: list[Shape], ranks: int) -> float:
    """Of each process: all gradients are summed."""
    return _summed(sum(layer.parameters for layer in layers), ranks)


def hybrid(layers: list[Shape], ranks: int, rows: int) -> float:
    """Of each process, on average, with so many pictures each: the convolutions' gradients, and what goes into and
    comes out of each fully connected layer, forward and backward."""
    total = _summed(sum(layer.parameters for layer in layers if not layer.full), ranks)
    for layer in filter(lambda layer: layer.full, layers):
        into, out_of = rows * layer.inputs * (ranks - 1), rows * layer.outputs * (ranks - 1) / ranks
        total += 2 * FLOAT * (into + out_of)
    return total


def towers(layers: list[Shape], pictures: int) -> float:
    """Between a pair of devices, both ways together: maps and units where the towers meet, and half the logits."""
    meeting = sum(layer.inputs for layer in layers if layer.meets)
    return 2 * FLOAT * pictures * (meeting + layers[-1].outputs // 2)


def _summed(count: int, ranks: int) -> float:
    return 2 * FLOAT * count * (ranks - 1) / ranks
