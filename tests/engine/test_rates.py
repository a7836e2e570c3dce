"""Rates changed by hand: the same steps at the same rates, whenever they were asked for, however often resumed."""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alexnet_cli import recipes, runs
from alexnet_cli.dataset.manifest import open_dataset
from alexnet_cli.engine import rates, training
from alexnet_cli.engine.events import Step
from alexnet_cli.engine.launch import placement
from alexnet_cli.engine.rates import Change, Request
from alexnet_cli.engine.schedule import rate, rows
from alexnet_cli.engine.session import Limits
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.loader import TrainingBatches
from alexnet_cli.network.alexnet import AlexNet

from .on_ranks import on_ranks

Command = Callable[..., Any]

OPTIONS = ("--batch-size", "7", "--eval-every", "100", "--epochs", "1000")
NAMES = [f"{layer}.{kind}" for layer in recipes.LAYERS for kind in ("weight", "bias")]


# --- the schedule


def test_a_change_counts_from_its_step_on_and_drops_go_on_from_there() -> None:
    recipe = recipes.chosen("paper", ["drop_steps=100"])
    changes = [
        Change(50, Request(divide=10), 0),
        Change(150, Request(to=0.5), 1),
        Change(250, Request(divide=2), 2),
    ]

    def at(step: int) -> float:
        return rate(recipe, 0, step, 0, changes)

    assert [at(n) for n in (0, 49, 50, 99, 100, 149)] == [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
    assert [at(n) for n in (150, 199, 200, 249, 250, 300)] == [0.5, 0.5, 0.05, 0.05, 0.025, 0.0025]
    # Asked for after the first plateau, which in a replay to rounding may come a validation later.
    late = [Change(50, Request(to=0.5), 1)]
    assert [rate(recipes.paper(), 0, 60, plateaus, late) for plateaus in (0, 1, 2)] == [0.5, 0.5, 0.05]


def test_by_hand_is_as_the_schedules_own_drop_for_each_parameter() -> None:
    for settings in ([], ["layer_rates=conv3:0.1,fc8:10", "frozen=conv2"], ["conv1_freeze=1"]):
        recipe = recipes.chosen("original", settings)
        by_hand = rows(NAMES, recipe, 1, 10, 0, [Change(10, Request(divide=10), 0)])
        by_schedule = rows(NAMES, recipe, 25, 10, 0)  # original's first drop
        if not settings:
            assert by_hand == by_schedule
        assert by_hand["conv4.weight"].rate == 0.001 and by_hand["conv4.bias"].rate == 0.02
    assert by_hand["conv1.weight"].rate == by_hand["conv1.bias"].rate == 0


def test_a_layers_own_rate_multiplies_weights_and_biases_and_frozen_ones_have_none() -> None:
    recipe = recipes.chosen("original", ["layer_rates=conv3:0.1,fc8:10", "frozen=conv2"])
    found, plain = rows(NAMES, recipe, 0, 0, 0), rows(NAMES, recipes.original(), 0, 0, 0)
    factors = {"conv2": 0.0, "conv3": 0.1, "fc8": 10.0}
    for name, row in found.items():
        assert row.rate == pytest.approx(plain[name].rate * factors.get(name.partition(".")[0], 1.0), rel=1e-15)
        assert row.decay == plain[name].decay


# --- the file


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.create_run(tmp_path, "mine", runs.Config(recipes.small(), "f00d"), {})


def test_requests_wait_until_the_training_gives_them_a_place(run: runs.Run) -> None:
    assert rates.read(run) == ([], [])
    rates.ask(run, Request(divide=10))
    rates.ask(run, Request(to=0.002))
    assert rates.read(run) == ([], [Request(divide=10), Request(to=0.002)])
    watch = rates.Watch(run)
    assert watch.asked() and not watch.asked()
    placed = [Change(7, Request(divide=10), 1), Change(7, Request(to=0.002), 1)]
    assert watch.placed(7, 1) == placed and not watch.asked()
    rates.ask(run, Request(divide=2))
    assert watch.asked()
    # A run that went on from an earlier checkpoint: its steps come before those that have a place already.
    assert watch.placed(5, 0) == [Change(5, Request(divide=2), 0), *placed]
    assert rates.read(run) == ([Change(5, Request(divide=2), 0), *placed], [])
    assert rates.unpacked(rates.packed(placed)) == placed


def test_half_a_line_that_a_kill_left_is_none(run: runs.Run) -> None:
    rates.ask(run, Request(divide=10))
    with rates.path(run).open("ab") as file:
        file.write(b'{"divi')
    assert rates.read(run) == ([], [Request(divide=10)])
    rates.ask(run, Request(to=0.5))
    assert rates.read(run) == ([], [Request(divide=10), Request(to=0.5)])


NONSENSE = (
    *("{", "[]", "7", "{}", "null", '{"divide": 10, "to": 1}', '{"divide": -1}', '{"divide": NaN}', '{"to": "x"}'),
    *('{"by": 3}', '{"request": 0, "step": 1, "drops": 0}'),
)


@pytest.mark.parametrize("line", NONSENSE)
def test_a_damaged_line_is_named(run: runs.Run, line: str) -> None:
    rates.path(run).write_text(line + "\n")
    with pytest.raises(AlexNetError, match=r"mine/rates.jsonl is damaged in line 1: ") as caught:
        rates.read(run)
    assert "mend that line" in caught.value.hint


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_without_sense_is_not_asked_for(run: runs.Run, value: float) -> None:
    for request in (Request(divide=value), Request(to=value)):
        with pytest.raises(AlexNetError, match="the rate cannot be"):
            rates.ask(run, request)
    assert not rates.path(run).exists()


# --- in training


@pytest.fixture
def train(alexnet: Command, net: tuple[str, ...], place: Path) -> Command:
    return lambda *options: alexnet("train", *net, *OPTIONS, "--data", place / "dataset", *options).succeeded()


def steps(run: Path) -> list[dict[str, Any]]:
    """The lines of the log without wall time."""
    timed = ("seconds", "waited", "took")
    lines = runs.read_metrics(runs.open_run(run))
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if line["kind"] != "validation"]


