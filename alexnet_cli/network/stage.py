"""ReLU, normalization and pooling of the first two layers in one go, on a CPU (paper §3.3, §3.4).

Each alone moves the largest maps of the net through memory and back. Here a picture or so goes through all three
while it is in the cache, forward and backward, and the normalized maps, four times what pooling leaves, are never
kept. The numbers are those of the layers one by one, bit for bit in fp32; in half precision they are rounded
once, at the end.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from alexnet_cli.network.lrn import (
    LocalResponseNorm,
    Workspace,
    by_formula,
    in_full_precision,
    memory_format,
    piece_by_piece,
)

_pooled_into: Callable[..., Tensor] = torch.ops.aten.max_pool2d_with_indices.out
_unpooled_into: Callable[..., Tensor] = torch.ops.aten.max_pool2d_with_indices_backward.grad_input


def rectified_normalized_pooled(x: Tensor, norm: LocalResponseNorm, pool: nn.MaxPool2d) -> Tensor:
    """`pool(norm(relu(x)))` of (B, C, H, W); x may be overwritten. Hooks on the two layers are called as ever."""
    if by_formula(x) or _is_hooked(norm) or _is_hooked(pool):
        pooled: Tensor = pool(norm(F.relu(x, inplace=True)))
        return pooled
    result: Tensor = _Stage.apply(x, norm, pool)
    return result


def _is_hooked(layer: nn.Module) -> bool:
    """Whether somebody looks on, who shall see each layer by itself."""
    forward = layer._forward_hooks or layer._forward_pre_hooks
    return bool(forward or layer._backward_hooks or layer._backward_pre_hooks)


class _Stage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: LocalResponseNorm, pool: nn.MaxPool2d) -> Tensor:
        form = memory_format(x)
        x = x.contiguous(memory_format=form)
        size = pool.forward(torch.empty(x.shape[1:], device="meta")).shape
        pooled = torch.empty((len(x), *size), dtype=x.dtype, memory_format=form)
        places = torch.empty((len(x), *size), dtype=torch.int64, memory_format=form)
        ctx.save_for_backward(x, pooled, places)
        ctx.buffers = partial(_Buffers, norm=norm, pool=pool)
        piece_by_piece(ctx.buffers, _Buffers.forward, x, pooled, places)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, pooled, places = ctx.saved_tensors
        gradient, result = gradients[0].contiguous(memory_format=memory_format(x)), torch.empty_like(x)
        piece_by_piece(ctx.buffers, _Buffers.backward, x, gradient, pooled, places, result)
        return result, None, None


class _Buffers:
    """What pictures of one shape need on their way, in single precision at least."""

    def __init__(self, pictures: Tensor, norm: LocalResponseNorm, pool: nn.MaxPool2d) -> None:
        self.shape = pictures.shape
        self.rectified = torch.empty_like(pictures, dtype=torch.promote_types(pictures.dtype, torch.float32))
        self.normalized = torch.empty_like(self.rectified)
        self.workspace = Workspace(self.rectified, norm)
        self.windows = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode

    def forward(self, x: Tensor, pooled: Tensor, places: Tensor) -> None:
        torch.clamp_min(in_full_precision(x), 0, out=self.rectified)
        self.workspace.forward(self.rectified, self.normalized)
        same = pooled.dtype == self.normalized.dtype
        result = pooled if same else torch.empty_like(pooled, dtype=self.normalized.dtype)
        _pooled_into(self.normalized, *self.windows, out=result, indices=places)
        if not same:
            pooled.copy_(result)

    def backward(self, x: Tensor, gradient: Tensor, pooled: Tensor, places: Tensor, out: Tensor) -> None:
        torch.clamp_min(in_full_precision(x), 0, out=self.rectified)
        # Where nothing went through ReLU the window's maximum is 0; in float16 a tiny one is rounded to 0 too.
        gradient = torch.ops.aten.threshold_backward(gradient, pooled, 0).to(self.rectified.dtype)
        _unpooled_into(gradient, self.rectified, *self.windows, places, grad_input=self.normalized)
        self.workspace.backward(self.rectified, self.normalized, out)
