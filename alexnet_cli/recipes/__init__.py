"""Recipes: complete descriptions of a network, what it is fed, its optimizer and its schedule.

A recipe is a function that returns frozen dataclasses, and a variant is another recipe with a few fields
replaced. `paper` is the default; `text` is the paper read to the letter; `small` is `paper` at a quarter of
the width. `departures` says where a recipe leaves the printed text, and why.
"""

from alexnet_cli.recipes.departures import Departure, departures
from alexnet_cli.recipes.parts import (
    BOTTLENECK,
    LAYERS,
    MENDED,
    SIXTH,
    Augmentation,
    Network,
    Normalization,
    Optimizer,
    Preprocessing,
    Recipe,
    Schedule,
    checked,
)
from alexnet_cli.recipes.published import RECIPES, caffe, original, paper, small, text, torchvision
from alexnet_cli.recipes.variants import VARIANTS, chosen, named

__all__ = [
    "BOTTLENECK",
    "LAYERS",
    "MENDED",
    "RECIPES",
    "SIXTH",
    "VARIANTS",
    "Augmentation",
    "Departure",
    "Network",
    "Normalization",
    "Optimizer",
    "Preprocessing",
    "Recipe",
    "Schedule",
    "caffe",
    "checked",
    "chosen",
    "departures",
    "named",
    "original",
    "paper",
    "small",
    "text",
    "torchvision",
]
