"""What a recipe consists of: frozen dataclasses with the paper's values, and what makes no sense in them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from alexnet_cli import paper as printed
from alexnet_cli.errors import AlexNetError

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
SIXTH = "conv6"
"""The further convolution of "1 CNN*", over the last pooling; initialised as conv5."""
BOTTLENECK = "bottleneck"
"""The linear layer between fc7 and very many classes (layers-146-2011.cfg); initialised as fc8."""

MENDED = {
    "conv1": "conv2 sees the picture, in both towers, at the middles of conv1's windows; then both poolings",
    "conv2": "conv3 sees conv1's maps; both poolings follow conv1",
    "conv3": "conv4 sees the maps of both towers in its place",
    "conv4": "conv5 sees conv3's maps of its own tower",
    "conv5": "the last pooling takes conv4's maps",
}
"""What takes the place of a convolution that is left out. All poolings stay: 55 → 27 → 13 → 6 as before."""


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
    within: bool = False
    """Once more after conv2, over 5×5 places of each map: in the 2012 code, not in the paper."""


@dataclass(frozen=True)
class Network:
    width: float = 1.0
    """Multiplies the kernels and hidden units of every layer; σ grows by √(full fan-in / fan-in)."""
    kernels: tuple[int, ...] = printed.CONVOLUTION_KERNELS
    """Of conv1 to conv5; a sixth number is that of conv6, 3×3 kernels over the last pooling. With three or four
    numbers the last convolutions are left out, and all poolings stay."""
    hidden: int = printed.HIDDEN_UNITS
    """Units of fc6 and of fc7; with 0 neither is there, and the classifier sees the last pooling."""
    bottleneck: int = 0
    """Linear units between fc7 and fc8; 0 is none, as in the paper. With very many classes they save weights."""
    towers: int = printed.TOWERS
    """conv2, conv4 and conv5 see only the maps of their own tower."""
    exchange: bool = True
    """conv3 sees the maps of all towers; else they meet after the convolutions."""
    without: Literal["", "conv1", "conv2", "conv3", "conv4", "conv5"] = ""
    """A convolution left out, with its activation and normalization; `MENDED` says what takes its place."""
    crop: int = printed.CROP_SIZE
    """Rows and columns of the patch that the network sees."""
    conv1_padding: tuple[int, ...] = (0, 3)
    """Zeros before and after each row and column: (0, 3) is the overhang of the last windows in the 2012 code."""
    pooling: Literal["overlapping", "non-overlapping"] = "overlapping"
    """3×3 or 2×2 places, both each 2 places; with 2×2, conv2 and conv5 have a zero less around their maps and the
    last windows may hang over, as in the 2012 code (layers-147.cfg): 55 → 28 → 26 → 13 → 11 → 6."""
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    normalization: Normalization = field(default_factory=Normalization)
    dropout: float = printed.DROPOUT
    dropout_scaling: Literal["test", "training"] = "test"
    """`test`: outputs are halved at test, as in the paper; `training`: doubled in training, as in torch."""
    dropout_of: Literal["outputs", "inputs"] = "outputs"
    """Of fc6 and fc7."""
    initial: Literal["gaussian", "uniform"] = "gaussian"
    """`uniform`: torch's own, ±√(1 / fan-in) for weights and biases; sigma and bias are not used then."""
    sigma: tuple[float, ...] = (printed.WEIGHT_SIGMA,) * len(LAYERS)
    """Standard deviation of the initial weights, conv1 to fc8."""
    bias: float = printed.BIAS
    """The initial biases of the layers `biased`; those of the others are 0."""
    biased: tuple[str, ...] = printed.BIASED

    @property
    def widths(self) -> tuple[int, ...]:
        """Outputs of the convolutions, fc6 and fc7, scaled by `width` and rounded to a multiple of the towers."""
        full = (*self.kernels, *([self.hidden] * 2 if self.hidden else []))
        return tuple(max(1, round(n * self.width / self.towers)) * self.towers for n in full)

    @property
    def units(self) -> dict[str, int]:
        """Kernels of each convolution that there is, and units of fc6 and fc7, in the order in which they run."""
        names = (*(*LAYERS[:5], SIXTH)[: len(self.kernels)], *(("fc6", "fc7") if self.hidden else ()))
        return {name: n for name, n in zip(names, self.widths, strict=True) if name != self.without}

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers with weights, in the order in which they run."""
        return (*self.units, *([BOTTLENECK] if self.bottleneck else []), "fc8")

    @property
    def last_inputs(self) -> int:
        """Of fc8: the units of fc7 or those of the bottleneck, which are scaled as all others are."""
        narrow = max(1, round(self.bottleneck * self.width / self.towers)) * self.towers
        return narrow if self.bottleneck else self.units.get("fc7", self.flattened)

    @property
    def sides(self) -> tuple[int, ...]:
        """Rows, and as many columns, of the maps from the first convolution to fc6: 55, 27, 13, 6."""

        def pooled(side: int) -> int:
            return (side - 3) // 2 + 1 if self.pooling == "overlapping" else (side + 1) // 2

        lost = 0 if self.pooling == "overlapping" else 2  # by conv2 and by conv5
        sides = [55, pooled(55)]
        if self.without not in ("conv1", "conv2"):  # without conv1 it is conv2 that gives the 55
            sides.append(sides[-1] - lost)
        sides.append(pooled(sides[-1]))
        if "conv5" in self.units:
            sides.append(sides[-1] - lost)
        sides.append(pooled(sides[-1]))
        return tuple(dict.fromkeys(sides))

    @property
    def flattened(self) -> int:
        """Numbers that the first fully connected layer sees: of the last pooling's maps, or of conv6's."""
        *_, maps = (count for name, count in self.units.items() if name.startswith("conv"))
        return maps * self.sides[-1] ** 2

    @property
    def mask_widths(self) -> tuple[int, int]:
        """How many units the dropout masks of fc6 and fc7 cover."""
        if not self.hidden:
            return 0, 0
        hidden6, hidden7 = self.units["fc6"], self.units["fc7"]
        return (self.flattened, hidden6) if self.dropout_of == "inputs" else (hidden6, hidden7)


@dataclass(frozen=True)
class Preprocessing:
    """What happens to every patch, at test too."""

    mean: Literal["pixel", "centre", "channel"] = "pixel"
    """What is subtracted: the mean image at the patch's place (§2), its central patch wherever the patch was
    cut (the 2012 code), or torchvision's mean colour, with a division by its standard deviations."""


