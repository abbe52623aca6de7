"""The state of a moving average, with the engine alone: roll-back, beginning late, traffic."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from mmengine.model import ExponentialMovingAverage
from torch import Tensor

from resist_mm.analysis.cost import NetworkSize, PartSize, local_sgd_cost, resist_cost, warmup_cost
from resist_mm.builders import build_codec
from resist_mm.exchange import Traffic
from resist_mm.rounds import Engine, ExchangeRefused, LocalSGD, MovingAverage, Parts, ResIST, moving_average
from resist_mm.rounds.staging import StagedExchange
from tests.toy import ToyData, ToyModel
from tests.workers import run_workers

WORKERS = 3


class Averaged:
    """A toy model in training, with a moving average of its weights."""

    def __init__(self, protocol: Any = None, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = ToyModel()
        self.average = ExponentialMovingAverage(self.model, momentum=0.3, update_buffers=True)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.state = MovingAverage(
            self.model, self.average.module, lambda: int(self.average.steps) > 0, self.average.avg_parameters
        )
        self.engine = Engine(
            self.model, self.optimizer, protocol or ResIST(min_blocks=3), states=[self.state], **options
        )
        self.state.cut(self.engine.parts)

    def train(self, seed: int) -> None:
        """One iteration, on images of this worker."""
        data = ToyData(4)
        generator = torch.Generator().manual_seed(seed + 10 * dist.get_rank())
        images = data.images + torch.randn(data.images.shape, generator=generator)
        self.optimizer.zero_grad()
        self.model(images, data.labels, mode='loss')['loss'].backward()
        self.optimizer.step()
        self.average.update_parameters(self.model)

    def shadows(self) -> dict[str, Tensor]:
        """The weights of the average; what the optimizers of averages see of them is the same."""
        shadows = {name: p.clone() for name, p in self.average.module.named_parameters()}
        for name, shadow in shadows.items():
            assert torch.equal(self.average.avg_parameters[name], shadow)
        return shadows


def _equal(values: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return values.keys() == others.keys() and all(torch.equal(values[name], others[name]) for name in values)


STEPS = {
    'checking': (Parts, 'check_trainable'),
    'staging': (StagedExchange, '_stage'),
    'completing': (StagedExchange, 'get_ready'),
}


def _interrupted(step: str) -> tuple[list[tuple[str, bool]], dict]:
    averaged, found = Averaged(), []
    engine = averaged.engine
    engine.begin_round()
    averaged.train(0)
    engine.exchange()
    for whole in (False, True):
        averaged.train(1)
        before, error = averaged.shadows(), None
        try:
            if dist.get_rank() == 1:
                with patch.object(*STEPS[step], side_effect=MemoryError('no room')):
                    engine.exchange(whole)
            else:
                engine.exchange(whole)
        except Exception as raised:
            error = type(raised).__name__
        found.append((str(error), _equal(before, averaged.shadows())))
        averaged.train(2)  # in the round that goes on
    engine.make_whole()
    return found, averaged.shadows()


@pytest.mark.parametrize('step', STEPS)
def test_an_exchange_that_is_refused_leaves_the_average_as_it_was(step):
    results = run_workers(_interrupted, WORKERS, step)
    for worker, (found, shadows) in enumerate(results):
        for error, kept in found:
            assert error == ('MemoryError' if worker == 1 else ExchangeRefused.__name__)
            assert kept, f'worker {worker} has another average than before'
        assert _equal(shadows, results[0][1])
        assert _shapes(shadows) == _shapes(dict(ToyModel().named_parameters()))


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _no_room_to_restart() -> tuple[str, bool, bool]:
    """The shadow of a regained block needs storage before the average begins; worker 1 has none left."""
    averaged = Averaged()
    averaged.average.update_parameters = lambda model: None
    engine, error = averaged.engine, ''
    engine.begin_round()
    averaged.train(0)
    before, shadows = {n: p.detach().clone() for n, p in averaged.model.named_parameters()}, averaged.shadows()
    no_room = patch.object(moving_average, 'empty_flat', side_effect=MemoryError('no room'))
    try:
        with no_room if dist.get_rank() == 1 else nullcontext():
            engine.exchange()
    except Exception as raised:
        error = type(raised).__name__
    now = {n: p.detach() for n, p in averaged.model.named_parameters()}
    kept = engine.round == 0 and _equal(before, now) and _equal(shadows, averaged.shadows())
    engine.exchange()  # a second attempt succeeds
    now = {n: p.detach() for n, p in averaged.model.named_parameters()}
    return error, kept, _equal(now, averaged.shadows())


def test_a_copy_that_finds_no_room_is_refused_by_all():
    results = run_workers(_no_room_to_restart, WORKERS)
    assert [error for error, *_ in results] == ['ExchangeRefused', 'MemoryError', 'ExchangeRefused']
    assert all(kept and copied for _, kept, copied in results)


def _before_it_begins() -> tuple[list[int], bool]:
    averaged = Averaged()
    update, averaged.average.update_parameters = averaged.average.update_parameters, lambda model: None
    engine, sent = averaged.engine, []
    engine.begin_round()
    averaged.train(0)
    sent.append(engine.exchange().sent)
    sizes = {name: shadow.numel() for name, shadow in averaged.shadows().items()}
    held = {name: p.numel() for name, p in averaged.model.named_parameters()}
    assert sizes == held, 'an update in place would fail'
    averaged.train(1)
    sent.append(engine.make_whole().sent)
    copied = _equal(averaged.shadows(), {name: p.detach() for name, p in averaged.model.named_parameters()})
    averaged.average.update_parameters = update
    engine.begin_round()
    averaged.train(2)
    engine.exchange()
    averaged.train(3)
    sent.append(engine.make_whole().sent)
    return sent, copied


def test_before_an_average_begins_it_is_a_copy_and_does_not_travel():
    for sent, copied in run_workers(_before_it_begins, WORKERS):
        assert copied
        assert sent[2] > 1.5 * sent[1]


def _network(parts: Parts) -> NetworkSize:
    sizes = [PartSize(part.flat.num_weights, part.flat.numel - part.flat.num_weights) for part in parts.all]
    return NetworkSize(sizes[0], tuple(sizes[1:]))


KINDS = ('resist', 'warm_up', 'local_sgd')
COMPRESSED = (None, dict(type='quantize', bits=6), dict(type='topk', share=0.25))


def _traffic(kind: str, codec: dict | None) -> tuple[NetworkSize, list[Traffic]]:
    protocols = dict(
        resist=lambda: ResIST(min_blocks=3, seed=4),
        warm_up=lambda: ResIST(min_blocks=3, seed=4, warmup_rounds=2),
        local_sgd=LocalSGD,
    )
    averaged = Averaged(protocols[kind](), codec=build_codec(codec))
    engine = averaged.engine
    engine.begin_round()
    averaged.train(0)
    traffic = [engine.exchange()]
    engine.make_whole()
    engine.round = 0
    engine.begin_round()
    averaged.train(1)
    traffic.append(engine.make_whole())
    return _network(engine.parts), traffic


def _traffic_of_all() -> dict:
    return {(kind, i): _traffic(kind, codec) for kind in KINDS for i, codec in enumerate(COMPRESSED)}


def test_what_an_average_adds_to_the_traffic_is_what_the_cost_model_says():
    results = run_workers(_traffic_of_all, WORKERS)
    for (kind, i), (plain, totals) in results[0].items():
        network, codec = plain.with_averages(1), build_codec(COMPRESSED[i])
        cost = dict(
            resist=lambda n, c: resist_cost(n, WORKERS, 3, samples=1, seed=4, codec=c),
            warm_up=lambda n, c: warmup_cost(n, WORKERS, c),
            local_sgd=lambda n, c: local_sgd_cost(n, WORKERS, c),
        )[kind](network, codec)
        for when, expected in enumerate((cost.wire, cost.last_wire)):
            assert totals[when].total == pytest.approx(expected), (kind, COMPRESSED[i])
            sent = sum(of_worker[kind, i][1][when].sent for of_worker in results)
            assert sent == pytest.approx(expected), (kind, COMPRESSED[i])
