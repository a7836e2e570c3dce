import csv
import io
import json
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from alexnet_cli import recipes
from alexnet_cli.dataset.images import load_square
from alexnet_cli.engine import checkpoint, published
from alexnet_cli.engine.prediction import classifier, features
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.interchange.torchvision import NAMES

Run = Callable[..., Any]


def document(alexnet: Run, *arguments: object) -> dict[str, Any]:
    return json.loads(alexnet("predict", *arguments, "--json").succeeded().out)


@pytest.mark.usefixtures("trained")
def test_json_is_a_stable_document(pictures: Path, alexnet: Run) -> None:
    files = [str(pictures / "test" / name / "0.png") for name in ("discs", "bars")]
    found = document(alexnet, *files)
    assert set(found) == {"model", "crops", "pictures", "unusable"} and found["unusable"] == []
    assert (found["model"], found["crops"]) == ("runs/small-1/best.safetensors", 1)
    assert [answer["file"] for answer in found["pictures"]] == files
    for answer in found["pictures"]:
        assert set(answer) == {"file", "top"}
        first, second = answer["top"]  # there are two classes, whatever --top says
        assert set(first) == {"label", "name", "wnid", "probability"}
        assert {first["name"], second["name"]} == {"bars", "discs"} and first["wnid"] is None
        assert ("bars", "discs")[first["label"]] == first["name"]
        assert first["probability"] >= second["probability"]
        assert first["probability"] + second["probability"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("crops", [1, 10])
def test_probabilities_are_those_of_the_net_on_the_prepared_picture(
    trained: Path, pictures: Path, alexnet: Run, crops: int
) -> None:
    file = pictures / "test" / "discs" / "3.png"
    net = classifier(checkpoint.load(trained / "best.safetensors"), crops, torch.device("cpu"))
    wanted = net(load_square(file.read_bytes())[None])[0]
    found = document(alexnet, file, "--crops", crops)["pictures"][0]["top"]
    by_label = [guess["probability"] for guess in sorted(found, key=lambda guess: guess["label"])]
    assert np.allclose(by_label, wanted.numpy(), rtol=1e-5)


def test_one_file_is_all_it_needs(trained: Path, pictures: Path, alexnet: Run) -> None:
    model = trained.rename("model") / "best.safetensors"
    Path("dataset").unlink()
    Path("runs").rmdir()
    assert document(alexnet, pictures / "val/bars/0.png", "--model", model)["model"] == str(model)


@pytest.mark.usefixtures("trained")
def test_bars(pictures: Path, alexnet: Run) -> None:
    file = pictures / "val" / "bars" / "0.png"
    outcome = alexnet("predict", file, "--top", 1).succeeded()
    title, *rest = outcome.out.splitlines()
    assert title in str(file) or str(file).startswith(title)
    assert sum("%" in line for line in rest) == 1 and "█" in outcome.out
    assert outcome.err == "with runs/small-1/best.safetensors\n"


@pytest.mark.usefixtures("trained")
def test_a_picture_that_is_none_does_not_stop_the_others(pictures: Path, alexnet: Run) -> None:
    Path("text.jpg").write_text("no picture")
    good = pictures / "val" / "bars" / "0.png"
    outcome = alexnet("predict", "text.jpg", good, "absent.png", "--json")
    assert outcome.code == 1 and "Traceback" not in outcome.err
    assert "error: text.jpg cannot be used: " in outcome.err
    assert "error: absent.png cannot be read: No such file or directory" in outcome.err
    found = json.loads(outcome.out)
    assert [answer["file"] for answer in found["pictures"]] == [str(good)]
    assert [bad["file"] for bad in found["unusable"]] == ["text.jpg", "absent.png"]
    assert "2 of 3 pictures could not be used" in outcome.err


@pytest.mark.usefixtures("trained")
def test_names_cannot_write_to_the_terminals_controls(alexnet: Run) -> None:
    name = "evil\x1b]0;title\x07[bold].png"
    Image.new("RGB", (30, 30)).save(name, format="PNG")
    outcome = alexnet("predict", name).succeeded()
    assert "\x1b" not in outcome.out and "\x07" not in outcome.out
    assert "evil\\x1b]0;title\\x07[bold].png" in outcome.out.replace("\n", "")
    assert document(alexnet, name)["pictures"][0]["file"] == name


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("mode", "form"), [("L", "png"), ("P", "gif"), ("RGBA", "png"), ("CMYK", "jpeg"), ("1", "bmp")]
)
def test_any_kind_of_picture(alexnet: Run, mode: str, form: str) -> None:
    Image.new(mode, (41, 300)).save(f"picture.{form}", format=form)
    assert len(document(alexnet, f"picture.{form}")["pictures"]) == 1


