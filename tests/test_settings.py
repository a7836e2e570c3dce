"""`--set key=value` for every kind of value, what is refused with which words, and settings to JSON and back."""

import json
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from alexnet_cli import recipes
from alexnet_cli.errors import AlexNetError
from alexnet_cli.settings import changed, differences, flat, nested, restored


@dataclass(frozen=True)
class Inner:
    size: int = 3
    rate: float = 0.5
    on: bool = True


@dataclass(frozen=True)
class Other:
    size: int = 4


@dataclass(frozen=True)
class Outer:
    name: str = "one"
    inner: Inner = field(default_factory=Inner)
    other: Other = field(default_factory=Other)
    kind: Literal["early", "late"] = "early"
    sizes: tuple[int, ...] = (1, 2)
    words: tuple[str, ...] = ("a",)
    factor: float = 1.0


def refusal(*assignments: str) -> AlexNetError:
    with pytest.raises(AlexNetError) as caught:
        changed(Outer(), assignments)
    return caught.value


# -- what is understood ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("inner.size=7", replace(Outer(), inner=Inner(size=7))),
        ("inner.size=-7", replace(Outer(), inner=Inner(size=-7))),
        ("inner.rate=0.25", replace(Outer(), inner=Inner(rate=0.25))),
        ("inner.rate=1e-3", replace(Outer(), inner=Inner(rate=0.001))),
        ("inner.rate=-.5", replace(Outer(), inner=Inner(rate=-0.5))),
        ("inner.on=false", replace(Outer(), inner=Inner(on=False))),
        ("inner.on=False", replace(Outer(), inner=Inner(on=False))),
        ("name=two words", replace(Outer(), name="two words")),
        ("name=a=b", replace(Outer(), name="a=b")),
        ("kind=late", replace(Outer(), kind="late")),
        ("sizes=4,5,6", replace(Outer(), sizes=(4, 5, 6))),
        ("sizes=(4, 5)", replace(Outer(), sizes=(4, 5))),
        ("sizes=[4]", replace(Outer(), sizes=(4,))),
        ("sizes=", replace(Outer(), sizes=())),
        ("words=fc6, fc7", replace(Outer(), words=("fc6", "fc7"))),
        (" factor = 2 ", replace(Outer(), factor=2.0)),
    ],
)
def test_a_value_is_read_as_the_type_of_its_setting(assignment: str, expected: Outer) -> None:
    assert changed(Outer(), [assignment]) == expected


def test_a_whole_number_for_a_fraction_becomes_one() -> None:
    assert type(changed(Outer(), ["factor=2"]).factor) is float


def test_the_last_part_of_a_name_is_enough_when_only_one_setting_has_it() -> None:
    assert changed(Outer(), ["on=false", "rate=2"]) == replace(Outer(), inner=Inner(on=False, rate=2.0))


def test_the_last_of_several_values_counts_and_the_given_settings_stay_as_they_were() -> None:
    before = Outer()
    assert changed(before, ["factor=2", "factor=3", "kind=late"]) == replace(before, factor=3.0, kind="late")
    assert before == Outer()
    assert changed(before, []) == before


# -- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "nearest"), [("inner.sise", "inner.size"), ("factr", "factor"), ("onn", "inner.on"), ("zzz", "")]
)
def test_an_unknown_name_is_refused_with_the_nearest(key: str, nearest: str) -> None:
    error = refusal(f"{key}=1")
    assert error.message == f"there is no setting '{key}'"
    assert f"the nearest is {nearest}" in error.hint
    assert "--print-config" in error.hint


def test_a_group_of_settings_is_no_setting() -> None:
    assert refusal("inner=1").message == "there is no setting 'inner'"


def test_a_name_that_could_mean_two_settings_is_refused_with_both() -> None:
    error = refusal("size=3")
    assert error.message == "--set size could mean inner.size or other.size"
    assert error.hint == "write the whole name"


@pytest.mark.parametrize(
    ("assignment", "message", "hint"),
    [
        ("inner.size=2.5", "size=2.5: not a whole number", "give a whole number"),
        ("inner.size=many", "size=many: not a whole number", "give a whole number"),
        ("inner.size=true", "size=true: not a whole number", "give a whole number"),
        ("inner.size=", "size=: not a whole number", "give a whole number"),
        ("inner.rate=fast", "rate=fast: not a number", "give a number"),
        ("inner.rate=true", "rate=true: not a number", "give a number"),
        ("inner.rate=nan", "rate=nan: not a number", "give a number"),
        ("inner.rate=inf", "rate=inf: not a number", "give a number"),
        ("inner.rate=1e999", "rate=1e999: not a number", "give a number"),
        ("inner.on=1", "on=1: not true or false", "give true or false"),
        ("kind=never", "kind=never: not a choice", "it is one of early, late"),
        ("sizes=1,two", "sizes=two: not a whole number", "give a whole number"),
        ("factor", "--set factor: there is no '='", "write --set key=value"),
    ],
)
def test_a_value_of_another_type_is_refused(assignment: str, message: str, hint: str) -> None:
    error = refusal(assignment)
    assert message in error.message
    assert error.hint == hint


@pytest.mark.parametrize(
    "value", ["9" * 5000, "1" + "0" * 400, "(" * 500, "-" * 20_000 + "1", "'\\d'", "1is", "\0"]
)
def test_nonsense_is_refused_in_the_same_words(value: str) -> None:
    assert "not a number" in refusal(f"factor={value}").message


# -- names, differences, JSON ---------------------------------------------------------------------------------


def test_flat_has_every_setting_by_its_dotted_name_in_order() -> None:
    assert flat(Outer()) == {
        "name": "one",
        "inner.size": 3,
        "inner.rate": 0.5,
        "inner.on": True,
        "other.size": 4,
        "kind": "early",
        "sizes": (1, 2),
        "words": ("a",),
        "factor": 1.0,
    }
    assert list(flat(Outer()))[:3] == ["name", "inner.size", "inner.rate"]


def test_differences_are_each_changed_setting_once_with_both_values() -> None:
    theirs = changed(Outer(), ["inner.size=7", "sizes=9", "factor=1"])
    assert list(differences(Outer(), theirs)) == [("inner.size", 3, 7), ("sizes", (1, 2), (9,))]
    assert list(differences(theirs, theirs)) == []


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_comes_back_from_json_as_it_was(name: str) -> None:
    recipe = recipes.chosen(name, ["towers=1", "sigma=" + ",".join(["0.0123456789012345678"] * 8)])
    assert restored(recipes.Recipe, json.loads(json.dumps(nested(recipe)))) == recipe


def test_stored_settings_of_another_version_are_refused_by_name() -> None:
    stored = nested(Outer())
    stored["inner"] = {"size": 3, "on": True, "speed": 1}
    with pytest.raises(AlexNetError, match=r"do not fit this version: speed") as caught:
        restored(Outer, stored)
    assert "another version" in caught.value.hint


def test_a_setting_that_was_not_there_yet_is_as_by_default_and_one_without_default_is_missed() -> None:
    stored = nested(replace(Outer(), factor=3.0))
    del stored["inner"]["rate"], stored["other"]
    assert restored(Outer, stored) == replace(Outer(), factor=3.0)
    recipe = nested(recipes.paper())
    del recipe["name"], recipe["schedule"]
    with pytest.raises(AlexNetError, match=r"do not fit this version: name$"):
        restored(recipes.Recipe, recipe)
