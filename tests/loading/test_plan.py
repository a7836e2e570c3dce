"""The plan: every picture once an epoch, in one order, in equal rows, on any number of ranks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_cli.loading import draws
from alexnet_cli.loading.plan import Part, Plan

numbers = st.integers(1, 40)
any_plan = st.builds(Plan, st.integers(1, 200), numbers, st.none() | st.integers(0, 2**40), st.booleans())
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
