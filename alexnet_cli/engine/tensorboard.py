"""A run for TensorBoard: its metrics.jsonl once more, as event files in the run's folder `tensorboard`."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alexnet_cli import runs
from alexnet_cli.engine.events import Event, Note, Started, Step, Validated
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
    writer: Any = None
    try:
        for event in events:
            try:
                if isinstance(event, Started):
                    writer = _begun(event.run)
                elif writer is not None:
                    _record(writer, event)
            except Exception as error:  # of its thread, from a full disk: what it is depends on its file system
                yield Note(f"TensorBoard's files stop here, until the run goes on anew: {error}", warning=True)
                _close(writer)
                writer = None
            yield event
    finally:
        _close(writer)


def _begun(run: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    folder = run / "tensorboard"
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()
    writer: Any = SummaryWriter(
        folder, purge_step=0
    )  # a TensorBoard that is open forgets what it has from there on
    for line in runs.read_metrics(runs.open_run(run)):
        _add(writer, line.pop("kind"), line)
    writer.flush()
    return writer


def _record(writer: Any, event: Event) -> None:
    if isinstance(event, Step) and event.logged:
        _add(writer, "step", asdict(event))
    elif isinstance(event, Validated):
        _add(writer, "validation", asdict(event))
        writer.flush()


def _close(writer: Any) -> None:
    if writer is not None:
        with suppress(Exception):  # it has been said
            writer.close()


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
