"""PartitionSampler: the properties of every deal, its statistics, and pinned deals."""

import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import comb, sqrt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resist_mm.partition
from resist_mm.partition import Assignment, PartitionSampler

ROUNDS = st.integers(0, 10**6)
SEEDS = st.integers(-(2**40), 2**40)


@st.composite
def settings_of_samplers(draw):
    """Arguments of a sampler: up to 64 workers, 64 blocks, and all possible ``min_blocks``."""
    num_blocks = draw(st.integers(1, 64))
    num_workers = draw(st.integers(1, 64))
    min_blocks = draw(st.integers(0, num_blocks))
    return num_blocks, num_workers, min_blocks, draw(SEEDS)


def blocks_of(assignment):
    return [assignment.blocks(worker) for worker in range(assignment.num_workers)]


@settings(deadline=None, max_examples=200)
@given(settings_of_samplers(), ROUNDS)
def test_hands_are_deep_enough_and_differ_by_one_block_at_most(arguments, round_index):
    num_blocks, num_workers, min_blocks, _ = arguments
    sampler = PartitionSampler(*arguments)
    hands = blocks_of(sampler.sample(round_index))
    sizes = list(map(len, hands))

    assert len(hands) == num_workers
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min_blocks
    assert sorted(sizes) == sorted(sampler.blocks_per_worker)
    # no deeper than needed: blocks are shared for the minimum depth alone
    if num_blocks >= min_blocks * num_workers:
        assert sum(sizes) == num_blocks
    else:
        assert max(sizes) <= max(min_blocks, -(-num_blocks // num_workers))


@settings(deadline=None, max_examples=200)
@given(settings_of_samplers(), ROUNDS)
def test_every_block_has_holders_and_is_shared_evenly(arguments, round_index):
    num_blocks, num_workers, _, _ = arguments
    assignment = PartitionSampler(*arguments).sample(round_index)
    hands = blocks_of(assignment)

    assert (assignment.num_blocks, assignment.num_workers) == (num_blocks, num_workers)
    assert all(list(hand) == sorted(set(hand)) for hand in hands)
    held_by = Counter(block for hand in hands for block in hand)
    assert set(held_by) == set(range(num_blocks))
    assert max(held_by.values()) - min(held_by.values()) <= 1
    for block in range(num_blocks):
        assert assignment.holders(block) == tuple(w for w, hand in enumerate(hands) if block in hand)


@settings(deadline=None)
@given(settings_of_samplers(), ROUNDS)
def test_share_is_the_mean_share_of_a_worker(arguments, round_index):
    sampler = PartitionSampler(*arguments)
    hands = blocks_of(sampler.sample(round_index))
    mean = sum(Fraction(len(hand), sampler.num_blocks) for hand in hands) / len(hands)
    assert sampler.share == pytest.approx(float(mean), rel=1e-12)


def test_share_of_the_networks_of_the_paper():
    assert PartitionSampler(22, 2).share == 1 / 2
    assert PartitionSampler(22, 4).share == 1 / 4
    assert PartitionSampler(22, 8).share == 5 / 22  # not 1 / 8: the minimum depth
    assert PartitionSampler(5, 4).share == 1


@settings(deadline=None)
@given(settings_of_samplers(), st.lists(ROUNDS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_a_deal_depends_on_seed_and_round_alone(arguments, rounds, rng):
    alone = {index: PartitionSampler(*arguments).sample(index) for index in rounds}
    sampler = PartitionSampler(*arguments)
    for index in rng.sample(rounds, len(rounds)):
        assert sampler.sample(index) == alone[index]
        assert sampler.sample(index) == alone[index]


def test_rounds_and_seeds_deal_differently():
    deals = {PartitionSampler(22, 4, seed=seed).sample(index) for seed in range(-10, 30) for index in range(50)}
    assert len(deals) == 40 * 50


def test_seed_and_round_are_not_run_together():
    assert PartitionSampler(22, 4, seed=1).sample(23) != PartitionSampler(22, 4, seed=12).sample(3)


def within_five_deviations(count, trials, probability):
    return abs(count - trials * probability) <= 5 * sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize(('num_blocks', 'num_workers'), [(22, 4), (22, 8), (5, 3), (3, 8)])
def test_every_worker_gets_every_block_equally_often(num_blocks, num_workers):
    trials = 3000
    sampler = PartitionSampler(num_blocks, num_workers, min(5, num_blocks) if num_blocks > 5 else 0)
    counts = Counter(
        (worker, block)
        for index in range(trials)
        for worker, hand in enumerate(blocks_of(sampler.sample(index)))
        for block in hand
    )
    for worker in range(num_workers):
        for block in range(num_blocks):
            assert within_five_deviations(counts[worker, block], trials, sampler.share), (worker, block)


@pytest.mark.parametrize('num_workers', [4, 8])
def test_every_two_blocks_meet_on_a_worker_equally_often(num_workers):
    trials, num_blocks, worker = 3000, 22, 1
    sampler = PartitionSampler(num_blocks, num_workers)
    counts = Counter()
    for index in range(trials):
        counts.update(combinations(sampler.sample(index).blocks(worker), 2))
    sizes = sampler.blocks_per_worker
    probability = sum(comb(size, 2) for size in sizes) / len(sizes) / comb(num_blocks, 2)
    for pair in combinations(range(num_blocks), 2):
        assert within_five_deviations(counts[pair], trials, probability), pair


def test_larger_hands_go_to_all_workers_equally_often():
    trials = 1000
    sampler = PartitionSampler(22, 4)  # 6, 6, 5, 5
    deals = [blocks_of(sampler.sample(index)) for index in range(trials)]
    for worker in range(4):
        assert within_five_deviations(sum(len(hands[worker]) == 6 for hands in deals), trials, 1 / 2)


@pytest.mark.parametrize(('num_blocks', 'expected'), [(1, 1), (4, 4), (5, 5), (6, 5), (22, 5)])
def test_min_blocks_is_five_by_default_or_all_there_are(num_blocks, expected):
    sampler = PartitionSampler(num_blocks, num_workers=64)
    assert sampler.min_blocks == expected
    assert sampler.sample(0) == PartitionSampler(num_blocks, 64, expected).sample(0)


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 1000))
def test_more_min_blocks_than_blocks_is_an_error_that_names_both(num_blocks, num_workers, excess):
    with pytest.raises(ValueError) as error:
        PartitionSampler(num_blocks, num_workers, num_blocks + excess)
    assert f'min_blocks={num_blocks + excess} ' in str(error.value)
    assert f'the {num_blocks} that are partitioned' in str(error.value)
    PartitionSampler(num_blocks, num_workers, num_blocks)


@pytest.mark.parametrize(('name', 'value'), [('num_blocks', 0), ('num_workers', 0), ('min_blocks', -1)])
def test_numbers_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f'{name} must be at least .*, got {value}'):
        PartitionSampler(**{**dict(num_blocks=22, num_workers=4, min_blocks=5), name: value})
    with pytest.raises(ValueError, match='round_index must be at least 0, got -1'):
        PartitionSampler(22, 4).sample(-1)


@pytest.mark.parametrize('value', ['3', 3.0, True, [3]])
@pytest.mark.parametrize('name', ['num_blocks', 'num_workers', 'min_blocks', 'seed'])
@pytest.mark.parametrize('others', [{}, dict(min_blocks=2)])
def test_a_wrong_type_is_named(name, value, others):
    with pytest.raises(TypeError, match=f'{name} must be an integer, got'):
        PartitionSampler(**{**dict(num_blocks=22, num_workers=4), **others, name: value})


@pytest.mark.parametrize('name', ['num_blocks', 'num_workers', 'seed'])
def test_none_is_for_min_blocks_only(name):
    with pytest.raises(TypeError, match=f'{name} must be an integer, got None'):
        PartitionSampler(**{**dict(num_blocks=22, num_workers=4), name: None})


@pytest.mark.parametrize('round_index', [1.0, '1', True, None])
def test_a_round_that_is_no_integer_would_deal_differently_and_is_refused(round_index):
    with pytest.raises(TypeError, match='round_index must be an integer, got'):
        PartitionSampler(22, 4).sample(round_index)


# A resumed run must deal the blocks as the original run would have: a change here breaks that.
PINNED = {
    (22, 4, 5, 0, 0): [
        [1, 2, 7, 11, 16, 17],
        [0, 8, 9, 10, 21],
        [3, 4, 6, 12, 13, 15],
        [5, 14, 18, 19, 20],
    ],
    (22, 4, 5, 0, 1): [
        [2, 10, 13, 17, 19, 21],
        [0, 1, 5, 8, 20],
        [3, 4, 9, 11, 14],
        [6, 7, 12, 15, 16, 18],
    ],
    (22, 8, 5, 7, 3): [
        [10, 12, 15, 17, 21],
        [0, 1, 14, 16, 20],
        [8, 9, 10, 11, 12],
        [2, 4, 6, 13, 19],
        [2, 4, 7, 13, 18],
        [0, 7, 14, 16, 18],
        [3, 5, 15, 17, 21],
        [1, 8, 9, 11, 20],
    ],
}


@pytest.mark.parametrize('arguments', PINNED)
def test_pinned_deals(arguments):
    *of_sampler, round_index = arguments
    expected = Assignment(PINNED[arguments], num_blocks=of_sampler[0])
    assert PartitionSampler(*of_sampler).sample(round_index) == expected


PRINT_DEALS = """
import sys
from partition import PartitionSampler
print([repr(PartitionSampler(22, workers, seed=9).sample(i)) for workers in (2, 4, 8) for i in range(20)])
assert 'torch' not in sys.modules
"""


@pytest.mark.parametrize('hash_seed', ['1', '4242'])
def test_another_process_deals_the_same(hash_seed):
    """Without the rest of the package: who holds what is decided in pure Python."""
    folder = Path(resist_mm.partition.__file__).parents[1]
    env = {**os.environ, 'PYTHONHASHSEED': hash_seed, 'PYTHONPATH': str(folder)}
    printed = subprocess.run(
        [sys.executable, '-c', PRINT_DEALS], env=env, capture_output=True, text=True, check=True
    ).stdout
    here = [repr(PartitionSampler(22, workers, seed=9).sample(i)) for workers in (2, 4, 8) for i in range(20)]
    assert printed.strip() == repr(here)
