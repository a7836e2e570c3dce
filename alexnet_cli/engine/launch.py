"""Where a command runs: which devices, how many processes, and starting those."""

import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_cli.engine.signals import STOPPING
from alexnet_cli.errors import REPORTS, AlexNetError
from alexnet_cli.machine import adopt_slurm, cores, job
from alexnet_cli.runs import Parallel

DEVICES = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class Placement:
    device: str
    ranks: int
    said: str
    """The choice in words, for the user."""
    each: int = 1
    """GPUs of a process."""


def placement(
    device: str | None, gpus: str | None, processes: int | None, parallel: Parallel | None = None
) -> Placement:
    """What `--device`, `--gpus` (a count, a list as 0,1 or `all`) and `--processes` mean on this machine.

    With `towers` a process has two GPUs.
    """
    each = 2 if parallel == "towers" else 1
    if device is not None and device not in DEVICES:
        raise AlexNetError(f"there is no device '{device}'", f"it is one of {', '.join(DEVICES)}")
    if launched():
        kind, ranks = device or _best_device(), int(os.environ["WORLD_SIZE"])
        return Placement(kind, ranks, f"{ranks} × {kind}", each)
    chosen = _chosen(gpus)
    if chosen and len(chosen) % each:
        raise AlexNetError(f"--gpus {gpus}: with --parallel towers they go in pairs", "give an even number")
    kind = device or ("cuda" if gpus is not None or each > 1 else _best_device())
    if kind == "cpu":
        count = processes or len(chosen or "1" * each) // each
        return Placement("cpu", count, "the CPU" + (f" with {count} processes" if count > 1 else ""), each)
    if processes is not None:
        raise AlexNetError("--processes is for the CPU", "add --device cpu, or say --gpus instead")
    if kind == "mps" and (len(chosen or "1") > 1 or each > 1):
        said = f"--gpus {gpus}" if each == 1 else "--parallel towers"
        raise AlexNetError(f"{said}: with mps there is one GPU", "leave it away")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise AlexNetError("--device mps: this machine has no usable Apple GPU", "use the CPU: --device cpu")
        return Placement("mps", 1, "the Apple GPU")
    return _on_gpus(gpus, chosen, each)


def device(name: str | None) -> torch.device:
    """The one device that a command without ranks of its own works on."""
    return torch.device(placement(name, None, None).device)


def launched() -> bool:
    """Whether a launcher (ours, torchrun or srun) started this process as one of several."""
    adopt_slurm()
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _on_gpus(gpus: str | None, chosen: list[int] | None, each: int) -> Placement:
    found = torch.cuda.device_count()
    chosen = chosen or list(range(each if gpus is None else found - found % each))
    if gpus is None and each > 1 and found < each:
        raise AlexNetError(
            f"--parallel towers: two GPUs are needed, and this machine has {found or 'no'} usable "
            f"GPU{'s' * (found != 1)}",
            "--parallel towers --device cpu computes both halves on the CPU",
        )
    if not chosen or max(chosen) >= found:
        count, said = len(chosen) // each, "--device cuda" if gpus is None else f"--gpus {gpus}"
        raise AlexNetError(
            f"{said}: this machine has {found or 'no'} usable GPU{'s' * (found != 1)}",
            "use the CPU: --device cpu"
            if gpus in (None, "all")
            else f"--device cpu beside it makes that {count} process{'es' * (count > 1)} on the CPU",
        )
    if chosen != list(range(len(chosen))):
        # A scheduler may have lent some of the machine's GPUs only: ours are counted among those.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        lent = visible.split(",") if visible else [str(n) for n in range(found)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lent[n] for n in chosen)
    return Placement("cuda", len(chosen) // each, f"{len(chosen)} GPU{'s' * (len(chosen) > 1)}", each)


def _chosen(gpus: str | None) -> list[int] | None:
    """The devices that `--gpus` names, or None when that depends on the machine."""
    if gpus is None or gpus == "all":
        return None
    parts = [part.strip() for part in gpus.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal()]
    chosen = numbers if len(parts) > 1 else list(range(min(*numbers, 1025))) if numbers else []
    if not 0 < len(chosen) <= 1024 or len(set(chosen)) < len(parts):
        raise AlexNetError(f"--gpus {gpus}: not understood", "give a count (2), a list (0,1) or all")
    return chosen


def relaunch(ranks: int) -> int:
    """Run this same command line as `ranks` processes under PyTorch's elastic launcher; its exit code.

    When a rank fails the others lose it and fail too; the error that was the cause is raised here, once.
    """
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
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",  # the last is Slurm's
    )
    # Between a signal and a kill there must be time for a step, a validation and a checkpoint.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "900")
    logging.disable(logging.ERROR)  # the launcher's own account of the failure, which says nothing of the cause
    with tempfile.TemporaryDirectory(prefix="alexnet-") as reports:
        os.environ[REPORTS] = reports
        try:
            elastic_launch(config, sys.executable)("-m", "alexnet_cli", *sys.argv[1:])
        except ChildFailedError as error:
            # The launcher itself kills who has not stopped in 30 s, because it stands still: not what happened.
            first = min(failure.timestamp for failure in error.failures.values())
            ended = {rank: failure for rank, failure in error.failures.items() if failure.timestamp < first + 20}
            codes = {rank: failure.exitcode for rank, failure in ended.items()}
            code = min((code for code in codes.values() if code > 0), default=1)
            return _show_cause(Path(reports), codes, ranks) or code
        except SignalException as error:
            return 128 + int(error.sigval)
        finally:
            del os.environ[REPORTS]
    return 0


def _show_cause(reports: Path, codes: dict[int, int], ranks: int) -> int:
    """Raise the first mistake that a rank reported, or that one was killed; else show the first traceback.

    Without these, what the others say of it. 0 if they say nothing.
    """
    found = [
        json.loads(path.read_text()) for path in sorted(reports.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    ]
    told = [report for report in found if "message" in report]
    lost = [report for report in told if report.pop("lost")]
    # By a signal: the launcher's own, when one of them fails.
    stopped = [report for report in told if report["exit_code"] > 128]
    mistakes = [report for report in told if report not in lost + stopped]
    # Not by the launcher: it asks the others to stop, by SIGTERM.
    crashed = [(rank, -code) for rank, code in codes.items() if code < 0 and -code not in STOPPING]
    tracebacks = [report for report in found if "traceback" in report]
    if crashed and not mistakes:
        raise _crash(*crashed[0], ranks)
    if tracebacks and not mistakes:
        sys.stderr.write(f"process {tracebacks[0]['rank']} of {ranks}:\n{tracebacks[0]['traceback']}")
        return 1
    silent = any(0 < code < 128 for code in codes.values())  # one that had nothing to say: a pipe that was closed
    for report in mistakes + lost + ([] if silent else stopped):
        raise AlexNetError(**report)
    return 0


def _crash(rank: int, number: int, ranks: int) -> AlexNetError:
    killed = number == signal.SIGKILL
    what = "was killed" if killed else f"crashed: {signal.strsignal(number) or f'signal {number}'}"
    why = "was the machine out of memory?" if killed else "a library has a fault, or the machine."
    goes_on = "The same command goes on, a training from its last checkpoint"
    return AlexNetError(f"process {rank} of {ranks} {what}", f"{why} {goes_on}")


def threads_per_rank(ranks: int) -> int:
    """Arithmetic threads for each process of this machine, so that several do not crowd each other out."""
    return job().cores if "LOCAL_WORLD_SIZE" in os.environ else max(1, cores() // ranks)
