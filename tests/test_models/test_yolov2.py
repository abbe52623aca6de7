"""The YOLOv2 detector: its test loss, and whether it learns real images."""

import os
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.structures import InstanceData

import resist_mm.models  # noqa: F401
from resist_mm.evaluation import LossMetric
from resist_mm.models.dense_heads.voc_priors import VOC_PRIORS
from resist_mm.registry import MODELS

DATA = os.environ.get('RESIST_MM_DATA')


def detector_cfg(priors=((32, 48), (96, 64)), with_loss=True, **head):
    """A ResNet-18 of half the usual width with the head at stride 32."""
    return {
        'type': 'resist_mm.YOLOV2',
        'data_preprocessor': {
            'type': 'mmdet.DetDataPreprocessor',
            'mean': [123.675, 116.28, 103.53],
            'std': [58.395, 57.12, 57.375],
            'bgr_to_rgb': True,
            'pad_size_divisor': 32,
        },
        'backbone': {
            'type': 'mmdet.ResNet',
            'depth': 18,
            'base_channels': 32,
            'out_indices': (3,),
            'norm_eval': False,
        },
        'bbox_head': {
            'type': 'resist_mm.YOLOV2Head',
            'num_classes': 20,
            'in_channels': 256,
            'anchor_generator': {
                'type': 'mmdet.YOLOAnchorGenerator',
                'strides': [32],
                'base_sizes': [list(priors)],
            },
            **head,
        },
        'test_cfg': {
            'score_thr': 0.005,
            'nms_pre': 1000,
            'nms': {'type': 'nms', 'iou_threshold': 0.45},
            'max_per_img': 100,
            'with_loss': with_loss,
        },
    }


def detector(**kwargs):
    torch.manual_seed(0)
    model = MODELS.build(detector_cfg(**kwargs))
    model.init_weights()
    return model.eval()


def sample(boxes=((10, 20, 50, 60), (80, 5, 190, 120)), ignored=((100, 100, 164, 160),), scale=(0.5, 0.8)):
    """A data sample as mmdet's test pipeline gives it: an original image of 192 x 160, annotated in its pixels."""
    meta = {'ori_shape': (160, 192), 'img_shape': (128, 96), 'scale_factor': scale, 'img_id': 1}
    found = DetDataSample(metainfo=meta)
    found.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
    )
    found.ignored_instances = InstanceData(
        bboxes=torch.tensor(ignored, dtype=torch.float32).reshape(-1, 4),
        labels=torch.zeros(len(ignored), dtype=torch.long),
    )
    return found


def resized(scale=(0.5, 0.8), **kwargs):
    """The same as the training pipeline gives it: boxes in pixels of the network's input."""
    found = sample(**kwargs)
    factors = torch.tensor([*scale, *scale])
    found.gt_instances.bboxes = found.gt_instances.bboxes * factors
    found.ignored_instances.bboxes = found.ignored_instances.bboxes * factors
    return found


