"""What checkpoints keep of training in rounds, in mmengine's message hub."""

from __future__ import annotations

from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.runner import Runner

from resist_mm.rounds import Engine

__all__ = ['begin_round', 'common_seed', 'continue_from', 'next_round', 'remember', 'resumed_seed']

ROUND_KEY = 'resist_mm_round'
SEED_KEY = 'resist_mm_seed'
PROTOCOL_KEY = 'resist_mm_protocol'
BAD_ROUNDS_KEY = 'resist_mm_bad_rounds'
SPEEDS_KEY = 'resist_mm_speeds'


def next_round(runner: Runner) -> int:
    """Index of the round to begin with."""
    return _info(runner).get(ROUND_KEY, 0)


def resumed_seed(runner: Runner) -> int | None:
    """The seed of the run that is resumed; None: this is a new one."""
    return _info(runner).get(SEED_KEY)


def common_seed(runner: Runner, given: int | None, name: str) -> int:
    """The seed of the partition: that of the run to resume, else the given one, else that of worker 0.

    Args:
        runner (Runner): Of the run.
        given (int, optional): What the config says.
        name (str): Name of the hook, for the log.
    """
    resumed = resumed_seed(runner)
    if resumed is not None:
        if given not in (None, resumed):
            runner.logger.warning(
                f'{name}.seed is {given}, but the run to resume used {resumed}: using that seed, so that its '
                'rounds continue'
            )
        return resumed
    if given is not None:
        return given
    # with diff_rank_seed every worker has a different runner.seed
    seeds = [runner.seed]
    broadcast_object_list(seeds)
    return seeds[0]


def continue_from(runner: Runner, engine: Engine) -> None:
    """Let an engine continue where the run to resume was; a new one begins."""
    info = _info(runner)
    engine.round = next_round(runner)
    engine.bad_rounds.load_state_dict(info.get(BAD_ROUNDS_KEY, {}))
    if engine.protocol.speeds is not None:
        engine.protocol.speeds.load_state_dict(info.get(SPEEDS_KEY, {}))
    if PROTOCOL_KEY in info:
        engine.protocol.load_state_dict(info[PROTOCOL_KEY])


def begin_round(runner: Runner) -> None:
    """Let go of what only checkpoints need, of the whole model: tensors of blocks that are dropped now."""
    _info(runner).pop(PROTOCOL_KEY, None)


def remember(runner: Runner, engine: Engine) -> None:
    """Put where the engine is into the message hub, which checkpoints save."""
    runner.message_hub.update_info(ROUND_KEY, engine.round)
    runner.message_hub.update_info(SEED_KEY, engine.protocol.seed)
    if engine.bad_rounds.drops:
        runner.message_hub.update_info(BAD_ROUNDS_KEY, engine.bad_rounds.state_dict())
    if engine.protocol.speeds is not None:
        runner.message_hub.update_info(SPEEDS_KEY, engine.protocol.speeds.state_dict())
    state = engine.protocol.state_dict() if engine.in_sync else {}
    if state:
        runner.message_hub.update_info(PROTOCOL_KEY, state)


def _info(runner: Runner) -> dict[str, Any]:
    return runner.message_hub.runtime_info
