"""What the launch scripts start, and the last line when it has failed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tests.test_tools.commands import ROOT, start_tool


@pytest.fixture(scope='module')
def supervise():
    spec = importlib.util.spec_from_file_location('supervise', ROOT / 'tools/_supervise.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(ROOT / 'tools')  # where a script finds what is beside it
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def shown(tmp_path: Path):
    """Environment in which python, srun and scontrol only print what they are called with."""
    for name in ('python', 'srun', 'scontrol'):
        command = tmp_path / name
        command.write_text(f'#!/bin/bash\necho {name} "$@"\n')
        command.chmod(0o755)
    return dict(PATH=f'{tmp_path}:/usr/bin:/bin')


def failure(exitcode: int, message: str = '', timestamp: int = 100) -> ProcessFailure:
    found = ProcessFailure(local_rank=0, pid=7, exitcode=exitcode, error_file='')
    found.timestamp = timestamp
    if message:
        found.message = dict(message=message)  # type: ignore[assignment]
    return found


LOST = 'LostWorker: round 3, exchange: worker 1 is missing'


@pytest.mark.parametrize(
    ('failures', 'said'),
    [
        ({0: failure(1, LOST), 1: failure(-9, timestamp=101)}, r'worker 1 .*process 7.* SIGKILL; .*memory'),
        ({0: failure(1, LOST), 1: failure(-15)}, r'worker 0 .*: LostWorker: round 3'),
        ({0: failure(1, LOST), 1: failure(-9, timestamp=131)}, r'worker 0 .*: LostWorker: round 3'),
        (
            {0: failure(1, LOST), 1: failure(1, 'ValueError: wrong\nindeed')},
            r'worker 1 on \S+: ValueError: wrong$',
        ),
        ({0: failure(3)}, r'worker 0 on \S+ ended with status 3$'),
    ],
)
def test_the_cause_is_told_from_its_consequences(supervise, failures, said):
    line = supervise.cause(failures)
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ('environment', 'options'),
    [
        (dict(), '--standalone --max-restarts=0'),
        (dict(MAX_RESTARTS='2'), '--standalone --max-restarts=2'),
        (
            dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='a'),
            '--nnodes=2 --node_rank=1 --master_addr=a --master_port=29500 --max-restarts=0',
        ),
        (
            dict(NNODES='2:4', MASTER_ADDR='a', PORT='5', RDZV_CONF='b=c', RDZV_ID='d'),
            '--nnodes=2:4 --rdzv-id=d --rdzv-backend=c10d --rdzv-endpoint=a:5 --rdzv-conf=b=c --max-restarts=3',
        ),
        (
            dict(NNODES='2', MAX_RESTARTS='1', RDZV_BACKEND='etcd-v2', RDZV_ENDPOINT='e:6'),
            '--nnodes=2 --rdzv-id=resist_mm --rdzv-backend=etcd-v2 --rdzv-endpoint=e:6 --max-restarts=1',
        ),
    ],
)
def test_options_of_torchrun(shown, environment, options):
    result = start_tool('dist_train.sh', 'config.py', 2, '--amp', **shown, DIST_TIMEOUT='9', **environment)
    assert result.stdout.strip() == (
        f'python {ROOT}/tools/_supervise.py {options} --nproc_per_node=2 {ROOT}/tools/train.py config.py --amp '
        '--cfg-options env_cfg.dist_cfg.timeout=9 --launcher pytorch'
    )


@pytest.mark.parametrize(
    ('name', 'value'), [('NNODES', '4:2'), ('NNODES', 'two'), ('NNODES', '0'), ('MAX_RESTARTS', '-1')]
)
def test_a_wrong_variable_is_named(shown, name, value):
    result = start_tool('dist_train.sh', 'config.py', 2, **shown, **{name: value})
    assert result.returncode == 2
    assert f'{name} must be ' in result.stdout and f"got '{value}'" in result.stdout


def test_slurm_starts_workers_or_launchers(shown, tmp_path: Path):
    args = ('slurm_train.sh', 'gpus', 'job', 'config.py', 'dir', '--amp')
    plain = start_tool(*args, **shown, GPUS='8', GPUS_PER_NODE='4').stdout
    assert '--ntasks=8 --ntasks-per-node=4' in plain and '--kill-on-bad-exit=1' in plain
    assert plain.strip().endswith('tools/train.py config.py --work-dir=dir --amp --launcher=slurm')
    supervised = start_tool(*args, **shown, NNODES='2:4', GPUS_PER_NODE='4').stdout
    assert '--nodes=4 --ntasks=4 --ntasks-per-node=1' in supervised and '--no-kill' in supervised
    assert supervised.strip().endswith('tools/dist_train.sh config.py 4 --work-dir=dir --amp')
    # srun that runs the command of a task here
    (tmp_path / 'srun').write_text('#!/bin/bash\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n')
    (tmp_path / 'scontrol').write_text('#!/bin/bash\n[ "$3" = n[1-2] ] && printf "n1\\nn2\\n"\n')
    job = dict(SLURM_JOB_NODELIST='n[1-2]', SLURM_JOB_ID='77')
    task = start_tool(*args, **shown, **job, GPUS='8', GPUS_PER_NODE='4', MAX_RESTARTS='1').stdout
    assert '--nnodes=2 --rdzv-id=77 --rdzv-backend=c10d --rdzv-endpoint=n1:29500 --max-restarts=1' in task
    assert '--nproc_per_node=4' in task
