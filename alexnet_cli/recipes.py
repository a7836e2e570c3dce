"""Recipes: complete descriptions of a network, what it is fed, its optimizer and its schedule.

A recipe is a function that returns frozen dataclasses, and a variant is another recipe with a few fields
replaced. `paper` is the default; `text` is the paper read to the letter; `small` is `paper` at a quarter of
the width. `departures` says where a recipe leaves the printed text, and why.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from alexnet_cli import paper as printed
from alexnet_cli.errors import AlexNetError
from alexnet_cli.settings import changed, differences

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


@dataclass(frozen=True)
class Normalization:
    """Local response normalization after conv1 and conv2."""

    order: Literal["after-relu", "before-relu"] = "after-relu"
    """In the first layer; the 2012 code normalised conv1 before its ReLU. conv2's is always after."""
    across: Literal["tower", "layer"] = "tower"
    """Whether a map's neighbours are those of its own tower or of the whole layer."""
    size: int = printed.LRN_SIZE
    alpha: float = printed.LRN_ALPHA
    """Multiplies the sum of squares (torch and the 2012 code divide theirs by `size` first)."""
    beta: float = printed.LRN_BETA
    k: float = printed.LRN_K


@dataclass(frozen=True)
class Network:
    width: float = 1.0
    """Multiplies the kernels and hidden units of every layer; σ grows by √(full fan-in / fan-in)."""
    kernels: tuple[int, ...] = printed.CONVOLUTION_KERNELS
    hidden: int = printed.HIDDEN_UNITS
    towers: int = printed.TOWERS
    """conv2, conv4 and conv5 see only the maps of their own tower."""
    normalization: Normalization = field(default_factory=Normalization)
    dropout: float = printed.DROPOUT
    dropout_scaling: Literal["test", "training"] = "test"
    """`test`: outputs are halved at test, as in the paper; `training`: doubled in training, as in torch."""
    sigma: tuple[float, ...] = (printed.WEIGHT_SIGMA,) * len(LAYERS)
    """Standard deviation of the initial weights, conv1 to fc8."""
    one_biases: tuple[str, ...] = printed.ONE_BIASES
    """The layers whose biases start at 1."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Outputs of conv1 to fc7, scaled by `width` and rounded to a multiple of the towers."""
        full = (*self.kernels, self.hidden, self.hidden)
        return tuple(max(1, round(n * self.width / self.towers)) * self.towers for n in full)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a 256×256 training picture; at test it is the centre or ten crops, less the mean."""

    crops: bool = True
    """A random 224×224 patch (33×33 places) instead of the central one."""
    reflections: bool = True
    colour_noise: float = printed.COLOUR_NOISE
    """Standard deviation of α, which multiplies a principal component of the RGB values."""
    colour_scale: Literal["deviation", "eigenvalue"] = "deviation"
    """`deviation`: α·√λ, as the 2012 code; `eigenvalue`: α·λ with pixels in [0, 1], the printed formula."""


@dataclass(frozen=True)
class Optimizer:
    """v ← momentum·v − decay·rate·w − rate·gradient;  w ← w + v  (paper §5)."""

    rate: float = printed.LEARNING_RATE
    bias_rate: float = 1.0
    """Times `rate`."""
    momentum: float = printed.MOMENTUM
    decay: float = printed.WEIGHT_DECAY
    bias_decay: float = 0.0
    """Times `decay`."""
    batch_size: int = printed.BATCH_SIZE


@dataclass(frozen=True)
class Schedule:
    """The rate is divided by `drop` at each plateau; training ends at the plateau after the last drop."""

    epochs: int = printed.EPOCHS
    drop: float = printed.RATE_DROP
    drops: int = printed.RATE_DROPS
    patience: int = 5
    """A plateau: so many validations without an improvement of `threshold`."""
    threshold: float = 0.1
    """Percentage points of top-1 validation error."""


@dataclass(frozen=True)
class Recipe:
    name: str
    network: Network = field(default_factory=Network)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


def paper() -> Recipe:
    """The paper's net; where its text is silent or impossible, the authors' 2012 code decides."""
    return Recipe("paper")


def text() -> Recipe:
    """The paper read to the letter, also where the authors' code did otherwise."""
    base = paper()
    return replace(
        base,
        name="text",
        network=replace(base.network, normalization=replace(base.network.normalization, across="layer")),
        augmentation=replace(base.augmentation, colour_scale="eigenvalue"),
        optimizer=replace(base.optimizer, bias_decay=1.0),
    )


def small() -> Recipe:
    """`paper` at a quarter of the width (3.6 M weights with 8 classes): for demos, tests and small machines."""
    base = paper()
    return replace(base, name="small", network=replace(base.network, width=0.25))


RECIPES: dict[str, Callable[[], Recipe]] = {"paper": paper, "text": text, "small": small}


