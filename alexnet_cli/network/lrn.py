"""Local response normalization across kernel maps (paper §3.3), exact and quick on a plain CPU.

    y_i = x_i · s_i^-β,   s_i = k + α · Σ x_j²  over the `size` maps around i

α multiplies the *sum*, as printed in the paper; `torch.nn.LocalResponseNorm` divides its alpha by `size` first.
`towers` cuts the maps into independent groups: the 2012 net normalised each GPU's half on its own.

The backward pass computes the denominator again rather than keep it: moving these maps through memory costs
more than the arithmetic. For the same reason the work on the CPU goes over a picture or so at a time, in buffers
that stay in the cache (`Workspace`), and threads share the pictures rather than each operator: twenty barriers
for each of them cost more than the second core brings. Elsewhere, and for `torch.compile`, the plain formulas are
best.
"""

import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Protocol, TypeVar

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
        x = x.contiguous(memory_format=memory_format(x))
        ctx.save_for_backward(x)
        ctx.norm = norm
        if by_formula(x):
            return _forward(x, norm)
        y = torch.empty_like(x)
        piece_by_piece(partial(Workspace, norm=norm), Workspace.forward, x, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        norm, gradient = ctx.norm, gradients[0].contiguous(memory_format=memory_format(x))
        if by_formula(x):
            return _backward(x, gradient, norm), None
        result = torch.empty_like(x)
        piece_by_piece(partial(Workspace, norm=norm), Workspace.backward, x, gradient, result)
        return result, None


class Shaped(Protocol):
    shape: torch.Size


W = TypeVar("W", bound=Shaped)


def piece_by_piece(make: Callable[[Tensor], W], work: Callable[..., None], *tensors: Tensor) -> None:
    """`work(workspace, *pieces)` for the same few pictures of each tensor, on as many threads as torch may use.

    A thread makes a workspace for pictures like the first tensor's, and has it for all pieces of that shape.
    """
    pictures = max(1, round(PIECE_ELEMENTS / tensors[0][0].numel()))
    todo = deque(zip(*(torch.split(tensor, pictures) for tensor in tensors), strict=True))

    def share() -> None:
        workspace = None
        while todo:
            try:
                pieces = todo.popleft()
            except IndexError:  # another thread had the last
                return
            if workspace is None or workspace.shape != pieces[0].shape:
                workspace = make(pieces[0])
            work(workspace, *pieces)

    threads = torch.get_num_threads()
    helpers = min(threads, len(todo) // PIECES_PER_THREAD) - 1
    torch.set_num_threads(1)  # of this thread
    try:
        helped = torch.inference_mode(torch.is_inference_mode_enabled())(torch.no_grad()(share))  # as here
        others = [_pool().submit(helped) for _ in range(helpers)]
        share()
        for other in others:
            other.result()
    finally:
        torch.set_num_threads(threads)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(None, "normalization", torch.set_num_threads, (1,))


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along


def by_formula(x: Tensor) -> bool:
    """Whether the plain formulas are best."""
    return x.device.type != "cpu" or torch.compiler.is_compiling() or not x.numel()


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels_last if x is in it, else contiguous."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def maps_of(x: Tensor, towers: int) -> Tensor:
    """A view of x as (rows, towers, maps, pixels): a row is a picture, in channels_last a pixel of a picture."""
    batch, channels, height, width = x.shape
    if memory_format(x) == torch.channels_last:
        return x.permute(0, 2, 3, 1).view(batch * height * width, towers, channels // towers, 1)
    return x.view(batch, towers, channels // towers, height * width)


def in_full_precision(x: Tensor) -> Tensor:
    """Squares of half-precision activations overflow beyond 255, so they are taken in float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


Addition = tuple[Tensor, Tensor, Tensor]
"""Of two tensors, into a third."""


class Workspace:
    """Buffers to normalise pictures of one shape in, and the arithmetic over them, in single precision at least.

    A buffer holds the pictures' maps in one line with a gap of size//2 maps before each tower and after the last.
    What lies in the gaps adds nothing to a window, so the window sums of all maps are sums of the whole line
    and itself shifted, whatever the memory format. All views of the buffers are made here, once: a piece takes
    twenty operators, and beside them so many views would cost as much as one or two.
    """

    def __init__(self, pictures: Tensor, norm: LocalResponseNorm) -> None:
        self.norm, self.shape, gap = norm, pictures.shape, norm.size // 2
        rows, towers, maps, step = maps_of(pictures, norm.towers).shape
        padded = (rows, towers, gap + maps, step)
        sums, dtype = math.prod(padded), torch.promote_types(pictures.dtype, torch.float32)

        def line(first: int = 0) -> Callable[[Tensor], Tensor]:
            """The maps of a line in their shape, without the gaps; the first of them lies `first` maps behind."""
            return lambda buffer: buffer[first * step :][:sums].view(padded)[:, :, :maps]

        # Each square brings its share of k along, so that a window sums to the whole denominator.
        self.share = torch.tensor(norm.k / norm.size, dtype=dtype)
        squares = torch.full((sums + gap * step,), norm.k / norm.size, dtype=dtype)
        products = torch.zeros_like(squares)
        first, second, third = (torch.empty_like(squares) for _ in range(3))
        self.to_denominator, denominator = _additions(squares, first, second, norm.size, step)
        power = second if denominator is first else first
        self.to_around, around = _additions(products, denominator, third, norm.size, step)
        self.denominator, self.power = denominator[:sums], power[:sums]
        self.squares, self.products = map(line(gap), (squares, products))
        self.denominators, self.powers, self.around = map(line(), (denominator, power, around))

    def forward(self, pictures: Tensor, out: Tensor) -> None:
        maps = in_full_precision(maps_of(pictures, self.norm.towers))
        self._raise_to_power(maps)
        torch.mul(self.powers, maps, out=maps_of(out, self.norm.towers))

    def backward(self, pictures: Tensor, gradient: Tensor, out: Tensor) -> None:
        """dL/dx_i = g_i s_i^-β − 2αβ x_i · Σ_j g_j x_j s_j^(-β-1): the window is symmetric."""
        maps, gradients, results = (maps_of(each, self.norm.towers) for each in (pictures, gradient, out))
        maps = in_full_precision(maps)
        self._raise_to_power(maps)
        direct = self.powers.mul_(gradients)
        torch.mul(direct, maps, out=self.products).div_(self.denominators)
        _add(self.to_around)  # over the denominators, in one of its steps
        torch.addcmul(direct, self.around, maps, value=-2 * self.norm.alpha * self.norm.beta, out=results)

    def _raise_to_power(self, maps: Tensor) -> None:
        """The denominator s, and the factor s^-β."""
        torch.addcmul(self.share, maps, maps, value=self.norm.alpha, out=self.squares)
        _add(self.to_denominator)
        if self.norm.beta == 0.75:  # the paper's
            torch.rsqrt(self.denominator, out=self.power).rsqrt_().div_(self.denominator)
        else:
            torch.pow(self.denominator, -self.norm.beta, out=self.power)


def _add(additions: list[Addition]) -> None:
    for total, shifted, result in additions:
        torch.add(total, shifted, out=result)


def _additions(line: Tensor, to: Tensor, other: Tensor, size: int, step: int) -> tuple[list[Addition], Tensor]:
    """How to sum, at each place of a line, the `size` maps from there on: a map's window starts a gap before it.

    And where the sum is then: in `to`, in `other` or the line itself. It doubles: five maps are twice (twice one)
    and one.
    """
    additions, total, width = [], line, 1
    for digit in f"{size:b}"[1:]:
        for summand, more in ((total, width), (line, 1))[: 1 + int(digit)]:
            shift, length = width * step, len(line) - (width + more - 1) * step
            additions.append((total[:length], summand[shift : shift + length], to[:length]))
            total, to, other, width = to, other, to, width + more
    return additions, total


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