@pytest.fixture
def many(trained: Path, pictures: Path) -> Path:
    """70 pictures in a folder, three of them rubbish."""
    folder = Path("many")
    folder.mkdir()
    originals = [*sorted((pictures / "train").rglob("*.png"))]
    for number in range(70):
        target = folder / f"{number:02}.png"
        target.write_bytes(b"=rubbish" if number % 30 == 5 else originals[number % 40].read_bytes())
    assert trained.exists()
    return folder


def test_a_folder_in_every_form(many: Path, alexnet: Run) -> None:
    """All forms say the same, and the rubbish stops none of them."""
    outcome = alexnet("predict", many, "--json")
    assert outcome.code == 1 and outcome.err.count("error: many/") == 3
    wanted = json.loads(outcome.out)
    assert len(wanted["pictures"]) == 67 and [bad["file"] for bad in wanted["unusable"]] == [
        *("many/05.png", "many/35.png", "many/65.png"),
    ]
    outcome = alexnet("predict", many, "--jsonl")
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 1 and [line["file"] for line in lines] == [f"many/{n:02}.png" for n in range(70)]
    assert [line for line in lines if "top" in line] == wanted["pictures"]
    assert [line for line in lines if "error" in line] == wanted["unusable"]
    outcome = alexnet("predict", many, "--csv", "--top", 2)
    rows = [*csv.DictReader(io.StringIO(outcome.out))]
    assert outcome.code == 1 and len(rows) == 2 * 67
    for answer, row in zip(wanted["pictures"], rows[::2], strict=True):
        best = answer["top"][0]
        assert (row["file"], row["place"], row["name"]) == (answer["file"], "1", best["name"])
        assert float(row["probability"]) == best["probability"] and row["wnid"] == ""
    outcome = alexnet("predict", many, "--top", 1)
    assert outcome.code == 1 and len(outcome.out.splitlines()) == 67
    assert outcome.out.startswith(f"many/00.png: {wanted['pictures'][0]['top'][0]['name']} ")
    assert alexnet("predict", many, "--json", "--csv").code == 2


@pytest.mark.usefixtures("trained")
def test_csv_is_no_formula_to_a_spreadsheet(alexnet: Run) -> None:
    for name in ("=1+1.png", '-x,"y".png', "new\nline.png"):
        Image.new("RGB", (30, 30)).save(name, format="PNG")
    outcome = alexnet("predict", "--csv", "--top", 1, "--", "=1+1.png", '-x,"y".png', "new\nline.png").succeeded()
    assert [row["file"] for row in csv.DictReader(io.StringIO(outcome.out))] == [
        *("'=1+1.png", '\'-x,"y".png', "new\\nline.png"),
    ]


