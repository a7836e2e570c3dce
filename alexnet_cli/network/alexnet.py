"""The network of the paper (§3), to be read beside its Figure 2.

It is plain single-device code. The two towers are the two halves of each layer's channels: maps 0..n/2 are the
paper's upper GPU. conv2, conv4 and conv5 are grouped convolutions, so that a kernel sees its own tower only.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_cli import paper
from alexnet_cli.network.lrn import LocalResponseNorm
from alexnet_cli.network.stage import rectified_normalized_pooled
from alexnet_cli.network.within import WithinMapNorm
from alexnet_cli.recipes import BOTTLENECK, LAYERS, SIXTH, Network

# B pictures, K kernel maps.

SIZES = dict(zip((*LAYERS[:5], SIXTH), (*paper.CONVOLUTION_SIZES, 3), strict=True))
"""Rows and columns of a kernel; conv6's are those of the 2012 code (layers-146-2012-2011.cfg)."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": partial(F.relu, inplace=True),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

PLACES = {name: place for place, name in enumerate(LAYERS)} | {SIXTH: 1 << 31, BOTTLENECK: 1 << 30}
"""Which generator a layer's first weights come from. Generators read the lowest 32 bits of their seed: conv6's
and the bottleneck's are half and a quarter of them away, where no layer of a nearby seed is."""


class AlexNet(nn.Module):
    """(B, 3, 224, 224) float pixels, less the mean and 0..255 in the paper → (B, classes) logits.

    A layer that the recipe does not have is no attribute; `layers` names those that there are.
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d

    def __init__(self, net: Network, classes: int) -> None:
        super().__init__()
        self.layers = net.layers
        maps = 3
        for name in filter(SIZES.__contains__, self.layers):
            self.add_module(name, _convolution(net, name, maps))
            maps = net.units[name]
        if net.hidden:
            self.fc6 = nn.Linear(net.flattened, net.units["fc6"])
            self.fc7 = nn.Linear(net.units["fc6"], net.units["fc7"])
        if net.bottleneck:
            self.bottleneck = nn.Linear(net.units["fc7"], net.last_inputs)
        self.fc8 = nn.Linear(net.last_inputs, classes)
        self.norm1 = _normalization(net)
        self.norm2 = _normalization(net)
        self.within2 = WithinMapNorm() if net.normalization.within else nn.Identity()
        # The last windows may hang over only where they do not overlap: 55 → 28, else 55 → 27.
        overlapping = net.pooling == "overlapping"
        self.pool = nn.MaxPool2d(
            paper.POOL_SIZE if overlapping else 2, paper.POOL_STRIDE, ceil_mode=not overlapping
        )
        self.edges = _edges(net)
        self.activation, self.rectified = ACTIVATIONS[net.activation], net.activation == "relu"
        self.norm1_before_relu = net.normalization.order == "before-relu"
        self.dropout = net.dropout
        self.drops_inputs = net.dropout_of == "inputs"
        # What the kept units are multiplied by in training, and all of them at test.
        inverted = net.dropout_scaling == "training"
        self.training_scale = 1 / (1 - net.dropout) if inverted else 1.0
        self.test_scale = 1.0 if inverted else 1 - net.dropout

    def forward(self, pixels: Tensor, masks: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """In training `masks` says which units are kept at fc6 and fc7: two of (B, mask width), 1 or 0."""
        x = F.pad(pixels, self.edges)  # (B, 3, 227, 227)
        if "conv1" in self.layers:
            x = self.stage1(self.conv1(x))  # (B, K, 27, 27)
        if "conv2" in self.layers:
            x = self.stage2(self.conv2(x))  # (B, K, 13, 13)
        if not {"conv1", "conv2"} <= set(self.layers):
            x = self.pool(x)  # that of the layer which is left out: poolings stay
        x = self.convolved("conv3", x)
        x = self.convolved("conv4", x)
        x = self.pool(self.convolved("conv5", x))  # (B, K, 6, 6)
        x = self.convolved(SIXTH, x)
        x = x.flatten(1)
        if "fc6" in self.layers:
            mask6, mask7 = masks if masks is not None else (None, None)
            x = self.hidden(self.fc6, x, mask6)
            x = self.hidden(self.fc7, x, mask7)
        if BOTTLENECK in self.layers:
            x = self.bottleneck(x)  # linear: it has no activation and no dropout
        logits: Tensor = self.fc8(x)
        return logits

    def stage1(self, x: Tensor) -> Tensor:
        """(B, K, 55, 55) → (B, K, 27, 27): activation, normalization and pooling of conv1."""
        if self.norm1_before_relu:  # in 2012 ReLU came last (layers-145.cfg): pooling and it can be exchanged
            return self.activation(self.pool(self.norm1(x)))
        return self.activated_normalized_pooled(x, self.norm1)

    def stage2(self, x: Tensor) -> Tensor:
        """(B, K, 27, 27) → (B, K, 13, 13): activation, normalization and pooling of conv2."""
        if isinstance(self.within2, nn.Identity):
            return self.activated_normalized_pooled(x, self.norm2)
        pooled: Tensor = self.pool(self.within2(self.norm2(self.activation(x))))
        return pooled

    def activated_normalized_pooled(self, x: Tensor, norm: nn.Module) -> Tensor:
        """(B, K, H, W) → (B, K, about H/2, about W/2)."""
        if self.rectified and isinstance(norm, LocalResponseNorm):
            return rectified_normalized_pooled(x, norm, self.pool)
        pooled: Tensor = self.pool(norm(self.activation(x)))
        return pooled

    def convolved(self, name: str, x: Tensor) -> Tensor:
        """The convolution of that name and its activation; x itself where the net has no such layer."""
        return self.activation(getattr(self, name)(x)) if name in self.layers else x

    def hidden(self, layer: nn.Linear, x: Tensor, mask: Tensor | None) -> Tensor:
        """A fully connected layer, with dropout of its outputs (paper) or of its inputs (torchvision)."""
        if self.drops_inputs:
            return self.activation(layer(self.drop(x, mask)))
        return self.drop(self.activation(layer(x)), mask)

    def drop(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Dropout by a mask that came with the batch; at test, the paper's multiplication by ½ (§4.2)."""
        if self.dropout == 0:
            return x
        if not self.training:
            return x * self.test_scale
        assert mask is not None, "the masks of a training batch come with it"
        return x * (mask * self.training_scale)


