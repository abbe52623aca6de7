"""A network of its own for every worker, slowed down to a real network's rate.

Each worker gets a network namespace with one interface; the other ends hang on a
bridge. Both directions are shaped, so that a worker sends and receives at the rate
of its link. Linux and root; nothing outside is touched or can be reached.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

__all__ = ['Link', 'bits_of', 'check_links', 'end_politely', 'enter_namespace', 'run_command', 'sent_on_link']
__all__ += ['shaped_links']

CLONE_NEWNET = 0x40000000
INTERFACE = 'link0'
RATE = re.compile(r'(\d+(?:\.\d+)?)([kmg]?)bit')
UNITS = {'': 1.0, 'k': 1e3, 'm': 1e6, 'g': 1e9}


@dataclass(frozen=True)
class Link:
    """The network of one worker.

    Attributes:
        namespace: Name of its network namespace.
        address: Its address there.
    """

    namespace: str
    address: str


def bits_of(rate: str) -> float:
    """Bits in a second of a rate as tc writes it.

    Raises:
        ValueError: If it is written in another way, or is 0.
    """
    found = RATE.fullmatch(rate)
    if found is None or float(found[1]) == 0:
        raise ValueError(f"--link {rate}: a rate is written as tc does, such as '1gbit' or '100mbit'")
    return float(found[1]) * UNITS[found[2]]


def check_links(rate: str) -> None:
    """Say what is missing for shaped links.

    Raises:
        RuntimeError: If it is not Linux, not root, or a command is missing.
        ValueError: If the rate is not written as tc writes one.
    """
    bits_of(rate)
    if not sys.platform.startswith('linux'):
        raise RuntimeError(f'--link needs network namespaces, which are Linux only; this is {sys.platform}')
    for command in ('ip', 'tc'):
        if shutil.which(command) is None:
            raise RuntimeError(
                f"--link needs the command '{command}', which is not on PATH; the Debian package is iproute2"
            )
    if os.geteuid() != 0:
        raise RuntimeError('--link makes network namespaces, for which it has to be run as root (sudo)')


@contextmanager
def shaped_links(num_workers: int, rate: str) -> Iterator[list[Link]]:
    """Make a namespace with a shaped link for each worker; remove them all at the end.

    The end may also be an exception, Ctrl-C, a closed terminal or a polite kill.

    Args:
        num_workers (int): Number of workers.
        rate (str): As tc writes it.

    Raises:
        RuntimeError: If something is missing, or a command fails.
        ValueError: If the rate is not written as tc writes one.
    """
    check_links(rate)
    tag = f'rm{os.getpid()}'
    links = [Link(f'{tag}w{worker}', f'10.77.0.{worker + 1}') for worker in range(num_workers)]
    with end_politely() as ending:
        try:
            run_command('ip', 'link', 'add', f'{tag}br', 'type', 'bridge')
            run_command('ip', 'link', 'set', f'{tag}br', 'up')
            for worker, link in enumerate(links):
                _make(link, f'{tag}v{worker}', f'{tag}br', rate)
            yield links
        finally:
            ending()
            for worker, link in enumerate(links):
                run_command('ip', 'link', 'del', f'{tag}v{worker}', check=False)
                run_command('ip', 'netns', 'del', link.namespace, check=False)
            run_command('ip', 'link', 'del', f'{tag}br', check=False)


@contextmanager
def end_politely() -> Iterator[Callable[[], None]]:
    """Let a polite kill and a closed terminal end this process as Ctrl-C does.

    Yields:
        Callable: To be called when cleaning up begins: from then on nothing of that interrupts it.
    """
    ends = (signal.SIGTERM, signal.SIGHUP)
    # nohup lets a closed terminal be ignored
    handled = [number for number in ends if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, _interrupt) for number in handled}

    def ending() -> None:
        # a second Ctrl-C must not leave half of it
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in handled:
            signal.signal(number, signal.SIG_IGN)

    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def enter_namespace(link: Link) -> None:
    """Move this process, before it starts threads, into the namespace of a link."""
    with open(f'/var/run/netns/{link.namespace}') as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f'cannot enter the network namespace {link.namespace}: {os.strerror(number)}')
    os.environ['GLOO_SOCKET_IFNAME'] = INTERFACE
    os.environ['NCCL_SOCKET_IFNAME'] = INTERFACE


def sent_on_link() -> int:
    """Bytes that this worker sent over its link so far, with the network's own overhead."""
    for line in Path('/proc/thread-self/net/dev').read_text().splitlines():
        name, _, counts = line.partition(':')
        if name.strip() == INTERFACE:
            return int(counts.split()[8])
    raise RuntimeError(f'this process has no interface {INTERFACE}')


def _make(link: Link, outer: str, bridge: str, rate: str) -> None:
    shape = ('root', 'tbf', 'rate', rate, 'burst', '256kb', 'latency', '100ms')
    run_command('ip', 'netns', 'add', link.namespace)
    run_command('ip', 'link', 'add', outer, 'type', 'veth', 'peer', 'name', INTERFACE, 'netns', link.namespace)
    run_command('ip', 'link', 'set', outer, 'master', bridge, 'up')
    inside = ('ip', '-n', link.namespace)
    run_command(*inside, 'addr', 'add', f'{link.address}/24', 'dev', INTERFACE)
    run_command(*inside, 'link', 'set', INTERFACE, 'addrgenmode', 'none', 'up')  # no IPv6
    run_command(*inside, 'link', 'set', 'lo', 'up')
    # what goes in at the outer end comes out inside, and the other way round
    run_command('tc', 'qdisc', 'add', 'dev', outer, *shape)
    run_command('tc', '-n', link.namespace, 'qdisc', 'add', 'dev', INTERFACE, *shape)


def run_command(*command: str, check: bool = True) -> None:
    """Run a command without showing its output.

    Raises:
        RuntimeError: If it fails, with what it said; not if ``check`` is False.
    """
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if check and result.returncode != 0:
        raise RuntimeError(f'{" ".join(command)} failed: {result.stderr.strip()}')


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