@dataclass(frozen=True)
class Augmentation:
    """What happens to a 256×256 training picture; at test it is the centre or ten crops, less the mean."""

    crops: Literal["random", "centre", "resized"] = "random"
    """`random`: any patch of the network's size (33×33 places); `resized`: 8 to 100 % of the area at a ratio of
    3/4 to 4/3, resized, as torchvision trains."""
    reflections: bool = True
    sharing: int = 1
    """So many neighbours in the order share a patch and a reflection; 32 in the 2012 code."""
    reshuffled: bool = True
    """A new order for each epoch; in the 2012 code there is one for all."""
    colour_noise: float = printed.COLOUR_NOISE
    """Standard deviation of α, which multiplies a principal component of the RGB values."""
    colour_scale: Literal["deviation", "eigenvalue"] = "deviation"
    """`deviation`: α·√λ, as the 2012 code; `eigenvalue`: α·λ with pixels in [0, 1], the printed formula."""
    colour_shrinks: bool = False
    """The noisy patch is divided by 1 + `colour_noise`, as in the 2012 code; nothing is divided at test."""


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
    velocity: Literal["rate-inside", "rate-outside"] = "rate-inside"
    """`rate-outside`: as torch.optim.SGD, where a drop of the rate also rescales what the velocity holds."""
    batch_size: int = printed.BATCH_SIZE
    frozen: tuple[str, ...] = ()
    """Layers that stand still: conv1,conv2. No rate, no decay, and no gradient is computed for them."""
    layer_rates: tuple[str, ...] = ()
    """Layers whose rate is so many times the others': conv3:0.1,fc8:10, weights and biases alike."""

    @property
    def factors(self) -> dict[str, float]:
        """What multiplies the rate, of each layer that is named; ValueError where that is no layer:number."""
        parts = (entry.partition(":") for entry in self.layer_rates)
        return {layer.strip(): float(factor) for layer, _, factor in parts} | dict.fromkeys(self.frozen, 0.0)