@pytest.mark.usefixtures("trained")
def test_standard_input(pictures: Path, alexnet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = pictures / "val" / "bars" / "0.png"
    wanted = document(alexnet, picture)["pictures"][0]["top"]
    for data, name in ((picture.read_bytes(), "-"), (f"{picture}\n".encode(), str(picture))):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert document(alexnet, "-")["pictures"] == [{"file": name, "top": wanted}]


@pytest.mark.parametrize("layer", ["fc7", "pool5"])
def test_features_are_rows_of_a_file(many: Path, trained: Path, alexnet: Run, layer: str) -> None:
    outcome = alexnet("predict", many, "--features", layer, "-o", "features.safetensors")
    assert outcome.code == 1 and outcome.out == "" and "3 of 70" in outcome.err
    with safe_open("features.safetensors", framework="pt") as file:
        found, about = file.get_tensor("features"), file.metadata()
    names = [f"many/{n:02}.png" for n in range(70) if n % 30 != 5]
    assert json.loads(about["files"]) == names and about["layer"] == layer
    assert about["model"] == "runs/small-1/best.safetensors"
    net = classifier(checkpoint.load(trained / "best.safetensors"), 1, torch.device("cpu"))
    squares = torch.stack([load_square(Path(name).read_bytes()) for name in names])
    assert torch.allclose(found, features(net, layer)(squares), rtol=1e-4, atol=1e-6) and found.std() > 0
    assert not [*Path().glob(".*.tmp")]


@pytest.mark.usefixtures("trained")
def test_names_for_which_a_file_has_no_room_are_refused_at_the_first_picture(
    many: Path, alexnet: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_cli.engine.rows.LIMIT", 500)
    outcome = alexnet("predict", many, "--features", "fc7", "-o", "features.safetensors")
    outcome.failed("the pictures' names take 0 MB", "by shorter paths")
    assert not [*Path().glob("*features*")]


@pytest.mark.usefixtures("trained")
def test_features_need_a_file_and_a_picture(pictures: Path, alexnet: Run) -> None:
    picture = pictures / "val" / "bars" / "0.png"
    for options in (("--features", "fc7"), ("-o", "x"), ("--features", "fc7", "-o", "x", "--crops", 10)):
        assert alexnet("predict", picture, *options).code == 2
    alexnet("predict", picture, "--features", "fc9", "-o", "x").failed("no features 'fc9'", "one of conv5, pool5")
    outcome = alexnet("predict", "absent.png", "--features", "fc7", "-o", "x")
    assert outcome.code == 1 and "x is not written: none of the pictures could be used" in outcome.err
    assert not Path("x").exists()


def test_without_a_run_torchvisions_weights_are_looked_for(pictures: Path, place: Path, alexnet: Run) -> None:
    outcome = alexnet("predict", pictures / "val" / "bars" / "0.png", "--runs", "none")
    outcome.failed(
        "and torchvision's published AlexNet could not be fetched", "put http://127.0.0.1:9/alexnet-owt"
    )
    assert "there is no trained run in none: torchvision's published AlexNet is used" in outcome.err
    # Put there by hand, as the hint says.
    path = published.place(published.URL)
    net = replace(recipes.torchvision().network, kernels=(8, 12, 12, 12, 8), hidden=16)
    model = AlexNet(net, 1000)
    initialise(model, net, 1)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(OrderedDict((theirs, state[ours]) for ours, theirs in NAMES.items()), path)
    found = document(alexnet, pictures / "val" / "bars" / "0.png")
    assert found["model"] == str(path) and found["pictures"][0]["top"][0]["wnid"].startswith("n")
    alexnet("eval").failed("the model knows 1000 classes (tench, goldfish", "the same classes in the same order")
    assert not (place / "runs").exists()


@pytest.mark.usefixtures("trained")
def test_a_submission_by_file_names(pictures: Path, alexnet: Run) -> None:
    outcome = alexnet("predict", pictures / "test", "--submission", "answers.txt")
    outcome.failed("is for the 1000 classes of ILSVRC-2010 or 2012", "leave it away")
    assert not Path("answers.txt").exists()


def test_a_panel(many: Path, pictures: Path, alexnet: Run) -> None:
    pytest.importorskip("matplotlib")
    outcome = alexnet("predict", pictures / "test" / "discs", "--panel", "panel.png").succeeded()
    assert "drawn: panel.png" in outcome.err and outcome.out.count("discs/") == 5
    with Image.open("panel.png") as drawn:
        assert drawn.width > 1000 and drawn.height > 800
    alexnet("predict", many, "--panel", "p.png").failed("70 pictures are too many", "give 48 at most")
    alexnet("predict", many, "--panel", "p.jpg").failed("p.jpg: no format of a figure", ".png, .svg or .pdf")


def test_several_processes_share_the_pictures(many: Path, alexnet: Run) -> None:
    """Those that standard input names too, which only one of them can read; and the first alone speaks."""
    import alexnet_cli

    wanted = json.loads(alexnet("predict", many, "--json").out)
    command = [sys.executable, "-m", "alexnet_cli", "predict", "-", "--json", "--device", "cpu", "--processes=2"]
    env = {**os.environ, "PYTHONPATH": str(Path(alexnet_cli.__file__).parents[1])}
    paths = "\n".join(map(str, sorted(many.iterdir())))
    found = subprocess.run(command, input=paths, capture_output=True, text=True, env=env)
    assert found.returncode == 1 and found.stderr.count("error: many/") == found.stderr.count("error:") == 3
    ours = json.loads(found.stdout)
    assert ours["unusable"] == wanted["unusable"]
    for answer, alone in zip(ours["pictures"], wanted["pictures"], strict=True):
        assert answer["file"] == alone["file"]
        shares = [[one["probability"] for one in each["top"]] for each in (answer, alone)]
        assert shares[0] == pytest.approx(shares[1], rel=1e-5)


def test_a_reader_that_leaves_early_is_no_accident(many: Path) -> None:
    """As `alexnet predict … --jsonl | head -1` does."""
    import alexnet_cli

    command = [sys.executable, "-m", "alexnet_cli", "predict", str(many), "--jsonl", "--device", "cpu"]
    env = {**os.environ, "PYTHONPATH": str(Path(alexnet_cli.__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())["file"] == "many/00.png"
    process.stdout.close()
    assert "Traceback" not in process.stderr.read() and process.wait() == 1
    process.stderr.close()
