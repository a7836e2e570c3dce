"""Local response normalization across kernel maps (paper §3.3), exact and quick on a plain CPU.

    y_i = x_i · s_i^-β,   s_i = k + α · Σ x_j²  over the `size` maps around i

α multiplies the *sum*, as printed in the paper; `torch.nn.LocalResponseNorm` divides its alpha by `size` first.
`towers` cuts the maps into independent groups: the 2012 net normalised each GPU's half on its own.

The work goes over a few pictures at a time, in buffers that stay in the cache, and the backward pass computes
the denominator again rather than keep it: moving these maps through memory costs more than the arithmetic.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Elements worked on at once on the CPU: about two of the paper's conv1 outputs, 2 MB of float32.
CHUNK_ELEMENTS = 1 << 19


class LocalResponseNorm(nn.Module):
    """Cross-map normalization of (B, C, H, W); C must be a multiple of `towers`."""

    def __init__(self, size: int, alpha: float, beta: float, k: float, towers: int = 1) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k, self.towers = size, alpha, beta, k, towers

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _LocalResponseNorm.apply(x, self.size, self.alpha, self.beta, self.k, self.towers)
        return result

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, towers={self.towers}"


class _LocalResponseNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, alpha: float, beta: float, k: float, towers: int) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.constants = size, alpha, beta, k, towers
        y = torch.empty_like(x)
        for maps, out in zip(_chunks(x, towers), _chunks(y, towers), strict=True):
            maps = _in_full_precision(maps)
            power, _ = _power(maps, size, alpha, beta, k)
            out.copy_(power.mul_(maps))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        size, alpha, beta, k, towers = ctx.constants
        gradient = gradients[0].contiguous()
        result = torch.empty_like(x)
        pieces = zip(_chunks(x, towers), _chunks(gradient, towers), _chunks(result, towers), strict=True)
        for maps, grad, out in pieces:
            maps, grad = _in_full_precision(maps), _in_full_precision(grad)
            power, denominator = _power(maps, size, alpha, beta, k)
            # dL/dx_i = g_i s_i^-β − 2αβ x_i · Σ_j g_j x_j s_j^(-β-1): the window is symmetric.
            direct = power.mul_(grad)
            through = torch.mul(direct, maps).div_(denominator)
            around = _window_sum(through, size).mul_(maps)
            out.copy_(direct.sub_(around, alpha=2 * alpha * beta))
        return result, None, None, None, None, None


def _chunks(x: Tensor, towers: int) -> list[Tensor]:
    """Views of x (B, C, H, W) as (b, towers, C/towers, H·W): all of it at once unless it is on the CPU."""
    batch, channels, height, width = x.shape
    maps = x.view(batch, towers, channels // towers, height * width)
    if x.device.type != "cpu":
        return [maps]
    return list(torch.split(maps, max(1, round(CHUNK_ELEMENTS / maps[0].numel()))))


def _in_full_precision(x: Tensor) -> Tensor:
    """Squares of half-precision activations overflow beyond 255, so they are taken in float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _window_sum(x: Tensor, size: int) -> Tensor:
    """For each map, the sum over it and its neighbours in the window; x is (b, towers, maps, pixels)."""
    total = x.clone()
    for shift in range(1, size // 2 + 1):
        total[:, :, shift:].add_(x[:, :, :-shift])
        total[:, :, :-shift].add_(x[:, :, shift:])
    return total


def _power(maps: Tensor, size: int, alpha: float, beta: float, k: float) -> tuple[Tensor, Tensor]:
    """The factor s^-β and the denominator s."""
    denominator = _window_sum(maps.square(), size).mul_(alpha).add_(k)
    if beta == 0.75:  # the paper's; two square roots are many times quicker than a power
        inverse = denominator.rsqrt()
        return inverse.sqrt().mul_(inverse), denominator
    return denominator.pow(-beta), denominator
