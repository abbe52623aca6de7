"""What of the set-up and the packaging can be tested without installing anything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted(ROOT.glob('tools/*.sh')), ROOT / '.ci/run']
SET_BY_THE_CALLER = ('PYTHON', 'MMCV_WHEEL_DIR', 'VIRTUAL_ENV', 'CONDA_PREFIX', 'PYTHONPATH', 'XDG_CACHE_HOME')
WHEEL = 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl'

pytestmark = pytest.mark.skipif(shutil.which('bash') is None, reason='needs bash')

# A Python that makes environments in no time. It writes down what it is asked to do, and fails where FAIL_AT says.
FAKE_PYTHON = """
case "$*" in
    *'-m venv'*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && cp "$0" "$4/bin/uv" && exit ;;
    *'sys.version_info[:2] <='*) exit ;;
    *cp%d%d*) echo cp311 && exit ;;
esac
printf '%s\\n' "$(basename "$0") $(printf '%s' "$*" | head -n 1)" >>"$CALLS"
case "$(basename "$0") $*" in *"${FAIL_AT:-nowhere}"*) echo "refused by the test" >&2; exit 1 ;; esac
[ -z "${UV_COMPILE_BYTECODE:-}" ] || touch "$CALLS.compile"
case "$*" in *"${STOP_AT:-nowhere}"*) kill -INT "$PPID"; sleep 0.2 ;; esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the set-up reads of a clone, without an environment."""
    root = tmp_path / 'a clone'
    for name in ('tools/setup_env.sh', 'tools/_env.sh', 'uv.lock', 'pyproject.toml'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture
def python(tmp_path: Path) -> str:
    return str(fake(tmp_path / 'fake/python3.11', FAKE_PYTHON))


def bash(root: Path, command: str, **env: str) -> subprocess.CompletedProcess:
    inherited = {key: value for key, value in os.environ.items() if key not in SET_BY_THE_CALLER}
    return subprocess.run(
        ['bash', '-c', command],
        cwd=root,
        env={**inherited, 'CALLS': str(root / 'calls'), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background of a script ignore it


def set_up(root: Path, *args: str, **env: str) -> subprocess.CompletedProcess:
    return bash(root, ' '.join(['bash tools/setup_env.sh', *args]), **env)


def calls(root: Path) -> list[str]:
    """What the Python and uv of the environment were asked to do since the last look."""
    path = root / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def syncs(root: Path) -> list[str]:
    return [call for call in calls(root) if call.startswith('uv') and ' sync ' in call]


def fake(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_syntax(script: Path):
    done = subprocess.run(['bash', '-n', str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ci_script_is_executable():
    assert os.access(ROOT / '.ci/run', os.X_OK)


def test_model_index_names_configs_that_exist():
    (metafile,) = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    models = yaml.safe_load((ROOT / metafile).read_text())['Models']
    assert models
    assert all((ROOT / model['Config']).is_file() for model in models)


def test_results_of_the_model_index_are_those_on_record():
    (metafile,) = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    models = yaml.safe_load((ROOT / metafile).read_text())['Models']
    records = [json.loads(path.read_text()) for path in (ROOT / 'docs/results').glob('*/*seed*.json')]
    found = {model['Config']: model['Results'][0]['Metrics'] for model in models if 'Results' in model}
    assert len(found) >= 3
    for config, metrics in found.items():
        ends = [record['course'][-1] for record in records if record['config'] == config and is_plain(record)]
        known = {
            'Top 1 Accuracy': round(statistics.mean(end.get('accuracy/top1', 0) for end in ends), 2),
            'box AP': round(100 * statistics.mean(end.get('pascal_voc/mAP', 0) for end in ends), 1),
        }
        assert metrics == {metric: known[metric] for metric in metrics}


def is_plain(record: dict) -> bool:
    """Whether the options of a run change nothing in its config, but the seed."""
    options = {key: value for key, value in record['options'].items() if key != 'randomness.seed'}
    cfg = Config.fromfile(ROOT / record['config'])
    plain = cfg.to_dict()
    cfg.merge_from_dict(options)
    return cfg.to_dict() == plain


@pytest.mark.skipif(sys.version_info < (3, 11), reason='needs tomllib')
def test_lock_file_has_one_opencv_and_the_public_index_only():
    import tomllib

    packages = tomllib.loads((ROOT / 'uv.lock').read_text())['package']
    assert [package['name'] for package in packages if 'opencv' in package['name']] == ['opencv-python-headless']
    sources = {package['source'].get('registry', 'this project') for package in packages}
    assert sources == {'https://pypi.org/simple', 'this project'}
    names = {package['name'] for package in packages}
    assert {'torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'pytest', 'ruff'} <= names


@pytest.mark.parametrize(
    'env, expected',
    [
        (dict(PYTHON='/bin/false'), 'PYTHON=/bin/false is not a Python 3.10 to 3.13; 3.11 is the tested one'),
        (dict(PYTHON='no such python'), 'PYTHON=no such python is not a Python'),
        (dict(MMCV_WHEEL_DIR='not there'), 'MMCV_WHEEL_DIR=not there is no folder'),
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


@pytest.mark.parametrize('options', ['--devel', '--with-ops --devel'])
def test_unknown_option(clone: Path, options: str):
    done = set_up(clone, options)
    assert done.returncode == 1 and 'unknown option --devel; known: --with-ops' in done.stderr


def test_packages_are_those_of_the_lock_file_and_nothing_is_done_twice(clone: Path, python: str):
    done = set_up(clone, PYTHON=python)
    assert done.returncode == 0, done.stderr
    (sync,) = syncs(clone)
    assert ' --frozen ' in sync and '--reinstall ' not in f'{sync} '
    again = set_up(clone, PYTHON='/bin/false')
    assert (
        again.returncode == 0 and again.stderr.startswith('setup_env: ready: ') and again.stderr.count('\n') == 1
    )
    assert calls(clone) == []


@pytest.mark.parametrize('name', ['uv.lock', 'pyproject.toml'])
def test_a_change_of_the_requirements_sets_up_again(clone: Path, python: str, name: str):
    set_up(clone, PYTHON=python)
    calls(clone)
    with (clone / name).open('a') as file:
        file.write('# changed\n')
    assert set_up(clone, PYTHON=python).returncode == 0
    assert len(syncs(clone)) == 1


def test_a_moved_clone_is_set_up_again(clone: Path, python: str, tmp_path: Path):
    set_up(clone, PYTHON=python)
    moved = clone.rename(tmp_path / 'moved')
    calls(moved)
    assert set_up(moved, PYTHON=python).returncode == 0
    assert len(syncs(moved)) == 1


@pytest.mark.parametrize(
    'fail_at, expected',
    [
        ('pip install -q', 'installing uv failed, see above'),  # no network
        ('sync', 'installing the packages failed, see above'),
        ('import resist_mm, mmcv.ops', 'the environment is not complete, see above'),
    ],
)
def test_a_failure_ends_the_set_up_and_the_next_run_trusts_nothing(
    clone: Path, python: str, fail_at: str, expected: str
):
    done = set_up(clone, PYTHON=python, FAIL_AT=fail_at)
    assert done.returncode == 1
    assert f'refused by the test\nsetup_env: ERROR: {expected}' in done.stderr
    calls(clone)
    assert set_up(clone, PYTHON=python).returncode == 0
    (sync,) = syncs(clone)
    assert ('--reinstall ' in f'{sync} ') is (fail_at != 'pip install -q')


def test_an_interruption_is_named_and_the_next_run_trusts_nothing(clone: Path, python: str):
    done = set_up(clone, PYTHON=python, STOP_AT='sync')
    assert done.returncode == 130 and 'setup_env: interrupted: run it again to go on' in done.stderr
    assert not (clone / '.venv/.resist_mm_stamp').exists()
    calls(clone)
    assert set_up(clone, PYTHON=python).returncode == 0
    assert '--reinstall ' in f'{syncs(clone)[0]} '


def test_packages_are_compiled_once_not_by_every_process(clone: Path, python: str):
    assert set_up(clone, PYTHON=python).returncode == 0
    assert (clone / 'calls.compile').exists()


def test_only_wheels_that_fit_are_tried(clone: Path, python: str):
    folder = clone / 'my wheels'
    folder.mkdir()
    for name in (
        WHEEL,
        WHEEL.replace('cp311', 'cp312'),
        WHEEL.replace('2.3.6', '2.3.5'),
        'onedl_mmcv-2.3.6.tar.gz',
    ):
        (folder / name).touch()
    assert set_up(clone, PYTHON=python, MMCV_WHEEL_DIR='my wheels').returncode == 0
    installed = [call.rpartition(' my wheels/')[2] for call in calls(clone) if ' my wheels/' in call]
    assert installed == [WHEEL]


def test_a_wheel_that_does_not_work_is_not_used(clone: Path, python: str):
    (clone / WHEEL).touch()
    done = set_up(clone, PYTHON=python, MMCV_WHEEL_DIR='.', FAIL_AT='mmcv._ext')
    assert done.returncode == 0, done.stderr
    assert f'setup_env: {WHEEL} does not work here (refused by the test): not used' in done.stderr
    assert len(syncs(clone)) == 2  # mmcv without ops is put back


def test_ops_are_built_when_asked_for_and_no_wheel_fits(clone: Path, python: str):
    assert set_up(clone, PYTHON=python).returncode == 0
    assert not [call for call in calls(clone) if '--no-binary' in call]
    assert set_up(clone, '--with-ops', PYTHON=python).returncode == 0
    done = calls(clone)
    assert [call for call in done if '--group ops' in call]
    assert [call for call in done if '--no-binary onedl-mmcv' in call and call.endswith(' onedl-mmcv==2.3.6')]
    # an environment with ops will do for whoever asks for none
    assert set_up(clone).returncode == 0 and set_up(clone, '--with-ops').returncode == 0
    assert calls(clone) == []


def test_a_build_that_fails_ends_the_set_up(clone: Path, python: str):
    done = set_up(clone, '--with-ops', PYTHON=python, FAIL_AT='--no-binary')
    assert done.returncode == 1 and 'ERROR: mmcv cannot be built, see above' in done.stderr


def test_helper_uses_a_complete_active_environment(clone: Path, tmp_path: Path):
    python = fake(tmp_path / 'env/bin/python', 'exit 0')  # nothing missing
    env = dict(PATH=f'{python.parent}:{os.environ["PATH"]}', VIRTUAL_ENV=str(tmp_path / 'env'))
    done = bash(clone, '. tools/_env.sh; use_env --dev; command -v python; echo "$PYTHONPATH"', **env)
    assert done.stdout.splitlines() == [str(python), str(clone)]
    assert not (clone / '.venv').exists()


def test_helper_does_not_use_an_active_environment_that_lacks_something(clone: Path, python: str, tmp_path: Path):
    active = fake(tmp_path / 'env/bin/python', 'case "$*" in *" mmdet "*) echo mmdet;; *) exit 1;; esac')
    shutil.copy(python, active.parent / 'python3.11')
    env = dict(PATH=f'{active.parent}:{os.environ["PATH"]}', VIRTUAL_ENV=str(tmp_path / 'env'))
    done = bash(clone, '. tools/_env.sh; use_env; command -v python', **env)
    assert 'the active environment lacks mmdet: using .venv' in done.stderr
    assert done.stdout.splitlines() == [f'{clone}/.venv/bin/python']


def test_helper_leaves_the_right_python_on_the_path(clone: Path, python: str):
    done = bash(clone, '. tools/_env.sh; use_env --dev; command -v python; echo "$ROOT"', PYTHON=python)
    assert done.stdout.splitlines() == [f'{clone}/.venv/bin/python', str(clone)]


def test_helper_stops_the_script_when_the_set_up_fails(clone: Path):
    done = bash(clone, '. tools/_env.sh; use_env; echo went on', PYTHON='/bin/false')
    assert done.returncode == 1 and 'went on' not in done.stdout
