"""How long a run would take and what it would send, before it is started.

For each protocol, codec, length of a round, and overlap (``overlap_iters`` of the hooks). Seconds of an iteration
are timed here, with the config's model and data, unless --iter-sec gives them. --link is the rate of the link of
every worker, in both directions. With --measure all workers time iterations, at the same time, and their links
instead: start the command as training would be started, on all machines, or it starts --workers processes on this
one. That takes one to three minutes, or six iterations if those take longer.

Accuracy is not predicted. The setting to take is chosen so: of each protocol, the first whose communication takes
at most --most-exchange of a round, the config's length of a round before longer ones, without overlap before with
it, fp32 before compressed; of these, the one with the fewest seconds. All settings train on the same number of
images.

Examples:
    python tools/analysis_tools/plan_run.py CONFIG --workers 4 --link 100mbit
    python tools/analysis_tools/plan_run.py CONFIG --workers 8 --link 1gbit --latency-ms 20 --iter-sec 0.21 0.12
    torchrun --nnodes 2 --nproc-per-node 4 ... tools/analysis_tools/plan_run.py CONFIG --measure
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist

from ..cost.counted_run import DEFAULT_LOCAL_ITERS, CountedRun, config_run
from ..named_networks import CODECS
from .choice import MOST_EXCHANGE, choose
from .link import LATENCY, LinkSpeed
from .measured import costs_given, measure
from .seconds import Costs
from .settings import Setting, settings_of

NAMES = dict(resist='ResIST', local_sgd='local SGD', ddp='data-parallel')
HOOKS = dict(resist='resist_mm.ResISTHook', local_sgd='resist_mm.LocalSGDHook')
MULTIPLES = (0.2, 1, 4)  # of the config's length of a round
MB = 1e6


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config of a run')
    parser.add_argument('--workers', type=int, metavar='S', help='default: 4, or those of the launcher')
    parser.add_argument('--link', metavar='RATE', help='of every worker, such as 1gbit or 100mbit')
    parser.add_argument(
        '--latency-ms',
        type=float,
        default=1e3 * LATENCY,
        help=f'of a small message, with --link; default: {1e3 * LATENCY:g}',
    )
    parser.add_argument('--measure', action='store_true', help='time links and iterations among all workers')
    parser.add_argument(
        '--iter-sec',
        type=float,
        nargs='+',
        metavar='SEC',
        help='seconds of an iteration of the whole model, and of a sub-ResNet; default: timed here',
    )
    parser.add_argument(
        '--local-iters', type=int, nargs='+', help='lengths of a round; default: around that of CONFIG'
    )
    parser.add_argument(
        '--overlap-iters',
        type=int,
        nargs='+',
        metavar='ITERS',
        help='default: 0, and what the average of the shared part takes, at most a tenth of a round; left out for '
        'rounds that are not longer, and for codecs that round at random',
    )
    parser.add_argument('--codec', nargs='+', choices=list(CODECS), help='default: all')
    parser.add_argument('--min-blocks', type=int, help='minimum number of partitioned blocks of a worker')
    parser.add_argument('--num-images', type=int, help='of the training set; default: counted')
    parser.add_argument(
        '--most-exchange', type=float, default=MOST_EXCHANGE, metavar='SHARE', help='default: 0.05'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    args = parser.parse_args()
    check(parser, args)
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what does not fit together; say how many workers there are."""
    launched = int(os.environ['WORLD_SIZE']) if args.measure and 'WORLD_SIZE' in os.environ else None
    if launched is not None and args.workers not in (None, launched):
        parser.error(f'--workers {args.workers}: the launcher has started {launched} workers')
    args.workers = args.workers or launched or 4
    if (args.link is None) != args.measure:
        parser.error('give the rate of links, such as --link 100mbit, or let --measure time them; not both')
    if args.measure and args.iter_sec:
        parser.error('--measure times iterations, so --iter-sec would mean nothing')
    if args.iter_sec and len(args.iter_sec) > 2:
        parser.error(f'--iter-sec takes one or two numbers, got {len(args.iter_sec)}')
    for name in ('workers', 'local_iters', 'iter_sec', 'num_images', 'most_exchange'):
        given = getattr(args, name)
        if given is not None and min(given if isinstance(given, list) else [given]) <= 0:
            parser.error(f'--{name.replace("_", "-")} must be above 0, got {given}')
    if args.workers < 2:
        parser.error(f'--workers {args.workers}: one worker has nobody to communicate with')
    if min(args.overlap_iters or [0]) < 0:
        parser.error(f'--overlap-iters must be at least 0, got {args.overlap_iters}')
    if args.latency_ms < 0:
        parser.error(f'--latency-ms must be at least 0, got {args.latency_ms}')


def read_run(args: argparse.Namespace) -> CountedRun:
    """The run of the config, with the codecs to compare.

    Raises:
        ValueError: If the file is not a config of a model.
    """
    of_command = argparse.Namespace(
        config=args.config, image_size=None, dataset=None, batch_size=None, local_iters=None
    )
    run = config_run(of_command, DEFAULT_LOCAL_ITERS)
    asked = {name: cfg for name, cfg in CODECS.items() if name in (args.codec or ())}  # exact ones first
    codecs = asked or {**CODECS, **run.codecs}
    run = replace(run, codecs=codecs)
    if args.min_blocks is not None:
        run = replace(run, min_blocks=args.min_blocks)
    return run if args.num_images is None else replace(run, length=args.num_images)


