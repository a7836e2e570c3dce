"""Run directories: what a run is, where it lies, and that only one process writes it.

    runs/<name>/config.json        what the run is, resolved; versions and command line beside it
    runs/<name>/metrics.jsonl      one JSON object a line: steps and validations
    runs/<name>/last.safetensors   the newest checkpoint, previous.safetensors the one before
    runs/<name>/best.safetensors   the one with the lowest validation error
    runs/<name>/step-….safetensors those that `--keep-every` asks for

This page needs no torch: what it knows of checkpoints it reads from the JSON at their beginning.
"""

import errno
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from alexnet_cli import files, settings
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import disk_errors, read_json, write_json
from alexnet_cli.recipes import Recipe

FORMAT = 1

BASELINE, BASELINE_PLAN = "baseline.safetensors", "baseline.json"
"""In the directory of a Fisher-vector baseline, which is no run: see fisher/building.py."""

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Parallel = Literal["data", "towers", "hybrid"]
"""How a net lies on several devices: see engine/placed.py."""
Layout = Literal["contiguous", "after-conv1", "channels-last"]
"""How a network's maps lie in memory: see network/layout.py."""


@dataclass(frozen=True)
class Machine:
    """What a bit-equal continuation needs to have in common; fixed when the run starts."""

    device: str = "cpu"
    ranks: int = 1
    parallel: Parallel = "data"
    threads: int = 1
    """Arithmetic threads of each rank on a CPU."""
    layout: Layout = "contiguous"
    compiled: bool = False
    """The training step, by torch.compile."""
    accumulate: int = 1
    """Parts in which a batch is computed, for want of memory."""
    deterministic: bool = False
    """Only operations that give the same bits each time, at some cost on a GPU."""


@dataclass(frozen=True)
class Config:
    """What makes two runs the same run, apart from how far they went."""

    recipe: Recipe
    dataset: str
    """Fingerprint of the dataset directory."""
    seed: int = 1
    eval_every: float = 1.0
    """Epochs."""
    precision: Precision = "fp32"
    machine: Machine = field(default_factory=Machine)
    start: str = ""
    """SHA-256 of the file with the weights that it began with; empty if they were drawn."""

    def same_training(self, other: "Config") -> bool:
        """Whether one continues the other: everything but the machine agrees."""
        return not [name for name, _, _ in settings.differences(self, other) if not name.startswith("machine.")]


@dataclass(frozen=True)
class Run:
    root: Path
    config: Config

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def last(self) -> Path:
        return self.root / "last.safetensors"

    @property
    def previous(self) -> Path:
        return self.root / "previous.safetensors"

    @property
    def best(self) -> Path:
        return self.root / "best.safetensors"

    def kept(self, steps: int) -> Path:
        return self.root / f"step-{steps:08}.safetensors"

    def state(self) -> dict[str, Any] | None:
        """What the newest readable checkpoint says of itself, or None before the first."""
        for path in (self.last, self.previous):
            with suppress(AlexNetError):
                return checkpoint_header(path)
        return None

    def finished(self) -> bool:
        state = self.state()
        return state is not None and bool(state.get("finished"))

    def best_saved_error(self) -> float:
        """Top-1 validation error of the best checkpoint, in percent; infinite before there is one."""
        with suppress(AlexNetError):
            error = checkpoint_header(self.best).get("best_error")
            return math.inf if error is None else float(error)
        return math.inf


