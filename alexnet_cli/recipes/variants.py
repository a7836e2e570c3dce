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
    biased = (*net.biased, SIXTH) if "conv5" in net.biased and SIXTH not in net.biased else net.biased
    return with_network(recipe, kernels=(*net.kernels[:5], net.kernels[4]), biased=biased)


def one_gpu(recipe: Recipe) -> Recipe:
    """One of the two towers, but conv5 and the hidden layers whole, for as many parameters (§3.2, footnote 2)."""
    net = recipe.network
    need(recipe, net.towers > 1, "it has one tower already")
    halves = tuple(count // net.towers for count in net.kernels[:4])
    return with_network(recipe, kernels=(*halves, *net.kernels[4:]), towers=1, exchange=True)


def ungrouped(recipe: Recipe) -> Recipe:
    """Every kernel sees all maps of the layer below."""
    need(recipe, recipe.network.towers > 1, "its kernels see all maps already")
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
    return with_network(recipe, pooling="non-overlapping")


def activation(recipe: Recipe, name: str) -> Recipe:
    return with_network(recipe, activation=name)


def no_dropout(recipe: Recipe) -> Recipe:
    return with_network(recipe, dropout=0.0)


def no_crops(recipe: Recipe) -> Recipe:
    """The central patch, never reflected (§4.1)."""
    return replace(recipe, augmentation=replace(recipe.augmentation, crops="centre", reflections=False))


def no_colour(recipe: Recipe) -> Recipe:
    need(recipe, recipe.augmentation.colour_noise > 0, "it has no colour noise")
    augmentation = replace(recipe.augmentation, colour_noise=0.0, colour_shrinks=False)
    return replace(recipe, augmentation=augmentation, schedule=replace(recipe.schedule, colour_stop=0))


def without(recipe: Recipe, layer: str) -> Recipe:
    gone = recipe.network.without
    need(recipe, not gone, f"{gone} is gone already, and one at a time can be left out")
    return with_network(recipe, without=layer)


VARIANTS: dict[str, tuple[Variant, str]] = {
    "six-conv": (six_conv, "a sixth convolution, as in 1 CNN*"),
    "one-gpu": (one_gpu, "one tower, with conv5 and the hidden layers whole"),
    "ungrouped": (ungrouped, "every kernel sees all maps of the layer below"),
    "no-exchange": (no_exchange, "the towers meet after the convolutions only"),
    "no-lrn": (no_lrn, "without local response normalization"),
    "non-overlapping": (non_overlapping, "pooling over 2×2 places"),
    "tanh": (partial(activation, name="tanh"), "tanh in place of ReLU"),
    "sigmoid": (partial(activation, name="sigmoid"), "sigmoid in place of ReLU"),
    "no-dropout": (no_dropout, "without dropout"),
    "no-crops": (no_crops, "the central patch, never reflected"),
    "no-colour": (no_colour, "without colour noise"),
    **{f"no-{layer}": (partial(without, layer=layer), f"without {layer}") for layer in LAYERS[:5]},
}


def named(name: str) -> Recipe:
    """The recipe of that name, or a recipe and its variants joined by +, in any order of the variants."""
    base, *changes = name.split("+")
    if base not in RECIPES:
        raise AlexNetError(f"there is no recipe '{base}'", f"the recipes are {', '.join(RECIPES)}")
    recipe = RECIPES[base]()
    for change in changes:
        if change not in VARIANTS:
            raise AlexNetError(f"there is no variant '{change}'", f"the variants are {', '.join(VARIANTS)}")
        varied = replace(VARIANTS[change][0](recipe), name=f"{recipe.name}+{change}")
        need(varied, replace(varied, name=recipe.name) != recipe, "it changes nothing")
        recipe = varied
    return checked(recipe)


def chosen(name: str, assignments: list[str]) -> Recipe:
    """The named recipe with `key=value` settings applied, checked."""
    return checked(changed(named(name), assignments))


def with_network(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, network=replace(recipe.network, **changes))


def need(recipe: Recipe, sense: bool, reason: str) -> None:
    if not sense:
        raise AlexNetError(f"{recipe.name} and this variant make no sense together: {reason}", "leave it out")
