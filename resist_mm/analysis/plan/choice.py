"""Which setting to take. Seconds are predicted, accuracy is not: so what may cost accuracy has to be worth it."""

from __future__ import annotations

from collections.abc import Sequence

from .settings import Setting

__all__ = ['MOST_EXCHANGE', 'choose']

MOST_EXCHANGE = 0.05


def choose(
    settings: Sequence[Setting], local_iters: int, codecs: Sequence[str], most_exchange: float = MOST_EXCHANGE
) -> Setting:
    """The setting to take.

    Of each protocol, the first whose communication takes no more than ``most_exchange`` of a round: with
    ``local_iters`` before longer rounds, then without overlap before with, and then in the order of ``codecs``,
    exact first. If there is none, the
    one that communicates the least share. Of these, the one with the fewest seconds for each iteration: all
    settings train on the same number of images.

    Args:
        settings (Sequence[Setting]): To choose from.
        local_iters (int): Of the config: shorter rounds are not chosen.
        codecs (Sequence[str]): Names of codecs, from the most exact to the least; 'none' comes first in any case.
        most_exchange (float): Share of a round. Defaults to 0.05.

    Raises:
        ValueError: If there is no setting with rounds of that length or longer.
    """
    long_enough = [setting for setting in settings if setting.local_iters >= local_iters]
    if not long_enough:
        raise ValueError(f'--local-iters must have one of at least {local_iters}, as the config has')
    inexact = [name for name in codecs if name != 'none']  # data-parallel training always has none
    ranks = {name: rank for rank, name in enumerate(['none', *inexact])}
    order = sorted(
        long_enough, key=lambda s: (s.local_iters, s.overlap_iters > 0, ranks[s.codec], s.overlap_iters)
    )
    found = []
    for protocol in dict.fromkeys(setting.protocol for setting in order):
        of_protocol = [setting for setting in order if setting.protocol == protocol]
        good = [setting for setting in of_protocol if setting.exchange_share <= most_exchange]
        found.append(good[0] if good else min(of_protocol, key=lambda setting: setting.exchange_share))
    return min(found, key=lambda setting: setting.seconds / setting.local_iters)
