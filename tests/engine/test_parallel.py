"""Several ranks are one training: the same numbers, the same counts, one error, one stop."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from alexnet_cli import runs
from alexnet_cli.dataset.manifest import open_dataset
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.loading.plan import Plan

from .on_ranks import on_ranks

Run = Callable[..., Any]

TRAIN, VAL, CLASSES = 19, 300, 7
# Without biases of 1 and with larger weights the answers differ from picture to picture from the start.
# At a small rate, so that rounding tips over no ReLU and no maximum of pooling, as with AVX2 at the paper's.
OPTIONS = (
    *("--recipe", "small", "--set", "width=0.05", "--batch-size", "7", "--eval-every", "10"),
    *("--lr", "0.0003"),
    *("--set", "biased=", "--set", "sigma=0.01,0.03,0.03,0.03,0.03,0.03,0.03,0.03"),
)
STEPS = 6  # batches of 7, 7 and 5 pictures, twice


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes, and so many pictures to validate that they make three batches."""
    root = tmp_path_factory.mktemp("wide")
    generator = np.random.default_rng(1)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for number in range(count):
            folder = root / "pictures" / split / f"class {number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            blocks = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(blocks).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    list(prepare(open_source(str(root / "pictures")), root / "dataset"))
    return root / "dataset"


