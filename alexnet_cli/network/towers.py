"""The paper's scheme (§3.2, Figure 2): half the kernels and half the units on each of two devices.

It is applied from outside to the plain net: its weights are cut into blocks that lie where they are used, and are
put together again under the same names. Where the plain net has a convolution in two groups a tower sees the maps
of its own; at conv3 and in the fully connected layers it sees those of the other too, and only there do they meet.

A tower begins on its own part of such a layer while the other's maps are on their way:

    y = weight[own units, own maps] · own maps + bias + weight[own units, other maps] · other maps
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.network.layout import lay_out
from alexnet_cli.network.moments import Moment, beside, now, seconds_between
from alexnet_cli.recipes import BOTTLENECK, SIXTH, Network
from alexnet_cli.runs import Layout

Pair = list[Tensor]
"""Of tower a and of tower b, each on its device."""

Place = tuple[slice, ...]
"""Where in a tensor of the plain net a block of it lies."""


def check(net: Network) -> None:
    """Raise AlexNetError for a net that does not fall into two halves."""
    if net.towers != 2:
        said = "one tower" if net.towers == 1 else f"{net.towers} towers"
        raise AlexNetError(
            f"--parallel towers: the recipe's net has {said}, there is nothing to lay on two devices",
            "take a recipe with two, paper say, or --parallel data",
        )
    if net.normalization.size and net.normalization.across == "layer":
        raise AlexNetError(
            "--parallel towers: this recipe normalizes across the maps of both towers: the largest of all "
            "maps would have to cross over",
            "--set network.normalization.across=tower is the paper's, or take --parallel data",
        )


class Link:
    """The way from one device to the other: what goes over it is counted, and goes beside the arithmetic."""

    def __init__(self) -> None:
        self.sent: Counter[tuple[str, str]] = Counter()
        """Bytes by layer and direction, `forward` or `backward`."""
        self._lanes: dict[torch.device, torch.cuda.Stream] = {}

    def copied(self, x: Tensor, device: torch.device, layer: str, direction: str) -> Tensor:
        """x on the other device, perhaps still on its way: `arrived` must be asked before it is read there."""
        self.sent[layer, direction] += x.nbytes
        if not beside(device):
            return x.to(device)
        leaving, coming = self._lane(x.device), self._lane(device)
        leaving.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(leaving), torch.cuda.stream(coming):
            copy = x.to(device, non_blocking=True)
        x.record_stream(leaving)
        return copy

    def arrived(self, x: Tensor) -> Tensor:
        """x, once what is computed on its device from here on may read it."""
        if beside(x.device):
            reader = torch.cuda.current_stream(x.device)
            reader.wait_stream(self._lane(x.device))
            x.record_stream(reader)
        return x

    def exchanged(self) -> dict[str, int]:
        """Bytes forward and backward so far: of maps, units and logits; pictures and masks are given to both."""
        total = {"forward": 0, "backward": 0}
        for (what, direction), count in self.sent.items():
            total[direction] += 0 if what in ("pixels", "masks") else count
        return total

    def _lane(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._lanes:
            self._lanes[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._lanes[device]


class _Across(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, device: torch.device, link: Link, layer: str) -> Tensor:
        ctx.origin, ctx.link, ctx.layer = x.device, link, layer
        return link.copied(x, device, layer, "forward")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        back = ctx.link.copied(ctx.link.arrived(gradients[0]), ctx.origin, ctx.layer, "backward")
        return ctx.link.arrived(back), None, None, None


@dataclass(frozen=True)
class Block:
    """Some layers' weights between one tower's units and one tower's maps, under the names of the plain net."""

    module: nn.Module
    places: dict[str, Place]


