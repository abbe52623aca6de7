"""Costs of a round: the paper's figures, cases worked out by hand, and agreement with the plan."""

from __future__ import annotations

import pytest

from resist_mm.analysis.cost import (
    NetworkSize,
    PartSize,
    RoundCost,
    Schedule,
    ddp_cost,
    gpipe_cost,
    local_sgd_cost,
    resist_cost,
)
from resist_mm.analysis.cost.protocols import pipeline_cuts
from resist_mm.exchange import ExchangePlan
from resist_mm.exchange.codec import Quantize, TopK
from resist_mm.hooks.cuts import cut_rounds
from resist_mm.partition import Assignment, PartitionSampler

GB = 1e9
# the CIFAR-100 "ResNet101" of the paper: 41,396,900 parameters
RESNET101 = NetworkSize(PartSize(41_396_900 - 22 * 1_180_672), (PartSize(1_180_672),) * 22)
SMALL = NetworkSize(PartSize(90, 10), tuple(map(PartSize, (10, 20, 30, 40))), activations=(7, 5, 3, 2))


@pytest.mark.parametrize(
    ('num_workers', 'blocks', 'resist', 'local_sgd'),
    [(2, 11, 0.4546, 0.6624), (4, 6, 0.7202, 1.3247), (8, 4, 1.2893, 2.6494)],
)
def test_table_1(num_workers, blocks, resist, local_sgd):
    assert round(resist_cost(RESNET101, num_workers, blocks, samples=10).paper / GB, 4) == resist
    assert round(local_sgd_cost(RESNET101, num_workers).paper / GB, 4) == local_sgd


@pytest.mark.parametrize(
    ('num_workers', 'most', 'local_sgd'), [(2, 0.1760, 0.3312), (4, 0.4490, 0.9935), (8, 1.1000, 2.3182)]
)
def test_bytes_on_the_wire(num_workers, most, local_sgd):
    cost = resist_cost(RESNET101, num_workers, min_blocks=5, samples=1000)
    assert cost.wire / GB <= most
    # no scheme does with less than the all-reduce of the shared part and a send for most blocks
    assert cost.wire / GB >= 0.97 * most
    assert round(local_sgd_cost(RESNET101, num_workers).wire / GB, 4) == local_sgd


@pytest.mark.parametrize(('num_workers', 'min_blocks'), [(2, 0), (3, 3), (4, 4)])
def test_resist_is_the_plan_s_bytes_and_a_ring(num_workers, min_blocks):
    sampler = PartitionSampler(4, num_workers, min_blocks, seed=3)
    old, new = sampler.sample(0), sampler.sample(1)
    cost = resist_cost(SMALL, num_workers, min_blocks, samples=1, seed=3)
    plan = ExchangePlan.between(old, new)
    shared = 2 * (num_workers - 1) * 400
    assert cost.wire == shared + plan.total([40, 80, 120, 160])
    assert cost.messages == 1 + plan.num_sends
    held = sum(40 * (block + 1) for worker in range(num_workers) for block in old.blocks(worker))
    assert cost.paper == 2 * (num_workers * 400 + held)
    whole = ExchangePlan.between(old, Assignment.full(num_workers, 4))
    assert cost.last_wire == shared + whole.total([40, 80, 120, 160])


def test_a_mean_over_rounds():
    costs = [resist_cost(RESNET101, 4, 5, samples=samples).wire for samples in (1, 50)]
    sampler = PartitionSampler(22, 4, 5)
    sends = [ExchangePlan.between(sampler.sample(i), sampler.sample(i + 1)).num_sends for i in range(50)]
    ring = 6 * 4 * RESNET101.shared.total
    assert costs[0] == ring + 4 * 1_180_672 * sends[0]
    assert costs[1] == pytest.approx(ring + 4 * 1_180_672 * sum(sends) / 50)


def test_a_codec_sets_the_size_of_messages():
    codec = Quantize(6)
    plain, packed = resist_cost(RESNET101, 4), resist_cost(RESNET101, 4, codec=codec)
    ratio = codec.message_bytes(10**6) / (4 * 10**6)
    assert packed.wire == pytest.approx(ratio * plain.wire, rel=1e-3)
    assert packed.paper == pytest.approx(ratio * plain.paper, rel=1e-3)
    assert packed.last_wire == plain.last_wire, 'the whole model is always made in fp32'
    sgd = local_sgd_cost(RESNET101, 4, codec)
    assert sgd.wire == pytest.approx(ratio * local_sgd_cost(RESNET101, 4).wire, rel=1e-3)


def test_norms_and_biases_travel_in_fp32():
    part = PartSize(weights=800, others=50)
    assert part.message_bytes(Quantize(4)) == Quantize(4).message_bytes(800) + 200
    # every worker of two encodes 400 of the weights for the other, and sends its mean of 400
    assert part.average_bytes(2, Quantize(4)) == 4 * Quantize(4).message_bytes(400) + 2 * 200
    assert PartSize(0, 50).average_bytes(3, Quantize(4)) == 4 * 200


def test_top_k_sends_blocks_whole_only_to_those_who_lack_the_old_value():
    network = NetworkSize(PartSize(0), (PartSize(800),) * 4)
    sampler = PartitionSampler(4, 3, 3)
    plan = ExchangePlan.between(sampler.sample(0), sampler.sample(1))
    codec = TopK(0.25)
    whole = [800 * 4 if set(plan.new.holders(b)) - set(plan.old.holders(b)) else 900 for b in range(4)]
    assert set(whole) == {900, 3200}, 'the case should have both'
    expected = sum(900 for t in plan.gathers) + sum(whole[t.block] for t in plan.deliveries)
    assert resist_cost(network, 3, 3, samples=1, codec=codec).wire == expected
    largest = TopK(0.25, new_holders='largest')
    assert resist_cost(network, 3, 3, samples=1, codec=largest).wire == 900 * plan.num_sends


