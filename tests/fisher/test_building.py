"""A baseline in the making: killed and gone on with, refused, and left as nothing but the model."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_cli.dataset.manifest import Dataset, open_squares
from alexnet_cli.errors import AlexNetError
from alexnet_cli.fisher import building
from alexnet_cli.fisher.building import ENCODING, LEARNING, Building, opened
from alexnet_cli.fisher.model import Baseline, Settings, load

SETTINGS = Settings("both", gaussians=4, dimensions=6, step=24, epochs=3, sample=1000)
OPTIONS = ("--gaussians", 4, "--dimensions", 6, "--step", 24, "--epochs", 3, "--sample", 1000)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 pictures are three files, and each state of a classifier is saved."""
    monkeypatch.setattr(building, "CHUNK", 16)
    monkeypatch.setattr(building, "SAVE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def dataset(tiny: Path) -> Dataset:
    return open_squares(tiny)


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "CHUNK", 16)
        made = opened(tmp_path_factory.mktemp("undisturbed") / "whole", Path("runs"), dataset, SETTINGS)
        list(made.stages())
    return load(made.model)


def tensors(baseline: Baseline) -> dict[str, torch.Tensor]:
    return {
        f"{kind}.{name}": tensor
        for kind, judge in baseline.judges.items()
        for name, tensor in {
            **vars(judge.vocabulary),
            "classifier": judge.classifier,
            "biases": judge.biases,
        }.items()
    }


