"""What `alexnet prepare` is told and tells, and what its choices mean for the commands after it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_cli import imagenet
from alexnet_cli.commands import prepare
from alexnet_cli.dataset.images import load_square
from alexnet_cli.dataset.manifest import open_dataset
from alexnet_cli.dataset.treatment import Treatment
from alexnet_cli.engine import checkpoint
from alexnet_cli.engine.checkpoint import Subject
from alexnet_cli.engine.prediction import classifier, treatment_for
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.augmentation import Colours

Run = Callable[..., Any]


def test_every_choice_reaches_the_dataset_and_the_summary(pictures: Path, tmp_path: Path, alexnet: Run) -> None:
    out = tmp_path / "dataset"
    choices = ("--geometry", "shorter", "--size", 40, "--encoding", "png", "--exif")
    found = json.loads(alexnet("prepare", pictures, "--out", out, *choices, "--json").succeeded().out)
    assert open_dataset(out).treatment == Treatment("shorter", 40, "png", exif=True)
    assert (found["geometry"], found["size"], found["encoding"], found["exif"]) == ("shorter", 40, "png", True)
    assert found["kinds"] == {"PNG": 68} and found["pictures"] == {"train": 40, "val": 18, "test": 10}
    assert "published" not in found and "odd_files" not in found


def test_a_dataset_is_not_prepared_out_of_itself(tiny: Path, place: Path, alexnet: Run) -> None:
    shutil.copytree(tiny, place / "own")
    before = {path.name: path.read_bytes() for path in Path("own").iterdir()}
    Path("link").symlink_to("own")
    for source, out in (("own", "own"), ("link", "own"), (place / "own", "link")):
        outcome = alexnet("prepare", source, "--out", out, "--overwrite")
        outcome.failed(f"{out} is the source itself", "another --out")
    assert {path.name: path.read_bytes() for path in Path("own").iterdir()} == before


def test_the_summary_names_colours_and_axes(pictures: Path, tmp_path: Path, alexnet: Run) -> None:
    outcome = alexnet("prepare", pictures, "--out", tmp_path / "dataset", "--limit", 4).succeeded()
    assert "12 PNG" in outcome.out and "256×256, the middle, JPEG 95, 4:2:0" in outcome.out
    dataset = open_dataset(tmp_path / "dataset")
    assert all(f"{value:.2f}" in outcome.out for value in dataset.rgb_mean)
    assert all(f"{value:.4f}" in outcome.out for value in dataset.eigenvectors.flat)
    assert "Krizhevsky" not in outcome.out


def test_ilsvrc_2012_stands_beside_the_published_numbers(tiny: Path) -> None:
    dataset = open_dataset(tiny)
    splits = {name: {**facts, "odd": []} for name, facts in dataset.manifest["splits"].items()}
    splits["train"]["odd"] = [
        {"name": "n02105855.tar/n02105855_2933.JPEG", "what": "PNG named .jpeg"},
        {"name": "n00000001/another.JPEG", "what": "CMYK"},
    ]
    splits["val"]["odd"] = [{"name": "ILSVRC2012_val_00019877.JPEG", "what": "CMYK"}]
    form = {"form": "ILSVRC-2012, the archives", "splits": splits}
    dataset = replace(dataset, manifest={**dataset.manifest, **form})
    facts = prepare.summary(dataset)
    assert facts["odd_files"] == {"known": 24, "found": 2}
    assert ("24 known odd files", "2 found") in prepare.summary_rows(dataset)
    titles, rows = prepare.colour_table(dataset)
    assert len(titles) == 3 and "Krizhevsky" in titles[2]
    assert [row[2] for row in rows] == [
        "127.30, 119.72, 104.91",
        *("0.5635, 0.5762, 0.5920", "0.7126, 0.0235, -0.7012", "-0.4180, 0.8170, -0.3973"),
        "121.780, 37.094, 19.721",
        "14830.4, 1376.0, 388.9",
    ]


def test_the_published_axes_are_a_right_angled_system_with_our_signs() -> None:
    axes = np.array(imagenet.AXES)
    assert np.allclose(axes @ axes.T, np.eye(3), atol=2e-5)
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in axes)


@pytest.mark.parametrize(
    "option, value",
    [("--geometry", "fit"), ("--encoding", "gif"), ("--size", 0), ("--size", 5000), ("--quality", 101)],
)
def test_choices_that_there_are_not(pictures: Path, alexnet: Run, option: str, value: object) -> None:
    outcome = alexnet("prepare", pictures, "--out", "dataset", option, value)
    assert outcome.code == 2 and option in outcome.err and not Path("dataset/manifest.json").exists()


def test_a_begun_dataset_is_not_gone_on_with_otherwise(tmp_path: Path, alexnet: Run) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "bad" / name).mkdir()
        (tmp_path / "bad" / name / "1.jpg").write_text("no picture")
    command = ("prepare", tmp_path / "bad", "--out", tmp_path / "out", "--val-fraction", 0)
    alexnet(*command).failed("cannot be used", "--max-rejects")
    alexnet(*command, "--geometry", "warp", "--size", 64).failed("--geometry, --size changed", "--overwrite")


def test_a_spool_is_used_and_left_empty(pictures: Path, tmp_path: Path, alexnet: Run) -> None:
    outcome = alexnet("prepare", pictures, "--out", tmp_path / "out", "--spool", tmp_path / "disk").succeeded()
    assert "copying 100 %  68/68 pictures" in outcome.err and "preparing 100 %" in outcome.err
    assert not [*(tmp_path / "disk").iterdir()]


def test_several_processes_do_not_download(tmp_path: Path, alexnet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = alexnet("prepare", "torchvision:MNIST", "--root", tmp_path, "--download")
    outcome.failed("--download with 2 processes", "without the launcher")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", [("train", "--dry-run"), ("eval",)])
@pytest.mark.usefixtures("trained")
def test_pictures_of_another_shape_feed_no_network(pictures: Path, alexnet: Run, command: tuple[str, ...]) -> None:
    alexnet("prepare", pictures, "--out", "other", "--size", 64, "--limit", 4).succeeded()
    alexnet(*command, "--data", "other").failed("are 64×64, and the recipes need 256×256", "--size 256")


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_a_dry_run_on_lossless_pictures(
    pictures: Path, tmp_path: Path, alexnet: Run, net: tuple[str, ...], encoding: str
) -> None:
    out = tmp_path / "dataset"
    alexnet("prepare", pictures, "--out", out, "--limit", 8, "--encoding", encoding).succeeded()
    assert "works" in alexnet("train", *net, "--data", out, "--dry-run").succeeded().out


def test_a_net_of_warped_pictures_sees_warped_pictures(
    pictures: Path, place: Path, alexnet: Run, net: tuple[str, ...]
) -> None:
    alexnet("prepare", pictures, "--out", "warped", "--geometry", "warp").succeeded()
    outcome = alexnet("train", *net, "--data", "warped", "--max-steps", 1).succeeded()
    assert "warped to squares" in outcome.err
    model = checkpoint.load(place / "runs" / "small-1" / "best.safetensors")
    assert treatment_for(model.subject) == Treatment("warp")
    file = pictures / "test" / "discs" / "3.png"
    wanted = classifier(model, 1, torch.device("cpu"))(load_square(file.read_bytes(), Treatment("warp"))[None])[0]
    found = json.loads(alexnet("predict", file, "--json").succeeded().out)["pictures"][0]["top"]
    by_label = [guess["probability"] for guess in sorted(found, key=lambda guess: guess["label"])]
    assert np.allclose(by_label, wanted.numpy(), rtol=1e-5)
    assert "of --geometry warp, dataset has crop" in alexnet("eval").succeeded().err
    assert "warp" not in alexnet("eval", "--data", "warped").succeeded().err


@pytest.mark.parametrize("preparation", [{"geometry": "fit"}, {"encoding": 3}, {"size": 64}, []])
def test_a_checkpoint_that_does_not_say_how_its_pictures_were_made(preparation: Any) -> None:
    colours = Colours(torch.zeros(3, 256, 256), np.ones(3), np.eye(3))
    with pytest.raises(AlexNetError, match="the checkpoint"):
        treatment_for(Subject(("cat",), (None,), colours, preparation, "f00d"))
