"""The flagship and the swapped Faster R-CNN, run as a user runs them, on real VOC images."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine import load

from tests.test_tools.commands import ROOT, rounds_of, run_tool, start_tool

pytestmark = pytest.mark.real_data
VOC = 'voc2007_original/VOCdevkit'


def _shrunk(dataset: str, batch_size: int, *options: str) -> list[str]:
    """Options that shrink the data: the VOC images at hand are of 2007 only."""
    train = [f'train_dataloader.{dataset}.{i}' for i in range(2)]
    return [
        '--cfg-options',
        f'{train[1]}.ann_file=VOC2007/ImageSets/Main/trainval.txt',
        f'{train[1]}.data_prefix.sub_data_root=VOC2007/',
        *(f'{name}.indices=16' for name in train),
        'val_dataloader.dataset.indices=8',
        'test_dataloader.dataset.indices=8',
        f'train_dataloader.batch_size={batch_size}',
        *(
            f'{loader}_dataloader.{key}'
            for loader in ('train', 'val', 'test')
            for key in ('num_workers=0', 'persistent_workers=False')
        ),
        'custom_hooks.0.local_iters=2',
        'default_hooks.logger.interval=1',
        *options,
    ]


def _flagship() -> list[str]:
    scales = [f'train_dataloader.dataset.datasets.{i}.pipeline.2.scale=(96,96)' for i in range(2)]
    scales += [f'{loader}_dataloader.dataset.pipeline.1.scale=(96,96)' for loader in ('val', 'test')]
    return _shrunk(
        'dataset.datasets',
        2,
        'train_cfg.val_interval=1',
        'default_hooks.checkpoint.interval=1',
        'randomness.seed=0',  # otherwise a rounded loss may differ in one run of many
        *scales,
    )


@pytest.fixture(scope='module')
def flagship(real_data, tmp_path_factory):
    """Work dir and log of two rounds of the flagship with four workers: one epoch."""
    work_dir = tmp_path_factory.mktemp('flagship')
    log = run_tool(
        'dist_train.sh',
        'configs/yolo_resist_voc.py',
        4,
        '--work-dir',
        work_dir,
        *_flagship(),
        'train_cfg.max_epochs=1',
        RESIST_MM_VOC=f'{real_data / VOC}/',
    )
    return work_dir, log


def _metrics(log: str) -> tuple[float, float]:
    mean_ap, loss = re.findall(r'pascal_voc/mAP: ([\d.]+).* pascal_voc/loss: ([\d.]+)', log)[-1]
    return float(mean_ap), float(loss)


def test_the_flagship_trains_validates_and_saves(flagship):
    work_dir, log = flagship
    assert rounds_of(log) == [0, 1]
    assert 'train sub-ResNets with [6, 6, 5, 5] of 22 partitioned blocks' in log
    assert _metrics(log)[1] > 0
    state = torch.load(work_dir / 'epoch_1.pth', weights_only=False)['state_dict']
    assert state['backbone.layer3.scale'] == 0.25
    assert all(value.numel() for value in state.values())
    for name in ('loss', 'mAP'):
        assert list(work_dir.glob(f'best_pascal_voc_{name}_epoch_1.pth'))
    for noise in ('OneDL', 'faster_coco_eval', 'FileClient', 'NUM_THREADS environment'):
        assert noise not in log


def test_the_quickstart_reads_progress_from_such_a_log(flagship, tmp_path):
    (tmp_path / 'train.log').write_text(flagship[1])
    script = (ROOT / 'tools/quickstart.sh').read_text()
    (function,) = re.findall(r'^progress\(\) \{.*?^\}$', script, re.MULTILINE | re.DOTALL)
    command = ['bash', '-c', f'{function}\nprogress "$1"', 'bash', str(tmp_path / 'train.log')]
    epoch, loss, eta = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert epoch == '1' and float(loss) > 0 and re.fullmatch(r'\d+:\d\d:\d\d', eta)


def test_the_flagship_resumes(flagship, real_data):
    work_dir, _ = flagship
    log = run_tool(
        'dist_train.sh',
        'configs/yolo_resist_voc.py',
        4,
        '--work-dir',
        work_dir,
        '--resume',
        *_flagship(),
        'train_cfg.max_epochs=2',
        RESIST_MM_VOC=f'{real_data / VOC}/',
    )
    assert rounds_of(log) == [2, 3]
    assert (work_dir / 'epoch_2.pth').exists()


def test_workers_and_a_single_process_predict_alike(flagship, real_data, tmp_path):
    work_dir, log = flagship
    args = ('configs/yolo_resist_voc.py', work_dir / 'epoch_1.pth')
    voc = f'{real_data / VOC}/'
    outputs = [tmp_path / 'two.pkl', tmp_path / 'one.pkl']
    common = ('--work-dir', work_dir, *_flagship())
    by_two = run_tool('dist_test.sh', *args, 2, '--out', outputs[0], *common, RESIST_MM_VOC=voc)
    alone = run_tool('test.py', *args, '--out', outputs[1], *common, RESIST_MM_VOC=voc)
    assert _metrics(by_two) == _metrics(alone) == _metrics(log)
    of_two, of_one = ({r['img_id']: r['pred_instances'] for r in load(out)} for out in outputs)
    assert len(of_two) == 8
    assert set(of_two) == set(of_one)
    for image, predicted in of_two.items():
        assert len(predicted['scores'])
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(predicted[key], of_one[image][key], rtol=1e-4, atol=1e-4)


def test_a_data_root_without_trainval_stops_before_training(tmp_path):
    (tmp_path / 'VOC2007').mkdir()
    result = start_tool('train.py', 'configs/yolo_resist_voc.py', RESIST_MM_VOC=f'{tmp_path}/')
    assert result.returncode != 0
    assert 'train_dataloader.dataset.datasets.0.ann_file' in result.stdout
    assert str(Path(tmp_path) / 'VOC2007/ImageSets/Main/trainval.txt') in result.stdout


@pytest.mark.slow  # test_configs.py trains it in one process, on random images
def test_the_swapped_faster_rcnn_trains_validates_and_tests(real_data, tmp_path):
    dataset = 'dataset.dataset.datasets'
    scales = [f'train_dataloader.{dataset}.{i}.pipeline.2.scale=(160,96)' for i in range(2)]
    scales += [f'{loader}_dataloader.dataset.pipeline.1.scale=(160,96)' for loader in ('val', 'test')]
    options = _shrunk(dataset, 2, 'train_dataloader.dataset.times=1', 'model.backbone.init_cfg=None', *scales)
    options = [option.replace('indices=16', 'indices=4') for option in options]
    config, voc = 'configs/swap/faster-rcnn_r101_fpn_resist_voc.py', f'{real_data / VOC}/'
    log = run_tool(
        'dist_train.sh',
        config,
        2,
        '--work-dir',
        tmp_path,
        *options,
        'train_cfg.max_epochs=2',
        RESIST_MM_VOC=voc,
    )
    assert rounds_of(log) == [0, 1]
    assert 'pascal_voc/mAP' in log
    tested = run_tool(
        'dist_test.sh', config, tmp_path / 'epoch_2.pth', 2, '--work-dir', tmp_path, *options, RESIST_MM_VOC=voc
    )
    assert 'pascal_voc/mAP' in tested
