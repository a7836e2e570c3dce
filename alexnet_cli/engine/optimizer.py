"""The update: the paper's (§5), with the learning rate inside the velocity, as in the 2012 code and in Caffe.

    v ← momentum · v − decay · rate · w − rate · gradient
    w ← w + v

`rate-outside` is `torch.optim.SGD`'s, where a drop of the rate also rescales what the velocity already holds:

    v ← momentum · v + (gradient + decay · w)
    w ← w − rate · v
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from alexnet_cli.recipes import Optimizer

Kind = Literal["rate-inside", "rate-outside"]

# On a CPU the update goes over pieces whose weights, gradients and velocities stay in the cache together.
PIECE = 1 << 17


@dataclass(frozen=True)
class Row:
    """How one parameter moves. A rate of 0 skips it altogether, decay and momentum too (2012: weights.cu)."""

    rate: float
    decay: float


def rows(names: Iterable[str], optimizer: Optimizer, rate: float) -> dict[str, Row]:
    """One row for each parameter, where weights whose layer has no rate of its own have `rate`."""
    factors, found = optimizer.factors, {}
    for name in names:
        layer, _, kind = name.partition(".")
        own = rate * factors.get(layer, 1.0)
        bias = Row(own * optimizer.bias_rate, optimizer.decay * optimizer.bias_decay)
        found[name] = bias if kind == "bias" else Row(own, optimizer.decay)
    return found


def still(model: nn.Module) -> dict[str, Tensor]:
    """The velocity before the first step: zeros under the parameters' names."""
    return {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}


@torch.no_grad()
def update(
    model: nn.Module,
    velocity: Mapping[str, Tensor],
    table: Mapping[str, Row],
    momentum: float,
    kind: Kind = "rate-inside",
    scale: float = 1.0,
) -> None:
    """One step for every parameter whose rate is not 0; the gradients, `scale` times too large, are spent."""
    for name, parameter in model.named_parameters():
        row = table[name]
        if row.rate != 0:
            assert parameter.grad is not None
            for w, v, g in _pieces(parameter, velocity[name], parameter.grad):
                if scale != 1:
                    g.mul_(1 / scale)
                if kind == "rate-inside":
                    v.mul_(momentum).add_(w, alpha=-row.decay * row.rate).add_(g, alpha=-row.rate)
                    w.add_(v)
                else:
                    v.mul_(momentum).add_(g.add_(w, alpha=row.decay))
                    w.add_(v, alpha=-row.rate)
    spend(model)


def spend(model: nn.Module) -> None:
    """Forget the gradients."""
    for parameter in model.parameters():
        parameter.grad = None


def freeze(model: nn.Module, table: Mapping[str, Row]) -> bool:
    """Have no gradient computed for what stands still, and tell whether that is a change.

    Where nothing moves at all, gradients are computed in vain: backward needs something to do.
    """
    moving = {name for name, row in table.items() if row.rate != 0} or set(table)
    changed = False
    for name, parameter in model.named_parameters():
        changed |= parameter.requires_grad != (name in moving)
        parameter.requires_grad_(name in moving)
    return changed


def _pieces(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    if tensors[0].device.type != "cpu":
        return [tensors]
    return zip(*(torch.split(tensor.view(-1), PIECE) for tensor in tensors), strict=True)
