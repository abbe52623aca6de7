"""Priors by k-means on IoU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from resist_mm.analysis.anchors import box_sizes, config_lines, kmeans, main, mean_best_iou, size_ious
from resist_mm.datasets import make_shapes_voc

SIZES = np.array([(10, 20), (40, 30), (100, 90)], dtype=float)


def around(sizes: np.ndarray, count: int = 60) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0.95, 1.05, (count, len(sizes), 2))
    return (noise * sizes).reshape(-1, 2)


def test_iou_of_sizes():
    assert size_ious(np.array([(2.0, 4.0)]), np.array([(4.0, 2.0), (2.0, 4.0)])).tolist() == [[4 / 12, 1]]


def test_clusters_are_found_whatever_the_seed():
    boxes = around(SIZES)
    for seed in range(4):
        found = kmeans(boxes, 3, seed=seed)
        np.testing.assert_allclose(found, SIZES, rtol=0.03)
    assert mean_best_iou(boxes, found) > 0.93 > mean_best_iou(boxes, kmeans(boxes, 2))


def test_small_boxes_count_as_much_as_large_ones():
    # by the Euclidean distance, both priors would go to the two sizes of large boxes
    boxes = around(np.array([(4.0, 8.0), (8.0, 4.0), (300.0, 300.0), (330.0, 330.0)]))
    assert (kmeans(boxes, 3)[:2] < 10).all()


def test_as_many_priors_as_boxes_at_most():
    with pytest.raises(ValueError, match='4 priors were asked for; there are 3 different sizes'):
        kmeans(np.repeat(SIZES, 5, axis=0), 4)


@pytest.mark.parametrize(('keep_ratio', 'expected'), [(True, (10, 5)), (False, (10, 10))])
def test_boxes_are_those_of_the_resized_image(keep_ratio: bool, expected: tuple[int, int]):
    kept = dict(bbox=[0, 0, 20, 10], ignore_flag=0)
    info = dict(width=200, height=100, instances=[kept, dict(kept, ignore_flag=1), dict(bbox=[5, 5, 5, 9])])

    class One(list):
        def get_data_info(self, index: int) -> dict:
            return self[index]

    assert box_sizes(One([info]), (100, 100), keep_ratio).tolist() == [list(expected)]


def test_lines_for_several_levels():
    generator = SimpleNamespace(strides=[(32, 32), (16, 16)])
    found: dict = {}
    exec(config_lines(np.array([(1.0, 2.0), (3.0, 4.04), (5.0, 6.0), (7.0, 8.0)]), generator), found)
    assert found['model']['bbox_head']['anchor_generator'] == dict(
        type='mmdet.YOLOAnchorGenerator',
        strides=[32, 16],
        base_sizes=[[(5, 6), (7, 8)], [(1, 2), (3, 4)]],
    )
    with pytest.raises(ValueError, match='3 priors cannot be shared equally by the 2 levels'):
        config_lines(SIZES, generator)


def test_the_command_and_the_head_that_takes_its_lines(tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip('mmdet')
    from resist_mm.registry import MODELS

    make_shapes_voc(tmp_path, train=12, test=1, size=64)
    config = tmp_path / 'mine.py'
    bases = [f'resist_mm::_base_/{name}.py' for name in ('custom_yolov2', 'datasets/custom_voc')]
    config.write_text(
        f"_base_ = {bases}\nclasses = ('circle', 'square', 'triangle', 'star', 'cross')\n"
        f"data_root = '{tmp_path}/Shapes'\nimage_size = (128, 128)\n"
    )
    monkeypatch.setattr(sys, 'argv', ['optimize_anchors.py', str(config), '--num', '3'])
    main()
    report, _, lines = capsys.readouterr().out.partition('\n\n')
    assert 'of 12 images, fitted into 128 x 128' in report
    before, after = (float(line.rpartition(' ')[2]) for line in report.splitlines()[-2:])
    assert before < 0.75 < after < 1
    found: dict = {}
    exec(lines, found)
    head = MODELS.build(
        dict(type='resist_mm.YOLOV2Head', num_classes=5, in_channels=8, **found['model']['bbox_head'])
    )
    assert head.num_base_priors == 3
    assert all(20 < side < 70 for size in head.prior_generator.base_sizes[0] for side in size)
    nowhere = ('--cfg-options', 'train_dataloader=None')
    for wrong, message in ((('--num', '0'), '0 priors were asked for'), (nowhere, 'no train_dataloader.dataset')):
        monkeypatch.setattr(sys, 'argv', ['optimize_anchors.py', str(config), *wrong])
        with pytest.raises(SystemExit, match=message):
            main()
