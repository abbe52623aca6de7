"""Shaped links with a delay, as between sites that are far apart.

Not every kernel can delay packets (``tc ... netem``), so here a thread of this process does: the interface of each
worker is a TAP device, whose packets the thread hands on to their receiver after the delay, no faster than the
receiver's link can take them. Senders are shaped by the kernel, as without a delay. Segments of TCP that the
kernel has joined stay together, so the thread has little to do. Linux and root.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from .shaped_links import INTERFACE, Link, bits_of, check_links, end_politely, run_command, shaped_links

__all__ = ['Delayed', 'delayed_links', 'parse_link']

# of linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
OFFLOADS = 0x1 | 0x2  # checksums, and TCP segments that are joined
# before every packet: flags, kind, length of headers, segment size, checksum's place
HEAD = struct.Struct('<BBHHHH')
HEADERS = 66  # bytes of Ethernet, IP and TCP before every segment
LARGEST = 2**17
QUEUE_SEC = 0.1  # what does not fit into the queue before a link is dropped, as tbf does
PRIORITY = -10


class Delayed(NamedTuple):
    """A link as the commands take it.

    Attributes:
        rate: As tc writes it.
        delay_sec: From one worker to another, one way.
    """

    rate: str
    delay_sec: float


def parse_link(text: str) -> Delayed:
    """The link of a text such as '100mbit' or '100mbit+40ms'.

    Raises:
        ValueError: If it is written in another way.
    """
    rate, plus, delay = text.partition('+')
    if plus and not (delay.endswith('ms') and delay[:-2].isdigit()):
        raise ValueError(f"--link {text}: a rate, and maybe a delay in ms, such as '100mbit' or '100mbit+40ms'")
    bits_of(rate)
    return Delayed(rate, int(delay[:-2]) / 1000 if plus else 0.0)


@contextmanager
def delayed_links(num_workers: int, link: Delayed) -> Iterator[list[Link]]:
    """Make a namespace with a shaped link for each worker; remove them all at the end.

    Args:
        num_workers (int): Number of workers, at most 254.
        link (Delayed): Of each worker.

    Raises:
        RuntimeError: If something is missing, or a command fails.
        ValueError: If the rate is not written as tc writes one.
    """
    if not link.delay_sec:
        with shaped_links(num_workers, link.rate) as links:
            yield links
        return
    check_links(link.rate)
    if not os.path.exists('/dev/net/tun'):
        raise RuntimeError('a link with a delay needs TAP devices, but there is no /dev/net/tun')
    tag = f'rm{os.getpid()}'
    links = [Link(f'{tag}w{worker}', f'10.77.0.{worker + 1}') for worker in range(num_workers)]
    taps: list[int] = []
    stop = threading.Event()
    relay = threading.Thread(target=_relay, args=(taps, link, stop), daemon=True)
    with end_politely() as ending:
        try:
            for worker, of_worker in enumerate(links):
                taps.append(_make(of_worker, worker, f'{tag}t{worker}', link.rate))
            relay.start()
            yield links
        finally:
            ending()
            stop.set()
            if relay.is_alive():
                relay.join()
            for tap in taps:
                os.close(tap)  # the interface goes with it
            for of_worker in links:
                run_command('ip', 'netns', 'del', of_worker.namespace, check=False)


def _make(link: Link, worker: int, name: str, rate: str) -> int:
    run_command('ip', 'netns', 'add', link.namespace)
    tap = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack('16sH22x', name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(tap, TUNSETOFFLOAD, OFFLOADS)
    run_command('ip', 'link', 'set', name, 'netns', link.namespace, 'name', INTERFACE)
    inside = ('ip', '-n', link.namespace)
    run_command(*inside, 'link', 'set', INTERFACE, 'address', _address(worker).hex(':'), 'addrgenmode', 'none')
    run_command(*inside, 'addr', 'add', f'{link.address}/24', 'dev', INTERFACE)
    run_command(*inside, 'link', 'set', INTERFACE, 'up')
    run_command(*inside, 'link', 'set', 'lo', 'up')
    shape = ('root', 'tbf', 'rate', rate, 'burst', '256kb', 'latency', f'{1000 * QUEUE_SEC:.0f}ms')
    run_command('tc', '-n', link.namespace, 'qdisc', 'add', 'dev', INTERFACE, *shape)
    return tap


def _address(worker: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, worker + 1])


def wire_bytes(packet: bytes) -> int:
    """The bytes of a packet on a real wire, on which its segments are apart."""
    segment = HEAD.unpack_from(packet)[3]
    length = len(packet) - HEAD.size
    return length + HEADERS * (max(1, -(-length // segment)) - 1) if segment else length


def _relay(taps: list[int], link: Delayed, stop: threading.Event) -> None:
    """Hand packets on: each arrives after the delay, once the link of its receiver is free."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)
    rate = bits_of(link.rate) / 8
    free_at = [0.0] * len(taps)
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while not stop.is_set():
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
        for tap in select.select(taps, [], [], timeout)[0]:
            with suppress(BlockingIOError):
                packet = os.read(tap, LARGEST)
                due = time.monotonic() + link.delay_sec
                for receiver in _receivers(packet, taps, taps.index(tap)):
                    begins = max(due, free_at[receiver])
                    if begins - due > QUEUE_SEC:
                        continue
                    free_at[receiver] = arrives = begins + wire_bytes(packet) / rate
                    heapq.heappush(waiting, (arrives, count, receiver, packet))
                    count += 1
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, receiver, packet = heapq.heappop(waiting)
            with suppress(OSError):  # a worker's interface that is not up
                os.write(taps[receiver], packet)


def _receivers(packet: bytes, taps: list[int], sender: int) -> list[int]:
    """One worker, or all others for a broadcast."""
    target = packet[HEAD.size : HEAD.size + 6]
    if target[0] & 1:
        return [worker for worker in range(len(taps)) if worker != sender]
    return [worker for worker in (target[5] - 1,) if 0 <= worker < len(taps) and _address(worker) == target]
