"""Transport: real gloo processes carry plans out; who has what afterwards, and the bytes that moved."""

from __future__ import annotations

from random import Random
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from resist_mm.exchange import ExchangePlan, Payload, Traffic, Transport, all_reduce_bytes
from resist_mm.exchange.wire import shard_bytes, sharded_average_bytes
from resist_mm.partition import Assignment, PartitionSampler
from tests.workers import run_workers

CPU = torch.device('cpu')
NUM_BLOCKS = 6
WORKERS = (2, 3, 4)


class Store:
    """The payloads of one worker: three tensors each, of several dtypes, of sizes that differ by block."""

    def __init__(self, blocks, seed, rank):
        self.values = {block: block_values(block, seed, rank) for block in blocks}
        self.payloads = {b: payloads(self.values.get(b), block_values(b, 0, 0)) for b in range(NUM_BLOCKS)}
        self.of_all = payloads(shared_values(seed, rank))

    def shared(self):
        return self.of_all

    def block(self, block):
        return self.payloads[block]

    def gathered_bytes(self):
        return block_bytes()

    def delivered_bytes(self):
        return block_bytes()

    def results(self, blocks):
        return {block: [p.result for p in self.payloads[block]] for block in blocks}

    def untouched(self, seed, rank):
        return all(equal(values, block_values(block, seed, rank)) for block, values in self.values.items())


def payloads(values, like=None):
    made = [Payload(t.numel(), t.dtype, t.device) for t in like or values]
    for payload, value in zip(made, values or [], strict=False):
        payload.value = value
    return made


def moved(traffic):
    return traffic.sent, traffic.received, traffic.total


def values(numel, dtype, *key):
    """Multiples of 12: sums and means over up to 4 workers are exact, also in bf16."""
    rng = Random(repr(key))
    return torch.tensor([12 * rng.randint(-5, 5) for _ in range(numel)], dtype=dtype)


def block_values(block, seed, rank):
    shapes = ((1000 + block, torch.float32), (3, torch.float64), (7 * block + 1, torch.bfloat16))
    return [values(numel, dtype, seed, rank, block, i) for i, (numel, dtype) in enumerate(shapes)]


def block_bytes():
    return [sum(t.nbytes for t in block_values(block, 0, 0)) for block in range(NUM_BLOCKS)]


def shared_values(seed, rank):
    return [values(501, torch.float32, seed, rank), values(20, torch.float64, seed, rank)]


def pairs(num_workers):
    """Old and new assignment of each scenario."""
    sampler = PartitionSampler(NUM_BLOCKS, num_workers, min_blocks=0)
    sharing = PartitionSampler(NUM_BLOCKS, num_workers, min_blocks=4)
    full = Assignment.full(num_workers, NUM_BLOCKS)
    idle = [[]] * (num_workers - 1)
    first_has_all = Assignment([range(NUM_BLOCKS), *idle], NUM_BLOCKS)
    last_has_all = Assignment([*idle, range(NUM_BLOCKS)], NUM_BLOCKS)
    rng = Random(num_workers)
    return [
        (sampler.sample(0), sampler.sample(1)),
        (sampler.sample(1), sampler.sample(1)),  # nobody has anything to send
        (sharing.sample(0), sharing.sample(1)),
        (sampler.sample(2), full),
        (full, full),
        (full, sampler.sample(3)),
        (first_has_all, last_has_all),  # with 3 workers or more, somebody has nothing to do
        (last_has_all, full),
        *((any_assignment(num_workers, rng), any_assignment(num_workers, rng)) for _ in range(6)),
    ]


def any_assignment(num_workers, rng):
    blocks_of_workers = [[] for _ in range(num_workers)]
    for block in range(NUM_BLOCKS):
        for worker in rng.sample(range(num_workers), rng.randint(1, num_workers)):
            blocks_of_workers[worker].append(block)
    return Assignment(blocks_of_workers, NUM_BLOCKS)