class Towers(nn.Module):
    """The net on two devices. Pixels, masks and logits are on the first of them, as of the plain net on one."""

    def __init__(self, model: AlexNet, net: Network, devices: list[torch.device], layout: Layout) -> None:
        super().__init__()
        check(net)
        self.devices, self.link, self.layers = devices, Link(), model.layers
        own = [_own(model, net, tower, device) for tower, device in enumerate(devices)]
        crossing = [_crossing(model, tower, device) for tower, device in enumerate(devices)]
        self.blocks = [*own, *crossing]
        self.halves: Any = nn.ModuleList(block.module for block in own)
        self.others: Any = nn.ModuleList(block.module for block in crossing)
        for half in self.halves:
            lay_out(half, layout)
        self._work: list[list[Moment]] | None = None

    def forward(self, pixels: Tensor, masks: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """As `AlexNet.forward`, both towers in step."""
        x = self._each(lambda half, x: F.pad(x, half.edges), self._both(pixels, "pixels"))
        if "conv1" in self.layers:
            x = self._each(AlexNet.stage1, self._layer("conv1", x))
        if "conv2" in self.layers:
            x = self._each(AlexNet.stage2, self._layer("conv2", x))
        if not {"conv1", "conv2"} <= set(self.layers):
            x = self._each(_pooled, x)
        for name in ("conv3", "conv4"):
            x = self._convolved(name, x)
        x = self._convolved(SIXTH, self._each(_pooled, self._convolved("conv5", x)))
        x = [maps.flatten(1) for maps in x]
        for place, name in enumerate(("fc6", "fc7")):
            if name in self.layers:
                x = self._hidden(name, x, None if masks is None else masks[place])
        for name in (BOTTLENECK, "fc8"):
            x = self._layer(name, x) if name in self.layers else x
        a, b = x
        return torch.cat([a, self._across(b, 0, "logits")], 1)

    # --- what it costs

    def watch(self) -> None:
        """From here on, count anew what crosses, and note how long each tower's layers take."""
        self.link.sent.clear()
        self._work = [[], []]
        for tower, (half, others) in enumerate(zip(self.halves, self.others, strict=True)):
            note = partial(self._note, tower)
            for layer in (*half.children(), *others.children()):
                layer.register_forward_pre_hook(note)
                layer.register_forward_hook(note)

    def _note(self, tower: int, *_: Any) -> None:
        if self._work is not None:
            self._work[tower].append(now(self.devices[tower]))

    def balance(self, steps: int) -> str:
        """In words, over the steps since `watch`, which ends here."""
        work, self._work = self._work or [[], []], None
        pairs = (zip(moments[::2], moments[1::2], strict=True) for moments in work)
        a, b = (sum(seconds_between(*pair) for pair in of_tower) for of_tower in pairs)
        forward, backward = (count / steps / 1e6 for count in self.link.exchanged().values())
        return (
            f"{forward:.1f} MB cross over forward and {backward:.1f} MB backward for a step; of the layers' time "
            f"forward tower a has {100 * a / (a + b):.0f} % and b {100 * b / (a + b):.0f} %; "
            + " and ".join(f"{name} {size / 1e6:.0f} MB" for name, size in zip("ab", self._memory(), strict=True))
        )

    def _memory(self) -> list[int]:
        """Bytes of each tower: the most that its GPU held so far; on the CPU its weights and their velocity."""
        if beside(self.devices[0]):
            return [torch.cuda.max_memory_allocated(device) for device in self.devices]
        towers = zip(self.halves, self.others, strict=True)
        return [2 * sum(p.nbytes for part in parts for p in part.parameters()) for parts in towers]

    # --- the layers of both, in step

    def _convolved(self, name: str, x: Pair) -> Pair:
        return self._each(_activated, self._layer(name, x)) if name in self.layers else x

    def _hidden(self, name: str, x: Pair, mask: Tensor | None) -> Pair:
        masks = [None, None] if mask is None else self._halved(mask)
        before = self.halves[0].drops_inputs
        if before:
            x = [half.drop(x, mask) for half, x, mask in zip(self.halves, x, masks, strict=True)]
        x = self._each(_activated, self._layer(name, x))
        return x if before else [half.drop(x, mask) for half, x, mask in zip(self.halves, x, masks, strict=True)]

    def _layer(self, name: str, x: Pair) -> Pair:
        """The layer of both towers; the other tower's maps are sent before the work on the own ones begins."""
        meeting = name in self.others[0]
        sent = [_Across.apply(x[1 - t], self.devices[t], self.link, name) for t in (0, 1)] if meeting else []
        y = [getattr(half, name)(maps) for half, maps in zip(self.halves, x, strict=True)]
        if not meeting:
            return y
        more = zip(self.others, sent, y, strict=True)
        return [own + block[name](self.link.arrived(maps)) for block, maps, own in more]

    def _each(self, work: Callable[[Any, Tensor], Tensor], x: Pair) -> Pair:
        return [work(half, maps) for half, maps in zip(self.halves, x, strict=True)]

    def _across(self, x: Tensor, tower: int, what: str) -> Tensor:
        return self.link.arrived(_Across.apply(x, self.devices[tower], self.link, what))

    def _both(self, x: Tensor, what: str) -> Pair:
        return [x, self._across(x, 1, what)]

    def _halved(self, mask: Tensor) -> Pair:
        """The columns of each tower's units."""
        a, b = (mask[:, half] for half in _halves(mask.shape[1]))
        return [a, self._across(b, 1, "masks")]


def _pooled(half: AlexNet, x: Tensor) -> Tensor:
    pooled: Tensor = half.pool(x)
    return pooled


def _activated(half: AlexNet, x: Tensor) -> Tensor:
    return half.activation(x)


def _halves(count: int) -> tuple[slice, slice]:
    """An odd one, which only classes can be, is tower a's."""
    middle = -(-count // 2)
    return slice(0, middle), slice(middle, count)


def _meets(model: AlexNet, name: str) -> bool:
    """Whether the layer sees the maps of both towers; the first sees pixels, which both have."""
    layer = getattr(model, name)
    return name != model.layers[0] and getattr(layer, "groups", 1) == 1


def _own(model: AlexNet, net: Network, tower: int, device: torch.device) -> Block:
    """A tower by itself: a net of half the width, whose layers see the tower's own maps."""
    with torch.device("meta"):
        half = AlexNet(replace(net, towers=1), 1)  # for all of it but the layers
    places: dict[str, Place] = {}
    for name in model.layers:
        layer = getattr(model, name)
        rows = _halves(layer.weight.shape[0])[tower]
        columns = _halves(layer.weight.shape[1])[tower] if _meets(model, name) else slice(None)
        setattr(half, name, _cut(layer, rows, columns, True, device))
        places |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return Block(half.train(model.training), places)


def _crossing(model: AlexNet, tower: int, device: torch.device) -> Block:
    """What a tower's units make of the other tower's maps, where they meet."""
    layers = nn.ModuleDict()
    places: dict[str, Place] = {}
    for name in filter(lambda name: _meets(model, name), model.layers):
        layer = getattr(model, name)
        rows, columns = _halves(layer.weight.shape[0])[tower], _halves(layer.weight.shape[1])[1 - tower]
        layers[name] = _cut(layer, rows, columns, False, device)
        places[f"{name}.weight"] = (rows, columns)
    return Block(layers, places)


def _cut(layer: Any, rows: slice, columns: slice, bias: bool, device: torch.device) -> nn.Module:
    """A layer of some rows and columns of another's weights, copied."""
    weight = layer.weight.detach()[rows, columns].to(device, copy=True).contiguous()
    units, maps, *size = weight.shape
    shape = {"kernel_size": size, "stride": layer.stride, "padding": layer.padding} if size else {}
    with torch.device("meta"):
        block: nn.Module = type(layer)(maps, units, bias=bias, **shape)
    block.weight = nn.Parameter(weight)
    if bias:
        block.bias = nn.Parameter(layer.bias.detach()[rows].to(device, copy=True))
    return block
