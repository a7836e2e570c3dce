"""The recipes: that each differs from the paper's text where it says so and nowhere else, and what is refused."""

from dataclasses import replace

import pytest

from alexnet_cli import recipes
from alexnet_cli.errors import AlexNetError
from alexnet_cli.recipes import LAYERS, Departure, Recipe, departures
from alexnet_cli.settings import changed, differences, flat

EVERYWHERE = ["conv1's output", "crops", "pooling", "schedule"]


def different(ours: Recipe, theirs: Recipe) -> dict[str, tuple[object, object]]:
    return {key: (mine, other) for key, mine, other in differences(ours, theirs)}


# -- what the recipes are -------------------------------------------------------------------------------------


def test_paper_has_the_printed_numbers() -> None:
    assert flat(recipes.paper()) == {
        "name": "paper",
        "network.width": 1.0,
        "network.kernels": (96, 256, 384, 384, 256),
        "network.hidden": 4096,
        "network.towers": 2,
        "network.normalization.order": "after-relu",
        "network.normalization.across": "tower",
        "network.normalization.size": 5,
        "network.normalization.alpha": 1e-4,
        "network.normalization.beta": 0.75,
        "network.normalization.k": 2.0,
        "network.dropout": 0.5,
        "network.dropout_scaling": "test",
        "network.sigma": (0.01,) * 8,
        "network.biased": ("conv2", "conv4", "conv5", "fc6", "fc7"),
        "augmentation.crops": True,
        "augmentation.reflections": True,
        "augmentation.colour_noise": 0.1,
        "augmentation.colour_scale": "deviation",
        "optimizer.rate": 0.01,
        "optimizer.bias_rate": 1.0,
        "optimizer.momentum": 0.9,
        "optimizer.decay": 0.0005,
        "optimizer.bias_decay": 0.0,
        "optimizer.batch_size": 128,
        "schedule.epochs": 90,
        "schedule.drop": 10.0,
        "schedule.drops": 3,
        "schedule.patience": 5,
        "schedule.threshold": 0.1,
    }


def test_text_differs_from_paper_only_where_the_text_and_the_2012_code_do() -> None:
    assert different(recipes.text(), recipes.paper()) == {
        "name": ("text", "paper"),
        "network.normalization.across": ("layer", "tower"),
        "augmentation.colour_scale": ("eigenvalue", "deviation"),
        "optimizer.bias_decay": (1.0, 0.0),
    }


def test_small_is_paper_at_a_quarter_of_the_width() -> None:
    assert different(recipes.small(), recipes.paper()) == {
        "name": ("small", "paper"),
        "network.width": (0.25, 1.0),
    }
    assert recipes.small().network.widths == (24, 64, 96, 96, 64, 1024, 1024)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_is_found_by_its_name_and_passes_its_own_check(name: str) -> None:
    assert recipes.named(name).name == name
    assert recipes.chosen(name, []) == recipes.RECIPES[name]()


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(AlexNetError, match="there is no recipe 'papre'") as caught:
        recipes.named("papre")
    assert caught.value.hint == "the recipes are paper, text, small"


@pytest.mark.parametrize("towers", [1, 2, 3, 8])
@pytest.mark.parametrize("width", [0.001, 0.1, 0.25, 1 / 3, 1.0, 1.7])
def test_every_width_divides_into_its_towers(width: float, towers: int) -> None:
    widths = replace(recipes.paper().network, width=width, towers=towers).widths
    assert len(widths) == 7
    for units, full in zip(widths, (96, 256, 384, 384, 256, 4096, 4096), strict=True):
        assert units % towers == 0
        assert units > 0
        assert units == towers or abs(units - full * width) <= towers / 2


# -- departures from the text ---------------------------------------------------------------------------------


def chosen_departures(recipe: Recipe) -> dict[str, Departure]:
    found = departures(recipe)
    assert [departure.what for departure in found[:4]] == EVERYWHERE
    return {departure.what: departure for departure in found[4:]}


def test_text_departs_only_where_the_text_is_silent_or_impossible() -> None:
    assert chosen_departures(recipes.text()) == {}


def test_papers_departures_are_its_differences_from_the_text_each_with_what_is_printed_and_why() -> None:
    found = chosen_departures(recipes.paper())
    assert set(found) == set(different(recipes.paper(), recipes.text())) - {"name"}
    for departure in found.values():
        assert "§" in departure.printed
        assert ".py" in departure.why or ".cfg" in departure.why or ".cu" in departure.why  # its source
    assert found["network.normalization.across"].here == "tower"
    assert found["augmentation.colour_scale"].here == "deviation"
    assert found["optimizer.bias_decay"].here == "0.0"


