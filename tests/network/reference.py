"""The paper's network and its update once more, in float64 numpy, written from the formulas and not from our code.

Arrays are (B, K, rows, columns) or (B, units). Convolutions are sums over kernel places, towers are halves of
the maps, and every backward pass is by hand. Weights are a dict {"conv1.weight": ..., "conv1.bias": ...}.
"""

from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Numbers:
    """The paper's constants (§3.2, §3.3, §4.2), and the readings in which recipes may differ."""

    towers: int = 2
    n: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    norm_whole_layer: bool = False
    norm1_before_relu: bool = False
    keep: float = 0.5
    inverted_dropout: bool = False


@dataclass
class Pass:
    """What a forward pass saw: `outputs` of the layers by name, `inputs` of the convolutions and full layers."""

    outputs: Arrays = field(default_factory=dict)
    inputs: Arrays = field(default_factory=dict)
    drops: Arrays = field(default_factory=dict)
    """What fc6's and fc7's outputs were multiplied by."""


# -- the parts ------------------------------------------------------------------------------------------------


def windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """(B, K, rows, columns, size, size): a view of every whole window."""
    views = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    return views[:, :, ::stride, ::stride]


def padded(x: np.ndarray, before: int, after: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))


def conv(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, towers: int) -> np.ndarray:
    """`x` is padded already; each tower's kernels see that tower's maps."""
    size = w.shape[2]
    halves = [
        np.einsum("bkyxij,fkij->bfyx", windows(maps, size, stride), kernels, optimize=True)
        for maps, kernels in zip(np.split(x, towers, 1), np.split(w, towers, 0), strict=True)
    ]
    return np.concatenate(halves, 1) + b[:, None, None]


