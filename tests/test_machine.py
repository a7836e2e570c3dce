import ctypes
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from alexnet_cli import machine

FAULTS = """
import resource, torch
from alexnet_cli.machine import keep_freed_memory
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(100_000_000, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(20):  # at first a small block may lie where the next large one would fit
    faults()
print(faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc")
@pytest.mark.parametrize("call, kept", [("keep_freed_memory()", True), ("", False)])
def test_freed_memory_is_used_again_without_being_mapped_again(call, kept):
    program = FAULTS.format(call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # 100 MB are 24,415 pages of 4 kB, or 49 huge ones where the system gives those of itself.
    assert (int(done.stdout) < 10) is kept, done


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, (0, 1, 8)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, (3, 8, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1, 8)),  # a batch script, before srun
        (
            {
                "SLURM_PROCID": "2",
                "SLURM_STEP_NUM_TASKS": "6",
                "SLURM_STEP_TASKS_PER_NODE": "3(x2)",
                "SLURM_CPUS_ON_NODE": "6",
            },
            (2, 6, 2),
        ),
    ],
)
def test_the_place_in_a_job(variables, expected, monkeypatch):
    with placed_by(monkeypatch, variables):
        assert machine.job() == machine.Job(*expected)


@contextmanager
def placed_by(monkeypatch, variables):
    """The environment of a launcher, on a machine with eight cores, as it was before in the end."""
    launchers = ("SLURM_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "ALEXNET_SLURM")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    monkeypatch.setattr(machine, "cores", lambda: 8)
    with patch.dict(os.environ, kept | variables, clear=True):
        yield


@pytest.mark.parametrize(
    "tasks, nodes, node, beside, first",
    [
        ("4(x2),3", "gpu[003-004,010]", 0, 4, "gpu003"),
        ("4(x2),3", "gpu[003-004,010]", 1, 4, "gpu003"),
        ("4(x2),3", "a1,gpu[003-004]", 2, 3, "a1"),
        ("2,1", "gpu[7,9].cluster,b", 1, 1, "gpu7.cluster"),
        ("8", "alone", 0, 8, "alone"),
    ],
)
def test_srun_is_adopted_under_torchruns_names(tasks, nodes, node, beside, first, monkeypatch):
    variables = {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": str(node),
        "SLURM_STEP_NUM_TASKS": "11",
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_JOB_ID": "4100042",
    }
    with placed_by(monkeypatch, variables):
        machine.adopt_slurm()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        assert [os.environ[name] for name in names] == ["5", "11", "1", str(beside), first, "20042"]


def test_torchrun_started_by_srun_is_torchruns(monkeypatch):
    torchrun = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}
    srun = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_CPUS_ON_NODE": "8"}
    with placed_by(monkeypatch, torchrun | srun):
        assert machine.job() == machine.Job(9, 16, 1)
        assert os.environ["LOCAL_RANK"] == "1" and "MASTER_ADDR" not in os.environ


def test_signals_are_given_back():
    before = signal.getsignal(signal.SIGUSR1)
    heard = []
    with machine.signals_handled([signal.SIGUSR1], lambda number, _: heard.append(number)):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert heard == [signal.SIGUSR1] and signal.getsignal(signal.SIGUSR1) is before


def test_a_limit_of_a_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/cgroup").exists():
        pytest.skip("this system has no control groups")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    assert machine._free_in_groups() == []
    for name, text in {"max": "5000\n", "current": "3000\n", "stat": "anon 900\ninactive_file 700\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert machine._free_in_groups() == [2700] and machine.free_memory() == 2700
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._free_in_groups() == []