def checkpoint_header(path: Path) -> dict[str, Any]:
    """The JSON metadata of one of our checkpoints, read without its tensors."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError("it is cut short")
            header = json.loads(file.read(size))
        found = json.loads(header["__metadata__"]["alexnet"])
    except FileNotFoundError:
        raise AlexNetError(f"there is no file {path}", "give a run directory or a checkpoint") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AlexNetError(
            f"{path} is not a checkpoint of alexnet ({error})",
            "give a run directory, or one of its .safetensors files",
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise AlexNetError(f"{path} has a checkpoint format this version does not know", "update alexnet-cli")
    return found


def open_run(root: Path) -> Run:
    if not (root / "config.json").exists():
        raise AlexNetError(f"{root} is not a run directory", "`alexnet train` makes one under runs/")
    stored = read_json(root / "config.json")
    if stored.get("format") != FORMAT:
        raise AlexNetError(f"the run {root} has a format this version does not know", "update alexnet-cli")
    return Run(root, settings.restored(Config, stored["config"]))


def all_runs(folder: Path) -> list[Run]:
    """The runs in a folder, newest first; what is no run, or one of another version, is passed over."""
    configs = [path for path in folder.glob("*/config.json") if not path.parent.name.startswith(".")]
    configs.sort(key=lambda path: (path.stat().st_mtime_ns, path), reverse=True)
    found = []
    for path in configs:
        with suppress(AlexNetError):
            found.append(open_run(path.parent))
    return found


def create_run(
    folder: Path,
    name: str | None,
    config: Config,
    about: dict[str, Any],
    fill: Callable[[Run], None] = lambda _: None,
) -> Run:
    """A new run directory; `about` is for people: command line, versions, host.

    It gets its name when all is in it, what `fill` writes too: a kill before that leaves no run and takes no name.
    """
    if name is not None and (Path(name).name != name or name.startswith(".")):
        raise AlexNetError(f"--name {name}: not the name of a run", "give a bare name; --runs says where runs lie")
    made = folder / f"{_BEGUN}{uuid4().hex}"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        made.mkdir()
    try:
        fill(Run(made, config))
        write_json(made / "config.json", {"format": FORMAT, "config": settings.nested(config), "about": about})
        return Run(_named(made, name, config.recipe.name), config)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _named(made: Path, name: str | None, stem: str) -> Path:
    """Its name from now on: one that nobody has, also when several processes look for one at once."""
    while True:
        root = made.parent / (name or _free_name(made.parent, stem))
        with disk_errors(root):
            try:
                return made.rename(root)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                if name is not None:
                    raise AlexNetError(f"{root} exists already", "choose another --name") from None


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed a day ago had begun."""
    for path in folder.glob(f"{_BEGUN}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 86400:
                shutil.rmtree(path, ignore_errors=True)


_BEGUN = ".begun-"


def _free_name(folder: Path, stem: str) -> str:
    """paper-1, paper-2, … — one above the highest number in use."""
    pattern = re.compile(re.escape(stem) + r"-(\d+)")
    used = [int(m[1]) for path in folder.glob("*") if (m := pattern.fullmatch(path.name))]
    return f"{stem}-{max(used, default=0) + 1}"


def unfinished(folder: Path, config: Config) -> Run | None:
    """The newest run that `config` goes on with: same training, not finished, ours, written by nobody now."""
    for run in all_runs(folder):
        ours = os.access(run.root, os.W_OK)
        if run.config.same_training(config) and ours and not run.finished() and not is_locked(run):
            return run
    return None


def newest_model(folder: Path) -> Path:
    """The best checkpoint of the newest run that has one."""
    for run in all_runs(folder):
        for path in (run.best, run.last):
            if path.exists():
                return path
    raise AlexNetError(
        f"there is no trained run in {folder}", "train one with `alexnet train`, or name a checkpoint file"
    )


def model_file(given: Path) -> Path:
    """The checkpoint that a run directory or a file name means."""
    if not files.is_folder(given):
        return given
    if (given / BASELINE_PLAN).exists():
        return _baseline(given)
    run = open_run(given)
    for path in (run.best, run.last):
        if path.exists():
            return path
    raise AlexNetError(f"the run {given} has no checkpoint yet", "let it train until its first validation")


def _baseline(root: Path) -> Path:
    path = root / BASELINE
    if not path.exists():
        raise AlexNetError(f"the baseline {root} is not finished", "give its `alexnet baseline` again: it goes on")
    return path


@contextmanager
def locked(run: Run, writer: bool = True) -> Iterator[None]:
    """Hold the run for writing; of several ranks only the `writer` does."""
    if not writer:
        yield
        return
    message = f"the run {run.root} is being trained by another process"
    with files.locked(run.root / ".lock", message, "stop that one, or start another with --new", patience=0.2):
        yield


def is_locked(run: Run) -> bool:
    return files.is_locked(run.root / ".lock")


class Log:
    """metrics.jsonl, open at its end for the one process that writes it.

    Lines for which the disk has no room wait in memory; a checkpoint is written after all lines before it, or not.
    """

    def __init__(self, run: Run) -> None:
        with disk_errors(run.metrics):
            self._file = run.metrics.open("ab", buffering=0)
        self._waiting = b""

    def write(self, kind: str, values: dict[str, Any]) -> None:
        self._waiting += json.dumps({"kind": kind, **values}).encode() + b"\n"
        with suppress(OSError):
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            written = self._file.write(self._waiting)
            self._waiting = self._waiting[written:]

    def sync(self) -> int:
        """The bytes of all lines, once they are on the disk; raises AlexNetError or OSError where that fails."""
        with disk_errors(Path(self._file.name)):
            self._flush()
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def tidy(run: Run, size: int) -> None:
    """Forget the metrics after the checkpoint from which a run goes on, and what a kill left half written."""
    for path in run.root.glob(".*.tmp"):  # see files.whole_file
        path.unlink()
    if run.metrics.exists():
        os.truncate(run.metrics, min(size, run.metrics.stat().st_size))


def read_metrics(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()] if run.metrics.exists() else []
