"""A network of its own for each worker, in which links fail."""

from __future__ import annotations

import subprocess
from functools import cache

from resist_mm.analysis.benchmarks.shaped_links import INTERFACE, Link, check_links, shaped_links

__all__ = ['break_link', 'networks_available', 'repair_link']

RATE = '1gbit'
SLOW = '300kbit'
NOBODY = '02:00:00:00:00:99'


@cache
def networks_available() -> str:
    """Why no networks can be made; '' if they can."""
    try:
        check_links(RATE)
        with shaped_links(1, RATE):
            return ''
    except RuntimeError as error:
        return str(error)


def break_link(links: list[Link], worker: int, kind: str) -> None:
    """From now on nothing that a worker sends arrives ('cut'), though it hears the others; or it is 'slow'."""
    if kind == 'slow':
        _shape(links[worker], SLOW)
        return
    for peer, other in enumerate(links):
        if peer != worker:
            # frames go to an address that nobody has: no error, no answer
            _ip(
                links[worker],
                'neigh',
                'replace',
                other.address,
                'lladdr',
                NOBODY,
                'nud',
                'permanent',
                'dev',
                INTERFACE,
            )


def repair_link(links: list[Link], worker: int) -> None:
    """Undo :func:`break_link`."""
    _shape(links[worker], RATE)
    for peer, other in enumerate(links):
        if peer != worker:
            subprocess.run(
                ['ip', '-n', links[worker].namespace, 'neigh', 'del', other.address, 'dev', INTERFACE],
                stderr=subprocess.DEVNULL,
                check=False,
            )


def _ip(link: Link, *arguments: str) -> None:
    subprocess.run(['ip', '-n', link.namespace, *arguments], check=True)


def _shape(link: Link, rate: str) -> None:
    shape = ('root', 'tbf', 'rate', rate, 'burst', '256kb' if rate == RATE else '16kb', 'latency', '2000ms')
    subprocess.run(['tc', '-n', link.namespace, 'qdisc', 'replace', 'dev', INTERFACE, *shape], check=True)