class Wire:
    """Counts what reaches torch's process group, without asking the transport."""

    def __init__(self):
        self.num_workers = dist.get_world_size()
        self.sent = self.received = self.reduced = self.broadcast = 0

    def __enter__(self):
        group = torch._C._distributed_c10d.ProcessGroup
        self.patches = [
            patch.object(group, method, self._counting(getattr(group, method), name))
            for method, name in (
                ('send', 'sent'),
                ('recv', 'received'),
                ('allreduce', 'reduced'),
                ('broadcast', 'broadcast'),
            )
        ]
        gather = self._counting_shards(group._allgather_base, self.num_workers - 1)
        self.patches += [
            patch.object(group, 'alltoall_base', self._counting_shards(group.alltoall_base)),
            patch.object(group, '_allgather_base', gather),
        ]
        for p in self.patches:
            p.start()
        return self

    def __exit__(self, *_):
        for p in self.patches:
            p.stop()

    def _counting_shards(self, method, copies=None):
        def counting(group, output, message, *args, **kwargs):
            self.sent += (copies or 1) * message.nbytes
            self.received += output.nbytes if copies is None else copies * message.nbytes
            return method(group, output, message, *args, **kwargs)

        return counting

    def _counting(self, method, name):
        def counting(group, tensors, *args, **kwargs):
            setattr(self, name, getattr(self, name) + sum(t.nbytes for t in tensors))
            return method(group, tensors, *args, **kwargs)

        return counting


def carry_out():
    """In every worker: all scenarios, one after the other; what there is afterwards."""
    transport = Transport(CPU)
    rank, num_workers = dist.get_rank(), dist.get_world_size()
    assert (transport.rank, transport.num_workers) == (rank, num_workers)
    results = []
    for seed, (old, new) in enumerate(pairs(num_workers)):
        store = Store(old.blocks(rank), seed, rank)
        with Wire() as wire:
            traffic = transport.run(ExchangePlan.between(old, new), store)
        assert store.untouched(seed, rank), 'a value was overwritten'
        has, shared = store.results(new.blocks(rank)), [p.result for p in store.shared()]
        results.append((has, shared, moved(traffic), (wire.sent, wire.received, wire.reduced)))

    def host_buffer(nbytes):
        return torch.empty(nbytes, dtype=torch.uint8)

    # what several workers on one GPU do, with a buffer that needs no GPU
    transport.through_host = True
    with patch.object(Transport, '_host_buffer', staticmethod(host_buffer)):
        old, new = pairs(num_workers)[2]
        store = Store(old.blocks(rank), 2, rank)
        transport.run(ExchangePlan.between(old, new), store)
        through_host = store.results(new.blocks(rank)), [p.result for p in store.shared()]
    transport.through_host = False

    averaged = payloads(shared_values('average', rank))
    with Wire() as wire:
        traffic = transport.average(averaged)
    average = [p.result for p in averaged], moved(traffic), wire.reduced
    sent_around = shared_values('broadcast', rank)
    with Wire() as wire:
        traffic = Traffic()
        for tensor in sent_around:
            traffic += transport.broadcast(tensor)
    broadcast = sent_around, moved(traffic), wire.broadcast
    return results, through_host, average, broadcast


@pytest.fixture(scope='module', params=WORKERS)
def carried_out(request):
    """What the workers have after all scenarios, by rank."""
    return run_workers(carry_out, request.param)


def mean(of_workers):
    """Elementwise means of several lists of tensors; exact for these values."""
    return [
        (sum(t.double() for t in tensors) / len(tensors)).to(tensors[0].dtype)
        for tensors in zip(*of_workers, strict=True)
    ]


def equal(tensors, others):
    return len(tensors) == len(others) and all(map(torch.equal, tensors, others))


def test_every_new_holder_has_the_mean_over_the_old_ones(carried_out):
    num_workers = len(carried_out)
    for seed, (old, new) in enumerate(pairs(num_workers)):
        for block in range(NUM_BLOCKS):
            expected = mean([block_values(block, seed, worker) for worker in old.holders(block)])
            for worker in new.holders(block):
                has, *_ = carried_out[worker][0][seed]
                assert equal(has[block], expected), (seed, block, worker)
        for worker, (results, *_) in enumerate(carried_out):
            assert tuple(sorted(results[seed][0])) == new.blocks(worker)


def test_shared_tensors_are_averaged_on_all_workers(carried_out):
    num_workers = len(carried_out)
    for seed in range(len(pairs(num_workers))):
        expected = mean([shared_values(seed, worker) for worker in range(num_workers)])
        for results, *_ in carried_out:
            assert equal(results[seed][1], expected)