def find_costs(args: argparse.Namespace, run: CountedRun) -> Costs:
    """The costs that are given, or measured.

    Raises:
        ValueError: If the link is written in another way, or iterations cannot be timed.
        RuntimeError: If a worker fails.
    """
    if args.measure:
        if 'WORLD_SIZE' in os.environ:
            dist.init_process_group('cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo')
            return measure(args.config, run, args.workers)
        from ..benchmarks.workers import run_workers

        return run_workers(measure, args.workers, args.config, run, args.workers)[0]
    link = LinkSpeed.of_text(args.link, args.latency_ms / 1e3)
    if args.iter_sec:
        return costs_given(run, args.workers, link, args.iter_sec)
    return measure(args.config, run, args.workers, link)


def lengths(args: argparse.Namespace, run: CountedRun) -> list[int]:
    """The lengths of a round to compare, and that of the config."""
    given = args.local_iters or [round(run.local_iters * factor) for factor in MULTIPLES]
    return sorted({run.local_iters, *(max(1, length) for length in given)})


def as_config(run: CountedRun, setting: Setting) -> str:
    """The lines of a config, in place of its hook that runs rounds or, if it has none, beside its hooks."""
    if setting.protocol == 'ddp':
        # device_ids=None: mmengine's default, one GPU per worker, fails on a CPU and if workers share a GPU
        options = 'device_ids=None, broadcast_buffers=False'
        wrapper = f"model_wrapper_cfg = dict(type='MMDistributedDataParallel', {options})"
        return "# without the config's hook that runs rounds\n" * run.has_rounds + wrapper
    codec = run.codecs[setting.codec]
    least = f', min_blocks={run.min_blocks}' if setting.protocol == 'resist' and run.min_blocks is not None else ''
    packed = '' if codec is None else f', codec=dict({", ".join(f"{k}={v!r}" for k, v in codec.items())})'
    ahead = f', overlap_iters={setting.overlap_iters}' * bool(setting.overlap_iters or run.has_rounds)
    hook = f"dict(type='{HOOKS[setting.protocol]}', local_iters={setting.local_iters}{least}{packed}{ahead})"
    before = (
        "# in place of the config's hook; its other options stay"
        if run.has_rounds
        else "model_wrapper_cfg = dict(type='resist_mm.LocalModel')\n# beside other custom_hooks of the config"
    )
    return f'{before}\ncustom_hooks = [{hook}]'


def print_table(args: argparse.Namespace, run: CountedRun, costs: Costs, settings: list[Setting]) -> None:
    """Print what is predicted, and what to take."""
    timed = 'given' if args.iter_sec else 'measured among the workers' if args.measure else 'timed in this process'
    link = f'{8 * costs.link.rate / 1e6:.4g} Mbit/s of messages'
    link += f', {1e3 * costs.link.latency:.3g} ms' + (' (measured)' if args.measure else f' (--link {args.link})')
    print(f'{run.title}: {run.network.whole.total:,} parameters, {len(run.network.blocks)} partitioned blocks')
    print(f'{args.workers} workers; links of {link}')
    print(
        f'an iteration: {costs.whole_sec:.4g} s, {costs.block_sec:.3g} s of it for each partitioned block '
        f'({timed})'
    )
    print(
        'seconds without loading of data, validations and checkpoints; bytes of all workers together, each once\n'
    )
    print(f'{"":40}{"a round":^31}{"the run":^24}'.rstrip())
    print(
        f'{"protocol":15}{"codec":10}{"iters":>6}{"overlap":>9}'
        f'{"seconds":>11}{"exchange":>10}{"MB":>11}{"hours":>11}{"GB":>11}'
    )
    chosen = choose(settings, run.local_iters, list(run.codecs), args.most_exchange)
    for setting in settings:
        amounts = (setting.run_seconds, 3600), (setting.run_bytes, 1e9)
        of_run = ''.join(f'{"?" if amount is None else f"{amount / unit:.3f}":>11}' for amount, unit in amounts)
        print(
            f'{NAMES[setting.protocol]:15}{setting.codec:10}{setting.local_iters:6}{setting.overlap_iters:9}'
            f'{setting.seconds:11.3f}{setting.exchange_share:10.1%}{setting.bytes / MB:11.2f}{of_run}'
            f'{" <" * (setting is chosen)}'
        )
    if settings[0].run_seconds is None:
        print("\n?: the data set's files are not here to be counted: give --num-images")
    for note in run.notes:
        print(f'\n{note}')
    least = chosen.exchange_share <= args.most_exchange
    why = (
        f'its communication takes at most {args.most_exchange:.0%} of a round'
        if least
        else f'no setting of it communicates less than {args.most_exchange:.0%} of a round, this one the least'
    )
    print(f'\n<: chosen: {why}. Of each protocol the mildest such setting was compared, and this is the fastest.')
    print('Accuracy is not predicted.')
    print(as_config(run, chosen))


def report(args: argparse.Namespace, run: CountedRun, costs: Costs) -> None:
    """Predict and print."""
    settings = settings_of(run, args.workers, lengths(args, run), costs, overlap_iters=args.overlap_iters)
    if not args.json:
        print_table(args, run, costs, settings)
        return
    chosen = choose(settings, run.local_iters, list(run.codecs), args.most_exchange)
    found: dict[str, Any] = dict(
        config=args.config,
        workers=args.workers,
        costs=asdict(costs),
        settings=[asdict(setting) for setting in settings],
        chosen=asdict(chosen),
        hook=as_config(run, chosen),
    )
    print(json.dumps(found, indent=1))


def main() -> None:
    """Predict, and print."""
    args = parse_args()
    try:
        if args.link is not None:
            LinkSpeed.of_text(args.link)
        run = read_run(args)
        costs = find_costs(args, run)
        if not dist.is_initialized() or dist.get_rank() == 0:
            report(args, run, costs)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'plan_run.py: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
