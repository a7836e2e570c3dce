"""The plan: every picture once an epoch, in one order, in equal rows, on any number of ranks; well mixed, and each
shard read in one stretch."""

import subprocess
import sys
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_cli.dataset.manifest import INDEX_DTYPE
from alexnet_cli.loading import draws
from alexnet_cli.loading import plan as planning
from alexnet_cli.loading.plan import Part, Plan, shard_lengths

numbers = st.integers(1, 40)
seeds = st.integers(0, 2**40)
any_shards = st.lists(st.integers(0, 9), min_size=1, max_size=70).filter(any).map(tuple)
unsharded = st.builds(Plan, st.integers(1, 200), numbers, st.none() | seeds, st.booleans())
sharded = st.builds(
    lambda shards, *others: Plan(sum(shards), *others, shards), any_shards, numbers, seeds, st.booleans()
)
any_plan = unsharded | sharded
ranks_and_epoch = {"ranks": st.integers(1, 9), "epoch": st.integers(0, 5)}
quick = settings(deadline=None, max_examples=60)


def parts(plan: Plan, epoch: int, step: int, ranks: int) -> list[Part]:
    return [plan.part(epoch, step, rank, ranks) for rank in range(ranks)]


@quick
@given(plan=any_plan, **ranks_and_epoch)
def test_each_picture_is_in_an_epoch_exactly_once(plan: Plan, ranks: int, epoch: int) -> None:
    every = [part for step in range(plan.steps) for part in parts(plan, epoch, step, ranks)]
    positions = np.concatenate([part.positions for part in every])
    samples = np.concatenate([part.samples for part in every])
    assert positions.tolist() == list(range(plan.pictures))
    assert sorted(samples.tolist()) == list(range(plan.pictures))


