"""What TensorBoard reads is the log: as often, each step once, also after kills."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_cli import runs
from alexnet_cli.dataset.manifest import open_dataset
from alexnet_cli.engine import tensorboard, training
from alexnet_cli.engine.events import Note, Step
from alexnet_cli.engine.launch import placement
from alexnet_cli.engine.session import Every, Limits

from .same import STEPS, assert_same

Run = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in tensorboard and what it needs


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar, as TensorBoard's own reader has them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.jsonl."""
    lines = runs.read_metrics(runs.open_run(run))
    steps = [line for line in lines if line["kind"] == "step"]
    tallies = [(line["step"], line["tally"]) for line in lines if line["kind"] == "validation"]
    return {
        **{
            f"training/{key}": [(line["step"], line[key]) for line in steps]
            for key in ("loss", "gradient", "rate")
        },
        "validation/loss": [(step, tally["loss"] / 18) for step, tally in tallies],
        "validation/top-1 error": [(step, 100 * tally["wrong1"] / 18) for step, tally in tallies],
    }


def assert_shown_is_logged(run: Path) -> None:
    ours, theirs = shown(run), logged(run)
    assert ours.keys() == theirs.keys()
    for tag, points in theirs.items():
        assert [step for step, _ in ours[tag]] == [step for step, _ in points], tag
        assert [v for _, v in ours[tag]] == pytest.approx([v for _, v in points], rel=1e-6), tag


def test_what_is_shown_is_the_log_through_pauses_and_kills(train: Run, tiny: Path, whole: Path) -> None:
    run = Path("runs/small-1")
    train("--max-steps", 4).succeeded()  # without it
    config = runs.open_run(run).config
    limits = Limits(save=Every(4, "steps"))
    job = training.Job(open_dataset(tiny), config, limits, placement("cpu", None, None), tensorboard=True)
    events = job.started(Path("runs"), "small-1", None, False)
    for event in events:
        if isinstance(event, Step) and event.step == 11:  # three after the last checkpoint
            events.close()  # type: ignore[attr-defined]
    assert shown(run)["training/loss"][-1][0] == 11
    train("--tensorboard", "--max-steps", 14).succeeded()
    assert_shown_is_logged(run)
    train("--tensorboard", "--max-steps", STEPS).succeeded()
    assert_shown_is_logged(run)
    assert_same(run, whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's own thread
def test_a_full_disk_ends_its_files_and_not_the_run(
    train: Run, tiny: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    train("--max-steps", 3).succeeded()
    config, place = runs.open_run(Path("runs/small-1")).config, placement("cpu", None, None)
    job = training.Job(open_dataset(tiny), config, Limits(STEPS), place, tensorboard=True)
    warnings = []
    with monkeypatch.context() as patch:
        for event in job.started(Path("runs"), "small-1", None, False):
            if isinstance(event, Step) and event.step == 5:
                patch.setattr(RecordWriter, "write", full)
            elif isinstance(event, Note) and event.warning:
                warnings.append(event.text)
    assert len(warnings) == 1 and "TensorBoard's files stop here" in warnings[0] and "No space" in warnings[0]
    assert_same(Path("runs/small-1"), whole)
    train("--tensorboard", "--max-steps", STEPS + 1).succeeded()
    assert_shown_is_logged(Path("runs/small-1"))


def test_without_the_package_it_is_said(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    train("--tensorboard").failed("--tensorboard needs the package tensorboard", "alexnet-cli[tensorboard]")
    assert not Path("runs").exists()
