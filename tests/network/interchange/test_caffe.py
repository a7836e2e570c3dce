"""Caffe's bvlc_alexnet: read from every encoding, read by OpenCV beside us, and never believed."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_cli import imagenet, recipes
from alexnet_cli.engine import models
from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.network.interchange import caffe
from alexnet_cli.network.interchange.fitting import fitted
from interchange import caffe_files as written

CPU = torch.device("cpu")
CLASSES = 7
NARROW = replace(recipes.caffe().network, kernels=(8, 12, 12, 12, 8), hidden=16)
WEIGHTS = written.random_weights(NARROW, CLASSES)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "bvlc_alexnet.caffemodel"
    path.write_bytes(written.caffemodel(WEIGHTS))
    return path


def refusal(path: Path, data: bytes) -> AlexNetError:
    path.write_bytes(data)
    with pytest.raises(AlexNetError) as caught:
        caffe.read(path)
    assert str(path) in caught.value.message and caught.value.hint
    return caught.value


@pytest.mark.parametrize("blob", written.BLOBS)
@pytest.mark.parametrize("v1", [False, True], ids=["layer", "layers"])
def test_every_encoding_gives_the_same_weights(tmp_path: Path, blob: str, v1: bool) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(written.caffemodel(WEIGHTS, written.BLOBS[blob], v1))
    found = caffe.read(path)
    assert found.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        wanted = array[:, ::-1] if name == "conv1.weight" else array  # BGR → RGB
        assert np.array_equal(found[name].numpy(), wanted), name


@pytest.mark.parametrize("crops", [1, 10])
def test_opencv_reads_the_same_file(model: Path, crops: int) -> None:
    prototxt = model.with_suffix(".prototxt")
    prototxt.write_text(written.deploy(NARROW, CLASSES))
    net = written.in_opencv(prototxt, model)
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (2, 3, 256, 256), dtype=np.uint8)
    mean = np.array([104, 117, 123], dtype=np.float32)[:, None, None]

    def opencv(picture: np.ndarray, row: int, column: int, reflected: bool) -> np.ndarray:
        patch = picture[:, row : row + 227, column : column + 227].astype(np.float32)[::-1] - mean
        net.setInput(np.ascontiguousarray(patch[None, :, :, ::-1] if reflected else patch[None]))
        return net.forward()[0]

    corners = [(0, 0), (0, 29), (29, 0), (29, 29), (14, 14)]
    views = [(14, 14, False)] if crops == 1 else [(*place, flip) for flip in (False, True) for place in corners]
    wanted = np.stack([np.mean([opencv(picture, *view) for view in views], 0) for picture in pictures])
    found = models.load(model).classifier(crops, CPU)(torch.from_numpy(pictures)).numpy()
    print(f"largest difference of a probability from OpenCV's, {crops} crops: {abs(found - wanted).max():.1e}")
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.max(1).min() > 1.2 / CLASSES, "the net says something"
    # And it is not indifferent to what we turn round.
    turned = models.load(model).classifier(crops, CPU)(torch.from_numpy(pictures[:, ::-1].copy())).numpy()
    assert not np.allclose(turned, wanted, rtol=1e-2)


def test_a_thousand_classes_are_ilsvrc(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(written.caffemodel(written.random_weights(NARROW, 1000)))
    model = models.load(path)
    assert model.recipe.name == "caffe" and model.recipe.network == NARROW
    assert model.subject.wnids == tuple(imagenet.classes())
    assert (model.subject.classes[0], model.subject.classes[-1]) == ("tench", "toilet tissue")
    assert model.subject.preparation["geometry"] == "warp"


def test_full_width_is_the_recipe_itself() -> None:
    with torch.device("meta"):
        full = AlexNet(recipes.caffe().network, 1000).state_dict()
    assert fitted(recipes.caffe(), full, "x") == recipes.caffe()


def test_the_mean_image_beside_it(model: Path) -> None:
    bgr = np.random.default_rng(2).uniform(80, 140, (1, 3, 256, 256)).astype(np.float32)
    beside = model.with_name("imagenet_mean.binaryproto")
    assert "123/117/104" in models.load(model).origin
    assert models.load(model).subject.colours.mean[:, 5, 9].tolist() == [123, 117, 104]
    for blob in (written.old, written.packed):
        beside.write_bytes(blob(bgr))
        found = models.load(model)
        assert np.array_equal(found.subject.colours.mean.numpy(), bgr[0, ::-1])
        assert str(beside) in found.origin
    beside.write_bytes(written.old(bgr[:, :, :20]))
    with pytest.raises(AlexNetError, match="1×3×20×256 numbers, not 3×256×256"):
        models.load(model)
    beside.write_bytes(b"\x0fnonsense")
    with pytest.raises(AlexNetError, match="is not a mean image"):
        models.load(model)


# --- other nets


def test_caffenet_is_another_net(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    message = "is CaffeNet, which pools before it normalizes"
    assert message in refusal(path, written.caffemodel(WEIGHTS, name="CaffeNet")).message
    order = list(written.LAYERS)
    order[3], order[4] = order[4], order[3]
    for v1 in (False, True):
        data = written.caffemodel(WEIGHTS, v1=v1, name="mine", layers=tuple(order))
        assert message in refusal(path, data).message


def test_what_was_found_is_said(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    other = (("conv1_1", "Convolution", 4), ("conv1_2", "Convolution", 4))
    weights = {f"{layer}.{part}": WEIGHTS[f"conv1.{part}"] for layer, *_ in other for part in ("weight", "bias")}
    said = refusal(path, written.caffemodel(weights, name="VGG", layers=other)).message
    assert "the net 'VGG' with weights of conv1_1, conv1_2, which are not bvlc_alexnet's" in said
    weights = {**WEIGHTS, "conv2.weight": np.zeros((12, 8, 5, 5), np.float32)}
    path.write_bytes(written.caffemodel(weights))
    with pytest.raises(AlexNetError, match=r"caffe's net: conv2.weight is 12×8×5×5, not 12×4×5×5"):
        models.load(path)


# --- bytes from strangers


def test_lengths_and_shapes_are_not_believed(tmp_path: Path) -> None:
    path, good = tmp_path / "net.caffemodel", written.caffemodel(WEIGHTS)
    assert "cut short" in refusal(path, good[:-1]).message
    assert "cut short" in refusal(path, written.varint(100 << 3 | 2) + written.varint(1 << 62) + b"x").message
    assert "more than ten bytes" in refusal(path, b"\x08" + b"\xff" * 20).message
    assert "wire type 3" in refusal(path, b"\x0b" * 50).message
    assert "too many fields" in refusal(path, written.integer(5, 1) * 100_001).message
    for shape in ((), (3,), (1 << 62, 1 << 62), (0, 5), (1,) * 9):
        blob = written.chunk(7, b"".join(written.integer(1, side) for side in shape)) + written.chunk(5, bytes(16))
        layer = written.chunk(1, "conv1") + written.chunk(7, blob)
        assert "a blob has 4 numbers" in refusal(path, written.chunk(100, layer)).message
    layer = written.chunk(1, "conv1") + written.chunk(7, written.chunk(5, bytes(15)))
    assert "cut short" in refusal(path, written.chunk(100, layer)).message
    refusal(path, b"")
    with pytest.raises(AlexNetError, match="cannot be read"):
        caffe.read(tmp_path)


def test_millions_of_fields_take_no_time(tmp_path: Path) -> None:
    start = time.perf_counter()
    blob = (written.varint(5 << 3 | 5) + bytes(4) + written.integer(1, 1)) * 500_000
    layer = written.chunk(1, "conv1") + written.chunk(7, blob)
    assert "too many fields" in refusal(tmp_path / "net", written.chunk(100, layer)).message
    assert time.perf_counter() - start < 20


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    v1=st.booleans(),
    blob=st.sampled_from(sorted(written.BLOBS)),
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.binary(min_size=0, max_size=12), st.integers(0, 12)), max_size=8
    ),
)
def test_changed_bytes_never_escape_the_one_door(
    tmp_path: Path, v1: bool, blob: str, changes: list[tuple[float, bytes, int]]
) -> None:
    data = caffemodels()[v1, blob]
    for place, inserted, removed in changes:
        at = int(place * len(data))
        data = data[:at] + inserted + data[at + removed :]
    path = tmp_path / "net.caffemodel"
    path.write_bytes(data)
    try:
        models.load(path)
    except AlexNetError as error:
        assert error.hint


@cache
def caffemodels() -> dict[tuple[bool, str], bytes]:
    """Of a few weights, so that most changes meet structure."""
    tiny = {name: array[:1, :1] if array.ndim > 1 else array[:1] for name, array in WEIGHTS.items()}
    return {
        (v1, name): written.caffemodel(tiny, blob, v1)
        for v1 in (False, True)
        for name, blob in written.BLOBS.items()
    }


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    generator = random.Random(1)
    for length in (1, 2, 9, 100, 5000):
        for start in (b"\x0a", b"\x12", b"\xa2\x06", b""):
            refusal(tmp_path / "net", start + generator.randbytes(length))


# --- by the commands


@pytest.mark.usefixtures("place")
def test_predict_and_convert(model: Path, pictures: Path, alexnet: Callable[..., Any]) -> None:
    file = pictures / "val" / "bars" / "0.png"
    said = alexnet("predict", file, "--model", model, "--json").succeeded()
    assert "Caffe's weights, and the mean colour 123/117/104" in said.err and '"class 3"' in said.out
    for name in ("ours.safetensors", "ours.onnx"):
        assert "Caffe's weights" in alexnet("convert", model, name, "--recipe", "caffe").succeeded().err
        again = alexnet("predict", file, "--model", name, "--json").succeeded()
        ours, theirs = ([float(w) for w in text.split() if w[:2] == "0."] for text in (again.out, said.out))
        assert np.allclose(ours, theirs, rtol=1e-4)
    alexnet("convert", model, "other.safetensors", "--recipe", "paper").failed(
        "holds the weights of recipe caffe, not of paper", "--recipe caffe"
    )
