import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_cli.dataset.images import load_square
from alexnet_cli.engine import checkpoint
from alexnet_cli.engine.prediction import classifier

Run = Callable[..., Any]


def document(alexnet: Run, *arguments: object) -> dict[str, Any]:
    return json.loads(alexnet("predict", *arguments, "--json").succeeded().out)


@pytest.mark.usefixtures("trained")
def test_json_is_a_stable_document(pictures: Path, alexnet: Run) -> None:
    files = [str(pictures / "test" / name / "0.png") for name in ("discs", "bars")]
    found = document(alexnet, *files)
    assert set(found) == {"model", "crops", "pictures"}
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
    assert [answer["file"] for answer in json.loads(outcome.out)["pictures"]] == [str(good)]


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
