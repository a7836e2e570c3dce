"""From a prepared dataset to a finished baseline, stage by stage; what is done stays done, however a call ends.

baseline.json              what it is: settings, dataset; command line and versions beside it
seconds.json               of each stage so far, over all calls
sift-sample.npy            descriptors that the components and the mixture are learnt from
sift-vocabulary.safetensors
sift-vectors-00000.npy     Fisher vectors of CHUNK training pictures, float16
sift-classifier.safetensors    as far as it is learnt
baseline.safetensors       the model; when it is there, what begins with `sift-` and `colour-` is removed
"""

import shutil
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from alexnet_cli import runs
from alexnet_cli.dataset.manifest import Dataset, Split
from alexnet_cli.dataset.space import size, standing
from alexnet_cli.dataset.treatment import described
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import is_locked, read_json, whole_file, write_json
from alexnet_cli.fisher import linear, mixture
from alexnet_cli.fisher.descriptors import Kind, dense
from alexnet_cli.fisher.encoding import Vocabulary
from alexnet_cli.fisher.linear import Learning, State, Vectors
from alexnet_cli.fisher.model import Baseline, Judge, Settings, save, vector, write
from alexnet_cli.loading import draws
from alexnet_cli.loading.loader import ahead
from alexnet_cli.loading.reader import Reader
from alexnet_cli.machine import cores

FORMAT = 1

CHUNK = 256
"""Vectors in a file: 67 MB at 256 Gaussians in 64 dimensions with the three bands."""

EACH = 200
"""Descriptors of one picture in the sample; more where there are too few pictures."""

SAVE_SECONDS = 60.0
"""Between two saves of a classifier that is being learnt."""

STAGES = DESCRIBING, MIXING, ENCODING, LEARNING = "describing", "fitting the mixture", "encoding", "learning"


@dataclass(frozen=True)
class Stage:
    """How far one of them is, for one kind of descriptor."""

    name: str
    kind: Kind
    done: int
    total: int
    unit: str
    said: str = ""


