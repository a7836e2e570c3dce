"""Changes to any recipe, by name: the nets of the paper's other rows, and its ablations (`paper+six-conv`)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from alexnet_cli.errors import AlexNetError
from alexnet_cli.recipes.parts import LAYERS, SIXTH, Recipe, checked
from alexnet_cli.recipes.published import RECIPES
from alexnet_cli.settings import changed

Variant = Callable[[Recipe], Recipe]


def six_conv(recipe: Recipe) -> Recipe:
    """The net of "1 CNN*": conv6, as wide as conv5, over the last pooling (§6; layers-146-2012-2011.cfg)."""
    net = recipe.network
    need(recipe, len(net.kernels) < 6, "it has six convolutions already")
    need(recipe, len(net.kernels) == 5, "it has no fifth one, which the sixth is to follow")
    biased = (*net.biased, SIXTH) if "conv5" in net.biased and SIXTH not in net.biased else net.biased
    return with_network(recipe, kernels=(*net.kernels[:5], net.kernels[4]), biased=biased)


def bottleneck(recipe: Recipe) -> Recipe:
    """A linear layer of 2048 between fc7 and the classes, two times 1024 on their GPUs (layers-146-2011.cfg)."""
    need(recipe, not recipe.network.bottleneck, "it has a bottleneck already")
    return with_network(recipe, bottleneck=2048)


def four_layer(recipe: Recipe) -> Recipe:
    """conv1 to conv3 and the classifier: four layers with weights, as Figure 1's net on CIFAR-10 had (§3.1).

    The paper says no more of it. Three convolutions, each pooled, and one fully connected layer are the four
    layers of the nets for CIFAR-10 that came with cuda-convnet (layers-18pct.cfg).
    """
    net = recipe.network
    need(recipe, net.hidden > 0, "it has no hidden layers already")
    need(recipe, not net.bottleneck, "the bottleneck follows hidden layers, and there are none then")
    return with_network(recipe, kernels=net.kernels[:3], hidden=0, dropout=0.0)


def one_gpu(recipe: Recipe) -> Recipe:
    """One of the two towers, but conv5 and the hidden layers whole, for as many parameters (§3.2, footnote 2)."""
    net = recipe.network
    need(recipe, net.towers > 1, "it has one tower already")
    need(recipe, net.exchange, "one tower has no other to exchange with")
    halves = tuple(count // net.towers for count in net.kernels[:4])
    return with_network(recipe, kernels=(*halves, *net.kernels[4:]), towers=1, exchange=True)


def ungrouped(recipe: Recipe) -> Recipe:
    """Every kernel sees all maps of the layer below."""
    need(recipe, recipe.network.towers > 1, "its kernels see all maps already")
    need(recipe, recipe.network.exchange, "where every kernel sees all maps there is always an exchange")
    return with_network(recipe, towers=1, exchange=True)


def no_exchange(recipe: Recipe) -> Recipe:
    """The towers meet after the convolutions only."""
    need(recipe, recipe.network.towers > 1, "it has one tower only")
    return with_network(recipe, exchange=False)


def no_lrn(recipe: Recipe) -> Recipe:
    """Without local response normalization (§3.3)."""
    need(recipe, recipe.network.normalization.size > 0, "it has no normalization")
    return with_network(recipe, normalization=replace(recipe.network.normalization, size=0, within=False))


def non_overlapping(recipe: Recipe) -> Recipe:
    """Pooling over 2×2 places (§3.4); conv2 and conv5 lose padding to keep the sizes, as in layers-147 of 2012."""
    need(recipe, recipe.network.pooling == "overlapping", "its pooling does not overlap already")
    return with_network(recipe, pooling="non-overlapping")


def activation(recipe: Recipe, name: str) -> Recipe:
    before = recipe.network.activation
    need(recipe, before == "relu", f"{before} is in place of ReLU already")
    return with_network(recipe, activation=name)


def no_dropout(recipe: Recipe) -> Recipe:
    need(recipe, recipe.network.dropout > 0, "it has no dropout")
    return with_network(recipe, dropout=0.0)


def no_crops(recipe: Recipe) -> Recipe:
    """The central patch, never reflected (§4.1)."""
    return replace(recipe, augmentation=replace(recipe.augmentation, crops="centre", reflections=False))


def no_colour(recipe: Recipe) -> Recipe:
    need(recipe, recipe.augmentation.colour_noise > 0, "it has no colour noise")
    augmentation = replace(recipe.augmentation, colour_noise=0.0, colour_shrinks=False)
    return replace(recipe, augmentation=augmentation, schedule=replace(recipe.schedule, colour_stop=0))


def without(recipe: Recipe, layer: str) -> Recipe:
    """One of the five convolutions removed (§7), and with it what the recipe has for this layer alone."""
    gone = recipe.network.without
    need(recipe, not gone, f"{gone} is gone already, and one at a time can be left out")
    need(recipe, layer in recipe.network.layers, f"it has no {layer}")
    if layer == "conv1":
        recipe = replace(recipe, schedule=replace(recipe.schedule, conv1_drop=0, conv1_freeze=0))
    if layer == "conv2":
        normalization = replace(recipe.network.normalization, within=False)
        recipe = with_network(recipe, normalization=normalization)
    return with_network(recipe, without=layer)


VARIANTS: dict[str, tuple[Variant, str]] = {
    "six-conv": (
        six_conv,
        "a sixth convolution over the last pooling, as in 1 CNN* (§6; layers-146-2012-2011.cfg)",
    ),
    "bottleneck": (
        bottleneck,
        "2048 linear units between fc7 and very many classes, as on Fall 2011's (layers-146-2011.cfg)",
    ),
    "four-layer": (four_layer, "conv1 to conv3 and the classifier, as Figure 1's (§3.1; layers-18pct.cfg)"),
    "one-gpu": (one_gpu, "one tower, with conv5 and the hidden layers whole (§3.2; layers-145-half.cfg)"),
    "ungrouped": (ungrouped, "every kernel sees all maps of the layer below"),
    "no-exchange": (no_exchange, "the towers meet after the convolutions only"),
    "no-lrn": (no_lrn, "without response normalization (§3.3; run #148)"),
    "non-overlapping": (non_overlapping, "pooling over 2×2 places (§3.4; layers-147.cfg)"),
    "tanh": (partial(activation, name="tanh"), "tanh in place of ReLU (§3.1)"),
    "sigmoid": (partial(activation, name="sigmoid"), "the logistic function in place of ReLU (§3.1)"),
    "no-dropout": (no_dropout, "without dropout (§4.2)"),
    "no-crops": (no_crops, "the central patch, never reflected (§4.1)"),
    "no-colour": (no_colour, "without colour noise (§4.1)"),
    **{f"no-{layer}": (partial(without, layer=layer), f"without {layer} (§7)") for layer in LAYERS[:5]},
}
"""Each with what it is, its section and its 2012 file."""


def named(name: str) -> Recipe:
    """The recipe of that name, or a recipe and its variants joined by +, in any order of the variants."""
    base, *changes = name.split("+")
    if base not in RECIPES:
        raise AlexNetError(f"there is no recipe '{base}'", _choices())
    recipe = RECIPES[base]()
    for change in changes:
        if change not in VARIANTS:
            raise AlexNetError(f"there is no variant '{change}'", _choices())
        renamed = replace(recipe, name=f"{recipe.name}+{change}")
        recipe = VARIANTS[change][0](renamed)
        need(recipe, recipe != renamed, f"{change} changes nothing")
    return checked(recipe)


def _choices() -> str:
    return f"the recipes are {', '.join(RECIPES)}; a variant is added with a +: {', '.join(VARIANTS)}"


def chosen(name: str, assignments: list[str]) -> Recipe:
    """The named recipe with `key=value` settings applied, checked."""
    return checked(changed(named(name), assignments))


def with_network(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, network=replace(recipe.network, **changes))


def need(recipe: Recipe, sense: bool, reason: str) -> None:
    if not sense:
        raise AlexNetError(
            f"{recipe.name} makes no sense: {reason}", "leave out the last variant, or one before it"
        )
