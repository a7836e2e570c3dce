"""Where a command runs: which devices, how many processes, and starting those."""

import os
import sys
import uuid
from dataclasses import dataclass

import torch

from alexnet_cli.errors import AlexNetError

DEVICES = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class Placement:
    device: str
    ranks: int
    said: str
    """The choice in words, for the user."""


def placement(device: str | None, gpus: str | None, processes: int | None) -> Placement:
    """What `--device`, `--gpus` (a count, a list as 0,1 or `all`) and `--processes` mean on this machine."""
    if device is not None and device not in DEVICES:
        raise AlexNetError(f"there is no device '{device}'", f"it is one of {', '.join(DEVICES)}")
    if launched():
        kind, ranks = device or _best_device(), int(os.environ["WORLD_SIZE"])
        return Placement(kind, ranks, f"{ranks} × {kind}")
    if device == "cpu" or (device is None and gpus is None and _best_device() == "cpu"):
        count = processes or _gpu_count(gpus) or 1
        return Placement("cpu", count, "the CPU" + (f" with {count} processes" if count > 1 else ""))
    if device == "mps" or (device is None and gpus is None and _best_device() == "mps"):
        return Placement("mps", 1, "the Apple GPU")
    return _on_gpus(gpus)


def launched() -> bool:
    """Whether a launcher (ours, torchrun or Slurm's) started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _on_gpus(gpus: str | None) -> Placement:
    found = torch.cuda.device_count()
    if gpus is None or gpus == "all":
        chosen = list(range(1 if gpus is None else found))
    elif "," in gpus:
        chosen = [int(part) for part in gpus.split(",") if part.strip().isdigit()]
    else:
        chosen = list(range(_gpu_count(gpus) or 0))
    if not chosen or max(chosen) >= found:
        wanted = gpus or "1"
        raise AlexNetError(
            f"--gpus {wanted}: this machine has {found or 'no'} usable GPU{'s' * (found != 1)}",
            f"to train on the CPU with {wanted} processes: ALEXNET_DEVICE=cpu alexnet train --gpus {wanted}",
        )
    if len(chosen) != max(chosen) + 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, chosen))
    return Placement("cuda", len(chosen), f"{len(chosen)} GPU{'s' * (len(chosen) > 1)}")


def _gpu_count(gpus: str | None) -> int | None:
    """How many devices `--gpus` names, when that does not depend on the machine."""
    if gpus is None or gpus == "all":
        return None
    parts = [part.strip() for part in gpus.split(",")]
    if not all(part.isdigit() for part in parts) or (len(parts) == 1 and int(parts[0]) < 1):
        raise AlexNetError(f"--gpus {gpus}: not understood", "give a count (2), a list (0,1) or all")
    return int(parts[0]) if len(parts) == 1 else len(parts)


def relaunch(ranks: int) -> int:
    """Run this same command line as `ranks` processes under PyTorch's elastic launcher; its exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # a free port
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "alexnet_cli", *sys.argv[1:])
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return next((code for code in codes if code > 0), 1)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def threads_per_rank(ranks: int) -> int:
    """Arithmetic threads for each process of this machine, so that several do not crowd each other out."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return max(1, len(os.sched_getaffinity(0)) // local)
