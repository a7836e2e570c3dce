"""What this process may use of the machine, which part of a job it is, and its signals."""

import ctypes
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
ADVISED = hasattr(os, "posix_fadvise")
"""Whether the system takes advice on what to read, and what to forget: macOS does not."""


@dataclass(frozen=True)
class Job:
    """One process's place among the `size` that a launcher started, and the cores that are its part."""

    rank: int
    size: int
    cores: int


ALONE = Job(0, 1, 1)


def job() -> Job:
    """What torchrun says of this process, else Slurm's srun, else that it is alone."""
    adopt_slurm()
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if os.environ.get(_ADOPTED) and "SLURM_CPUS_ON_NODE" in os.environ:
        # Slurm may have bound this process to its own part of what the node lends, or leave all of it to all.
        return Job(rank, size, max(1, min(cores(), int(os.environ["SLURM_CPUS_ON_NODE"]) // beside)))
    return Job(rank, size, max(1, cores() // beside))


def adopt_slurm() -> None:
    """Give torchrun's names to what srun says of this process, unless torchrun itself has set them."""
    values = os.environ
    if "RANK" in values or int(values.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    # Not SLURM_NTASKS, which a batch script has too, before srun has started anything.
    tasks = tasks_of_nodes(values.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    node = int(values.get("SLURM_NODEID", "0"))
    nodes = values.get("SLURM_STEP_NODELIST") or values.get("SLURM_JOB_NODELIST", "127.0.0.1")
    values["RANK"], values["WORLD_SIZE"] = values["SLURM_PROCID"], values["SLURM_STEP_NUM_TASKS"]
    values["LOCAL_RANK"] = values.get("SLURM_LOCALID", "0")
    values["LOCAL_WORLD_SIZE"] = str(tasks[min(node, len(tasks) - 1)])
    values.setdefault("MASTER_ADDR", first_node(nodes))
    # The same for all processes of a job, and hardly that of another on the same node.
    values.setdefault("MASTER_PORT", str(20000 + int(values.get("SLURM_JOB_ID", "0")) % 20000))
    values[_ADOPTED] = "1"


def tasks_of_nodes(text: str) -> list[int]:
    """Slurm writes "4(x2),3" for two nodes with four processes and one with three."""
    found = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        found += [int(count)] * int(times.rstrip(")") or 1)
    return found


def first_node(nodes: str) -> str:
    """Of Slurm's list: gpu[003-006,010],big1 begins with gpu003."""
    prefix, bracket, rest = nodes.partition("[")
    if not bracket or "," in prefix:
        return prefix.partition(",")[0]
    inner, _, suffix = rest.partition("]")
    return prefix + re.split("[-,]", inner)[0] + suffix.partition(",")[0]


_ADOPTED = "ALEXNET_SLURM"


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


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


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