def named(name: str) -> Recipe:
    if name not in RECIPES:
        raise AlexNetError(f"there is no recipe '{name}'", f"the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()


def chosen(name: str, assignments: list[str]) -> Recipe:
    """The named recipe with `key=value` settings applied, checked."""
    return checked(changed(named(name), assignments))


def checked(recipe: Recipe) -> Recipe:
    """The same recipe, or an error that names the setting without sense."""

    def need(good: bool, key: str, what: str) -> None:
        if not good:
            raise AlexNetError(f"{key} {what}", f"change it with --set {key}=…")

    net, optimizer, schedule = recipe.network, recipe.optimizer, recipe.schedule
    need(net.width > 0, "network.width", "must be above 0")
    need(net.towers >= 1, "network.towers", "must be at least 1")
    need(len(net.kernels) == 5 and min(net.kernels) > 0, "network.kernels", "must be five positive numbers")
    need(net.hidden > 0, "network.hidden", "must be above 0")
    need(len(net.sigma) == len(LAYERS), "network.sigma", "must be eight numbers, conv1 to fc8")
    need(min(net.sigma) >= 0, "network.sigma", "must not be negative")
    need(set(net.one_biases) <= set(LAYERS), "network.one_biases", f"must be among {', '.join(LAYERS)}")
    need(0 <= net.dropout < 1, "network.dropout", "must be at least 0 and below 1")
    need(net.normalization.size >= 0, "network.normalization.size", "must be 0 (none) or an odd number")
    need(
        net.normalization.size == 0 or net.normalization.size % 2 == 1,
        "network.normalization.size",
        "must be 0 (none) or an odd number",
    )
    need(net.normalization.alpha >= 0, "network.normalization.alpha", "must not be negative")
    need(net.normalization.k > 0, "network.normalization.k", "must be above 0")
    need(recipe.augmentation.colour_noise >= 0, "augmentation.colour_noise", "must not be negative")
    need(optimizer.rate >= 0, "optimizer.rate", "must not be negative")
    need(optimizer.bias_rate >= 0, "optimizer.bias_rate", "must not be negative")
    need(optimizer.decay >= 0, "optimizer.decay", "must not be negative")
    need(optimizer.bias_decay >= 0, "optimizer.bias_decay", "must not be negative")
    need(optimizer.batch_size >= 1, "optimizer.batch_size", "must be at least 1")
    need(0 <= optimizer.momentum < 1, "optimizer.momentum", "must be at least 0 and below 1")
    need(schedule.epochs >= 1, "schedule.epochs", "must be at least 1")
    need(schedule.drop > 1, "schedule.drop", "must be above 1")
    need(schedule.drops >= 0, "schedule.drops", "must not be negative")
    need(schedule.patience >= 1, "schedule.patience", "must be at least 1")
    need(schedule.threshold >= 0, "schedule.threshold", "must not be negative")
    return recipe


@dataclass(frozen=True)
class Departure:
    """One place where a recipe leaves the printed text."""

    what: str
    printed: str
    here: str
    why: str


def departures(recipe: Recipe) -> list[Departure]:
    """Every choice of this recipe that the printed text does not make, with the reason and its source."""
    chosen = [
        Departure(key, _PRINTED.get(key, str(letters)), str(ours), _WHY.get(key, "set by hand"))
        for key, ours, letters in differences(recipe, text())
        if key != "name"
    ]
    return [*_EVERYWHERE, *chosen]


# What no recipe can take from the text, because it is silent or contradicts itself.
_EVERYWHERE = [
    Departure(
        "conv1's output",
        "224×224 pixels, 11×11 kernels, stride 4 (§3.5), and 253,440 neurons (Figure 2)",
        "55×55: the last windows hang 3 pixels over the right and lower edge; 290,400 neurons",
        "54×54 by the usual count, but 55×55×48×2 fits Figure 2's shapes; cuda-convnet rounds up (layer.py)",
    ),
    Departure(
        "crops",
        "a factor of 2048, 32×32 places and reflections (§4.1)",
        "33×33 places and reflections, 2178",
        "offsets 0 to 32 all lie inside 256 pixels; so does the 2012 code (convdata_jpeg.py)",
    ),
    Departure(
        "pooling",
        "nothing about padding (§3.4)",
        "none: 55 → 27 → 13 → 6",
        "the only sizes that fit Figure 2; the 2012 code (layers-145.cfg)",
    ),
    Departure(
        "schedule",
        "÷10 by hand when the validation error stopped improving, three times (§5)",
        "5 validations without 0.1 points of improvement are a plateau; the fourth ends the training",
        "a rule in place of the authors' eye; theirs were at epochs 25, 51 and 79 (layer-params-145.cfg)",
    ),
]

_PRINTED = {
    "network.normalization.across": "layer: N is the number of kernels in the layer (§3.3)",
    "augmentation.colour_scale": "eigenvalue: [p1 p2 p3][α1λ1 α2λ2 α3λ3]ᵀ (§4.1)",
    "optimizer.bias_decay": "1.0: one rule for every weight (§5)",
}
_WHY = {
    "network.normalization.across": "each GPU normalised its own half, without an exchange (layers-145.cfg)",
    "augmentation.colour_scale": "the 2012 code multiplies by standard deviations (convdata_jpeg.py, pca_stdevs)",
    "optimizer.bias_decay": "the 2012 code decays no biases (src/layer.cu, _biases with wc 0)",
    "network.width": "a smaller net for small machines; σ × √(full fan-in / fan-in) keeps the activations' scale",
}
