"""When one of a job's processes dies, stands still or cannot begin: all end, one message, nothing lost."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from alexnet_cli import runs
from alexnet_cli.engine import parallel
from alexnet_cli.engine.launch import _show_cause
from alexnet_cli.errors import AlexNetError

from .on_ranks import Command, ended, free_port, started

Run = Callable[..., Any]

TRAIN = ("train", "--recipe", "small", "--set", "width=0.05", "--batch-size", "8", "--device", "cpu")
LONG = (*TRAIN, "--epochs", "1000", "--eval-every", "1000", "--save-every", "5steps")


def wait_for_steps(count: int, alive: Callable[[], bool]) -> None:
    log = Path("runs/small-1/metrics.jsonl")
    while alive() and not (log.exists() and log.read_bytes().count(b"\n") >= count):
        time.sleep(0.01)
    assert alive()


def children(pid: int) -> dict[int, int]:
    """The processes of a launcher by their rank."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        variables = dict(
            v.split("=", 1) for v in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in v
        )
        if "RANK" in variables:
            found[int(variables["RANK"])] = int(child)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="of Linux")
def test_a_killed_rank_ends_the_job_and_the_same_command_goes_on(place: Path, spawn: Run, alexnet: Run) -> None:
    command = spawn(*LONG, "--processes", 2)
    wait_for_steps(7, lambda: command.process.poll() is None)
    os.kill(children(command.process.pid)[1], signal.SIGKILL)
    outcome = command.outcome().failed("process 1 of 2 was killed", "The same command goes on")
    assert outcome.err.count("error:") == 1
    saved = runs.checkpoint_header(place / "runs/small-1/last.safetensors")["steps"]
    assert saved >= 5
    outcome = alexnet(*LONG, "--max-steps", saved + 2).succeeded()
    assert f"from step {saved}" in outcome.err
    assert [path.name for path in Path("runs").iterdir()] == ["small-1"]


class Hasty(Command):
    """Those that are left wait a second for each other's answer, not five."""

    def __call__(self) -> None:
        parallel.ROLL_CALL = 1.0
        super().__call__()


@pytest.mark.usefixtures("place")
def test_a_rank_that_stands_still_is_named() -> None:
    with started(2, Hasty([*LONG]), ALEXNET_TIMEOUT="2") as (first, second):
        wait_for_steps(7, first.is_alive)
        assert second.pid is not None
        os.kill(second.pid, signal.SIGSTOP)
        assert ended([first], 60) == [1]
    said = Path("stderr-0").read_text()
    assert "error: process 1 of 2 has ended or stands still, and process 0 cannot go on alone" in said
    assert "2 seconds, ALEXNET_TIMEOUT" in said and "Traceback" not in said
    assert load_file("runs/small-1/last.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="of Linux")
@pytest.mark.usefixtures("place")
def test_a_rank_that_stands_still_was_not_killed_though_the_launcher_kills_it(spawn: Run) -> None:
    command = spawn(*LONG, "--processes", 2, ALEXNET_TIMEOUT="2")
    wait_for_steps(7, lambda: command.process.poll() is None)
    os.kill(children(command.process.pid)[1], signal.SIGSTOP)
    command.outcome().failed("process 1 of 2 has ended or stands still, and process 0 cannot go on", "2 seconds")


def test_a_shard_that_is_gone_for_one_rank(place: Path, tiny: Path) -> None:
    broken = place / "other"
    (broken / "dataset").mkdir(parents=True)
    for path in tiny.iterdir():
        if not path.name.startswith("train-") or path.suffix != ".tar":
            (broken / "dataset" / path.name).symlink_to(path)
    command = Command([*LONG, "--runs", str(place / "runs")])
    with started(3, command, [place, broken, place], ALEXNET_TIMEOUT="3") as jobs:
        assert ended(jobs, 60) == [1, 1, 1]
    said = [(folder / f"stderr-{rank}").read_text() for rank, folder in enumerate([place, broken, place])]
    assert "train-000000.tar" in said[1] and "(process 1 of 3)" in said[1]
    for rank in (0, 2):
        assert f"error: process {rank} of 3 has not met the others at 127.0.0.1:" in said[rank]
    assert not any("Traceback" in text for text in said)


@pytest.mark.usefixtures("place")
def test_a_port_that_is_taken() -> None:
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        started(2, Command(TRAIN), port=port, ALEXNET_TIMEOUT="2") as jobs,
    ):
        assert ended(jobs[:1], 60) == [1]  # the other is left to a launcher: it may have met a stranger
    assert f"error: port {port} of this machine is taken" in Path("stderr-0").read_text()
    assert "hint: name a free one: MASTER_PORT" in Path("stderr-0").read_text()
    assert "Traceback" not in Path("stderr-0").read_text()


@pytest.mark.usefixtures("place")
def test_a_timeout_that_is_none(alexnet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("ALEXNET_TIMEOUT", "soon")):
        monkeypatch.setenv(name, value)
    alexnet(*TRAIN).failed("ALEXNET_TIMEOUT=soon: not a number of seconds", "600")


# --- of several reports, the cause

KILLED, MISTAKE = -signal.SIGKILL, 1


def report(message: str, exit_code: int = 1, lost: bool = False) -> dict[str, Any]:
    return {"message": message, "hint": "", "exit_code": exit_code, "lost": lost}


@pytest.mark.parametrize(
    ("reports", "codes", "message"),
    [
        ([report("gone", lost=True), report("cause")], {0: 1, 1: 1}, "cause"),
        ([report("stopped", 143), report("cause")], {0: 143, 1: 1}, "cause"),
        ([report("gone", lost=True)], {1: KILLED}, "process 1 of 2 was killed"),
        ([report("stopped", 143)], {0: 143, 1: -signal.SIGSEGV}, "process 1 of 2 crashed: Segmentation fault"),
        ([report("gone", lost=True)], {0: 1}, "gone"),
        ([report("stopped", 143)], {0: 143}, "stopped"),
    ],
)
def test_the_cause_is_told_and_not_what_it_led_to(
    reports: list[dict[str, Any]], codes: dict[int, int], message: str, tmp_path: Path
) -> None:
    for number, found in enumerate(reports):
        (tmp_path / f"{number}.json").write_text(json.dumps(found))
        os.utime(tmp_path / f"{number}.json", (number, number))
    with pytest.raises(AlexNetError) as caught:
        _show_cause(tmp_path, codes, 2)
    assert caught.value.message == message


def test_a_traceback_is_shown_once_with_its_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"traceback": "Traceback: a bug\n", "rank": "1"}
    (tmp_path / "1.json").write_text(json.dumps(found))
    (tmp_path / "0.json").write_text(json.dumps(report("gone", lost=True)))
    assert _show_cause(tmp_path, {0: 1, 1: 1}, 2) == 1
    assert capsys.readouterr().err == "process 1 of 2:\nTraceback: a bug\n"
