"""The recipes and variants: that each differs from the printed text where it says so, and what is refused."""

from dataclasses import replace

import pytest

from alexnet_cli import recipes
from alexnet_cli.errors import AlexNetError
from alexnet_cli.recipes import LAYERS, Departure, Recipe, departures
from alexnet_cli.settings import changed, differences, flat

OPEN = ["conv1's output", "zeros around maps", "crops", "colour noise's unit", "schedule"]
"""Where the text is silent or contradicts itself."""


def different(ours: Recipe, theirs: Recipe) -> dict[str, tuple[object, object]]:
    return {key: (mine, other) for key, mine, other in differences(ours, theirs)}


# -- what the recipes are -------------------------------------------------------------------------------------


def test_paper_has_the_printed_numbers() -> None:
    assert flat(recipes.paper()) == {
        "name": "paper",
        "network.width": 1.0,
        "network.kernels": (96, 256, 384, 384, 256),
        "network.hidden": 4096,
        "network.bottleneck": 0,
        "network.towers": 2,
        "network.exchange": True,
        "network.without": "",
        "network.crop": 224,
        "network.conv1_padding": (0, 3),
        "network.pooling": "overlapping",
        "network.activation": "relu",
        "network.normalization.order": "after-relu",
        "network.normalization.across": "tower",
        "network.normalization.size": 5,
        "network.normalization.alpha": 1e-4,
        "network.normalization.beta": 0.75,
        "network.normalization.k": 2.0,
        "network.normalization.within": False,
        "network.dropout": 0.5,
        "network.dropout_scaling": "test",
        "network.dropout_of": "outputs",
        "network.initial": "gaussian",
        "network.sigma": (0.01,) * 8,
        "network.bias": 1.0,
        "network.biased": ("conv2", "conv4", "conv5", "fc6", "fc7"),
        "preprocessing.mean": "pixel",
        "augmentation.crops": "random",
        "augmentation.reflections": True,
        "augmentation.sharing": 1,
        "augmentation.reshuffled": True,
        "augmentation.colour_noise": 0.1,
        "augmentation.colour_scale": "deviation",
        "augmentation.colour_shrinks": False,
        "optimizer.rate": 0.01,
        "optimizer.bias_rate": 1.0,
        "optimizer.momentum": 0.9,
        "optimizer.decay": 0.0005,
        "optimizer.bias_decay": 0.0,
        "optimizer.velocity": "rate-inside",
        "optimizer.batch_size": 128,
        "optimizer.frozen": (),
        "optimizer.layer_rates": (),
        "schedule.epochs": 90,
        "schedule.drop": 10.0,
        "schedule.drops": 3,
        "schedule.patience": 5,
        "schedule.threshold": 0.1,
        "schedule.drop_epochs": (),
        "schedule.drop_steps": 0,
        "schedule.biases_drop": True,
        "schedule.conv1_drop": 0,
        "schedule.conv1_freeze": 0,
        "schedule.colour_stop": 0,
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
    assert caught.value.hint.startswith("the recipes are paper, text, original, caffe, torchvision, small; ")
    assert caught.value.hint.endswith(", no-conv5")
    with pytest.raises(AlexNetError, match="there is no variant 'six'"):
        recipes.named("paper+six")


@pytest.mark.parametrize("towers", [1, 2, 3, 8])
@pytest.mark.parametrize("width", [0.001, 0.1, 0.25, 1 / 3, 1.0, 1.7])
def test_every_width_divides_into_its_towers(width: float, towers: int) -> None:
    widths = replace(recipes.paper().network, width=width, towers=towers).widths
    assert len(widths) == 7
    for units, full in zip(widths, (96, 256, 384, 384, 256, 4096, 4096), strict=True):
        assert units % towers == 0
        assert units > 0
        assert units == towers or abs(units - full * width) <= towers / 2


# -- variants -------------------------------------------------------------------------------------------------


def variant(name: str) -> dict[str, tuple[object, object]]:
    """What a variant of paper changes."""
    return {key: ours for key, (ours, _) in different(recipes.named(f"paper+{name}"), recipes.paper()).items()}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "six-conv",
            {
                "network.kernels": (96, 256, 384, 384, 256, 256),
                "network.biased": ("conv2", "conv4", "conv5", "fc6", "fc7", "conv6"),
            },
        ),
        ("bottleneck", {"network.bottleneck": 2048}),
        ("four-layer", {"network.kernels": (96, 256, 384), "network.hidden": 0, "network.dropout": 0.0}),
        ("one-gpu", {"network.kernels": (48, 128, 192, 192, 256), "network.towers": 1}),
        ("ungrouped", {"network.towers": 1}),
        ("no-exchange", {"network.exchange": False}),
        ("no-lrn", {"network.normalization.size": 0}),
        ("non-overlapping", {"network.pooling": "non-overlapping"}),
        ("tanh", {"network.activation": "tanh"}),
        ("sigmoid", {"network.activation": "sigmoid"}),
        ("no-dropout", {"network.dropout": 0.0}),
        ("no-crops", {"augmentation.crops": "centre", "augmentation.reflections": False}),
        ("no-colour", {"augmentation.colour_noise": 0.0}),
        *((f"no-conv{n}", {"network.without": f"conv{n}"}) for n in range(1, 6)),
    ],
)
def test_a_variant_changes_its_settings_and_no_others(name: str, changes: dict[str, object]) -> None:
    assert variant(name) == {"name": f"paper+{name}", **changes}


