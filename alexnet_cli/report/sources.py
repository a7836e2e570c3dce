"""What figures and pages are made of: a run or a model file, and the dataset that it was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from alexnet_cli import runs
from alexnet_cli.dataset.images import PictureError, load_square
from alexnet_cli.dataset.manifest import Dataset, Split, open_squares
from alexnet_cli.engine import models
from alexnet_cli.engine.checkpoint import Checkpoint
from alexnet_cli.engine.evaluation import split_for
from alexnet_cli.engine.gathering import Picture
from alexnet_cli.engine.models import Model
from alexnet_cli.engine.prediction import treatment_for
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json
from alexnet_cli.loading.reader import Reader
from alexnet_cli.report import history
from alexnet_cli.report.history import History
from alexnet_cli.runs import Run

DESCRIPTIONS = ("config.json", runs.BASELINE_PLAN)
"""What runs and baselines say of themselves."""


@dataclass(frozen=True)
class Source:
    path: Path
    """The model file."""
    model: Model
    run: Run | None
    about: dict[str, Any]
    """Of the run: command line, versions."""
    dataset: Dataset | None
    without: str
    """Why there is no dataset."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The network's weights; a baseline has none, which is an error."""
        if self.model.checkpoint is None:
            message = f"{self.path} is a baseline of Fisher vectors, which has no layers to show"
            raise AlexNetError(message, "name a network's run or file")
        return self.model.checkpoint

    @property
    def name(self) -> str:
        return self.run.name if self.run else self.path.parent.name if self.baseline else self.path.stem

    @property
    def baseline(self) -> bool:
        return self.model.recipe is None

    @property
    def folder(self) -> Path:
        """Where what is made of it goes."""
        return self.run.root if self.run else self.path.parent

    def history(self) -> History:
        """What the run logged; a model file has no curves, which is an error."""
        if self.run is None:
            raise AlexNetError(f"{self.path} is a model file and has no curves", "name a run directory")
        same = self.dataset is not None and self.dataset.fingerprint == self.run.config.dataset
        training = self.dataset.splits.get("train") if same and self.dataset else None
        return history.read(self.run, None if training is None else len(training.index))

    def split(self, name: str) -> Split:
        if self.dataset is None:
            raise AlexNetError(self.without, "say where it lies with --data")
        return split_for(self.model.subject, self.dataset, name)


def opened(given: Path, data: str | None) -> Source:
    """A run's best checkpoint or a model file, with the dataset in `data`, else the one that the run names."""
    path = runs.model_file(given)
    run = runs.open_run(given) if given.is_dir() and path.name != runs.BASELINE else None
    model = models.load(path)
    if model.checkpoint is None and model.recipe is not None:
        models.load_weights(path)  # which says why an ONNX file will not do
    about = _about(path.parent)
    place = data or about.get("dataset")
    if not isinstance(place, str):
        return Source(path, model, run, about, None, f"{given} does not name a dataset")
    try:
        return Source(path, model, run, about, open_squares(place), "")
    except AlexNetError as error:
        if data:
            raise
        return Source(path, model, run, about, None, f"the dataset of {given} is gone: {error.message}")


def dataset_of(model: Path) -> str:
    """Where the dataset lay that the run of a checkpoint was trained on; else the usual place."""
    place = _about(model.parent).get("dataset")
    return place if isinstance(place, str) else "dataset"


def _about(folder: Path) -> dict[str, Any]:
    """What the run in a folder says of itself for people: command line, versions, dataset."""
    config = next((path for name in DESCRIPTIONS if (path := folder / name).exists()), folder / DESCRIPTIONS[0])
    about = read_json(config).get("about") if config.exists() else None
    return about if isinstance(about, dict) else {}


def pictures(split: Split, samples: list[int]) -> list[Tensor]:
    """(3, 256, 256) uint8 of places in the split's index."""
    with Reader(split) as reader:
        return [reader.picture(sample) for sample in samples]


def picture_of(path: Path, checkpoint: Checkpoint) -> Tensor:
    """A picture file as the model's pictures were prepared, (3, 256, 256) uint8."""
    try:
        return load_square(Picture(str(path)).read(), treatment_for(checkpoint.subject))
    except PictureError as error:
        raise AlexNetError(f"{path} cannot be used: {error}", "give a whole JPEG, PNG or other picture") from error
