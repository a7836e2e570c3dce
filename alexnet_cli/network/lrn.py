"""Local response normalization across kernel maps (paper §3.3), exact and quick on a plain CPU.

    y_i = x_i · s_i^-β,   s_i = k + α · Σ x_j²  over the `size` maps around i

α multiplies the *sum*, as printed in the paper; `torch.nn.LocalResponseNorm` divides its alpha by `size` first.
`towers` cuts the maps into independent groups: the 2012 net normalised each GPU's half on its own.

The backward pass computes the denominator again rather than keep it: moving these maps through memory costs
more than the arithmetic. For the same reason the work on the CPU goes over a picture or so at a time, in buffers
that stay in the cache (`_Workspace`), and threads share the pictures rather than each operator: twenty barriers
for each of them cost more than the second core brings. Elsewhere, and for `torch.compile`, the plain formulas are
best.
"""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Elements worked on at once on the CPU, 1 MB of float32: one of the paper's conv1 outputs.
PIECE_ELEMENTS = 1 << 18
# Fewer for each thread are not worth waking one.
PIECES_PER_THREAD = 4


class LocalResponseNorm(nn.Module):
    """Cross-map normalization of (B, C, H, W); C must be a multiple of `towers`."""

    def __init__(self, size: int, alpha: float, beta: float, k: float, towers: int = 1) -> None:
        super().__init__()
        if size % 2 == 0:
            raise ValueError("the window is a map and as many on either side, so its size is odd")
        self.size, self.alpha, self.beta, self.k, self.towers = size, alpha, beta, k, towers

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _LocalResponseNorm.apply(x, self)
        return result

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, towers={self.towers}"