def test_every_variant_is_tested_above_and_says_what_it_is() -> None:
    assert len(recipes.VARIANTS) == 18
    assert all(what for _, what in recipes.VARIANTS.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["frozen=conv1,conv9"], "optimizer.frozen must be among the net's layers, conv1, "),
        (["frozen=conv6"], "optimizer.frozen must be among"),
        (["frozen=" + ",".join(recipes.LAYERS)], "optimizer.frozen cannot be all layers"),
        (["layer_rates=conv9:2"], "optimizer.layer_rates must name layers of the net"),
        (["layer_rates=conv1"], "optimizer.layer_rates must be layers and numbers above 0"),
        (["layer_rates=conv1:fast"], "optimizer.layer_rates must be layers and numbers"),
        (["layer_rates=conv1:0"], "frozen is for those"),
        (["layer_rates=conv1:inf"], "optimizer.layer_rates must be"),
        (["layer_rates=conv1:2,conv1:3"], "optimizer.layer_rates names a layer twice"),
        (["layer_rates=conv1:2", "frozen=conv1"], "optimizer.layer_rates names a layer twice"),
        (["bottleneck=-1"], "network.bottleneck must not be negative"),
        (["hidden=0"], "network.dropout must be 0 without hidden layers"),
        (["hidden=0", "dropout=0", "bottleneck=8"], "network.bottleneck must be 0 where fc7 has no units"),
        (["kernels=96,256,384", "without=conv5"], "network.without cannot be conv5"),
    ],
)
def test_rules_of_layers_name_layers_that_are_there(settings: list[str], message: str) -> None:
    with pytest.raises(AlexNetError) as caught:
        recipes.chosen("paper", settings)
    assert message in f"{caught.value.message} {caught.value.hint}"


def test_layers_with_rules_of_their_own_are_departures_set_by_hand() -> None:
    recipe = recipes.chosen("paper+six-conv", ["frozen=conv6,conv1", "layer_rates=conv3:0.1, fc8:10"])
    assert recipe.optimizer.factors == {"conv6": 0.0, "conv1": 0.0, "conv3": 0.1, "fc8": 10.0}
    found = {departure.what: departure for departure in recipes.departures(recipe)}
    assert found["optimizer.frozen"].here == "conv6, conv1"
    assert found["optimizer.layer_rates"].printed == "an equal learning rate for all layers (§5)"


