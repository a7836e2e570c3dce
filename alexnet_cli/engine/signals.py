"""A polite stop: the first signal is noted for the loop to act on, a second SIGINT quits at once.

SIGINT is Ctrl-C, SIGTERM a system's or a scheduler's, SIGUSR1 what Slurm sends ahead of the end of a job's time
(`sbatch --signal=USR1@120`).
"""

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """While entered, `signal` becomes the number of the signal that asked this process to stop."""

    signal: int = 0

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._asked_at = 0.0

    def __enter__(self) -> "Stop":
        for number in STOPPING:
            self._handlers[number] = signal.signal(number, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _asked(self, number: int, _: FrameType | None) -> None:
        # A terminal and a launcher may both pass on one Ctrl-C: within a second of the first it is the same.
        if number != self.signal:
            self.signal, self._asked_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._asked_at > 1:
            os._exit(128 + number)