def averages_of(plan, worker):
    """The bytes of each average: half precision in shards, which are summed in fp32, all else in a ring."""
    workers = plan.old.num_workers
    tensors = [*shared_values(0, 0), *(t for block in plan.averaged for t in block_values(block, 0, 0))]
    return [
        sharded_average_bytes(shard_bytes(t.numel(), workers, 2, None), worker)
        if t.dtype == torch.bfloat16
        else all_reduce_bytes(t.nbytes, workers)
        for t in tensors
    ]


def test_traffic_is_the_plan_s_and_the_all_reduce_s(carried_out):
    num_workers = len(carried_out)
    for seed, pair in enumerate(pairs(num_workers)):
        plan = ExchangePlan.between(*pair)
        for worker, (results, *_) in enumerate(carried_out):
            sent, received, total = results[seed][2]
            averages = averages_of(plan, worker)
            assert sent == pytest.approx(plan.sent(worker, block_bytes()) + sum(a.sent for a in averages))
            assert received == pytest.approx(
                plan.received(worker, block_bytes()) + sum(a.received for a in averages)
            )
            assert total == pytest.approx(plan.total(block_bytes()) + sum(a.total for a in averages))
        assert sum(results[seed][2][0] for results, *_ in carried_out) == pytest.approx(total)


def test_traffic_is_what_reached_the_process_group(carried_out):
    num_workers = len(carried_out)
    shared_bytes = sum(t.nbytes for t in shared_values(0, 0))
    assert any(results[0][3][0] for results, *_ in carried_out)
    for results, *_ in carried_out:
        for _, _, (sent, received, _), (wire_sent, wire_received, wire_reduced) in results:
            assert wire_reduced >= shared_bytes
            ring = all_reduce_bytes(wire_reduced, num_workers)
            assert (sent, received) == pytest.approx((wire_sent + ring.sent, wire_received + ring.received))


def test_there_were_workers_with_nothing_to_send_or_receive(carried_out):
    """They call nothing; had they waited for a message, this module would hang."""
    idle = sum(wire[:2] == (0, 0) for results, *_ in carried_out for *_, wire in results)
    assert idle >= len(carried_out)


def test_through_host_memory_the_outcome_is_the_same(carried_out):
    for results, (has, shared), *_ in carried_out:
        assert has.keys() == results[2][0].keys()
        assert all(equal(has[block], results[2][0][block]) for block in has)
        assert equal(shared, results[2][1])


def test_average(carried_out):
    num_workers = len(carried_out)
    expected = mean([shared_values('average', worker) for worker in range(num_workers)])
    nbytes = sum(t.nbytes for t in expected)
    ring = all_reduce_bytes(nbytes, num_workers)
    for _, _, (averaged, traffic, reduced), _ in carried_out:
        assert equal(averaged, expected)
        assert traffic == pytest.approx(tuple(ring))
        assert reduced == nbytes


def test_broadcast_gives_all_workers_what_worker_0_has(carried_out):
    expected = shared_values('broadcast', 0)
    nbytes = sum(t.nbytes for t in expected)
    total = (len(carried_out) - 1) * nbytes
    for rank, (*_, (tensors, traffic, announced)) in enumerate(carried_out):
        assert equal(tensors, expected)
        assert traffic == ((total, 0, total) if rank == 0 else (0, nbytes, total))
        assert announced == nbytes


@pytest.mark.parametrize(('num_workers', 'expected'), [(1, 0), (2, 1000), (4, 1500), (8, 1750)])
def test_bytes_of_a_ring_all_reduce(num_workers, expected):
    assert all_reduce_bytes(1000, num_workers) == (expected, expected, num_workers * expected)


def test_without_a_process_group_there_is_one_worker_and_nothing_moves():
    transport = Transport(CPU)
    assert (transport.rank, transport.num_workers, transport.through_host) == (0, 1, False)
    full = Assignment.full(1, NUM_BLOCKS)
    store, shared = Store(range(NUM_BLOCKS), 'alone', 0), shared_values('alone', 0)
    traffic = transport.run(ExchangePlan.between(full, full), store)
    traffic += transport.average(payloads(shared))
    for tensor in shared:
        traffic += transport.broadcast(tensor)
    assert moved(traffic) == (0, 0, 0)
    assert transport.vote(0) == [0] and transport.vote(2) == [2]
    assert equal([p.result for p in store.shared()], shared_values('alone', 0))
    for block, has in store.results(range(NUM_BLOCKS)).items():
        assert equal(has, block_values(block, 'alone', 0))
