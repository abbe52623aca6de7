"""Numbers that are not finite stop all workers, or are left out as if that worker had not trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from resist_mm.builders import build_codec
from resist_mm.partition import Assignment
from resist_mm.rounds import BadNumbers, Engine, ExchangeRefused, LocalSGD, ResIST
from resist_mm.rounds.bad_rounds import BadRounds
from resist_mm.rounds.health import all_finite, what_is_bad
from resist_mm.rounds.part import Part, statistics_of
from resist_mm.rounds.round_start import Remaining
from resist_mm.rounds.staging import StagedExchange
from tests.test_hooks.averages import run_all
from tests.test_rounds.trained import FRESH, Values, block_of, spoil, train, trained_engine, values_of
from tests.workers import run_workers

SUM_OVERFLOWS = torch.full((4,), torch.finfo(torch.float32).max)
FORMS = {
    'sharing': (ResIST(min_blocks=4), 4),
    'sole holders': (ResIST(min_blocks=0), 3),
    'warm-up': (ResIST(min_blocks=2, warmup_rounds=2), 3),
    'local SGD': (LocalSGD(), 3),
}


def test_a_sum_that_overflows_is_no_bad_number():
    assert not all_finite([SUM_OVERFLOWS]) and what_is_bad([('large', SUM_OVERFLOWS)]) == []


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_one_bad_number_is_found_among_many(dtype, bad):
    tensor = torch.full((100_003,), 100.0, dtype=dtype)
    assert all_finite([tensor, torch.arange(3)])
    tensor[70_001] = bad
    assert not all_finite([tensor])
    kind = 'NaN' if bad != bad else 'infinity'
    assert what_is_bad([('it', tensor), ('other', torch.ones(2))]) == [f'{kind} in it']


class Divides(ResIST):
    """An outer step with a fault: 0 / 0 in one part, which worker 0 alone aggregates if it is a block."""

    needs_reference = True

    def __init__(self, name: str) -> None:
        super().__init__(min_blocks=0)
        self.name = name

    def on_mean(self, part: Part, mean: Tensor) -> None:
        if part.name == self.name:
            mean.div_(mean - mean)


def _divided(name: str) -> tuple[str, bool, bool]:
    engine = trained_engine(Divides(name))
    engine.begin_round()
    train(engine, 0)
    before, round_index = values_of(engine), engine.round
    with pytest.raises(BadNumbers) as bad:
        engine.exchange(whole=True)
    after = values_of(engine)
    kept = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    return str(bad.value), kept, engine.round == round_index


@pytest.mark.parametrize('name', ['the shared part', 'block 1'])
def test_what_a_protocol_makes_of_a_mean_is_looked_at_too(name):
    for said, kept, same_round in run_workers(_divided, 3, name):
        assert 'a mean is not finite although the numbers of all workers are' in said and 'outer step' in said
        assert kept and same_round


def test_who_is_left():
    dealt = Assignment([[0, 1], [1, 2], [2, 3], [3, 4]], 5, weights=[1, 2, 3, 4])
    following = Assignment([[0, 1, 2], [1], [2], [3, 4]], 5)
    left = Remaining(dealt, following, [0, 1])
    # block 0 only bad worker 0 held; block 1 only 0 and 1, and both keep it
    assert [left.holders(block) for block in range(5)] == [(0,), (0,), (2,), (2, 3), (3,)]
    assert left.shares() == pytest.approx([0, 0, 3 / 7, 4 / 7])
    full = Remaining(Assignment.full(3, 2), Assignment.full(3, 2), [1])
    assert full.is_full and full.shares() == [0.5, 0, 0.5]


def test_policies():
    with pytest.raises(ValueError, match="bad_numbers must be 'stop' or 'drop', got 'ignore'"):
        BadRounds('ignore')
    with pytest.raises(ValueError, match='max_bad_rounds must be an integer of at least 1, got 0'):
        BadRounds('drop', 0)
    with pytest.raises(
        BadNumbers, match=r'round 3: worker 0: NaN in x\. Training stops: there is no other worker'
    ):
        BadRounds('drop').judge(3, ['NaN in x'])


def _expected(of_workers: list[Values], start: list[Values], old: Any, bad: set[int]) -> Values:
    """By the definition: the mean of the holders that are not bad; else what there was at the round's start."""
    expected = {}
    for name in set().union(*of_workers):
        block = block_of(name)
        holders = range(len(of_workers)) if block is None or old.num_blocks == 0 else old.holders(block)
        good = [worker for worker in holders if worker not in bad and name in of_workers[worker]]
        if good:
            expected[name] = torch.stack([of_workers[worker][name].double() for worker in good]).mean(0)
        elif name.startswith(FRESH):
            expected[name] = torch.zeros(())
        else:
            expected[name] = next(start[worker][name] for worker in holders if name in start[worker]).double()
    return expected


