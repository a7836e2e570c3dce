"""What this process may use of the machine."""

import os


def cores() -> int:
    """Processor cores this process may run on: fewer than there are where a scheduler or container says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS
