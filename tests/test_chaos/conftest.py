"""Options of the chaos suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--chaos', type=int, metavar='N', help='how many chaos runs, of the seeds from 0 (default: 14; slow: 40)'
    )