def _dropped(form: str, bad: dict[int, str], where: str, whole: bool, options: dict) -> dict:
    protocol = FORMS[form][0]
    engine = trained_engine(protocol, bad_numbers='drop', **options)
    engine.begin_round()
    train(engine, 0)
    engine.exchange()
    start = values_of(engine)
    train(engine, 1)
    if dist.get_rank() in bad:
        spoil(engine, where, float(bad[dist.get_rank()]))
    trained, old = values_of(engine), engine.assignment
    engine.exchange(whole)
    return dict(
        start=start,
        trained=trained,
        old=old,
        now=values_of(engine),
        left_out=engine.bad_rounds.left_out,
        goes_on=_goes_on(engine),
    )


def _goes_on(engine: Engine) -> bool:
    """Whether training continues as if nothing had happened."""
    if engine.in_sync:
        engine.begin_round()
    train(engine, 2)
    engine.make_whole()
    return engine.bad_rounds.left_out == {} and all(v.isfinite().all() for v in values_of(engine).values())


TRAVELS = dict(momentum_restart_interval=None, bn_interval=1)


CASES = [  # form, the number of each bad worker, where it is, whether the model becomes whole
    ('sharing', {1: 'nan'}, 'weights', False),
    ('sharing', {0: 'inf', 3: 'nan'}, 'everything', True),
    ('sharing', {2: 'nan'}, 'statistics', False),
    ('sole holders', {2: '-inf'}, 'everything', False),
    ('sole holders', {2: '-inf'}, 'everything', True),
    ('sole holders', {0: 'nan', 1: 'nan'}, 'weights', True),
    ('sole holders', {0: 'inf'}, 'momentum', False),
    ('warm-up', {1: 'nan'}, 'everything', False),
    ('local SGD', {0: 'nan'}, 'everything', False),
    ('local SGD', {1: 'inf', 2: 'inf'}, 'weights', True),
]


@pytest.mark.parametrize('form', FORMS)
def test_a_bad_worker_s_round_does_not_count(form):
    cases = [case for case in CASES if case[0] == form]
    of_cases = run_all(FORMS[form][1], [(_dropped, (*case, TRAVELS)) for case in cases])
    for case, results in zip(cases, of_cases, strict=True):
        _check_dropped(case, results)


def _check_dropped(case: tuple, results: list[dict]) -> None:
    _, bad, _, whole = case
    trained, start = [r['trained'] for r in results], [r['start'] for r in results]
    expected = _expected(trained, start, results[0]['old'], set(bad))
    assert any((expected[name] - start[0][name]).abs().max() > 1e-3 for name in start[0]), 'nothing was trained'
    for worker, result in enumerate(results):
        assert set(result['left_out']) == set(bad) and result['goes_on'], case
        for name, value in result['now'].items():
            should_be = expected[name].expand_as(value).double()
            torch.testing.assert_close(
                value.double(), should_be, rtol=0, atol=1e-6, msg=f'{case}, worker {worker}: {name}'
            )
            for other in results:
                assert torch.equal(value, other['now'].get(name, value)), f'{case}, worker {worker}: {name}'
    if whole:
        assert len({len(result['now']) for result in results}) == 1, case


