"""The 2012 code's second normalization after conv2, over places of one map; the paper does not have it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_cli.network.lrn import in_full_precision

# Type rnorm, sizeX, scale and pow of [cnorm2] in layers-145.cfg and layer-params-145.cfg; what is added is the
# parser's default (layer.py, minDiv).
WITHIN_SIZE = 5
WITHIN_ALPHA = 0.001  # on the mean of the 25 squares
WITHIN_BETA = 0.75
WITHIN_K = 1.0


class WithinMapNorm(nn.Module):
    """Normalization over places: x · (1 + (0.001/25)·Σ x²)^-¾ over the 5×5 places around, each map on its own."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _WithinMapNorm.apply(x)
        return result


class _WithinMapNorm(torch.autograd.Function):
    """The backward pass computes the denominator again: autograd by itself would keep five tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        wide = in_full_precision(x)
        power, _ = _power(wide)
        return power.mul_(wide).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        wide = in_full_precision(x)
        power, denominator = _power(wide)
        # dL/dx_i = g_i s_i^-β − 2αβ x_i · mean_j g_j x_j s_j^(-β-1): the window is symmetric.
        direct = power.mul_(in_full_precision(gradients[0]))
        around = _mean_around(direct * wide / denominator).mul_(wide)
        return direct.sub_(around, alpha=2 * WITHIN_ALPHA * WITHIN_BETA).to(x.dtype)


def _mean_around(x: Tensor) -> Tensor:
    """The mean over 5×5 places, of 25 at the edges of a map too, where those outside are 0."""
    return F.avg_pool2d(x, WITHIN_SIZE, stride=1, padding=WITHIN_SIZE // 2)


def _power(x: Tensor) -> tuple[Tensor, Tensor]:
    """The factor s^-¾ and the denominator s."""
    denominator = _mean_around(x.square()).mul_(WITHIN_ALPHA).add_(WITHIN_K)
    inverse = denominator.rsqrt()  # two square roots are many times quicker than a power
    return inverse.sqrt().mul_(inverse), denominator
