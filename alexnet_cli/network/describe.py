"""A network layer by layer: shapes, parameters, multiply-adds and memory, counted on the network itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.network.lrn import LocalResponseNorm
from alexnet_cli.network.within import WithinMapNorm
from alexnet_cli.recipes import Network

POOLINGS = ("pool1", "pool2", "pool5")


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    output: tuple[int, ...]
    """(maps, rows, columns) or (units,), for one picture."""
    parameters: int
    multiply_adds: int
    """For one picture, forward; those of convolutions and fully connected layers, as usual."""
    kept: int
    """Bytes kept for the backward pass, for one picture in float32: see `layers`."""


def layers(net: Network, classes: int) -> list[Layer]:
    """In the order in which they run; nothing is allocated or computed.

    `kept` is what autograd saves in a training step's forward pass, parameters aside, each tensor once and with
    the layer that made it: padded pixels, outputs of layers (ReLU overwrites that of its layer), the places of
    the poolings' maxima in 8 bytes each, dropout masks. A CPU keeps less: not the outputs of norm1 and norm2 where
    they are pooled at once (`network.stage`).
    """
    found: list[Layer] = []
    kept: dict[str, int] = {}
    made: dict[int, str] = {}  # the layer of each storage
    alive: list[Any] = []  # what is alive keeps its address, by which storages are told apart
    running = ""

    def entered(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, _: Any) -> None:
            nonlocal running
            running = name if name != "pool" else POOLINGS[sum(layer.name in POOLINGS for layer in found)]

        return hook

    def left(module: nn.Module, _: Any, output: Tensor) -> None:
        found.append(_layer(running, module, output))
        alive.append(output.untyped_storage())
        made[output.untyped_storage()._cdata] = running

    def saved(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in counted:
            counted.add(storage._cdata)
            alive.append(storage)
            layer = made.get(storage._cdata, running)
            kept[layer] = kept.get(layer, 0) + storage.nbytes()
        return tensor

    with torch.device("meta"):
        model = AlexNet(net, classes).train()
        counted = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        for name, module in model.named_children():
            if not isinstance(module, nn.Identity):
                module.register_forward_pre_hook(entered(name))
                module.register_forward_hook(left)
        mask6, mask7 = (torch.empty(1, width) for width in net.mask_widths)
        with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
            model(torch.empty(1, 3, net.crop, net.crop), (mask6, mask7))
    return [replace(layer, kept=kept.get(layer.name, 0)) for layer in found]


def _layer(name: str, module: nn.Module, output: Tensor) -> Layer:
    parameters = sum(p.numel() for p in module.parameters())
    multiply_adds = 0
    if isinstance(module, nn.Conv2d | nn.Linear):
        places = output[0, 0].numel()  # one application of each kernel at each place; 1 in a full layer
        multiply_adds = module.weight.numel() * places
    return Layer(name, _kind(module), tuple(output.shape[1:]), parameters, multiply_adds, 0)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        size, stride = module.kernel_size[0], module.stride[0]
        return f"convolution {size}×{size}" + (f" / {stride}" if stride > 1 else "") + _apart(module.groups)
    if isinstance(module, nn.MaxPool2d):
        return f"max pooling {module.kernel_size}×{module.kernel_size} / {module.stride}"
    if isinstance(module, LocalResponseNorm):
        return "normalization" + _apart(module.towers)
    return "normalization, 5×5 places" if isinstance(module, WithinMapNorm) else "fully connected"


def _apart(towers: int) -> str:
    return f", {towers} towers" if towers > 1 else ""
