"""Train one network on generated data under DDP, local SGD and ResIST in turn, and measure.

Seconds per iteration, compute and exchange apart; memory of a worker; bytes. With
--link every worker has a network namespace of its own and a link of that rate, so that
one machine shows what a real network does (Linux, root; what it makes is removed at
the end). A local iteration of a sub-ResNet is also timed in turns with one of the whole
model, beside the ratio of their FLOPs.

With --timed-iters only some iterations of each round are run, and the others are taken
to last as long; the output says so.

Examples:
    python tools/analysis_tools/benchmark_training.py --workers 4 --batch-size 4 --timed-iters 10
    sudo python tools/analysis_tools/benchmark_training.py --workers 4 --link 1gbit --plot training.png
    python tools/analysis_tools/benchmark_training.py --device cuda --bf16 --channels-last --batch-size 128
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from typing import Any

from ..named_networks import ARCHITECTURES
from .shaped_links import shaped_links
from .training_rounds import compare_iterations, train
from .workers import add_worker_arguments, backend_of, describe_machine, least_blocks, run_workers

PROTOCOLS = ['ddp', 'local_sgd', 'resist']
RATIOS = [('resist', 'local_sgd'), ('local_sgd', 'ddp'), ('resist', 'ddp')]
OPTIONS = ['arch', 'workers', 'batch_size', 'local_iters', 'rounds', 'timed_iters', 'compared_iters', 'min_blocks']
NAMES = dict(ddp='DDP', local_sgd='local SGD', resist='ResIST')
MB = 1e6


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_worker_arguments(parser)
    parser.add_argument('--arch', choices=list(ARCHITECTURES), default='preact_resnet101')
    parser.add_argument('--batch-size', type=int, default=4, help='of a worker; default: 4')
    parser.add_argument('--local-iters', type=int, default=50, help='iterations of a round, l; default: 50')
    parser.add_argument('--rounds', type=int, default=2, help='default: 2')
    parser.add_argument('--timed-iters', type=int, help='iterations of a round that are run; default: all')
    parser.add_argument(
        '--compared-iters', type=int, default=5, help='iterations, whole model against sub-ResNet; default: 5'
    )
    parser.add_argument('--min-blocks', type=int, help='least number of partitioned blocks of a worker')
    parser.add_argument('--bf16', action='store_true', help='train with bf16 autocast')
    parser.add_argument('--channels-last', action='store_true', help='train in channels_last')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    parser.add_argument('--plot', metavar='FILE', help='draw bars')
    args = parser.parse_args()
    args.timed_iters = min(args.timed_iters or args.local_iters, args.local_iters)
    for name in ('workers', 'batch_size', 'local_iters', 'rounds', 'timed_iters', 'compared_iters'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')
    return args


def sum_up_protocol(args: argparse.Namespace, protocol: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the workers' measurements of a protocol together; the slowest worker counts."""

    def slowest(key: str) -> list[float]:
        return [max(of_round) for of_round in zip(*(r[key] for r in results), strict=True)]

    factor = args.local_iters / args.timed_iters
    # DDP exchanges in every iteration, the others once a round
    exchanges = factor if protocol == 'ddp' else 1
    compute_sec = factor * sum(slowest('compute_sec'))
    exchange_sec = exchanges * sum(slowest('exchange_sec'))
    if protocol == 'ddp':  # a part of the exchange hides behind compute; what does not is the rest of the whole
        together = factor * sum(slowest('together_sec'))
        compute_sec = min(compute_sec, together)
        exchange_sec = together - compute_sec
    iters = args.rounds * args.local_iters
    link_bytes = exchanges * sum(sum(r['link_bytes']) for r in results) / args.rounds
    return dict(
        seconds=compute_sec + exchange_sec,
        sec_per_iter=(compute_sec + exchange_sec) / iters,
        compute_sec_per_iter=compute_sec / iters,
        exchange_sec_per_iter=exchange_sec / iters,
        images_per_sec=iters * args.workers * args.batch_size / (compute_sec + exchange_sec),
        bytes_per_round=exchanges * sum(sum(r['sent']) for r in results) / args.rounds,
        link_bytes_per_round=link_bytes if args.link else None,
        memory={key: most([r['memory'][key] for r in results]) for key in results[0]['memory']},
    )


def most(values: list[int | None]) -> int | None:
    """The largest of what is known."""
    return max((value for value in values if value is not None), default=None)


