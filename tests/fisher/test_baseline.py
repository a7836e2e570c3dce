"""The command, its file, and the doors that a finished baseline passes through: eval, predict, report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from alexnet_cli.dataset.manifest import open_squares
from alexnet_cli.engine import models
from alexnet_cli.engine.comparison import Measured, Net, net_of, table
from alexnet_cli.errors import AlexNetError
from alexnet_cli.fisher import descriptors
from alexnet_cli.fisher.encoding import encoded
from alexnet_cli.fisher.model import METADATA, load
from alexnet_cli.loading.reader import Reader

Run = Callable[..., Any]
OPTIONS = ("--gaussians", 4, "--dimensions", 6, "--step", 24, "--epochs", 20, "--sample", 1000)


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished baseline on the tiny dataset, of both kinds of descriptors."""
    from alexnet_cli.fisher.building import opened
    from alexnet_cli.fisher.model import Settings

    settings = Settings("both", gaussians=4, dimensions=6, step=24, epochs=20, sample=1000)
    building = opened(tmp_path_factory.mktemp("baseline") / "made", Path("runs"), open_squares(tiny), settings)
    list(building.stages())
    return building.root


@pytest.fixture
def here(made: Path, place: Path) -> Path:
    """The same in runs/ of the working directory."""
    shutil.copytree(made, place / "runs" / "baseline-1")
    return Path("runs/baseline-1")


@pytest.mark.usefixtures("place")
def test_the_command_says_what_it_made(alexnet: Run) -> None:
    done = alexnet("baseline", "dataset", *OPTIONS, "--descriptor", "colour").succeeded()
    for part in ("runs/baseline-1", "colour: fitting the mixture", "top-1 validation error", "peak memory"):
        assert part in done.out
    assert "top-5" not in done.out and "sift" not in done.out
    again = alexnet("baseline", *OPTIONS, "--descriptor", "colour", "--json").succeeded()
    said = json.loads(again.out)
    assert said["baseline"] == "runs/baseline-1" and said["pictures"] == 40
    assert said["numbers"] == 4 * 2 * 4 * 6 == said["settings"]["gaussians"] * 48
    assert said["val"]["top1_error"] < 50 and said["peak_bytes"] > 10**8
    assert [*said["seconds"]] == [
        f"colour: {n}" for n in ("describing", "fitting the mixture", "encoding", "learning")
    ]


def test_eval_and_report_take_it_alone(here: Path, alexnet: Run) -> None:
    alone = alexnet("eval", here).succeeded()
    assert "val, whole pictures, 18 pictures" in alone.out and "sees whole pictures" in alone.err
    alexnet("report", here, "-o", "alone.html").succeeded()
    page = Path("alone.html").read_text()
    assert "baseline-1" in page and "fisher-vectors" in page and "18 pictures, whole" in page
    assert 'id="kernels"' not in page and "descriptor" in page and 'id="curves"' not in page


def test_eval_and_report_take_it_beside_a_network(here: Path, alexnet: Run, net: tuple[str, ...]) -> None:
    alexnet("train", *net, "--max-steps", 3).succeeded()
    one, ten = (
        json.loads(alexnet("eval", here, "runs/small-1", "--crops", crops, "--json").succeeded().out)
        for crops in (1, 10)
    )
    ours, network = one["models"]
    assert (ours["recipe"], network["recipe"]) == ("fisher-vectors", "small")
    assert ours["top1_error"] < 50 and one["ensemble"]["pictures"] == 18
    assert ten["models"][0] == ours and ten["models"][1] != network  # it has no patches
    alexnet("report", here, "runs/small-1", "-o", "both.html").succeeded()
    page = Path("both.html").read_text()
    assert page.count("<figcaption>small-1: conv1") == 1 and "<figcaption>baseline-1" not in page


def test_predict_takes_it(here: Path, alexnet: Run, pictures: Path) -> None:
    files = [pictures / "test" / name / "2.png" for name in ("bars", "discs")]
    said = json.loads(alexnet("predict", *files, "--model", here, "--json").succeeded().out)
    best = [picture["top"][0] for picture in said["pictures"]]
    assert [one["name"] for one in best] == ["bars", "discs"]
    shares = [sum(guess["probability"] for guess in picture["top"]) for picture in said["pictures"]]
    assert shares == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convert", "{}", "x.onnx"), "is a baseline of Fisher vectors, not a network"),
        (("figures", "{}", "--only", "kernels"), "which has no layers to show"),
        (
            ("predict", "x.png", "--model", "{}", "--features", "fc7", "-o", "x.safetensors"),
            "gives probabilities only",
        ),
        (("similar", "x.png", "--model", "{}"), "which has no layers"),
        (("train", "--init-from", "{}"), "is a baseline of Fisher vectors, not a network"),
    ],
)
def test_what_needs_layers_says_that_it_has_none(
    here: Path, alexnet: Run, pictures: Path, arguments: tuple[str, ...], message: str
) -> None:
    shutil.copy(pictures / "test" / "bars" / "0.png", "x.png")
    outcome = alexnet(*(part.format(here) for part in arguments))
    assert outcome.code == 1 and message in outcome.err and "hint: name a network's run" in outcome.err
    assert "Traceback" not in outcome.err


