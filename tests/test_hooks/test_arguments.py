"""Every argument of hooks and codecs: a wrong value is an error that names it, a right one is accepted."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resist_mm.builders import build_codec
from resist_mm.hooks import (
    DataCheckHook,
    ExactResumeHook,
    LocalSGDHook,
    ResISTHook,
    RoundHook,
    SafeCheckpointHook,
)
from resist_mm.registry import CODECS
from resist_mm.rounds import OuterStep

Right = Callable[[Any], bool]


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def at_least(least: int) -> Right:
    return lambda value: integer(value) and value >= least


def integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(*choices: Any) -> Right:
    return lambda value: any(type(value) is type(choice) and value == choice for choice in choices)


def optional(right: Right) -> Right:
    return lambda value: value is None or right(value)


def every(value: Any) -> bool:
    return integer(value) and (value == -1 or value >= 1)


flag = one_of(False, True)
in_unit = lambda value: number(value) and 0 < value <= 1  # noqa: E731
codec = lambda value: value is None or value == dict(type='bf16')  # noqa: E731


def _by_speed(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ['by_speed'] and at_least(1)(value['by_speed'])


def bits_from(least: int) -> Right:
    return lambda value: integer(value) and least <= value <= 8


def rate(value: Any) -> bool:
    return value == 'whole' or (isinstance(value, dict) and [*value] == ['bits'] and bits_from(4)(value['bits']))


def hands(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(at_least(0), value))


OF_ROUNDS: dict[str, Right] = dict(
    local_iters=lambda value: at_least(1)(value) or value == 'by_speed' or _by_speed(value),
    speed_interval=at_least(1),
    momentum_restart_interval=optional(at_least(1)),
    keep_shared_momentum=flag,
    bn=one_of('recalibrate', 'average'),
    bn_batches=at_least(1),
    bn_interval=at_least(1),
    codec=codec,
    seed=optional(integer),
    bad_numbers=one_of('stop', 'drop'),
    on_worker_loss=one_of('stop', 'continue'),
    copies_on_host=flag,
    overlap_iters=lambda value: at_least(0)(value) and value < 50,
    max_bad_rounds=at_least(1),
    max_loss_ratio=optional(lambda value: number(value) and value > 1),
)
OUTER = dict(type='SGD', lr=0.7, momentum=0.9, nesterov=True)
OF_BOTH = OF_ROUNDS | dict(outer=one_of(None, OUTER))
OF_RESIST: dict[str, Right] = dict(
    min_blocks=optional(at_least(0)),
    warmup_rounds=at_least(0),
    activation_scale=optional(in_unit),
    blocks=lambda value: value is None or value == 'by_speed' or hands(value),
)
ARGUMENTS: dict[type, dict[str, Right]] = {
    RoundHook: OF_ROUNDS | dict(protocol=lambda value: value == dict(type='LocalSGD')),
    LocalSGDHook: OF_BOTH,
    ResISTHook: OF_BOTH | OF_RESIST,
    SafeCheckpointHook: dict(background=flag, max_keep_ckpts=every),
    ExactResumeHook: {},
    DataCheckHook: {},
}
REQUIRED: dict[type, dict[str, Any]] = {RoundHook: dict(protocol=dict(type='LocalSGD'))}
OF_OUTER: dict[str, Right] = dict(
    type=one_of('SGD'),
    lr=lambda value: number(value) and value > 0,
    momentum=lambda value: number(value) and 0 <= value < 1,
    nesterov=flag,
    blocks=flag,
)
OF_CODECS: dict[str, dict[str, Right]] = dict(
    bf16={},
    quantize=dict(
        bits=bits_from(4),
        stochastic=flag,
        chunk=lambda value: at_least(8)(value) and value % 8 == 0,
    ),
    changes=dict(
        bits=bits_from(2),
        share=in_unit,
        error_feedback=flag,
        new_holders=optional(rate),
        chunk=optional(lambda value: at_least(8)(value) and value % 8 == 0 and value <= 65536),
        exact_whole=flag,
    ),
    topk=dict(share=in_unit, new_holders=one_of('whole', 'largest'), error_feedback=flag),
)

plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.floats(0, 2),
    st.sampled_from(
        [
            'recalibrate',
            'average',
            'stop',
            'drop',
            'whole',
            'largest',
            'bf16',
            'SGD',
            'by_speed',
            '4',
            'none',
            '',
            'no.such.Codec',
        ]
    ),
)
anything = st.one_of(
    plain,
    st.lists(plain, max_size=3),
    st.dictionaries(st.sampled_from(['type', 'bits', 'x']), plain, max_size=2),
    st.sampled_from([dict(type='bf16'), dict(type='LocalSGD'), dict(bits=5), dict(by_speed=60), OUTER]),
)


def of_hook(made: type, **arguments: Any) -> Any:
    return made(**REQUIRED.get(made, {}) | arguments)


def of_codec(kind: str, **arguments: Any) -> Any:
    return build_codec(dict(type=kind, **dict(bits=6) if kind == 'quantize' else {}) | arguments)


def of_outer(made: type, **arguments: Any) -> Any:
    return made(outer=dict(type='SGD', lr=0.7, momentum=0.9) | arguments)


CASES = [
    pytest.param(partial(make, made), name, right, id=f'{make.__name__}.{getattr(made, "__name__", made)}.{name}')
    for make, table in ((of_hook, ARGUMENTS), (of_codec, OF_CODECS), (of_outer, {LocalSGDHook: OF_OUTER}))
    for made, arguments in table.items()
    for name, right in arguments.items()
]


@pytest.mark.parametrize(('make', 'name', 'right'), CASES)
@settings(max_examples=100, deadline=None)
@given(value=anything)
def test_a_wrong_value_is_an_error_that_names_its_argument(make, name, right, value):
    if right(value):
        make(**{name: value})
        return
    with pytest.raises((ValueError, TypeError)) as caught:
        make(**{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value) or not isinstance(value, int | float | str)


@pytest.mark.parametrize('made', [RoundHook, LocalSGDHook, ResISTHook], ids=lambda made: made.__name__)
def test_an_argument_that_does_not_exist_is_named(made):
    with pytest.raises(TypeError, match='local_itres'):
        made(**REQUIRED.get(made, {}), local_itres=5)


def test_the_table_has_all_arguments():
    for made, arguments in ARGUMENTS.items():
        if made is not SafeCheckpointHook:  # most are mmengine's
            parameters = inspect.signature(made).parameters
            own = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
            assert own <= set(arguments), made
    assert {'type', *inspect.signature(OuterStep).parameters} == set(OF_OUTER)
    for kind, made in CODECS.module_dict.items():
        if made.__module__.startswith('resist_mm'):
            assert set(inspect.signature(made).parameters) == set(OF_CODECS[kind]), kind