def sum_up_iterations(results: list[dict[str, float]]) -> dict[str, float]:
    """The time of a sub-ResNet's iteration against the whole model's, beside their FLOPs."""
    mean = {key: sum(r[key] for r in results) / len(results) for key in results[0]}
    return dict(
        mean,
        sec_ratio=mean['sub_sec'] / mean['whole_sec'],
        cpu_sec_ratio=mean['sub_cpu_sec'] / mean['whole_cpu_sec'],
        flops_ratio=mean['sub_flops'] / mean['whole_flops'],
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run everything, each protocol in new processes."""
    backend = backend_of(args.device, args.workers)
    with ExitStack() as stack:
        links = stack.enter_context(shaped_links(args.workers, args.link)) if args.link else []
        protocols = {}
        for protocol in PROTOCOLS:
            results = run_workers(train, args.workers, args, protocol, backend=backend, links=links)
            protocols[protocol] = sum_up_protocol(args, protocol, results)
        iterations = run_workers(compare_iterations, args.workers, args, backend=backend, links=links)
    seconds = {protocol: found['seconds'] for protocol, found in protocols.items()}
    return dict(
        {key: getattr(args, key) for key in OPTIONS},
        bf16=args.bf16,
        channels_last=args.channels_last,
        device=args.device,
        backend=backend,
        link=args.link,
        machine=describe_machine(),
        protocols=protocols,
        ratios={f'{a}/{b}': seconds[a] / seconds[b] for a, b in RATIOS},
        iterations=sum_up_iterations(iterations),
    )


def title_of(summary: dict[str, Any]) -> str:
    """What was measured, in a line."""
    link = f', links of {summary["link"]}' if summary['link'] else ''
    forms = ', bf16' * summary['bf16'] + ', channels_last' * summary['channels_last']
    machine = f'{summary["backend"]}, {summary["device"]}{forms}{link}'
    rounds = f'{summary["local_iters"]} iterations a round{least_blocks(summary)}'
    batch = f'batch {summary["batch_size"]} a worker'
    return f'{summary["arch"]}, {summary["workers"]} workers, {machine}; {batch}, {rounds}'


def print_table(summary: dict[str, Any]) -> None:
    """Print the measurements."""
    print(f'{summary["machine"]}\n{title_of(summary)}')
    if summary['timed_iters'] < summary['local_iters']:
        print(f'{summary["timed_iters"]} iterations of each round were run; the others are taken to last as long')
    rounds = f'{summary["rounds"]} rounds'
    print(
        f'\n{"seconds":12}{"compute":>10}{"exchange":>10}{"together":>10}{rounds:>11}{"images/s":>10}'
        f'{"MB a round":>13}{"on the link":>13}'
    )
    for name, found in summary['protocols'].items():
        link = found['link_bytes_per_round']
        print(
            f'{NAMES[name]:12}{found["compute_sec_per_iter"]:10.4f}{found["exchange_sec_per_iter"]:10.4f}'
            f'{found["sec_per_iter"]:10.4f}{found["seconds"]:11.2f}{found["images_per_sec"]:10.2f}'
            f'{found["bytes_per_round"] / MB:13.2f}{"-" if link is None else f"{link / MB:.2f}":>13}'
        )
    print('(per iteration, but for the rounds; bytes: all workers together, each once)')
    print('\nMB of a worker' + ''.join(f'{key:>13}' for key in summary['protocols']['ddp']['memory']))
    for name, found in summary['protocols'].items():
        cells = ('-' if value is None else f'{value / MB:.1f}' for value in found['memory'].values())
        print(f'{NAMES[name]:14}' + ''.join(f'{cell:>13}' for cell in cells))
    print()
    for pair, ratio in summary['ratios'].items():
        print(f'{pair} seconds: {ratio:.3f}')
    found = summary['iterations']
    print(
        f'a local iteration, sub-ResNet/whole model: {found["sec_ratio"]:.3f} of the time '
        f"({found['cpu_sec_ratio']:.3f} of the processor's), {found['flops_ratio']:.3f} of the FLOPs: "
        f'{found["sec_ratio"] / found["flops_ratio"]:.3f} ({found["cpu_sec_ratio"] / found["flops_ratio"]:.3f}) '
        'times the ratio of FLOPs'
    )


def draw(summary: dict[str, Any], path: str) -> None:
    """Draw bars of seconds and of memory."""
    from ..plots import plot_training

    seconds, memory = {}, {}
    for name, found in summary['protocols'].items():
        seconds[NAMES[name]] = {part: found[f'{part}_sec_per_iter'] for part in ('compute', 'exchange')}
        parts = {key: found['memory'][key] / MB for key in ('parameters', 'gradients', 'optimizer', 'activations')}
        memory[NAMES[name]] = parts
    plot_training(seconds, memory, title_of(summary), path)


def main() -> None:
    """Measure, and print."""
    args = parse_args()
    try:
        summary = measure(args)
    except (RuntimeError, ValueError) as error:
        sys.exit(f'benchmark_training.py: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    if args.plot:
        draw(summary, args.plot)
    print(json.dumps(summary, indent=1)) if args.json else print_table(summary)
