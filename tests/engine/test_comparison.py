"""Which of the paper's rows a measurement fills, and what is said of the others."""

from dataclasses import replace

import pytest

from alexnet_cli import imagenet, recipes
from alexnet_cli.engine.comparison import Measured, Net, Row, edition_of, net_of, table

CNN, STAR = Net("paper", False, True), Net("paper+six-conv", True, True)
PLAIN = Measured([CNN], [(40.0, 18.0)], None, (1.0,), 10, 50_000)


def rows(edition: int, split: str, measured: Measured) -> dict[str, Row]:
    found = table(edition, split, measured)
    assert found is not None
    return {row.name: row for row in found[1]}


def ensemble(plain: int, starred: int) -> Measured:
    nets = [CNN] * plain + [STAR] * starred
    return replace(
        PLAIN, nets=nets, single=[(40.0, 18.0)] * len(nets), mean=(37.0, 15.5), weights=(1.0,) * len(nets)
    )


def test_the_numbers_are_those_printed() -> None:
    """Read once more from §6 of the paper."""
    assert {name: row.paper for name, row in rows(2012, "val", PLAIN).items()} == {
        "SIFT + FVs": (None, None, 26.2),
        "1 CNN": (40.7, 18.2, None),
        "5 CNNs": (38.1, 16.4, 16.4),
        "1 CNN*": (39.0, 16.6, None),
        "7 CNNs*": (36.7, 15.4, 15.3),
    }
    assert {name: row.paper for name, row in rows(2010, "test", PLAIN).items()} == {
        "Sparse coding": (47.1, 28.2),
        "SIFT + FVs": (45.7, 25.7),
        "CNN": (37.5, 17.0),
        "CNN, one patch": (39.0, 18.3),
    }


def test_one_net_as_the_papers_lacks_nothing() -> None:
    found = rows(2012, "val", PLAIN)
    assert found["1 CNN"].ours == (40.0, 18.0) and found["1 CNN"].missing == ()
    assert found["5 CNNs"].ours is None and found["5 CNNs"].missing == ("4 more CNN",)
    assert found["1 CNN*"].missing == ("a net of recipe paper+six-conv",)
    assert found["7 CNNs*"].missing == ("4 more CNN", "2 more CNN*")
    whole = rows(2010, "test", replace(PLAIN, pictures=150_000))
    assert whole["CNN"].missing == () and whole["CNN, one patch"].missing == ("--crops 1",)
    single = rows(2010, "test", replace(PLAIN, pictures=150_000, crops=1))
    assert single["CNN"].missing == ("--crops 10",) and single["CNN, one patch"].ours == (40.0, 18.0)


def test_ensembles() -> None:
    five, seven = rows(2012, "val", ensemble(5, 0)), rows(2012, "val", ensemble(5, 2))
    assert five["5 CNNs"].ours == (37.0, 15.5) and five["5 CNNs"].missing == ()
    assert seven["7 CNNs*"].ours == (37.0, 15.5)
    assert seven["7 CNNs*"].missing == ("first trained on all of Fall 2011, which no file shows",)
    assert seven["5 CNNs"].ours is None and seven["5 CNNs"].missing == ("2 CNN* too many",)
    assert rows(2012, "val", ensemble(6, 0))["5 CNNs"].missing == ("1 CNN too many",)
    unequal = replace(ensemble(5, 0), weights=(1, 1, 1, 1, 2), crops=1, pictures=49_000)
    assert rows(2012, "val", unequal)["5 CNNs"].missing == (
        *("equal weights", "--crops 10", "1,000 of the 50,000 pictures"),
    )


@pytest.mark.parametrize(
    "recipe", ["paper", "text", "original", "paper+six-conv", "caffe", "small", "paper+no-lrn"]
)
def test_what_is_the_papers_net(recipe: str) -> None:
    found = net_of(recipes.named(recipe))
    assert found == Net(
        recipe,
        recipe.endswith("six-conv"),
        recipe.partition("+")[0] in ("paper", "text", "original") and "no-lrn" not in recipe,
    )
    assert not net_of(recipes.chosen("paper", ["width=0.5"])).papers


def test_which_pictures_have_a_table() -> None:
    wnids = tuple(imagenet.classes())
    assert edition_of("class folders", wnids) == 2012
    assert edition_of("class folders", wnids[:10]) is None and edition_of("class folders", (None,) * 1000) is None
    assert edition_of("ILSVRC-2010, official archives", ("n00000001",) * 1000) == 2010
    assert edition_of("ILSVRC-2010, official archives, 3 of 1000 classes", ("n00000001",) * 3) is None
    assert (
        table(2012, "train", PLAIN) is None
        and table(2010, "val", PLAIN) is None
        and table(None, "val", PLAIN) is None
    )
