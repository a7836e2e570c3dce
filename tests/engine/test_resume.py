"""Nothing is lost when a run is stopped, and nothing is different after it goes on."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_cli import runs
from alexnet_cli.dataset.manifest import open_dataset
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine import training
from alexnet_cli.engine.events import Ended, Validated, Validating
from alexnet_cli.engine.launch import placement
from alexnet_cli.engine.session import Limits
from alexnet_cli.files import write_json

from .same import OPTIONS, STEPS, assert_same, metrics, state, wait_for

Run = Callable[..., Any]


def test_the_reference_drops_its_rate_and_validates_at_its_end(whole: Path) -> None:
    lines = metrics(whole)
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert [line["pictures"] for line in steps[:6]] == [7, 7, 7, 7, 7, 5]
    assert [round(line["rate"], 7) for line in steps[6::6]] == [0.01, 0.001, 0.0001]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [6, 12, 18, 20]
    assert len({line["loss"] for line in steps}) == STEPS


def test_a_paused_run_is_bit_equal_to_an_uninterrupted_one(train: Run, whole: Path) -> None:
    for steps in (4, 12, 15, STEPS):  # 12 is a step of validation, the others are not
        train("--max-steps", steps).succeeded()
    assert_same(Path("runs/small-1"), whole)
    assert [path.name for path in Path("runs").iterdir()] == ["small-1"]


def test_loader_threads_change_nothing(train: Run, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps, threads in ((8, 1), (STEPS, 3)):
        monkeypatch.setattr("alexnet_cli.engine.training.threads", lambda count=threads: count)
        train("--max-steps", steps).succeeded()
    assert_same(Path("runs/small-1"), whole)


def test_what_a_killed_process_left_is_cut_off(train: Run, whole: Path) -> None:
    train("--max-steps", 8).succeeded()
    with Path("runs/small-1/metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "step", "step": 9, "loss": 0}\n{"kind": "st')
    (Path("runs/small-1") / ".last.safetensors.1234.tmp").write_bytes(b"cut short by a kill")
    train("--max-steps", STEPS).succeeded()
    assert_same(Path("runs/small-1"), whole)
    assert not list(Path("runs/small-1").glob(".*.tmp"))


def cut_short(moment: str, chance: random.Random, lines: int, run: Path, command: Any) -> bool:
    """Kill the process at such a moment, once the log has so many lines; whether the run was not over by then."""
    log, number = run / "metrics.jsonl", command.process.pid
    if moment == "beginning":  # which is over with its first save
        end, then = time.monotonic() + chance.uniform(0, 3), saved(run)
        while time.monotonic() < end and saved(run) == then:
            time.sleep(0.002)
        living = command.process.poll() is None
    else:
        wait_for(lines, log, command)
        while command.process.poll() is None and not at_work(number, log):  # the lines may be another's
            time.sleep(0.002)
        if moment == "saving":
            while command.process.poll() is None and not list(run.glob(f".*.{number}.tmp")):
                pass
        time.sleep(chance.uniform(0, 0.005 if moment == "saving" else 0.05))
        living = at_work(number, log)
    command.process.kill()
    command.outcome()
    return living


def saved(run: Path) -> int:
    """When the last checkpoint was, which is gone for an instant within a save."""
    try:
        return (run / "last.safetensors").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def at_work(process: int, log: Path) -> bool:
    """Whether the process has the log open, as from its first step to its last validation."""
    with suppress(OSError):  # it ends
        return any(file.resolve() == log.resolve() for file in Path(f"/proc/{process}/fd").iterdir())
    return False


def kill_and_continue(
    kills: int, seed: int, train: Run, spawn: Run, net: tuple[str, ...], whole: Path, cores: bool = False
) -> None:
    """Kill it in the middle of its steps, its saves and its validations, and while it begins.

    The run saves at each step, so that it comes further each time. `cores`: the loader has a thread for each.
    """
    chance = random.Random(seed)
    # How many lines the log has when each validation begins.
    before = [n for n, line in enumerate(metrics(whole)) if line["kind"] == "validation"]
    run, options = Path("runs/small-1"), ("--save-every", "1steps", "--keep-every", "1epochs")
    usual, hits = os.sched_getaffinity(0), 0
    for lines in sorted(chance.sample(range(1, STEPS), kills)):
        if cores and (run / "config.json").exists():  # the arithmetic's threads are fixed by then
            os.sched_setaffinity(0, chance.sample(sorted(usual), chance.randint(1, len(usual))))
        try:
            command = spawn("train", *net, *OPTIONS, *options, "--max-steps", STEPS)
        finally:
            os.sched_setaffinity(0, usual)
        moment = chance.choice(["beginning", "step", "step", "saving", "saving", "validating"])
        reached = next(n for n in before if n >= lines) if moment == "validating" else lines
        hits += cut_short(moment, chance, reached, run, command)
    said = f"{hits} of {kills} kills hit a run that was not over"
    assert hits >= kills - 1, said
    train(*options, "--max-steps", STEPS).succeeded()
    assert_same(run, whole)
    assert [path.name for path in Path("runs").iterdir()] == ["small-1"]
    assert not list(run.glob(".*.tmp"))
    for steps in (6, 12, 18):
        assert checkpoints.load(runs.open_run(run).kept(steps)).position.steps == steps
    print(said)  # last: what is printed before a command of this process counts as the command's


def test_three_kills_lose_nothing(train: Run, spawn: Run, net: tuple[str, ...], whole: Path) -> None:
    kill_and_continue(3, 99, train, spawn, net, whole)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_fifty_kills_lose_nothing(train: Run, spawn: Run, net: tuple[str, ...], whole: Path, attempt: int) -> None:
    kill_and_continue(10, attempt, train, spawn, net, whole, cores=True)


# Rules that change within the twenty steps: after the first epoch rates drop and conv1's once more, after the
# second there is no colour noise, after the third conv1 stands still.
ORIGINAL = ("original", "sharing=3", "drop_epochs=1", "conv1_drop=1", "colour_stop=2", "conv1_freeze=3", "biased=")
TORCHVISION = ("torchvision", "drop_epochs=", "drop_steps=8", "momentum=0.8")


@pytest.mark.parametrize("rules", [ORIGINAL, TORCHVISION], ids=["original", "torchvision"])
def test_a_recipe_with_rules_of_its_own_is_paused_and_killed_without_a_trace(
    alexnet: Run, spawn: Run, place: Path, rules: tuple[str, ...]
) -> None:
    recipe, *settings = rules
    changes = [word for setting in ("width=0.05", *settings) for word in ("--set", setting)]
    options = ("train", "--recipe", recipe, *changes, "--batch-size", 7, "--data", place / "dataset")
    alexnet(*options, "--name", "whole", "--max-steps", STEPS).succeeded()
    whole, run = Path("runs/whole"), Path("runs/paused")
    for steps in (5, 12, 13, 18):
        alexnet(*options, "--name", "paused", "--max-steps", steps).succeeded()
    before, _ = state(run)
    command = spawn(*options, "--name", "paused", "--max-steps", STEPS)
    wait_for((run / "metrics.jsonl").read_bytes().count(b"\n") + 1, run / "metrics.jsonl", command)
    command.process.kill()
    command.outcome()
    alexnet(*options, "--name", "paused", "--max-steps", STEPS).succeeded()
    assert_same(run, whole)

    rates = [round(line["rate"], 7) for line in metrics(run) if line["kind"] == "step"]
    after, _ = state(run)
    still = {name for name in after if torch.equal(after[name], before[name])} - {"mean"}
    if recipe == "original":
        assert rates == [0.01] * 6 + [0.001] * 14
        assert still == {f"{kind}conv1.{name}" for kind in ("", "velocity.") for name in ("weight", "bias")}
    else:
        assert rates == [0.01] * 8 + [0.001] * 8 + [0.0001] * 4
        assert not still


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_says_so(spawn: Run, train: Run, net: tuple[str, ...], number: signal.Signals) -> None:
    command = spawn("train", *net, *OPTIONS, "--set", "patience=90")
    run = Path("runs/small-1")
    wait_for(7, run / "metrics.jsonl", command)
    os.kill(command.process.pid, number)
    outcome = command.outcome()
    assert outcome.code == 128 + number and "Traceback" not in outcome.err
    assert "stopped by a signal, at step " in outcome.err
    _, facts = state(run)
    assert facts["steps"] >= 5 and facts["finished"] == ""
    steps = [line["step"] for line in metrics(run) if line["kind"] == "step"]
    assert steps == list(range(1, facts["steps"] + 1)), "the checkpoint is that of the last step"
    train("--set", "patience=90", "--max-steps", facts["steps"] + 1).succeeded()
    assert state(run)[1]["steps"] == facts["steps"] + 1


def test_a_stop_within_a_validation_makes_it_again(train: Run, whole: Path, tiny: Path) -> None:
    train("--max-steps", 3).succeeded()
    config = runs.open_run(Path("runs/small-1")).config
    job = training.Job(open_dataset(tiny), config, Limits(), placement("cpu", None, None))
    happened = []
    for event in job.started(Path("runs"), "small-1", None, False):
        happened.append(type(event))
        if isinstance(event, Validating):
            signal.raise_signal(signal.SIGINT)
    assert isinstance(event, Ended) and event.signal == signal.SIGINT and event.position.steps == 6
    assert Validated not in happened
    train("--max-steps", STEPS).succeeded()
    assert_same(Path("runs/small-1"), whole)


def test_the_best_checkpoint_is_never_replaced_by_a_worse(train: Run) -> None:
    best = []
    for steps in range(2, 16, 2):
        train("--max-steps", steps).succeeded()
        best.append(state(Path("runs/small-1"), "best")[1]["best_error"])
    errors = [line["tally"]["wrong1"] / 0.18 for line in metrics(Path("runs/small-1")) if "tally" in line]
    assert best == sorted(best, reverse=True) and best[-1] <= min(errors) + 1e-9


def test_a_second_writer_is_refused(train: Run) -> None:
    train("--max-steps", 1).succeeded()
    with runs.locked(runs.open_run(Path("runs/small-1"))):
        train("--max-steps", 2, "--resume", "runs/small-1").failed("is being trained by another process", "--new")
        train("--max-steps", 2, "--name", "small-1").failed("is being trained by another process", "--new")
        # Without a name the run that is being written is passed over.
        assert "runs/small-2" in train("--max-steps", 1).succeeded().out
    assert state(Path("runs/small-1"))[1]["steps"] == 1


def test_the_same_command_goes_on_and_new_does_not(train: Run) -> None:
    assert "runs/small-1" in train("--max-steps", 1).succeeded().out
    again = train("--max-steps", 2).succeeded()
    assert "runs/small-1" in again.out and "from step 1" in again.err
    assert "runs/small-2" in train("--max-steps", 1, "--new").succeeded().out
    assert "runs/small-3" in train("--max-steps", 1, "--seed", 2).succeeded().out, "another seed is another run"
    assert "from step 1" in train("--max-steps", 2).succeeded().err
    assert [state(Path(f"runs/small-{n}"))[1]["steps"] for n in (1, 2, 3)] == [2, 2, 1], "the newest goes on"
    assert "from step 2" in train("--max-steps", 3, "--resume", "runs/small-1").succeeded().err


def test_a_name_is_the_run(train: Run) -> None:
    assert "runs/mine" in train("--name", "mine", "--max-steps", 1).succeeded().out
    assert "from step 1" in train("--name", "mine", "--max-steps", 2).succeeded().err
    train("--name", "mine", "--new").failed("runs/mine exists already", "another --name")
    outcome = train("--name", "mine", "--lr", 0.02)
    outcome.failed("the run runs/mine has recipe.optimizer.rate = 0.01, not 0.02", "--new")
    assert [path.name for path in Path("runs").iterdir()] == ["mine"]


def test_to_resume_it_a_run_needs_none_of_its_options(train: Run, alexnet: Run, whole: Path) -> None:
    train("--max-steps", 4).succeeded()
    outcome = alexnet("train", "--resume", "runs/small-1", "--max-steps", STEPS).succeeded()
    assert "from step 4" in outcome.err
    assert_same(Path("runs/small-1"), whole)


def test_resuming_something_else_names_the_difference(train: Run, tiny: Path) -> None:
    train("--max-steps", 1).succeeded()
    resume = ("--max-steps", 2, "--resume", "runs/small-1")
    train(*resume, "--seed", 4).failed("has seed = 1, not 4", "--new")
    train(*resume, "--set", "network.kernels=96,256,384,384,200").failed("recipe.network.kernels = 96,256", "own")
    Path("other").mkdir()
    for path in tiny.iterdir():
        Path("other", path.name).symlink_to(path)
    manifest = Path("other/manifest.json")
    text = manifest.read_text()
    manifest.unlink()
    manifest.write_text(text + " ")
    train(*resume, "--data", "other").failed("has dataset = ", "--new")
    train("--max-steps", 2, "--resume", "runs").failed("runs is not a run directory", "alexnet train")
    assert state(Path("runs/small-1"))[1]["steps"] == 1


def test_a_finished_run_is_not_gone_on_with(train: Run) -> None:
    first = train("--epochs", 1).succeeded()
    assert "all 1 epochs are done, at step 6" in first.err
    train("--epochs", 1, "--resume", "runs/small-1").failed("the run runs/small-1 is finished", "--new")
    train("--epochs", 1, "--name", "small-1").failed("the run runs/small-1 is finished", "--new")
    assert "runs/small-2" in train("--epochs", 1, "--max-steps", 1).succeeded().out


def test_the_last_plateau_ends_a_run(train: Run) -> None:
    # At a rate of zero the error never gets better: after the first, each validation is a plateau.
    outcome = train("--lr", 0).succeeded()
    assert "the validation error stopped improving, at step 30" in outcome.err
    assert state(Path("runs/small-1"))[1]["finished"] == "plateau"


def test_a_time_limit_pauses(train: Run) -> None:
    assert "the time is up" in train("--max-time", "0.2s").succeeded().err
    before = state(Path("runs/small-1"))[1]
    assert before["finished"] == "" and before["steps"] >= 1
    assert f"from step {before['steps']}" in train("--max-steps", before["steps"] + 1).succeeded().err
    # The limit is of each call, so that the same command gets further.
    assert "the time is up" in train("--max-time", "0.2s").succeeded().err
    assert state(Path("runs/small-1"))[1]["steps"] > before["steps"] + 1
    train("--max-time", "soon").failed("--max-time soon: not a time", "30m")


def spoil_randomly(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(5000))


def spoil_by_cutting(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def spoil_by_emptying(path: Path) -> None:
    os.truncate(path, 0)


def spoil_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [spoil_randomly, spoil_by_cutting, spoil_by_emptying, spoil_one_bit])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(train: Run, whole: Path, spoil: Run) -> None:
    train("--max-steps", 8).succeeded()
    run = Path("runs/small-1")
    spoil(run / "last.safetensors")
    before = (run / "previous.safetensors").read_bytes()
    outcome = train("--max-steps", 9).succeeded()
    assert "from step 6" in outcome.err  # where `previous` is
    assert "warning: runs/small-1/last.safetensors is " in outcome.err
    assert ": going on from runs/small-1/previous.safetensors\n" in outcome.err
    # A kill in the middle of the next save must not find the damaged one in the place of the good one.
    assert (run / "previous.safetensors").read_bytes() == before
    train("--max-steps", STEPS).succeeded()
    assert_same(run, whole)


def test_two_damaged_checkpoints_are_an_error(train: Run) -> None:
    train("--max-steps", 8).succeeded()
    for name in ("last", "previous"):
        spoil_randomly(Path(f"runs/small-1/{name}.safetensors"))
    train("--max-steps", 9).failed("runs/small-1/last.safetensors is not a checkpoint of alexnet", "")


def test_a_run_on_another_number_of_ranks_says_that_it_is_not_bit_equal(train: Run) -> None:
    train("--max-steps", 1).succeeded()
    path = Path("runs/small-1/config.json")
    stored = runs.read_json(path)
    stored["config"]["machine"]["ranks"] = 2
    write_json(path, stored)
    outcome = train("--max-steps", 2).succeeded()
    assert "from step 1" in outcome.err and "equal to rounding, not bit for bit" in outcome.err


def test_a_loss_that_is_no_number_stops_before_the_update(train: Run) -> None:
    outcome = train("--lr", 1e30, "--max-steps", 20)
    outcome.failed("the loss became nan at step 2: the outputs of ", "--lr")
    assert "are no numbers at train-000000.tar:" in outcome.err
    assert not Path("runs/small-1/last.safetensors").exists()
