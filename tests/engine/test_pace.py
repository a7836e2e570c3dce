"""What a training on several devices says of its exchange after its first steps."""

from pathlib import Path

import pytest

from alexnet_cli.engine import pace, traffic
from alexnet_cli.recipes import chosen

from .on_ranks import Command, ended, started

TRAIN = ("train", "--recipe", "small", "--set", "width=0.05", "--batch-size", "8", "--device", "cpu")
RECIPE = chosen("small", ["width=0.05", "batch_size=8"])
CLASSES, STEPS = 2, 6


class Soon(Command):
    """Speaks after six steps, and finds each exchange long."""

    def __call__(self) -> None:
        pace.FIRST, pace.LAST, pace.MUCH = 2, STEPS, -1.0
        super().__call__()


def said(ranks: int, way: str) -> str:
    command = [*TRAIN, "--parallel", way, "--max-steps", str(STEPS + 2), "--eval-every", "1000"]
    with started(ranks, Soon(command)) as jobs:
        assert ended(jobs) == [0] * ranks, Path("stderr-0").read_text()
    return Path("stderr-0").read_text()


def megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


@pytest.fixture
def layers() -> list[traffic.Shape]:
    return traffic.shapes(RECIPE, CLASSES)


@pytest.mark.usefixtures("place")
def test_of_data_it_says_what_the_other_way_would_send(layers: list[traffic.Shape]) -> None:
    text = said(2, "data")
    assert text.count("2 × cpu: ") == 1 and f"pictures/s over {STEPS - 2} steps" in text
    assert f"each process sends {megabytes(traffic.data(layers, 2))} a step" in text
    assert "its arithmetic stands still" in text
    assert f"--parallel hybrid would send {megabytes(traffic.hybrid(layers, 2, 4))} a step" in text
    assert "twice the --batch-size" in text and "fewer processes" in text


@pytest.mark.usefixtures("place")
def test_hybrid_that_sends_less_is_not_talked_out_of(layers: list[traffic.Shape]) -> None:
    text = said(2, "hybrid")
    assert f"each process sends {megabytes(traffic.hybrid(layers, 2, 4))} a step" in text
    assert "the exchange dominates. fewer processes" in text and "--parallel data" not in text


@pytest.mark.usefixtures("place")
def test_of_towers_it_says_what_crosses_and_how_the_work_is_shared(layers: list[traffic.Shape]) -> None:
    text = said(1, "towers")
    each = megabytes(traffic.towers(layers, 8) / 2)
    assert f"{each} cross over forward and {each} backward for a step" in text
    shares = [int(part.split(" %")[0]) for part in text.split("tower a has ")[1].split(" and b ")[:2]]
    assert sum(shares) in (99, 100, 101) and min(shares) > 10
    half = 2 * 4 * sum(layer.parameters for layer in layers) / 2  # weights and their velocity
    assert f"; a {half / 1e6:.0f} MB and b {half / 1e6:.0f} MB" in text and "the exchange dominates" not in text


def test_one_process_has_nothing_to_say(place: Path) -> None:
    assert place.exists() and "pictures/s over" not in said(1, "data")
