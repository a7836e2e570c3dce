"""What the processes of a job send each other while they train: each collective of a step passes here, where its
bytes are counted and the time that arithmetic stands still for it.

Bytes are those that a process sends by the usual algorithms, in which the processes stand in a ring: of n bytes,
n · (ranks − 1)/ranks to gather them from all, or to sum them up into parts, and twice that to sum them up for all.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future

from alexnet_cli.network.moments import Moment, now, seconds_between

# By their names since torch 2.14, which warns of the older ones.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass
class Exchange:
    """Of one process among `size`."""

    size: int
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes, by what was sent."""
    _waits: list[tuple[Moment, Moment]] | None = None

    def watch(self) -> None:
        """From here on, count anew and note how long arithmetic stands still."""
        self.sent.clear()
        self._waits = []

    def waited(self) -> float:
        """Seconds since `watch`, which ends here."""
        waits, self._waits = self._waits or [], None
        return sum(seconds_between(*wait) for wait in waits)

    def summed(self, values: Tensor, what: str) -> Tensor:
        """The sum over all processes, in place: of a few numbers, whose time goes into waiting for the slowest."""
        self._count(what, 2 * values.nbytes)
        dist.all_reduce(values)
        return values

    def gathered(self, rows: Tensor, what: str) -> Tensor:
        """(b, n) of each process → (b · size, n), those of process 0 first."""
        everybody = rows.new_empty(len(rows) * self.size, *rows.shape[1:])
        with self._counted(what, everybody.nbytes, rows.device):
            _all_gather(everybody, rows.contiguous())
        return everybody

    def scattered(self, rows: Tensor, what: str) -> Tensor:
        """(b · size, n) of each process → (b, n): this process's rows of the sum."""
        own = rows.new_empty(len(rows) // self.size, *rows.shape[1:])
        with self._counted(what, rows.nbytes, rows.device):
            _reduce_scatter(own, rows.contiguous())
        return own

    def dealt(self, pieces: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], what: str) -> list[Tensor]:
        """`pieces[i]` to process i; back comes one piece from each, of these shapes."""
        giving = torch.cat([piece.flatten() for piece in pieces])
        sizes = [torch.Size(shape).numel() for shape in shapes]
        taking = giving.new_empty(sum(sizes))
        with self._counted(what, giving.nbytes, giving.device):
            dist.all_to_all_single(taking, giving, sizes, [piece.numel() for piece in pieces])
        return [part.view(shape) for part, shape in zip(torch.split(taking, sizes), shapes, strict=True)]

    def hook(self, _state: None, bucket: GradBucket) -> Future[Tensor]:
        """For DistributedDataParallel: gradients are summed, not averaged, while the backward pass goes on.

        What its arithmetic waits for is the last bucket: the other layers' gradients went ahead of that.
        """
        buffer = bucket.buffer()
        self._count("gradients", 2 * buffer.nbytes)
        start = now(buffer.device) if self._waits is not None and bucket.is_last() else None
        future: Future[Tensor] = dist.all_reduce(buffer, async_op=True).get_future()

        def done(future: Future[list[Tensor]]) -> Tensor:
            if start is not None and self._waits is not None:
                self._waits.append((start, now(buffer.device)))
            return future.value()[0]

        return future.then(done)  # type: ignore[arg-type]

    def _count(self, what: str, size: int) -> None:
        self.sent[what] += size * (self.size - 1) // self.size

    @contextmanager
    def _counted(self, what: str, size: int, device: torch.device) -> Iterator[None]:
        self._count(what, size)
        start = now(device) if self._waits is not None else None
        yield
        if start is not None and self._waits is not None:
            self._waits.append((start, now(device)))
