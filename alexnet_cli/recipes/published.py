"""The readings of "AlexNet" by name: each is a function that returns its complete description."""

from collections.abc import Callable
from dataclasses import replace

from alexnet_cli import paper as printed
from alexnet_cli.recipes.parts import (
    Augmentation,
    Network,
    Normalization,
    Optimizer,
    Preprocessing,
    Recipe,
    Schedule,
)


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


def original() -> Recipe:
    """Run #145 of the 2012 code on ILSVRC-2012, the paper's "1 CNN" (layers-145.cfg, layer-params-145.cfg)."""
    return Recipe(
        "original",
        network=Network(
            normalization=Normalization(order="before-relu", alpha=printed.LRN_ALPHA / 5, within=True),
            sigma=(0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01),
        ),
        preprocessing=Preprocessing(mean="centre"),
        augmentation=Augmentation(sharing=32, reshuffled=False, colour_shrinks=True),
        optimizer=Optimizer(bias_rate=2.0),
        schedule=Schedule(
            epochs=91,
            drop_epochs=(25, 51, 79),
            biases_drop=False,
            conv1_drop=67,
            conv1_freeze=72,
            colour_stop=67,
        ),
    )


def caffe() -> Recipe:
    """BVLC's re-implementation, bvlc_alexnet (train_val.prototxt and solver.prototxt)."""
    return Recipe(
        "caffe",
        network=Network(
            crop=227,
            conv1_padding=(0, 0),
            normalization=Normalization(across="layer", alpha=printed.LRN_ALPHA / 5, k=1.0),
            dropout_scaling="training",
            sigma=(0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01),
            bias=0.1,
        ),
        augmentation=Augmentation(colour_noise=0.0),
        optimizer=Optimizer(bias_rate=2.0, batch_size=256),
        schedule=Schedule(drop_steps=100_000),
    )


def torchvision() -> Recipe:
    """torchvision's alexnet: the one-tower net of Krizhevsky (2014) without normalization."""
    return Recipe(
        "torchvision",
        network=Network(
            kernels=(64, 192, 384, 256, 256),
            towers=1,
            exchange=True,
            conv1_padding=(2, 2),
            normalization=Normalization(across="layer", size=0),
            dropout_scaling="training",
            dropout_of="inputs",
            initial="uniform",
        ),
        preprocessing=Preprocessing(mean="channel"),
        augmentation=Augmentation(crops="resized", colour_noise=0.0),
        optimizer=Optimizer(decay=0.0001, bias_decay=1.0, velocity="rate-outside", batch_size=256),
        schedule=Schedule(drop_epochs=(30, 60)),
    )


def small() -> Recipe:
    """`paper` at a quarter of the width (3.6 M weights with 8 classes): for demos, tests and small machines."""
    base = paper()
    return replace(base, name="small", network=replace(base.network, width=0.25))


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (paper, text, original, caffe, torchvision, small)
}
