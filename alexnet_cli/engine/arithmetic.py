"""How a step is computed: in which numbers, in how many parts, and how strictly the same each time."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn

from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.loader import TrainingBatch
from alexnet_cli.runs import Machine, Precision

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The forward pass in half precision, where that is asked for; the weights stay in fp32."""
    return torch.autocast(device.type, HALVES.get(precision), enabled=precision in HALVES)


def set_up(machine: Machine, precision: Precision) -> None:
    """Of this process: threads, the products of CUDA, and whether each step is the same each time."""
    torch.set_num_threads(machine.threads)
    multiply_in(precision)
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA multiplies for the first time
    torch.use_deterministic_algorithms(machine.deterministic)
    torch.backends.cudnn.benchmark = False  # which would choose its algorithms by time


def multiply_in(precision: Precision) -> None:
    """Without `tf32` CUDA multiplies in whole fp32: torch's own choice is to take tf32 for convolutions."""
    product = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = product
    torch.backends.cudnn.conv.fp32_precision = product  # type: ignore[attr-defined]


def compiled(net: nn.Module, machine: Machine) -> Callable[..., Tensor]:
    """The forward pass in training, compiled if that is asked for; validation does without."""
    return torch.compile(net, dynamic=False) if machine.compiled else net


def check_precision(precision: str, device_kind: str) -> None:
    """Raise AlexNetError where there is none of that name, or the device does not have it."""
    if precision not in get_args(Precision):
        raise AlexNetError(
            f"there is no precision '{precision}'", f"it is one of {', '.join(get_args(Precision))}"
        )
    if precision == "tf32" and device_kind != "cuda":
        here = "the CPU" if device_kind == "cpu" else f"a device of kind {device_kind}"
        raise AlexNetError(f"--precision tf32: only CUDA GPUs have it, and this is {here}", "take fp32 or bf16")


def emulated(precision: Precision, device_kind: str) -> bool:
    """Whether torch has only plain loops for this half precision on a CPU: an order of magnitude slower than fp32.

    oneDNN, which multiplies elsewhere, leaves it alone where the processor lacks the instructions
    (docs/measurements.md); on macOS torch comes without oneDNN.
    """
    if device_kind != "cpu" or precision not in HALVES:
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return True
    return not getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")()


def check_compiler(device_kind: str) -> None:
    """torch.compile writes C++ for a CPU, and has it compiled by the machine's own compiler."""
    compiler = os.environ.get("CXX", "g++")
    if device_kind == "cpu" and shutil.which(compiler) is None:
        raise AlexNetError(
            f"--compile: there is no C++ compiler {compiler} here", "install one, name it in CXX, or leave it out"
        )


def check_parts(batch_size: int, machine: Machine) -> None:
    """Parts of one shape, so that a compiled step is compiled once."""
    rows, parts = -(-batch_size // machine.ranks), machine.accumulate
    if rows % parts:
        fitting = ", ".join(str(n) for n in range(2, rows + 1) if rows % n == 0)
        each = "each process's part of a batch" if machine.ranks > 1 else "a batch"
        raise AlexNetError(
            f"--accumulate {parts}: {each} has {rows} pictures, which are not {parts} equal parts",
            f"take one of {fitting}" if fitting else "leave it out",
        )


def parts(
    batch: TrainingBatch, count: int, net: nn.Module
) -> Iterator[tuple[TrainingBatch, AbstractContextManager[None]]]:
    """The batch in `count` parts, each with a context in which the ranks exchange gradients only for the last."""
    size = len(batch.labels) // count
    for first in range(0, size * count, size):
        rows = slice(first, first + size)
        part = replace(
            batch,
            pixels=batch.pixels[rows],
            masks=(batch.masks[0][rows], batch.masks[1][rows]),
            labels=batch.labels[rows],
            weights=batch.weights[rows],
            samples=batch.samples[rows],
        )
        last = first + size == size * count
        apart = isinstance(net, nn.parallel.DistributedDataParallel) and not last
        yield part, net.no_sync() if apart else nullcontext()  # type: ignore[operator]


@contextmanager
def enough_memory(what: str, hint: str) -> Iterator[None]:
    """Where memory of a device runs out, say that it is too small `what`, and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _out_of_memory(error):
            raise
        raise AlexNetError(f"the memory is too small {what}", hint) from error


def _out_of_memory(error: RuntimeError) -> bool:
    words = ("can't allocate memory", "out of memory")  # of torch on a CPU, and on an Apple GPU
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in words)


GROWTH_STEPS = 2000


@dataclass(frozen=True)
class Scaling:
    """What fp16 multiplies the loss by before the backward pass, so that small gradients do not vanish.

    By the rule of torch.amp.GradScaler, but as a value that lies in the checkpoint: half of it where the gradients
    overflow, and that step is left out; twice after so many steps in which they did not. A power of two, so that
    what is multiplied and divided is the same to the last bit.
    """

    scale: float = 65536.0
    steps: int = 0
    """Since it changed."""
    skipped: int = 0
    """Steps that were left out so far."""

    def after(self, finite: bool) -> "Scaling":
        if not finite:
            return Scaling(self.scale / 2, 0, self.skipped + 1)
        if self.steps + 1 == GROWTH_STEPS:
            return replace(self, scale=self.scale * 2, steps=0)
        return replace(self, steps=self.steps + 1)