@pytest.fixture
def here(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").symlink_to(wide)
    return tmp_path


def assert_same_training(run: Path, alone: Path) -> None:
    """To rounding, which six steps make some 1e-5 of the largest number of a tensor."""
    ours, theirs = (load_file(folder / "last.safetensors") for folder in (run, alone))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert (ours[name] - theirs[name]).abs().max() <= 1e-4 * theirs[name].abs().max(), name
    losses = [[line["loss"] for line in log(folder) if line["kind"] == "step"] for folder in (run, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def log(run: Path) -> list[dict[str, Any]]:
    return runs.read_metrics(runs.open_run(run))


def assert_counts_of_one_rank(run: Path, alexnet: Run) -> None:
    """The validation of several ranks, and what one rank counts with the same weights."""
    tally = log(run)[-1]["tally"]
    (score,) = json.loads(alexnet("eval", run / "last.safetensors", "--json").succeeded().out)["models"]
    assert tally["pictures"] == score["pictures"] == VAL
    assert (tally["wrong1"], tally["wrong5"]) == (score["top1_wrong"], score["top5_wrong"])
    assert tally["loss"] / VAL == pytest.approx(score["cross_entropy"], rel=1e-6)
    assert 0 < tally["wrong5"] < tally["wrong1"] < VAL


@pytest.fixture(scope="module")
def alone(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one rank."""
    from alexnet_cli.cli import main

    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        where = ("--data", str(wide), "--runs", str(folder), "--device", "cpu", "--max-steps", str(STEPS))
        patch.setattr(sys, "argv", ["alexnet", "train", *OPTIONS, *where])
        with pytest.raises(SystemExit, match="0"):
            main()
    return folder / "small-1"


@pytest.mark.usefixtures("here")
def test_gpus_2_on_the_cpu_is_the_same_training(alone: Path, spawn: Run, alexnet: Run) -> None:
    outcome = spawn("train", *OPTIONS, "--gpus", 2, "--max-steps", STEPS, ALEXNET_DEVICE="cpu").outcome()
    outcome.succeeded()
    assert outcome.out.startswith("runs/small-1: lowest validation error ") and outcome.out.count("\n") == 1
    assert "2 × cpu" in outcome.err and outcome.err.count("6 steps are done") == 1
    assert "W1" not in outcome.err and "torch" not in outcome.err, "the launcher is not heard"
    assert_same_training(Path("runs/small-1"), alone)
    assert_counts_of_one_rank(Path("runs/small-1"), alexnet)
    machine = runs.open_run(Path("runs/small-1")).config.machine
    assert (machine.device, machine.ranks) == ("cpu", 2)


# Of the last batch's five pictures the third of three ranks has none; 7 classes and 204 units do not go by three.
LAUNCHED = [(2, "data"), pytest.param(3, "data", marks=pytest.mark.slow), (2, "towers"), (3, "hybrid")]


@pytest.mark.parametrize(("ranks", "parallel"), LAUNCHED)
@pytest.mark.usefixtures("here")
def test_a_launchers_ranks_are_the_same_training(alone: Path, ranks: int, parallel: str, alexnet: Run) -> None:
    command = ("train", *OPTIONS, "--device", "cpu", "--parallel", parallel, "--max-steps", str(STEPS))
    assert on_ranks(ranks, *command) == [0] * ranks
    assert_same_training(Path("runs/small-1"), alone)
    assert_counts_of_one_rank(Path("runs/small-1"), alexnet)
    assert [Path(f"stderr-{rank}").read_text() for rank in range(1, ranks)] == [""] * (ranks - 1)


def test_two_ranks_go_on_bit_equal(here: Path) -> None:
    train = ("train", *OPTIONS, "--device", "cpu")
    for folder, steps in (("whole", STEPS), ("parts", 4), ("parts", STEPS)):
        assert on_ranks(2, *train, "--runs", folder, "--max-steps", str(steps)) == [0, 0]
    ours, theirs = (load_file(here / folder / "small-1" / "last.safetensors") for folder in ("parts", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.usefixtures("here")
def test_a_run_goes_on_with_other_ranks_and_in_another_way(alone: Path, alexnet: Run) -> None:
    train = ("train", *OPTIONS, "--device", "cpu")
    assert on_ranks(2, *train, "--max-steps", "2") == [0, 0]
    outcome = alexnet(*train, "--max-steps", 3, "--parallel", "towers").succeeded()
    assert "began on 2 × cpu and goes on with 1 × cpu" in outcome.err and "equal to rounding" in outcome.err
    assert on_ranks(3, *train, "--max-steps", "5", "--parallel", "hybrid") == [0, 0, 0]
    alexnet(*train, "--max-steps", STEPS).succeeded()
    assert_same_training(Path("runs/small-1"), alone)


@pytest.mark.slow
def test_a_run_goes_on_in_the_way_it_began(here: Path) -> None:
    train = ("train", *OPTIONS, "--device", "cpu")
    assert on_ranks(2, *train, "--max-steps", "2", "--parallel", "hybrid") == [0, 0]
    assert on_ranks(2, *train, "--max-steps", "4") == [0, 0]
    assert on_ranks(2, *train, "--max-steps", "4", "--runs", "whole", "--parallel", "hybrid") == [0, 0]
    ours, theirs = (load_file(here / folder / "small-1" / "last.safetensors") for folder in ("runs", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert "equal to rounding" not in Path("stderr-0").read_text()


def test_an_error_of_one_rank_ends_all_and_is_shown_once(here: Path, wide: Path, spawn: Run) -> None:
    split = open_dataset(wide).splits["train"]
    # A picture of the second step that only the second rank reads.
    sample = Plan(TRAIN, 7, seed=1).part(0, 1, rank=1, ranks=2).samples[0]
    (here / "broken").mkdir()
    for path in wide.iterdir():
        (here / "broken" / path.name).symlink_to(path)
    shard = here / "broken" / split.shards[0].name
    data = bytearray(shard.read_bytes())
    offset = int(split.index["offset"][sample])
    data[offset : offset + 200] = bytes(200)
    shard.unlink()
    shard.write_bytes(data)
    command = spawn(
        "train", *OPTIONS, "--data", "broken", "--device", "cpu", "--processes", 2, "--max-steps", STEPS
    )
    outcome = command.outcome().failed(f"the picture at byte {offset} of {shard.relative_to(here)}", "prepare")
    assert outcome.err.count("error:") == outcome.err.count("hint:") == 1
    assert "(process 1 of 2)" in outcome.err
    assert [line["step"] for line in log(here / "runs" / "small-1")] == [1]


@pytest.mark.usefixtures("here")
def test_a_mistake_of_the_first_rank_is_told_by_it() -> None:
    codes = on_ranks(2, "train", *OPTIONS, "--device", "cpu", "--resume", "runs/none")
    assert 0 not in codes
    said = Path("stderr-0").read_text()
    assert said.startswith("error: runs/none is not a run directory (process 0 of 2)\nhint: ")
    assert "error: process 0 of 2 has ended or stands still" in Path("stderr-1").read_text()
    assert not any("Traceback" in Path(f"stderr-{rank}").read_text() for rank in (0, 1))


@pytest.mark.parametrize("everybody", [False, True], ids=["parent", "terminal"])
def test_an_interrupt_saves_and_ends_all(here: Path, spawn: Run, everybody: bool) -> None:
    command = spawn("train", *OPTIONS, "--device", "cpu", "--processes", 2, "--epochs", 300)
    metrics = here / "runs" / "small-1" / "metrics.jsonl"
    while command.process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") > 4):
        time.sleep(0.01)
    (os.killpg if everybody else os.kill)(command.process.pid, signal.SIGINT)
    outcome = command.outcome()
    assert outcome.code == 130 and "Traceback" not in outcome.err, outcome.err
    assert outcome.err.count("stopped by a signal, at step ") == 1
    saved = runs.checkpoint_header(here / "runs" / "small-1" / "last.safetensors")
    assert saved["steps"] == log(here / "runs" / "small-1")[-1]["step"] > 4
    with pytest.raises(ProcessLookupError):  # nobody is left
        os.killpg(command.process.pid, 0)
