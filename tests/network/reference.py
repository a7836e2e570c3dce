"""The network of every recipe and its update once more, in float64 numpy, written from the formulas.

Nothing of our code is in it. Arrays are (B, K, rows, columns) or (B, units). Convolutions are sums over kernel
places, towers are halves of the maps, and every part's backward pass is by hand. Weights are a dict
{"conv1.weight": ..., "conv1.bias": ...}; the names in it say which layers there are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Numbers:
    """The paper's constants (§3.2, §3.3, §4.2), and the readings in which recipes and variants may differ."""

    towers: int = 2
    edges: tuple[int, int] = (0, 3)
    """Zeros before and after the rows and columns of the pixels."""
    exchange: bool = True
    n: int = 5
    """0 is no normalization."""
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    norm_whole_layer: bool = False
    norm1_before_relu: bool = False
    within: bool = False
    pooled: int = 3
    activation: str = "relu"
    keep: float = 0.5
    inverted_dropout: bool = False
    dropout_of_inputs: bool = False


Step = Callable[[np.ndarray], np.ndarray]


@dataclass
class Pass:
    """What a forward pass saw: outputs of the layers by name, and what each fully connected layer was given."""

    outputs: Arrays = field(default_factory=dict)
    gradients: Arrays = field(default_factory=dict)
    """Filled by the way back."""
    way_back: list[Step] = field(default_factory=list)
    """For each part in turn: the gradient of its output → that of its input."""


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


