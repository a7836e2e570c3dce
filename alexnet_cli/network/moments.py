"""Moments of what a device does: of a GPU, which works beside the thread that gives it work, they are its own."""

import time

import torch

Moment = float | torch.cuda.Event


def now(device: torch.device) -> Moment:
    if not beside(device):
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(start: Moment, stop: Moment) -> float:
    if isinstance(start, float) or isinstance(stop, float):
        assert isinstance(start, float) and isinstance(stop, float)
        return stop - start
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1000


def beside(device: torch.device) -> bool:
    """Whether the device works beside this thread; not so the CPU, nor a GPU that a test only stands in for."""
    return device.type == "cuda" and torch.cuda.is_available()
