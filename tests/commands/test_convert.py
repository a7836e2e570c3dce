import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alexnet_cli import imagenet, recipes
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.network.interchange import torchvision

Run = Callable[..., Any]


def document(alexnet: Run, *arguments: object) -> dict[str, Any]:
    return json.loads(alexnet(*arguments, "--json").succeeded().out)


@pytest.fixture
def theirs(place: Path) -> Path:
    """torchvision's file, but narrow, of the 1000 classes of ILSVRC-2012."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        names = list(alexnet(weights=None).state_dict())
    recipe = recipes.chosen("torchvision", ["width=0.05"])
    weights = list(checkpoints.AlexNet(recipe.network, 1000).state_dict().values())
    torch.save(dict(zip(names, weights, strict=True)), place / "alexnet-owt-7be5be79.pth")
    return Path("alexnet-owt-7be5be79.pth")


@pytest.mark.parametrize("crops", [1, 10])
def test_an_onnx_file_scores_as_the_run_it_was_made_of(trained: Path, alexnet: Run, crops: int) -> None:
    said = document(alexnet, "convert", trained, "small.onnx")
    assert set(said) == {"from", "to", "recipe", "classes", "parameters", "bytes", "origin", "differences"}
    assert (said["from"], said["to"], said["origin"]) == ("runs/small-1/best.safetensors", "small.onnx", "")
    assert (said["recipe"], said["classes"], said["bytes"]) == ("small", 2, Path("small.onnx").stat().st_size)
    assert set(said["differences"]) == {"random pictures", "drawn pictures", "ten crops"}

    ours, onnx = document(alexnet, "eval", trained, "small.onnx", "--crops", crops)["models"]
    assert onnx.pop("cross_entropy") == pytest.approx(ours.pop("cross_entropy"), rel=1e-5)
    assert (onnx.pop("model"), ours.pop("model")) == ("small.onnx", said["from"])
    for score in (onnx, ours):  # of probabilities too, by bins whose borders one of them may just miss
        assert score.pop("calibration")["error"] >= 0
    assert onnx == ours, "recipe, steps and errors"


def test_an_onnx_file_predicts_as_the_run_it_was_made_of(trained: Path, pictures: Path, alexnet: Run) -> None:
    outcome = alexnet("convert", trained, "small.onnx").succeeded()
    assert "onnxruntime, drawn pictures" in outcome.out and "of the largest output" in outcome.out
    file = pictures / "test" / "discs" / "1.png"
    (ours,) = document(alexnet, "predict", file, "--model", trained)["pictures"]
    outcome = alexnet("predict", file, "--model", "small.onnx", "--json").succeeded()
    assert outcome.err == "with small.onnx: ONNX\n"
    (onnx,) = json.loads(outcome.out)["pictures"]
    for one, other in zip(onnx["top"], ours["top"], strict=True):
        assert one.pop("probability") == pytest.approx(other.pop("probability"), rel=1e-5)
    assert onnx == ours


def test_safetensors_without_velocity(trained: Path, alexnet: Run) -> None:
    alexnet("convert", trained / "last.safetensors", "slim.safetensors").succeeded()
    before, after = (load_file(path) for path in (trained / "last.safetensors", "slim.safetensors"))
    assert set(after) == {name for name in before if not name.startswith("velocity.")}
    assert all(torch.equal(after[name], before[name]) for name in after)
    assert document(alexnet, "eval", "slim.safetensors")["models"][0]["steps"] == 3


def test_torchvisions_file_in_and_out(theirs: Path, pictures: Path, alexnet: Run) -> None:
    file = pictures / "test" / "discs" / "1.png"
    direct = alexnet("predict", file, "--model", theirs, "--json").succeeded()
    assert direct.err == f"with {theirs}: torchvision's weights\n"
    outcome = alexnet("convert", theirs, "ours.safetensors", "--recipe", "torchvision").succeeded()
    assert f"{theirs}: torchvision's weights" in outcome.err and "1,000" in outcome.out
    again = document(alexnet, "predict", file, "--model", "ours.safetensors")
    ours, theirs_direct = again["pictures"][0]["top"], json.loads(direct.out)["pictures"][0]["top"]
    for one, other in zip(ours, theirs_direct, strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], rel=1e-6)
    assert [guess["wnid"] in imagenet.classes() for guess in again["pictures"][0]["top"]] == [True] * 5

    alexnet("convert", "ours.safetensors", "back.pth").succeeded()
    before, after = (torch.load(path, weights_only=True) for path in (theirs, "back.pth"))
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torchvision.read(Path("back.pth"))

    alexnet("convert", theirs, "ours.onnx").succeeded()
    onnx = document(alexnet, "predict", file, "--model", "ours.onnx", "--crops", 10)["pictures"][0]["top"]
    ours = document(alexnet, "predict", file, "--model", "ours.safetensors", "--crops", 10)["pictures"][0]["top"]
    assert [guess["label"] for guess in onnx] == [guess["label"] for guess in ours]


def test_a_dataset_of_other_classes_is_refused(theirs: Path, alexnet: Run) -> None:
    outcome = alexnet("eval", theirs)
    assert outcome.code == 1 and "the model knows 1000 classes (tench, goldfish" in outcome.err


# --- refusals


def test_another_recipes_weights(trained: Path, theirs: Path, alexnet: Run) -> None:
    out = ("out.safetensors", "--recipe")
    said = alexnet("convert", theirs, *out, "paper")
    said.failed("holds the weights of recipe torchvision, not of paper", "say --recipe torchvision")
    alexnet("convert", trained, *out, "paper").failed(
        "the weights of recipe small, not of paper", "--recipe small"
    )
    alexnet("convert", trained, *out, "nonsense").failed("there is no recipe 'nonsense'", "torchvision")
    alexnet("convert", trained, "out.pth").failed("these are the weights of small", "only recipe torchvision")
    assert not list(Path().glob("out.*"))
    alexnet("convert", trained, *out, "small").succeeded()


def test_what_is_there_is_not_replaced_unasked(trained: Path, alexnet: Run) -> None:
    Path("out.onnx").write_text("mine")
    alexnet("convert", trained, "out.onnx").failed("out.onnx exists already", "--overwrite")
    assert Path("out.onnx").read_text() == "mine"
    alexnet("convert", trained, "out.onnx", "--overwrite").succeeded()
    alexnet("convert", "out.onnx", "out.safetensors").failed("out.onnx is an ONNX file, which is for", "made of")
    best = trained / "best.safetensors"
    alexnet("convert", trained, best, "--overwrite").failed("is the file that is to be converted", "another file")


def test_files_that_are_no_models(trained: Path, alexnet: Run) -> None:
    alexnet("convert", trained, "out.h5").failed("there is no writing '.h5' files", ".safetensors, .pth or .onnx")
    alexnet("convert", "none.pth", "out.onnx").failed("there is no file none.pth", "run directory")
    Path("text.pth").write_text("hello")
    alexnet("convert", "text.pth", "out.onnx").failed("text.pth is not a", ".safetensors")
    Path("empty.caffemodel").touch()
    alexnet("convert", "empty.caffemodel", "out.onnx").failed("empty.caffemodel is not a", ".safetensors")
    Path("net.caffemodel").write_bytes(b"\n\x05Caffe\xff")
    alexnet("convert", "net.caffemodel", "out.onnx").failed(
        "is not a net of Caffe: it is cut short", "bvlc_alexnet"
    )
    assert not list(Path().glob("out.*"))
