"""Caffe's files as its protocol buffers lay them out, written from caffe.proto and not from our reader."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_cli import recipes
from alexnet_cli.network.alexnet import AlexNet

Blob = Callable[[np.ndarray], bytes]
Weights = dict[str, np.ndarray]

# Of the layers in the order of train_val.prototxt: name, type, number in V1LayerParameter.LayerType.
LAYERS = (
    ("data", "Data", 5),
    *(("conv1", "Convolution", 4), ("relu1", "ReLU", 18), ("norm1", "LRN", 15), ("pool1", "Pooling", 17)),
    *(("conv2", "Convolution", 4), ("relu2", "ReLU", 18), ("norm2", "LRN", 15), ("pool2", "Pooling", 17)),
    *(("conv3", "Convolution", 4), ("relu3", "ReLU", 18), ("conv4", "Convolution", 4), ("relu4", "ReLU", 18)),
    *(("conv5", "Convolution", 4), ("relu5", "ReLU", 18), ("pool5", "Pooling", 17)),
    *(("fc6", "InnerProduct", 14), ("relu6", "ReLU", 18), ("drop6", "Dropout", 6)),
    *(("fc7", "InnerProduct", 14), ("relu7", "ReLU", 18), ("drop7", "Dropout", 6)),
    *(("fc8", "InnerProduct", 14), ("loss", "SoftmaxWithLoss", 21)),
)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def chunk(number: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def new_shape(array: np.ndarray) -> bytes:
    return chunk(7, chunk(1, b"".join(map(varint, array.shape))))


def unpacked_shape(array: np.ndarray) -> bytes:
    return chunk(7, b"".join(integer(1, side) for side in array.shape))


def old_shape(array: np.ndarray) -> bytes:
    """num, channels, height and width, where a full layer's weights are 1×1×outputs×inputs."""
    shape = (1,) * (4 - array.ndim) + array.shape
    return b"".join(integer(place, side) for place, side in enumerate(shape, 1))


def packed(array: np.ndarray) -> bytes:
    return new_shape(array) + chunk(5, array.astype("<f4").tobytes())


def old(array: np.ndarray) -> bytes:
    return old_shape(array) + chunk(5, array.astype("<f4").tobytes())


def in_pieces(array: np.ndarray) -> bytes:
    """As protobuf allows: the data before the shape, packed in two pieces, with a gradient beside them."""
    flat = array.astype("<f4").ravel()
    half = len(flat) // 2
    pieces = chunk(5, flat[:half].tobytes()) + chunk(5, flat[half:].tobytes())
    return pieces + chunk(6, flat.tobytes()) + old_shape(array)


def unpacked(array: np.ndarray) -> bytes:
    numbers = b"".join(varint(5 << 3 | 5) + struct.pack("<f", number) for number in array.ravel())
    return unpacked_shape(array) + numbers


def double(array: np.ndarray) -> bytes:
    return new_shape(array) + chunk(8, array.astype("<f8").tobytes())


BLOBS = {"packed": packed, "old": old, "in pieces": in_pieces, "unpacked": unpacked, "double": double}


def caffemodel(
    weights: Weights, blob: Blob = packed, v1: bool = False, name: str = "AlexNet", layers: tuple = LAYERS
) -> bytes:
    """A NetParameter with the weights of our names, `conv1.weight` already for BGR."""
    out = chunk(1, name)
    for layer, kind, number in layers:
        names = [f"{layer}.{part}" for part in ("weight", "bias")]
        blobs = [blob(weights[key]) for key in names if key in weights]
        if v1:
            message = chunk(2, layer) + chunk(3, layer) + chunk(4, layer) + integer(5, number)
            out += chunk(2, message + b"".join(chunk(6, part) for part in blobs))
        else:
            message = chunk(1, layer) + chunk(2, kind) + integer(10, 0)
            out += chunk(100, message + b"".join(chunk(7, part) for part in blobs))
    return out


def random_weights(net: recipes.Network, classes: int, seed: int = 1) -> Weights:
    """Such that signals neither vanish nor explode; no biases of zero."""
    rng = np.random.default_rng(seed)
    shapes = {name: tuple(p.shape) for name, p in AlexNet(net, classes).named_parameters()}
    return {
        name: rng.normal(0, 0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def deploy(net: recipes.Network, classes: int) -> str:
    """bvlc_alexnet's deploy.prototxt with as many kernels and units as `net` has."""
    outputs = dict(zip(recipes.LAYERS, (*net.widths, classes), strict=True))
    bottom, text = "data", 'name: "AlexNet"\ninput: "data"\n'
    text += "".join(f"input_dim: {side}\n" for side in (1, 3, net.crop, net.crop))
    lines = {
        "conv1": "kernel_size: 11 stride: 4",
        "conv2": "kernel_size: 5 pad: 2 group: 2",
        "conv3": "kernel_size: 3 pad: 1",
        "conv4": "kernel_size: 3 pad: 1 group: 2",
        "conv5": "kernel_size: 3 pad: 1 group: 2",
    }
    for name, kind, _ in LAYERS[1:-1]:
        top, parameters = name, ""
        match kind:
            case "Convolution":
                parameters = f"convolution_param {{ num_output: {outputs[name]} {lines[name]} }}"
            case "InnerProduct":
                parameters = f"inner_product_param {{ num_output: {outputs[name]} }}"
            case "LRN":
                parameters = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
            case "Pooling":
                parameters = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
            case _:
                top = bottom
        text += f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {parameters} }}\n'
        bottom = top
    return text + 'layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }\n'


def in_opencv(prototxt: Path, model: Path) -> Any:
    """The net as OpenCV's dnn reads it; the test extra has a version that can."""
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV no longer reads Caffe's files")
    return cv2.dnn.readNetFromCaffe(str(prototxt), str(model))
