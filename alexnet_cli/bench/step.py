"""How fast a training step of the paper's net is here, beside the plain way and beside what bounds it.

A step is forward, loss and backward on random pixels, with dropout and without the update. The plain way is the
same net with torch's response normalization, contiguous, as a Python program has it: measured first, before the
process keeps the memory that it frees, as it does for all the others and as `train` does. The roof is what the
step's multiplications alone would take at the speed of a large matrix product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_cli import paper
from alexnet_cli.bench.lrn import stock
from alexnet_cli.bench.timing import medians, peak
from alexnet_cli.engine.arithmetic import autocast, multiply_in
from alexnet_cli.machine import keep_freed_memory
from alexnet_cli.network import describe
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.layout import LAYOUTS, lay_out, usual_layout
from alexnet_cli.recipes import Network, chosen
from alexnet_cli.runs import Layout, Precision

OURS, SINGLY, TWO, COMPILED = "alexnet", "alexnet, layer by layer", "alexnet, apart", "alexnet, compiled"
"""`layer by layer`: ReLU, normalization and pooling each go over all pictures. `apart`: the towers' convolutions
are two each, not one in two groups."""
PLAIN, STOCK, NONE = "torch's LRN, memory not kept", "torch's LRN", "no LRN"

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Pixels, labels and the masks of fc6 and fc7."""


@dataclass(frozen=True)
class Row:
    """Pictures a second of one way, and over those of the plain way, of no normalization, of the roof."""

    precision: Precision
    layout: Layout
    way: str
    rate: float
    faster: float
    over_none: float
    over_roof: float


def rows(
    device: torch.device, batch: int, width: float, rounds: int, precisions: list[Precision], compiled: bool
) -> list[Row]:
    """Measure each layout in each precision, the rest in the layout that is usual for it."""
    net, base, inputs = subject(device, batch, width)
    as_trained = (as_cut(inputs[0]), *inputs[1:])
    usual = usual_layout(device.type)
    wanted: list[tuple[Layout, str]] = [
        ("contiguous", STOCK),
        *product(LAYOUTS, (NONE, OURS)),
        (usual, SINGLY),
        (usual, TWO),
    ]
    if compiled:
        wanted.append((usual, COMPILED))
    plain = medians(
        {PLAIN: step(variant(net, base, STOCK, "contiguous"), False, precisions[0], inputs)}, device, rounds
    )
    keep_freed_memory()
    ways: dict[tuple[Precision, Layout, str], Callable[[], object]] = {}
    for precision, (layout, way) in product(precisions, wanted):
        ways[precision, layout, way] = step(
            variant(net, base, way, layout),
            way == COMPILED,
            precision,
            inputs if layout == "contiguous" else as_trained,
        )
    seconds = {(precisions[0], wanted[0][0], PLAIN): plain[PLAIN], **medians(ways, device, rounds)}
    roofs = {precision: peak(device, precision, rounds) / operations(net) for precision in precisions}
    return [
        Row(
            precision, layout, name, batch / taken, plain[PLAIN] / taken,
            seconds[precision, layout, NONE] / taken, batch / taken / roofs[precision],
        )
        for (precision, layout, name), taken in seconds.items()
    ]  # fmt: skip


def subject(device: torch.device, batch: int, width: float) -> tuple[Network, AlexNet, Inputs]:
    net = chosen("paper", [f"network.width={width}"]).network
    base = AlexNet(net, paper.CLASSES)
    initialise(base, net, seed=1)
    base.to(device)
    pixels = torch.randn(batch, 3, net.crop, net.crop, device=device) * 50
    labels = torch.arange(batch, device=device) % paper.CLASSES
    masks = [(torch.rand(batch, width, device=device) > 0.5).float() for width in net.mask_widths]
    return net, base, (pixels, labels, masks[0], masks[1])


def rate(device: torch.device, batch: int, width: float = 1.0) -> float:
    """Pictures a second of the step as `train` does it, in fp32."""
    net, base, (pixels, *others) = subject(device, batch, width)
    keep_freed_memory()
    ours = variant(net, base, OURS, usual_layout(device.type))
    way = step(ours, False, "fp32", (as_cut(pixels), others[0], others[1], others[2]))
    return batch / medians({OURS: way}, device, 2)[OURS]


def as_cut(pixels: Tensor) -> Tensor:
    """In memory as the loader gives a batch to this device: on a CPU as pictures are decoded."""
    on_host = pixels.device.type == "cpu"
    return pixels.contiguous(memory_format=torch.channels_last if on_host else torch.contiguous_format)


def operations(net: Network) -> int:
    """Floating-point operations of a step for one picture: two for each multiplication and addition, forward and
    for the gradients of weights and maps; nobody asks for the pixels' gradient."""
    counts = [layer.multiply_adds for layer in describe.layers(net, paper.CLASSES)]
    return 2 * (3 * sum(counts) - next(filter(None, counts)))


def variant(net: Network, base: AlexNet, way: str, layout: Layout) -> AlexNet:
    """A net with the weights of `base`: they are shared, not copied, as far as the layout allows."""
    with torch.device("meta"):
        model = AlexNet(net, paper.CLASSES)
    model.load_state_dict(base.state_dict(), assign=True)
    if way in (STOCK, NONE):
        model.norm1 = model.norm2 = Plain() if way == STOCK else nn.Identity()
    if way == SINGLY:
        for norm in (model.norm1, model.norm2):
            norm.register_forward_hook(lambda *_: None)  # who looks on gets each layer by itself
    if way == TWO:
        for name in ("conv2", "conv4", "conv5"):
            setattr(model, name, Two(getattr(model, name)))
    lay_out(model, layout)
    return model


def step(model: AlexNet, compiled: bool, precision: Precision, inputs: Inputs) -> Callable[[], object]:
    pixels, labels, *masks = inputs
    run = torch.compile(model) if compiled else model

    def forward_and_backward() -> None:
        multiply_in(precision)
        with autocast(pixels.device, precision):
            logits = run(pixels, tuple(masks))
        torch.autograd.backward(F.cross_entropy(logits.float(), labels))
        model.zero_grad(set_to_none=True)

    return forward_and_backward


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return stock(x)


class Two(nn.Module):
    """A grouped convolution as one for each tower."""

    def __init__(self, grouped: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.padding = grouped.weight, grouped.bias, grouped.padding

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        halves = [t.chunk(paper.TOWERS, place) for t, place in ((x, 1), (self.weight, 0), (self.bias, 0))]
        padding = self.padding
        return torch.cat([F.conv2d(x, w, b, padding=padding) for x, w, b in zip(*halves, strict=True)], 1)
