"""ONNX: what onnxruntime makes of our graphs, beside the network itself."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from alexnet_cli import recipes
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine import conversion, models
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject
from alexnet_cli.engine.prediction import classifier
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.interchange import onnx as interchange

CPU = torch.device("cpu")
CLASSES = 7
RECIPES = ("paper", "text", "original", "caffe", "torchvision")
VARIANTS = (
    *("paper+six-conv", "paper+one-gpu", "paper+ungrouped", "original+no-exchange", "text+no-lrn"),
    *("paper+non-overlapping", "paper+tanh", "caffe+sigmoid", "paper+no-dropout", "torchvision+no-conv1"),
    *("paper+no-conv1", "paper+no-conv2", "paper+no-conv3", "paper+no-conv4", "paper+no-conv5"),
    *("paper+bottleneck", "torchvision+bottleneck", "paper+four-layer"),
)


def some(name: str, *assignments: str) -> Checkpoint:
    """A narrow net whose outputs differ from class to class, and whose mean differs from place to place."""
    recipe = recipes.chosen(name, ["width=0.06", *assignments])
    model = AlexNet(recipe.network, CLASSES)
    initialise(model, recipe.network, 1)
    generator = torch.Generator().manual_seed(2)
    mean = 90 + 60 * torch.rand((3, 256, 256), generator=generator)
    colours = Colours(mean, np.ones(3), np.eye(3))
    subject = Subject(
        tuple(f"thing {n}" for n in range(CLASSES)), (None,) * CLASSES, colours, {"size": 256}, "f00d"
    )
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    weights["fc8.bias"] = torch.randn(CLASSES, generator=generator)
    return Checkpoint(recipe, subject, Position(steps=5), weights, {})


def pictures(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, 256, 256), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", [*RECIPES, *VARIANTS])
def test_onnxruntime_gives_what_the_network_gives(tmp_path: Path, name: str) -> None:
    path, checkpoint = tmp_path / "net.onnx", some(name)
    said = conversion.write(path, checkpoint)
    assert set(said) == {"random pictures", "drawn pictures", "ten crops"} and max(said.values()) < 5e-6
    onnx.checker.check_model(str(path), full_check=True)
    # By onnxruntime alone, as anybody would.
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ours = classifier(checkpoint, 1, CPU)
    for batch in (pictures(1), pictures(4)):
        probabilities, logits = session.run(None, {"pictures": batch.numpy()})
        wanted = ours(batch)
        difference = ((torch.from_numpy(probabilities) - wanted) / wanted).abs().max()
        print(f"{name}: largest relative difference of a probability {difference:.1e}")
        assert difference < 1e-5 and probabilities.dtype == np.float32
        assert np.allclose(torch.from_numpy(logits).softmax(1), probabilities, rtol=1e-5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a recipe, to be read only."""
    folder = tmp_path_factory.mktemp("written")

    @cache
    def write(name: str) -> Path:
        conversion.write(folder / f"{name}.onnx", some(name))
        return folder / f"{name}.onnx"

    return write


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("crops", [1, 10])
def test_through_the_classifiers_door(written: Callable[[str], Path], name: str, crops: int) -> None:
    path, checkpoint = written(name), some(name)
    model = models.load(path)
    assert (model.recipe, model.position, model.origin) == (checkpoint.recipe, checkpoint.position, "ONNX")
    assert model.subject.classes == checkpoint.subject.classes
    found = model.classifier(crops, CPU)(pictures())
    wanted = classifier(checkpoint, crops, CPU)(pictures())
    assert found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-5, atol=0)
    if crops == 10:
        assert not torch.allclose(wanted, classifier(checkpoint, 1, CPU)(pictures()), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "alpha", "k", "count"),
    [
        ("paper", 5e-4, 2, 2),
        ("text", 5e-4, 2, 2),
        ("original", 1e-4, 2, 2),
        ("caffe", 1e-4, 1, 2),
        ("torchvision", 0, 0, 0),
    ],
)
def test_the_normalization_is_the_native_node(
    written: Callable[[str], Path], name: str, alpha: float, k: float, count: int
) -> None:
    """ONNX divides its α by the size, as torch does: the paper's 1e-4 on the sum is 5e-4 there."""
    graph = onnx.load(written(name)).graph
    found = [{a.name: a.i or a.f for a in node.attribute} for node in graph.node if node.op_type == "LRN"]
    assert len(found) == count
    for attributes in found:
        assert attributes == pytest.approx({"size": 5, "alpha": alpha, "beta": 0.75, "bias": k})


