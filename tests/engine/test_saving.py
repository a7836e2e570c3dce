"""Checkpoints by steps, time and epochs, those that stay, and a disk that does not take one."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_cli import runs
from alexnet_cli.dataset.manifest import open_dataset
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine import session, training
from alexnet_cli.engine.checkpoint import Position
from alexnet_cli.engine.events import Ended, Event, Note, Saved, Step, Validating
from alexnet_cli.engine.launch import placement
from alexnet_cli.engine.parallel import ALONE, Ranks
from alexnet_cli.engine.session import Every, Limits
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.loader import Reader
from alexnet_cli.loading.plan import Part

from .same import STEPS, assert_same, assert_same_tensors, metrics, state

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("10m", Every(600, "seconds")),
        ("1h30m", Every(5400, "seconds")),
        ("90s", Every(90, "seconds")),
        ("500steps", Every(500, "steps")),
        ("1step", Every(1, "steps")),
        ("2epochs", Every(2, "epochs")),
        ("0.5 epochs", Every(0.5, "epochs")),
    ],
)
def test_how_often_is_a_time_or_steps_or_epochs(text: str, every: Every) -> None:
    assert training.limits(None, None, text, None).save == every


@pytest.mark.parametrize(
    "text", ["", "soon", "10", "0s", "0steps", "0epochs", "1.5steps", "-1steps", "m", "5 parsecs"]
)
def test_what_is_not_understood_names_the_option(text: str) -> None:
    for option, given in (("--save-every", (text, None)), ("--keep-every", ("10m", text))):
        with pytest.raises(AlexNetError, match=f"{option} {text}: not understood") as caught:
            training.limits(None, None, *given)
        assert "1000steps" in caught.value.hint


def test_what_stays_is_not_by_time() -> None:
    with pytest.raises(AlexNetError, match="--keep-every 10m: a time"):
        training.limits(None, None, "10m", "10m")


def test_epochs_become_steps() -> None:
    assert [Every(count, "epochs").steps(7) for count in (0.01, 0.5, 1, 2)] == [1, 4, 7, 14]
    assert Every(3, "steps").steps(7) == 3 and Every(3, "seconds").steps(7) == 0


@pytest.fixture
def begun(train: Run, tiny: Path) -> Callable[[Limits], Iterator[Event]]:
    """The run after three steps; what happens as it goes on."""
    train("--max-steps", 3).succeeded()

    def on(limits: Limits) -> Iterator[Event]:
        config = runs.open_run(Path("runs/small-1")).config
        job = training.Job(open_dataset(tiny), config, limits, placement("cpu", None, None))
        return job.started(Path("runs"), "small-1", None, False)

    return on


def test_a_shard_that_fails_on_the_way_costs_no_step(
    begun: Callable[[Limits], Iterator[Event]], train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, read = Reader.batch, []

    def failing(reader: Reader, part: Part) -> Any:
        read.append(part)
        if len(read) > 2 and len(part.samples) == 7:
            raise AlexNetError("the picture at byte 0 of train-000000.tar is damaged", "put it back")
        return whole(reader, part)

    with monkeypatch.context() as patch, pytest.raises(AlexNetError, match="is damaged"):
        patch.setattr(Reader, "batch", failing)
        list(begun(Limits(max_steps=STEPS)))
    steps = state(Path("runs/small-1"))[1]["steps"]
    assert steps > 3
    train("--max-steps", STEPS).succeeded()
    train("--max-steps", STEPS, "--name", "whole").succeeded()
    assert_same(Path("runs/small-1"), Path("runs/whole"))


def test_validation_pictures_that_cannot_be_read_cost_no_step_either(
    begun: Callable[[Limits], Iterator[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Reader.batch

    def failing(reader: Reader, part: Part) -> Any:
        if len(part.samples) == 18:
            raise AlexNetError("the picture at byte 0 of val-000000.tar is damaged", "put it back")
        return whole(reader, part)

    monkeypatch.setattr(Reader, "batch", failing)
    with pytest.raises(AlexNetError, match="val-000000"):
        list(begun(Limits()))
    assert state(Path("runs/small-1"))[1]["steps"] == 6


def test_an_error_in_the_first_step_leaves_no_checkpoint(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of weights that are as they were drawn: `predict` would take it for a model."""

    def too_large(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("alexnet_cli.engine.loop.F.cross_entropy", too_large)
        train().failed("the memory is too small for a step of 7 pictures", "--accumulate 2")
    assert not list(Path("runs/small-1").glob("*.safetensors"))
    train("--max-steps", 2).succeeded()


def test_what_cannot_be_saved_after_an_error_is_said_too(
    begun: Callable[[Limits], Iterator[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def failing(*_: object) -> None:
        raise AlexNetError("the picture is damaged", "put it back")

    events = begun(Limits())
    with pytest.raises(AlexNetError, match=r"is damaged; and the disk is full: .*last.safetensors"):
        for event in events:
            if isinstance(event, Step) and event.step == 4:
                monkeypatch.setattr(session, "tallies", failing)
                monkeypatch.setattr(checkpoints, "save_file", full)


def test_a_stop_in_the_last_validation_leaves_it_to_the_next_call(train: Run, tiny: Path) -> None:
    place = placement("cpu", None, None)
    train("--max-steps", 3, "--epochs", 1, "--eval-every", 10).succeeded()
    config = runs.open_run(Path("runs/small-1")).config
    job = training.Job(open_dataset(tiny), config, Limits(), place)
    for event in job.started(Path("runs"), "small-1", None, False):
        if isinstance(event, Validating):
            os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(event, Ended) and (event.signal, event.said) == (signal.SIGTERM, "stopped by a signal")
    run = runs.open_run(Path("runs/small-1"))
    assert not run.finished() and not any(line["kind"] == "validation" for line in metrics(run.root)[-1:])
    before = len(metrics(run.root))
    outcome = train("--epochs", 1, "--eval-every", 10).succeeded()
    assert "all 1 epochs are done" in outcome.err and run.finished()
    assert [line["kind"] for line in metrics(run.root)[before - 1 :]] == ["step", "validation"]


def saved(events: Iterator[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, Saved)]


def test_saves_come_as_often_as_asked(begun: Callable[[Limits], Iterator[Event]]) -> None:
    # Those at 6 and 12 are at validations, and the last is at the end.
    assert saved(begun(Limits(14, save=Every(4, "steps")))) == [4, 6, 8, 12, 14]
    assert saved(begun(Limits(20, save=Every(0.5, "epochs")))) == [15, 18, 20]
    assert saved(begun(Limits(23, save=Every(0, "seconds")))) == [21, 22, 23]


def test_a_stop_loses_no_more_than_asked(
    begun: Callable[[Limits], Iterator[Event]], train: Run, whole: Path
) -> None:
    events = begun(Limits(save=Every(4, "steps")))
    for event in events:
        if isinstance(event, Step) and event.step == 11:
            events.close()  # type: ignore[attr-defined]
    assert state(Path("runs/small-1"))[1]["steps"] == 8
    train("--max-steps", STEPS).succeeded()
    assert_same(Path("runs/small-1"), whole)


@pytest.mark.parametrize("links", [True, False], ids=["", "without links"])
def test_what_is_to_stay_stays(train: Run, whole: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    train("--keep-every", "1epochs", "--max-steps", 12).succeeded()
    run = runs.open_run(Path("runs/small-1"))
    assert [run.kept(steps).exists() for steps in (0, 6, 12, 18)] == [False, True, True, False]
    twelve, _ = state(run.root, "step-00000012")
    assert_same_tensors(twelve, state(run.root)[0])
    run.kept(12).unlink()  # as if killed between the save and this
    train("--keep-every", "1epochs", "--max-steps", STEPS).succeeded()
    assert_same(run.root, whole)
    for steps in (6, 12, 18):
        kept = checkpoints.load(run.kept(steps))
        assert kept.position.steps == steps and kept.velocity
    assert_same_tensors(twelve, state(run.root, "step-00000012")[0])
    assert not list(run.root.glob(".*.tmp"))


def test_of_a_damaged_last_checkpoint_nothing_is_kept(train: Run, whole: Path) -> None:
    train("--max-steps", 6).succeeded()
    train("--max-steps", 8).succeeded()
    run = runs.open_run(Path("runs/small-1"))
    run.last.write_bytes(run.last.read_bytes()[:-7])
    outcome = train("--keep-every", "1epochs", "--max-steps", 7).succeeded()
    assert f"going on from {run.previous}" in outcome.err
    kept = checkpoints.load(run.kept(6))
    assert kept.position.steps == 6 and checkpoints.load(run.last).position.steps == 7
    train("--max-steps", STEPS).succeeded()
    assert_same(run.root, whole)


def test_weights_that_are_no_numbers_do_not_replace_good_ones(
    begun: Callable[[Limits], Iterator[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path("runs/small-1/last.safetensors").read_bytes()
    update = session.optimizer.update

    def spoiling(model: torch.nn.Module, *rest: Any) -> None:
        update(model, *rest)
        with torch.no_grad():
            model.get_parameter("conv4.bias")[1] = float("inf")

    monkeypatch.setattr(session.optimizer, "update", spoiling)
    with pytest.raises(
        AlexNetError, match=r"after step 4 the weights are no numbers any more: conv4.bias"
    ) as caught:
        list(begun(Limits(5, save=Every(1, "steps"))))
    assert "the last checkpoint is as it was" in caught.value.hint
    assert Path("runs/small-1/last.safetensors").read_bytes() == before


# --- a full disk


@pytest.fixture
def small_disk(place: Path, disk: Callable[[Path, str], Path]) -> Path:
    """Under runs/, for five checkpoints of the tiny net."""
    return disk(place / "runs", "10m")


def fill(path: Path) -> None:
    with pytest.raises(OSError, match="No space"), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


@pytest.mark.parametrize("noticed", [True, False], ids=["before", "in mid-save"])
def test_a_disk_that_fills_up_does_not_end_a_run(
    small_disk: Path,
    begun: Callable[[Limits], Iterator[Event]],
    whole: Path,
    noticed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "RETRY_SECONDS", 0.0)
    if not noticed:
        monkeypatch.setattr(checkpoints, "_check_room", lambda *_: None)
    last = small_disk / "small-1" / "last.safetensors"
    before, warnings, saves = last.read_bytes(), [], []
    for event in begun(Limits(STEPS, save=Every(2, "steps"))):
        if isinstance(event, Step) and event.step == 5:
            on_disk = last.read_bytes()
            assert on_disk != before
            (small_disk / "small-1" / "best.safetensors").unlink()
            fill(small_disk / "filler")
        elif isinstance(event, Step) and event.step == 10:
            assert last.read_bytes() == on_disk
            (small_disk / "filler").unlink()
        elif isinstance(event, Note) and event.warning:
            warnings.append(event.text)
        elif isinstance(event, Saved):
            saves.append(event.step)
    assert isinstance(event, Ended)
    assert saves[0] == 4 and saves[1] == 10 and saves[-1] == STEPS
    assert any(
        text.startswith("the disk is full: ") and text.endswith("of checkpoints that of step 4 is the newest")
        for text in warnings
    ), warnings
    assert any("best.safetensors" in text and text.endswith("without this one") for text in warnings)
    ours, theirs = (state(run)[0] for run in (small_disk / "small-1", whole))
    assert_same_tensors(ours, theirs)
    assert metrics(small_disk / "small-1") == metrics(whole), "the lines waited for room"


def test_a_run_whose_last_save_fails_says_so_and_goes_on_when_there_is_space(
    small_disk: Path, train: Run, whole: Path
) -> None:
    train("--max-steps", 2).succeeded()
    filler, last = small_disk / "filler", small_disk / "small-1" / "last.safetensors"
    fill(filler)
    outcome = train("--max-steps", 4)
    outcome.failed("the disk is full: ", "the same command then goes on")
    assert "the checkpoint of step 4 is lost, that of step 2 is the newest" in outcome.err
    assert checkpoints.load(last).position.steps == 2
    assert not list((small_disk / "small-1").glob(".*.tmp"))
    filler.unlink()
    assert "from step 2" in train("--max-steps", STEPS).succeeded().err
    assert_same(small_disk / "small-1", whole)


def test_room_is_looked_for_before_anything_is_written(small_disk: Path, train: Run) -> None:
    train("--max-steps", 2).succeeded()
    made = checkpoints.load(small_disk / "small-1" / "last.safetensors")
    fill(small_disk / "filler")
    with pytest.raises(AlexNetError, match=r"the disk is full: .*best.safetensors needs \d\.\d MB, and 0\.\d MB"):
        checkpoints.save(small_disk / "small-1" / "best.safetensors", replace(made, velocity={}))


def test_processes_that_have_read_different_checkpoints_do_not_go_on() -> None:
    class Behind(Ranks):
        """A process whose first has read the checkpoint of another step."""

        def told(self, what: Any, by: int = 0) -> Any:
            return replace(what, steps=what.steps + 1) if by == 0 else what

    session._check_together(ALONE, Position(steps=3))
    with pytest.raises(AlexNetError, match="different checkpoints"):
        session._check_together(Behind(0, 1, torch.device("cpu")), Position(steps=3))
