"""ONNX: the network written as a graph, and such a file at work in onnxruntime.

The file takes pictures, not patches: nothing that belongs to the net is left to whoever runs it.

    pictures       uint8 (B, 3, 256, 256), RGB squares, B free
    probabilities  float32 (B, classes): of the centre patch
    logits         float32 (B, classes): before the softmax
    metadata       "alexnet": the JSON of our checkpoints, with recipe, classes and preparation

Cutting and subtracting the mean are the graph's first nodes. The initializer `places` says where the patches
lie; with ten of them in place of one, the same graph averages over the paper's ten patches (`viewed`).
"""

import json
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_cli import __version__, paper
from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.network.lrn import LocalResponseNorm
from alexnet_cli.network.within import WITHIN_ALPHA, WITHIN_BETA, WITHIN_K, WITHIN_SIZE, WithinMapNorm
from alexnet_cli.recipes import SIXTH, Network

if TYPE_CHECKING:
    import onnx

OPSET = 17  # of 2022: old enough for what people have, and nothing here needs a newer one
IR_VERSION = 8
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
METADATA = "alexnet"
HINT = "give an .onnx file that `alexnet convert` wrote"


def needed() -> None:
    """Refuse to go on without the two packages."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise AlexNetError(f"ONNX needs the package {' and '.join(missing)}", "pip install 'alexnet-cli[onnx]'")


class _Graph:
    """Nodes and initializers as they are added, each value under a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, name: str, value: Any, kind: type = np.float32) -> str:
        from onnx import numpy_helper

        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype=kind), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output


def built(
    model: AlexNet, net: Network, mean: Tensor, scale: Tensor | None, places: NDArray[np.int64], about: str
) -> "onnx.ModelProto":
    """The graph of the whole way from pictures to probabilities.

    A patch x becomes (x - mean) · scale; the mean is (3, 256, 256), cut like the picture, or one for all patches.
    `places` (views, side, side) are those of a patch's pixels in a picture's 65536; `about` becomes the metadata.
    """
    from onnx import TensorProto, helper

    graph = _Graph()
    pixels = _patches(graph, mean, scale, places)
    logits = _network(graph, model.eval(), net, pixels)
    each = graph.add("Softmax", logits, axis=1)
    views = graph.constant("views", [len(places), -1, model.fc8.out_features], np.int64)
    graph.add("ReduceMean", graph.add("Reshape", each, views), output="probabilities", axes=[0], keepdims=0)

    side, classes = paper.IMAGE_SIZE, model.fc8.out_features
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "AlexNet",
            [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["B", 3, side, side])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", classes])
                for name in ("probabilities", "logits")
            ],
            graph.initializers,
        ),
        producer_name="alexnet-cli",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string=__doc__,
    )
    helper.set_model_props(proto, {METADATA: about})
    return proto


def _patches(graph: _Graph, mean: Tensor, scale: Tensor | None, places: NDArray[np.int64]) -> str:
    """uint8 pictures → (views · B, 3, side, side), what the network sees."""
    from onnx import TensorProto

    cut_too = mean.shape[-1] == paper.IMAGE_SIZE
    x = graph.add("Cast", "pictures", to=TensorProto.FLOAT)
    subtrahend = graph.constant("mean", mean)
    if cut_too:
        x = graph.add("Sub", x, subtrahend)
    x = graph.add("Reshape", x, graph.constant("flat", [0, 3, -1], np.int64))
    x = graph.add("Gather", x, graph.constant("places", places, np.int64), axis=2)  # (B, 3, views, side, side)
    x = graph.add("Transpose", x, perm=[2, 0, 1, 3, 4])
    x = graph.add("Reshape", x, graph.constant("patches", [-1, 3, *places.shape[1:]], np.int64))
    if not cut_too:
        x = graph.add("Sub", x, subtrahend)
    return x if scale is None else graph.add("Mul", x, graph.constant("scale", scale))


def _network(graph: _Graph, model: AlexNet, net: Network, x: str) -> str:
    """As `AlexNet.forward` at test; logits."""
    activated = partial(graph.add, ACTIVATIONS[net.activation])
    pooled = partial(_pooled, graph, model.pool)

    def convolved(name: str, x: str) -> str:
        edges = model.edges if name == model.layers[0] else (0, 0, 0, 0)
        return _convolved(graph, name, getattr(model, name), edges, x)

    if "conv1" in model.layers:
        x = convolved("conv1", x)
        normalized = partial(_normalized, graph, "norm1", model.norm1, maps=net.units["conv1"])
        x = pooled(activated(normalized(x)) if model.norm1_before_relu else normalized(activated(x)))
    if "conv2" in model.layers:
        x = activated(convolved("conv2", x))
        for name, norm in (("norm2", model.norm2), ("within2", model.within2)):
            x = _normalized(graph, name, norm, x, net.units["conv2"])
        x = pooled(x)
    if not {"conv1", "conv2"} <= set(model.layers):
        x = pooled(x)
    for name in ("conv3", "conv4", "conv5"):
        x = activated(convolved(name, x)) if name in model.layers else x
    x = pooled(x)
    x = activated(convolved(SIXTH, x)) if SIXTH in model.layers else x
    x = graph.add("Flatten", x, axis=1)
    # What dropout multiplies by at test goes into the weights that follow: exactly, as it is ½ in the paper.
    scale = model.test_scale if model.dropout else 1.0
    full = [name for name in model.layers if isinstance(getattr(model, name), nn.Linear)]
    # What follows fc7 is the bottleneck, or fc8.
    scales = {"fc6": scale, "fc7": scale} if model.drops_inputs else dict.fromkeys(full[1:3], scale)
    for name in full:
        layer = getattr(model, name)
        weight = graph.constant(f"{name}.weight", layer.weight.detach() * scales.get(name, 1.0))
        bias = graph.constant(f"{name}.bias", layer.bias)
        x = graph.add("Gemm", x, weight, bias, transB=1, output="logits" if name == "fc8" else "")
        x = activated(x) if name in ("fc6", "fc7") else x
    return x


