"""What is known of ILSVRC-2012 without any download: its 1000 classes, few odd files and published colours.

`imagenet_classes.txt` has a line for each class in label order, which is WNID order: the WNID, a tab, and the
synset's words. It is made of `imagenet_synsets.txt` and `imagenet_synset_to_lemma.txt` of timm 1.0.31
(Apache-2.0); the first words are torchvision's names, but for one crane and one maillot.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

WNID = re.compile(r"n\d{8}")

# Named .JPEG like all others. Lists: github.com/cytsai/ilsvrc-cmyk-image-list and vlfeat/matconvnet#91.
ODD_PNG = ("n02105855_2933",)
ODD_CMYK = (
    *("n01739381_1309", "n02077923_14822", "n02447366_23489", "n02492035_15739", "n02747177_10752"),
    *("n03018349_4028", "n03062245_4620", "n03347037_9675", "n03467068_12171", "n03529860_11437"),
    *("n03544143_17228", "n03633091_5218", "n03710637_5125", "n03961711_5286", "n04033995_2932"),
    *("n04258138_17003", "n04264628_27969", "n04336792_7448", "n04371774_5854", "n04596742_4225"),
    *("n07583066_647", "n13037406_4650", "ILSVRC2012_val_00019877"),
)
ODD = frozenset((*ODD_PNG, *ODD_CMYK))

# Of the training pictures' central squares, 256×256, R, G, B of 0 to 255: cuda-convnet2's make-data/input_meta
# (github.com/akrizhevsky/cuda-convnet2, 2014). Its `color_pca` are standard deviations, not variances; here each
# axis has its largest component positive, as ours have.
RGB_MEAN = (127.30, 119.72, 104.91)
DEVIATIONS = (121.7801, 37.0939, 19.7208)
AXES = ((0.56351, 0.57618, 0.59200), (0.71258, 0.02354, -0.70120), (-0.41796, 0.81698, -0.39731))


@cache
def classes() -> dict[str, str]:
    """Give the words of each WNID, in label order."""
    text = files("alexnet_cli").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())


def class_names(wnids: Sequence[str], words: dict[str, str]) -> tuple[str, ...]:
    """Name each class by the first of its words, with the WNID where two would have one name or none is known."""
    first = [words.get(wnid, "").split(",")[0].strip() for wnid in wnids]
    times = Counter(first)
    return tuple(
        wnid if not name else name if times[name] == 1 else f"{name} ({wnid})"
        for wnid, name in zip(wnids, first, strict=True)
    )
