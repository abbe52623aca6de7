"""torchrun as dist_*.sh call it: ``python tools/_supervise.py [options of torchrun] SCRIPT ARGS...``.

It differs from ``python -m torch.distributed.run`` in three ways:

- Restarted workers find each other over gloo too.
- Workers learn whether this process has started others before (``resist_mm/launch/supervised.py``).
- The last line says what failed, after torchrun's own report.

Signals and the exit status are torchrun's: it runs in this process. With ``ON_WORKER_LOSS=continue`` it is not
torchrun, but ``_spawn.py`` beside this file.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path

import _spawn
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

# errors of a worker that is fine itself
CONSEQUENCES = ('LostWorker:', 'LeftBehind:', 'ExchangeRefused:')


def main() -> None:
    """Run torchrun, then say in one line what failed."""
    # a store shared by all restarts keeps the addresses of dead workers, and gloo waits for them
    os.environ.setdefault('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
    os.environ['RESIST_MM_LAUNCHER'] = str(os.getpid())
    with tempfile.TemporaryDirectory(prefix='resist_mm_') as folder:
        os.environ['RESIST_MM_LAUNCHER_FOLDER'] = folder
        try:
            if os.environ.get('ON_WORKER_LOSS') == 'continue':
                _spawn.run(run.parse_args(sys.argv[1:]), Path(folder))
            else:
                run.main(sys.argv[1:])
        except (ChildFailedError, _spawn.JobFailed) as error:
            _end(cause(error.failures))
        except SignalException as error:
            _end(f'stopped by {signal.Signals(error.sigval).name}')
        except Exception as error:
            _end(f'torchrun: {type(error).__name__}: {_first_line(str(error))}')


def cause(failures: dict[int, ProcessFailure]) -> str:
    """The failure that the others follow from, in a line.

    torchrun takes the earliest one, but it knows times only in whole seconds, and counts the workers that it has
    stopped itself.
    """
    first = min(failure.timestamp for failure in failures.values())
    # workers that do not stop are killed 30 s later
    early = [(rank, failure) for rank, failure in failures.items() if failure.timestamp < first + 20]
    rank, failure = min(early, key=lambda item: (_remoteness(item[1]), item[1].timestamp))
    who = f'worker {rank} on {socket.gethostname()}'
    if failure.exitcode < 0:
        name = failure.signal_name()
        hint = '; see whether memory ran out' if name == 'SIGKILL' else ''
        return f'{who} (process {failure.pid}) was ended by {name}{hint}'
    message = _message(failure)
    return f'{who}: {_first_line(message)}' if message else f'{who} ended with status {failure.exitcode}'


def _remoteness(failure: ProcessFailure) -> int:
    """0 for a failure of its own, 1 if another worker is missing, 2 if torchrun stopped the worker therefore."""
    if failure.exitcode == -signal.SIGTERM:
        return 2
    return int(_message(failure).startswith(CONSEQUENCES))


def _message(failure: ProcessFailure) -> str:
    # a dict if the worker has written an error file, otherwise torchrun's own words
    return str(failure.message.get('message', '')) if isinstance(failure.message, dict) else ''


def _first_line(text: str) -> str:
    return text.strip().split('\n')[0]


def _end(line: str) -> None:
    traceback.print_exc()
    restarts = os.environ.get('MAX_RESTARTS', '0')
    after = '' if restarts == '0' else f' (MAX_RESTARTS={restarts})'
    print(f'Failed{after}: {line}', file=sys.stderr, flush=True)
    sys.exit(1)


if __name__ == '__main__':
    main()
