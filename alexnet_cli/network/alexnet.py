"""The network of the paper (§3), to be read beside its Figure 2.

It is plain single-device code. The two towers are the two halves of each layer's channels: maps 0..n/2 are the
paper's upper GPU. conv2, conv4 and conv5 are grouped convolutions, so that a kernel sees its own tower only.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_cli import paper
from alexnet_cli.network.lrn import LocalResponseNorm
from alexnet_cli.recipes import LAYERS, Network

# B pictures, K kernel maps.


class AlexNet(nn.Module):
    """(B, 3, 224, 224) float pixels less the mean, 0..255 scale → (B, classes) logits."""

    def __init__(self, net: Network, classes: int) -> None:
        super().__init__()
        k1, k2, k3, k4, k5, h6, h7 = net.widths
        s1, s2, s3, s4, s5 = paper.CONVOLUTION_SIZES
        towers = net.towers
        self.conv1 = nn.Conv2d(3, k1, s1, stride=paper.CONV1_STRIDE)
        self.conv2 = nn.Conv2d(k1, k2, s2, padding=s2 // 2, groups=towers)
        self.conv3 = nn.Conv2d(k2, k3, s3, padding=s3 // 2)
        self.conv4 = nn.Conv2d(k3, k4, s4, padding=s4 // 2, groups=towers)
        self.conv5 = nn.Conv2d(k4, k5, s5, padding=s5 // 2, groups=towers)
        self.fc6 = nn.Linear(k5 * 6 * 6, h6)
        self.fc7 = nn.Linear(h6, h7)
        self.fc8 = nn.Linear(h7, classes)
        self.norm1 = _normalization(net)
        self.norm2 = _normalization(net)
        self.pool = nn.MaxPool2d(paper.POOL_SIZE, paper.POOL_STRIDE)
        self.norm1_before_relu = net.normalization.order == "before-relu"
        self.dropout = net.dropout
        # What the kept units are multiplied by in training, and all of them at test.
        inverted = net.dropout_scaling == "training"
        self.training_scale = 1 / (1 - net.dropout) if inverted else 1.0
        self.test_scale = 1.0 if inverted else 1 - net.dropout

    def forward(self, pixels: Tensor, masks: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """In training `masks` says which units of fc6 and fc7 are kept: two of (B, hidden), 1 or 0."""
        # 224 → 55 as cuda-convnet counts it: the last windows hang over the right and lower edge by 3
        # pixels, which read as 0, the mean (facts of the 2012 code: layer.py, filter_acts.cu).
        x = self.conv1(F.pad(pixels, (0, 3, 0, 3)))  # (B, K, 55, 55)
        x = F.relu(self.norm1(x)) if self.norm1_before_relu else self.norm1(F.relu(x, inplace=True))
        x = self.pool(x)  # (B, K, 27, 27)
        x = self.pool(self.norm2(F.relu(self.conv2(x), inplace=True)))  # (B, K, 13, 13)
        x = F.relu(self.conv3(x), inplace=True)
        x = F.relu(self.conv4(x), inplace=True)
        x = self.pool(F.relu(self.conv5(x), inplace=True))  # (B, K, 6, 6)
        mask6, mask7 = masks if masks is not None else (None, None)
        x = self.drop(F.relu(self.fc6(x.flatten(1)), inplace=True), mask6)
        x = self.drop(F.relu(self.fc7(x), inplace=True), mask7)
        logits: Tensor = self.fc8(x)
        return logits

    def drop(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Dropout by a mask that came with the batch; at test, the paper's multiplication by ½ (§4.2)."""
        if self.dropout == 0:
            return x
        if not self.training:
            return x * self.test_scale
        assert mask is not None, "the masks of a training batch come with it"
        return x * (mask * self.training_scale)


def _normalization(net: Network) -> nn.Module:
    norm = net.normalization
    if norm.size == 0:
        return nn.Identity()
    towers = net.towers if norm.across == "tower" else 1
    return LocalResponseNorm(norm.size, norm.alpha, norm.beta, norm.k, towers)


def initialise(model: AlexNet, net: Network, seed: int) -> None:
    """Gaussian weights and constant biases (paper §5), the same for a seed whatever the device.

    Each layer draws from a generator of its own, so two variants share the layers they have in common.
    """
    full = dict(zip(LAYERS, _fan_ins(net), strict=True))
    for place, (name, sigma) in enumerate(zip(LAYERS, net.sigma, strict=True)):
        layer = getattr(model, name)
        generator = torch.Generator().manual_seed((seed * len(LAYERS) + place) % 2**63)
        narrower = math.sqrt(full[name] / layer.weight[0].numel())
        weight = torch.empty(layer.weight.shape).normal_(0, sigma * narrower, generator=generator)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.fill_(net.bias if name in net.biased else 0.0)


def _fan_ins(net: Network) -> tuple[int, ...]:
    """Inputs of one unit of conv1 to fc8 at full width."""
    k1, k2, k3, k4, k5 = net.kernels
    s1, s2, s3, s4, s5 = (size * size for size in paper.CONVOLUTION_SIZES)
    convolutions = (3 * s1, k1 // net.towers * s2, k2 * s3, k3 // net.towers * s4, k4 // net.towers * s5)
    return (*convolutions, k5 * 6 * 6, net.hidden, net.hidden)