def lrn_denominator(a: np.ndarray, c: Numbers) -> np.ndarray:
    """k + α Σ a_j², j from i - n/2 to i + n/2 within the maps of one group (§3.3)."""
    total = np.zeros_like(a)
    for maps, sums in zip(np.split(a, _groups(c), 1), np.split(total, _groups(c), 1), strict=True):
        for i in range(maps.shape[1]):
            near = slice(max(0, i - c.n // 2), i + c.n // 2 + 1)
            sums[:, i] = (maps[:, near] ** 2).sum(1)
    return c.k + c.alpha * total


def lrn(a: np.ndarray, c: Numbers) -> np.ndarray:
    return a / lrn_denominator(a, c) ** c.beta


def lrn_backward(a: np.ndarray, g: np.ndarray, c: Numbers) -> np.ndarray:
    """∂b_j/∂a_i = [i = j] s_j^-β - 2αβ a_i a_j s_j^(-β-1) for i in the window of j."""
    s = lrn_denominator(a, c)
    result = g * s**-c.beta
    coefficient = 2 * c.alpha * c.beta * g * a * s ** (-c.beta - 1)
    for group in np.split(np.arange(a.shape[1]), _groups(c)):
        for j in group:
            near = group[abs(group - j) <= c.n // 2]
            result[:, near] -= a[:, near] * coefficient[:, j, None]
    return result


def _groups(c: Numbers) -> int:
    return 1 if c.norm_whole_layer else c.towers


def box(x: np.ndarray) -> np.ndarray:
    """The sum over the 5×5 places around each place of a map; there is nothing beyond the edges."""
    return windows(padded(x, 2, 2), 5, 1).sum((4, 5))


def within(a: np.ndarray) -> np.ndarray:
    """The 2012 code's second normalization (cnorm2): a / (1 + 0.001/25 Σ a²)^0.75."""
    return a / (1 + 0.001 / 25 * box(a**2)) ** 0.75


def within_backward(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    s = 1 + 0.001 / 25 * box(a**2)
    return g * s**-0.75 - 2 * 0.75 * 0.001 / 25 * a * box(g * a * s**-1.75)


def overhung(x: np.ndarray, size: int) -> np.ndarray:
    """With what the last windows of pooling at a stride of 2 find beyond the edge: nothing that is largest."""
    beyond = (x.shape[2] - size) % 2
    return np.pad(x, ((0, 0), (0, 0), (0, beyond), (0, beyond)), constant_values=-np.inf)


def pool(x: np.ndarray, size: int) -> np.ndarray:
    """Max pooling, s = 2 and z = 3 where it overlaps (§3.4)."""
    return windows(overhung(x, size), size, 2).max((4, 5))


def pool_backward(x: np.ndarray, g: np.ndarray, size: int) -> np.ndarray:
    """To the first largest of each window."""
    whole = overhung(x, size)
    flat = windows(whole, size, 2).reshape(*g.shape, size * size).argmax(-1)
    b, k, y, z = np.indices(g.shape)
    dx = np.zeros_like(whole)
    np.add.at(dx, (b, k, 2 * y + flat // size, 2 * z + flat % size), g)
    return dx[:, :, : x.shape[2], : x.shape[3]]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


ACTIVATIONS: dict[str, tuple[Step, Step]] = {
    "relu": (relu, lambda y: (y > 0).astype(float)),
    "tanh": (np.tanh, lambda y: 1 - y**2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda y: y * (1 - y)),
}
"""Each with its slope, as a function of what it gives."""


# -- the whole net --------------------------------------------------------------------------------------------


def forward(w: Arrays, pixels: np.ndarray, masks: tuple[np.ndarray, np.ndarray] | None, c: Numbers) -> Pass:
    """Training with `masks`, of ones and zeros; test without."""
    seen = Pass()
    there = {name.partition(".")[0] for name in w}

    def keep(name: str, value: np.ndarray, back: Step) -> np.ndarray:
        seen.outputs[name] = value
        seen.way_back.append(back)
        return value

    def convolution(name: str, x: np.ndarray, edges: tuple[int, int], towers: int, stride: int = 1) -> np.ndarray:
        weight, spare = w[name + ".weight"], 0
        if stride == 4:  # the first one: 11×11 places, of which a smaller kernel sees the middle
            spare = (11 - weight.shape[2]) // 2
            weight = np.pad(weight, ((0, 0), (0, 0), (spare, spare), (spare, spare)))
        whole = padded(x, *edges)

        def back(g: np.ndarray) -> np.ndarray:
            dx, dw, db = conv_backward(whole, weight, g, stride, towers)
            middle = slice(spare, weight.shape[2] - spare)
            seen.gradients |= {name + ".weight": dw[:, :, middle, middle], name + ".bias": db}
            before, size = edges[0], x.shape[2]
            return dx[:, :, before : before + size, before : before + size]

        return keep(name, conv(whole, weight, w[name + ".bias"], stride, towers), back)

    def full(name: str, x: np.ndarray) -> np.ndarray:
        weight = w[name + ".weight"]
        seen.outputs["into " + name] = x

        def back(g: np.ndarray) -> np.ndarray:
            seen.gradients |= {name + ".weight": g.T @ x, name + ".bias": g.sum(0)}
            return g @ weight

        return keep(name, x @ weight.T + w[name + ".bias"], back)

    def active(x: np.ndarray) -> np.ndarray:
        function, slope = ACTIVATIONS[c.activation]
        y = function(x)
        seen.way_back.append(lambda g: g * slope(y))
        return y

    def normalized(name: str, x: np.ndarray) -> np.ndarray:
        return keep(name, lrn(x, c), lambda g: lrn_backward(x, g, c)) if c.n else x

    def pooled(name: str, x: np.ndarray) -> np.ndarray:
        return keep(name, pool(x, c.pooled), lambda g: pool_backward(x, g, c.pooled))

    def dropped(x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        if mask is None:
            factor = np.full_like(x, 1.0 if c.inverted_dropout else c.keep)
        else:
            factor = mask / c.keep if c.inverted_dropout else mask.astype(float)
        seen.way_back.append(lambda g: g * factor)
        return x * factor

    def hidden(name: str, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        if c.dropout_of_inputs:
            return active(full(name, dropped(x, mask)))
        return dropped(active(full(name, x)), mask)

    # 224 pixels and 55 windows: the last one ends at pixel 54·4 + 11 = 227, 3 beyond the edge, which read as 0.
    x, meeting = pixels, 1 if c.exchange else c.towers
    if "conv1" in there:
        x = convolution("conv1", x, c.edges, towers=1, stride=4)
        if c.norm1_before_relu:  # layers-145.cfg: conv1, rnorm1, pool1 with the neuron
            x = active(pooled("pool1", normalized("norm1", x)))
        else:
            x = pooled("pool1", normalized("norm1", active(x)))
    if "conv2" in there:
        edge = 2 if c.pooled == 3 else 1
        first = "conv1" not in there
        x = convolution("conv2", x, c.edges, 1, 4) if first else convolution("conv2", x, (edge, edge), c.towers)
        x = normalized("norm2", active(x))
        if c.within:
            maps = x
            x = keep("within2", within(maps), lambda g: within_backward(maps, g))
        x = pooled("pool1" if first else "pool2", x)
    if not {"conv1", "conv2"} <= there:
        x = pooled("pool2", x)
    if "conv3" in there:
        x = active(convolution("conv3", x, (1, 1), meeting))
    if "conv4" in there:
        x = active(convolution("conv4", x, (1, 1), c.towers if "conv3" in there else meeting))
    if "conv5" in there:
        edge = 1 if c.pooled == 3 else 0
        x = active(convolution("conv5", x, (edge, edge), c.towers))
    x = pooled("pool5", x)
    if "conv6" in there:
        x = active(convolution("conv6", x, (1, 1), meeting))
    maps_shape = x.shape
    seen.way_back.append(lambda g: g.reshape(maps_shape))
    mask6, mask7 = masks if masks is not None else (None, None)
    x = x.reshape(len(x), -1)
    if "fc6" in there:
        x = hidden("fc6", x, mask6)
        x = hidden("fc7", x, mask7)
    if "bottleneck" in there:
        x = full("bottleneck", x)
    full("fc8", x)
    return seen


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of -log softmax at the label, and its gradient."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return float(loss), p / len(labels)


def backward(seen: Pass, g: np.ndarray) -> Arrays:
    """Gradients of the weights under their names, and of the pixels; `g` is that of the logits."""
    for step in reversed(seen.way_back):
        g = step(g)
    return {"pixels": g, **seen.gradients}


def update(
    w: Arrays,
    v: Arrays,
    gradients: Arrays,
    rate: float,
    bias_rate: float = 1.0,
    bias_decay: bool = False,
) -> tuple[Arrays, Arrays]:
    """v ← 0.9·v - 0.0005·ε·w - ε·∂L/∂w;  w ← w + v (§5). The 2012 code and Caffe decay no biases, and give them
    twice the rate."""
    new_v = {}
    for name in w:
        bias = name.endswith(".bias")
        epsilon = rate * bias_rate if bias else rate
        decay = 0.0005 if bias_decay or not bias else 0.0
        new_v[name] = 0.9 * v[name] - decay * epsilon * w[name] - epsilon * gradients[name]
    return {name: w[name] + new_v[name] for name in w}, new_v
