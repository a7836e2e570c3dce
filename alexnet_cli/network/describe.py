"""A network layer by layer: shapes, parameters and multiply-adds, counted on the network itself."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_cli import paper
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.recipes import Network


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    output: tuple[int, ...]
    """(maps, rows, columns) or (units,), for one picture."""
    parameters: int
    multiply_adds: int
    """For one picture, forward; those of convolutions and fully connected layers, as usual."""


def layers(net: Network, classes: int) -> list[Layer]:
    """In the order in which they run; nothing is allocated or computed."""
    found: list[Layer] = []
    with torch.device("meta"):
        model = AlexNet(net, classes).eval()
        names = {module: name for name, module in model.named_modules()}

        def seen(module: nn.Module, _: Any, output: Tensor) -> None:
            found.append(_layer(names[module], module, output))

        for module in model.children():
            if not isinstance(module, nn.Identity):
                module.register_forward_hook(seen)
        model(torch.empty(1, 3, paper.CROP_SIZE, paper.CROP_SIZE))
    return found


def _layer(name: str, module: nn.Module, output: Tensor) -> Layer:
    parameters = sum(p.numel() for p in module.parameters())
    multiply_adds = 0
    if isinstance(module, nn.Conv2d | nn.Linear):
        places = output[0, 0].numel()  # one application of each kernel at each place; 1 in a full layer
        multiply_adds = module.weight.numel() * places
    return Layer(name, _kind(module), tuple(output.shape[1:]), parameters, multiply_adds)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        size, stride = module.kernel_size[0], module.stride[0]
        towers = f", {module.groups} towers" if module.groups > 1 else ""
        return f"convolution {size}×{size}" + (f" / {stride}" if stride > 1 else "") + towers
    if isinstance(module, nn.MaxPool2d):
        return f"max pooling {module.kernel_size}×{module.kernel_size} / {module.stride}"
    return "fully connected" if isinstance(module, nn.Linear) else "response normalization"