def test_variants_compose_in_any_order() -> None:
    for first, second in (("six-conv", "one-gpu"), ("no-conv2", "no-lrn"), ("tanh", "no-conv3")):
        one, other = (recipes.named(f"original+{a}+{b}") for a, b in ((first, second), (second, first)))
        left, right = (replace(r, name="", network=replace(r.network, biased=())) for r in (one, other))
        assert left == right


def test_a_layer_that_is_gone_takes_along_what_is_for_it_alone() -> None:
    assert not recipes.named("original+no-conv2").network.normalization.within
    schedule = recipes.named("original+no-conv1").schedule
    assert (schedule.conv1_drop, schedule.conv1_freeze, schedule.colour_stop) == (0, 0, 67)
    assert recipes.named("original+no-colour").schedule.colour_stop == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("paper+six-conv+six-conv", "it has six convolutions already"),
        ("paper+one-gpu+ungrouped", "its kernels see all maps already"),
        ("paper+ungrouped+one-gpu", "it has one tower already"),
        ("paper+no-exchange+one-gpu", "one tower has no other to exchange with"),
        ("paper+no-exchange+ungrouped", "where every kernel sees all maps there is always an exchange"),
        ("paper+one-gpu+no-exchange", "it has one tower only"),
        ("paper+no-exchange+no-exchange", "no-exchange changes nothing"),
        ("torchvision+no-exchange", "it has one tower only"),
        ("torchvision+ungrouped", "its kernels see all maps already"),
        ("torchvision+one-gpu", "it has one tower already"),
        ("torchvision+no-lrn", "it has no normalization"),
        ("torchvision+no-colour", "it has no colour noise"),
        ("caffe+no-colour", "it has no colour noise"),
        ("paper+no-lrn+no-lrn", "it has no normalization"),
        ("paper+tanh+sigmoid", "tanh is in place of ReLU already"),
        ("paper+no-dropout+no-dropout", "it has no dropout"),
        ("paper+no-crops+no-crops", "no-crops changes nothing"),
        ("paper+non-overlapping+non-overlapping", "its pooling does not overlap already"),
        ("paper+no-conv1+no-conv2", "conv1 is gone already, and one at a time can be left out"),
        ("paper+four-layer+no-conv4", "it has no conv4"),
        ("paper+four-layer+six-conv", "it has no fifth one, which the sixth is to follow"),
        ("paper+four-layer+four-layer", "it has no hidden layers already"),
        ("paper+bottleneck+four-layer", "the bottleneck follows hidden layers, and there are none then"),
        ("paper+four-layer+no-dropout", "it has no dropout"),
    ],
)
def test_variants_without_sense_together_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(AlexNetError) as caught:
        recipes.named(name)
    assert caught.value.message == f"{name} makes no sense: {reason}"
    assert caught.value.hint


def test_mask_widths_are_those_of_what_is_dropped() -> None:
    widths = {name: recipes.named(name).network.mask_widths for name in recipes.RECIPES}
    assert widths == dict.fromkeys(recipes.RECIPES, (4096, 4096)) | {
        "torchvision": (256 * 36, 4096),
        "small": (1024, 1024),
    }
    assert recipes.named("torchvision+no-conv5").network.mask_widths == (256 * 36, 4096)
    assert recipes.named("torchvision+no-conv5+non-overlapping").network.mask_widths == (256 * 49, 4096)
    assert recipes.named("torchvision+no-conv5+six-conv").network.mask_widths == (256 * 36, 4096)


# -- departures from the text ---------------------------------------------------------------------------------

SOURCES = (".py", ".cfg", ".cu", ".cpp", ".md", ".prototxt", "Krizhevsky (2014)")


def chosen_departures(recipe: Recipe) -> dict[str, Departure]:
    return {departure.what: departure for departure in departures(recipe) if departure.what not in OPEN}


def open_in_the_text(recipe: Recipe) -> list[str]:
    return [departure.what for departure in departures(recipe) if departure.what in OPEN]


