"""From pictures to probabilities: the door through which everything that classifies passes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_cli import paper
from alexnet_cli.dataset.images import PictureError, load_square
from alexnet_cli.dataset.treatment import Treatment, treatment_of
from alexnet_cli.engine.arithmetic import autocast
from alexnet_cli.engine.checkpoint import Checkpoint, Subject, model_of
from alexnet_cli.engine.gathering import Picture
from alexnet_cli.engine.parallel import ALONE, Ranks
from alexnet_cli.errors import AlexNetError, Diverged
from alexnet_cli.loading.augmentation import Patches, cut, evaluation_views, patches_for
from alexnet_cli.loading.loader import ahead
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.network.layout import lay_out, usual_layout
from alexnet_cli.runs import Precision

Classifier = Callable[[Tensor], Tensor]
"""uint8 pictures (B, 3, 256, 256) → probabilities (B, classes), float32 on the CPU."""


@dataclass(frozen=True)
class NetworkClassifier:
    """The network on the centre patch, or the softmax outputs of ten patches averaged (paper §4.1)."""

    model: AlexNet
    patches: Patches
    crops: int
    device: torch.device
    precision: Precision = "fp32"

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        self.model.eval()
        pictures = pictures.to(self.device)
        views = evaluation_views(self.crops, len(pictures), self.patches.side)
        total = torch.zeros(())
        for view in views:
            with autocast(self.device, self.precision):
                logits = self.model(cut(pictures, self.patches, view))
            total = total + logits.float().softmax(1).cpu()
        return total / len(views)


def classifier(checkpoint: Checkpoint, crops: int, device: torch.device) -> NetworkClassifier:
    model = model_of(checkpoint, device)
    lay_out(model, usual_layout(device.type))
    patches = patches_for(checkpoint.recipe, checkpoint.subject.colours.mean.to(device))
    return NetworkClassifier(model, patches, crops, device)


def treatment_for(subject: Subject) -> Treatment:
    """What was done to the pictures that a model was trained on, so that the same is done to others."""
    try:
        treatment = treatment_of(subject.preparation)
    except (ValueError, TypeError, AttributeError) as error:
        raise AlexNetError(
            f"the checkpoint does not say how its pictures were prepared: {error}", "it is damaged, or was edited"
        ) from error
    if treatment.size != paper.IMAGE_SIZE:
        raise AlexNetError(
            f"the checkpoint says that its pictures were {treatment.size} pixels large, not {paper.IMAGE_SIZE}",
            "it is damaged, or was edited",
        )
    return treatment


FEATURES = ("conv5", "pool5", "fc6", "fc7", "fc8")


def features(net: NetworkClassifier, layer: str) -> Classifier:
    """uint8 pictures (B, 3, 256, 256) → what `layer` says of their centre patches, float32 on the CPU.

    conv5 (B, 256, 13, 13), pool5 (B, 256, 6, 6), fc6 and fc7 (B, 4096) are after their activation, as the next
    layer sees them, and so times ½ in the paper's net (§4.2); fc8 (B, classes) is before the softmax. fc7 is the
    "last, 4096-dimensional hidden layer" of §6.1.
    """
    model = net.model
    known = [name for name in FEATURES if name in ("pool5", *model.layers)]
    if layer not in known:
        raise AlexNetError(f"there are no features '{layer}'", f"it is one of {', '.join(known)}")
    # A hidden layer's outputs are what the next one is given; the last of the poolings is that after conv5.
    following = dict(pairwise(model.layers)) | {"conv5": "pool", "pool5": "pool", "fc8": "fc8"}
    module = getattr(model, following[layer])
    outputs = layer in ("pool5", "fc8")

    def extract(pictures: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = module.register_forward_hook(lambda _, given, out: seen.append(out if outputs else given[0]))
        try:
            replace(net, crops=1)(pictures)
        finally:
            hook.remove()
        return seen[-1].float().cpu().contiguous()

    return extract


def top(subject: Subject, probabilities: Tensor, count: int) -> list[dict[str, Any]]:
    """Of one picture's probabilities, (classes,), the `count` largest, best first; of equals, the lower label."""
    shares, labels = probabilities.sort(descending=True, stable=True)
    return [
        {"label": label, "name": subject.classes[label], "wnid": subject.wnids[label], "probability": share}
        for share, label in zip(shares.tolist()[:count], labels.tolist()[:count], strict=True)
    ]


def known_label(subject: Subject, name: str) -> int | None:
    """The right class of a picture that lies in a folder named by a class, or by its WNID."""
    folder = Path(name).absolute().parent.name
    for names in (subject.wnids, subject.classes):
        if folder in names:
            return names.index(folder)
    return None


@dataclass(frozen=True)
class Seen:
    """A picture and what was made of it; without `output` there is a `problem`."""

    name: str
    square: Tensor | None = None  # (3, 256, 256) uint8
    output: Tensor | None = None
    problem: AlexNetError | None = None


def seen(
    pictures: Sequence[Picture], treatment: Treatment, classify: Classifier, threads: int, ranks: Ranks = ALONE
) -> Iterator[Seen]:
    """Each picture in order, or what is wrong with it: decoded ahead by threads, many at a time in the net.

    Several ranks take turns, and the first of them has all answers; the others yield nothing.
    """
    size = max(1, min(AT_ONCE, -(-len(pictures) // (threads * ranks.size))))
    chunks = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    own = ahead(partial(_decoded, treatment), chunks[ranks.rank :: ranks.size], threads)
    for _ in range(0, len(chunks), ranks.size):
        for part in ranks.collected(_answered(next(own, []), classify)):
            yield from part


def check_finite(outputs: Tensor) -> Tensor:
    """The outputs themselves; raises Diverged for numbers that are none."""
    if not outputs.isfinite().all():
        raise Diverged(
            "the network's outputs are not finite numbers",
            "its weights have overflowed: go back to an earlier checkpoint, and train with a lower rate, --lr",
        )
    return outputs


def _answered(chunk: Sequence[Seen], classify: Classifier) -> list[Seen]:
    squares = [found.square for found in chunk if found.square is not None]
    outputs = iter(check_finite(classify(torch.stack(squares))) if squares else ())
    return [found if found.square is None else replace(found, output=next(outputs)) for found in chunk]


AT_ONCE = 64  # pictures: as quick as 128 on a CPU, and something to show twice as often


def _decoded(treatment: Treatment, pictures: Sequence[Picture]) -> list[Seen]:
    return [_squared(treatment, picture) for picture in pictures]


def _squared(treatment: Treatment, picture: Picture) -> Seen:
    """The picture decoded and resized as the training pictures were."""
    try:
        return Seen(picture.name, load_square(picture.read(), treatment))
    except PictureError as error:
        reason = f"{picture.name} cannot be used: {error}"
        return Seen(picture.name, problem=AlexNetError(reason, "give a whole JPEG, PNG or other picture"))
    except AlexNetError as error:
        return Seen(picture.name, problem=error)
