"""Decoders that crash or never return, in processes of their own: the tests' decoder does so when told."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import PngImagePlugin

from alexnet_cli.dataset.manifest import open_dataset
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.recognise import open_source

from .conftest import photograph

# A spawned worker runs the main module of its parent first, under another name: the change reaches both.
RUN = """
import os
import signal
import sys
import time
from alexnet_cli.dataset import images, workers

whole = images.opened

def opened(data):
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL):
        if b"die " + number.name.encode() in data:
            os.kill(os.getpid(), number)
    if b"never return" in data:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        time.sleep(1000)
    return whole(data)

images.opened = opened

from alexnet_cli.dataset import shards

shards.PICTURES_PER_SHARD = 8
workers.run_with.__defaults__ = (float(os.environ["SECONDS"]),)

if __name__ == "__main__":
    from alexnet_cli.cli import main

    sys.argv[0] = "alexnet"
    main()
"""


def picture(path: Path, number: int, word: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PngImagePlugin.PngInfo()
    if word:
        text.add_text("comment", word)
    photograph(number, 40, 50).save(path, pnginfo=text)


def source(folder: Path, words: dict[int, str]) -> Path:
    """Twelve pictures to train on and four to validate, some with a word for the decoder."""
    for number in range(16):
        split, name = ("train", "cat") if number < 12 else ("val", "cat")
        picture(folder / split / name / f"{number:02d}.png", number, words.get(number, ""))
    return folder


class Run:
    def __init__(self, folder: Path, *arguments: object, seconds: float = 30) -> None:
        script = folder / "run.py"
        script.write_text(RUN)
        self.process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "SECONDS": str(seconds)},
            start_new_session=True,
        )

    def end(self, seconds: float = 120) -> tuple[int, str, str]:
        try:
            said, complaint = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            said, complaint = self.process.communicate()
            pytest.fail(f"no end\n{said}\n{complaint}")
        return self.process.returncode, said, complaint


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_decoder_that_crashes_or_hangs_costs_its_picture(tmp_path: Path) -> None:
    words = {2: "die SIGSEGV", 5: "never return", 9: "die SIGABRT"}
    pictures = source(tmp_path / "pictures", words)
    run = Run(tmp_path, "prepare", pictures, "--max-rejects", 0.5, "--workers", 1, seconds=2)
    code, _, complaint = run.end()
    assert code == 0 and "Traceback" not in complaint, complaint
    rejects = json.loads((tmp_path / "dataset/manifest.json").read_text())["splits"]["train"]["rejects"]
    assert {reject["name"]: reject["reason"] for reject in rejects} == {
        "train/cat/02.png": "the decoder crashed (SIGSEGV)",
        "train/cat/05.png": "the decoder did not return within 2 s",
        "train/cat/09.png": "the decoder crashed (SIGABRT)",
    }
    assert len(open_dataset(tmp_path / "dataset").splits["train"].index) == 9
    assert not [path for path in (tmp_path / "dataset").iterdir() if path.name.startswith(".")]
    wait_for(lambda: not left(run.process.pid))
    # The others are as they would be had these three been damaged.
    for number in words:
        (pictures / f"train/cat/{number:02d}.png").write_bytes(b"damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet_cli.dataset.shards.PICTURES_PER_SHARD", 8)
        list(prepare(open_source(str(pictures)), tmp_path / "same", max_rejects=0.5))
    for name in ("train-000000.tar", "train-000001.tar", "mean.npy", "train-index.npy", "val-000000.tar"):
        assert (tmp_path / "dataset" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


def test_a_worker_that_the_system_kills_is_an_error(tmp_path: Path) -> None:
    pictures = source(tmp_path / "pictures", {2: "die SIGKILL"})
    code, _, complaint = Run(tmp_path, "prepare", pictures, "--workers", 1).end()
    assert code == 1 and "a worker died while at shard train-00000" in complaint
    assert "(exit code -9)" in complaint and "out of memory" in complaint and "Traceback" not in complaint


def test_a_library_that_crashes_at_everything_ends_the_run(tmp_path: Path) -> None:
    pictures = source(tmp_path / "pictures", dict.fromkeys(range(16), "die SIGSEGV"))
    script = RUN.replace("if __name__", "workers.MOST_LOST = 1\nif __name__", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "RUN", script)
        code, _, complaint = Run(tmp_path, "prepare", pictures, "--workers", 1).end()
    assert code == 1 and "the decoder crashed at 2 pictures of train-000000" in complaint


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_a_signal_stops_a_run_whose_decoder_hangs(tmp_path: Path, number: signal.Signals) -> None:
    pictures = source(tmp_path / "pictures", {14: "never return"})  # in val, which comes last
    run = Run(tmp_path, "prepare", pictures, "--workers", 1)
    wait_for((tmp_path / "dataset/.unfinished/train-000001.npz").exists)
    time.sleep(0.3)
    started = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(run.process.pid, number)
    assert run.process.stderr
    heard = ""
    while "stopped by" not in heard and (line := run.process.stderr.readline()):
        heard += line
    assert time.monotonic() - started < 2
    code, said, complaint = run.end()
    complaint = heard + complaint
    assert time.monotonic() - started < 5  # what is over, libraries take to leave a busy machine
    assert code == 128 + number and said == "" and "Traceback" not in complaint
    assert f"stopped by {number.name}: 2 of 3 shards are finished and kept" in complaint
    wait_for(lambda: not left(run.process.pid), 5)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's doing")
def test_a_worker_that_hangs_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    pictures = source(tmp_path / "pictures", {14: "never return"})
    run = Run(tmp_path, "prepare", pictures, "--workers", 1)
    wait_for((tmp_path / "dataset/.unfinished/train-000001.npz").exists)
    time.sleep(0.3)
    run.process.kill()
    run.end()
    wait_for(lambda: not left(run.process.pid), 5)


def test_a_signal_while_the_source_is_listed(tmp_path: Path) -> None:
    pictures = source(tmp_path / "pictures", {})
    slow = "import time\nfrom alexnet_cli.dataset.sources import recognise\n"
    slow += "def slow(*_): open('listing', 'w').close(); time.sleep(1000)\nrecognise.open_source = slow\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "RUN", RUN.replace("if __name__", slow + "if __name__", 1))
        run = Run(tmp_path, "prepare", pictures)
    wait_for((tmp_path / "listing").exists)
    started = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    code, said, complaint = run.end()
    assert time.monotonic() - started < 5  # two on an idle machine, half of it to leave Python
    assert (code, said, complaint) == (143, "", "error: stopped\n")