def test_the_half_of_dropout_is_in_the_weights(written: Callable[[str], Path]) -> None:
    for name, factor in (("paper", 0.5), ("caffe", 1.0), ("torchvision", 1.0)):
        checkpoint = some(name)
        tensors = onnx.load(written(name)).graph.initializer
        found = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in tensors}
        for weight, scale in (
            ("fc6.weight", 1.0),
            ("fc7.weight", factor),
            ("fc8.weight", factor),
            ("fc7.bias", 1.0),
        ):
            assert torch.equal(found[weight], checkpoint.weights[weight] * scale)


def test_dropout_of_inputs_halved_at_test(tmp_path: Path) -> None:
    checkpoint = some("torchvision", "dropout_scaling=test")
    assert max(conversion.write(tmp_path / "net.onnx", checkpoint).values()) < 5e-6


def test_what_the_file_says_of_itself(written: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = some("paper")
    proto = onnx.load(written("paper"))
    assert json.loads({entry.key: entry.value for entry in proto.metadata_props}["alexnet"]) == json.loads(
        json.dumps(checkpoints.description(checkpoint))
    )
    (given,) = proto.graph.input
    shape = given.type.tensor_type.shape.dim
    assert given.name == "pictures" and given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [side.dim_param or side.dim_value for side in shape] == ["B", 3, 256, 256]
    assert [output.name for output in proto.graph.output] == ["probabilities", "logits"]
    assert "pictures       uint8 (B, 3, 256, 256), RGB" in proto.doc_string
    conversion.write(tmp_path / "net.onnx", checkpoint)
    assert (tmp_path / "net.onnx").read_bytes() == written("paper").read_bytes()


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("what was there before")
    monkeypatch.setattr(interchange, "WITHIN_ALPHA", 0.002)
    with pytest.raises(AlexNetError, match=r"onnxruntime does not give what the network gives, .* is not written"):
        conversion.write(path, some("original"))
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert path.read_text() == "what was there before"


def test_without_the_packages(
    written: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written("paper")
    monkeypatch.setattr(interchange, "find_spec", lambda _: None)
    for attempt in (
        lambda: models.load(file),
        lambda: conversion.check_target(tmp_path / "new.onnx", tmp_path / "x", False),
    ):
        with pytest.raises(AlexNetError, match="ONNX needs the package onnx and onnxruntime") as caught:
            attempt()
        assert "alexnet-cli[onnx]" in caught.value.hint


def test_other_files_are_refused(written: Callable[[str], Path], tmp_path: Path) -> None:
    path, good = tmp_path / "net.onnx", onnx.load(written("paper"))

    def refused(proto: onnx.ModelProto, message: str) -> None:
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(AlexNetError, match=message) as caught:
            models.load(path).classifier(10, CPU)
        assert caught.value.hint

    def changed() -> onnx.ModelProto:
        proto = onnx.ModelProto()
        proto.CopyFrom(good)
        return proto

    bare = changed()
    del bare.metadata_props[:]
    refused(bare, "it says nothing of classes")
    odd = changed()
    odd.metadata_props[0].value = "[]"
    refused(odd, "it is not whole in itself")
    elsewhere = changed()
    elsewhere.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    refused(elsewhere, "it is not whole in itself")
    cut = changed()
    del cut.graph.node[3:]
    refused(cut, "onnxruntime refuses the ONNX file")
    unknown = changed()
    unknown.metadata_props[0].value = json.dumps({**json.loads(unknown.metadata_props[0].value), "recipe": {}})
    refused(unknown, "settings do not fit|is damaged")
    fixed = changed()
    del fixed.graph.initializer[:]
    refused(fixed, "no places of patches")
    for data in (b"\x08", b"\x08\x08" + bytes(100), good.SerializeToString()[:1000]):
        path.write_bytes(data)
        with pytest.raises(AlexNetError, match=r"cannot be read as ONNX|says nothing of classes"):
            models.load(path)
