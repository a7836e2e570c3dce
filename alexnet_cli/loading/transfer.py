"""Batches on their way to a GPU, beside the training that it does meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_own = threading.local()


@contextmanager
def beside_training(device: torch.device) -> Iterator[None]:
    """What this thread asks of a CUDA device within has a queue of its own, and is done when this ends.

    The thread waits for it without the GIL; so the memory that was copied from can be written to again, and the
    training need not wait. On other devices nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    if not hasattr(_own, "stream"):
        _own.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(_own.stream):
        yield
        _own.stream.synchronize()


def handed_over(*tensors: Tensor) -> None:
    """Say of tensors made beside the training that it uses them: freed, their memory waits for it."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.default_stream(tensor.device))
