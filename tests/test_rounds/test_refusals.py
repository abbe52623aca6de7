"""Models, codecs and arguments that the engine refuses, by name, before anything is under way."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from resist_mm.exchange import Codec, Form, Transport
from resist_mm.exchange.process_group import backend_for
from resist_mm.models.partition import partitioned_stages
from resist_mm.rounds import Engine, LocalSGD, ResIST
from resist_mm.rounds.batch_norm import settle_buffers
from tests.test_hooks.averages import run_all
from tests.test_rounds.trained import trained_engine
from tests.toy import ToyModel


def _engine(model: nn.Module | None = None, protocol: Any = None, **options: Any) -> Engine:
    model = model or ToyModel()
    return Engine(model, torch.optim.SGD(model.parameters(), lr=0.1), protocol or ResIST(min_blocks=2), **options)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(min_blocks=-1), r'ResIST\.min_blocks must be an integer of at least 0, got -1'),
        (dict(min_blocks=1.5), r'ResIST\.min_blocks .* got 1\.5'),
        (dict(warmup_rounds=-3), r'ResIST\.warmup_rounds .* got -3'),
        (dict(activation_scale=5), r'ResIST\.activation_scale must be a number above 0 and at most 1, got 5'),
        (dict(activation_scale=float('nan')), r'ResIST\.activation_scale .* got nan'),
    ],
)
def test_arguments_of_a_protocol(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResIST(**arguments)


def _replace(model: ToyModel) -> None:
    model.head = nn.Linear(model.head.in_features, 2)


def _add(model: ToyModel) -> None:
    model.extra = nn.Linear(1, 1)


def _remove(model: ToyModel) -> None:
    del model.head.bias


def _freeze(model: ToyModel) -> None:
    model.head.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (_replace, r'head\.weight has been replaced by another'),
        (_add, r'extra\.weight has been added'),
        (_remove, r'head\.bias has been removed'),
        (_freeze, r'head\.weight was trained and is frozen now'),
    ],
)
def test_parameters_that_change_after_the_start(change, message):
    engine = _engine()
    engine.begin_round()
    change(engine.parts.model)
    with pytest.raises(ValueError, match=message):
        engine.exchange()


@pytest.mark.parametrize('protocol', [ResIST(min_blocks=2), LocalSGD()])
def test_a_model_without_some_of_its_blocks(protocol):
    model = ToyModel()
    (stage,) = partitioned_stages(model).values()
    stage.hold([0, 2])
    with pytest.raises(ValueError, match=r'partitioned block 1 of backbone\.layer3 has been dropped'):
        _engine(model, protocol)


def test_a_model_on_two_devices():
    model = ToyModel()
    model.head.to('meta')
    with pytest.raises(ValueError, match=r'backbone\..* is on cpu, but head\.weight on meta: .* one device'):
        _engine(model)


class Short(Codec):
    """Announces half the bytes that it makes."""

    def message_bytes(self, numel: int) -> int:
        return numel

    def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
        return tensor.half().view(torch.uint8)

    def decode(self, message: Tensor, out: Tensor, reference: Tensor | None = None) -> None:
        out.zero_()


class Words(Short):
    """Makes a message of other elements."""

    def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
        return tensor.half()


@pytest.mark.parametrize('codec', [Short(), Words()])
def test_a_codec_that_makes_other_messages_than_it_announces(codec):
    with pytest.raises(ValueError, match=f'codec {type(codec).__name__} encodes 1001 numbers as .* message_bytes'):
        _engine(codec=codec)
    with pytest.raises(ValueError, match=f'codec {type(codec).__name__} encodes 3 numbers'):
        Form(codec).encode(torch.ones(3))


def test_trying_a_codec_draws_no_random_number():
    class Drawing(Short):
        def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
            return (tensor + torch.rand_like(tensor)).to(torch.uint8)

    model, state = ToyModel(), torch.random.get_rng_state()
    _engine(model, codec=Drawing())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ('config', 'device', 'backend'),
    [
        ('cpu:gloo,cuda:gloo', 'cuda', 'gloo'),
        ('cpu:gloo,cuda:nccl', 'cuda', 'nccl'),
        ('cpu:gloo,cuda:nccl', 'cpu', 'gloo'),
        ('cuda:nccl', 'cuda', 'nccl'),
    ],
)
def test_the_backend_of_a_device(config, device, backend):
    with patch.object(dist, 'get_backend_config', return_value=config):
        assert backend_for(torch.device(device)) == backend
        with pytest.raises(ValueError, match="no backend for meta, where the model is, but 'c"):
            backend_for(torch.device('meta'))


class OddBytes(Codec):
    """Half precision and one byte more, so that messages that lie behind one another are not aligned."""

    def message_bytes(self, numel: int) -> int:
        return 2 * numel + 1

    def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
        return torch.cat([tensor.half().view(torch.uint8), torch.zeros(1, dtype=torch.uint8)])

    def decode(self, message: Tensor, out: Tensor, reference: Tensor | None = None) -> None:
        out.copy_(message[:-1].view(torch.float16))


def _odd() -> tuple[float, float]:
    engine = _engine(protocol=LocalSGD(), codec=OddBytes())
    engine.begin_round()
    for part in engine.parts.all:
        part.flat.flat.fill_(float(dist.get_rank()))
    engine.exchange()
    flat = engine.parts.shared[0].flat.flat
    return flat.min().item(), flat.max().item()


def _norms_of_two_dtypes(first: torch.dtype, second: torch.dtype) -> list[float]:
    model = nn.ModuleList([nn.BatchNorm1d(4, dtype=first), nn.BatchNorm1d(4, dtype=second)])
    engine = _engine(model, LocalSGD(), bn_interval=1)
    engine.begin_round()
    for norm in model:
        norm.running_mean.fill_(1.0 + dist.get_rank())
    engine.make_whole()
    assert [norm.running_mean.dtype for norm in model] == [first, second]
    return [norm.running_mean.float().mean().item() for norm in model]


def _several_backends() -> tuple[bool, bool]:
    transports = []
    for config in ('cpu:gloo,cuda:gloo', 'cpu:gloo,cuda:nccl'):
        with patch.object(dist, 'get_backend_config', return_value=config):
            transports.append(Transport(torch.device('cpu')))
    return transports[0].through_host, transports[1].ordered


def _fails_to_recalibrate() -> tuple[str, bool, bool]:
    engine = trained_engine(LocalSGD())
    model, norm = engine.parts.model, engine.parts.model.backbone.layer1[0].norm1
    labels = torch.zeros(2, dtype=torch.long)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def forward(images: Tensor) -> None:
        model(images, labels, mode='loss')
        if dist.get_rank() == 1:
            raise MemoryError('no room')

    error = ''
    try:
        settle_buffers(engine, False, [torch.rand(2, 3, 8, 8)], forward)
    except Exception as raised:
        error = f'{type(raised).__name__}: {raised}'
    kept = all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    return error, norm.momentum == 0.1, kept or dist.get_rank() == 0


def test_what_two_workers_do():
    half, full = torch.float16, torch.float32
    calls: list = [
        (_odd, ()),
        (_norms_of_two_dtypes, (half, full)),
        (_norms_of_two_dtypes, (full, half)),
        (_several_backends, ()),
        (_fails_to_recalibrate, ()),
    ]
    odd, *norms, backends, recalibrated = run_all(2, calls)
    assert odd == [(0.5, 0.5)] * 2
    assert norms == [[[1.5, 1.5]] * 2] * 2
    assert backends == [(False, False)] * 2
    errors = [error for error, *_ in recalibrated]
    assert errors[1] == 'MemoryError: no room'
    assert errors[0].startswith('ExchangeRefused: worker 1 failed while recalibrating the norms')
    assert all(momentum and kept for _, momentum, kept in recalibrated)
