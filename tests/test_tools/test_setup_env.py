"""What of the set-up and the packaging can be tested without installing anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted(ROOT.glob('tools/*.sh')), ROOT / '.ci/run']
SET_BY_THE_CALLER = ('PYTHON', 'MMCV_WHEEL_DIR', 'VIRTUAL_ENV', 'CONDA_PREFIX', 'PYTHONPATH', 'XDG_CACHE_HOME')

pytestmark = pytest.mark.skipif(shutil.which('bash') is None, reason='needs bash')


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the set-up reads of a clone, without an environment."""
    root = tmp_path / 'a clone'
    for name in ('tools/setup_env.sh', 'tools/_env.sh', 'requirements/tested.txt', 'setup.cfg'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    return root


def bash(root: Path, command: str, **env: str) -> subprocess.CompletedProcess:
    inherited = {key: value for key, value in os.environ.items() if key not in SET_BY_THE_CALLER}
    return subprocess.run(
        ['bash', '-c', command],
        cwd=root,
        env={**inherited, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def set_up(root: Path, *args: str, **env: str) -> subprocess.CompletedProcess:
    return bash(root, ' '.join(['bash tools/setup_env.sh', *args]), **env)


def fake(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)
    return path


def make_complete(root: Path) -> None:
    """Leaves what a finished set-up leaves, around an interpreter that must not be run."""
    fake(root / '.venv/bin/python', 'echo ran >&2; exit 9')
    bash(root, '. tools/setup_env.sh; stamp > "$STAMP"')


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_syntax(script: Path):
    done = subprocess.run(['bash', '-n', str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ci_script_is_executable():
    assert os.access(ROOT / '.ci/run', os.X_OK)


def test_every_pin_is_exact():
    lines = [line for line in (ROOT / 'requirements/tested.txt').read_text().splitlines() if line]
    pins = [line for line in lines if not line.startswith('#')]
    assert all('==' in pin for pin in pins)
    assert not [pin for pin in pins if pin.startswith(('nvidia-', 'opencv-python=='))]
    for name in (
        'torch',
        'torchvision',
        'onedl-mmengine',
        'onedl-mmcv',
        'onedl-mmdetection',
        'pytest',
        'ruff',
        'uv',
    ):
        assert [pin for pin in pins if pin.startswith(f'{name}==')], name


def test_model_index_names_configs_that_exist():
    models = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Models']
    assert models
    assert all((ROOT / model['Config']).is_file() for model in models)


@pytest.mark.parametrize(
    'env, expected',
    [
        (dict(PYTHON='/bin/false'), 'PYTHON=/bin/false is not a Python 3.10 to 3.13; 3.11 is the tested one'),
        (dict(PYTHON='no such python'), 'PYTHON=no such python is not a Python'),
        (dict(PYTHON='/bin/false', MMCV_WHEEL_DIR='not there'), 'MMCV_WHEEL_DIR=not there is no folder'),
    ],
)
def test_errors_are_one_line(clone: Path, env: dict[str, str], expected: str):
    done = set_up(clone, **env)
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr.count('\n') == 1 and done.stderr.startswith(f'setup_env: ERROR: {expected}')
    assert not (clone / '.venv').exists()


def test_no_fitting_python(clone: Path, tmp_path: Path):
    for name in ('python', 'python3', 'python3.10', 'python3.11', 'python3.12', 'python3.13'):
        fake(tmp_path / 'old' / name, 'exit 1')
    done = set_up(clone, PATH=f'{tmp_path / "old"}:{os.environ["PATH"]}')
    assert done.returncode == 1
    assert done.stderr.startswith('setup_env: ERROR: no Python 3.10 to 3.13 found; install Python 3.11')


def test_unknown_option(clone: Path):
    done = set_up(clone, '--devel')
    assert done.returncode == 1 and 'unknown option --devel' in done.stderr


def test_nothing_is_done_twice(clone: Path):
    make_complete(clone)
    done = set_up(clone, PYTHON='/bin/false')
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith('setup_env: ready: ') and done.stderr.count('\n') == 1
    assert set_up(clone, '--print-bin', PYTHON='/bin/false').stdout == f'{clone}/.venv/bin\n'


@pytest.mark.parametrize('name', ['requirements/tested.txt', 'setup.cfg'])
def test_a_change_of_the_requirements_sets_up_again(clone: Path, name: str):
    make_complete(clone)
    with (clone / name).open('a') as file:
        file.write('# changed\n')
    assert bash(clone, '. tools/setup_env.sh; is_done').returncode == 1


def test_a_moved_clone_is_set_up_again(clone: Path, tmp_path: Path):
    make_complete(clone)
    moved = clone.rename(tmp_path / 'moved')
    assert bash(moved, '. tools/setup_env.sh; is_done').returncode == 1


def test_a_complete_active_environment_is_used(clone: Path, tmp_path: Path):
    python = fake(tmp_path / 'env/bin/python', 'exit 0')  # nothing missing, everything imports
    env = dict(PATH=f'{python.parent}:{os.environ["PATH"]}', VIRTUAL_ENV=str(tmp_path / 'env'))
    assert set_up(clone, '--print-bin', **env).stdout == f'{python.parent}\n'
    assert not (clone / '.venv').exists()
    done = bash(clone, '. tools/_env.sh; use_env; command -v python; echo "$PYTHONPATH"', **env)
    assert done.stdout.splitlines() == [str(python), str(clone)]


def test_an_active_environment_that_lacks_something_is_not_used(clone: Path, tmp_path: Path):
    python = fake(tmp_path / 'env/bin/python', 'echo mmdet')
    env = dict(PATH=f'{python.parent}:{os.environ["PATH"]}', VIRTUAL_ENV=str(tmp_path / 'env'))
    done = set_up(clone, MMCV_WHEEL_DIR='not there', **env)
    assert 'the active environment lacks mmdet: using .venv' in done.stderr


def test_helper_leaves_the_right_python_on_the_path(clone: Path):
    make_complete(clone)
    env = dict(PYTHON='/bin/false')
    done = bash(clone, '. tools/_env.sh; use_env --dev; command -v python; echo "$ROOT"', **env)
    assert done.stdout.splitlines() == [f'{clone}/.venv/bin/python', str(clone)]


def test_helper_stops_the_script_when_the_set_up_fails(clone: Path):
    done = bash(clone, '. tools/_env.sh; use_env; echo went on', PYTHON='/bin/false')
    assert done.returncode == 1 and 'went on' not in done.stdout


def test_wheels_that_fit(clone: Path):
    folder = clone / 'my wheels'
    folder.mkdir()
    names = [
        'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl',
        'onedl_mmcv-2.3.6-cp311-cp311-manylinux_2_28_x86_64.whl',
    ]
    others = [
        'onedl_mmcv-2.3.6-cp312-cp312-linux_x86_64.whl',
        'onedl_mmcv-2.3.5-cp311-cp311-linux_x86_64.whl',
        'onedl_mmcv-2.3.6-cp311-cp311-macosx_11_0_arm64.whl',
        'onedl_mmcv-2.3.6.tar.gz',
    ]
    for name in names + others:
        (folder / name).touch()
    command = '. tools/setup_env.sh; wheels_in "$1" "$(pin onedl-mmcv)" cp311 linux x86_64'
    done = bash(clone, f'set -- "my wheels"; {command}')
    assert done.stdout.splitlines() == [f'my wheels/{name}' for name in names]
    assert bash(clone, f'set -- "no such folder"; {command}').stdout == ''


@pytest.mark.parametrize(
    'log, expected',
    [
        ('error: failed to write: No space left on device (os error 28)', 'the disk is full'),
        ('  Caused by: dns error: failed to lookup address', 'the package index cannot be reached'),
        ('error: Failed to fetch: `https://example.org/simple/x/`', 'the package index cannot be reached'),
        ('No solution found when resolving dependencies', 'does not exist for this Python or platform'),
        ('ensurepip is not available', 'lacks its venv module'),
        ('first line\nerror: something else\n\n', 'error: something else (log: '),
    ],
)
def test_reason_of_a_failure(clone: Path, log: str, expected: str):
    (clone / 'step.log').write_text(log)
    done = bash(clone, '. tools/setup_env.sh; why step.log')
    assert expected in done.stdout and done.stdout.count('\n') == 1


def test_a_failing_step_ends_the_set_up_at_once(clone: Path):
    done = bash(clone, '. tools/setup_env.sh; step building step.log sh -c "echo broken; exit 3"; echo went on')
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr == 'setup_env: ERROR: building failed: broken (log: step.log)\n'
