"""The ranks of one job. With one rank there is nobody to talk to, and everything here is skipped."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    rank: int
    size: int
    device: torch.device

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the ranks in the backward pass."""
        return nn.parallel.DistributedDataParallel(model) if self.size > 1 else model

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so: what all must do together, they must agree on."""
        return flag if self.size == 1 else bool(self.summed(torch.tensor(int(flag), device=self.device)))

    def told(self, text: str) -> str:
        """What rank 0 says."""
        if self.size == 1:
            return text
        said = [text]
        dist.broadcast_object_list(said, 0, device=self.device)
        return said[0]

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def join(device_kind: str) -> Ranks:
    """This process's place in the job that a launcher started, or a job of its own."""
    size, rank, local = (int(os.environ.get(name, d)) for name, d in _VARIABLES)
    device = torch.device(f"cuda:{local}" if device_kind == "cuda" else device_kind)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(rank, size, device)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


_VARIABLES = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))
