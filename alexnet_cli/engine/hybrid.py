"""Convolutions by pictures, fully connected layers by units: "one weird trick" (Krizhevsky 2014, arXiv 1404.5997).

The convolutions have most of the work and few of the weights: each process has all of them and a part of the
batch. The fully connected layers have most of the weights, 58.6 of the paper's 61 million: each process has those
of some units and computes these for the whole batch. So it is maps and units that cross over, not the gradients
of those weights.

A layer takes the rows of its process and gives them back with all units, so the net around it is the plain one:
activations, dropout (its masks are the rows of the same draws) and the loss are as in `--parallel data`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_cli.engine.exchange import Exchange
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.recipes import Network


def cuts(units: int, ranks: int) -> list[slice]:
    """The units of each process: as equally many as they go, the first ones have those that are left over."""
    each, over = divmod(units, ranks)
    return [slice(*(each * n + min(n, over) for n in (rank, rank + 1))) for rank in range(ranks)]


def sliced(model: AlexNet, net: Network, exchange: Exchange, rank: int) -> AlexNet:
    """The same net with only this process's units of the fully connected layers; the convolutions are shared."""
    with torch.device("meta"):
        part = AlexNet(net, 1)  # for all of it but the layers
    for name in model.layers:
        layer = getattr(model, name)
        setattr(part, name, Sliced(name, layer, exchange, rank) if isinstance(layer, nn.Linear) else layer)
    return part


class Sliced(nn.Module):
    """(b, inputs) of each process → (b, units): a fully connected layer of which each has some units' weights."""

    def __init__(self, name: str, layer: nn.Linear, exchange: Exchange, rank: int) -> None:
        super().__init__()
        self.name, self.exchange = name, exchange
        self.units = [cut.stop - cut.start for cut in cuts(layer.out_features, exchange.size)]
        self.out_features = layer.out_features
        own = cuts(layer.out_features, exchange.size)[rank]
        self.weight = nn.Parameter(layer.weight.detach()[own].clone())
        self.bias = nn.Parameter(layer.bias.detach()[own].clone())

    def forward(self, x: Tensor) -> Tensor:
        everybody: Tensor = _Gathered.apply(x, self)  # (b · ranks, inputs)
        units: Tensor = _Returned.apply(F.linear(everybody, self.weight, self.bias), self)
        return units


class _Gathered(torch.autograd.Function):
    """All rows of the batch; backward, the sum of what the units of all processes make of this one's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Sliced) -> Tensor:
        ctx.layer = layer
        return layer.exchange.gathered(x, layer.name)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.exchange.scattered(gradients[0], ctx.layer.name), None


class _Returned(torch.autograd.Function):
    """Some units of all rows → all units of this process's rows; backward, the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Sliced) -> Tensor:
        ctx.layer = layer
        rows = len(x) // layer.exchange.size
        shapes = [(rows, units) for units in layer.units]
        return torch.cat(layer.exchange.dealt(torch.split(x, rows), shapes, layer.name), 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        layer, (gradient,) = ctx.layer, gradients
        own = (len(gradient), layer.weight.shape[0])
        pieces = torch.split(gradient, layer.units, 1)
        return torch.cat(layer.exchange.dealt(pieces, [own] * layer.exchange.size, layer.name)), None
