"""How a network's maps lie in memory: no result changes beyond rounding, but the speed (`alexnet bench step`)."""

from typing import Any, get_args

import torch
from torch import Tensor, nn

from alexnet_cli.runs import Layout

LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def usual_layout(device_kind: str) -> Layout:
    """The measured one (docs/measurements.md); where nothing was measured, torch's own."""
    return "after-conv1" if device_kind == "cpu" else "contiguous"


def lay_out(model: nn.Module, layout: Layout) -> None:
    """Say once, of a contiguous model, how its maps shall lie.

    `after-conv1`: as conv1 gives them to the next layer, and so all that follow, in channels_last, in which torch
    pools on a CPU an order of magnitude faster. conv1 itself, with its three channels, and the weights of all
    layers stay as they are.
    """
    if layout == "channels-last":
        model.to(memory_format=torch.channels_last)
    elif layout == "after-conv1":
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_hook(_in_channels_last)


def _in_channels_last(_module: nn.Module, _inputs: Any, maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)
