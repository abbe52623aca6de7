"""Models that cannot be cut into parts, or have changed since they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from resist_mm.models.partition import PartitionedStage, partitioned_stages

__all__ = ['check_one_device', 'check_ownership', 'check_unchanged', 'check_whole', 'parameters_of']

Trained = tuple[nn.Parameter, bool]  # a parameter, and whether it is trained


def parameters_of(model: nn.Module) -> dict[str, Trained]:
    """All parameters by name, each with whether it is trained."""
    return {name: (p, p.requires_grad) for name, p in model.named_parameters()}


def check_unchanged(before: Mapping[str, Trained], now: Mapping[str, Trained]) -> None:
    """Refuse parameters that were frozen, thawed, replaced, added or removed.

    Raises:
        ValueError: Naming the first one.
    """
    for name in {**before, **now}:
        change = _change(before.get(name), now.get(name))
        if change:
            raise ValueError(
                f'the parameter {name} {change}: what travels between the workers is settled when training '
                'begins. Change the model, or freeze and thaw parameters (requires_grad), before that'
            )


def _change(before: Trained | None, now: Trained | None) -> str:
    """What has become of a parameter; '' if nothing has."""
    if before is None:
        return 'has been added'
    if now is None:
        return 'has been removed'
    if now[0] is not before[0]:
        return 'has been replaced by another'
    states = {True: 'trained', False: 'frozen'}
    return '' if now[1] == before[1] else f'was {states[before[1]]} and is {states[now[1]]} now'


def check_whole(model: nn.Module) -> None:
    """Refuse a sub-ResNet.

    Raises:
        ValueError: If partitioned blocks have been dropped.
    """
    for name, stage in partitioned_stages(model).items():
        dropped = sorted(set(range(stage.num_partitioned)) - stage.held)
        if dropped:
            raise ValueError(
                f'partitioned block {dropped[0]} of {name} has been dropped from this model, which must be whole: '
                'end the round first (Engine.make_whole), or build the model anew'
            )


def check_one_device(model: nn.Module) -> None:
    """Refuse a model that is spread over devices.

    Raises:
        ValueError: If trained parameters are on several.
    """
    places = {name: p.device for name, p in model.named_parameters() if p.requires_grad}
    first = next(iter(places), '')
    for name, device in places.items():
        if device != places[first]:
            raise ValueError(
                f'the parameter {first} is on {places[first]}, but {name} on {device}: the model of a worker must '
                'be on one device'
            )


def check_ownership(model: nn.Module, places: Sequence[tuple[PartitionedStage, int]]) -> None:
    """Refuse parameters that a block shares with something else.

    Args:
        model (nn.Module): The model.
        places (Sequence): Of every partitioned block, its stage and its number there.

    Raises:
        ValueError: Naming the first one.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(p, []).append(name)
    owners: dict[nn.Parameter, int] = {}
    prefixes = {id(module): f'{name}.' for name, module in model.named_modules()}
    for i, (stage, number) in enumerate(places):
        prefix = prefixes[id(stage.partitioned_blocks[number])]
        for p in stage.block_parameters(number):
            outside = [name for name in names[p] if not name.startswith(prefix)]
            if outside or owners.setdefault(p, i) != i:
                raise ValueError(
                    f'the parameter {names[p][0]} of partitioned block {i} is shared with '
                    f'{outside[0] if outside else f"block {owners[p]}"}: a block is handed from worker to '
                    'worker and cannot share parameters. Use parameters of its own, or another stage'
                )
