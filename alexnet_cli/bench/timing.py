"""Times of several ways of doing the same work, in one run and by turns, for the benches of the network."""

import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import TypeVar

import torch

from alexnet_cli.engine.arithmetic import HALVES, emulated, multiply_in
from alexnet_cli.runs import Precision

Way = TypeVar("Way", bound=Hashable)


def medians(ways: Mapping[Way, Callable[[], object]], device: torch.device, rounds: int) -> dict[Way, float]:
    """The seconds of each way, the median of so many rounds; the ways take turns, after a round to warm up."""
    seconds: dict[Way, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: median(taken[1:]) for name, taken in seconds.items()}


def peak(device: torch.device, precision: Precision, rounds: int, side: int = 0) -> float:
    """Floating-point operations a second of the product of two square matrices: the most to expect."""
    side = side or (2048 if device.type == "cpu" else 8192)
    a, b = (torch.randn(side, side, device=device, dtype=number(precision)) for _ in range(2))
    multiply_in(precision)
    return 2 * side**3 / medians({"": lambda: a @ b}, device, rounds)[""]


def number(precision: Precision) -> torch.dtype:
    """In which activations are kept."""
    return HALVES.get(precision, torch.float32)


def precisions_of(device: torch.device) -> list[Precision]:
    """Those worth measuring there: a CPU has no quicker fp32, is slow in fp16, and may be in bf16."""
    more: dict[str, list[Precision]] = {"cpu": ["bf16"], "cuda": ["tf32", "bf16", "fp16"]}
    wanted = more.get(device.type, ["bf16", "fp16"])
    return ["fp32", *(precision for precision in wanted if not emulated(precision, device.type))]
