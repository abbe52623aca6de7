"""The outer step: SGD on what a round has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from resist_mm.exchange import Codec
from resist_mm.exchange.message import Form, Payload

from .arguments import is_number
from .part import Part, Parts
from .states import TravellingState

__all__ = ['OuterStep']


class OuterStep(TravellingState):
    """A step of SGD between rounds, as ``torch.optim.SGD`` would take it.

    Where a round began is the parameter, and what the mean of the workers lies behind it is the gradient:
    Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", arXiv:2311.08105.
    Every exchange takes a step, also one that makes the model whole.

    Guarantees:

    - The step is that of torch, bit for bit, given the mean.
    - The momentum of the shared part is the same on all workers, and never sent. That of a block lives where the
      block does: with ``blocks=True`` it goes to the new holders, uncompressed; old holders have it already.
    - An exchange that is rolled back leaves it as it was, and so does a block that only workers with bad numbers
      held.
    - Frozen parameters belong to no part and are not changed.

    Args:
        lr (float): Learning rate; 1 without momentum would be no outer step.
        momentum (float): Share of the momentum that stays, at least 0 and below 1. Defaults to 0.
        nesterov (bool): Whether momentum is Nesterov's. Defaults to False.
        blocks (bool): Whether blocks that are dealt out take a step too; if not, they become their mean.
            Defaults to False.

    Attributes:
        momenta: By part, shape (numel,); of blocks, only those that this worker holds.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, lr: float, momentum: float = 0.0, nesterov: bool = False, blocks: bool = False) -> None:
        if not is_number(lr) or lr <= 0:
            raise ValueError(f'outer.lr must be a number above 0, got {lr!r}')
        if not is_number(momentum) or not 0 <= momentum < 1:
            raise ValueError(f'outer.momentum must be a number of at least 0 and below 1, got {momentum!r}')
        for name, value in (('nesterov', nesterov), ('blocks', blocks)):
            if not isinstance(value, bool):
                raise ValueError(f'outer.{name} must be True or False, got {value!r}')
        if nesterov and not momentum:
            raise ValueError('outer.nesterov=True needs outer.momentum above 0, got 0')
        self.lr, self.momentum, self.nesterov, self.blocks = lr, momentum, nesterov, blocks
        self.momenta: dict[Part, Tensor] = {}
        self._new: dict[Part, Tensor] = {}  # of the exchange that is under way
        self._payloads: dict[Part, list[Payload]] = {}
        self._all_hold_all: Callable[[int], bool] = lambda round_index: False
        self._workers_lost = False

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> OuterStep:
        """From a config such as ``dict(type='SGD', lr=0.7, momentum=0.9, nesterov=True)``.

        Raises:
            ValueError: If the type or an argument is not known, or a value is out of range.
        """
        arguments = dict(cfg) if isinstance(cfg, Mapping) else {}
        if arguments.pop('type', None) != 'SGD' or 'lr' not in arguments:
            raise ValueError(f"outer must be None or dict(type='SGD', lr=..., ...), got {cfg!r}")
        unknown = sorted(set(arguments) - {'lr', 'momentum', 'nesterov', 'blocks'})
        if unknown:
            raise ValueError(f'outer has lr, momentum, nesterov and blocks, but no {unknown[0]}: got {cfg!r}')
        return cls(**arguments)

    def set_up(self, parts: Parts, all_hold_all: Callable[[int], bool]) -> None:
        """Get to know the model.

        Args:
            parts (Parts): Of this worker.
            all_hold_all (Callable): Says whether all workers hold all blocks in a round.
        """
        self.parts, self._all_hold_all = parts, all_hold_all

    @torch.no_grad()
    def on_mean(self, part: Part, mean: Tensor) -> None:
        """Replace a mean by the result of the step; see :meth:`RoundProtocol.on_mean`."""
        if part.block is not None and not self.blocks:
            return
        assert part.reference is not None
        step = torch.sub(part.reference, mean)
        if self.momentum:
            old = self.momenta.get(part)
            momentum = step.clone() if old is None else old.mul(self.momentum).add_(step)
            self._new[part] = momentum
            for payload in self._payloads.get(part, ()):
                payload.staged = momentum  # its new holders get this one
            step = step.add_(momentum, alpha=self.momentum) if self.nesterov else momentum
        torch.add(part.reference, step, alpha=-self.lr, out=mean)

    def lose_workers(self) -> None:
        """The next exchange repeats one of more workers, which did not all hold all: copies have momentum too."""
        self._workers_lost = True

    def accept(self) -> None:
        """Keep the momentum of an exchange that has been accepted."""
        self._workers_lost = False
        self.momenta.update(self._new)
        self.roll_back()

    def roll_back(self) -> None:
        """Forget that of an exchange that has not."""
        self._new.clear()
        self._payloads.clear()

    def travels(self, round_index: int, whole: bool) -> bool:
        """Unless all workers compute it themselves."""
        return self._workers_lost or not self._all_hold_all(round_index)

    def sizes(self, part: Part) -> list[tuple[int, torch.dtype]]:
        """One tensor for a block."""
        return [] if part.block is None or part.flat is None else [(part.flat.numel, part.flat.dtype)]

    def tensors(self, part: Part) -> list[Tensor]:
        """Zeros before the first step, which come to the same."""
        if not self.sizes(part):
            return []
        assert part.flat is not None
        return [self.momenta[part] if part in self.momenta else torch.zeros_like(part.flat.flat)]

    def checked(self, part: Part) -> list[Tensor]:
        """What there is."""
        return [self.momenta[part]] if part in self.momenta else []

    def payloads(self, part: Part, device: torch.device, exact: bool, all_have_reference: bool) -> list[Payload]:
        """Old holders have the same, so nothing is gathered."""
        known = Form(_Known(), self.momenta.get(part))
        made = [Payload(numel, dtype, device, known, Form()) for numel, dtype in self.sizes(part)]
        self._payloads[part] = made
        return made

    def commit(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Take what has been received, or computed here."""
        (self.momenta[part],) = tensors

    def forget(self, part: Part) -> None:
        """Drop that of a block."""
        self.momenta.pop(part, None)

    def state_dict(self) -> dict[str, Any]:
        """The momentum of every part; None where there is none."""
        return dict(momenta=[self.momenta.get(part) for part in self.parts.all])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it.

        Raises:
            ValueError: If it is that of other parts.
        """
        found, parts = state.get('momenta', []), self.parts.all
        sizes = [0 if part.flat is None else part.flat.numel for part in parts]
        fits = len(found) == len(parts) and all(
            m is None or m.numel() == size for m, size in zip(found, sizes, strict=True)
        )
        if not fits:
            kept = [None if m is None else m.numel() for m in found]
            raise ValueError(
                f'the checkpoint has outer momentum of parts with {kept} numbers, but those of this run have '
                f'{sizes}: resume with the protocol and the partition that it was saved with, or begin a new run '
                'from its weights (load_from without resume)'
            )
        self.momenta = {
            part: m.to(part.flat.device, part.flat.dtype)
            for part, m in zip(parts, found, strict=True)
            if m is not None and part.flat is not None
        }


class _Known(Codec):
    """What the receiver has already: an empty message."""

    uses_reference = True

    def message_bytes(self, numel: int) -> int:
        """None."""
        return 0

    def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
        """Nothing to say."""
        return tensor.new_empty(0, dtype=torch.uint8)

    def decode(self, message: Tensor, out: Tensor, reference: Tensor | None = None) -> None:
        """The reference."""
        out.zero_() if reference is None else out.copy_(reference)
