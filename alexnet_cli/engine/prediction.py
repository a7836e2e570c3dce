"""From pictures to probabilities: the door through which everything that classifies passes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_cli import paper
from alexnet_cli.dataset.images import PictureError, load_square
from alexnet_cli.dataset.treatment import Treatment, treatment_of
from alexnet_cli.engine.checkpoint import Checkpoint, Subject, model_of
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.augmentation import Patches, cut, evaluation_views, patches_for
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


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


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


class Predictor:
    """Names pictures from files, which are decoded and resized as the training pictures were."""

    def __init__(self, subject: Subject, classify: Classifier) -> None:
        self.subject, self.treatment, self.classify = subject, treatment_for(subject), classify

    def top(self, path: Path, count: int) -> list[dict[str, Any]]:
        """The `count` most probable classes, best first; of equals, the lower label."""
        try:
            square = load_square(path.read_bytes(), self.treatment)
        except OSError as error:
            raise AlexNetError(f"{path} cannot be read: {error.strerror}", "give picture files") from error
        except PictureError as error:
            raise AlexNetError(
                f"{path} cannot be used: {error}", "give a whole JPEG, PNG or other picture"
            ) from error
        probabilities, labels = self.classify(square[None])[0].sort(descending=True, stable=True)
        return [
            {
                "label": label,
                "name": self.subject.classes[label],
                "wnid": self.subject.wnids[label],
                "probability": probability,
            }
            for probability, label in zip(probabilities.tolist()[:count], labels.tolist()[:count], strict=True)
        ]
