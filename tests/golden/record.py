"""Records the golden traces: what real workers compute and send, iteration by iteration.

    python -m tests.golden.record            # rewrites traces.json: only for an intended change of results
    python -m tests.golden.record FILE       # writes another file, to compare

A trace is exact, so the arithmetic must not depend on the processor: kernels are
restricted to instructions that every x86-64 processor has. If a processor still
computes differently, the entry ``arithmetic`` of the file differs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

PORTABLE = dict(
    OMP_NUM_THREADS='1',
    ATEN_CPU_CAPABILITY='default',
    ONEDNN_MAX_CPU_ISA='SSE41',
    MKL_CBWR='COMPATIBLE',
)
TRACES = Path(__file__).with_name('traces.json')


def trace_case(name: str, work_dir: str) -> dict[str, Any]:
    """Train one case; called in every worker.

    Returns:
        dict: This worker's ``losses`` and ``digests`` of what it holds at the beginning, for every iteration; the
        ``bytes`` sent, received, and sent by all, for every round; the digest of the whole ``model`` at the end.
    """
    import torch.distributed as dist
    from mmengine.hooks import Hook
    from mmengine.model import is_model_wrapper

    from tests.golden.cases import CASES, overrides
    from tests.toy import toy_runner

    losses: list[str] = []
    digests: list[str] = []

    class Recorder(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            digests.append(digest(runner.model))

        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            losses.append(outputs['loss'].item().hex())

    case = CASES[name]
    folder = Path(work_dir) / name
    folder.mkdir(exist_ok=True)
    runner = toy_runner(folder, [case.build_hook(), Recorder()], model=case.build_model(), **overrides(case))
    runner.train()
    scalars = {
        key: runner.message_hub.get_scalar(f'train/{key}_mb').data[0] for key in ('sent', 'received', 'total')
    }
    traffic = [[round(1e6 * float(mb)) for mb in of_round] for of_round in zip(*scalars.values(), strict=True)]
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if dist.is_initialized():
        dist.barrier()
    return dict(losses=losses, digests=digests, bytes=traffic, model=digest(model))


def digest(model: Any) -> str:
    """A fingerprint of the bits of all buffers and of the parameters held, by name."""
    import hashlib

    sha = hashlib.sha256()
    module = getattr(model, 'module', model)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.numel():
            sha.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def trace_cases(names: list[str], work_dir: str) -> dict[str, dict[str, Any]]:
    """Train several cases, one after the other; called in every worker."""
    return {name: trace_case(name, work_dir) for name in names}


def record() -> dict[str, Any]:
    """Train all cases; returns the traces of every worker by case."""
    from tests.golden.cases import CASES
    from tests.workers import run_workers

    traces: dict[str, Any] = dict(arithmetic=arithmetic())
    with tempfile.TemporaryDirectory() as folder:
        for workers in sorted({case.workers for case in CASES.values()}):
            names = [name for name, case in CASES.items() if case.workers == workers]
            results = run_workers(trace_cases, workers, names, folder)
            traces |= {name: [of_worker[name] for of_worker in results] for name in names}
    return traces


def arithmetic() -> str:
    """A fingerprint of this machine's arithmetic: a few plain training steps, without this project's engine."""
    import torch
    import torch.nn.functional as F

    from tests.toy import ToyData, ToyModel

    model = ToyModel()
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = ToyData(8)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(data.images, data.labels), data.labels).backward()
        optimizer.step()
    return digest(model)


def main() -> None:
    """Record in a process whose arithmetic is the same everywhere."""
    if any(os.environ.get(name) != value for name, value in PORTABLE.items()):
        # libraries read them when they are loaded
        os.execve(sys.executable, [sys.executable, '-m', __spec__.name, *sys.argv[1:]], {**os.environ, **PORTABLE})
    traces = record()
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TRACES
    # one trace per line, so that a diff of two files shows which cases have changed
    lines = ',\n'.join(f'{json.dumps(name)}: {json.dumps(trace)}' for name, trace in traces.items())
    target.write_text(f'{{\n{lines}\n}}\n')


if __name__ == '__main__':
    main()
