"""Names of chains of residual blocks in a model: ``backbone.layer3``, ``encoder.layers[2:]``."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import NamedTuple

from torch import nn

__all__ = ['ChainPath']

PATTERN = re.compile(r'(?P<name>[^\[\]]*)(\[(?P<first>(-?\d+)?):(?P<stop>(-?\d+)?)\])?')


class ChainPath(NamedTuple):
    """The path of a chain.

    Attributes:
        name: The module whose children are the blocks; empty: the model itself.
        first: Place of the first partitioned block; None: the start.
        stop: Place after the last one; None: the end.
    """

    name: str
    first: int | None
    stop: int | None

    @classmethod
    def parse(cls, path: str) -> ChainPath:
        """Read a path; without a slice it means all blocks but the first.

        Raises:
            ValueError: If it is not a path.
        """
        found = PATTERN.fullmatch(path) if isinstance(path, str) and path else None
        if found is None:
            raise ValueError(
                'stages must be paths such as "backbone.layer3" or "backbone.layer3[1:]", or "[1:]" if the model '
                f'itself is the chain, got {path!r}'
            )
        if found['first'] is None:
            return cls(found['name'], 1, None)
        return cls(found['name'], *(int(found[end]) if found[end] else None for end in ('first', 'stop')))

    def container(self, model: nn.Module) -> nn.Module:
        """Find the module.

        Raises:
            ValueError: If the model has no module of that name; the message suggests similar ones.
        """
        modules = dict(model.named_modules())
        if self.name in modules:
            return modules[self.name]
        chains = [name for name, module in modules.items() if name and len(list(module.children())) > 1]
        near = get_close_matches(self.name, chains, n=3, cutoff=0.3) or chains[:3]
        raise ValueError(
            f'stages names {self.name!r}, but the {type(model).__name__} has no such module; '
            f'the nearest are {near}'
        )

    def bounds(self, container: nn.Module) -> tuple[int, int | None]:
        """The places of the first partitioned block and after the last, counted from the start; None: the end."""
        count = len(list(container.children()))
        first, stop = (end if end is None or end >= 0 else max(end + count, 0) for end in (self.first, self.stop))
        return first or 0, stop
