"""What the link of a worker can carry."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ['LinkSpeed']

TEXT = re.compile(r'(\d+(?:\.\d+)?)([kmg]?)bit')
UNITS = {'': 1.0, 'k': 1e3, 'm': 1e6, 'g': 1e9}
PAYLOAD = 1448 / 1514  # of a TCP segment in an Ethernet frame, of 1,500 bytes without its header
LATENCY = 2e-4


@dataclass(frozen=True)
class LinkSpeed:
    """The link between a worker and all others; both directions at the same time.

    Attributes:
        rate: Bytes of messages in a second.
        latency: Seconds from the sending of a small message to its arrival.
    """

    rate: float
    latency: float = LATENCY

    @classmethod
    def of_text(cls, text: str, latency: float = LATENCY) -> LinkSpeed:
        """The link of a rate such as '100mbit', as tc writes it; of its bytes 4% are headers.

        Raises:
            ValueError: If the rate is written in another way, or is 0.

        Example:
            >>> round(LinkSpeed.of_text('100mbit').rate)
            11955086
        """
        found = TEXT.fullmatch(text)
        if found is None or float(found[1]) == 0:
            raise ValueError(f"--link {text}: a rate is written as tc does, such as '1gbit' or '100mbit'")
        return cls(float(found[1]) * UNITS[found[2]] / 8 * PAYLOAD, latency)