@dataclass(frozen=True)
class Schedule:
    """The rate is divided by `drop` at each plateau; training ends at the plateau after the last drop.

    With `drop_epochs` or `drop_steps` it is divided at these places instead, and training ends with the epochs.
    """

    epochs: int = printed.EPOCHS
    drop: float = printed.RATE_DROP
    drops: int = printed.RATE_DROPS
    patience: float = 5.0
    """A plateau: so many epochs without an improvement of `threshold`, however often they are validated."""
    threshold: float = 0.1
    """Percentage points of top-1 validation error."""
    drop_epochs: tuple[int, ...] = ()
    """Epochs after which the rate is divided."""
    drop_steps: int = 0
    """The rate is divided each time so many steps are done."""
    biases_drop: bool = True
    """Whether the rate of the biases is divided too; the authors left it in the ILSVRC-2012 run."""
    conv1_drop: int = 0
    """Epochs after which the rate of conv1's weights is divided once more; 0 is never."""
    conv1_freeze: int = 0
    """Epochs after which conv1 stands still."""
    colour_stop: int = 0
    """Epochs after which there is no colour noise."""


@dataclass(frozen=True)
class Recipe:
    name: str
    network: Network = field(default_factory=Network)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


def checked(recipe: Recipe) -> Recipe:
    """The same recipe, or an error that names the setting without sense."""

    def need(good: bool, key: str, what: str) -> None:
        if not good:
            raise AlexNetError(f"{key} {what}", f"change it with --set {key}=…")

    net, optimizer, schedule = recipe.network, recipe.optimizer, recipe.schedule
    need(net.width > 0, "network.width", "must be above 0")
    need(net.towers >= 1, "network.towers", "must be at least 1")
    need(
        3 <= len(net.kernels) <= 6 and min(net.kernels) > 0,
        "network.kernels",
        "must be three to six positive numbers",
    )
    there = ("", *LAYERS[: len(net.kernels)])
    need(net.without in there, "network.without", f"cannot be {net.without}, which is left out with its kernels")
    need(net.hidden >= 0, "network.hidden", "must not be negative")
    need(net.bottleneck >= 0, "network.bottleneck", "must not be negative")
    need(net.hidden > 0 or not net.bottleneck, "network.bottleneck", "must be 0 where fc7 has no units")
    need(net.hidden > 0 or not net.dropout, "network.dropout", "must be 0 without hidden layers: it is theirs")
    need(
        net.exchange or net.towers > 1, "network.exchange", "cannot be false for one tower: it has no other to see"
    )
    need(
        net.crop in (224, 227), "network.crop", "must be 224 or 227: conv1 then has 55×55 outputs, as in Figure 2"
    )
    need(
        len(net.conv1_padding) == 2
        and 227 <= net.crop + sum(net.conv1_padding) <= 230
        and 0 <= min(net.conv1_padding) < 11,
        "network.conv1_padding",
        f"must be two numbers, zeros before and after, that give 55×55 outputs from {net.crop}: "
        f"a sum of {227 - net.crop} to {230 - net.crop}",
    )
    need(len(net.sigma) == len(LAYERS), "network.sigma", "must be eight numbers, conv1 to fc8")
    need(min(net.sigma) >= 0, "network.sigma", "must not be negative")
    layers = (*LAYERS, SIXTH)
    need(set(net.biased) <= set(layers), "network.biased", f"must be among {', '.join(layers)}")
    need(0 <= net.dropout < 1, "network.dropout", "must be at least 0 and below 1")
    normalization = net.normalization
    need(
        normalization.size == 0 or (normalization.size > 0 and normalization.size % 2 == 1),
        "network.normalization.size",
        "must be 0 (none) or an odd number",
    )
    need(normalization.alpha >= 0, "network.normalization.alpha", "must not be negative")
    need(normalization.k > 0, "network.normalization.k", "must be above 0")
    need(
        not (normalization.within and net.without == "conv2"),
        "network.normalization.within",
        "cannot be true without conv2: it normalizes that layer's maps",
    )
    need(
        not (recipe.augmentation.crops == "resized" and recipe.preprocessing.mean == "pixel"),
        "preprocessing.mean",
        "cannot be pixel for resized crops: they lie at no one place of the mean image",
    )
    need(recipe.augmentation.colour_noise >= 0, "augmentation.colour_noise", "must not be negative")
    need(recipe.augmentation.sharing >= 1, "augmentation.sharing", "must be at least 1")
    need(optimizer.rate >= 0, "optimizer.rate", "must not be negative")
    need(optimizer.bias_rate >= 0, "optimizer.bias_rate", "must not be negative")
    need(optimizer.decay >= 0, "optimizer.decay", "must not be negative")
    need(optimizer.bias_decay >= 0, "optimizer.bias_decay", "must not be negative")
    need(optimizer.batch_size >= 1, "optimizer.batch_size", "must be at least 1")
    need(0 <= optimizer.momentum < 1, "optimizer.momentum", "must be at least 0 and below 1")
    _check_layers(net, optimizer, need)
    need(schedule.epochs >= 1, "schedule.epochs", "must be at least 1")
    need(schedule.drop > 1, "schedule.drop", "must be above 1")
    need(schedule.drops >= 0, "schedule.drops", "must not be negative")
    need(schedule.patience > 0, "schedule.patience", "must be above 0")
    need(schedule.threshold >= 0, "schedule.threshold", "must not be negative")
    need(
        list(schedule.drop_epochs) == sorted(set(schedule.drop_epochs))
        and min(schedule.drop_epochs, default=1) > 0,
        "schedule.drop_epochs",
        "must be rising numbers above 0",
    )
    need(schedule.drop_steps >= 0, "schedule.drop_steps", "must not be negative")
    need(
        not (schedule.drop_epochs and schedule.drop_steps),
        "schedule.drop_steps",
        "cannot be given beside schedule.drop_epochs",
    )
    for key in ("conv1_drop", "conv1_freeze", "colour_stop"):
        need(getattr(schedule, key) >= 0, f"schedule.{key}", "must not be negative")
    for key in ("conv1_drop", "conv1_freeze"):
        gone = net.without == "conv1" and getattr(schedule, key) > 0
        need(not gone, f"schedule.{key}", "cannot be given without conv1")
    return recipe


def _check_layers(net: Network, optimizer: Optimizer, need: Callable[[bool, str, str], None]) -> None:
    """The layers that have a rate of their own must be there, each once, and some layer must move."""
    there, named = ", ".join(net.layers), [entry.partition(":")[0].strip() for entry in optimizer.layer_rates]
    need(set(optimizer.frozen) <= set(net.layers), "optimizer.frozen", f"must be among the net's layers, {there}")
    need(set(optimizer.frozen) < set(net.layers), "optimizer.frozen", "cannot be all layers: nothing would move")
    key = "optimizer.layer_rates"
    need(set(named) <= set(net.layers), key, f"must name layers of the net, {there}")
    need(len({*named, *optimizer.frozen}) == len(named) + len(set(optimizer.frozen)), key, "names a layer twice")
    try:
        good = all(0 < optimizer.factors[name] < math.inf for name in named)
    except ValueError:
        good = False
    need(good, key, "must be layers and numbers above 0, such as conv3:0.1,fc8:10; frozen is for those that stand")
