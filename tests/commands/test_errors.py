"""The one door: a message and a hint on stderr, an exit code, and never a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import alexnet_cli

Run = Callable[..., Any]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_dataset(nowhere: Path, alexnet: Run) -> None:
    for command in ("train", "eval"):
        alexnet(command).failed("there is no dataset in dataset", "make one: alexnet prepare SOURCE --out dataset")
    alexnet("train", "--data", "else").failed("there is no dataset in else", "alexnet prepare SOURCE --out else")
    assert not list(nowhere.iterdir())


def test_a_folder_that_may_not_be_written(nowhere: Path, alexnet: Run, disk: Callable[[Path, str], Path]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk(nowhere / "closed", "1m")], check=True)
    alexnet("demo", "--out", "closed/demo").failed("closed/demo", "see to its permissions")


@pytest.mark.usefixtures("place")
def test_no_run(pictures: Path, alexnet: Run) -> None:
    for command in (("eval",), ("predict", pictures / "val" / "bars" / "0.png")):
        alexnet(*command).failed("there is no trained run in runs", "train one with `alexnet train`")
        alexnet(*command, "--runs", "else").failed("there is no trained run in else", "alexnet train")


def test_a_run_without_a_checkpoint(trained: Path, alexnet: Run) -> None:
    for name in ("last", "best"):
        (trained / f"{name}.safetensors").unlink()
    alexnet("eval", trained).failed("the run runs/small-1 has no checkpoint yet", "let it train")
    alexnet("eval").failed("there is no trained run in runs", "alexnet train")


@pytest.mark.usefixtures("nowhere")
def test_an_empty_folder(alexnet: Run) -> None:
    Path("empty").mkdir()
    Path("bare/train").mkdir(parents=True)
    alexnet("prepare", "empty").failed("empty is an empty folder", "train/<class>")
    alexnet("prepare", "bare").failed("no pictures in class folders", "train/<class>")
    alexnet("prepare", "absent").failed("absent does not exist", "torchvision:NAME")
    assert not Path("dataset").exists()


@pytest.mark.usefixtures("nowhere")
def test_pictures_that_are_none(alexnet: Run) -> None:
    folder = Path("photos/cat")
    folder.mkdir(parents=True)
    Image.new("RGB", (30, 30)).save(folder / "good.png")
    (folder / "bad.jpg").write_text("no picture")
    outcome = alexnet("prepare", "photos", "--val-fraction", 0)
    outcome.failed("1 of 2 pictures cannot be used, more than --max-rejects 0.01 allows", "larger --max-rejects")
    assert "cat/bad.jpg: " in outcome.err
    alexnet("train").failed("the dataset in dataset is unfinished", "give the same `alexnet prepare` again")


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_picture_that_is_none(alexnet: Run, json_too: tuple[str, ...]) -> None:
    Path("cat.jpg").write_text("no picture")
    outcome = alexnet("predict", "cat.jpg", *json_too)
    assert outcome.code == 1 and "Traceback" not in outcome.err
    assert "error: cat.jpg cannot be used: " in outcome.err and "\nhint: give a whole JPEG, PNG" in outcome.err
    assert outcome.out == "" or json.loads(outcome.out)["pictures"] == []
    assert bool(outcome.out) == bool(json_too)
    Path("folder").mkdir()
    assert "error: there are no pictures in folder" in alexnet("predict", "folder").err


@pytest.mark.usefixtures("nowhere")
def test_a_dataset_of_another_format_version(tiny: Path, alexnet: Run) -> None:
    Path("dataset").mkdir()
    for path in tiny.iterdir():
        (Path("dataset") / path.name).symlink_to(path)
    manifest = json.loads((tiny / "manifest.json").read_text())
    Path("dataset/manifest.json").unlink()
    Path("dataset/manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    for command in ("train", "eval"):
        alexnet(command).failed("dataset has dataset format 2; this alexnet reads format 1", "prepare it again")


def test_a_run_of_another_format_version(trained: Path, alexnet: Run, net: tuple[str, ...]) -> None:
    path = trained / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    message, hint = "the run runs/small-1 has a format this version does not know", "update alexnet-cli"
    alexnet("train", *net, "--resume", trained).failed(message, hint)
    alexnet("eval", trained).failed(message, hint)
    # It does not stand in the way of a new one.
    assert "runs/small-2" in alexnet("train", *net, "--max-steps", 1).succeeded().out


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("given", "nearest"),
    [("momentun", "optimizer.momentum"), ("optimiser.rate", "optimizer.rate"), ("lr", "optimizer.rate")],
)
def test_an_unknown_setting_names_the_nearest(alexnet: Run, given: str, nearest: str) -> None:
    outcome = alexnet("train", "--set", f"{given}=1").failed(f"there is no setting '{given}'", "--print-config")
    assert f"the nearest is {nearest}" in outcome.err or given == "lr"
    assert not Path("runs").exists()


@pytest.mark.usefixtures("place")
def test_a_setting_without_sense(alexnet: Run) -> None:
    alexnet("train", "--set", "momentum").failed("--set momentum: there is no '='", "key=value")
    alexnet("train", "--set", "momentum=fast").failed("momentum=fast: not a number", "a number")
    alexnet("train", "--set", "dropout=1").failed("network.dropout", "--set network.dropout")


def test_a_full_disk(nowhere: Path, disk: Callable[[Path, str], Path], pictures: Path, alexnet: Run) -> None:
    small_disk = disk(nowhere / "disk", "400k")
    outcome = alexnet("prepare", pictures, "--out", small_disk / "dataset")
    outcome.failed("there is not enough space for", "free some space")
    assert not list(small_disk.iterdir())


@pytest.mark.usefixtures("place")
def test_a_place_where_nothing_can_be_written(pictures: Path, alexnet: Run, net: tuple[str, ...]) -> None:
    Path("file").touch()
    alexnet("train", *net, "--runs", "file").failed("file may not be written: ", "another place")
    alexnet("prepare", pictures, "--out", "file/dataset").failed("may not be written: ", "another place")


@pytest.mark.usefixtures("nowhere")
def test_in_a_process_of_its_own(spawn: Run) -> None:
    spawn("train").outcome().failed("there is no dataset in dataset", "alexnet prepare SOURCE")
    spawn("train", "--set", "momentun=1").outcome().failed("there is no setting 'momentun'", "optimizer.momentum")


# --- Ctrl-C


def wait_for(condition: Callable[[], bool], command: Any) -> None:
    while command.process.poll() is None and not condition():
        time.sleep(0.005)


@pytest.mark.usefixtures("nowhere")
def test_ctrl_c_in_a_preparation_keeps_what_is_finished(spawn: Run, alexnet: Run) -> None:
    Path("source").mkdir()
    count = 3000
    for name, shape in (("train-images-idx3-ubyte", (count, 28, 28)), ("train-labels-idx1-ubyte", (count,))):
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
        Path("source", name).write_bytes(header + bytes(int(np.prod(shape))))
    command = spawn("prepare", "source", "--workers", 2)
    wait_for(Path("dataset/.unfinished/plan.json").exists, command)
    os.killpg(command.process.pid, signal.SIGINT)
    outcome = command.outcome().failed("stopped by SIGINT: ", "the same command goes on from there", code=130)
    assert "shards are finished and kept" in outcome.err
    alexnet("train").failed("the dataset in dataset is unfinished", "again: it goes on")


@pytest.mark.usefixtures("trained")
def test_ctrl_c_while_torch_is_imported(spawn: Run) -> None:
    command = spawn("eval")
    maps = Path(f"/proc/{command.process.pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    wait_for(lambda: "libtorch" in maps.read_text(), command)
    command.process.send_signal(signal.SIGINT)
    outcome = command.outcome()
    assert outcome.code == 130 and outcome.out == "" and outcome.err == "error: stopped\n"


@pytest.mark.usefixtures("nowhere")
def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    package = str(Path(alexnet_cli.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet_cli", "describe"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": package},
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) != 0 and b"Traceback" not in said and b"rror" not in said