def _convolved(graph: _Graph, name: str, layer: nn.Conv2d, edges: tuple[int, int, int, int], x: str) -> str:
    """`edges` are zeros beside the map, left, right, top and bottom; a negative number cuts places away."""
    left, right, top, bottom = edges
    if min(edges) < 0:
        pads = graph.constant("edges", [0, 0, top, left, 0, 0, bottom, right], np.int64)
        x, (left, right, top, bottom) = graph.add("Pad", x, pads), (0, 0, 0, 0)
    down, across = (int(padding) for padding in layer.padding)
    assert layer.bias is not None
    return graph.add(
        "Conv",
        x,
        graph.constant(f"{name}.weight", layer.weight),
        graph.constant(f"{name}.bias", layer.bias),
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        pads=[down + top, across + left, down + bottom, across + right],
        group=layer.groups,
    )


def _pooled(graph: _Graph, pool: nn.MaxPool2d, x: str) -> str:
    sizes = [pool.kernel_size] * 2, [pool.stride] * 2
    return graph.add("MaxPool", x, kernel_shape=sizes[0], strides=sizes[1], ceil_mode=int(pool.ceil_mode))


def _normalized(graph: _Graph, name: str, norm: nn.Module, x: str, maps: int) -> str:
    if isinstance(norm, nn.Identity):
        return x
    if isinstance(norm, WithinMapNorm):
        return _normalized_within(graph, x)
    assert isinstance(norm, LocalResponseNorm), f"there is no ONNX for {type(norm).__name__}"
    # ONNX divides its α by the size; ours multiplies the sum of squares.
    lrn = partial(graph.add, "LRN", size=norm.size, alpha=norm.alpha * norm.size, beta=norm.beta, bias=norm.k)
    if norm.towers == 1:
        return lrn(x)
    # Each tower passes as a picture of its own; 0 leaves rows and columns as they are.
    apart = graph.constant(f"{name}.towers", [-1, maps // norm.towers, 0, 0], np.int64)
    together = graph.constant(f"{name}.maps", [-1, maps, 0, 0], np.int64)
    return graph.add("Reshape", lrn(graph.add("Reshape", x, apart)), together)


def _normalized_within(graph: _Graph, x: str) -> str:
    squares = graph.add("Mul", x, x)
    size, pads = [WITHIN_SIZE] * 2, [WITHIN_SIZE // 2] * 4
    mean = graph.add("AveragePool", squares, kernel_shape=size, strides=[1, 1], pads=pads, count_include_pad=1)
    scaled = graph.add("Mul", mean, graph.constant("within2.alpha", WITHIN_ALPHA))
    denominator = graph.add("Add", scaled, graph.constant("within2.k", WITHIN_K))
    power = graph.add("Pow", denominator, graph.constant("within2.beta", -WITHIN_BETA))
    return graph.add("Mul", x, power)


# --- such a file at work


def opened(path: Path) -> tuple["onnx.ModelProto", dict[str, Any]]:
    """The graph of a file that `convert` wrote, and its metadata."""
    needed()
    import onnx

    try:
        proto = onnx.load_model(path, load_external_data=False)
        about = json.loads({entry.key: entry.value for entry in proto.metadata_props}[METADATA])
    except KeyError:
        raise AlexNetError(f"{path} is not an ONNX file of alexnet: it says nothing of classes", HINT) from None
    except Exception as error:  # protobuf's own, and whatever json finds
        raise AlexNetError(f"{path} cannot be read as ONNX: {type(error).__name__}", HINT) from error
    outside = [tensor.name for tensor in proto.graph.initializer if tensor.external_data]
    if outside or not isinstance(about, dict):
        raise AlexNetError(f"{path} is not an ONNX file of alexnet: it is not whole in itself", HINT)
    return proto, about


def viewed(proto: "onnx.ModelProto", places: NDArray[np.int64]) -> "onnx.ModelProto":
    """The same graph with the average over other patches, (views, side, side) places of a picture's 65536."""
    import onnx
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    if not {"places", "views"} <= tensors.keys():
        raise AlexNetError("the ONNX file has no places of patches to change", HINT)
    views = numpy_helper.to_array(tensors["views"]).copy()
    views[0] = len(places)
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for tensor in changed.graph.initializer:
        if tensor.name in ("places", "views"):
            tensor.CopyFrom(numpy_helper.from_array(places if tensor.name == "places" else views, tensor.name))
    del changed.graph.output[1:]  # the logits are of each patch
    return changed


def runner(
    proto: "onnx.ModelProto", device: torch.device, outputs: tuple[str, ...] = ("probabilities",)
) -> Callable[[Tensor], list[Tensor]]:
    """uint8 pictures (B, 3, 256, 256) → the outputs of that name, by onnxruntime."""
    needed()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait by spinning slow down whatever else runs on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    there = onnxruntime.get_available_providers()
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in there]
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers)
    except Exception as error:  # onnxruntime has a dozen kinds, none of them in common
        raise AlexNetError(f"onnxruntime refuses the ONNX file: {str(error)[:200]}", HINT) from error

    def run(pictures: Tensor) -> list[Tensor]:
        found = session.run(list(outputs), {"pictures": pictures.cpu().numpy()})
        return [torch.from_numpy(array) for array in found]

    return run
