"""What only a GPU can show; with one GPU, the workers share it over gloo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import AmpOptimWrapper
from torch.testing import assert_close

from resist_mm.builders import build_codec
from resist_mm.datasets.batch_transforms import build_batch_pipeline
from resist_mm.registry import MODELS
from resist_mm.rounds import Engine, Parts, ResIST
from tests import generated_sets
from tests.test_tools.commands import rounds_of, run_tool
from tests.toy import ToyModel
from tests.workers import run_workers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]


def _two_rounds(device: str, codec: dict | None) -> tuple[dict, int]:
    torch.manual_seed(0)
    model = ToyModel().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = Engine(model, optimizer, ResIST(min_blocks=4), build_codec(codec))
    engine.begin_round()
    generator = torch.Generator().manual_seed(dist.get_rank())
    buffers = 0
    for whole in (False, True):
        for p in model.parameters():  # drawn on the CPU, so that the devices agree
            p.data.add_(torch.randn(p.shape, generator=generator).to(device))
        traffic = engine.exchange(whole)
        buffers = max(buffers, traffic.buffers)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, buffers


@pytest.mark.parametrize('codec', [None, dict(type='bf16')])
def test_an_exchange_of_gpu_tensors_is_that_of_the_cpu(codec):
    (on_cpu, _), _ = run_workers(_two_rounds, 2, 'cpu', codec)
    (first, buffers), (second, _) = run_workers(_two_rounds, 2, 'cuda', codec)
    assert_close(first, second, rtol=0, atol=0)
    assert_close(first, on_cpu, rtol=0, atol=0)
    assert buffers > 0, 'messages go through pinned host memory, which counts'


@pytest.mark.parametrize('codec', [dict(type='quantize', bits=6), dict(type='topk', share=0.25)])
def test_workers_agree_after_a_compressed_exchange(codec):
    (first, _), (second, _) = run_workers(_two_rounds, 2, 'cuda', codec)
    assert_close(first, second, rtol=0, atol=0)


def test_a_dropped_block_frees_gpu_memory():
    model = ToyModel(base_channels=64).to('cuda')
    parts = Parts(model)
    before = torch.cuda.memory_allocated()
    parts.keep([0, 1])
    assert before - torch.cuda.memory_allocated() >= 4 * parts.blocks[0].nbytes
    for part in parts.blocks[2:]:
        parts.put(part, torch.empty(part.flat.numel, device='cuda'))
    parts.make_whole()
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize('channels_last', [False, True])
def test_a_classifier_learns_in_bf16(channels_last):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='resist_mm.ImageClassifier',
            data_preprocessor=dict(
                type='resist_mm.BatchPreprocessor',
                train_pipeline=[
                    dict(type='RandomHorizontalFlip'),
                    dict(type='ToDtype', dtype='float32', scale=True),
                    dict(type='Normalize', mean=[0.5] * 3, std=[0.25] * 3),
                ],
            ),
            backbone=dict(
                type='resist_mm.PreActResNet',
                block='basic',
                stage_blocks=(1, 1, 3, 1),
                stem='cifar',
                base_channels=8,
                out_indices=(3,),
            ),
            num_classes=4,
            channels_last=channels_last,
        )
    ).cuda()
    model.init_weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optim_wrapper = AmpOptimWrapper(optimizer=optimizer, dtype='bfloat16', loss_scale='dynamic')
    batch = dict(inputs=torch.randint(256, (16, 3, 16, 16), dtype=torch.uint8), labels=torch.arange(16) % 4)
    losses = [model.train_step(batch, optim_wrapper)['loss'].item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_whole_batches_are_augmented_on_the_gpu():
    pipeline = build_batch_pipeline(
        [
            dict(type='RandomCrop', size=8, padding=1),
            dict(type='RandomHorizontalFlip', p=1.0),
            dict(type='ToDtype', dtype='float32', scale=True),
            dict(type='Normalize', mean=[0.5] * 3, std=[0.25] * 3),
        ]
    ).cuda()
    images = torch.full((64, 3, 8, 8), 255, dtype=torch.uint8, device='cuda')
    out = pipeline(images)
    assert out.device.type == 'cuda' and out.shape == (64, 3, 8, 8)
    # padding is 0 before it is normalised to -2, white becomes 2
    assert set(out.unique().tolist()) == {-2.0, 2.0}
    assert len({tuple(image.flatten().tolist()) for image in out}) > 3, 'all images are cropped alike'


def test_two_workers_share_a_gpu(tmp_path: Path):
    classes = tuple('abcdefghij')
    root = generated_sets.make_image_folders(tmp_path / 'cifar10', ('train', 'test'), classes, per_class=4)
    log = run_tool(
        'dist_train.sh',
        'configs/cifar/small/preact-resnet-small_resist_4xb32-1200i_cifar10.py',
        2,
        '--amp',
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        'share_gpu=True',
        'optim_wrapper.dtype=bfloat16',
        'model.channels_last=True',
        'train_dataloader.batch_size=4',
        'train_dataloader.dataset.max_images=40',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'custom_hooks.0.local_iters=2',
        RESIST_MM_CIFAR10=str(root),
        CUDA_VISIBLE_DEVICES='0',
    )
    assert rounds_of(log) == [0, 1]
    assert 'accuracy/top1' in log
