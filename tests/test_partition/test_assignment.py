"""Assignment: two views of who holds what, and what it refuses."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resist_mm.partition import Assignment


@st.composite
def hands(draw, max_workers=64, max_blocks=64):
    """Blocks of every worker, in any order, with a holder for every block; and the number of blocks."""
    num_workers = draw(st.integers(1, max_workers))
    num_blocks = draw(st.integers(1, max_blocks))
    rng = Random(draw(st.integers(0, 2**32)))
    blocks_of_workers = [[] for _ in range(num_workers)]
    for block in rng.sample(range(num_blocks), num_blocks):
        for worker in rng.sample(range(num_workers), rng.randint(1, num_workers)):
            blocks_of_workers[worker].append(block)
    return blocks_of_workers, num_blocks


@settings(deadline=None)
@given(hands())
def test_blocks_and_holders_are_two_sorted_views_of_one_relation(dealt):
    blocks_of_workers, num_blocks = dealt
    assignment = Assignment(blocks_of_workers, num_blocks)

    assert assignment.num_workers == len(blocks_of_workers)
    assert assignment.num_blocks == num_blocks
    for worker, blocks in enumerate(blocks_of_workers):
        assert assignment.blocks(worker) == tuple(sorted(blocks))
    for block in range(num_blocks):
        holders = [worker for worker, blocks in enumerate(blocks_of_workers) if block in blocks]
        assert assignment.holders(block) == tuple(holders)


@settings(deadline=None)
@given(hands(max_workers=6, max_blocks=8), hands(max_workers=6, max_blocks=8))
def test_compares_by_value(dealt, others):
    blocks_of_workers, num_blocks = dealt
    assignment = Assignment(blocks_of_workers, num_blocks)
    reordered = Assignment([iter(blocks[::-1]) for blocks in blocks_of_workers], num_blocks)

    assert assignment == reordered
    assert hash(assignment) == hash(reordered)
    assert assignment == eval(repr(assignment))

    same = num_blocks == others[1] and list(map(set, blocks_of_workers)) == list(map(set, others[0]))
    assert (assignment == Assignment(*others)) is same


def test_equal_blocks_of_other_counts_or_types_differ():
    assert Assignment([[0], [0]], 1) != Assignment([[0]], 1)
    assert Assignment([[0], []], 1) != Assignment([[], [0]], 1)
    assert Assignment([[0]], 1) != [[0]]


def test_does_not_change_with_the_lists_that_it_was_made_from():
    blocks_of_workers = [[1, 0], [1]]
    assignment = Assignment(blocks_of_workers, 2)
    blocks_of_workers[1].append(0)
    assert assignment.blocks(1) == (1,)
    assert assignment.holders(0) == (0,)


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(0, 64))
def test_in_the_full_assignment_everybody_holds_everything(num_workers, num_blocks):
    assignment = Assignment.full(num_workers, num_blocks)
    assert assignment.is_full
    assert all(assignment.blocks(worker) == tuple(range(num_blocks)) for worker in range(num_workers))
    assert all(assignment.holders(block) == tuple(range(num_workers)) for block in range(num_blocks))


@settings(deadline=None)
@given(hands(max_workers=4, max_blocks=3))
def test_is_full_only_if_everybody_holds_everything(dealt):
    blocks_of_workers, num_blocks = dealt
    everything = set(range(num_blocks))
    assert Assignment(*dealt).is_full is all(set(blocks) == everything for blocks in blocks_of_workers)


@settings(deadline=None)
@given(hands(), st.integers(0, 2**32))
def test_a_block_without_holder_is_named(dealt, seed):
    blocks_of_workers, num_blocks = dealt
    rng = Random(seed)
    orphans = sorted(rng.sample(range(num_blocks), rng.randint(1, num_blocks)))
    left = [[block for block in blocks if block not in orphans] for blocks in blocks_of_workers]
    with pytest.raises(ValueError) as error:
        Assignment(left, num_blocks)
    assert f'blocks {orphans} have no holder' in str(error.value)


@pytest.mark.parametrize(
    ('blocks_of_workers', 'num_blocks', 'message'),
    [
        ([], 1, 'at least one worker'),
        ([[0, 1], [1, 1]], 2, r'worker 1 holds a block twice: \(1, 1\)'),
        ([[0, 1], [2]], 2, r'worker 1 holds \(2,\), but blocks count from 0 to 1'),
        ([[0, -1]], 1, r'worker 0 holds \(-1, 0\), but blocks count from 0 to 0'),
        ([[0]], 0, r'worker 0 holds \(0,\)'),
    ],
)
def test_refuses_what_is_no_assignment(blocks_of_workers, num_blocks, message):
    with pytest.raises(ValueError, match=message):
        Assignment(blocks_of_workers, num_blocks)
