"""What the log shows of the rounds."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.runner import Runner

from resist_mm.exchange import Traffic
from resist_mm.rounds import Engine
from resist_mm.rounds.bad_rounds import in_words
from resist_mm.rounds.clock import now

from .cuts import cut_rounds, dataloader_length, whole_model_iters

__all__ = ['RoundLog', 'now', 'warn_of_cuts', 'warn_of_scaled_lr']

TOLERATED_CUTS = 0.1
MB = 1e6
ROUNDS_FILE = 'rounds.jsonl'  # beside the log: an object for each round that has ended


class RoundLog:
    """Logs each round, as scalars ``train/...`` and as a line; worker 0 records who held what.

    Args:
        runner (Runner): Of the run.
        engine (Engine): Of this worker.
    """

    def __init__(self, runner: Runner, engine: Engine) -> None:
        self.runner, self.engine = runner, engine
        self._assignment = engine.assignment
        self._records, self._depth = True, 0

    def begin(self) -> None:
        """Log that a round begins."""
        self._show(round=self.engine.round)
        self._assignment = assignment = self.engine.assignment
        if assignment is not None and assignment.num_blocks:
            self._depth = len(assignment.blocks(self.engine.rank))  # which may be another rank when the round ends
            self._show(depth=self._depth)

    def end(
        self,
        index: int,
        iters: int,
        traffic: Traffic,
        compute_sec: float,
        exchange_sec: float,
        wait_sec: float,
    ) -> None:
        """Log that a round has ended.

        Args:
            index (int): Index of the round.
            iters (int): Number of iterations that this worker trained.
            traffic (Traffic): Bytes moved by the exchange.
            compute_sec (float): Seconds of the iterations.
            exchange_sec (float): Seconds of the exchange.
            wait_sec (float): Seconds of these in which this worker waited in votes for the others.
        """
        self._show(
            compute_sec=compute_sec,
            exchange_sec=exchange_sec,
            wait_sec=wait_sec,
            sent_mb=traffic.sent / MB,
            received_mb=traffic.received / MB,
            total_mb=traffic.total / MB,
            buffer_mb=traffic.buffers / MB,
        )
        self._show_bad_rounds(index)
        assert self._assignment is not None
        num_blocks = self._assignment.num_blocks
        self._record(index, iters)
        self.runner.logger.info(
            f'Round {index}: '
            + (f'depth {self._depth} of {num_blocks} blocks, ' if num_blocks else '')
            + f'{iters} iterations in {compute_sec:.2f} s, exchange in {exchange_sec:.2f} s; '
            f'sent {traffic.sent / MB:.2f} MB, received {traffic.received / MB:.2f} MB, '
            f'all workers {traffic.total / MB:.2f} MB'
        )

    def _show_bad_rounds(self, index: int) -> None:
        bad = self.engine.bad_rounds
        if bad.drops:
            self._show(bad_rounds=bad.count)
        if bad.left_out:
            self.runner.logger.warning(
                f'Round {index} goes on without what is bad: {in_words(bad.left_out)}. Bad rounds so far: '
                f'{bad.count}, of which {bad.in_a_row} in a row (max_bad_rounds={bad.most})'
            )

    def _record(self, index: int, iters: int) -> None:
        """Append a round to the file of rounds."""
        assignment = self._assignment
        if assignment is None or not self._records or self.engine.rank != 0:
            return
        workers = range(assignment.num_workers)
        of_round = dict(
            round=index,
            iters=iters,
            blocks=assignment.num_blocks,
            # in a warm-up, and in local SGD, of everything: not listed
            held='all' if assignment.is_full else [assignment.blocks(worker) for worker in workers],
            left_out=sorted(self.engine.bad_rounds.left_out),
            whole=self.engine.in_sync,
        )
        try:
            with Path(self.runner.log_dir, ROUNDS_FILE).open('a') as file:
                file.write(json.dumps(of_round, separators=(',', ':')) + '\n')
        except OSError as error:  # no reason to stop training
            self._records = False
            self.runner.logger.warning(f'{ROUNDS_FILE} cannot be written and will lack rounds: {error}')

    def end_early(self, index: int, iters: int, local_iters: int, reason: str) -> None:
        """Log that a round ends before it is full."""
        if iters < local_iters:
            self.runner.logger.info(
                f'Round {index} ends early, after {iters} of {local_iters} iterations: '
                f'{reason} needs the whole model'
            )

    def _show(self, **scalars: float) -> None:
        for key, value in scalars.items():
            self.runner.message_hub.update_scalar(f'train/{key}', value)


def warn_of_scaled_lr(runner: Runner, num_workers: int) -> None:
    """Warn of a learning rate that was scaled by the batch of all workers."""
    scaled = (runner.auto_scale_lr or {}).get('enable', False)
    # resist_mm.launch.scale_lr_by_one_worker() gives the Runner a method of its own
    if scaled and num_workers > 1 and 'scale_lr' not in vars(runner):
        runner.logger.warning(
            f'auto_scale_lr has scaled the learning rate by the batch of all {num_workers} workers, but it '
            'belongs to that of one: they average parameters, not gradients. Start with tools/train.py, or call '
            'resist_mm.launch.scale_lr_by_one_worker(runner) before runner.train()'
        )


def warn_of_cuts(runner: Runner, local_iters: int, num_workers: int) -> None:
    """Warn of rounds that will end early, and of gradients that will be dropped."""
    # OptimWrapperDict has no such count
    accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    if local_iters % accumulated and num_workers > 1:
        runner.logger.warning(
            f'local_iters={local_iters} is not a multiple of accumulative_counts={accumulated}: gradients '
            'that are still being accumulated when a round ends are dropped'
        )
    cut, rounds = cut_rounds(local_iters, whole_model_iters(runner))
    if cut > TOLERATED_CUTS * rounds:
        runner.logger.warning(
            f'{cut} of {rounds} rounds will end early, because validation or a checkpoint needs the whole '
            f'model: choose intervals that are multiples of local_iters={local_iters} iterations '
            f'(an epoch has {dataloader_length(runner)}), or larger ones'
        )
