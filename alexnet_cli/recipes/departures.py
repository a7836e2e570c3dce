"""Where a recipe leaves the printed text, and why."""

from dataclasses import dataclass

from alexnet_cli.recipes.parts import Recipe
from alexnet_cli.recipes.published import text
from alexnet_cli.settings import differences


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
