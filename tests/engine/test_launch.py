"""What --device, --gpus and --processes mean."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from alexnet_cli.engine import parallel, placed
from alexnet_cli.engine.launch import Placement, placement, threads_per_rank
from alexnet_cli.errors import AlexNetError
from alexnet_cli.recipes import chosen
from alexnet_cli.runs import Machine

no_gpu = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="of a machine without a GPU"
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def refusal(device: str | None, gpus: str | None, processes: int | None = None) -> AlexNetError:
    with pytest.raises(AlexNetError) as caught:
        placement(device, gpus, processes)
    return caught.value


@pytest.mark.parametrize(
    ("gpus", "processes", "ranks"),
    [
        (None, None, 1),
        (None, 1, 1),
        (None, 3, 3),
        ("1", None, 1),
        ("2", None, 2),
        ("0,1,2", None, 3),
        ("0, 5", None, 2),
    ],
)
def test_on_the_cpu_a_rank_stands_for_a_gpu(gpus: str | None, processes: int | None, ranks: int) -> None:
    found = placement("cpu", gpus, processes)
    assert (found.device, found.ranks) == ("cpu", ranks)
    assert found.said == ("the CPU" if ranks == 1 else f"the CPU with {ranks} processes")


@no_gpu
def test_without_a_gpu_it_is_the_cpu_and_that_is_said() -> None:
    assert placement(None, None, None) == Placement("cpu", 1, "the CPU")
    assert placement(None, None, 2).ranks == 2


@no_gpu
@pytest.mark.parametrize(("gpus", "processes"), [("1", 1), ("2", 2), ("0,1", 2), ("3,4,5", 3)])
def test_gpus_that_are_not_there_name_the_cpu_way(gpus: str, processes: int) -> None:
    error = refusal(None, gpus)
    assert error.message == f"--gpus {gpus}: this machine has no usable GPUs"
    assert "--device cpu" in error.hint and f"makes that {processes} process" in error.hint
    assert placement("cpu", gpus, None).ranks == processes, "what the hint says works"


@no_gpu
def test_all_gpus_of_none() -> None:
    error = refusal(None, "all")
    assert error.message == "--gpus all: this machine has no usable GPUs" and "--device cpu" in error.hint


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_an_error(device: str) -> None:
    error = refusal(device, None)
    assert device in error.message and "--device cpu" in error.hint


@pytest.mark.parametrize("device", ["cpu", None])
@pytest.mark.parametrize("gpus", ["0", "-1", "two", "", "0,x", "1.5", ",", "0,,1", "0,0", "²", "9" * 30])
def test_a_count_a_list_or_all(device: str | None, gpus: str) -> None:
    error = refusal(device, gpus)
    assert error.message == f"--gpus {gpus}: not understood"
    assert error.hint == "give a count (2), a list (0,1) or all"


def test_an_unknown_device_names_the_known() -> None:
    error = refusal("tpu", None)
    assert error.message == "there is no device 'tpu'" and error.hint == "it is one of cpu, cuda, mps"


def test_processes_are_of_the_cpu() -> None:
    error = refusal("cuda", None, 2)
    assert "--processes" in error.message


def test_a_launchers_environment_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = placement("cpu", "2", None)
    assert (found.device, found.ranks) == ("cpu", 4)


# --- two GPUs for each process, on a machine that only says that it has some


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def has(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return has


def test_towers_have_gpus_in_pairs(gpus: Callable[[int], None]) -> None:
    gpus(4)
    assert placement(None, "4", None, "towers") == Placement("cuda", 2, "4 GPUs", 2)
    assert placement(None, None, None, "towers") == Placement("cuda", 1, "2 GPUs", 2)
    with pytest.raises(AlexNetError, match="--gpus 3: with --parallel towers they go in pairs"):
        placement(None, "3", None, "towers")
    assert placement("cpu", "4", None, "towers").ranks == 2
    gpus(1)
    with pytest.raises(AlexNetError, match=r"two GPUs are needed, and this machine has 1 usable GPU$"):
        placement(None, None, None, "towers")


@pytest.mark.parametrize(
    ("found", "beside", "hint"),
    [
        (6, 4, "start 3 here: torchrun --nproc-per-node 3"),
        (2, 2, "start 1 here: torchrun --nproc-per-node 1"),
        (1, 1, "take --parallel data, or --device cpu"),
    ],
)
def test_too_many_processes_for_the_gpus_name_the_right_number(
    gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, found: int, beside: int, hint: str
) -> None:
    gpus(found)
    for name, value in (("RANK", 0), ("WORLD_SIZE", beside), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", beside)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(AlexNetError, match=rf"with 2 GPUs each: this machine has {found}$") as caught:
        parallel.join("cuda", 2)
    assert caught.value.hint == hint


def test_each_process_has_the_next_two_or_those_that_slurm_lends_it_alone(
    gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [parallel._gpu(local, 2) for local in (0, 1)] == [0, 2]
    gpus(2)
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert parallel._gpu(1, 2) == 0


def test_a_run_of_towers_is_not_begun_with_one_gpu_for_each(gpus: Callable[[int], None]) -> None:
    net, machine = chosen("paper", []).network, Machine(parallel="towers")
    placed.check(machine, Placement("cuda", 2, "4 GPUs", 2), net)
    with pytest.raises(AlexNetError, match="two GPUs for each of 2 processes"):
        placed.check(machine, Placement("cuda", 2, "2 GPUs", 1), net)
    with pytest.raises(AlexNetError, match="--compile with --parallel towers: not both"):
        placed.check(replace(machine, compiled=True), Placement("cpu", 1, "the CPU", 2), net)
    gpus(1)
    with pytest.raises(AlexNetError, match="there is no second GPU for this process"):
        placed.tower_devices(torch.device("cuda", 0))


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_per_rank(1) == cores
    assert threads_per_rank(2) == max(1, cores // 2)
    assert threads_per_rank(64 * cores) == 1
    # Of eight ranks on four machines only two are here.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert threads_per_rank(8) == max(1, cores // 2)
