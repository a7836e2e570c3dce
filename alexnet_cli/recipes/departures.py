"""Where a recipe leaves the printed text, and why: each with its source.

Sources: § are the paper's sections; `.cfg`, `.py` and `.cu` are files of the authors' 2012 code
(github.com/computerhistory/AlexNet-Source-Code), where they say so of cuda-convnet2, Caffe or torchvision.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from alexnet_cli import paper as printed
from alexnet_cli.errors import AlexNetError
from alexnet_cli.recipes.parts import MENDED, Recipe
from alexnet_cli.recipes.published import RECIPES, text
from alexnet_cli.recipes.variants import VARIANTS
from alexnet_cli.settings import differences, flat


@dataclass(frozen=True)
class Departure:
    """One place where a recipe leaves the printed text."""

    what: str
    printed: str
    here: str
    why: str


def departures(recipe: Recipe) -> list[Departure]:
    """Every choice of this recipe that the printed text does not make, with the reason and its source."""
    reasons = _reasons(recipe)
    unused = _without_effect(recipe)
    chosen = [
        Departure(key, _PRINTED.get(key, _shown(key, letters)), _shown(key, ours), reasons.get(key, BY_HAND))
        for key, ours, letters in differences(recipe, text())
        if key != "name" and key not in unused
    ]
    return [*_open_in_the_text(recipe), *chosen]


BY_HAND = "set by hand"


def _reasons(recipe: Recipe) -> dict[str, str]:
    """Why each setting is what it is, as far as that comes from the recipe's name and not from `--set`."""
    base, *variants = recipe.name.split("+")
    try:
        steps = [RECIPES[base]()]
        for variant in variants:
            steps.append(VARIANTS[variant][0](steps[-1]))
    except (KeyError, AlexNetError):  # a name of another version
        return {}
    found = _EVERY_RECIPE | _WHY[base]
    for variant, before, after in zip(variants, steps, steps[1:], strict=False):
        found |= {key: VARIANTS[variant][1] for key, _, _ in differences(after, before)}
    as_named, now = flat(steps[-1]), flat(recipe)
    return {key: why for key, why in found.items() if now[key] == as_named[key]}


def _without_effect(recipe: Recipe) -> set[str]:
    """Settings that do nothing beside what others are."""
    net, augmentation, schedule = recipe.network, recipe.augmentation, recipe.schedule
    rules = (
        (augmentation.colour_noise == 0, "augmentation.", ("colour_scale", "colour_shrinks")),
        (net.normalization.size == 0, "network.normalization.", ("order", "across", "alpha", "beta", "k")),
        (net.towers == 1, "network.", ("exchange", "normalization.across")),
        (net.dropout == 0, "network.", ("dropout_scaling", "dropout_of")),
        (net.initial == "uniform", "network.", ("sigma", "bias", "biased")),
        (bool(schedule.drop_epochs or schedule.drop_steps), "schedule.", ("drops", "patience", "threshold")),
    )
    return {group + key for moot, group, keys in rules if moot for key in keys}


def _shown(key: str, value: object) -> str:
    if key == "network.without" and value:
        return f"no {value}: {MENDED[str(value)]}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _open_in_the_text(recipe: Recipe) -> Iterator[Departure]:
    """What no recipe can take from the text, because it is silent or contradicts itself."""
    net, augmentation, schedule = recipe.network, recipe.augmentation, recipe.schedule
    if net.without != "conv1":
        places = "55×55: the last windows hang 3 pixels over the right and lower edge"
        if (net.crop, net.conv1_padding) != (printed.CROP_SIZE, (0, 3)):
            before, after = net.conv1_padding
            zeros = f"{before} zeros before and {after} after them" if before or after else "no zeros around them"
            places = f"55×55 of {net.crop} pixels with {zeros}"
        yield Departure(
            "conv1's output",
            "224×224 pixels, 11×11 kernels, stride 4 (§3.5), and 253,440 neurons (Figure 2)",
            f"{places}; {55 * 55 * net.units['conv1']:,} neurons",
            "54×54 by the usual count, but 55×55×48×2 fits Figure 2's shapes; cuda-convnet rounds up (layer.py)",
        )
    yield Departure(
        "zeros around maps",
        "nothing of convolutions (§3.5) or pooling (§3.4)",
        f"as many as keep the sizes, none for pooling: {' → '.join(map(str, net.sides))}",
        "the only sizes that fit Figure 2; layers-145.cfg"
        if net.pooling == "overlapping"
        else "conv2 and conv5 have one fewer, so that fc6 keeps its inputs; layers-147.cfg",
    )
    if augmentation.crops == "random":
        offsets = printed.IMAGE_SIZE - net.crop + 1
        times = 2 if augmentation.reflections else 1
        yield Departure(
            "crops",
            "a factor of 2048, 32×32 places and reflections (§4.1)",
            f"{offsets}×{offsets} places{' and reflections' if times == 2 else ''}, {offsets * offsets * times}",
            f"offsets 0 to {offsets - 1} all lie inside 256 pixels"
            + ("; so drawn by the 2012 code (convdata_jpeg.py)" if net.crop == printed.CROP_SIZE else ""),
        )
    if augmentation.colour_noise > 0 and augmentation.colour_scale == "eigenvalue":
        yield Departure(
            "colour noise's unit",
            "nothing: λ depends on whether pixels go to 255 or to 1 (§4.1)",
            "pixels in [0, 1]",
            "up to 255 the main axis would have a noise of some 1,500 grey levels",
        )
    if not schedule.drop_epochs and not schedule.drop_steps:
        yield Departure(
            "schedule",
            "÷10 by hand when the validation error stopped improving, three times (§5)",
            f"{schedule.patience:g} epochs without {schedule.threshold} points of improvement are a plateau; "
            f"÷{schedule.drop:g} at each of the first {schedule.drops}, the next ends the training",
            "a rule in place of the authors' eye; theirs were at epochs 25, 51 and 79 (layer-params-145.cfg)",
        )