def _statistics_stay() -> list[bool]:
    """Running statistics that do not travel this time are those of the round's start, of dropped blocks too."""
    engine = trained_engine(ResIST(min_blocks=3), bad_numbers='drop', bn_interval=9)
    engine.begin_round()
    start = {name: b.clone() for name, b in engine.parts.model.named_buffers() if 'running' in name}
    train(engine, 0)
    trained = {name: b.clone() for name, b in engine.parts.model.named_buffers() if 'running' in name}
    if dist.get_rank() == 1:
        spoil(engine, 'everything', float('nan'))
    engine.exchange()
    now = dict(engine.parts.model.named_buffers())
    expected = start if dist.get_rank() == 1 else trained
    return [torch.equal(now[name], value) for name, value in expected.items()]


def test_statistics_that_do_not_travel_go_back_as_well():
    for same in run_workers(_statistics_stay, 2):
        assert same and all(same)


def _with_codec(codec: dict) -> tuple[Values, Values, Any, Values]:
    engine = trained_engine(ResIST(min_blocks=4), bad_numbers='drop', codec=build_codec(codec))
    engine.begin_round()
    start = values_of(engine)
    train(engine, 0)
    trained, old = values_of(engine), engine.assignment
    if dist.get_rank() == 1:
        spoil(engine, 'weights', float('inf'))
    engine.exchange()
    residual = engine.parts.shared[0].residual
    assert residual is None or not residual.any()
    return start, trained, old, values_of(engine)


def test_a_round_with_a_bad_worker_travels_uncompressed():
    codecs = [
        dict(type='topk', share=0.1, error_feedback=True),
        dict(type='quantize', bits=4),
        dict(type='changes', bits=2, exact_whole=False),
    ]
    for results in run_all(3, [(_with_codec, (codec,)) for codec in codecs]):
        expected = _expected([r[1] for r in results], [r[0] for r in results], results[0][2], {1})
        for *_, now in results:
            for name, value in now.items():
                if 'running' not in name:
                    torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=1e-6, msg=name)


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))  # NaN equals NaN


def _stopped(where: str, whole: bool) -> tuple[str, bool]:
    engine = trained_engine(ResIST(min_blocks=3), **TRAVELS)
    engine.begin_round()
    train(engine, 0)
    engine.exchange()
    train(engine, 1)
    if dist.get_rank() == 1:
        spoil(engine, where, float('nan'))
    before = values_of(engine)
    try:
        engine.exchange(whole)
    except BadNumbers as error:
        after = values_of(engine)
        kept = all(_same(after[name], value) for name, value in before.items())
        return str(error), kept and engine.round == 1
    return '', False


NAMES = dict(weights='conv1.weight', momentum='momentum_buffer of backbone', statistics='running_')


def test_by_default_all_workers_stop_and_name_worker_round_block_and_parameter():
    cases = [(where, whole) for where in NAMES for whole in (False, True)]
    for (where, _), results in zip(cases, run_all(3, [(_stopped, case) for case in cases]), strict=True):
        assert len({error for error, _ in results}) == 1
        error = results[0][0]
        assert error.startswith('round 1: worker 1: NaN in ') and NAMES[where] in error
        assert '(block ' in error and 'the last checkpoint is the one to resume from' in error
        assert all(kept for _, kept in results)


def _each_number(engine: Engine) -> Iterator[tuple[Part, str, Tensor]]:
    """A view of one number of each thing that travels with each part that this worker holds."""
    optimizer = engine.states[1].optimizers[0]
    for part in engine.parts.all:
        if part.held:
            momentum = optimizer.state[part.flat.params[-1]]['momentum_buffer']
            yield part, 'weights', part.flat.flat[-1:]
            yield part, 'momentum', momentum.view(-1)[-1:]
            yield part, 'statistics', statistics_of(part.norms)[-1][-1:]


def _all_are_seen(protocol: Any, whole: bool) -> list[str]:
    engine = trained_engine(protocol, **TRAVELS)
    engine.begin_round()
    train(engine, 0)
    engine.exchange()
    train(engine, 1)
    missed = []
    for worker in range(engine.num_workers):
        mine = list(_each_number(engine)) if worker == engine.rank else []
        counts = [None] * engine.num_workers
        dist.all_gather_object(counts, len(mine))
        for index in range(counts[worker]):
            before = [view.clone() for *_, view in mine]
            if mine:
                mine[index][2].fill_(float('inf') if index % 2 else float('nan'))
            try:
                engine.exchange(whole)
                missed.append(f'worker {worker}, {index}')
            except BadNumbers as error:
                if f'worker {worker}' not in str(error):
                    missed.append(str(error))
            for (*_, view), value in zip(mine, before, strict=True):
                view.copy_(value)
    engine.exchange(whole)  # nothing is wrong any more
    return missed


