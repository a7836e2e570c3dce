"""A run for TensorBoard: its metrics.jsonl once more, as event files in the run's folder `tensorboard`."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alexnet_cli import runs
from alexnet_cli.engine.events import Event, Started, Step, Validated
from alexnet_cli.errors import AlexNetError


def needed() -> None:
    """Refuse to go on without the package."""
    if find_spec("tensorboard") is None:
        raise AlexNetError("--tensorboard needs the package tensorboard", "pip install 'alexnet-cli[tensorboard]'")


def recorded(events: Iterator[Event]) -> Iterator[Event]:
    """The events as they come, those of the log written for TensorBoard too.

    At the start the whole log is written anew, which ends at the checkpoint from which the run goes on: so nothing
    is there twice or missing, whenever the run was killed, and whether or not TensorBoard was asked for before.
    """
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = None
    try:
        for event in events:
            if isinstance(event, Started):
                # A TensorBoard that is open forgets what it has from step 0 on.
                writer = SummaryWriter(_emptied(event.run / "tensorboard"), purge_step=0)
                for line in runs.read_metrics(runs.open_run(event.run)):
                    _add(writer, line.pop("kind"), line)
                writer.flush()
            elif isinstance(event, Step) and event.logged:
                _add(writer, "step", asdict(event))
            elif isinstance(event, Validated):
                _add(writer, "validation", asdict(event))
                writer.flush()
            yield event
    finally:
        if writer is not None:
            writer.close()


def _emptied(folder: Path) -> Path:
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()
    return folder


def _add(writer: Any, kind: str, line: dict[str, Any]) -> None:
    """One line of the log."""
    if kind == "step":
        values = {f"training/{name}": line[name] for name in ("loss", "gradient", "rate")}
    elif kind == "rate":  # a change by hand, which the steps after it show
        return
    else:
        tally = line["tally"]
        pictures = max(1, tally["pictures"])
        values = {
            "validation/loss": tally["loss"] / pictures,
            "validation/top-1 error": 100 * tally["wrong1"] / pictures,
        }
        if line["classes"] > 5:
            values["validation/top-5 error"] = 100 * tally["wrong5"] / pictures
    for name, value in values.items():
        if value is not None and math.isfinite(value):
            writer.add_scalar(name, value, line["step"])
