"""Averages tensors in the background, while the worker trains."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist

from .message import Payload
from .process_group import group_timeout
from .traffic import Traffic
from .transport import Transport

__all__ = ['BackgroundAverage']


class BackgroundAverage:
    """An average over all workers that a thread carries out on a process group of its own.

    To be made, and started, by all workers in the same order. The main thread is free until :meth:`wait`: gloo
    moves the messages, and what a codec encodes and decodes in between is done in the background too. The values
    must not change until then.

    NCCL must not have two groups in flight at the same time. Nothing else may be communicated between
    :meth:`start` and :meth:`wait`, which holds inside a round; and encoding goes to a stream of its own, so that
    training does not queue behind it. (Untested: it needs two GPUs.)

    Args:
        device (torch.device): Where the tensors are.

    Attributes:
        waited_sec: Seconds that :meth:`wait` has taken so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._transport = Transport(device, dist.new_group(timeout=group_timeout()))
        self._thread: threading.Thread | None = None
        self._traffic = Traffic()
        self._error: BaseException | None = None
        self.waited_sec = 0.0

    def start(self, payloads: Sequence[Payload], shares: Sequence[float] | None) -> None:
        """Begin to average payloads, with values; see :meth:`Transport.average`."""
        self._error, self._traffic = None, Traffic()
        ready = None
        if self._device.type == 'cuda':
            ready = torch.cuda.Event()
            ready.record()
        # a worker that ends by an error must not wait for the others
        self._thread = threading.Thread(
            target=self._run, args=(list(payloads), shares, ready), name='average of the shared part', daemon=True
        )
        self._thread.start()

    def wait(self) -> Traffic:
        """Wait for the average; the results are staged then.

        Returns:
            Traffic: The bytes moved.

        Raises:
            Exception: Whatever has gone wrong in the background. The others are waiting for this worker then,
                and notice as soon as it ends.
        """
        if self._thread is not None:
            began = time.perf_counter()
            self._thread.join()
            self._thread = None
            self.waited_sec += time.perf_counter() - began
        if self._error is not None:  # again, if this is called again: there is no result
            raise self._error
        traffic, self._traffic = self._traffic, Traffic()
        return traffic

    def _run(
        self, payloads: Sequence[Payload], shares: Sequence[float] | None, ready: torch.cuda.Event | None
    ) -> None:
        try:
            stream = None if ready is None else torch.cuda.Stream(self._device)
            with nullcontext() if stream is None else torch.cuda.stream(stream):
                if stream is not None and ready is not None:
                    stream.wait_event(ready)
                self._traffic = self._transport.average(payloads, shares)
                if stream is not None:
                    stream.synchronize()
        except BaseException as error:
            self._error = error