def assert_same(run: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "last.safetensors") for folder in (run, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert steps(run) == steps(other)


def test_a_paused_run_goes_on_at_its_new_rate_and_a_replay_makes_the_change_at_its_step(
    train: Command, alexnet: Command
) -> None:
    train("--max-steps", 2, "--name", "a")
    shutil.copytree("runs/a", "early")
    train("--max-steps", 4, "--name", "a")
    outcome = alexnet("runs", "set-lr", "runs/a", "--divide", 10).succeeded()
    assert outcome.out == "runs/a: the rate is divided by 10 when it goes on\n"
    outcome = train("--max-steps", 9, "--name", "a")
    assert "after step 4 the rate is divided by 10 by hand: 0.001" in outcome.err
    assert [line["rate"] for line in steps(Path("runs/a")) if line["kind"] == "step"] == [0.01] * 4 + [0.001] * 5
    assert [line for line in steps(Path("runs/a")) if line["kind"] == "rate"] == [
        {"kind": "rate", "step": 4, "rate": 0.001, "by_hand": "divided by 10"}
    ]
    # From a checkpoint before the change, and from the very beginning.
    shutil.copy("runs/a/rates.jsonl", "early")
    shutil.move("early", "runs/early")
    train("--max-steps", 9, "--resume", "runs/early")
    assert_same(Path("runs/early"), Path("runs/a"))
    train("--max-steps", 9, "--name", "plain")
    theirs, plain = (load_file(f"runs/{name}/last.safetensors")["fc8.weight"] for name in ("a", "plain"))
    assert not torch.equal(theirs, plain)


def test_the_wait_for_a_plateau_begins_anew(train: Command, alexnet: Command) -> None:
    """Six steps an epoch; no validation is better than the first, so that the third is a plateau of two epochs."""

    def plateau(run: str) -> dict[str, Any]:
        return dict(runs.checkpoint_header(Path(run, "last.safetensors"))["plateau"])

    options = ("--eval-every", 1, "--set", "patience=2")
    for name, asked in (("plain", False), ("by-hand", True)):
        train(*options, "--max-steps", 14, "--name", name)
        assert plateau(f"runs/{name}") == {"best": 50.0, "waited": 1.0, "count": 0}
        if asked:
            alexnet("runs", "set-lr", f"runs/{name}", "--divide", 10).succeeded()
        train(*options, "--max-steps", 19, "--name", name)
    assert plateau("runs/plain") == {"best": 50.0, "waited": 0.0, "count": 1}
    # Two steps of the epoch before the third validation were made at the old rate.
    assert plateau("runs/by-hand") == {"best": 50.0, "waited": pytest.approx(4 / 6), "count": 0}


@pytest.mark.parametrize("where", ["its batch", "its arithmetic"])
def test_a_change_is_logged_once_though_its_step_could_not_be_made(
    train: Command, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    train("--max-steps", 3)
    run, built, forward = runs.open_run(Path("runs/small-1")), TrainingBatches._built, AlexNet.forward
    passes: list[int] = []

    def failing(batches: TrainingBatches, epoch: int, step: int) -> Any:
        if (epoch, step) == (1, 2):  # of the ninth step
            raise AlexNetError("the picture at byte 0 of train-000000.tar is damaged", "put it back")
        return built(batches, epoch, step)

    def too_large(model: AlexNet, *given: Any) -> Any:
        passes.append(1)
        if len(passes) == 6:  # of steps 4 to 9, as --eval-every is long
            raise MemoryError
        return forward(model, *given)

    dataset, place = open_dataset(Path("dataset")), placement("cpu", None, None)
    with monkeypatch.context() as patch, pytest.raises(AlexNetError, match=r"is damaged|is too small"):
        if where == "its batch":
            patch.setattr(TrainingBatches, "_built", failing)
        else:
            patch.setattr(AlexNet, "forward", too_large)
        for event in training.Job(dataset, run.config, Limits(), place).started(
            Path("runs"), "small-1", None, False
        ):
            if isinstance(event, Step) and event.step == 8:
                rates.ask(run, Request(divide=10))
    assert runs.checkpoint_header(run.last)["steps"] == 8, "what was done is saved"
    train("--max-steps", 10, "--name", "small-1")
    assert [line["step"] for line in steps(run.root) if line["kind"] == "rate"] == [8]


def test_a_live_run_takes_it_up_at_its_next_step(
    train: Command, alexnet: Command, spawn: Command, net: tuple[str, ...]
) -> None:
    command = spawn("train", *net, *OPTIONS, "--name", "live", "--device", "cpu")
    log = Path("runs/live/metrics.jsonl")
    wait_until(command, lambda: log.exists() and log.read_bytes().count(b"\n") > 3)
    outcome = alexnet("runs", "set-lr", "runs/live", "--to", 0.002).succeeded()
    assert outcome.out == "runs/live: the rate is set to 0.002 from its next step on\n"
    wait_until(command, lambda: b'"rate": 0.002, "pictures"' in log.read_bytes())
    command.process.send_signal(signal.SIGTERM)
    outcome = command.outcome()
    assert outcome.code == 143 and "the rate is set to 0.002 by hand: 0.002" in outcome.err
    lines = steps(Path("runs/live"))
    (change,) = (line for line in lines if line["kind"] == "rate")
    for line in lines:
        assert line["rate"] == (0.01 if line["step"] <= change["step"] and line["kind"] == "step" else 0.002)
    # Once more from the beginning, with nothing but what was recorded of the change.
    again = runs.create_run(Path("runs"), "again", runs.open_run(Path("runs/live")).config, {})
    shutil.copy("runs/live/rates.jsonl", again.root)
    train("--max-steps", lines[-1]["step"], "--name", "again")
    assert_same(again.root, Path("runs/live"))


def wait_until(command: Any, there: Callable[[], bool]) -> None:
    end = time.monotonic() + 100
    while not there() and command.process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert there(), command.outcome().err


def test_two_ranks_change_together(train: Command, net: tuple[str, ...]) -> None:
    """One change has its place already, another waits for it."""
    for name in ("one", "two"):
        run = runs.create_run(Path("runs"), name, config_of(train), {})
        rates.path(run).write_text('{"divide": 5}\n{"request": 0, "step": 2, "drops": 0}\n{"to": 0.02}\n')
    train("--max-steps", 4, "--name", "one")
    assert on_ranks(2, "train", *net, *OPTIONS, "--name", "two", "--max-steps", "4", "--device", "cpu") == [0, 0]
    said = "".join(Path(f"stderr-{rank}").read_text() for rank in range(2))
    assert said.count("after step 0 the rate is set to 0.02 by hand") == 1
    assert said.count("after step 2 the rate is divided by 5 by hand: 0.004") == 1
    one, two = (load_file(f"runs/{name}/last.safetensors") for name in ("one", "two"))
    for name in one:
        assert (one[name] - two[name]).abs().max() <= 1e-4 * one[name].abs().max(), name


def config_of(train: Command) -> runs.Config:
    """What these options make of a run."""
    if not Path("pattern").exists():
        train("--runs", "pattern", "--max-steps", 1)
    return runs.open_run(Path("pattern/small-1")).config


def test_a_finished_run_has_no_rate(train: Command, alexnet: Command) -> None:
    train("--epochs", 1)
    alexnet("runs", "set-lr", "runs/small-1", "--divide", 10).failed("is finished", "name another run")
    for options in ((), ("--divide", 10, "--to", 0.1)):
        assert alexnet("runs", "set-lr", "runs/small-1", *options).code == 2
    alexnet("runs", "set-lr", "runs/none", "--divide", 10).failed("is not a run directory", "alexnet train")


def test_a_run_whose_file_of_rates_is_damaged_does_not_go_on_without_it(train: Command, alexnet: Command) -> None:
    train("--max-steps", 1)
    Path("runs/small-1/rates.jsonl").write_text("what?\n")
    outcome = alexnet("train", "--resume", "runs/small-1", "--max-steps", 2)
    outcome.failed("rates.jsonl is damaged in line 1", "mend that line")
