"""The table of the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, stdev

from .composition import Row, costs_on, row_of
from .costs import Pace
from .methods import METHODS
from .records import Records

__all__ = ['lines_of', 'rows_of']

MB, GB = 1e6, 1e9


def rows_of(records: Records, links: Sequence[str], iters: int, pace: Pace, wanted: Sequence[float]) -> list[Row]:
    """All that is known, by method and link."""
    rows = [row_of(records, method, link, iters, pace, wanted) for method in METHODS for link in links]
    return [row for row in rows if row is not None]


def lines_of(
    records: Records, rows: Sequence[Row], links: Sequence[str], wanted: Sequence[float]
) -> Iterator[str]:
    """The table, and how well seconds that are put together agree with runs on the links."""
    yield f'{"":38}{"":>14}' + ''.join(f'{link:^{22 + 9 * (len(wanted) - 1)}}' for link in links)
    heads = ''.join([f'{"run":>10}', *(f'{f"{accuracy:g}%":>9}' for accuracy in wanted), '   '])
    yield f'{"method":38}{"accuracy, %":>14}' + heads * len(links) + f'{"GB":>8}'
    for method in dict.fromkeys(row.method for row in rows):
        of_links = {row.link: row for row in rows if row.method == method}
        first = next(iter(of_links.values()))
        cells = [_cells(of_links[link], wanted) for link in links]
        nbytes = [row.nbytes for row in of_links.values() if row.nbytes is not None]
        sent = f'{mean(nbytes) / GB:8.2f}' if nbytes else f'{"-":>8}'
        yield f'{METHODS[method].title:38}{_accuracy(first.accuracies):>14}' + ''.join(cells) + sent
    yield from _lines_of_costs(records, links)
    checks = records.all('check')
    if checks:
        yield ''
        yield f'{"runs on the links":38}{"link":>16}{"iterations":>12}{"predicted":>12}{"measured":>12}{"off":>8}'
    for check in checks:
        key, off = check['key'], check['predicted'] / check['measured'] - 1
        yield (
            f'{METHODS[key["method"]].title:38}{key["link"]:>16}{check["iterations"]:12}'
            f'{check["predicted"]:12.2f}{check["measured"]:12.2f}{off:+8.1%}'
        )


def _lines_of_costs(records: Records, links: Sequence[str]) -> Iterator[str]:
    of_links = {link: costs_on(records, link) for link in links}
    names = dict.fromkeys(cost for costs in of_links.values() for cost in costs)
    if names:
        yield ''
        yield f'{"seconds of":38}' + ''.join(f'{link:>16}' for link in links) + f'{"MB":>10}'
    for name in names:
        known = [costs.get(name) for costs in of_links.values()]
        cells = [f'{"-":>16}' if of is None else f'{of["seconds"]:16.3f}' for of in known]
        nbytes = mean(of['bytes'] for of in known if of is not None)
        yield f'{name:38}' + ''.join(cells) + f'{nbytes / MB:10.2f}'


def _accuracy(found: Sequence[float]) -> str:
    if not found:
        return '-'
    deviation = f' ± {stdev(found):.2f}' if len(found) > 1 else ''
    return f'{mean(found):.2f}{deviation}'


def _cells(row: Row, wanted: Sequence[float]) -> str:
    def cell(seconds: float | None, width: int) -> str:
        return f'{"-":>{width}}' if seconds is None else f'{seconds:{width},.0f}'

    return cell(row.seconds, 10) + ''.join(cell(row.reached[accuracy], 9) for accuracy in wanted) + '   '