class _LocalResponseNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: LocalResponseNorm) -> Tensor:
        x = x.contiguous(memory_format=_memory_format(x))
        ctx.save_for_backward(x)
        ctx.norm = norm
        if _by_formula(x):
            return _forward(x, norm)
        y = torch.empty_like(x)
        _piece_by_piece(_Workspace.forward, norm, x, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        norm, gradient = ctx.norm, gradients[0].contiguous(memory_format=_memory_format(x))
        if _by_formula(x):
            return _backward(x, gradient, norm), None
        result = torch.empty_like(x)
        _piece_by_piece(_Workspace.backward, norm, x, gradient, result)
        return result, None


def _piece_by_piece(work: Callable[..., None], norm: LocalResponseNorm, *tensors: Tensor) -> None:
    """`work(workspace, *pieces)` for the pieces of tensors laid out alike, on as many threads as torch may use."""
    todo = deque(zip(*(_pieces(tensor, norm.towers) for tensor in tensors), strict=True))

    def share() -> None:
        workspace = None
        while todo:
            try:
                pieces = todo.popleft()
            except IndexError:  # another thread had the last
                return
            if workspace is None or workspace.shape != pieces[0].shape:
                workspace = _Workspace(pieces[0], norm)
            work(workspace, *pieces)

    threads = torch.get_num_threads()
    helpers = min(threads, len(todo) // PIECES_PER_THREAD) - 1
    torch.set_num_threads(1)  # of this thread
    try:
        others = [_pool().submit(torch.no_grad()(share)) for _ in range(helpers)]
        share()
        for other in others:
            other.result()
    finally:
        torch.set_num_threads(threads)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(None, "normalization", torch.set_num_threads, (1,))


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along


def _by_formula(x: Tensor) -> bool:
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def _memory_format(x: Tensor) -> torch.memory_format:
    """The one x is in, if it is in one."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _maps(x: Tensor, towers: int) -> Tensor:
    """A view of x as (rows, towers, maps, pixels): a row is a picture, in channels_last a pixel of a picture."""
    batch, channels, height, width = x.shape
    if _memory_format(x) == torch.channels_last:
        return x.permute(0, 2, 3, 1).view(batch * height * width, towers, channels // towers, 1)
    return x.view(batch, towers, channels // towers, height * width)


def _pieces(x: Tensor, towers: int) -> tuple[Tensor, ...]:
    maps = _maps(x, towers)
    return torch.split(maps, max(1, round(PIECE_ELEMENTS / max(1, maps[:1].numel()))))


def in_full_precision(x: Tensor) -> Tensor:
    """Squares of half-precision activations overflow beyond 255, so they are taken in float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class _Workspace:
    """Buffers to normalise pieces of one shape in, and the arithmetic over them.

    A buffer holds the piece's maps in one line with a gap of size//2 maps before each tower and after the last.
    What lies in the gaps adds nothing to a window, so the window sums of all maps are sums of the whole line
    and itself shifted, whatever the memory format.
    """

    def __init__(self, piece: Tensor, norm: LocalResponseNorm) -> None:
        self.norm, self.shape, gap = norm, piece.shape, norm.size // 2
        rows, towers, maps, self.step = piece.shape
        self.padded = torch.Size((rows, towers, gap + maps, self.step))
        self.gap, self.sums = gap * self.step, self.padded.numel() - gap * self.step
        length, dtype = self.padded.numel() + self.gap, torch.promote_types(piece.dtype, torch.float32)
        # Each square brings its share of k along, so that a window sums to the whole denominator.
        self.share = torch.tensor(norm.k / norm.size, dtype=dtype)
        self.squares = torch.full((length,), norm.k / norm.size, dtype=dtype)
        self.products = torch.zeros(length, dtype=dtype)
        self.spare = [torch.empty(length, dtype=dtype) for _ in range(3)]

    def forward(self, maps: Tensor, out: Tensor) -> None:
        _, power, _ = self._power(in_full_precision(maps))
        torch.mul(self._maps(power), maps, out=out)

    def backward(self, maps: Tensor, gradient: Tensor, out: Tensor) -> None:
        """dL/dx_i = g_i s_i^-β − 2αβ x_i · Σ_j g_j x_j s_j^(-β-1): the window is symmetric."""
        maps = in_full_precision(maps)
        denominator, power, free = self._power(maps)
        direct = self._maps(power).mul_(gradient)
        torch.mul(direct, maps, out=self._maps(self.products[self.gap :])).div_(self._maps(denominator))
        around = self._window_sum(self.products, denominator, free)
        torch.addcmul(direct, self._maps(around), maps, value=-2 * self.norm.alpha * self.norm.beta, out=out)

    def _power(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The denominator s, the factor s^-β, and a line that is free."""
        squares = self._maps(self.squares[self.gap :])
        torch.addcmul(self.share, maps, maps, value=self.norm.alpha, out=squares)
        first, second, third = self.spare
        denominator = self._window_sum(self.squares, first, second)
        power = second if denominator is first else first
        s, factor = denominator[: self.sums], power[: self.sums]
        if self.norm.beta == 0.75:  # the paper's
            torch.rsqrt(s, out=factor).rsqrt_().div_(s)
        else:
            torch.pow(s, -self.norm.beta, out=factor)
        return denominator, power, third

    def _window_sum(self, line: Tensor, to: Tensor, other: Tensor) -> Tensor:
        """At each place of a line the sum of the `size` maps from there on: a map's window starts a gap before it.

        It doubles: five maps are twice (twice one) and one. The result is in `to`, in `other` or the line itself.
        """
        total, width = line, 1
        for digit in f"{self.norm.size:b}"[1:]:
            for summand, more in ((total, width), (line, 1))[: 1 + int(digit)]:
                shift, length = width * self.step, len(line) - (width + more - 1) * self.step
                torch.add(total[:length], summand[shift : shift + length], out=to[:length])
                total, to, other, width = to, other, to, width + more
        return total

    def _maps(self, line: Tensor) -> Tensor:
        """The maps of a line that starts with the first of them, without the gaps, in the piece's shape."""
        return line[: self.padded.numel()].view(self.padded)[:, :, : self.shape[2]]


def _forward(x: Tensor, norm: LocalResponseNorm) -> Tensor:
    maps = _by_tower(x, norm)
    return (maps * _factor(_denominator(maps, norm), norm)).flatten(1, 2).to(x.dtype)


def _backward(x: Tensor, gradient: Tensor, norm: LocalResponseNorm) -> Tensor:
    maps = _by_tower(x, norm)
    denominator = _denominator(maps, norm)
    direct = _by_tower(gradient, norm) * _factor(denominator, norm)
    around = _window_sum(direct * maps / denominator, norm.size)
    return (direct - 2 * norm.alpha * norm.beta * maps * around).flatten(1, 2).to(x.dtype)


def _by_tower(x: Tensor, norm: LocalResponseNorm) -> Tensor:
    return in_full_precision(torch.unflatten(x, 1, (norm.towers, -1)))


def _denominator(maps: Tensor, norm: LocalResponseNorm) -> Tensor:
    return _window_sum(maps.square(), norm.size) * norm.alpha + norm.k


def _factor(s: Tensor, norm: LocalResponseNorm) -> Tensor:
    return s.rsqrt().rsqrt() / s if norm.beta == 0.75 else s.pow(-norm.beta)


def _window_sum(maps: Tensor, size: int) -> Tensor:
    padded = F.pad(maps, (0, 0, 0, 0, size // 2, size // 2))
    total = padded[:, :, : maps.shape[2]]
    for shift in range(1, size):
        total = total + padded[:, :, shift : shift + maps.shape[2]]
    return total
