"""Which rounds end early."""

import pytest

from resist_mm.hooks.cuts import cut_rounds


@pytest.mark.parametrize(
    ('local_iters', 'needed', 'expected'),
    [
        (50, [], (0, 0)),
        (50, [100, 200], (0, 4)),
        (50, [120], (1, 3)),
        (50, [100, 230], (1, 5)),
        (50, [10, 20, 30], (3, 3)),
        (1, range(5, 50, 5), (0, 45)),
    ],
)
def test_rounds_are_counted(local_iters, needed, expected):
    assert cut_rounds(local_iters, needed) == expected


def test_they_are_those_of_a_step_by_step_count():
    needed = {7, 14, 15, 40}
    cut = rounds = done = 0
    for iteration in range(1, 41):
        done += 1
        if done == 6 or iteration in needed:
            cut += done < 6
            rounds += 1
            done = 0
    assert cut_rounds(6, needed) == (cut, rounds)