def test_text_departs_only_where_the_text_is_silent_or_impossible() -> None:
    assert chosen_departures(recipes.text()) == {}
    assert open_in_the_text(recipes.text()) == OPEN


def test_papers_departures_are_its_differences_from_the_text() -> None:
    found = chosen_departures(recipes.paper())
    assert set(found) == set(different(recipes.paper(), recipes.text())) - {"name"}
    assert found["network.normalization.across"].here == "tower"
    assert found["augmentation.colour_scale"].here == "deviation"
    assert found["optimizer.bias_decay"].here == "0.0"


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_departure_of_a_recipe_has_what_is_printed_and_a_source(name: str) -> None:
    for departure in departures(recipes.named(name)):
        assert all((departure.what, departure.printed, departure.here, departure.why))
        if departure.what not in OPEN and departure.what != "network.width":
            assert "§" in departure.printed or departure.printed == "nothing"
            assert any(source in departure.why for source in SOURCES), departure


@pytest.mark.parametrize(
    ("name", "number"), [("original", 18), ("caffe", 12), ("torchvision", 14), ("paper", 3), ("small", 4)]
)
def test_departures_are_as_many_as_the_settings_that_differ_and_do_something(name: str, number: int) -> None:
    found = chosen_departures(recipes.named(name))
    differ = set(different(recipes.named(name), recipes.text())) - {"name"}
    assert len(found) == number
    assert set(found) <= differ
    # The rest does nothing: of noise that there is not, of towers of a single one.
    assert differ - set(found) <= {"augmentation.colour_scale"}


def test_smalls_departures_are_those_of_paper_and_the_width() -> None:
    found, papers = chosen_departures(recipes.small()), chosen_departures(recipes.paper())
    assert found.pop("network.width").why.startswith("for small machines")
    assert found == papers


def test_what_the_text_leaves_open_depends_on_the_recipe() -> None:
    assert open_in_the_text(recipes.paper()) == ["conv1's output", "zeros around maps", "crops", "schedule"]
    assert open_in_the_text(recipes.caffe()) == ["conv1's output", "zeros around maps", "crops"]
    assert open_in_the_text(recipes.torchvision()) == ["conv1's output", "zeros around maps"]
    assert open_in_the_text(recipes.named("paper+no-conv1")) == ["zeros around maps", "crops", "schedule"]
    crops = {
        name: d.here for name in ("paper", "caffe") for d in departures(recipes.named(name)) if d.what == "crops"
    }
    assert crops == {"paper": "33×33 places and reflections, 2178", "caffe": "30×30 places and reflections, 1800"}


def test_the_schedule_of_plateaus_is_said_with_its_numbers() -> None:
    recipe = recipes.chosen("paper", ["patience=7", "threshold=0.25", "drops=2", "drop=5"])
    (schedule,) = (d.here for d in departures(recipe) if d.what == "schedule")
    assert schedule.startswith("7 epochs without 0.25 points") and "÷5 at each of the first 2" in schedule


@pytest.mark.parametrize("name", recipes.VARIANTS)
def test_a_variant_is_a_departure_with_its_reason(name: str) -> None:
    found = chosen_departures(recipes.named(f"text+{name}"))
    assert set(found) == set(different(recipes.named(f"text+{name}"), recipes.text())) - {
        "name",
        *({"network.normalization.across"} if name in ("one-gpu", "ungrouped") else ()),
    }
    assert {departure.why for departure in found.values()} == {recipes.VARIANTS[name][1]}


def test_a_convolution_left_out_says_how_sizes_are_mended() -> None:
    by_name = chosen_departures(recipes.named("paper+no-conv3"))["network.without"]
    by_hand = chosen_departures(recipes.chosen("paper", ["without=conv3"]))["network.without"]
    assert by_name.here == by_hand.here == f"no conv3: {recipes.MENDED['conv3']}"
    assert by_hand.why == "set by hand"


