"""Chaos by hand.

    python -m tests.test_chaos.run 300              # the plans of the seeds 0 to 299
    python -m tests.test_chaos.run --seed 17        # one of them again
    python -m tests.test_chaos.run --goodput 120    # four workers, of which one is killed every 20 s
    python -m tests.test_chaos.run --goodput 75 --continue    # the same, and the others go on without it

Results are kept in a folder (``--out``), so that an interrupted series goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from .goodput import measure
from .links import networks_available
from .plans import Plan, draw
from .series import carry_out_all
from .trial import Result, in_words

__all__ = ['drawn', 'main', 'table']


def drawn(seeds: Iterable[int]) -> list[Plan]:
    """The plans of seeds, on this machine."""
    problem = networks_available()
    if problem:
        print(f'Links are left alone: {problem}')
    return [draw(seed, links=not problem) for seed in seeds]


def table(results: Sequence[Result]) -> str:
    """The results by what happened first, as a table in Markdown."""
    rows: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        rows[result.first].append(result)
    lines = [
        '| first fault | runs | met | hung | lost more | wrong | other | restarts | longest end (s) |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for name, of_row in [*sorted(rows.items()), ('all', list(results))]:
        found = [_what_went_wrong(result) for result in of_row]
        lines.append(
            f'| {name} | {len(of_row)} | {sum(r.fired > 0 for r in of_row)} | {found.count("hung")} | '
            f'{found.count("lost")} | {found.count("wrong")} | {found.count("other")} | '
            f'{sum(r.starts - 1 for r in of_row)} | {max(r.end_sec for r in of_row):.1f} |'
        )
    return '\n'.join(lines)


def _what_went_wrong(result: Result) -> str:
    problems = ' '.join(result.problems)
    for kind, words in (
        ('hung', ('did not end', 'ended only after', 'not complete')),
        ('lost', ('but that of', 'was saved', 'damaged')),
        ('wrong', ('wrong weights', 'same weights', 'the weights are not', 'not finite')),
    ):
        if any(word in problems for word in words):
            return kind
    return 'other' if problems else ''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', type=int, nargs='?', default=0, help='number of plans, of the seeds from 0')
    parser.add_argument('--seed', type=int, help='only this plan')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/chaos'), help='folder of the results')
    parser.add_argument('--at-a-time', type=int, default=3, help='number of plans that run at once')
    parser.add_argument('--goodput', type=float, metavar='SEC', help='train so long while workers are killed')
    parser.add_argument(
        '--every', type=float, default=20.0, metavar='SEC', help='with --goodput: time between kills'
    )
    parser.add_argument(
        '--continue', dest='goes_on', action='store_true', help='with --goodput: the others go on without it'
    )
    args = parser.parse_args()
    if args.goodput:
        found = measure(args.out / 'goodput', args.goodput, args.every, args.goes_on)
        print(json.dumps(found, indent=1))
        return
    plans = drawn(range(args.runs) if args.seed is None else [args.seed])
    if args.seed is not None:
        print(in_words(plans[0]))
        (args.out / f'{args.seed}.json').unlink(missing_ok=True)
    results = carry_out_all(plans, args.out, args.at_a_time)
    for result in results:
        if result.problems or args.seed is not None:
            print(f'seed {result.seed}: {result.plan}\n  ' + '\n  '.join(result.problems or ['nothing is wrong']))
            print('  ended with: ' + ' | '.join(result.endings))
    if results:
        print(table(results))
        run, lost = sum(r.run for r in results), sum(r.lost for r in results)
        print(
            f'{len(results)} runs, {sum(len(r.problems) > 0 for r in results)} with a problem; '
            f'{sum(r.unplanned for r in results)} starts failed with no fault met; '
            f'iterations run {run}, lost {lost}; '
            f'{sum(bool(r.as_undisturbed) for r in results)} end with the weights of a run without restarts'
        )


if __name__ == '__main__':
    main()