def test_smalls_departures_are_those_of_paper_and_the_width() -> None:
    found, papers = chosen_departures(recipes.small()), chosen_departures(recipes.paper())
    assert found.pop("network.width").why.startswith("a smaller net")
    assert found == papers


def test_a_setting_by_hand_is_a_departure_until_it_is_the_texts_again() -> None:
    found = chosen_departures(recipes.chosen("text", ["optimizer.rate=0.02", "across=tower"]))
    assert set(found) == {"optimizer.rate", "network.normalization.across"}
    assert found["optimizer.rate"] == Departure("optimizer.rate", "0.01", "0.02", "set by hand")
    back = ["across=layer", "colour_scale=eigenvalue", "bias_decay=1"]
    assert chosen_departures(recipes.chosen("paper", back)) == {}


def test_every_departure_says_something_in_each_of_its_parts() -> None:
    for name in recipes.RECIPES:
        for departure in departures(recipes.named(name)):
            assert all((departure.what, departure.printed, departure.here, departure.why))


# -- what makes no sense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("network.width=0", "network.width must be above 0"),
        ("network.towers=0", "network.towers must be at least 1"),
        ("network.kernels=96,256,384", "network.kernels must be five positive numbers"),
        ("network.kernels=96,256,384,384,0", "network.kernels must be five positive numbers"),
        ("network.kernels=", "network.kernels must be five positive numbers"),
        ("network.hidden=0", "network.hidden must be above 0"),
        ("network.sigma=0.01", "network.sigma must be eight numbers, conv1 to fc8"),
        ("network.sigma=" + ",".join(["-0.01"] * 8), "network.sigma must not be negative"),
        ("network.biased=conv2,fc9", "network.biased must be among conv1, conv2"),
        ("network.dropout=1", "network.dropout must be at least 0 and below 1"),
        ("network.dropout=-0.5", "network.dropout must be at least 0 and below 1"),
        ("network.normalization.size=4", "network.normalization.size must be 0 (none) or an odd number"),
        ("network.normalization.size=-1", "network.normalization.size must be 0 (none) or an odd number"),
        ("network.normalization.alpha=-1", "network.normalization.alpha must not be negative"),
        ("network.normalization.k=0", "network.normalization.k must be above 0"),
        ("augmentation.colour_noise=-0.1", "augmentation.colour_noise must not be negative"),
        ("optimizer.rate=-0.01", "optimizer.rate must not be negative"),
        ("optimizer.bias_rate=-1", "optimizer.bias_rate must not be negative"),
        ("optimizer.decay=-0.1", "optimizer.decay must not be negative"),
        ("optimizer.bias_decay=-1", "optimizer.bias_decay must not be negative"),
        ("optimizer.batch_size=0", "optimizer.batch_size must be at least 1"),
        ("optimizer.momentum=1", "optimizer.momentum must be at least 0 and below 1"),
        ("optimizer.momentum=-0.1", "optimizer.momentum must be at least 0 and below 1"),
        ("schedule.epochs=0", "schedule.epochs must be at least 1"),
        ("schedule.drop=1", "schedule.drop must be above 1"),
        ("schedule.drops=-1", "schedule.drops must not be negative"),
        ("schedule.patience=0", "schedule.patience must be at least 1"),
        ("schedule.threshold=-1", "schedule.threshold must not be negative"),
    ],
)
def test_a_setting_without_sense_is_refused_by_name(assignment: str, message: str) -> None:
    with pytest.raises(AlexNetError) as caught:
        recipes.chosen("paper", [assignment])
    assert caught.value.message.startswith(message)
    key = assignment.partition("=")[0]
    assert caught.value.hint == f"change it with --set {key}=…"


@pytest.mark.parametrize(
    "assignment",
    [
        "network.normalization.size=0",
        "network.dropout=0",
        "network.biased=",
        "network.biased=" + ",".join(LAYERS),
        "augmentation.colour_noise=0",
        "optimizer.rate=0",
        "optimizer.momentum=0",
        "schedule.drops=0",
        "optimizer.batch_size=1",
    ],
)
def test_switching_something_off_is_allowed(assignment: str) -> None:
    assert recipes.chosen("paper", [assignment]) == changed(recipes.paper(), [assignment])
