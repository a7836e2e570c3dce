import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def document(alexnet: Run, *arguments: object) -> dict[str, Any]:
    return json.loads(alexnet("describe", *arguments, "--json").succeeded().out)


def test_json_is_a_stable_document(alexnet: Run) -> None:
    found = document(alexnet)
    assert set(found) == {"recipe", "layers", "departures"}
    assert set(found["recipe"]) == {"name", "network", "augmentation", "optimizer", "schedule"}
    assert all(set(d) == {"what", "printed", "here", "why"} for d in found["departures"])
    assert all(set(e) == {"name", "kind", "output", "parameters", "multiply_adds"} for e in found["layers"])


def test_the_papers_net_has_sixty_million_parameters(alexnet: Run) -> None:
    layers = document(alexnet, "paper")["layers"]
    counts = {layer["name"]: layer["parameters"] for layer in layers if layer["parameters"]}
    assert counts == {
        "conv1": 96 * (3 * 121 + 1),
        "conv2": 256 * (48 * 25 + 1),
        "conv3": 384 * (256 * 9 + 1),
        "conv4": 384 * (192 * 9 + 1),
        "conv5": 256 * (192 * 9 + 1),
        "fc6": 4096 * (256 * 36 + 1),
        "fc7": 4096 * (4096 + 1),
        "fc8": 1000 * (4096 + 1),
    }
    assert sum(counts.values()) == 60_965_224
    assert [layer["output"] for layer in layers if layer["name"] == "conv1"] == [[96, 55, 55]]
    assert sum(layer["multiply_adds"] for layer in layers) == 724_406_816


def test_the_table_adds_up(alexnet: Run) -> None:
    outcome = alexnet("describe", "paper").succeeded()
    assert "60,965,224" in outcome.out and "724.4 M" in outcome.out and outcome.err == ""
    assert "max pooling 3×3 / 2" in outcome.out and "convolution 5×5, 2 towers" in outcome.out
    assert "printed" not in outcome.out and "pca_stdevs" in outcome.out.replace("\n", ""), (
        "departures have a source"
    )


def test_classes_and_settings_change_it(alexnet: Run) -> None:
    (last,) = (e for e in document(alexnet, "small", "--classes", 8, "--set", "hidden=40")["layers"][-1:])
    assert (last["name"], last["parameters"]) == ("fc8", 8 * (10 + 1))


def test_departures_name_a_changed_setting(alexnet: Run) -> None:
    plain = [d["what"] for d in document(alexnet, "text")["departures"]]
    changed = [d["what"] for d in document(alexnet, "text", "--set", "momentum=0.8")["departures"]]
    assert changed == [*plain, "optimizer.momentum"]
    paper = document(alexnet, "paper")["departures"]
    assert all(departure["why"] not in ("", "set by hand") for departure in paper)


def test_against_shows_the_differences_only(alexnet: Run) -> None:
    said = alexnet("describe", "small", "--against", "paper").succeeded().out.partition("Differences")[2]
    assert "network.width" in said and "0.25" in said and "1.0" in said
    assert said.count("network.") + said.count("optimizer.") == 1


def test_it_needs_no_dataset_and_leaves_nothing(alexnet: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    alexnet("describe").succeeded()
    assert not list(tmp_path.iterdir())


def test_an_unknown_recipe_names_the_known(alexnet: Run) -> None:
    alexnet("describe", "papper").failed("there is no recipe 'papper'", "paper, text, small")
    alexnet("describe", "--against", "resnet").failed("there is no recipe 'resnet'", "paper, text, small")