def test_it_is_no_run_of_a_network(here: Path, alexnet: Run) -> None:
    """So that without a name the newest network is meant, and the list of runs has no damaged one."""
    assert "baseline-1" not in alexnet("runs").succeeded().out
    (here / "baseline.safetensors").unlink()
    alexnet("eval", here).failed("the baseline runs/baseline-1 is not finished", "it goes on")


def test_probabilities_are_normalised_log_odds_of_both_kinds(made: Path, tiny: Path) -> None:
    """In float64, from the vectors on."""
    found, split = load(made / "baseline.safetensors"), open_squares(tiny).splits["val"]
    with Reader(split) as reader:
        squares = torch.stack([reader.picture(place) for place in range(5)])
    expected = []
    for square in squares:
        scores = np.zeros(2)
        for kind, judge in found.judges.items():
            described = descriptors.dense(kind, square.permute(1, 2, 0).contiguous().numpy(), 24)
            vector = encoded(judge.vocabulary, *map(torch.from_numpy, described), "bands").double().numpy()
            scores += (judge.classifier.double().numpy() @ vector + judge.biases.double().numpy()) / 2
        odds = 1 / (1 + np.exp(-scores))
        expected.append(odds / odds.sum())
    answers = found(squares)
    assert answers.dtype == torch.float32 and answers.numpy() == pytest.approx(np.stack(expected), abs=1e-5)
    assert torch.equal(found(squares[3:4])[0], answers[3])  # whoever else is in the batch


def test_threads_of_other_work_keep_their_number(made: Path, tiny: Path) -> None:
    found, before = load(made / "baseline.safetensors"), torch.get_num_threads()
    with Reader(open_squares(tiny).splits["val"]) as reader:
        found(reader.picture(0)[None])
    assert torch.get_num_threads() == before


def changed(path: Path, **parts: Any) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[METADATA]) | parts


def test_a_damaged_file_is_refused(made: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / "x.safetensors", (made / "baseline.safetensors").read_bytes()
    path.write_bytes(whole[:-100])
    assert not _opens(path)
    for place in np.random.default_rng(1).integers(8, len(whole), 40).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert not _opens(path), place
    path.write_bytes(whole)
    assert _opens(path)


def _opens(path: Path) -> bool:
    try:
        models.load(path)
    except AlexNetError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", 2),
        ("settings", {"gaussians": 4}),
        ("settings", {"pyramid": "tower"}),
        ("settings", {"gaussians": 1 << 60}),
        ("settings", {"gaussians": -4}),
        ("settings", {"step": 0}),
        ("settings", {"colour": "red"}),
        ("settings", []),
        ("classes", []),
        ("classes", ["one"]),
        ("wnids", None),
        ("preparation", "none"),
    ],
)
def test_a_file_that_does_not_hold_what_it_names_is_refused(
    made: Path, tmp_path: Path, name: str, value: Any
) -> None:
    from alexnet_cli.fisher.model import _checksum

    path, tensors = tmp_path / "x.safetensors", load_file(made / "baseline.safetensors")
    text = json.dumps(changed(made / "baseline.safetensors", **{name: value}))
    save_file(tensors, path, {METADATA: text, "crc32": _checksum(text, tensors)})
    with pytest.raises(AlexNetError, match="is no whole Fisher-vector baseline"):
        load(path)


def test_it_stands_in_the_papers_row() -> None:
    ours, cnn = net_of(None), Net("paper", False, True)
    assert ours == Net("fisher-vectors", False, False)
    title, rows = table(2010, "test", Measured([ours], [(45.0, 25.0)], None, (1,), 1, 150_000)) or ("", [])
    assert "Table 1" in title
    assert [(row.name, row.ours, row.missing) for row in rows] == [
        ("Sparse coding", None, ()),
        ("SIFT + FVs", (45.0, 25.0), ()),
        ("CNN", None, ()),
    ]
    both = Measured([ours, cnn], [(45.0, 25.0), (40.0, 18.0)], (39.0, 17.5), (1, 1), 10, 50_000)
    _, rows = table(2012, "val", both) or ("", [])
    found = {row.name: (row.ours, row.missing) for row in rows}
    assert found["SIFT + FVs"] == ((45.0, 25.0), ("classifiers of more kinds of descriptors", "the test pictures"))
    assert found["1 CNN"] == ((40.0, 18.0), ())


def test_what_is_not_installed_is_named(place: Path, alexnet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "find_spec", lambda _: None)
    alexnet("baseline", "dataset").failed("scikit-learn, which is not installed", "alexnet-cli[baseline]")
    assert not (place / "runs").exists()