_PRINTED = {
    "network.kernels": "96, 256, 384, 384, 256 (§3.5)",
    "network.bottleneck": "nothing between fc7 and the classes (§3.5)",
    "network.towers": "2: conv2, conv4 and conv5 see one GPU's maps (§3.2, §3.5)",
    "network.exchange": "conv3 is connected to all kernel maps of conv2 (§3.5)",
    "network.without": "five convolutions (§3.5)",
    "network.crop": "224 (§3.5, §4.1)",
    "network.conv1_padding": "nothing (§3.5)",
    "network.pooling": "overlapping: z = 3, s = 2 (§3.4)",
    "network.activation": "relu (§3.1)",
    "network.normalization.order": "after the ReLU (§3.3)",
    "network.normalization.across": "layer: N is the number of kernels in the layer (§3.3)",
    "network.normalization.size": "n = 5 (§3.3)",
    "network.normalization.alpha": "α = 0.0001, multiplying the sum (§3.3)",
    "network.normalization.k": "k = 2 (§3.3)",
    "network.normalization.within": "one normalization follows conv2 (§3.5)",
    "network.dropout": "0.5 (§4.2)",
    "network.dropout_scaling": "test: outputs are multiplied by 0.5 at test (§4.2)",
    "network.dropout_of": "outputs of the hidden neurons are set to zero (§4.2)",
    "network.initial": "gaussian, standard deviation 0.01 (§5)",
    "network.sigma": "0.01 in each layer (§5)",
    "network.bias": "1 (§5)",
    "network.biased": "conv2, conv4, conv5, fc6, fc7 (§5)",
    "preprocessing.mean": "pixel: the mean activity over the training set from each pixel (§2)",
    "augmentation.crops": "random 224×224 patches (§4.1)",
    "augmentation.reflections": "horizontal reflections (§4.1)",
    "augmentation.sharing": "nothing: patches are random (§4.1)",
    "augmentation.reshuffled": "nothing",
    "augmentation.colour_noise": "0.1 (§4.1)",
    "augmentation.colour_scale": "eigenvalue: [p1 p2 p3][α1λ1 α2λ2 α3λ3]ᵀ (§4.1)",
    "augmentation.colour_shrinks": "the noise is added, no more (§4.1)",
    "optimizer.bias_rate": "1.0: an equal learning rate for all layers (§5)",
    "optimizer.decay": "0.0005 (§5)",
    "optimizer.bias_decay": "1.0: one rule for every weight (§5)",
    "optimizer.velocity": "rate-inside: v ← 0.9·v − 0.0005·ε·w − ε·gradient (§5)",
    "optimizer.batch_size": "128 (§5)",
    "optimizer.frozen": "an equal learning rate for all layers (§5)",
    "optimizer.layer_rates": "an equal learning rate for all layers (§5)",
    "schedule.epochs": "roughly 90 cycles (§5)",
    "schedule.drop_epochs": "÷10 when the validation error stopped improving, three times (§5)",
    "schedule.drop_steps": "÷10 when the validation error stopped improving, three times (§5)",
    "schedule.biases_drop": "an equal learning rate for all layers (§5)",
    "schedule.conv1_drop": "an equal learning rate for all layers (§5)",
    "schedule.conv1_freeze": "an equal learning rate for all layers (§5)",
    "schedule.colour_stop": "nothing of an end (§4.1)",
}

_EVERY_RECIPE = {
    "network.normalization.across": "each GPU normalised its own half, without an exchange (layers-145.cfg)",
    "augmentation.colour_scale": "the 2012 code multiplies by standard deviations (convdata_jpeg.py, pca_stdevs)",
    "optimizer.bias_decay": "the 2012 code decays no biases (src/layer.cu, _biases with wc 0)",
}
"""Of each recipe whose `_WHY` gives no other."""

