"""What each layer makes of one picture: the feature maps after ReLU, layer by layer, and the classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli.engine.checkpoint import Checkpoint, model_of
from alexnet_cli.loading.augmentation import cut, evaluation_views, patches_for
from alexnet_cli.recipes import BOTTLENECK
from alexnet_cli.report import plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Maps = dict[str, NDArray[np.float32]]
CLASSES = 5


@torch.no_grad()
def activations(checkpoint: Checkpoint, picture: Tensor) -> Maps:
    """Of a picture (3, 256, 256) uint8, at test: each layer's outputs, (maps, rows, columns) or (units,).

    After ReLU, before normalization, pooling and the ½ of dropout; those of fc8 are probabilities.
    """
    model = model_of(checkpoint, torch.device("cpu")).eval()
    found: Maps = {}

    def seen(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            value = output[0].float().clone()  # the activation that follows overwrites it
            if name != BOTTLENECK:
                value = value.softmax(0) if name == model.layers[-1] else model.activation(value)
            found[name] = value.numpy()

        return hook

    for name in model.layers:
        getattr(model, name).register_forward_hook(seen(name))
    patches = patches_for(checkpoint.recipe, checkpoint.subject.colours.mean)
    model(cut(picture[None], patches, evaluation_views(1, 1, patches.side)[0]))
    return found


def sheet(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A layer's maps beside each other, or its units in rows, as one image; nan between them."""
    columns = plotting.columns_of_square(len(values))
    if values.ndim == 3:
        return plotting.mosaic(values, columns, between=float("nan"))
    return plotting.mosaic(values[:, None, None], columns, gap=0, between=float("nan"))


def draw(figure: "Figure", found: Maps, picture: Tensor, classes: Sequence[str], whose: str) -> None:
    *layers, last = found
    count = len(layers) + 2
    rows = -(-count // 3)
    axes: list[Axes] = [*figure.subplots(rows, 3).flat]
    image = picture.permute(1, 2, 0).numpy()
    plotting.picture(axes[0], image, plotting.shown(whose, 40), interpolation="antialiased")
    for axis, name in zip(axes[1:], layers, strict=False):
        _layer(axis, name, found[name])
    _classes(axes[count - 1], found[last], classes)
    for axis in axes[count:]:
        axis.set_axis_off()
    figure.suptitle("One picture, layer by layer: after ReLU, each layer from 0 (black) to its largest value")


def _layer(axis: "Axes", name: str, values: NDArray[np.float32]) -> None:
    alive = 100 * float((values > 0).mean())
    count, *sides = values.shape
    form = f"{count} maps of {sides[0]}×{sides[1]}" if sides else f"{count} units"
    peak = float(values.max())
    title = f"{name}: {form}\n{alive:.0f} % above 0, largest {peak:.3g}"
    plotting.picture(axis, sheet(values), title, cmap=_heat(), vmin=0, vmax=peak or 1.0)


def _heat() -> Any:
    from matplotlib import colormaps

    return colormaps["magma"].with_extremes(bad="white")


def _classes(axis: "Axes", probabilities: NDArray[np.float32], classes: Sequence[str]) -> None:
    order = np.argsort(-probabilities, kind="stable")[:CLASSES]
    axis.barh(range(len(order)), 100 * probabilities[order], color=plotting.BLUE)
    axis.set_yticks(range(len(order)), [plotting.shown(classes[label]) for label in order])
    axis.invert_yaxis()
    axis.set(xlabel="probability, %", xlim=(0, 100), title="classes")
