"""The paper's update (§5), with the learning rate inside the velocity, as in the 2012 code and in Caffe.

    v ← momentum · v − decay · rate · w − rate · gradient
    w ← w + v

`torch.optim.SGD` multiplies by the rate outside, so that a drop also rescales what the velocity already holds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet_cli.recipes import Optimizer

# On a CPU the update goes over pieces whose weights, gradients and velocities stay in the cache together.
PIECE = 1 << 17


@dataclass(frozen=True)
class Row:
    """How one parameter moves. A rate of 0 skips it altogether, decay and momentum too (2012: weights.cu)."""

    rate: float
    decay: float


def rows(names: Iterable[str], optimizer: Optimizer, rate: float) -> dict[str, Row]:
    """One row for each parameter, at the schedule's present `rate`."""
    return {
        name: Row(rate * optimizer.bias_rate, optimizer.decay * optimizer.bias_decay)
        if name.endswith(".bias")
        else Row(rate, optimizer.decay)
        for name in names
    }


def still(model: nn.Module) -> dict[str, Tensor]:
    """The velocity before the first step: zeros under the parameters' names."""
    return {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}


@torch.no_grad()
def update(model: nn.Module, velocity: Mapping[str, Tensor], table: Mapping[str, Row], momentum: float) -> None:
    """One step for every parameter that has a gradient; the gradients are spent, set to None."""
    for name, parameter in model.named_parameters():
        row = table[name]
        if row.rate != 0:
            assert parameter.grad is not None
            for w, v, g in _pieces(parameter, velocity[name], parameter.grad):
                v.mul_(momentum).add_(w, alpha=-row.decay * row.rate).add_(g, alpha=-row.rate)
                w.add_(v)
        parameter.grad = None


def _pieces(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    if tensors[0].device.type != "cpu":
        return [tensors]
    return zip(*(torch.split(tensor.view(-1), PIECE) for tensor in tensors), strict=True)
