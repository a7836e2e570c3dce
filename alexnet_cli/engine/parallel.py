"""The ranks of one job, and what becomes of them when one is lost. With one rank there is nobody to talk to, and
everything here is skipped."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from alexnet_cli.engine.exchange import Exchange
from alexnet_cli.engine.launch import threads_per_rank
from alexnet_cli.errors import AlexNetError, LostProcess

T = TypeVar("T")

TIMEOUT = "ALEXNET_TIMEOUT"
"""Environment variable: so many seconds a process waits for the others before it gives up."""
DEFAULT_TIMEOUT = 600.0

ROLL_CALL = 5.0
"""Seconds in which those that are left answer each other."""


@dataclass(frozen=True)
class Ranks:
    rank: int
    size: int
    device: torch.device
    exchange: Exchange = field(default_factory=lambda: Exchange(1))
    store: PrefixStore | None = None
    """Where the processes of a job leave words for each other."""

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        return values if self.size == 1 else self.exchange.summed(values, "numbers")

    def told(self, what: T, by: int = 0) -> T:
        """What rank `by` says."""
        if self.size == 1:
            return what
        said = [what]
        dist.broadcast_object_list(said, by, device=self.device)
        return said[0]

    def collected(self, what: T) -> list[T]:
        """What each rank has, at the first of them; at the others nothing."""
        if self.size == 1:
            return [what]
        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(what, found)
        return found or []

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


ALONE = Ranks(0, 1, torch.device("cpu"))


def join(device_kind: str, each: int = 1) -> Ranks:
    """This process's place, with so many GPUs, in the job that a launcher started, or a job of its own."""
    size, rank, local = (int(os.environ.get(name, d)) for name, d in _VARIABLES)
    device = torch.device(device_kind)
    if device.type == "cuda":
        device = torch.device("cuda", _gpu(local, each))
        torch.cuda.set_device(device)
    if size == 1:
        return Ranks(rank, size, device)
    torch.set_num_threads(threads_per_rank(size))
    store = _met(rank, size, "nccl" if device.type == "cuda" else "gloo")
    return Ranks(rank, size, device, Exchange(size), store)


def _gpu(local: int, each: int) -> int:
    """The first GPU of this machine's process number `local`."""
    found, beside = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
    if found == each and "SLURM_LOCALID" in os.environ:  # lent to this process alone: srun --gpus-per-task
        return 0
    if found < each * beside:
        raise AlexNetError(
            f"{beside} process{'es' * (beside > 1)} with {each} GPU{'s' * (each > 1)} each: this machine has "
            f"{found}",
            f"start {found // each} here: torchrun --nproc-per-node {found // each}"
            if found >= each
            else "take --parallel data, or --device cpu",
        )
    return each * local


def _met(rank: int, size: int, backend: str) -> PrefixStore:
    """Wait for the other processes, and be one of a group with them."""
    wait = timedelta(seconds=timeout())
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    try:
        store, _, _ = next(iter(rendezvous("env://", rank, size, timeout=wait)))
        of_group = PrefixStore("group", store)
        dist.init_process_group(backend, store=of_group, rank=rank, world_size=size, timeout=wait)
    except (dist.DistError, RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "in use" in str(error):
            raise AlexNetError(
                f"port {port} of this machine is taken, by another training perhaps",
                "name a free one: MASTER_PORT, or torchrun --master-port",
            ) from error
        raise AlexNetError(
            f"process {rank} of {size} has not met the others at {host}:{port}: {str(error).splitlines()[0]}",
            "were all started, at one address and port? ALEXNET_TIMEOUT says for how many seconds each waits",
        ) from error
    return PrefixStore("alexnet", store)


def timeout() -> float:
    """Seconds."""
    text = os.environ.get(TIMEOUT, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise AlexNetError(f"{TIMEOUT}={text}: not a number of seconds", "600 is usual")
    return seconds


@contextmanager
def joined(device_kind: str, each: int = 1) -> Iterator[Ranks]:
    """Be a part of the job, and leave it in the end; where another is lost say so."""
    ranks = join(device_kind, each)
    with together(ranks):
        yield ranks
    leave()
    if ranks.size > 1:  # a launcher ends all as soon as one leaves with an error, those that are done too
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Where an exchange fails, say which of the processes is missing."""
    try:
        yield
    except RuntimeError as error:
        if ranks.size == 1 or not _of_an_exchange(error):
            raise
        missing = _missing(ranks)
        who = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))}" if missing else "one"
        raise LostProcess(
            f"{who} of {ranks.size} has ended or stands still, and process {ranks.rank} cannot go on alone",
            "the same command goes on, a training from its last checkpoint; processes wait for each other for "
            f"{timeout():g} seconds, {TIMEOUT}",
        ) from error


def _of_an_exchange(error: RuntimeError) -> bool:
    words = ("gloo", "NCCL", "ProcessGroup", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _missing(ranks: Ranks) -> list[int]:
    """Who does not answer a roll call. Our connections are closed first, so that nobody goes on waiting for us."""
    assert ranks.store is not None
    leave()
    names = [f"here/{rank}" for rank in range(ranks.size)]
    try:
        ranks.store.set(names[ranks.rank], "")
        end = time.monotonic() + ROLL_CALL
        while time.monotonic() < end and not ranks.store.check(names):
            time.sleep(0.1)
        return [rank for rank, name in enumerate(names) if not ranks.store.check([name])]
    except RuntimeError:  # what keeps the words is gone itself: process 0, unless it is torchrun's agent
        return [] if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else [0]


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


_VARIABLES = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))