@quick
@given(plan=any_plan, **ranks_and_epoch)
def test_every_rank_of_every_step_has_the_same_rows_and_room_for_its_pictures(
    plan: Plan, ranks: int, epoch: int
) -> None:
    for step in range(plan.steps):
        found = parts(plan, epoch, step, ranks)
        assert {part.rows for part in found} == {-(-plan.batch_size // ranks)}
        assert all(len(part.positions) == len(part.samples) <= part.rows for part in found)
        assert sum(len(part.samples) for part in found) == plan.pictures_in(step)


@quick
@given(plan=any_plan, **ranks_and_epoch)
def test_a_batch_is_the_same_pictures_in_the_same_order_on_any_number_of_ranks(
    plan: Plan, ranks: int, epoch: int
) -> None:
    for step in range(plan.steps):
        alone, found = plan.part(epoch, step), parts(plan, epoch, step, ranks)
        for name in ("positions", "samples"):
            together = np.concatenate([getattr(part, name) for part in found])
            assert np.array_equal(together, getattr(alone, name))


@quick
@given(plan=any_plan)
def test_pictures_in_add_up_to_the_split_and_only_the_last_batch_is_short(plan: Plan) -> None:
    counts = [plan.pictures_in(step) for step in range(plan.steps)]
    assert sum(counts) == plan.pictures
    assert set(counts[:-1]) <= {plan.batch_size}
    assert 1 <= counts[-1] <= plan.batch_size


def test_any_part_can_be_had_at_once_and_in_any_order() -> None:
    places = [(epoch, step, rank) for epoch in range(4) for step in range(3) for rank in range(2)]
    forwards = {place: Plan(29, 10, 7).part(*place, 2).samples.tolist() for place in places}
    for epoch, step, rank in reversed(places):
        assert Plan(29, 10, 7).part(epoch, step, rank, 2).samples.tolist() == forwards[epoch, step, rank]


def test_an_epochs_order_is_the_drawn_one_and_changes_with_epoch_and_seed() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return Plan(50, 50, seed).part(epoch, 0).samples.tolist()

    assert order(3, 2) == draws.permutation(3, 2, 50).tolist()
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_one_order_for_all_epochs_is_that_of_the_first() -> None:
    orders = [Plan(50, 50, 3, reshuffled=False).part(epoch, 0).samples.tolist() for epoch in range(4)]
    assert orders == [draws.permutation(3, 0, 50).tolist()] * 4


def test_without_a_seed_the_order_is_that_of_the_index_in_every_epoch() -> None:
    for epoch in (0, 3):
        assert Plan(7, 3, None).part(epoch, 1).samples.tolist() == [3, 4, 5]
        assert Plan(7, 3, None).part(epoch, 2).samples.tolist() == [6]


def test_seven_pictures_for_two_ranks_by_hand() -> None:
    plan = Plan(7, 5, None)
    assert plan.steps == 2
    assert [part.samples.tolist() for part in parts(plan, 0, 0, 2)] == [[0, 1, 2], [3, 4]]
    assert [part.samples.tolist() for part in parts(plan, 0, 1, 2)] == [[5, 6], []]
    assert [part.rows for part in parts(plan, 0, 1, 2)] == [3, 3]


# -- windows of shards ----------------------------------------------------------------------------------------


def epoch_order(shards: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    return Plan(sum(shards), sum(shards), seed, True, shards).part(epoch, 0).samples


@quick
@given(plan=sharded, epoch=st.integers(0, 5), data=st.data())
def test_any_batch_is_that_stretch_of_the_whole_order(plan: Plan, epoch: int, data: st.DataObject) -> None:
    whole = epoch_order(plan.shards, plan.seed or 0, epoch if plan.reshuffled else 0)
    for step in data.draw(st.lists(st.integers(0, plan.steps - 1), max_size=5)):
        part = plan.part(epoch, step)
        assert np.array_equal(part.samples, whole[part.positions])


def test_more_than_a_window_of_shards_by_plain_python() -> None:
    """37 shards are windows of 13, 12 and 12; the pictures of each are sorted by a hash of their positions."""

    def shuffled(places: list[int], purpose: draws.Purpose, first: int = 0) -> list[int]:
        keys = draws.bits(5, purpose, 2, np.arange(first, first + len(places)), 1)[:, 0].tolist()
        return [place for _, place in sorted(zip(keys, places, strict=True))]

    lengths = tuple(3 + n % 4 for n in range(37))
    firsts = [0, *accumulate(lengths)]
    shards = shuffled(list(range(37)), "shards")
    expected: list[int] = []
    for window in (shards[:13], shards[13:25], shards[25:]):
        pictures = [picture for n in sorted(window) for picture in range(firsts[n], firsts[n + 1])]
        expected += shuffled(pictures, "order", len(expected))
    assert epoch_order(lengths, 5, 2).tolist() == expected


def test_one_window_of_shards_has_the_order_of_one_shard() -> None:
    for shards in ((50,), (20, 0, 30), tuple(range(1, 17))):
        assert np.array_equal(epoch_order(shards, 3, 2), draws.permutation(3, 2, sum(shards)))
    assert not np.array_equal(epoch_order((3,) * 17, 3, 2), draws.permutation(3, 2, 51))


@quick
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30), at_once=st.integers(1, 9))
def test_the_lengths_of_shards_are_counted_in_pieces(lengths: list[int], at_once: int) -> None:
    column = np.repeat(np.arange(len(lengths), dtype=np.uint32) * 3, lengths)  # some shards may be empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "AT_ONCE", at_once)
        assert shard_lengths(column) == tuple(lengths)
        if len(lengths) > 1:
            assert shard_lengths(column[::-1]) == ()
            assert shard_lengths(np.append(column, column[0])) == ()


def test_fourteen_million_pictures_are_planned_in_500_megabytes(tmp_path: Path) -> None:
    """Fall 2011 has 14,197,122. Its memory is counted above that of the imports, with the mapped index."""
    count, path = 14_197_122, tmp_path / "train-index.npy"
    index = np.lib.format.open_memmap(path, "w+", INDEX_DTYPE, (count,))
    index["shard"] = np.arange(count, dtype=np.uint32) // 2048
    del index
    script = """if True:
        import resource, sys, time
        import numpy as np
        from alexnet_cli.loading.plan import Plan, shard_lengths
        unit = 2**20 if sys.platform == "darwin" else 2**10
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        index = np.load(sys.argv[1], mmap_mode="r")
        memory = peak()
        Plan(len(index), 128, 1, True, shard_lengths(index["shard"])).part(0, 0)
        print(peak() - memory)
    """
    try:
        done = subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, text=True)
    finally:
        path.unlink()
    assert float(done.stdout) < 500


# -- how it mixes, beside a full permutation and a poor one ---------------------------------------------------

SHARDS, LENGTH, BATCH, EPOCHS = 48, 4, 8, 2000
PICTURES = SHARDS * LENGTH
WINDOWS = 3