def test_a_setting_by_hand_is_a_departure_until_it_is_the_texts_again() -> None:
    found = chosen_departures(recipes.chosen("text", ["optimizer.rate=0.02", "across=tower"]))
    assert set(found) == {"optimizer.rate", "network.normalization.across"}
    assert found["optimizer.rate"] == Departure("optimizer.rate", "0.01", "0.02", "set by hand")
    back = ["across=layer", "colour_scale=eigenvalue", "bias_decay=1"]
    assert chosen_departures(recipes.chosen("paper", back)) == {}
    over = chosen_departures(recipes.chosen("caffe", ["bias=0.2"]))
    assert (over["network.bias"].why, "readme.md" in over["augmentation.colour_noise"].why) == (
        "set by hand",
        True,
    )


# -- what makes no sense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("network.width=0", "network.width must be above 0"),
        ("network.towers=0", "network.towers must be at least 1"),
        ("network.kernels=96,256", "network.kernels must be three to six positive numbers"),
        ("network.kernels=96,256,384,384,0", "network.kernels must be three to six positive numbers"),
        ("network.kernels=", "network.kernels must be three to six positive numbers"),
        ("network.hidden=-1", "network.hidden must not be negative"),
        ("network.sigma=0.01", "network.sigma must be eight numbers, conv1 to fc8"),
        ("network.sigma=" + ",".join(["-0.01"] * 8), "network.sigma must not be negative"),
        ("network.crop=225", "network.crop must be 224 or 227"),
        ("network.conv1_padding=1", "network.conv1_padding must be two numbers"),
        ("network.conv1_padding=4,3", "network.conv1_padding must be two numbers"),
        ("network.conv1_padding=-1,4", "network.conv1_padding must be two numbers"),
        ("network.biased=conv2,fc9", "network.biased must be among conv1, conv2"),
        ("network.dropout=1", "network.dropout must be at least 0 and below 1"),
        ("network.dropout=-0.5", "network.dropout must be at least 0 and below 1"),
        ("network.normalization.size=4", "network.normalization.size must be 0 (none) or an odd number"),
        ("network.normalization.size=-1", "network.normalization.size must be 0 (none) or an odd number"),
        ("network.normalization.alpha=-1", "network.normalization.alpha must not be negative"),
        ("network.normalization.k=0", "network.normalization.k must be above 0"),
        ("augmentation.sharing=0", "augmentation.sharing must be at least 1"),
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
        ("schedule.patience=0", "schedule.patience must be above 0"),
        ("schedule.threshold=-1", "schedule.threshold must not be negative"),
        ("schedule.drop_epochs=30,20", "schedule.drop_epochs must be rising numbers above 0"),
        ("schedule.drop_epochs=0,20", "schedule.drop_epochs must be rising numbers above 0"),
        ("schedule.drop_steps=-1", "schedule.drop_steps must not be negative"),
        ("schedule.colour_stop=-1", "schedule.colour_stop must not be negative"),
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


@pytest.mark.parametrize(
    ("name", "assignments", "message"),
    [
        ("paper", ["towers=1", "exchange=false"], "network.exchange cannot be false for one tower"),
        ("original", ["without=conv2"], "network.normalization.within cannot be true without conv2"),
        ("original", ["without=conv1"], "schedule.conv1_drop cannot be given without conv1"),
        ("paper+no-conv1", ["conv1_freeze=3"], "schedule.conv1_freeze cannot be given without conv1"),
        ("torchvision", ["mean=pixel"], "preprocessing.mean cannot be pixel for resized crops"),
        ("caffe", ["crop=224"], "network.conv1_padding must be two numbers"),
        ("caffe", ["drop_epochs=3"], "schedule.drop_steps cannot be given beside schedule.drop_epochs"),
    ],
)
def test_settings_without_sense_together_are_refused(name: str, assignments: list[str], message: str) -> None:
    with pytest.raises(AlexNetError) as caught:
        recipes.chosen(name, assignments)
    assert caught.value.message.startswith(message)