def test_warm_up_rounds_cost_what_local_sgd_costs():
    cost = RoundCost('resist', 2, paper=10, wire=5, last_wire=7, messages=1)
    warmup = RoundCost('local_sgd', 2, paper=100, wire=50, last_wire=50, messages=1)
    schedule = Schedule(iters=20, local_iters=2, warmup_rounds=4)
    assert cost.per_run(schedule, warmup) == (4 * 100 + 6 * 10, 4 * 50 + 5 * 5 + 7)
    assert warmup.per_run(schedule) == (1000, 500)
    only = Schedule(20, 2, warmup_rounds=20)
    assert cost.per_run(only, warmup) == (1000, 500)
    assert cost.per_epoch(schedule, warmup) is None, 'it does not say how many epochs'
    with_validations = Schedule(20, 2, warmup_rounds=4, whole_at=(4, 10))
    assert cost.per_run(with_validations, warmup) == (460, 4 * 50 + 4 * 5 + 2 * 7)


@pytest.mark.parametrize('whole_at', [(), (49,), (50, 100), (30, 60, 90, 120), (120,)])
def test_rounds_that_validations_end(whole_at):
    schedule = Schedule(iters=120, local_iters=50, whole_at=whole_at)
    needed = {*whole_at, 120}
    rounds = cut_rounds(50, needed)[1]
    assert schedule.rounds == rounds
    cost = RoundCost('resist', 2, paper=10, wire=5, last_wire=7, messages=1)
    assert cost.per_run(schedule) == (10 * rounds, 5 * rounds + 2 * len(needed))


def test_data_parallel_averages_gradients_in_every_iteration():
    cost = ddp_cost(SMALL, num_workers=4, local_iters=5)
    assert cost.paper == 5 * 2 * 4 * 200 * 4
    assert cost.wire == 5 * 2 * 3 * 200 * 4


def test_gpipe_moves_activations_and_their_gradients_at_the_cuts():
    # two parts: one cut, behind the second of four blocks, 5 activations an image
    cost = gpipe_cost(SMALL, num_workers=2, local_iters=3, batch_size=6, micro_batches=4)
    assert cost.wire == 3 * 2 * 5 * 4 * (2 * 6)
    assert cost.paper == 2 * cost.wire
    assert cost.messages == 3 * 2 * 4
    assert cost.idle_share == 1 / 5
    assert gpipe_cost(SMALL, 4, 1, 1, 2).wire == 2 * 4 * 4 * (7 + 5 + 3)
    assert gpipe_cost(SMALL, 1, 1, 1).wire == 0


def test_micro_batches_change_messages_and_idle_time_but_no_bytes():
    few, many = (gpipe_cost(SMALL, 4, 1, 16, micro_batches) for micro_batches in (1, 64))
    assert few.wire == many.wire
    assert many.messages == 64 * few.messages
    assert few.idle_share == 3 / 4
    assert many.idle_share == 3 / 67


def test_cuts_into_equal_numbers_of_blocks():
    assert pipeline_cuts(33, 4) == [8, 16, 25]
    assert pipeline_cuts(4, 4) == [1, 2, 3]
    assert pipeline_cuts(4, 1) == []


def test_one_worker_sends_nothing():
    for cost in (resist_cost(SMALL, 1), local_sgd_cost(SMALL, 1), ddp_cost(SMALL, 1, 5)):
        assert cost.wire == 0


def test_totals_of_the_paper_s_run():
    """Fig. 4: four workers, 160 epochs of 98 iterations, a round every 50."""
    schedule = Schedule.of_data(50_000, batch_size=128, num_workers=4, epochs=160, local_iters=50)
    assert (schedule.iters, schedule.rounds) == (98 * 160, 314)
    resist = resist_cost(RESNET101, 4, 6, samples=10)
    assert resist.per_run(schedule)[0] / GB == pytest.approx(225, rel=0.01)
    assert local_sgd_cost(RESNET101, 4).per_run(schedule)[0] / GB == pytest.approx(410, rel=0.02)
    assert ddp_cost(RESNET101, 4, 50).per_run(schedule)[0] / GB == pytest.approx(20_000, rel=0.05)
    # the last round makes the model whole
    assert resist.per_run(schedule)[1] == pytest.approx(313 * resist.wire + resist.last_wire)
    assert resist.per_epoch(schedule)[1] * 160 == pytest.approx(resist.per_run(schedule)[1])


@pytest.mark.parametrize(
    ('call', 'words'),
    [
        (lambda: resist_cost(NetworkSize(PartSize(10)), 2), 'needs partitioned blocks'),
        (lambda: resist_cost(SMALL, 2, samples=0), 'samples must be at least 1'),
        (lambda: resist_cost(SMALL, 2, min_blocks=5), 'min_blocks=5'),
        (lambda: gpipe_cost(SMALL, 5, 1, 1), '4 blocks cannot be cut into 5 parts'),
        (lambda: gpipe_cost(SMALL, 2, 1, 4, micro_batches=9), 'between 1 and the 8 images'),
    ],
)
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()