@pytest.fixture(scope="module")
def orders() -> dict[str, np.ndarray]:
    """Orders of many epochs, (EPOCHS, PICTURES). The poor one mixes shards that come as they lie."""
    blocks = range(0, PICTURES, PICTURES // WINDOWS)
    poor = [[at + draws.permutation(1, e, PICTURES // WINDOWS, first=at) for at in blocks] for e in range(EPOCHS)]
    return {
        "plan": np.stack([epoch_order((LENGTH,) * SHARDS, 1, epoch) for epoch in range(EPOCHS)]),
        "full": np.stack([draws.permutation(1, epoch, PICTURES) for epoch in range(EPOCHS)]),
        "poor": np.array(poor).reshape(EPOCHS, PICTURES),
    }


def excess(counts: np.ndarray, expected: float, freedom: float) -> float:
    """Pearson's statistic, in standard deviations from what it is by chance."""
    return float((((counts - expected) ** 2).sum() / expected - freedom) / np.sqrt(2 * freedom))


def test_a_picture_is_anywhere_in_an_epoch_equally_often(orders: dict[str, np.ndarray]) -> None:
    """Counts of (picture, twelfth of the epoch)."""

    def uneven(order: np.ndarray) -> float:
        twelfths = np.arange(PICTURES) * 12 // PICTURES
        counts = np.bincount((order * 12 + twelfths).ravel(), minlength=PICTURES * 12)
        return excess(counts, EPOCHS / 12, PICTURES * 11)

    assert uneven(orders["poor"]) > 1000
    assert abs(uneven(orders["full"])) < 4
    assert abs(uneven(orders["plan"])) < 4


def test_two_pictures_of_different_shards_meet_nearly_as_often_as_in_a_full_permutation(
    orders: dict[str, np.ndarray],
) -> None:
    """And two of one shard about as many times as often as there are windows."""

    def meetings(order: np.ndarray) -> np.ndarray:
        counts = np.zeros((PICTURES, PICTURES))
        batch = np.empty(PICTURES, dtype=np.int64)
        for epoch in order:
            batch[epoch] = np.arange(PICTURES) // BATCH
            counts += batch[:, None] == batch
        return counts

    shard = np.arange(PICTURES) // LENGTH
    different = np.triu(shard[:, None] != shard)
    same = np.triu(shard[:, None] == shard, 1)
    chance = EPOCHS * (BATCH - 1) / (PICTURES - 1)
    inside = (PICTURES - 1) / (PICTURES / WINDOWS - 1)  # about WINDOWS, for those of one window
    both_inside = (SHARDS / WINDOWS - 1) / (SHARDS - 1)
    for name, apart, together in (("full", 1, 1), ("plan", inside * both_inside, inside)):
        counts = meetings(orders[name])
        assert counts[different].mean() / chance == pytest.approx(apart, rel=0.005)
        assert counts[same].mean() / chance == pytest.approx(together, rel=0.03)
        # No pair of different shards is favoured: the spread is that of counts of rare events.
        assert counts[different].var() / counts[different].mean() == pytest.approx(1, abs=0.1)
    poor = meetings(orders["poor"])[different]
    assert poor.var() / poor.mean() > 10


def test_classes_in_a_batch_vary_as_if_drawn_from_the_whole_set() -> None:
    """The variance of a class's count is the hypergeometric one, for shards that preparation has shuffled."""
    shards, batch, epochs, classes = (128,) * SHARDS, 128, 20, 10
    pictures = sum(shards)
    by_class = np.sqrt(np.arange(pictures) / pictures * classes**2).astype(int)  # the last is the most frequent
    chances = np.bincount(by_class) / pictures
    variances = batch * chances * (1 - chances) * (pictures - batch) / (pictures - 1)

    def spread(labels: np.ndarray) -> float:
        drawn = np.stack([labels[epoch_order(shards, 2, epoch)] for epoch in range(epochs)]).reshape(-1, batch)
        counts = np.stack([np.bincount(labels, minlength=classes) for labels in drawn])
        return float((((counts - batch * chances) ** 2) / variances).mean())

    assert spread(np.random.default_rng(0).permutation(by_class)) == pytest.approx(1, abs=0.05)
    assert spread(by_class) > 3  # had it not, each shard would be of one class


def test_the_orders_of_two_epochs_are_uncorrelated(orders: dict[str, np.ndarray]) -> None:
    def correlation(order: np.ndarray) -> float:
        """Of a picture's places in neighbouring epochs, on average."""
        places = np.argsort(order, axis=1) - (PICTURES - 1) / 2
        return float((places[1:] * places[:-1]).mean() / (PICTURES**2 - 1) * 12)

    tolerance = 4 / np.sqrt(SHARDS * EPOCHS)  # a shard's pictures move together
    assert abs(correlation(orders["plan"])) < tolerance
    assert abs(correlation(orders["full"])) < tolerance
    assert correlation(orders["poor"]) > 0.5


# -- what the disk sees ---------------------------------------------------------------------------------------


def open_at_once(touched: np.ndarray) -> int:
    """Shards between their first and their last picture, at most."""
    firsts = np.unique(touched, return_index=True)[1]
    ends = len(touched) - np.unique(touched[::-1], return_index=True)[1]
    opened, closed = (np.bincount(places, minlength=len(touched) + 1) for places in (firsts, ends))
    return int((opened - closed).cumsum().max())


def fetches(touched: np.ndarray, room: int) -> int:
    """Whole shards fetched by one who keeps the `room` of them that were used last."""
    kept: OrderedDict[int, None] = OrderedDict()
    count = 0
    for shard in touched.tolist():
        count += shard not in kept
        kept[shard] = None
        kept.move_to_end(shard)
        if len(kept) > room:
            kept.popitem(last=False)
    return count


def test_each_shard_is_read_in_one_stretch_and_fetched_once() -> None:
    """ImageNet's 626 shards, at a sixteenth of their length and with rejects."""
    lengths = np.random.default_rng(0).integers(100, 129, 626)
    shard = np.repeat(np.arange(626), lengths)
    ours = shard[epoch_order(tuple(lengths.tolist()), 1, 0)]
    full = shard[draws.permutation(1, 0, len(shard))]
    assert open_at_once(ours) <= planning.WINDOW
    assert fetches(ours, planning.WINDOW) == 626
    assert open_at_once(full) == 626
    assert fetches(full, planning.WINDOW) > 0.95 * len(shard)  # of 1 - 16 / 626: nearly each picture asks for one
