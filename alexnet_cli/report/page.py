"""One HTML page about some runs: from disk, without a network, nothing in it but text, SVG and small pictures.

Jinja escapes everything that comes from data; a content security policy forbids all that the page does not bring
along, with the hashes of its one script and its one style sheet.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from alexnet_cli import __version__, paper, runs
from alexnet_cli.engine import comparison
from alexnet_cli.report import charts, kernels, plotting
from alexnet_cli.report.answers import Answers, by_class, confusion, evenly, most_confused, surest_mistakes
from alexnet_cli.report.charts import Chart, Line, Mark
from alexnet_cli.report.curves import MOST_MARKS
from alexnet_cli.report.history import History, smoothed, window_for
from alexnet_cli.report.sources import Source, pictures

SHOWN = 12
"""Pictures of each kind."""
THUMBNAIL = 112
PAIRS = 20
MATRIX = 20
"""Classes of which the whole confusion matrix is shown."""
LEVELS = 10
"""Shades of the matrix."""


@dataclass(frozen=True)
class Entry:
    """A run, and what it says of a split if that was asked for."""

    source: Source
    split: str
    crops: int
    limit: int | None
    answers: Answers | None


def html(entries: Sequence[Entry]) -> str:
    """The whole page."""
    script, style = _part("js"), _part("css")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"plain": lambda name: plotting.shown(str(name), 300), "letter": kernels.letter}
    template = environment.from_string(_part("html"))
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    drawn = _charts(entries)
    return template.render(
        policy=policy,
        script=Markup(script),
        style=Markup(style),
        version=__version__,
        runs=[_run(place, entry) for place, entry in enumerate(entries)],
        charts=drawn,
        chart_data={f"{chart.name}-{chart.unit}": _chart_data(chart) for chart in drawn},
        units=[*dict.fromkeys(chart.unit for chart in drawn)],
        paper_tables=[*filter(None, (_paper_table(entry) for entry in entries))],
        paper_rows=paper.TABLE2,
        class_tables=_class_tables(entries),
        settings=_settings(entries),
        size=charts,
    )


def _part(kind: str) -> str:
    return files("alexnet_cli.report").joinpath(f"page.{kind}").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# --- the runs, one by one


def _run(place: int, entry: Entry) -> dict[str, Any]:
    source, answers = entry.source, entry.answers
    model, classes = source.model, source.model.subject.classes
    return {
        "place": place,
        "name": source.name,
        "recipe": model.name,
        "epochs": model.position.epoch,
        "steps": f"{model.position.steps:,}",
        "minutes": f"{model.position.seconds / 60:,.1f}",
        "state": _state(source),
        "parameters": f"{model.parameters:,}",
        "evaluated": _evaluated(entry),
        "without": source.without,
        **_kernels(source),
        "matrix": _matrix(answers, classes) if answers else None,
        "pairs": _pairs(answers, classes) if answers else [],
        "examples": _examples(entry, evenly(answers, SHOWN)) if answers else [],
        "mistakes": _examples(entry, surest_mistakes(answers, SHOWN).tolist()) if answers else [],
        "provenance": _provenance(source),
    }


def _kernels(source: Source) -> dict[str, Any]:
    """Those of the first layer; a baseline has none."""
    if source.baseline:
        return {"kernels": [], "kernels_text": ""}
    checkpoint = source.checkpoint
    images = [_png(np.rint(255 * image).astype(np.uint8)) for image in kernels.towers(checkpoint)]
    layer, tiles, low, high = kernels.scaled(checkpoint)
    side = tiles.shape[1]
    text = f"{layer}: {len(tiles)} kernels of {side}×{side}×3, from {low:.3g} (black) to {high:.3g} (white)"
    return {"kernels": images, "kernels_text": text}


def _state(source: Source) -> str:
    if source.baseline:
        return f"a baseline, {source.model.position.finished}"
    if source.run is None:
        return "a model file"
    state = source.run.state() or {}
    if state.get("finished"):
        return f"finished: {state['finished']}"
    return "being trained" if runs.is_locked(source.run) else "not finished"


def _evaluated(entry: Entry) -> dict[str, str] | None:
    answers = entry.answers
    if answers is None:
        return None
    patches = "centre patch" if entry.crops == 1 else "ten patches"
    of = f"{entry.split}, {len(answers):,} pictures, {'whole' if entry.source.baseline else patches}"
    classes = len(entry.source.model.subject.classes)
    return {
        "of": of,
        "top1": f"{answers.error(1):.2f} %",
        "top5": f"{answers.error(5):.2f} %" if classes > 5 else "",
        "loss": f"{answers.loss / len(answers):.4f}",
    }


def _provenance(source: Source) -> list[tuple[str, str]]:
    """The command as it was typed; the host is nobody's business."""
    about, subject = source.about, source.model.subject
    versions = about.get("versions", {})
    facts = [
        ("command", " ".join(map(str, about.get("command", [])))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("weights", f"{source.path.name}{': ' + source.model.origin if source.model.origin else ''}"),
        ("dataset's fingerprint", subject.dataset),
        ("classes", f"{len(subject.classes):,}"),
        ("RGB deviations", ", ".join(f"{value:.2f}" for value in np.sqrt(subject.colours.eigenvalues))),
    ]
    return [(name, value) for name, value in facts if value]


# --- curves


def _charts(entries: Sequence[Entry]) -> list[Chart]:
    found = [
        (place, entry.source.name, entry.source.history())
        for place, entry in enumerate(entries)
        if entry.source.run
    ]
    if not found:
        return []
    # Epochs where all lengths are known, so that one axis has one unit.
    in_epochs = all(history.steps_per_epoch for _, _, history in found)
    drawn = []
    for unit in ("epochs" if in_epochs else "steps", "minutes"):
        losses, errors, marks = [], [], []
        for place, name, history in found:
            x, checked = _places(history, unit)
            window = window_for(len(history.losses))
            losses += [
                Line(name, "training loss", place, x, history.losses, "faint"),
                Line(name, "training loss", place, x, smoothed(history.losses, window), "solid"),
            ]
            errors.append(Line(name, "top-1 error", place, checked, history.top1, "solid"))
            if history.classes > 5:
                errors.append(Line(name, "top-5 error", place, checked, history.top5, "dashed"))
            if len(found) == 1 and len(history.changes) <= MOST_MARKS:
                marks += [_mark(history, change, unit) for change in history.changes]
        top = max((float(np.quantile(line.y, 0.999)) for line in losses if len(line.y)), default=1.0)
        drawn.append(charts.chart("loss", unit, "Training loss", "cross-entropy", losses, marks, top))
        drawn.append(charts.chart("error", unit, "Validation error", "error, %", errors, marks))
    return drawn


def _places(history: History, unit: str) -> tuple[Any, Any]:
    if unit == "minutes":
        return history.minutes, history.validated_minutes
    if unit == "epochs":
        return history.epochs(history.steps), history.epochs(history.validated)
    return history.steps.astype(np.float64), history.validated.astype(np.float64)


def _mark(history: History, change: Any, unit: str) -> Mark:
    places = {"minutes": change.minutes, "epochs": history.epochs(change.step - 1), "steps": change.step - 1}
    return Mark(float(places[unit]), f"rate {change.words}", change.by_hand)


def _chart_data(chart: Chart) -> dict[str, Any]:
    """What page.js needs to tell values."""
    return {"unit": chart.unit, "xRange": chart.x_range, "yRange": chart.y_range, "lines": chart.data}


# --- the paper's tables, classes, settings


def _paper_table(entry: Entry) -> dict[str, Any] | None:
    source, answers = entry.source, entry.answers
    if answers is None or source.dataset is None:
        return None
    edition = comparison.edition_of(str(source.dataset.manifest["form"]), source.dataset.wnids)
    net, errors = comparison.net_of(source.model.recipe), (answers.error(1), answers.error(5))
    measured = comparison.Measured([net], [errors], None, (1.0,), entry.crops, len(answers))
    found = comparison.table(edition, entry.split, measured)
    if found is None:
        return None
    title, rows = found
    return {"run": source.name, "title": title, "rows": [_paper_row(row) for row in rows]}


def _paper_row(row: comparison.Row) -> dict[str, str]:
    printed = " / ".join("–" if value is None else f"{value:.1f}" for value in row.paper)
    if row.ours is None:
        return {"name": row.name, "paper": printed, "ours": "", "gap": "", "missing": "; ".join(row.missing)}
    pairs = [(mine, theirs) for mine, theirs in zip(row.ours, row.paper, strict=False)]
    gap = " / ".join("–" if theirs is None else f"{mine - theirs:+.1f}" for mine, theirs in pairs)
    ours = " / ".join(f"{value:.1f}" for value in row.ours)
    return {"name": row.name, "paper": printed, "ours": ours, "gap": gap, "missing": "; ".join(row.missing)}


def _class_tables(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A table for each set of classes: the results of the runs that have them, side by side."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if entry.answers is not None:
            groups.setdefault(entry.source.model.subject.classes, []).append(entry)
    return [_class_table(classes, group) for classes, group in groups.items()]


def _class_table(classes: tuple[str, ...], group: list[Entry]) -> dict[str, Any]:
    wnids = group[0].source.model.subject.wnids
    results = [{result.label: result for result in by_class(entry.answers)} for entry in group if entry.answers]
    rows = []
    for label in sorted({label for result in results for label in result}):
        found = [result.get(label) for result in results]
        first = next(result for result in found if result)
        errors = [None if r is None else 100 * r.wrong1 / r.pictures for r in found]
        top5 = [None if r is None else 100 * r.wrong5 / r.pictures for r in found]
        taken = [None if r is None or r.taken_for is None else (classes[r.taken_for], r.times) for r in found]
        rows.append(
            (label, classes[label], wnids[label], first.pictures, [*zip(errors, top5, taken, strict=True)])
        )
    return {
        "runs": [entry.source.name for entry in group],
        "rows": rows,
        "with_top5": len(classes) > 5,
        "with_wnids": any(wnids) and tuple(wnids) != classes,
    }


def _settings(entries: Sequence[Entry]) -> list[tuple[str, list[str], bool]]:
    """Each setting with its value in every run, and whether the runs differ in it."""
    tables = [{**entry.source.model.settings} for entry in entries]
    for table, entry in zip(tables, entries, strict=True):
        if entry.source.run is not None:
            config = entry.source.run.config
            table |= {"seed": config.seed, "precision": config.precision, "eval_every": config.eval_every}
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        values = [_written(table.get(key, "")) for table in tables]
        rows.append((key, values, len(set(values)) > 1))
    return rows


def _written(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- answers


def _matrix(answers: Answers, classes: Sequence[str]) -> dict[str, Any] | None:
    if len(classes) > MATRIX:
        return None
    table = confusion(answers, len(classes))
    shares = table / np.maximum(1, table.sum(1, keepdims=True))
    levels = np.ceil(LEVELS * shares).astype(int)
    rows = [
        (name, [*zip(counts, shades, strict=True)])
        for name, counts, shades in zip(classes, table.tolist(), levels.tolist(), strict=True)
    ]
    return {"classes": [*classes], "rows": rows}


def _pairs(answers: Answers, classes: Sequence[str]) -> list[tuple[str, str, int, str]]:
    totals = np.bincount(answers.labels, minlength=len(classes))
    return [
        (classes[right], classes[guess], times, f"{100 * times / totals[right]:.1f} %")
        for right, guess, times in most_confused(answers, PAIRS)
    ]


def _examples(entry: Entry, rows: Sequence[int]) -> list[dict[str, Any]]:
    answers, classes = entry.answers, entry.source.model.subject.classes
    assert answers is not None
    split = entry.source.split(entry.split).part(entry.limit)
    found = []
    for row, picture in zip(rows, pictures(split, answers.samples[[*rows]].tolist()), strict=True):
        right = int(answers.labels[row])
        guesses = zip(answers.guesses[row].tolist(), answers.shares[row].tolist(), strict=True)
        found.append(
            {
                "image": _jpeg(picture),
                "right": classes[right],
                "guesses": [
                    (classes[guess], f"{share:.4f}", f"{100 * share:.1f} %", guess == right)
                    for guess, share in guesses
                ],
            }
        )
    return found


def _jpeg(picture: Tensor) -> str:
    """A thumbnail of our own making, whatever the stored file had in it."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).resize((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return _uri("image/jpeg", data.getvalue())


def _png(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", optimize=True)
    height, width = pixels.shape[:2]
    return {"uri": _uri("image/png", data.getvalue()), "width": 4 * width, "height": 4 * height}


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
