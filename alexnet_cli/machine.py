"""What this process may use of the machine."""

import ctypes
import os
import resource

SPARE_FILES = 128
"""Open files that are left for everything but shards."""


def cores() -> int:
    """Processor cores this process may run on: fewer than there are where a scheduler or container says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def allow_open_files(count: int) -> None:
    """Raise this process's own limit for so many shards, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


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