@dataclass(frozen=True)
class Building:
    root: Path
    dataset: Dataset
    settings: Settings

    @cached_property
    def split(self) -> Split:
        """The training pictures."""
        return self.dataset.splits["train"].part(self.settings.limit)

    @property
    def model(self) -> Path:
        return self.root / runs.BASELINE

    def stages(self) -> Iterator[Stage]:
        """Do what is not done yet."""
        if not self.model.exists():
            self._tidy()
            self._check_room()
            judges = {}
            for kind in self.settings.kinds:
                judges[kind] = yield from self._judge(kind)
            save(self.model, Baseline(self.settings, judges, self._about()))
        for path in [found for kind in self.settings.kinds for found in self.root.glob(f"{kind}-*")]:
            path.unlink()

    def _judge(self, kind: Kind) -> Generator[Stage, None, Judge]:
        vocabulary = yield from self._vocabulary(kind)
        yield from self._encode(kind, vocabulary)
        state = yield from self._learn(kind)
        return Judge(vocabulary, state.classifier, state.biases)

    def _about(self) -> dict[str, Any]:
        dataset = self.dataset
        return {
            "classes": dataset.classes,
            "wnids": dataset.wnids,
            "eigenvalues": dataset.eigenvalues.tolist(),
            "eigenvectors": dataset.eigenvectors.tolist(),
            "preparation": described(dataset.treatment),
            "dataset": dataset.fingerprint,
            "pictures": len(self.split.index),
            "seconds": sum(self.seconds().values()),
        }

    # --- what lies in the directory

    def seconds(self) -> dict[str, float]:
        """Wall time of each stage, over all calls but for what a kill undid."""
        path = self.root / "seconds.json"
        found = read_json(path) if path.exists() else {}
        names = [f"{kind}: {stage}" for kind in self.settings.kinds for stage in STAGES]
        return {name: found[name] for name in names if name in found}

    def _spent(self, stage: str, kind: Kind, start: float) -> None:
        found, name = self.seconds(), f"{kind}: {stage}"
        write_json(self.root / "seconds.json", found | {name: found.get(name, 0.0) + time.monotonic() - start})

    def _file(self, kind: Kind, rest: str) -> Path:
        return self.root / f"{kind}-{rest}"

    def _chunks(self, kind: Kind) -> list[Path]:
        count = -(-len(self.split.index) // CHUNK)
        return [self._file(kind, f"vectors-{place:05}.npy") for place in range(count)]

    def _tidy(self) -> None:
        """Remove what a kill left half written: see files.whole_file."""
        for path in self.root.glob(".*.tmp"):
            path.unlink()

    def _check_room(self) -> None:
        """For all vectors, before hours are spent on some."""
        files = [path for kind in self.settings.kinds for path in self._chunks(kind)]
        needed = 2 * self.settings.length * len(self.settings.kinds) * len(self.split.index)
        needed -= sum(path.stat().st_size for path in files if path.exists())
        free = shutil.disk_usage(place := standing(self.root)).free
        if needed > free:
            raise AlexNetError(
                f"the Fisher vectors of {len(self.split.index):,} pictures need {size(needed)}, "
                f"and {place} has {size(free)} free",
                "name another place with --out, or take --pyramid none, fewer --gaussians or a --limit",
            )

    # --- the stages

    def _vocabulary(self, kind: Kind) -> Generator[Stage, None, Vocabulary]:
        path, settings = self._file(kind, "vocabulary.safetensors"), self.settings
        if not path.exists():
            yield from self._describe(kind)
            yield Stage(MIXING, kind, 0, settings.gaussians, "Gaussians")
            start, sample = time.monotonic(), np.load(self._file(kind, "sample.npy"), allow_pickle=False)
            found = mixture.learnt(sample, settings.dimensions, settings.gaussians, settings.seed)
            write(path, vars(found))
            self._spent(MIXING, kind, start)
            yield Stage(MIXING, kind, settings.gaussians, settings.gaussians, "Gaussians")
        return Vocabulary(**_load(path)[0])

    def _describe(self, kind: Kind) -> Iterator[Stage]:
        path, count, wanted = self._file(kind, "sample.npy"), len(self.split.index), self.settings.sample
        if path.exists():
            return
        start, each = time.monotonic(), max(EACH, -(-wanted // count))
        pictures = draws.permutation(self.settings.seed, 0, count)[: max(1, wanted // each)].tolist()
        parts: list[NDArray[np.float32]] = []
        with Reader(self.split) as reader:
            for part in ahead(partial(self._some, kind, reader, each), pictures, cores()):
                parts.append(part)
                yield Stage(DESCRIBING, kind, len(parts), len(pictures), "pictures")
        _write(path, np.concatenate(parts))
        self._spent(DESCRIBING, kind, start)

    def _some(self, kind: Kind, reader: Reader, each: int, picture: int) -> NDArray[np.float32]:
        """Some descriptors of a picture, none twice."""
        found, _ = dense(kind, _pixels(reader, picture), self.settings.step)
        return found[draws.permutation(self.settings.seed, picture, len(found), "row")[:each]]

    def _encode(self, kind: Kind, vocabulary: Vocabulary) -> Iterator[Stage]:
        count = len(self.split.index)
        with Reader(self.split) as reader:
            for place, path in enumerate(self._chunks(kind)):
                if path.exists():
                    continue
                start, pictures = time.monotonic(), range(count)[place * CHUNK :][:CHUNK]
                rows = np.empty((len(pictures), self.settings.length), dtype=np.float16)
                encode = partial(self._vector, kind, vocabulary, reader)
                for row, found in enumerate(ahead(encode, pictures, cores())):
                    rows[row] = found
                    yield Stage(ENCODING, kind, pictures[row] + 1, count, "pictures")
                _write(path, rows)
                self._spent(ENCODING, kind, start)

    def _vector(self, kind: Kind, vocabulary: Vocabulary, reader: Reader, picture: int) -> NDArray[np.float32]:
        found: NDArray[np.float32] = vector(vocabulary, kind, _pixels(reader, picture), self.settings).numpy()
        return found

    def _learn(self, kind: Kind) -> Generator[Stage, None, State]:
        path, settings = self._file(kind, "classifier.safetensors"), self.settings
        vectors = Vectors(tuple(self._chunks(kind)), self.split.index["label"].astype(np.int64), CHUNK)
        learning = Learning(settings.epochs, settings.rate, settings.decay, settings.seed)
        state, total = self._state(path), settings.epochs * len(vectors.files)
        start = time.monotonic()
        for now in linear.learnt(vectors, learning, state):
            if now.done == total or time.monotonic() - start >= SAVE_SECONDS:
                tensors = {"classifier": now.classifier, "biases": now.biases}
                write(path, tensors, {"done": str(now.done), "loss": repr(now.loss)})
                self._spent(LEARNING, kind, start)
                start = time.monotonic()
            yield Stage(LEARNING, kind, now.done, total, "files", f"loss {now.loss:.3f}")
        return state  # whose tensors were changed in place

    def _state(self, path: Path) -> State:
        if not path.exists():
            return linear.fresh(len(self.dataset.classes), self.settings.length)
        tensors, about = _load(path)
        return State(tensors["classifier"], tensors["biases"], int(about["done"]), float(about["loss"]))


def opened(out: Path | None, folder: Path, dataset: Dataset, settings: Settings) -> Building:
    """The baseline to go on with, or a new one: in `out`, else in `folder`, where the same may have been begun."""
    check(dataset)
    plan = {"format": FORMAT, "settings": asdict(settings), "dataset": dataset.fingerprint}
    root = out or _same(folder, plan) or folder / f"baseline-{_next(folder)}"
    description = root / runs.BASELINE_PLAN
    if description.exists():
        _check_same(root, read_json(description), plan)
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise AlexNetError(f"{root} holds something else than a baseline", "name another folder with --out")
    else:
        write_json(description, plan | {"about": _about(dataset)})
    return Building(root, dataset, settings)


def check(dataset: Dataset) -> None:
    if "train" not in dataset.splits:
        raise AlexNetError(f"{dataset.place} has no training pictures", "prepare a source that has some")
    if len(dataset.classes) < 2:
        raise AlexNetError(f"{dataset.place} has one class only", "a classifier needs at least two")


def _about(dataset: Dataset) -> dict[str, Any]:
    """For people: how it was started, with what and where the pictures lie."""
    packages = ("alexnet-cli", "torch", "opencv-python-headless", "scikit-learn")
    return {
        "command": ["alexnet", *sys.argv[1:]],
        "dataset": str(dataset.root.resolve()),
        "versions": {name: metadata.version(name) for name in packages},
    }


def _same(folder: Path, plan: dict[str, Any]) -> Path | None:
    """The newest baseline of the same settings and dataset that nobody is at now."""
    found = sorted(folder.glob(f"*/{runs.BASELINE_PLAN}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found:
        with suppress(AlexNetError):
            if plan.items() <= read_json(path).items() and not is_locked(path.parent / ".lock"):
                return path.parent
    return None


def _next(folder: Path) -> int:
    numbers = [path.name.removeprefix("baseline-") for path in folder.glob("baseline-*")]
    return max([int(number) for number in numbers if number.isdecimal()], default=0) + 1


def _check_same(root: Path, there: dict[str, Any], plan: dict[str, Any]) -> None:
    before, now = ({**part.get("settings", {}), "dataset": part.get("dataset")} for part in (there, plan))
    other = [f"--{key}" if key != "dataset" else "the dataset" for key in now if before.get(key) != now[key]]
    if other or there.get("format") != plan["format"]:
        raise AlexNetError(
            f"the baseline in {root} was begun otherwise: {', '.join(other) or 'by another version'} changed",
            "give the command it was begun with, or name another folder with --out",
        )


def _pixels(reader: Reader, picture: int) -> NDArray[np.uint8]:
    """(256, 256, 3)."""
    found: NDArray[np.uint8] = reader.picture(picture).permute(1, 2, 0).numpy()
    return found


def _write(path: Path, array: NDArray[Any]) -> None:
    """As np.save, which would not say that a disk is full."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
