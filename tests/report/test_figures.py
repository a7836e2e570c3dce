"""What the figures show is what there is: each plotted number against the data it was drawn from."""

import json
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from alexnet_cli import recipes
from alexnet_cli.dataset.manifest import open_squares
from alexnet_cli.engine import rates
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject, load
from alexnet_cli.engine.evaluation import Answered, tallies
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.prediction import classifier, features
from alexnet_cli.loading import augmentation, draws
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.report import (
    answers,
    batch,
    colours,
    confusion,
    curves,
    figures,
    history,
    kernels,
    maps,
    plotting,
    sources,
)  # fmt: skip
from alexnet_cli.runs import open_run

CPU = torch.device("cpu")


def images(figure: Any) -> list[np.ndarray]:
    """The pixels of all images in a figure, axis by axis, as they were given."""
    return [np.ma.getdata(image.get_array()) for axis in figure.axes for image in axis.images]


def with_kernels(recipe: recipes.Recipe, name: str, weights: torch.Tensor) -> Checkpoint:
    subject = Subject(("a",), (None,), Colours(torch.zeros(3, 1, 1), np.ones(3), np.eye(3)), {}, "")
    return Checkpoint(recipe, subject, Position(), {f"{name}.weight": weights}, {})


# --- kernels


@pytest.mark.parametrize(
    ("recipe", "name", "count", "size", "columns"),
    [
        ("paper", "conv1", 96, 11, 16),  # Figure 3: three rows for each tower
        ("torchvision", "conv1", 64, 11, 16),
        ("small", "conv1", 24, 11, 12),
        ("paper+no-conv1", "conv2", 256, 5, 16),
    ],
)
def test_pixels_of_kernels_are_their_weights(recipe: str, name: str, count: int, size: int, columns: int) -> None:
    weights = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    checkpoint = with_kernels(recipes.named(recipe), name, weights)
    with plotting.figure(*kernels.size(checkpoint)) as figure:
        kernels.draw(figure, checkpoint)
        found = images(figure)
    towers = checkpoint.recipe.network.towers
    assert len(found) == towers
    low, high = weights.min().item(), weights.max().item()
    for number in range(count):
        tower, place = divmod(number, count // towers)
        top, left = (size + 1) * (place // columns), (size + 1) * (place % columns)
        tile = found[tower][top : top + size, left : left + size]
        back = torch.from_numpy(tile.astype(np.float64)).permute(2, 0, 1) * (high - low) + low
        assert torch.allclose(back, weights[number].double(), atol=1e-6)
    assert found[0].shape == ((size + 1) * (count // towers // columns) - 1, (size + 1) * columns - 1, 3)
    assert f"{low:.3g} (black)" in figure.get_suptitle() and f"{high:.3g} (white)" in figure.get_suptitle()


def test_every_tower_has_its_letter() -> None:
    assert recipes.chosen("small", ["towers=4"]).network.towers == 4
    assert "".join(map(kernels.letter, range(28))) == "abcdefghijklmnopqrstuvwxyzab"


@pytest.mark.parametrize("count", [1, 7, 12, 17, 48, 96, 100])
def test_sheets_have_room_for_all(count: int) -> None:
    for columns in (plotting.columns_for(count), plotting.columns_of_square(count)):
        sheet = plotting.mosaic(np.arange(1, count + 1)[:, None, None], columns, between=0)
        assert sorted(sheet[sheet > 0].tolist()) == [*range(1, count + 1)]
        assert sheet[::2, ::2].ravel()[:count].tolist() == [*range(1, count + 1)], "row by row"
    assert plotting.columns_for(count) <= 16


# --- curves


def logged(run: Path, kind: str) -> list[dict[str, Any]]:
    return [
        row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if row["kind"] == kind
    ]


def lines(axis: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): line.get_data() for line in axis.lines}


def test_curves_are_the_run_s_log(run: Path) -> None:
    source = sources.opened(run, None)
    with plotting.figure(11, 7) as figure:
        curves.draw(figure, source.history(), source.name)
    losses, losses_by_minutes, errors, errors_by_minutes = figure.axes
    steps, checks = logged(run, "step"), logged(run, "validation")
    assert len(steps) == 36 and len(checks) == 6
    values = np.array([row["loss"] for row in steps])
    for axis, x in (
        (losses, np.arange(1, 37) / 6),  # 84 pictures in batches of 14
        (losses_by_minutes, np.array([row["seconds"] for row in steps]) / 60),
    ):
        assert np.allclose(lines(axis)["each logged step"], (x, values))
        means = [values[max(0, n - 4) : n + 1].mean() for n in range(36)]
        assert np.allclose(lines(axis)["mean of 5 logged steps"], (x, means))
    for axis, x in (
        (errors, np.arange(1, 7)),
        (errors_by_minutes, np.array([row["seconds"] for row in checks]) / 60),
    ):
        for top in (1, 5):
            wanted = [100 * row["tally"][f"wrong{top}"] / 35 for row in checks]
            assert np.allclose(lines(axis)[f"top-{top}"], (x, wanted))
    assert errors.get_xlabel() == "epochs of training" and errors_by_minutes.get_xlabel() == "minutes of training"
    assert "%" in errors.get_ylabel() and "loss" in losses.get_ylabel()


def written_run(run: Path, copy: Path, log: str) -> Path:
    shutil.copytree(run, copy)
    (copy / "metrics.jsonl").write_text(log)
    return copy


def test_drops_and_rates_set_by_hand_are_marked_where_they_happened(run: Path, tmp_path: Path) -> None:
    table = [0.01] * 12 + [0.001] * 6 + [0.005] * 6
    rows = [
        {"kind": "step", "step": n, "loss": 1.0, "rate": rate, "seconds": 60 * n}
        for n, rate in enumerate(table, 1)
    ]
    copy = written_run(run, tmp_path / "copy", "\n".join(map(json.dumps, rows)))
    rates.ask(open_run(copy), rates.Request(to=0.005))
    rates.Watch(open_run(copy)).placed(18, 1)
    found = sources.opened(copy, None).history()
    assert [(c.step, c.minutes, c.words, c.by_hand) for c in found.changes] == [
        (13, 13.0, "÷10", False),
        (19, 19.0, "set to 0.005", True),
    ]
    with plotting.figure(11, 7) as figure:
        curves.draw(figure, found, "x")
    for axis, places in ((figure.axes[0], [2, 3]), (figure.axes[1], [13, 19])):
        marks = [line for line in axis.lines if line.get_linestyle() in ("--", ":")]
        assert [float(mark.get_xdata()[0]) for mark in marks] == places
        assert [mark.get_linestyle() for mark in marks] == ["--", ":"]
        assert [text.get_text().strip() for text in axis.texts] == ["rate ÷10", "rate set to 0.005"]


def test_a_log_that_is_being_written_and_lines_of_other_kinds_are_read(run: Path, tmp_path: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    odd = [
        '{"kind": "weather", "step": 3}',
        "[1]",
        '{"kind": "step"}',
        '{"kind": "step", "loss": 1',
        lines[-1][:20],
    ]
    copy = written_run(run, tmp_path / "copy", "\n".join([lines[0], *odd, *lines[1:], odd[-1]]))
    whole, torn = history.read(open_run(run), 84), history.read(open_run(copy), 84)
    assert np.array_equal(whole.losses, torn.losses) and np.array_equal(whole.top1, torn.top1)


def test_a_run_without_a_log_yet_gives_empty_axes(run: Path, tmp_path: Path) -> None:
    copy = written_run(run, tmp_path / "copy", "")
    with plotting.figure(11, 7) as figure:
        curves.draw(figure, sources.opened(copy, None).history(), "x")
        plotting.save(figure, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").exists()


# --- answers and confusion


@pytest.fixture(scope="session")
def given(run: Path) -> tuple[sources.Source, answers.Answers]:
    """The answers over the validation split."""
    source = sources.opened(run, None)
    *done, found = answers.asked(classifier(source.checkpoint, 1, CPU), source.split("val"))
    assert done == [35] and isinstance(found, answers.Answers)
    return source, found


def test_answers_count_as_an_evaluation_does(given: tuple[sources.Source, answers.Answers]) -> None:
    source, found = given
    *_, tally = tallies(classifier(source.checkpoint, 1, CPU), source.split("val"), Ranks(0, 1, CPU), 2)
    assert (len(found), (found.places >= 1).sum(), (found.places >= 5).sum()) == (35, tally.wrong1, tally.wrong5)
    assert found.loss == pytest.approx(tally.loss, rel=1e-12)
    assert found.error(1) == tally.top1_error and 0 < tally.wrong1 < 35


def made_up(count: int, classes: int, seed: int = 0) -> answers.Answers:
    """With many equal probabilities, in pieces."""
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(1, 5, (count, classes)).astype(np.float32)
    probabilities /= probabilities.sum(1, keepdims=True)
    labels = rng.integers(0, classes, count)
    pieces = [slice(0, count // 3), slice(count // 3, count)]
    parts = [
        answers.kept(
            Answered(0, np.arange(count)[p], torch.from_numpy(labels[p]), (torch.from_numpy(probabilities[p]),))
        )
        for p in pieces
    ]
    joined = answers.joined(parts)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    assert np.array_equal(joined.guesses, order[:, :5])
    assert np.array_equal(joined.places, (order == labels[:, None]).argmax(1))
    assert np.array_equal(joined.shares, np.take_along_axis(probabilities, order[:, :5], 1))
    return joined


def test_of_equally_probable_classes_the_lower_label_comes_first() -> None:
    made_up(200, 9)


def test_the_matrix_is_what_was_counted() -> None:
    found = made_up(300, 12)
    names = [f"class {n}" for n in range(12)]
    with plotting.figure(*confusion.size(12)) as figure:
        confusion.draw(figure, found, names)
    wanted = np.zeros((12, 12), dtype=int)
    for right, guess in zip(found.labels, found.guesses[:, 0], strict=True):
        wanted[right, guess] += 1
    axis = figure.axes[0]
    assert np.allclose(images(figure)[0], 100 * wanted / wanted.sum(1, keepdims=True))
    written = {(int(t.get_position()[1]), int(t.get_position()[0])): int(t.get_text()) for t in axis.texts}
    assert written == {
        place: int(wanted[place]) for place in zip(*map(np.ndarray.tolist, wanted.nonzero()), strict=True)
    }
    assert [t.get_text() for t in axis.get_yticklabels()] == names and axis.get_ylabel() == "right class"
    assert f"{found.error(1):.2f} %" in figure.get_suptitle()


def test_a_thousand_classes_are_grouped_and_their_frequent_mistakes_named() -> None:
    found = made_up(4000, 1000)
    found = replace(
        found, guesses=np.where(found.labels[:, None] < 300, found.labels[:, None] // 2, found.guesses)
    )
    found = replace(found, places=(found.guesses[:, 0] != found.labels).astype(np.int64))
    names = [f"n{n:04}" for n in range(1000)]
    with plotting.figure(*confusion.size(1000)) as figure:
        confusion.draw(figure, found, names)
    groups = images(figure)[0]
    assert groups.shape == (100, 100) and groups.sum() == 4000
    assert groups[7, 3] == ((found.labels // 10 == 7) & (found.guesses[:, 0] // 10 == 3)).sum()
    bars = figure.axes[1]
    totals = np.bincount(found.labels)
    for bar, label in zip(bars.patches, bars.get_yticklabels(), strict=True):
        right, guess = (int(part.strip("n ")) for part in label.get_text().split("→"))
        times = ((found.labels == right) & (found.guesses[:, 0] == guess)).sum()
        assert bar.get_width() == pytest.approx(100 * times / totals[right])
    pairs = answers.most_confused(found, 10**9)
    assert [times for *_, times in pairs] == sorted((times for *_, times in pairs), reverse=True)
    assert sum(times for *_, times in pairs) == (found.places >= 1).sum()


def test_results_by_class_and_the_surest_mistakes() -> None:
    found = made_up(300, 12)
    for result in answers.by_class(found):
        own = found.labels == result.label
        assert (result.pictures, result.wrong1) == (own.sum(), (own & (found.places > 0)).sum())
        assert result.wrong5 == (own & (found.places > 4)).sum()
        wrong = np.bincount(found.guesses[own & (found.places > 0), 0], minlength=12)
        assert (result.taken_for, result.times) == (wrong.argmax(), wrong.max())
    surest = answers.surest_mistakes(found, 20)
    assert (found.places[surest] > 0).all() and (np.diff(found.shares[surest, 0]) <= 0).all()
    assert found.shares[surest[-1], 0] >= np.sort(found.shares[found.places > 0, 0])[-20]


def test_the_panel_is_told_what_was_answered(given: tuple[sources.Source, answers.Answers]) -> None:
    source, found = given
    rows, classes = answers.evenly(found, 8), source.checkpoint.subject.classes
    assert rows == [0, 4, 8, 13, 17, 21, 26, 30] and answers.evenly(found, 99) == [*range(35)]
    pictures = sources.pictures(source.split("val"), found.samples[rows].tolist())
    entries = figures.entries(figures.Subject(source, "val", found, None, None))
    for entry, row, picture in zip(entries, rows, pictures, strict=True):
        assert np.array_equal(entry.pixels, picture.permute(1, 2, 0))
        assert entry.right == classes[found.labels[row]]
        assert [classes.index(name) for name, _ in entry.guesses] == found.guesses[row].tolist()
        assert [share for _, share in entry.guesses] == found.shares[row].tolist()


# --- colours


def test_noise_is_that_of_the_trainer() -> None:
    axes, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    found = Colours(torch.zeros(3, 256, 256), np.array([9000.0, 800.0, 20.0]), axes)
    positions = np.arange(50)
    for name in ("paper", "text"):
        recipe = recipes.named(name).augmentation
        alphas = draws.normals(1, "colour", 0, positions, 3)
        wanted = augmentation.colour_noise(recipe, found, 1, 0, positions).numpy()
        assert np.allclose(alphas @ colours.noise(found, recipe), wanted, rtol=1e-5, atol=1e-5)


def test_the_colour_figure_has_these_numbers(given: tuple[sources.Source, answers.Answers]) -> None:
    source, _ = given
    found, recipe = source.checkpoint.subject.colours, source.checkpoint.recipe.augmentation
    picture = sources.pictures(source.split("val"), [3])[0].permute(1, 2, 0).numpy()
    with plotting.figure(10, 9.5) as figure:
        colours.draw(figure, found, recipe, picture, "x")
    left, right, *rest = figure.axes
    heights = np.array([bar.get_height() for bar in left.patches]).reshape(3, 3)
    assert np.allclose(heights, found.eigenvectors), "a bar group for each channel, in it the axes"
    assert np.allclose([bar.get_height() for bar in right.patches], np.sqrt(found.eigenvalues))
    shown = images(figure)
    assert len(shown) == len(rest) == 15 and np.array_equal(shown[2], picture)
    for row in range(3):
        step = 0.1 * np.sqrt(found.eigenvalues[row]) * found.eigenvectors[:, row]
        assert np.array_equal(shown[5 * row + 4], np.clip(np.rint(picture + 3 * step), 0, 255))
        assert np.array_equal(shown[5 * row], np.clip(np.rint(picture - 3 * step), 0, 255))


# --- feature maps


def test_maps_are_what_the_layers_give(run: Path, given: tuple[sources.Source, answers.Answers]) -> None:
    checkpoint, source = load(run / "best.safetensors"), given[0]
    picture = sources.pictures(source.split("val"), [5])[0]
    found = maps.activations(checkpoint, picture)
    patch = (picture.double() - checkpoint.subject.colours.mean.double())[:, 16:240, 16:240]
    weights = {name: weight.double() for name, weight in checkpoint.weights.items()}
    first = F.conv2d(F.pad(patch, (0, 3, 0, 3))[None], weights["conv1.weight"], weights["conv1.bias"], stride=4)[0]
    assert np.allclose(found["conv1"], first.relu(), atol=1e-3)
    net = classifier(checkpoint, 1, CPU)
    assert np.allclose(found["fc8"], net(picture[None])[0], atol=1e-6)
    assert np.allclose(found["fc7"], 2 * features(net, "fc7")(picture[None])[0], atol=1e-4), (
        "before the ½ of dropout"
    )
    assert [*found] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    with plotting.figure(11, 11) as figure:
        maps.draw(figure, found, picture, checkpoint.subject.classes, "x")
    shown = images(figure)
    assert np.array_equal(shown[0], picture.permute(1, 2, 0))
    for name, image in zip([*found][:-1], shown[1:], strict=True):
        assert np.array_equal(image[~np.isnan(image)].sum(), maps.sheet(found[name])[~np.isnan(image)].sum())
        assert np.isclose(image[~np.isnan(image)].sum(), found[name].sum(), rtol=1e-4)
    sheet, tile = shown[1], found["conv1"][1]
    assert np.array_equal(sheet[: tile.shape[0], tile.shape[1] + 1 : 2 * tile.shape[1] + 1], tile)


# --- a batch as the trainer sees it


@pytest.mark.parametrize("recipe", ["paper", "original", "caffe"])
def test_the_batch_is_the_stored_patch_and_the_noise(seven: Path, recipe: str) -> None:
    dataset, chosen = open_squares(seven), recipes.named(recipe)
    found = batch.seen(dataset, chosen, 3, 1, 0, 10)
    positions = np.arange(10)
    colour = Colours(torch.from_numpy(dataset.mean), dataset.eigenvalues, dataset.eigenvectors)
    noise = augmentation.colour_noise(chosen.augmentation, colour, 3, 1, positions).numpy()
    side = chosen.network.crop
    assert (found.views.reflected.any() and not found.views.reflected.all()) or chosen.augmentation.sharing > 1
    for place in positions:
        top, left, height, width = batch.box(found.views, place, side)
        patch = found.stored[place].numpy().transpose(1, 2, 0)[top : top + height, left : left + width]
        patch = patch[:, ::-1] if found.views.reflected[place] else patch
        assert np.allclose(found.trained[place], patch + noise[place], atol=2e-3)
    assert np.array_equal(
        found.labels, dataset.splits["train"].index["label"][batch_samples(dataset, chosen)[:10]]
    )


def batch_samples(dataset: Any, recipe: recipes.Recipe) -> np.ndarray:
    from alexnet_cli.loading.plan import Plan, shard_lengths

    index = dataset.splits["train"].index
    plan = Plan(
        len(index), recipe.optimizer.batch_size, 3, recipe.augmentation.reshuffled, shard_lengths(index["shard"])
    )
    return plan.part(1, 0).samples


def test_resized_patches_have_their_own_boxes(seven: Path) -> None:
    dataset = open_squares(seven)
    found = batch.seen(dataset, recipes.named("torchvision"), 1, 0, 0, 6)
    assert found.views.sizes is not None and len({batch.box(found.views, n, 224)[2:] for n in range(6)}) > 1
    assert found.trained.min() > -20 and found.trained.max() < 275, "grey levels again"
    with plotting.figure(*batch.size(6)) as figure:
        batch.draw(figure, found, dataset.classes, recipes.named("torchvision"))
    rectangles = [patch for axis in figure.axes for patch in axis.patches]
    for place, drawn in enumerate(rectangles):
        top, left, height, width = batch.box(found.views, place, 224)
        assert (drawn.get_x() + 0.5, drawn.get_y() + 0.5, drawn.get_width(), drawn.get_height()) == (
            left,
            top,
            width,
            height,
        )
    mirrored = sum("mirrored" in text.get_text() for axis in figure.axes for text in axis.texts)
    assert mirrored == found.views.reflected.sum()


# --- the command


def test_all_figures_of_a_run(run: Path, tmp_path: Path, alexnet: Callable[..., Any]) -> None:
    said = json.loads(alexnet("figures", run, "-o", tmp_path / "a", "--json").succeeded().out)
    names = ["kernels", "curves", "panel", "confusion", "colours", "maps"]
    assert said["figures"] == [str(tmp_path / "a" / f"{name}.{kind}") for name in names for kind in ("png", "svg")]
    for name in names:
        with Image.open(tmp_path / "a" / f"{name}.png") as image:
            assert image.width >= 600 and len(np.unique(np.asarray(image.convert("L")))) > 10
        written = (tmp_path / "a" / f"{name}.svg").read_text(encoding="utf-8")
        assert ElementTree.fromstring(written).tag.endswith("svg") and "\x1b" not in written
        assert name == "panel" or "seven" in re.findall("<dc:title>(.*)</dc:title>", written)[0]
    assert "&lt;script&gt;" in (tmp_path / "a" / "confusion.svg").read_text()
    alexnet("figures", "--only", "confusion,kernels", run, "-o", tmp_path / "b").succeeded()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        *("confusion.png", "confusion.svg", "kernels.png", "kernels.svg")
    ]
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), "equal data, equal file"


def test_they_lie_inside_the_run_unless_said_otherwise(
    run: Path, tmp_path: Path, alexnet: Callable[..., Any]
) -> None:
    copy = shutil.copytree(run, tmp_path / "runs" / "copy")
    outcome = alexnet("figures", "--runs", tmp_path / "runs", "--only", "kernels").succeeded()
    assert outcome.out.split() == [str(copy / "figures" / f"kernels.{kind}") for kind in ("png", "svg")]


def test_what_cannot_be_drawn_is_said(run: Path, tmp_path: Path, alexnet: Callable[..., Any]) -> None:
    model = shutil.copy(run / "best.safetensors", tmp_path)
    outcome = alexnet("figures", model, "-o", tmp_path / "f").succeeded()
    assert sorted({Path(line).stem for line in outcome.out.split()}) == ["kernels"]
    assert "without curves: " in outcome.err and "without panel: " in outcome.err
    alexnet("figures", model, "--only", "curves").failed("is a model file and has no curves", "")
    alexnet("figures", run, "--only", "kernels,pie").failed("there is no figure 'pie'", "kernels, curves")
    alexnet("figures", run, "--only", "panel", "--split", "test").failed("no split 'test'", "")
    picture = tmp_path / "no.jpg"
    picture.write_text("no picture")
    alexnet("figures", run, "--only", "maps", "--picture", picture).failed(
        f"{picture} cannot be used", "whole JPEG"
    )
    alexnet("figures", tmp_path / "nowhere").failed("there is no file", "")


def test_a_picture_of_ones_own(run: Path, tmp_path: Path, alexnet: Callable[..., Any]) -> None:
    Image.new("RGB", (300, 200), (250, 120, 20)).save(tmp_path / "own.png")
    alexnet("figures", run, "--only", "colours", "--picture", tmp_path / "own.png", "-o", tmp_path).succeeded()
    assert "own.png" in (tmp_path / "colours.svg").read_text()


def test_without_matplotlib_it_says_what_to_install(
    run: Path, alexnet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    alexnet("figures", run, "--only", "kernels").failed("need matplotlib", "pip install 'alexnet-cli[figures]'")
    outcome = alexnet("figures", run, "--only", "confusion").failed("need matplotlib", "pip install")
    assert "evaluating" not in outcome.err  # before anything long


def test_figures_batch(seven: Path, tmp_path: Path, alexnet: Callable[..., Any]) -> None:
    out = tmp_path / "batch.svg"
    assert alexnet("figures", "batch", "--data", seven, "-o", out, "--count", 5).succeeded().out == f"{out}\n"
    written = out.read_text()
    assert written.count("<image") == 10 and "mean added back" in written
    alexnet("figures", "batch", "--data", seven, "-o", tmp_path / "batch.gif").failed(
        "no format", ".png, .svg or .pdf"
    )
    alexnet("figures", "batch", "--data", tmp_path).failed("there is no dataset", "alexnet prepare")
