"""Two agents of torchrun, as on two machines, here over the loopback: one is killed and started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import alexnet_cli

from .on_ranks import free_port, on_ranks

TRAIN = ("train", "--recipe", "small", "--set", "width=0.05", "--batch-size", "8", "--device", "cpu")
STEPS = 150
LONG = (*TRAIN, "--lr", "0.001", "--eval-every", "1000", "--save-every", "10steps", "--max-steps", str(STEPS))


class Agents:
    def __init__(self) -> None:
        self.port, self.running = free_port(), list[subprocess.Popen[bytes]]()

    def start(self, name: str, is_host: bool) -> subprocess.Popen[bytes]:
        launch = ("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", "127.0.0.1")
        meet = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{self.port}", "--rdzv-id", "pair")
        # The lost one must be known as such before the other comes back from its error, a few seconds later.
        beats = f"keep_alive_interval=1,keep_alive_max_attempt=2,is_host={is_host}"
        torchrun = (sys.executable, "-m", "torch.distributed.run", *launch, *meet)
        package = str(Path(alexnet_cli.__file__).parents[1])
        # An agent that came to a second round would wait for an address that the first gives in the first round
        # only: torch keeps it (dynamic_rendezvous.py of 2.14; pytorch/pytorch#147064), unless this is set.
        variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": package}
        with Path(f"{name}.txt").open("wb") as said:
            process = subprocess.Popen(
                [*torchrun, "--rdzv-conf", beats, "-m", "alexnet_cli", *LONG],
                stdout=said, stderr=said, start_new_session=True, env={**os.environ, **variables},
            )  # fmt: skip
        self.running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """The agent and its workers at once, as when a machine loses its power; torchrun gives workers groups."""
        for worker in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(worker), signal.SIGKILL)
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="of Linux")
def test_a_machine_that_is_lost_and_comes_back_rejoins(place: Path) -> None:
    assert on_ranks(2, *LONG, "--runs", "undisturbed", LOCAL_WORLD_SIZE="1") == [0, 0]
    agents, log = Agents(), Path("runs/small-1/metrics.jsonl")
    try:
        first, second = agents.start("first", True), agents.start("second", False)
        while first.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 40):
            time.sleep(0.05)
        agents.kill(second)
        before = log.read_bytes().count(b"\n")
        assert 40 < before < STEPS
        time.sleep(2)
        third = agents.start("third", False)
        assert [first.wait(240), third.wait(60)] == [0, 0], Path("first.txt").read_text()
    finally:
        for process in agents.running:
            if process.poll() is None:
                agents.kill(process)
    assert [path.name for path in Path("runs").iterdir()] == ["small-1"]
    said = Path("first.txt").read_text()
    assert "has ended or stands still" in said and "from step" in said
    ours, theirs = (load_file(place / folder / "small-1/last.safetensors") for folder in ("runs", "undisturbed"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
