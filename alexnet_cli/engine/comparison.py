"""The paper's Tables 1 and 2 beside what was measured, and what is still missing to fill one of their rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_cli import imagenet, paper, recipes
from alexnet_cli.fisher.model import NAME as FISHER
from alexnet_cli.recipes import SIXTH, Recipe

FAITHFUL = ("paper", "text", "original")
"""Recipes of the paper's own net."""
BASELINE = "SIFT + FVs"
"""The rows of what `alexnet baseline` makes."""
Errors = tuple[float, float]
"""Top-1 and top-5, in percent."""


@dataclass(frozen=True)
class Net:
    recipe: str
    starred: bool
    """Whether it has the sixth convolution of the paper's CNN*."""
    papers: bool
    """Whether it is otherwise the paper's net, in one of its readings."""


def net_of(recipe: Recipe | None) -> Net:
    """Of a network's recipe; None is a baseline, which is no net but is asked as one."""
    if recipe is None:
        return Net(FISHER, starred=False, papers=False)
    starred = SIXTH in recipe.network.layers
    readings = [recipes.chosen(name + "+six-conv" * starred, []) for name in FAITHFUL]
    return Net(recipe.name, starred, recipe.network in [reading.network for reading in readings])


@dataclass(frozen=True)
class Measured:
    """One evaluation: the nets that were asked, the errors of each, and of their mean if there are several."""

    nets: Sequence[Net]
    single: Sequence[Errors]
    mean: Errors | None
    weights: Sequence[float]
    crops: int
    pictures: int


@dataclass(frozen=True)
class Row:
    name: str
    paper: tuple[float | None, ...]
    """Table 1: top-1, top-5; Table 2: top-1 and top-5 on the validation set, top-5 on the test set."""
    ours: Errors | None
    missing: tuple[str, ...]


def edition_of(form: str, wnids: Sequence[str | None]) -> int | None:
    """The year of the ILSVRC that a dataset is, by its form (see the manifest) and its classes."""
    if form.startswith("ILSVRC-2010") and len(wnids) == paper.CLASSES:
        return 2010
    return 2012 if tuple(wnids) == tuple(imagenet.classes()) else None


def table(edition: int | None, split: str, measured: Measured) -> tuple[str, list[Row]] | None:
    """The paper's table of these pictures: its title and its rows; None if it has none."""
    if (edition, split) == (2010, "test"):
        return "the paper's Table 1, ILSVRC-2010, test pictures", _table1(measured)
    if (edition, split) == (2012, "val"):
        return "the paper's Table 2, ILSVRC-2012, validation pictures", _table2(measured)
    return None


def _table1(measured: Measured) -> list[Row]:
    (net, *_), (errors, *_) = measured.nets, measured.single
    lacking = _pictures(measured, paper.TEST_PICTURES_2010)
    if net.recipe == FISHER:
        return [
            Row(name, tuple(numbers), *((errors, lacking) if name == BASELINE else (None, ())))
            for name, *numbers in paper.TABLE1
        ]
    missing = (*_net(net, starred=False), *lacking)
    rows = [Row(name, tuple(numbers), None, ()) for name, *numbers in paper.TABLE1[:-1]]
    name, *numbers = paper.TABLE1[-1]
    rows.append(Row(name, tuple(numbers), errors, (*_crops(measured), *missing)))
    centre = errors if measured.crops == 1 else None
    lacking = missing if measured.crops == 1 else ("--crops 1", *missing)
    return [*rows, Row(f"{name}, one patch", paper.TABLE1_CENTRE, centre, lacking)]


def _table2(measured: Measured) -> list[Row]:
    common = (*_crops(measured), *_pictures(measured, paper.VAL_PICTURES_2012))
    return [_row2(name, numbers, measured, common) for name, *numbers in paper.TABLE2]


def _row2(name: str, numbers: Sequence[float | None], measured: Measured, common: tuple[str, ...]) -> Row:
    if name not in paper.TABLE2_NETS:
        return Row(name, tuple(numbers), *_baseline(measured))
    plain, starred = paper.TABLE2_NETS[name]
    if plain + starred == 1:
        ours, missing = _single(measured, bool(starred))
    else:
        ours, missing = _many(measured, plain, starred)
    return Row(name, tuple(numbers), ours, (*missing, *(common if ours else ())))


def _baseline(measured: Measured) -> tuple[Errors | None, tuple[str, ...]]:
    """The first baseline; the paper's number is of another system, on the test pictures."""
    for net, errors in zip(measured.nets, measured.single, strict=True):
        if net.recipe == FISHER:
            return errors, ("classifiers of more kinds of descriptors", "the test pictures")
    return None, ()


def _single(measured: Measured, starred: bool) -> tuple[Errors | None, tuple[str, ...]]:
    """The first net of the kind."""
    for net, errors in zip(measured.nets, measured.single, strict=True):
        if net.starred == starred and net.recipe != FISHER:
            return errors, _net(net, starred)
    return None, ("a net of recipe paper+six-conv" if starred else "a net of recipe paper",)


def _many(measured: Measured, plain: int, starred: int) -> tuple[Errors | None, tuple[str, ...]]:
    wanted, kinds = (plain, starred), [net.starred for net in measured.nets]
    found = kinds.count(False), kinds.count(True)
    lacking = tuple(
        f"{want - have} more {kind}"
        for want, have, kind in zip(wanted, found, ("CNN", "CNN*"), strict=True)
        if want > have
    )
    too_many = tuple(
        f"{have - want} {kind} too many"
        for want, have, kind in zip(wanted, found, ("CNN", "CNN*"), strict=True)
        if have > want and not lacking
    )
    if lacking or too_many:
        return None, (*lacking, *too_many)
    missing = [text for net in measured.nets for text in _net(net, net.starred)]
    unequal = () if len(set(measured.weights)) == 1 else ("equal weights",)
    return measured.mean, (*dict.fromkeys(missing), *unequal)


def _net(net: Net, starred: bool) -> tuple[str, ...]:
    """What distinguishes a net from the paper's."""
    recipe = () if net.papers else (f"the paper's own net, from which this one, of recipe {net.recipe}, differs",)
    # A file says nothing of what came before its own training.
    return (*recipe, "first trained on all of Fall 2011, which no file shows") if starred else recipe


def _crops(measured: Measured) -> tuple[str, ...]:
    return () if measured.crops == 10 else ("--crops 10",)


def _pictures(measured: Measured, all_there_are: int) -> tuple[str, ...]:
    lacking = all_there_are - measured.pictures
    return (f"{lacking:,} of the {all_there_are:,} pictures",) if lacking > 0 else ()
