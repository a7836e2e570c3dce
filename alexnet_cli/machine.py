"""What this process may use of the machine."""

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
