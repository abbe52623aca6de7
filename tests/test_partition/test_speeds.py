"""Speeds, and the hands and iterations that follow from them: plain arithmetic."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resist_mm.partition import Measured, PartitionSampler, Speeds, check_hands
from resist_mm.partition.hands import hands_for
from resist_mm.rounds.positions import iterations_so_far, trains

SECONDS = st.lists(st.floats(0.01, 100), min_size=1, max_size=3)


@settings(deadline=None, max_examples=60)
@given(SECONDS, st.floats(0, 10), st.integers(1, 7), st.data())
def test_no_other_hands_have_a_shorter_slowest_iteration(seconds, shared, num_blocks, data):
    least = data.draw(st.integers(0, num_blocks))
    hands = hands_for(seconds, shared, num_blocks, least)

    def slowest(hands):
        return max(s * (shared + hand) for s, hand in zip(seconds, hands, strict=True))

    assert sum(hands) == max(num_blocks, least * len(seconds))
    assert all(least <= hand <= num_blocks for hand in hands)
    all_hands = product(range(least, num_blocks + 1), repeat=len(seconds))
    assert slowest(hands) == min(slowest(other) for other in all_hands if sum(other) >= num_blocks)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 24), st.integers(1, 6), st.integers(0, 1000), st.data())
def test_given_hands_are_dealt_and_blocks_are_shared_evenly(num_blocks, num_workers, round_index, data):
    hands = data.draw(st.lists(st.integers(0, num_blocks), min_size=num_workers, max_size=num_workers))
    hands[0] = max(hands[0], num_blocks - sum(hands[1:]))
    sampler = PartitionSampler(num_blocks, num_workers, min_blocks=0, seed=3)
    dealt = sampler.sample(round_index, hands)
    assert [len(dealt.blocks(worker)) for worker in range(num_workers)] == hands
    counts = [len(dealt.holders(block)) for block in range(num_blocks)]
    assert min(counts) >= 1 and max(counts) - min(counts) <= 1
    assert dealt == sampler.sample(round_index, hands)


def test_given_hands_get_every_block_equally_often():
    sampler = PartitionSampler(8, 3, min_blocks=0)
    deals = [sampler.sample(index, [5, 2, 1]) for index in range(1600)]
    for worker, hand in enumerate([5, 2, 1]):
        for block in range(8):
            held = sum(block in deal.blocks(worker) for deal in deals)
            assert abs(held - 200 * hand) < 5 * (200 * hand * (1 - hand / 8)) ** 0.5


@pytest.mark.parametrize('shared', [0.2, 2, 10, 60])
@pytest.mark.parametrize('seconds', [[4, 4, 2, 1], [1, 1, 1, 1], [1, 3]])
def test_hands_settle_where_they_belong_within_four_agreements(shared, seconds):
    """Whatever the shared part costs, and although nobody is told."""
    workers = range(len(seconds))
    hands, speeds = [PartitionSampler(22, len(seconds)).share * 22 for _ in workers], None
    for _ in range(4):
        measured = [Measured(seconds[w] * (shared + hands[w]), hands[w]) for w in workers]
        speeds = Speeds.first(measured) if speeds is None else speeds.updated(measured)
        hands = speeds.hands(22, min_blocks=1)
    best = hands_for(seconds, shared, 22, 1)
    assert all(abs(hand - other) <= 1 for hand, other in zip(hands, best, strict=True)), (hands, best)
    iterations = speeds.iterations(hands, most=100)
    times = [iterations[w] * seconds[w] * (shared + hands[w]) for w in workers]
    assert max(times) < 1.03 * min(times) or min(iterations) < 40


def test_a_worker_that_slows_down_is_followed_and_one_measurement_counts_half():
    speeds = Speeds.first([Measured(2.0, 0), Measured(2.0, 0)])
    assert speeds.iterations([0, 0], 50) == [50, 50]
    slower = speeds.updated([Measured(2.0, 0), Measured(6.0, 0)])
    assert slower.iterations([0, 0], 50) == [50, 25]
    assert Speeds.from_state(slower.state_dict()) == slower


@settings(deadline=None)
@given(st.integers(1, 60), st.data())
def test_iterations_that_are_trained_are_spread_evenly_from_the_first_on(length, data):
    count = data.draw(st.integers(1, length))
    trained = [trains(position, count, length) for position in range(length)]
    assert trained[0] and sum(trained) == count
    for done in range(1, length + 1):
        assert sum(trained[:done]) == iterations_so_far(done, count, length)
        assert 0 <= iterations_so_far(done, count, length) - done * count / length < 1


@pytest.mark.parametrize(
    ('hands', 'least', 'message'),
    [
        ([8, 6, 5], 0, r'blocks=\[8, 6, 5\] has 3 numbers for 4 workers'),
        ([8, 6, 5, 2], 0, '21 blocks together, but 22 are partitioned'),
        ([8, 6, 5, 3], 5, 'at least min_blocks=5 and at most 22'),
        ([23, 6, 5, 3], 0, 'of the 22 partitioned blocks'),
        ([22.0, 6, 5, 3], 0, 'numbers of blocks are integers'),
    ],
)
def test_hands_that_cannot_be_dealt_are_refused(hands, least, message):
    with pytest.raises(ValueError, match=message):
        check_hands('blocks', hands, 22, 4, least)
    check_hands('blocks', [8, 6, 5, 3], 22, 4, 3)