def same(one: Baseline, other: Baseline) -> bool:
    ours, theirs = tensors(one), tensors(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def interrupted(made: Building, after: int) -> bool:
    """Stop it at a stage's report, as a signal's exception would; whether there were so many."""
    stages = made.stages()
    for count, _ in enumerate(stages, 1):
        if count == after:
            stages.close()
            return True
    return False


def test_stopped_anywhere_it_goes_on_to_the_same_bits(
    dataset: Dataset, tmp_path: Path, undisturbed: Baseline
) -> None:
    """Over and over, each time a little later than before."""
    made, stops = opened(tmp_path / "made", tmp_path, dataset, SETTINGS), 0
    while interrupted(made, 7 + stops):
        stops += 1
        made = opened(tmp_path / "made", tmp_path, dataset, SETTINGS)
    assert stops > 8
    assert same(load(made.model), undisturbed)


def test_what_is_done_is_not_done_again(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = opened(tmp_path / "made", tmp_path, dataset, replace(SETTINGS, descriptor="colour"))
    for stage in made.stages():
        if (stage.name, stage.done) == (ENCODING, 33):  # two files are written
            break
    encoded: list[int] = []
    vector = Building._vector

    def noted(self: Building, kind: Any, vocabulary: Any, reader: Any, picture: int) -> Any:
        encoded.append(picture)
        return vector(self, kind, vocabulary, reader, picture)

    monkeypatch.setattr(Building, "_vector", noted)
    monkeypatch.setattr(building.mixture, "learnt", None)
    list(made.stages())
    assert sorted(encoded) == [*range(32, 40)]


def test_only_the_model_and_its_papers_stay(dataset: Dataset, tmp_path: Path) -> None:
    made = opened(tmp_path / "made", tmp_path, dataset, replace(SETTINGS, descriptor="colour"))
    list(made.stages())
    assert {path.name for path in made.root.iterdir()} == {"baseline.json", "baseline.safetensors", "seconds.json"}
    assert [*made.stages()] == []
    assert list(made.seconds()) == [f"colour: {stage}" for stage in building.STAGES]


def test_vectors_are_of_their_pictures(dataset: Dataset, tmp_path: Path) -> None:
    """Those of the last file are the ones that the finished model would see in the pictures."""
    made = opened(tmp_path / "made", tmp_path, dataset, replace(SETTINGS, descriptor="colour"))
    for stage in made.stages():
        if stage.name == LEARNING:
            rows = np.load(made.root / "colour-vectors-00002.npy")
            break
    vocabulary = made._vocabulary("colour")
    with pytest.raises(StopIteration) as found:
        next(vocabulary)
    assert rows.shape == (8, SETTINGS.length) and rows.dtype == np.float16
    with building.Reader(made.split) as reader:
        for row, picture in zip(rows, range(32, 40), strict=True):
            expected = made._vector("colour", found.value.value, reader, picture)
            assert row == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert np.linalg.norm(rows.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-3)


def test_the_same_command_finds_its_own(dataset: Dataset, tmp_path: Path) -> None:
    first = opened(None, tmp_path / "runs", dataset, SETTINGS)
    assert first.root.name == "baseline-1"
    assert opened(None, tmp_path / "runs", dataset, SETTINGS).root == first.root
    other = opened(None, tmp_path / "runs", dataset, replace(SETTINGS, gaussians=5))
    assert other.root.name == "baseline-2"
    with pytest.raises(AlexNetError, match=r"begun otherwise: --gaussians, --seed changed"):
        opened(first.root, tmp_path / "runs", dataset, replace(SETTINGS, gaussians=5, seed=2))
    with pytest.raises(AlexNetError, match="begun otherwise: the dataset changed"):
        opened(first.root, tmp_path / "runs", replace(dataset, fingerprint="another"), SETTINGS)


def test_what_is_in_the_way_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for place in (tmp_path, tmp_path / "mine"):
        with pytest.raises(AlexNetError, match="holds something else than a baseline"):
            opened(place, tmp_path, dataset, SETTINGS)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_dataset_without_training_pictures_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    without = replace(dataset, splits={"val": dataset.splits["val"]})
    with pytest.raises(AlexNetError, match="has no training pictures"):
        opened(None, tmp_path, without, SETTINGS)
    with pytest.raises(AlexNetError, match="has one class only"):
        opened(None, tmp_path, replace(dataset, classes=("one",)), SETTINGS)


def test_the_disk_is_looked_at_first(dataset: Dataset, tmp_path: Path) -> None:
    made = opened(None, tmp_path, dataset, replace(SETTINGS, gaussians=1 << 40))
    with pytest.raises(AlexNetError, match=r"the Fisher vectors of 40 pictures need .* free"):
        list(made.stages())


@pytest.mark.parametrize("size", ["100k", "620k"])
def test_a_full_disk_is_said_and_what_is_done_is_kept(
    dataset: Dataset,
    tmp_path: Path,
    disk: Callable[[Path, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Baseline,
    size: str,
) -> None:
    """At the first sample, and further on."""
    monkeypatch.setattr(Building, "_check_room", lambda _: None)
    root = disk(tmp_path / "disk", size) / "made"
    made = opened(root, tmp_path, dataset, SETTINGS)
    with pytest.raises(AlexNetError, match="the disk is full") as caught:
        list(made.stages())
    assert "goes on from what is finished" in caught.value.hint
    subprocess.run(["mount", "-o", "remount,size=20m", root.parent], check=True)
    list(made.stages())
    assert same(load(made.model), undisturbed)


def test_a_part_of_the_pictures(dataset: Dataset, tmp_path: Path) -> None:
    made = opened(None, tmp_path, dataset, replace(SETTINGS, descriptor="colour", limit=20))
    assert len(made.split.index) == 20 and made._about()["pictures"] == 20


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_signal_leaves_what_is_done(
    number: int,
    place: Path,
    spawn: Callable[..., Any],
    alexnet: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Baseline,
) -> None:
    """In the middle of fitting the first mixture, in a process of its own."""
    command = ("baseline", "dataset", "--out", "made", *OPTIONS)
    started = spawn(*command)
    while not (place / "made" / "sift-sample.npy").exists():
        assert started.process.poll() is None
        time.sleep(0.01)
    started.process.send_signal(number)
    assert started.outcome().code == (130 if number == signal.SIGINT else -number)
    assert not (place / "made" / "baseline.safetensors").exists()
    some = Building._some

    def of_colour(self: Building, kind: Any, *rest: Any) -> Any:
        assert kind == "colour", "the sample of SIFT was there already"
        return some(self, kind, *rest)

    monkeypatch.setattr(Building, "_some", of_colour)
    said = json.loads(alexnet(*command, "--json").succeeded().out)
    assert said["baseline"] == "made" and same(load(place / "made" / "baseline.safetensors"), undisturbed)
