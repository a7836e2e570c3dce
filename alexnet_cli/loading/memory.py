"""Memory for batches that is used again: new memory must be zeroed by the system, page by page."""

from collections import deque
from typing import Any
from weakref import finalize

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray


class Memory:
    """Arrays of one kind, each lent again once nothing refers to what was lent before. Safe for threads.

    Memory new from the system costs an eighth of the time of decoding into it and half of that of cutting, and the
    C library gives the loader threads' back to it, whatever `keep_freed_memory` asks for.
    """

    def __init__(self, dtype: DTypeLike, pinned: bool = False) -> None:
        self._free: deque[NDArray[Any]] = deque()
        self._dtype, self._pinned = np.dtype(dtype), pinned

    def array(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """With anything in it; of the array only itself and tensors of it may be kept."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = self._new(shape)
        if memory.shape != shape:
            memory = self._new(shape)
        lent = memory[:]
        finalize(lent, self._free.append, memory).atexit = False
        return lent

    def _new(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Pinned: where a GPU fetches it while the processor does other work."""
        if self._pinned:
            like = torch.from_numpy(np.empty(0, self._dtype))
            return torch.empty(shape, dtype=like.dtype, pin_memory=True).numpy()
        return np.empty(shape, dtype=self._dtype)
