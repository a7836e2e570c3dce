"""What this process may use of the machine, which part of a job it is, and its signals."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Job:
    """One process's place among the `size` that a launcher started, and the cores that are its part."""

    rank: int
    size: int
    cores: int


ALONE = Job(0, 1, 1)


def job() -> Job:
    """What torchrun says of this process, else Slurm's srun, else that it is alone."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is not None and size is not None:
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return Job(int(rank), int(size), max(1, cores() // beside))
    rank, size = os.environ.get("SLURM_PROCID"), os.environ.get(_STEP_SIZE)
    if rank is not None and size is not None:
        # On this node; Slurm writes "4(x2),3" for two nodes with four and one with three.
        beside = int(os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0].partition(",")[0])
        lent = int(os.environ.get("SLURM_CPUS_ON_NODE", cores()))
        return Job(int(rank), int(size), max(1, min(cores(), lent // beside)))
    return Job(0, 1, cores())


def adopt_slurm() -> None:
    """Give torchrun's names to what srun says, for all that asks for these: the console, say."""
    here = job()
    if here.size > 1:
        os.environ.setdefault("RANK", str(here.rank))


_STEP_SIZE = "SLURM_STEP_NUM_TASKS"
"""Not SLURM_NTASKS, which a batch script has too, before srun has started anything."""


Handler = Callable[[int, Any], Any] | signal.Handlers


@contextmanager
def signals_handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Have `handler` take these signals for a while; only in the main thread, where alone it can be set."""
    before: dict[int, Any] = {}
    try:
        for number in numbers:
            before[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even amid a call that never returns. Linux only."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


_SET_PARENT_DEATH_SIGNAL = 1  # of Linux's prctl.h


def cores() -> int:
    """Processor cores this process may run on: fewer than there are where a scheduler or container says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def free_memory() -> int:
    """Bytes this process may still take: of the machine, and of the control groups a scheduler put it in."""
    return min([_free_in_machine(), *_free_in_groups()])


def _free_in_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # macOS, which does not say so simply what is free
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_in_groups() -> list[int]:
    """Of the process's group and those around it, as version 2 of Linux's control groups has them."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::/")[2]
    except OSError:
        return []
    groups = (CGROUPS / group for group in (PurePosixPath(own), *PurePosixPath(own).parents))
    return [free for group in groups if (free := _free_in_group(group)) is not None]


def _free_in_group(group: Path) -> int | None:
    """None where there is no limit."""
    names = ("memory.max", "memory.current", "memory.stat")
    try:
        limit, used, details = ((group / name).read_text(encoding="ascii") for name in names)
    except OSError:
        return None
    if limit.strip() == "max":
        return None
    lines = dict(line.split() for line in details.splitlines())
    # Files that were read are counted as used, and given up when memory is short.
    return max(0, int(limit) - int(used) + int(lines.get("inactive_file", 0)))


def keep_freed_memory() -> None:
    """Have the C library keep freed blocks below 2 GB for the next use instead of giving them back at once.

    A step on the CPU frees and asks again for hundreds of megabytes of activations; memory new from the system
    must be zeroed and mapped page by page, a third of the step (docs/measurements.md). glibc only: where
    there is no `mallopt`, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h
_MOST = 2**31 - 1  # mallopt takes an int
