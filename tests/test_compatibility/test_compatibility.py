"""Shipped mmdet configs under ``--resist``; ``tests.test_compatibility.table`` writes a table of all of them."""

from __future__ import annotations

import re

import pytest

from tests.test_compatibility.cases import CONFIGS, IN_CI, coco_of_voc, missing
from tests.test_compatibility.steps import STEPS, run_case

pytestmark = pytest.mark.real_data
# what docs/compatibility.md says beside 'works', by the first words of the reason
REASONS: dict[tuple[str, str], str] = {
    ('YOLOX-s', 'fold'): 'ValueError: the scale of .* cannot be folded exactly: Swish',
    ('RTMDet-tiny', 'fold'): 'ValueError: the scale of .* cannot be folded exactly: DepthwiseSepara',
    # mmdet writes float32 into a bfloat16 tensor
    ('VFNet R50', 'AMP'): 'RuntimeError: Index put requires the source and destination dtypes match',
    **{('SSD300 VGG-16', step): 'refused: .*' for step in STEPS},
}


@pytest.mark.parametrize('name', [pytest.param(n, marks=[] if n in IN_CI else pytest.mark.slow) for n in CONFIGS])
def test_a_shipped_config(name, real_data, tmp_path):
    if missing(name):
        pytest.skip(f'needs {missing(name)}')
    voc = real_data / 'voc2007_original' / 'VOCdevkit' / 'VOC2007'
    annotations = coco_of_voc(voc, tmp_path / 'annotations.json')
    found = run_case(name, tmp_path, voc, annotations, extras=name not in IN_CI)
    for step in (step for step in STEPS if step in found):
        expected = REASONS.get((name, step), 'works')
        assert re.match(expected, found[step]), f'{step}: {found[step]}'
