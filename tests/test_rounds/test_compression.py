"""Compressed exchanges between real workers."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from resist_mm.analysis.cost import NetworkSize, PartSize, local_sgd_cost, resist_cost, warmup_cost
from resist_mm.builders import build_codec
from resist_mm.exchange import ExchangePlan
from resist_mm.partition import Assignment, PartitionSampler
from resist_mm.rounds import Engine, LocalSGD, ResIST, RoundProtocol
from tests.toy import ToyModel
from tests.workers import run_workers

WORKERS = 4
SAMPLER = PartitionSampler(num_blocks=6, num_workers=WORKERS, min_blocks=3)
CODECS = [
    dict(type='bf16'),
    dict(type='quantize', bits=8),
    dict(type='quantize', bits=4, stochastic=True),
    dict(type='topk', share=0.25),
    dict(type='topk', share=0.25, new_holders='largest', error_feedback=True),
    dict(type='changes', bits=4, error_feedback=False),
    dict(type='changes', bits=2, exact_whole=False),
    dict(type='changes', bits=3, share=0.1, chunk=256, new_holders='whole', exact_whole=False),
]
FED_BACK = [i for i, cfg in enumerate(CODECS, start=1) if build_codec(cfg).feeds_errors_back]
VALIDATES = [i for i, cfg in enumerate(CODECS, start=1) if not build_codec(cfg).exact_whole]


def _engine(codec: dict | None, protocol: RoundProtocol | None = None) -> Engine:
    model = ToyModel()
    model.init_weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Engine(model, optimizer, protocol or ResIST(min_blocks=3), build_codec(codec))


def _train_somehow(engine: Engine, round_index: int) -> None:
    """Every worker changes what it holds in its own way."""
    generator = torch.Generator().manual_seed(100 * round_index + dist.get_rank())
    for part in engine.parts.all:
        if part.held:
            part.flat.flat.add_(torch.randn(part.flat.numel, generator=generator), alpha=0.1)


def _snapshot(engine: Engine) -> dict:
    (shared,), blocks = engine.parts.shared, engine.parts.blocks
    return dict(
        shared=shared.flat.flat.clone(),
        blocks={part.block: part.flat.flat.clone() for part in blocks if part.held},
        shared_weights=shared.flat.num_weights,
        block_weights=blocks[0].flat.num_weights if blocks else 0,
    )


def _exchange_with(codecs: list[dict | None]) -> list[tuple]:
    results = []
    for codec in codecs:
        engine = _engine(codec)
        engine.begin_round()
        _train_somehow(engine, 0)
        before = _snapshot(engine)
        torch.manual_seed(dist.get_rank())
        traffic = engine.exchange()
        after = _snapshot(engine)
        _train_somehow(engine, 1)
        trained = _snapshot(engine)
        last = engine.make_whole()
        results.append((before, after, traffic, trained, _snapshot(engine), last))
    return results


@pytest.fixture(scope='module')
def exchanged():
    """By codec: of every worker, what it had before, after, its traffic, and around the exact exchange."""
    of_workers = run_workers(_exchange_with, WORKERS, [None, *CODECS])
    return list(zip(*of_workers, strict=True))


def _mean(of_workers: tuple, index: int, assignment: Assignment, block: int) -> torch.Tensor:
    return torch.stack([of_workers[w][index]['blocks'][block] for w in assignment.holders(block)]).mean(0)


@pytest.mark.parametrize('index', range(len(CODECS) + 1))
def test_all_agree_bit_for_bit(exchanged, index):
    of_workers, new = exchanged[index], SAMPLER.sample(1)
    for worker in range(WORKERS):
        assert torch.equal(of_workers[worker][1]['shared'], of_workers[0][1]['shared'])
        assert set(of_workers[worker][1]['blocks']) == set(new.blocks(worker))
    for block in range(6):
        first, *others = new.holders(block)
        for other in others:
            assert torch.equal(of_workers[first][1]['blocks'][block], of_workers[other][1]['blocks'][block])


@pytest.mark.parametrize(('index', 'tolerance'), [(0, 1e-6), (1, 0.02), (2, 0.02), (3, 0.3), (6, 0.15)])
def test_they_get_about_the_mean(exchanged, index, tolerance):
    of_workers, old, new = exchanged[index], SAMPLER.sample(0), SAMPLER.sample(1)
    mean = torch.stack([before['shared'] for before, *_ in of_workers]).mean(0)
    assert (of_workers[0][1]['shared'] - mean).abs().max() <= tolerance
    for block in range(6):
        after = of_workers[new.holders(block)[0]][1]['blocks'][block]
        assert (after - _mean(of_workers, 0, old, block)).abs().max() <= tolerance


@pytest.mark.parametrize('index', range(1, len(CODECS) + 1))
def test_norms_and_biases_travel_whole(exchanged, index):
    of_workers, old, new = exchanged[index], SAMPLER.sample(0), SAMPLER.sample(1)
    start = of_workers[0][0]['shared_weights']
    mean = torch.stack([before['shared'] for before, *_ in of_workers]).mean(0)
    torch.testing.assert_close(of_workers[0][1]['shared'][start:], mean[start:], rtol=0, atol=1e-6)
    start = of_workers[0][0]['block_weights']
    for block in range(6):
        after = of_workers[new.holders(block)[0]][1]['blocks'][block]
        mean = _mean(of_workers, 0, old, block)
        torch.testing.assert_close(after[start:], mean[start:], rtol=0, atol=1e-6)


def test_top_k_hands_a_block_over_whole_to_those_who_lack_its_old_value(exchanged):
    old, new = SAMPLER.sample(0), SAMPLER.sample(1)
    lacked = [b for b in range(6) if not set(new.holders(b)) <= set(old.holders(b))]
    assert lacked, 'the sample shows nothing'
    of_workers = exchanged[1 + 3]
    for block in lacked:
        if len(old.holders(block)) == 1:  # so that nothing was compressed on the way to the mean
            after = of_workers[new.holders(block)[0]][1]['blocks'][block]
            assert torch.equal(after, _mean(of_workers, 0, old, block))


# not with error feedback, where what was left out comes on top: the next test
@pytest.mark.parametrize('index', sorted({*range(len(CODECS) + 1)} - {*FED_BACK}))
def test_making_the_model_whole_is_exact(exchanged, index):
    of_workers, assignment = exchanged[index], SAMPLER.sample(1)
    mean = torch.stack([trained['shared'] for _, _, _, trained, *_ in of_workers]).mean(0)
    for *_, whole, _ in of_workers:
        torch.testing.assert_close(whole['shared'], mean, rtol=0, atol=1e-6)
        for block in range(6):
            expected = _mean(of_workers, 3, assignment, block)
            torch.testing.assert_close(whole['blocks'][block], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('index', FED_BACK)
def test_error_feedback_loses_nothing(exchanged, index):
    # what the whole model gets is the start and all changes, also those that compression had left out
    plain, fed_back = exchanged[0], exchanged[index]
    torch.testing.assert_close(fed_back[0][4]['shared'], plain[0][4]['shared'], rtol=0, atol=1e-5)
    without = exchanged[4]  # the largest changes, without it
    assert (without[0][4]['shared'] - plain[0][4]['shared']).abs().max() > 1e-2


@pytest.mark.parametrize('index', range(len(CODECS) + 1))
def test_bytes_counted_by_the_workers_add_up_to_the_plan(exchanged, index):
    traffics = [traffic for _, _, traffic, *_ in exchanged[index]]
    assert sum(traffic.sent for traffic in traffics) == pytest.approx(traffics[0].total)
    assert sum(traffic.received for traffic in traffics) == pytest.approx(traffics[0].total)
    assert len({traffic.total for traffic in traffics}) == 1


def test_compressed_bytes(exchanged):
    first = exchanged[0][0][0]
    tail = 4 * (first['blocks'].popitem()[1].numel() - first['block_weights'])
    plan = ExchangePlan.between(SAMPLER.sample(0), SAMPLER.sample(1))
    for index, codec in enumerate(CODECS[:3], start=1):
        coded = build_codec(codec)
        message = coded.message_bytes(first['block_weights']) + tail
        shared_tail = 4 * (first['shared'].numel() - first['shared_weights'])
        assert first['shared_weights'] == 4908
        shards = [coded.message_bytes(numel) for numel in (1232, 1232, 1232, 1212)]
        # every shard goes from three workers to its own, and back to all, padded to the longest
        shared = (WORKERS - 1) * (sum(shards) + WORKERS * max(shards))
        expected = plan.num_sends * message + 2 * (WORKERS - 1) * shared_tail + shared
        assert exchanged[index][0][2].total == pytest.approx(expected)


def _part_of(params) -> PartSize:
    return PartSize(sum(p.numel() for p in params if p.dim() > 1), sum(p.numel() for p in params if p.dim() == 1))


def _size_of_toy() -> NetworkSize:
    parts = _engine(None).parts
    return NetworkSize(_part_of(parts.shared[0].flat.params), tuple(_part_of(p.flat.params) for p in parts.blocks))


@pytest.mark.parametrize('index', range(1 + len(CODECS)))
def test_the_cost_model_says_what_is_really_sent(exchanged, index):
    size = _size_of_toy()
    codec = build_codec([None, *CODECS][index])
    _, _, traffic, _, _, last = exchanged[index][0]
    assert resist_cost(size, WORKERS, 3, samples=1, codec=codec).wire == traffic.total
    whole = ExchangePlan.between(SAMPLER.sample(1), Assignment.full(WORKERS, len(size.blocks)))
    handed_over = whole.total([block.message_bytes() for block in size.blocks])
    assert last.total == size.shared.average_bytes(WORKERS) + handed_over, 'the whole model is made in fp32'


def _average_with(codecs: list[dict | None], warm_up: bool) -> list[float]:
    totals = []
    for codec in codecs:
        engine = _engine(codec, ResIST(min_blocks=3, warmup_rounds=2) if warm_up else LocalSGD())
        engine.begin_round()
        totals.append(engine.exchange().total)
    return totals


@pytest.mark.parametrize('warm_up', [False, True])
def test_the_cost_model_of_local_sgd_and_of_warm_up_says_what_is_really_sent(warm_up):
    codecs = [None, *CODECS]
    cost = warmup_cost if warm_up else local_sgd_cost
    expected = [cost(_size_of_toy(), 2, build_codec(codec)).wire for codec in codecs]
    assert run_workers(_average_with, 2, codecs, warm_up) == [expected] * 2


def _validate_with(codecs: list[dict | None], protocol: str) -> list[tuple]:
    """A round, the model made whole for a validation, another round, and the whole model at the end."""
    results = []
    for codec in codecs:
        engine = _engine(codec, LocalSGD() if protocol == 'local SGD' else ResIST(min_blocks=3))
        engine.begin_round()
        _train_somehow(engine, 0)
        traffic = engine.exchange(whole=True, exact=False)
        validated = _snapshot(engine)
        residual = engine.parts.shared[0].residual
        lost = 0.0 if residual is None else residual.abs().max().item()
        engine.begin_round()
        _train_somehow(engine, 1)
        engine.make_whole()
        results.append((traffic, validated, lost, _snapshot(engine), engine.parts.shared[0].residual))
    return results


@pytest.mark.parametrize('protocol', ['ResIST', 'local SGD'])
def test_a_compressed_whole_model_is_the_same_on_all_and_loses_nothing_of_the_shared_part(protocol):
    codecs = [None, *(CODECS[i - 1] for i in VALIDATES)]
    of_workers = run_workers(_validate_with, WORKERS, codecs, protocol)
    size = _size_of_toy()
    for index, cfg in enumerate(codecs):
        codec = build_codec(cfg)
        if protocol == 'ResIST':
            cost = resist_cost(size, WORKERS, 3, samples=1, codec=codec)
        else:
            cost = local_sgd_cost(size, WORKERS, codec)
        expected = cost.last_wire if codec is None else cost.validation_wire
        for traffic, validated, lost, whole, residual in (of[index] for of in of_workers):
            first = of_workers[0][index]
            assert traffic.total == expected
            assert torch.equal(validated['shared'], first[1]['shared'])
            assert validated['blocks'].keys() == first[1]['blocks'].keys()
            assert all(torch.equal(t, first[1]['blocks'][b]) for b, t in validated['blocks'].items())
            off = (validated['shared'] - of_workers[0][0][1]['shared']).abs().max()
            if codec is not None:
                assert off > 1e-3 and lost > 1e-3 and not residual.any()
                # from several holders a block is gathered as changes at the codec's bits, and delivered finer
                for block, value in validated['blocks'].items():
                    torch.testing.assert_close(
                        value, of_workers[0][0][1]['blocks'][block], rtol=0, atol=0.4 if 'share' in cfg else 0.15
                    )
            torch.testing.assert_close(whole['shared'], of_workers[0][0][3]['shared'], rtol=0, atol=1e-5)