def inputs(num_images=1):
    return torch.randn(num_images, 3, 128, 96, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def training_loss(model, images, samples):
    return sum(model.loss(images, samples).values()).item()


class TestTestLoss:
    def test_is_the_training_loss_on_resized_boxes(self):
        model = detector()
        images = inputs(2)
        other = {'boxes': ((100, 0, 190, 90),), 'ignored': ()}
        first, second = model.predict(images, [sample(), sample(**other)])
        for i, (found, expected) in enumerate(((first, resized()), (second, resized(**other)))):
            assert isinstance(found.loss, float)
            assert found.loss == pytest.approx(training_loss(model, images[i : i + 1], [expected]), rel=1e-5)
            assert found.loss != pytest.approx(training_loss(model, images[i : i + 1], [sample()]), rel=1e-2)
        both = training_loss(model, images, [resized(), resized(**other)])
        assert (first.loss + second.loss) / 2 == pytest.approx(both, rel=1e-5)

    def test_ignored_boxes_are_resized_as_well(self):
        """With a head that predicts the priors, an ignored box that is one of them excuses just that one."""
        model = detector(priors=((32, 32), (64, 96)))
        torch.nn.init.zeros_(model.bbox_head.conv_pred.weight)
        prior = (48 - 32, 48 - 48, 48 + 32, 48 + 48)  # the second prior of cell (1, 1)
        in_original = tuple(side / factor for side, factor in zip(prior, (0.5, 0.8, 0.5, 0.8), strict=True))
        (plain,) = model.predict(inputs(), [sample(boxes=(), ignored=())])
        (found,) = model.predict(inputs(), [sample(boxes=(), ignored=(in_original,))])
        assert plain.loss == pytest.approx(4 * 3 * 2 * 0.25)
        # Its neighbours overlap it by 1/2 at most.
        assert found.loss == pytest.approx((4 * 3 * 2 - 1) * 0.25)

    @pytest.mark.parametrize('box_type', [torch.Tensor, HorizontalBoxes])
    def test_annotations_stay_in_the_original_image(self, box_type):
        given = sample()
        if box_type is HorizontalBoxes:
            given.gt_instances.bboxes = HorizontalBoxes(given.gt_instances.bboxes)
            given.ignored_instances.bboxes = HorizontalBoxes(given.ignored_instances.bboxes)
        (found,) = detector().predict(inputs(), [given])
        assert torch.equal(found.gt_instances.bboxes, sample().gt_instances.bboxes)
        assert torch.equal(found.ignored_instances.bboxes, sample().ignored_instances.bboxes)

    def test_reaches_the_metric(self):
        evaluator = Evaluator([LossMetric()])
        found = detector().predict(inputs(2), [sample(), sample(boxes=())])
        evaluator.process(found)
        expected = (found[0].loss + found[1].loss) / 2
        assert evaluator.evaluate(2)['test/loss'] == pytest.approx(expected)

    def test_costs_no_second_forward_pass(self):
        model = detector()
        calls = []
        model.backbone.register_forward_hook(lambda *_: calls.append('backbone'))
        model.bbox_head.conv_pred.register_forward_hook(lambda *_: calls.append('head'))
        model.predict(inputs(2), [sample(), sample()])
        assert calls == ['backbone', 'head']

    def test_does_not_change_the_predictions_or_the_count(self):
        (with_loss,) = detector().predict(inputs(), [sample()])
        model = detector(with_loss=False)
        (without,) = model.predict(inputs(), [sample()])
        assert 'loss' not in without
        assert len(with_loss.pred_instances) > 0
        assert torch.equal(with_loss.pred_instances.bboxes, without.pred_instances.bboxes)
        assert torch.equal(with_loss.pred_instances.scores, without.pred_instances.scores)
        model = detector().train()
        model.predict(inputs(), [sample()])
        assert model.bbox_head.images_seen == 0

    def test_inference_without_annotations(self):
        plain = sample()
        del plain.gt_instances, plain.ignored_instances
        (found,) = detector().predict(inputs(), [plain])
        assert 'loss' not in found
        assert 'pred_instances' in found
        unloaded = sample()  # what PackDetInputs gives where no annotations were loaded
        unloaded.gt_instances, unloaded.ignored_instances = InstanceData(), InstanceData()
        (found,) = detector().predict(inputs(), [unloaded])
        assert 'loss' not in found

    def test_without_scale_factor(self):
        bare = sample()
        bare.pop('scale_factor')
        with pytest.raises(KeyError, match='scale_factor'):
            detector().predict(inputs(), [bare], rescale=False)


class TestConfig:
    def test_training_step(self):
        model = detector(prior_images=100).train()
        losses = model.loss(inputs(2), [resized(), resized(boxes=())])
        assert losses.keys() == {'loss_coord', 'loss_prior', 'loss_obj', 'loss_noobj', 'loss_cls'}
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        assert model.bbox_head.images_seen == 2

    def test_neck_and_tensor_mode(self):
        cfg = detector_cfg()
        cfg['neck'] = {
            'type': 'mmdet.ChannelMapper',
            'in_channels': [256],
            'out_channels': 64,
            'num_outs': 1,
        }
        cfg['bbox_head']['in_channels'] = 64
        (pred_map,) = MODELS.build(cfg)(inputs(), mode='tensor')
        assert pred_map.shape == (1, 2 * 25, 4, 3)

    def test_wrong_with_loss(self):
        with pytest.raises(TypeError, match=r'test_cfg\.with_loss.*yes'):
            detector(with_loss='yes')

    def test_head_without_loss_per_image(self):
        cfg = detector_cfg()
        cfg['bbox_head'] = {'type': 'mmdet.RetinaHead', 'num_classes': 20, 'in_channels': 256}
        with pytest.raises(TypeError, match=r'loss_per_image.*RetinaHead'):
            MODELS.build(cfg)

    def test_head_is_required(self):
        cfg = detector_cfg()
        del cfg['bbox_head']
        with pytest.raises(TypeError, match='bbox_head'):
            MODELS.build(cfg)


def overfit_cfg(tmp_path, ids, size=160, epochs=60, lr=4e-3, seed=0):
    """Train and evaluate on the same images, through mmdet's pipelines for VOC without augmentation."""
    ann_file = tmp_path / 'ids.txt'
    ann_file.write_text('\n'.join(ids))
    load, annotations = {'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True}
    resize = {'type': 'Resize', 'scale': (size, size), 'keep_ratio': False}
    pack = {
        'type': 'PackDetInputs',
        'meta_keys': ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    }

    def loader(shuffle, **dataset):
        return {
            'batch_size': len(ids),
            'num_workers': 0,
            'sampler': {'type': 'DefaultSampler', 'shuffle': shuffle},
            'dataset': {
                'type': 'VOCDataset',
                'data_root': f'{DATA}/voc2007_original/VOCdevkit',
                'ann_file': str(ann_file),
                'data_prefix': {'sub_data_root': 'VOC2007/'},
                **dataset,
            },
        }

    return Config(
        {
            'model': detector_cfg(priors=[(w * size / 13, h * size / 13) for w, h in VOC_PRIORS]),
            'work_dir': str(tmp_path / 'work_dir'),
            'train_dataloader': loader(True, pipeline=[load, annotations, resize, pack]),
            'val_dataloader': loader(False, pipeline=[load, resize, annotations, pack], test_mode=True),
            'train_cfg': {'by_epoch': True, 'max_epochs': epochs, 'val_interval': epochs},
            'val_cfg': {},
            'val_evaluator': [
                {'type': 'VOCMetric', 'metric': 'mAP', 'eval_mode': '11points'},
                {'type': 'resist_mm.LossMetric'},
            ],
            'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'Adam', 'lr': lr}},
            'param_scheduler': [{'type': 'CosineAnnealingLR', 'T_max': epochs, 'by_epoch': True}],
            'default_hooks': {
                'logger': {'type': 'LoggerHook', 'interval': 10},
                'checkpoint': {
                    'type': 'CheckpointHook',
                    'interval': -1,
                    'save_last': False,
                    'save_best': 'test/loss',
                },
            },
            'default_scope': 'mmdet',
            'randomness': {'seed': seed},
        }
    )


@pytest.fixture
def one_thread():
    """Small convolutions gain little from more, and lose much where other processes want the same cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.real_data
@pytest.mark.skipif(DATA is None, reason='RESIST_MM_DATA is not set to the folder of real images')
def test_overfits_eight_real_images(tmp_path, one_thread):
    """mAP of at least 0.9, and the test loss is the training loss of the same images, from the best checkpoint on.

    The ids are the first of VOC2007's trainval here: 18 objects of 8 classes, one image with three ``difficult``
    ones, which are neither learned nor evaluated.
    """
    split = Path(DATA) / 'voc2007_original/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt'
    runner = Runner.from_cfg(overfit_cfg(tmp_path, split.read_text().split()[:8]))
    runner.train()

    scalars = runner.message_hub.log_scalars
    assert scalars['val/pascal_voc/mAP'].current() >= 0.9
    best = list((tmp_path / 'work_dir').glob('best_test_loss_epoch_*.pth'))
    assert len(best) == 1

    model = runner.model.eval()
    model.load_state_dict(torch.load(best[0], weights_only=False)['state_dict'])
    assert model.bbox_head.images_seen == 8 * runner.max_epochs
    (batch,) = runner.train_dataloader
    data = model.data_preprocessor(batch)
    assert any(len(found.ignored_instances) for found in data['data_samples'])
    trained = training_loss(model, data['inputs'], data['data_samples'])
    assert scalars['val/test/loss'].current() == pytest.approx(trained, rel=1e-3)
