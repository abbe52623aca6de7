"""Recalibrated statistics that are not finite do not get into the whole model."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from resist_mm.rounds import BadNumbers, LocalSGD
from resist_mm.rounds.batch_norm import settle_buffers
from tests.test_hooks.averages import run_all
from tests.test_rounds.trained import train, trained_engine


def _settled(policy: str, bad: list[int]) -> tuple[dict[str, Tensor], str, dict, int]:
    engine = trained_engine(LocalSGD(), bad_numbers=policy)
    engine.begin_round()
    train(engine, 0)
    engine.exchange(whole=True)
    norm = engine.parts.model.backbone.layer2[0].norm1
    # finite inputs that overflow in one norm's statistics: a batch does that where weights are finite
    factor = 1e30 if dist.get_rank() in bad else 1.0
    handle = norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] * factor,))
    generator = torch.Generator().manual_seed(dist.get_rank())
    batches = [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(2)]
    labels, error = torch.zeros(4, dtype=torch.long), ''
    try:
        settle_buffers(engine, False, batches, lambda images: engine.parts.model(images, labels, mode='loss'))
    except BadNumbers as raised:
        error = str(raised)
    handle.remove()
    buffers = {name: buffer.clone() for name, buffer in engine.parts.model.named_buffers()}
    return buffers, error, engine.bad_rounds.left_out, engine.bad_rounds.count


def test_those_of_a_worker_are_left_out_of_the_mean():
    (all_fine, counted, dropped, stopped, all_bad) = run_all(
        2,
        [
            (_settled, ('stop', [])),
            (_settled, ('drop', [])),
            (_settled, ('drop', [1])),
            (_settled, ('stop', [1])),
            (_settled, ('drop', [0, 1])),
        ],
    )
    name = 'backbone.layer2.0.norm1.running_var'
    for worker in range(2):
        buffers, error, left_out, count = dropped[worker]
        assert error == '' and count == 1 and list(left_out) == [1]
        assert 'recalibrated statistics of backbone.layer2.0.norm1, which' in left_out[1][0]
        assert all(buffer.isfinite().all() for buffer in buffers.values())
        assert all(torch.equal(buffer, dropped[0][0][key]) for key, buffer in buffers.items())
        assert not torch.equal(buffers[name], all_fine[worker][0][name])
        # norms before that one have the mean over both workers
        before = 'backbone.layer1.0.norm1.running_var'
        assert torch.equal(buffers[before], all_fine[worker][0][before])
        # the counting itself changes nothing
        for key, buffer in all_fine[worker][0].items():
            torch.testing.assert_close(buffer, counted[worker][0][key], rtol=0, atol=0, msg=key)
        for results, who in ((stopped, ['worker 1']), (all_bad, ['worker 0', 'worker 1'])):
            error = results[worker][1]
            assert error == results[0][1] and 'after round 0' in error
            assert 'backbone.layer2.0.norm1.running_var' in error and all(w in error for w in who)


def test_steps_that_a_loss_scaler_skips_are_no_bad_numbers():
    taken, skipped = run_all(2, [(_skipped, (scale,)) for scale in (2.0**8, 2.0**120)])
    assert taken == [(2, '')] * 2
    assert skipped == [(0, '')] * 2


def _skipped(scale: float) -> tuple[int, str]:
    engine = trained_engine(LocalSGD(), momentum_restart_interval=None)
    optimizer = engine.states[1].optimizers[0]
    scaler = torch.amp.GradScaler('cpu', init_scale=scale)
    before = [p.detach().clone() for p in engine.parts.model.parameters()]
    engine.begin_round()
    steps = 0
    for _ in range(2):
        optimizer.zero_grad()
        loss = engine.parts.model(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long), mode='loss')['loss']
        scaler.scale(loss * 1e10 if scale > 2.0**100 else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        now = [p.detach().clone() for p in engine.parts.model.parameters()]
        steps += any(not torch.equal(p, q) for p, q in zip(before, now, strict=True))
        before = now
    try:
        engine.exchange()
    except BadNumbers as raised:
        return steps, str(raised)
    return steps, ''
