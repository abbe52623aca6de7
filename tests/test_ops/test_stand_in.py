"""What mmcv and mmdet do without compiled ops, in processes that have an mmcv without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from resist_mm.ops.stand_in import OPS, StandIn

from .oracle import compiled_ops, replaced

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def plain_mmcv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an mmcv as pip installs it: this environment's, without its compiled module."""
    spec = find_spec('mmcv')
    assert spec is not None and spec.submodule_search_locations is not None
    folder = tmp_path_factory.mktemp('plain')
    (folder / 'mmcv').mkdir()
    for entry in Path(spec.submodule_search_locations[0]).iterdir():
        if not entry.name.startswith(('_ext', '__pycache__')):
            (folder / 'mmcv' / entry.name).symlink_to(entry)
    return folder


def python(script: str | Path, *paths: Path) -> subprocess.CompletedProcess:
    """Runs a script, or a file with one, that finds modules in these folders first."""
    return subprocess.run(
        [sys.executable, *(['-c', script] if isinstance(script, str) else [script])],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, [*paths, ROOT])), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_op_is_there():
    for name in OPS:
        assert callable(replaced(name))


def test_ops_have_the_arguments_of_the_compiled_ones():
    extension = compiled_ops()
    for name in OPS:
        # pybind11: "nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int) -> ..."
        signature = getattr(extension, name).__doc__.partition(') ->')[0].partition('(')[2]
        expected = [argument.partition(':')[0].strip() for argument in signature.split(',') if ':' in argument]
        code = replaced(name).__code__
        assert list(code.co_varnames[: code.co_argcount]) == expected, name


def test_without_resist_mm_mmcv_has_no_ops(plain_mmcv: Path):
    done = python('import mmcv.ops', plain_mmcv)
    assert done.returncode != 0 and "No module named 'mmcv._ext'" in done.stderr


def test_importing_resist_mm_imports_nothing_else(plain_mmcv: Path):
    script = "import sys, resist_mm; print({'torch', 'torchvision', 'mmengine', 'mmcv'} & set(sys.modules))"
    assert python(script, plain_mmcv).stdout == 'set()\n'


def test_mmdet_can_be_imported(plain_mmcv: Path):
    script = """
import resist_mm
from mmdet.apis import init_detector
from mmcv.utils.env import collect_env
from mmcv.utils.ext_loader import check_ops_exist
import mmcv, torch
print(mmcv._ext.__class__.__name__, collect_env()['MMCV Compiler'])
print(mmcv.ops.nms(torch.tensor([[0., 0, 4, 4], [0, 0, 4, 5], [9, 9, 10, 10]]), torch.tensor([.3, .5, .1]), .5)[1])
"""
    done = python(script, plain_mmcv)
    assert done.returncode == 0, done.stderr
    assert 'StandIn none, ops by resist_mm on torchvision' in done.stdout
    assert 'tensor([1, 2])' in done.stdout


def test_an_op_without_replacement_says_how_to_build_mmcv(plain_mmcv: Path):
    script = 'import resist_mm, torch, mmcv.ops; mmcv.ops.nms_match(torch.rand(3, 5), 0.5)'
    message = python(script, plain_mmcv).stderr.splitlines()[-1]
    assert message.startswith("NotImplementedError: mmcv's op 'nms_match' is not compiled, and resist_mm.ops")
    assert 'tools/setup_env.sh --with-ops' in message


def test_compiled_ops_are_preferred():
    compiled_ops()  # or skip
    done = python('import resist_mm, mmcv._ext; print(mmcv._ext.__file__)')
    assert done.stdout.strip().endswith('.so'), done.stderr


def test_spawned_processes_have_the_ops(plain_mmcv: Path, tmp_path: Path):
    script = tmp_path / 'main.py'
    script.write_text("""
import resist_mm
from multiprocessing import get_context

def child():
    import mmcv.ops
    print(type(mmcv._ext).__name__)

if __name__ == '__main__':
    for method in ('spawn', 'forkserver'):
        process = get_context(method).Process(target=child)
        process.start()
        process.join()
        print(process.exitcode)
""")
    done = python(script, plain_mmcv)
    assert done.stdout.split() == ['StandIn', '0', 'StandIn', '0'], done.stderr


def test_detectors_train_and_predict_as_with_compiled_ops(plain_mmcv: Path):
    compiled_ops()  # or skip
    results = []
    script = 'import resist_mm, runpy; runpy.run_module("tests.test_ops.small_detectors", run_name="__main__")'
    for paths in ([], [plain_mmcv]):
        done = python(script, *paths)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    compiled, ours = results
    assert (compiled.pop('ops'), ours.pop('ops')) == ('module', StandIn.__name__)
    for name, numbers in compiled.items():
        assert numbers['number'] > 0 and numbers['gradient'] > 0
        assert ours[name] == pytest.approx(numbers, rel=1e-4), name