def conv_backward(
    x: np.ndarray, w: np.ndarray, g: np.ndarray, stride: int, towers: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of the padded input, the kernels and the biases."""
    dx, dw, size = np.zeros_like(x), np.zeros_like(w), w.shape[2]
    rows, columns = g.shape[2:]
    parts = zip(
        *(np.split(a, towers, 1) for a in (x, dx, g)), np.split(w, towers), np.split(dw, towers), strict=True
    )
    for maps, dmaps, grad, kernels, dkernels in parts:  # np.split gives views
        for i in range(size):
            for j in range(size):
                place = np.s_[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
                dkernels[:, :, i, j] = np.einsum("bfyx,bkyx->fk", grad, maps[place], optimize=True)
                dmaps[place] += np.einsum("bfyx,fk->bkyx", grad, kernels[:, :, i, j], optimize=True)
    return dx, dw, g.sum((0, 2, 3))


def lrn_denominator(a: np.ndarray, c: Numbers, groups: int) -> np.ndarray:
    """k + α Σ a_j², j from i - n/2 to i + n/2 within the maps of one group (§3.3)."""
    total = np.zeros_like(a)
    for maps, sums in zip(np.split(a, groups, 1), np.split(total, groups, 1), strict=True):
        for i in range(maps.shape[1]):
            near = slice(max(0, i - c.n // 2), i + c.n // 2 + 1)
            sums[:, i] = (maps[:, near] ** 2).sum(1)
    return c.k + c.alpha * total


def lrn(a: np.ndarray, c: Numbers) -> np.ndarray:
    return a / lrn_denominator(a, c, _groups(c)) ** c.beta


def lrn_backward(a: np.ndarray, g: np.ndarray, c: Numbers) -> np.ndarray:
    """∂b_j/∂a_i = [i = j] s_j^-β - 2αβ a_i a_j s_j^(-β-1) for i in the window of j."""
    s = lrn_denominator(a, c, _groups(c))
    result = g * s**-c.beta
    coefficient = 2 * c.alpha * c.beta * g * a * s ** (-c.beta - 1)
    for group in np.split(np.arange(a.shape[1]), _groups(c)):
        for j in group:
            near = group[abs(group - j) <= c.n // 2]
            result[:, near] -= a[:, near] * coefficient[:, j, None]
    return result


def _groups(c: Numbers) -> int:
    return 1 if c.norm_whole_layer else c.towers


def pool(x: np.ndarray) -> np.ndarray:
    """Overlapping max pooling, z = 3 and s = 2 (§3.4)."""
    return windows(x, 3, 2).max((4, 5))


def pool_backward(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """To the first largest of each window."""
    flat = windows(x, 3, 2).reshape(*g.shape, 9).argmax(-1)
    b, k, y, z = np.indices(g.shape)
    dx = np.zeros_like(x)
    np.add.at(dx, (b, k, 2 * y + flat // 3, 2 * z + flat % 3), g)
    return dx


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


# -- the whole net --------------------------------------------------------------------------------------------


def forward(w: Arrays, pixels: np.ndarray, masks: tuple[np.ndarray, np.ndarray] | None, c: Numbers) -> Pass:
    """Training with `masks`, of ones and zeros; test without."""
    seen = Pass()

    def layer(
        name: str, x: np.ndarray, pad: tuple[int, int] = (0, 0), stride: int = 1, towers: int = 1
    ) -> np.ndarray:
        weight, bias = w[name + ".weight"], w[name + ".bias"]
        x = padded(x, *pad) if weight.ndim == 4 else x
        y = conv(x, weight, bias, stride, towers) if weight.ndim == 4 else x @ weight.T + bias
        seen.inputs[name], seen.outputs[name] = x, y
        return y

    def keep(name: str, value: np.ndarray) -> np.ndarray:
        seen.outputs[name] = value
        return value

    def dropped(name: str, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        if mask is None:
            factor = np.full_like(x, 1.0 if c.inverted_dropout else c.keep)
        else:
            factor = mask / c.keep if c.inverted_dropout else mask.astype(float)
        seen.drops[name] = factor
        return keep(name + " dropped", x * factor)

    # 224 pixels and 55 windows: the last one ends at pixel 54·4 + 11 = 227, 3 beyond the edge, which read as 0.
    x = layer("conv1", pixels, (0, 3), stride=4)
    x = relu(keep("norm1", lrn(x, c))) if c.norm1_before_relu else keep("norm1", lrn(relu(x), c))
    x = keep("pool1", pool(x))
    x = keep("norm2", lrn(relu(layer("conv2", x, (2, 2), towers=c.towers)), c))
    x = keep("pool2", pool(x))
    x = relu(layer("conv3", x, (1, 1)))
    x = relu(layer("conv4", x, (1, 1), towers=c.towers))
    x = relu(layer("conv5", x, (1, 1), towers=c.towers))
    x = keep("pool5", pool(x))
    mask6, mask7 = masks if masks is not None else (None, None)
    x = dropped("fc6", relu(layer("fc6", x.reshape(len(x), -1))), mask6)
    x = dropped("fc7", relu(layer("fc7", x)), mask7)
    layer("fc8", x)
    return seen


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of -log softmax at the label, and its gradient."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return float(loss), p / len(labels)


def backward(w: Arrays, seen: Pass, g: np.ndarray, c: Numbers) -> Arrays:
    """Gradients of the weights under their names, and of the pixels; `g` is that of the logits."""
    out, found = seen.outputs, {}

    def full(name: str, g: np.ndarray) -> np.ndarray:
        found[name + ".weight"], found[name + ".bias"] = g.T @ seen.inputs[name], g.sum(0)
        return g @ w[name + ".weight"]

    def convolution(
        name: str, g: np.ndarray, pad: tuple[int, int], stride: int = 1, towers: int = 1
    ) -> np.ndarray:
        dx, found[name + ".weight"], found[name + ".bias"] = conv_backward(
            seen.inputs[name], w[name + ".weight"], g, stride, towers
        )
        before, after = pad
        return dx[:, :, before : dx.shape[2] - after, before : dx.shape[3] - after]

    g = full("fc8", g)
    g = full("fc7", g * seen.drops["fc7"] * (out["fc7"] > 0))
    g = full("fc6", g * seen.drops["fc6"] * (out["fc6"] > 0)).reshape(out["pool5"].shape)
    g = pool_backward(relu(out["conv5"]), g) * (out["conv5"] > 0)
    g = convolution("conv5", g, (1, 1), towers=c.towers) * (out["conv4"] > 0)
    g = convolution("conv4", g, (1, 1), towers=c.towers) * (out["conv3"] > 0)
    g = convolution("conv3", g, (1, 1))
    g = lrn_backward(relu(out["conv2"]), pool_backward(out["norm2"], g), c) * (out["conv2"] > 0)
    g = convolution("conv2", g, (2, 2), towers=c.towers)
    if c.norm1_before_relu:
        g = pool_backward(relu(out["norm1"]), g) * (out["norm1"] > 0)
        g = lrn_backward(out["conv1"], g, c)
    else:
        g = lrn_backward(relu(out["conv1"]), pool_backward(out["norm1"], g), c) * (out["conv1"] > 0)
    return {"pixels": convolution("conv1", g, (0, 3), stride=4), **found}


def update(w: Arrays, v: Arrays, gradients: Arrays, rate: float, bias_decay: bool) -> tuple[Arrays, Arrays]:
    """v ← 0.9·v - 0.0005·ε·w - ε·∂L/∂w;  w ← w + v (§5). The 2012 code decays no biases."""
    new_v = {}
    for name in w:
        decay = 0.0005 if bias_decay or not name.endswith(".bias") else 0.0
        new_v[name] = 0.9 * v[name] - decay * rate * w[name] - rate * gradients[name]
    return {name: w[name] + new_v[name] for name in w}, new_v