_WHY: dict[str, dict[str, str]] = {
    "paper": {},
    "text": {},
    "small": {
        "network.width": "for small machines; σ × √(full fan-in / fan-in) keeps the activations' scale",
    },
    "original": {
        "network.normalization.order": "conv1 has no neuron; ReLU comes after norm and pooling (layers-145.cfg)",
        "network.normalization.alpha": "the code divides its scale of 0.0001 by n = 5 (layer.py)",
        "network.normalization.within": "cnorm2: x·(1 + 0.001/25·Σ x²)^-¾ over 5×5 places (layers-145.cfg)",
        "network.sigma": "initW of conv3, conv4 and conv5 is 0.03 (layers-145.cfg)",
        "preprocessing.mean": "the mean image's central patch for every crop (convdata_jpeg.py, data_mean_crop)",
        "augmentation.sharing": "one patch and reflection for 32 in a row (convdata_jpeg.py, crop_chunk)",
        "augmentation.reshuffled": "shuffled once, when the batches were written (cuda-convnet2: make-data.py)",
        "augmentation.colour_shrinks": "cropped /= 1.0 + color_noise_coeff, in training only (convdata_jpeg.py)",
        "optimizer.bias_rate": "epsB 0.02 beside epsW 0.01 (layer-params-126-2012-full.cfg, left at its start)",
        "schedule.epochs": "killed at epoch 91 (layer-params-145.cfg)",
        "schedule.drop_epochs": "when the authors did it on ILSVRC-2012 (layer-params-145.cfg)",
        "schedule.biases_drop": "epsB stayed at 0.02 to the end (layer-params-145.cfg)",
        "schedule.conv1_drop": "conv1 alone to 0.00001 at epoch 67 (layer-params-145.cfg)",
        "schedule.conv1_freeze": "conv1's rates 0 at epoch 72 (layer-params-145.cfg; src/weights.cu skips it)",
        "schedule.colour_stop": "set color noise to 0 from 0.1 at epoch 67 (layer-params-145.cfg)",
    },
    "caffe": {
        "network.crop": "crop_size: 227 (bvlc_alexnet/train_val.prototxt)",
        "network.conv1_padding": "227 pixels give 55 places without (bvlc_alexnet/train_val.prototxt)",
        "network.normalization.alpha": "Caffe divides α by n (lrn_layer.cu)",
        "network.normalization.k": "Caffe's default (bvlc_alexnet/train_val.prototxt gives none)",
        "network.dropout_scaling": "Caffe doubles what it keeps (dropout_layer.cpp)",
        "network.sigma": "0.005 in fc6 and fc7 (bvlc_alexnet/train_val.prototxt)",
        "network.bias": "initialization to 1 gave flat loss (bvlc_alexnet/readme.md)",
        "augmentation.colour_noise": "no relighting augmentation (bvlc_alexnet/readme.md)",
        "optimizer.bias_rate": "lr_mult: 2 of every bias (bvlc_alexnet/train_val.prototxt)",
        "optimizer.bias_decay": "decay_mult: 0 of every bias (bvlc_alexnet/train_val.prototxt)",
        "optimizer.batch_size": "batch_size: 256 (bvlc_alexnet/train_val.prototxt)",
        "schedule.drop_steps": "stepsize: 100000, max_iter: 450000 (bvlc_alexnet/solver.prototxt)",
    },
    "torchvision": {
        "network.kernels": "the net of Krizhevsky (2014), as in torchvision/models/alexnet.py",
        "network.towers": "one GPU holds it (torchvision/models/alexnet.py)",
        "network.conv1_padding": "padding=2 on each side (torchvision/models/alexnet.py)",
        "network.normalization.size": "it has none (torchvision/models/alexnet.py)",
        "network.dropout_scaling": "nn.Dropout doubles what it keeps (torchvision/models/alexnet.py)",
        "network.dropout_of": "nn.Dropout stands before fc6 and before fc7 (torchvision/models/alexnet.py)",
        "network.initial": "torch's own of Conv2d and Linear (torchvision/models/alexnet.py sets nothing)",
        "preprocessing.mean": "mean and deviation of each colour (references/classification/presets.py)",
        "augmentation.crops": "RandomResizedCrop (torchvision: references/classification/presets.py)",
        "augmentation.colour_noise": "none (torchvision: references/classification/presets.py)",
        "optimizer.decay": "--wd 1e-4 (torchvision: references/classification/train.py)",
        "optimizer.bias_decay": "torch.optim.SGD decays all parameters (references/classification/train.py)",
        "optimizer.velocity": "torch.optim.SGD (torchvision: references/classification/train.py)",
        "optimizer.batch_size": "8 GPUs × 32 (torchvision: references/classification/README.md)",
        "schedule.drop_epochs": "--lr-step-size 30 (torchvision: references/classification/train.py)",
    },
}
