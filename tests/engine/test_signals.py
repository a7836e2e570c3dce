"""What a second signal does, and that a scheduler's counts as one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import alexnet_cli
from alexnet_cli.engine.signals import STOPPING, Stop

BUSY = """
import time
from alexnet_cli.engine.signals import Stop
with Stop() as stop:
    print("ready", flush=True)
    asked = 0
    while True:
        time.sleep(0.01)
        if stop.signal and not asked:
            asked = stop.signal
            print(asked, flush=True)
"""


@pytest.fixture
def busy() -> Iterator["subprocess.Popen[str]"]:
    """A process that notes a signal and does not get round to stopping."""
    folder = str(Path(alexnet_cli.__file__).parents[1])
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": folder}
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def noted(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_a_second_ctrl_c_quits_at_once(busy: "subprocess.Popen[str]") -> None:
    busy.send_signal(signal.SIGINT)
    assert noted(busy) == signal.SIGINT
    time.sleep(1.1)
    busy.send_signal(signal.SIGINT)
    assert busy.wait(10) == 130


def test_who_goes_on_pressing_ctrl_c_is_heard(busy: "subprocess.Popen[str]") -> None:
    """Each within a second of the one before."""
    busy.send_signal(signal.SIGINT)
    assert noted(busy) == signal.SIGINT
    for _ in range(2):
        time.sleep(0.7)
        busy.send_signal(signal.SIGINT)
    assert busy.wait(10) == 130


def test_one_ctrl_c_that_comes_twice_is_one(busy: "subprocess.Popen[str]") -> None:
    busy.send_signal(signal.SIGINT)
    assert noted(busy) == signal.SIGINT
    busy.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        busy.wait(0.3)


@pytest.mark.parametrize("number", STOPPING)
def test_handlers_are_lent_and_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stop() as stop:
        assert stop.signal == 0
        signal.raise_signal(number)
        assert stop.signal == number
    assert signal.getsignal(number) is before