def _convolution(net: Network, name: str, maps: int) -> nn.Conv2d:
    """The layer over `maps` kernel maps below it. The first one of the net has conv1's stride, and no padding
    but that of the pixels."""
    size, towers = SIZES[name], _towers_apart(net, name)
    if name == net.layers[0]:
        return nn.Conv2d(maps, net.units[name], size, stride=paper.CONV1_STRIDE)
    padding = size // 2
    if net.pooling == "non-overlapping" and name in ("conv2", "conv5"):
        padding -= 1  # conv2 1 and conv5 0: layers-147.cfg
    return nn.Conv2d(maps, net.units[name], size, padding=padding, groups=towers)


def _towers_apart(net: Network, name: str) -> int:
    """Into how many towers a convolution is cut: its kernels see the maps of their own."""
    meeting = {"conv4" if net.without == "conv3" else "conv3", SIXTH}
    return 1 if net.exchange and name in meeting else net.towers


def _edges(net: Network) -> tuple[int, int, int, int]:
    """Zeros to the left, right, top and bottom of the pixels, which stand for the mean.

    Of the paper's 224 pixels (0, 3) gives 55 places, as cuda-convnet counts them: the last windows hang over
    the right and lower edge by 3 (layer.py, filter_acts.cu). Without conv1, conv2's smaller windows lie in the
    middles of conv1's: a negative number cuts pixels away.
    """
    inner = (SIZES["conv1"] - SIZES[net.layers[0]]) // 2
    before, after = (edge - inner for edge in net.conv1_padding)
    return before, after, before, after


def _normalization(net: Network) -> nn.Module:
    norm = net.normalization
    if norm.size == 0:
        return nn.Identity()
    towers = net.towers if norm.across == "tower" else 1
    return LocalResponseNorm(norm.size, norm.alpha, norm.beta, norm.k, towers)


def initialise(model: AlexNet, net: Network, seed: int) -> None:
    """The first weights, the same for a seed whatever the device: Gaussian with constant biases (paper §5), or
    torch's own, uniform within ±1/√fan-in.

    Each layer draws from a generator of its own, so two variants share the layers they have in common.
    """
    with torch.device("meta"):
        full = AlexNet(replace(net, width=1.0), model.fc8.out_features)
    sigmas = dict(zip(LAYERS, net.sigma, strict=True))
    sigmas |= {SIXTH: sigmas["conv5"], BOTTLENECK: sigmas["fc8"]}
    for name in net.layers:
        layer = getattr(model, name)
        generator = torch.Generator().manual_seed((seed * len(LAYERS) + PLACES[name]) % 2**63)
        weight, bias = torch.empty(layer.weight.shape), torch.empty(layer.bias.shape)
        fan_in, full_fan_in = (getattr(part, name).weight[0].numel() for part in (model, full))
        if net.initial == "uniform":
            for values in (weight, bias):
                values.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
        else:
            weight.normal_(0, sigmas[name] * math.sqrt(full_fan_in / fan_in), generator=generator)
            bias.fill_(net.bias if name in net.biased else 0.0)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
