"""How fast response normalization is here, forward and backward, beside torch's and moving its bytes once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet_cli import paper
from alexnet_cli.bench.timing import medians, number
from alexnet_cli.engine.arithmetic import HALVES
from alexnet_cli.machine import keep_freed_memory
from alexnet_cli.network.lrn import LocalResponseNorm
from alexnet_cli.runs import Precision

OURS, STOCK, BYTES = "alexnet", "torch", "its bytes, moved once"
PLACES = 55  # rows and columns of conv1's maps
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


@dataclass(frozen=True)
class Row:
    """Milliseconds of one way, how many times faster than torch's it is, and its time over the bytes'."""

    precision: Precision
    layout: str
    way: str
    ms: float
    faster: float
    over_bytes: float


def rows(
    device: torch.device, batch: int, width: float, rounds: int, precisions: list[Precision], compiled: bool
) -> list[Row]:
    """Measure on normal activations of the first layer's shape, towers apart; memory is kept, as in training."""
    keep_freed_memory()
    found = []
    for precision in precisions:
        for layout in FORMATS:
            seconds = medians(ways(device, batch, width, precision, layout, compiled), device, rounds)
            for way, taken in seconds.items():
                ratios = seconds[STOCK] / taken, taken / seconds[BYTES]
                found.append(Row(precision, layout, way, 1e3 * taken, *ratios))
    return found


def ways(
    device: torch.device, batch: int, width: float, precision: Precision, layout: str, compiled: bool
) -> dict[str, Callable[[], object]]:
    maps = paper.TOWERS * max(1, round(paper.CONVOLUTION_KERNELS[0] * width / paper.TOWERS))
    x, gradient = (
        torch.randn(batch, maps, PLACES, PLACES, device=device, dtype=number(precision))
        .mul_(60)
        .contiguous(memory_format=FORMATS[layout])
        for _ in range(2)
    )
    ours = LocalResponseNorm(paper.LRN_SIZE, paper.LRN_ALPHA, paper.LRN_BETA, paper.LRN_K, paper.TOWERS)
    norms: dict[str, Callable[[Tensor], Tensor]] = {STOCK: stock, OURS: ours}
    if compiled:
        norms[f"{OURS}, compiled"] = torch.compile(ours)
    found = {name: both(norm, x, gradient) for name, norm in norms.items()}
    # Forward reads x and writes y; backward reads x and a gradient and writes another.
    found[BYTES] = lambda: (x.clone(), x * gradient)
    return found


_torchs = nn.LocalResponseNorm(paper.LRN_SIZE, paper.LRN_SIZE * paper.LRN_ALPHA, paper.LRN_BETA, paper.LRN_K)


def stock(x: Tensor) -> Tensor:
    """The usual way: torch's, a tower at a time. On a CPU it knows float32 alone, which autocast gives it."""
    half = x.dtype in HALVES.values()
    with torch.autocast(x.device.type, x.dtype if half else None, enabled=half):
        return torch.cat([_torchs(tower) for tower in x.chunk(paper.TOWERS, 1)], 1).to(x.dtype)


def both(norm: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Callable[[], object]:
    """Forward and backward."""

    def run() -> None:
        torch.autograd.backward(norm(x.detach().requires_grad_()), gradient)

    return run