@pytest.mark.parametrize('form', ['sharing', 'sole holders', 'local SGD'])
def test_a_single_bad_number_is_seen_wherever_it_is(form):
    protocol, workers = FORMS[form]
    cases = [(_all_are_seen, (protocol, whole)) for whole in (False, True)]
    assert all(missed == [] for results in run_all(workers, cases) for missed in results)


def _large(value: float) -> tuple[str, bool]:
    engine = trained_engine(LocalSGD())
    engine.begin_round()
    for part in engine.parts.all:
        part.flat.flat.fill_(value)
    try:
        engine.exchange()
    except BadNumbers as error:
        return str(error), all(bool((part.flat.flat == value).all()) for part in engine.parts.all)
    return '', all(bool(part.flat.flat.isfinite().all()) for part in engine.parts.all)


def test_large_numbers_are_accepted_unless_their_mean_overflows():
    accepted, refused = run_all(3, [(_large, (1e38,)), (_large, (2e38,))])
    assert accepted == [('', True)] * 3
    for error, kept in refused:
        assert error.startswith('round 0: a mean is not finite although') and kept


def _several_rounds(bad_of_rounds: list[list[int]], most: int) -> tuple[int, str]:
    engine = trained_engine(ResIST(min_blocks=3), bad_numbers='drop', max_bad_rounds=most)
    engine.begin_round()
    for index, bad in enumerate(bad_of_rounds):
        train(engine, index)
        if dist.get_rank() in bad:
            spoil(engine, 'weights', float('nan'))
        try:
            engine.exchange()
        except BadNumbers as error:
            return engine.bad_rounds.count, str(error)
    return engine.bad_rounds.count, ''


def test_when_dropping_ends():
    cases: list[tuple[list, int, int, str]] = [
        ([[1], [0], [], [1], [1]], 3, 4, ''),
        ([[], [1], [0], [1]], 3, 2, 'the last 3 rounds were bad'),
        ([[1], [0, 1, 2]], 3, 1, 'no worker is left'),
    ]
    of_cases = run_all(3, [(_several_rounds, case[:2]) for case in cases])
    for (_, _, count, why), results in zip(cases, of_cases, strict=True):
        for found, error in results:
            assert found == count and why in error and bool(error) == bool(why)


def _complains() -> dict:
    engine = trained_engine(ResIST(min_blocks=3), bad_numbers='drop')
    engine.begin_round()
    train(engine, 0)
    engine.exchange(complaint='a loss of 99' if dist.get_rank() == 1 else '')
    return engine.bad_rounds.left_out


def test_a_worker_may_complain_for_another_reason():
    for left_out in run_workers(_complains, 2):
        assert left_out == {1: ['a loss of 99']}


def _fails_while_leaving_out() -> tuple[str, bool, bool]:
    engine = trained_engine(ResIST(min_blocks=3), bad_numbers='drop', **TRAVELS)
    engine.begin_round()
    train(engine, 0)
    if dist.get_rank() == 1:
        spoil(engine, 'everything', float('nan'))
    before = values_of(engine)
    error = ''
    try:
        with patch.object(StagedExchange, 'get_ready', side_effect=MemoryError('no room')):
            if dist.get_rank() == 0:
                engine.exchange()
        if dist.get_rank() != 0:
            engine.exchange()
    except (ExchangeRefused, MemoryError) as raised:
        error = type(raised).__name__
    after = values_of(engine)
    kept = all(_same(after[name], value) for name, value in before.items())
    engine.exchange()  # a second attempt succeeds
    return error, kept, set(engine.bad_rounds.left_out) == {1} and engine.bad_rounds.count == 1


def test_a_failure_while_a_worker_is_left_out_is_rolled_back():
    results = run_workers(_fails_while_leaving_out, 2)
    assert [error for error, *_ in results] == ['MemoryError', 'ExchangeRefused']
    assert all(kept and then for _, kept, then in results)
