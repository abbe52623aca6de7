"""The YOLOv2 head: targets, losses and decoding, against numbers worked out in plain Python."""

import itertools
import math
import random

import pytest
import torch
from mmengine.structures import InstanceData

from resist_mm.models.dense_heads import YOLOV2Head
from resist_mm.models.dense_heads.yolov2_targets import build_targets
from resist_mm.registry import MODELS

STRIDE = 32
PRIORS = ((32.0, 32.0), (96.0, 64.0))
LOSSES = {'loss_coord', 'loss_obj', 'loss_noobj', 'loss_cls', 'loss_prior'}


def anchors(priors=PRIORS, strides=(STRIDE,)):
    return {'type': 'mmdet.YOLOAnchorGenerator', 'strides': list(strides), 'base_sizes': [list(priors)]}


def build(priors=PRIORS, num_classes=3, **kwargs):
    kwargs = {'prior_images': 0, **kwargs}
    return YOLOV2Head(num_classes=num_classes, in_channels=4, anchor_generator=anchors(priors), **kwargs)


def instances(*boxes, labels=None):
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.long),
    )


def blank(height, width, num_images=1, objectness=-2.0, num_priors=2, num_classes=3):
    """A raw prediction (N, H, W, priors, 5 + classes) of priors themselves."""
    raw = torch.zeros(num_images, height, width, num_priors, 5 + num_classes)
    raw[..., 4] = objectness
    return raw


def as_map(raw):
    """The prediction map (N, priors * (5 + classes), H, W) of a raw prediction."""
    return raw.flatten(3).permute(0, 3, 1, 2).contiguous()


def targets_of(boxes, height, width, priors=PRIORS, labels=None):
    head = build(priors)
    (grid,) = head.prior_generator.grid_priors([(height, width)], device='cpu')
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.arange(len(boxes)) if labels is None else torch.tensor(labels)
    return build_targets([boxes], [labels], grid, (height, width), STRIDE)


def responsible_for(targets, width, num_priors=2):
    """{label: (row, column, prior)} of one image's targets."""
    found = {}
    for p in targets.responsible[0].nonzero().flatten().tolist():
        found[int(targets.labels[0, p])] = (p // num_priors // width, p // num_priors % width, p % num_priors)
    return found


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def iou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return w * h / (area - w * h)


def centered(cx, cy, w, h):
    return (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)


class TestLoss:
    def test_against_arithmetic(self):
        """One object of 40 x 50 with its centre (60, 35) in cell (1, 1) of a map of 2 x 3 cells; 2 images."""
        raw = blank(2, 3, num_images=2)
        # Size IoU with 32 x 32: 1024 / 2000; with 96 x 64: 2000 / 6144. So prior 0 of cell (1, 1) answers.
        raw[0, 1, 1, 0] = torch.tensor([0.3, -0.4, 0.1, -0.2, 0.7, 0.5, -1.0, 2.0])
        head = build(object_scale=5, noobject_scale=0.5, coord_scale=2, class_scale=3)
        gt = [instances((40, 10, 80, 60), labels=[2]), instances()]
        losses = head.loss_by_feat(as_map(raw), gt, [{}, {}])

        coord = (sigmoid(0.3) - (60 / 32 - 1)) ** 2 + (sigmoid(-0.4) - (35 / 32 - 1)) ** 2
        coord += (0.1 - math.log(40 / 32)) ** 2 + (-0.2 - math.log(50 / 32)) ** 2
        predicted = centered(
            32 * (1 + sigmoid(0.3)), 32 * (1 + sigmoid(-0.4)), 32 * math.exp(0.1), 32 * math.exp(-0.2)
        )
        obj = (sigmoid(0.7) - iou(predicted, (40, 10, 80, 60))) ** 2
        noobj = (11 + 12) * sigmoid(-2) ** 2
        cls = -math.log(math.exp(2) / (math.exp(0.5) + math.exp(-1) + math.exp(2)))

        expected = {'loss_coord': 2 * coord, 'loss_obj': 5 * obj, 'loss_noobj': 0.5 * noobj, 'loss_cls': 3 * cls}
        assert losses.keys() == LOSSES
        assert losses['loss_prior'] == 0
        for name, value in expected.items():
            assert losses[name].item() == pytest.approx(value / 2, rel=1e-5), name

    def test_default_weights(self):
        """Twice the same loss, with weights of one and with the documented ones."""
        raw = torch.randn(1, 2, 3, 2, 8)
        gt = [instances((40, 10, 80, 60))]
        ones = build(object_scale=1, noobject_scale=1, coord_scale=1, class_scale=1)
        unweighted = ones.loss_by_feat(as_map(raw), gt, [{}])
        default = build().loss_by_feat(as_map(raw), gt, [{}])
        for name, weight in {'coord': 1, 'obj': 5, 'noobj': 1, 'cls': 1}.items():
            assert default[f'loss_{name}'].item() == pytest.approx(
                weight * unweighted[f'loss_{name}'].item(), rel=1e-6
            )

    def test_objectness_has_no_gradient_to_the_box(self):
        pred_map = as_map(torch.randn(1, 2, 3, 2, 8)).requires_grad_()
        losses = build().loss_by_feat(pred_map, [instances((40, 10, 80, 60))], [{}])
        (losses['loss_obj'] + losses['loss_noobj']).backward()
        grad = pred_map.grad.view(2, 8, 2, 3)
        assert grad[:, 4].abs().min() > 0
        assert grad[:, :4].abs().max() == 0

    @pytest.mark.parametrize('scale', [1, 1000])
    def test_gradients_are_finite(self, scale):
        torch.manual_seed(0)
        pred_map = (scale * torch.randn(2, 16, 2, 3)).requires_grad_()
        gt = [instances((40, 10, 80, 60)), instances((0, 0, 96, 64), (1, 1, 2, 2))]
        losses = build(prior_images=100).loss_by_feat(pred_map, gt, [{}, {}])
        assert losses['loss_prior'] > 0
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert pred_map.grad.isfinite().all()
        assert (pred_map.grad != 0).any()

    def test_images_without_objects(self):
        head = build()
        (pred_map,) = head((torch.randn(2, 4, 2, 3),))
        losses = head.loss_by_feat(pred_map, [instances(), InstanceData()], [{}, {}], [None, InstanceData()])
        assert losses['loss_noobj'] > 0
        assert losses['loss_coord'] == losses['loss_obj'] == losses['loss_cls'] == 0
        sum(losses.values()).backward()
        assert head.conv_pred.weight.grad.isfinite().all()
        assert (head.conv_pred.weight.grad != 0).any()

    def test_batch_loss_is_the_mean_of_the_images(self):
        torch.manual_seed(0)
        pred_map = torch.randn(3, 16, 2, 3)
        gt = [instances((40, 10, 80, 60)), instances(), instances((0, 0, 30, 30), (50, 9, 95, 60), labels=[1, 2])]
        ignored = [instances(), instances((20, 20, 60, 60), (0, 0, 9, 9)), instances()]
        head = build(ignore_iou_thr=0.1).eval()
        per_image = head.loss_per_image(pred_map, gt, ignored)
        batch = head.loss_by_feat(pred_map, gt, [{}] * 3, ignored)
        for name in LOSSES:
            assert per_image[name].shape == (3,)
            assert batch[name].item() == pytest.approx(per_image[name].mean().item())
        for i in range(3):  # the boxes that pad an image to the batch's number of boxes change nothing
            alone = head.loss_by_feat(pred_map[i : i + 1], gt[i : i + 1], [{}], ignored[i : i + 1])
            for name in LOSSES:
                assert alone[name].item() == pytest.approx(per_image[name][i].item(), rel=1e-6), name

    def test_half_precision_predictions_give_fp32_losses(self):
        torch.manual_seed(0)
        head = build()
        gt = [instances((40, 10, 80, 60))]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            (pred_map,) = head((torch.randn(1, 4, 2, 3),))
            assert pred_map.dtype == torch.bfloat16
            losses = head.loss_by_feat(pred_map, gt, [{}])
        exact = head.loss_by_feat(pred_map.detach().float(), gt, [{}])
        for name in LOSSES:
            assert losses[name].dtype == torch.float32
            assert torch.equal(losses[name], exact[name])
        sum(losses.values()).backward()
        assert head.conv_pred.weight.grad.isfinite().all()

    def test_a_stride_that_is_not_the_feature_maps(self):
        gt, metas = [instances()], [{'batch_input_shape': (64, 96)}]
        build().loss_by_feat(as_map(blank(2, 3)), gt, metas)
        build().loss_by_feat(as_map(blank(2, 3)), gt, [{'batch_input_shape': (60, 70)}])
        with pytest.raises(ValueError, match=r'anchor_generator\.strides'):
            build().loss_by_feat(as_map(blank(4, 6)), gt, metas)


class TestNotPunished:
    """A predictor without an object, whose box overlaps one by more than 0.6, may keep its objectness."""

    # Predictor 1 of cell (0, 1) is the box of 96 x 64 with its centre at (48, 16).
    BOX = centered(48, 16, 96, 64)
    ALL = 12 * sigmoid(-2) ** 2

    def noobj(self, gt, ignored=None, **kwargs):
        return build(**kwargs).loss_by_feat(as_map(blank(2, 3)), [gt], [{}], ignored)['loss_noobj'].item()

    def test_ignored_instances(self):
        assert self.noobj(instances()) == pytest.approx(self.ALL)
        # The predictors below, left and right of the box itself overlap it by at most 1/2.
        assert self.noobj(instances(), [instances(self.BOX)]) == pytest.approx(self.ALL * 11 / 12)

    def test_ignored_instances_are_not_learned(self):
        losses = build().loss_by_feat(as_map(blank(2, 3)), [instances()], [{}], [instances(self.BOX)])
        assert losses['loss_coord'] == losses['loss_obj'] == losses['loss_cls'] == 0

    def test_objects(self):
        """The object is in cell (0, 2), where prior 0 learns it; the box of prior 0 of cell (0, 1) is moved to the
        right edge of its cell. The two are (1 - shift) cells apart: their IoU is 0.587, then 0.613."""
        raw = blank(2, 3)
        raw[0, 0, 1, 0, 0] = 99.0
        for shift, punished in ((0.74, 11), (0.76, 10)):
            box = centered(64 + 32 * (1 - shift), 16, 32, 32)
            assert iou(centered(64, 16, 32, 32), box) == pytest.approx(shift / (2 - shift))
            loss = build().loss_by_feat(as_map(raw), [instances(box)], [{}])['loss_noobj'].item()
            assert loss == pytest.approx(punished * sigmoid(-2) ** 2)

    def test_threshold(self):
        low = centered(48, 16, 96, 64 * 0.7)  # IoU 0.7
        assert self.noobj(instances(), [instances(low)]) == pytest.approx(self.ALL * 11 / 12)
        assert self.noobj(instances(), [instances(low)], ignore_iou_thr=0.75) == pytest.approx(self.ALL)

    def test_boxes_of_another_image_do_not_excuse(self):
        losses = build().loss_per_image(
            as_map(blank(2, 3, num_images=2)), [instances()] * 2, [instances(), instances(self.BOX)]
        )
        assert losses['loss_noobj'].tolist() == pytest.approx([self.ALL, self.ALL * 11 / 12])


class TestTargets:
    @pytest.mark.parametrize(
        ('center', 'cell'),
        [
            ((0, 0), (0, 0)),
            ((31.9, 32), (1, 0)),
            ((96, 20), (0, 2)),  # on the right edge of the map of 96 x 64
            ((50, 64), (1, 1)),  # on its bottom edge
            ((96, 64), (1, 2)),
        ],
    )
    def test_border_boxes(self, center, cell):
        targets = targets_of([centered(*center, 20, 20)], 2, 3)
        assert responsible_for(targets, width=3) == {0: (*cell, 0)}

    def test_border_box_has_finite_losses(self):
        raw = as_map(blank(2, 3)).requires_grad_()
        loss = build().loss_by_feat(raw, [instances(centered(96, 64, 20, 20))], [{}])['loss_coord']
        # The centre is at 1 in its cell and the sigmoid at 0.5, in both directions.
        assert loss.item() == pytest.approx(2 * 0.25 + 2 * math.log(20 / 32) ** 2, rel=1e-4)
        loss.backward()
        assert raw.grad.isfinite().all()

    @pytest.mark.parametrize(('height', 'width'), [(1, 7), (7, 1), (3, 5), (5, 3)])
    def test_non_square_maps(self, height, width):
        cells = list(itertools.product(range(height), range(width)))
        boxes = [centered(32 * column + 9, 32 * row + 25, 90, 60) for row, column in cells]
        targets = targets_of(boxes, height, width)
        assert responsible_for(targets, width) == {i: (*cell, 1) for i, cell in enumerate(cells)}
        assert torch.equal(targets.boxes[targets.responsible], torch.tensor(boxes))

    def test_images_of_a_batch_are_apart(self):
        """The same cell and prior in two images are no conflict."""
        head = build()
        (grid,) = head.prior_generator.grid_priors([(2, 3)], device='cpu')
        boxes = [
            torch.tensor([centered(10, 10, 30, 30)]),
            torch.zeros(0, 4),
            torch.tensor([centered(9, 9, 31, 31)]),
        ]
        labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.long), torch.tensor([2])]
        targets = build_targets(boxes, labels, grid, (2, 3), STRIDE)
        assert targets.responsible.nonzero().tolist() == [[0, 0], [2, 0]]
        assert targets.labels[[0, 2], 0].tolist() == [1, 2]
        assert torch.equal(targets.boxes[1], grid)

    def test_better_fit_keeps_the_prior(self):
        """Both fit 32 x 32 best; the one of 30 x 30 better than that of 20 x 20, whichever comes first."""
        small, large = centered(10, 10, 20, 20), centered(12, 12, 30, 30)
        assert responsible_for(targets_of([small, large], 2, 3), 3) == {0: (0, 0, 1), 1: (0, 0, 0)}
        assert responsible_for(targets_of([large, small], 2, 3), 3) == {0: (0, 0, 0), 1: (0, 0, 1)}

    def test_equal_fit_goes_by_index(self):
        boxes = [centered(10, 10, 30, 30), centered(12, 12, 30, 30)]
        assert responsible_for(targets_of(boxes, 2, 3), 3) == {0: (0, 0, 0), 1: (0, 0, 1)}

    def test_more_objects_than_priors(self):
        boxes = [centered(10, 10, size, size) for size in (10, 28, 20)]
        assert responsible_for(targets_of(boxes, 2, 3), 3) == {1: (0, 0, 0), 2: (0, 0, 1)}

    def test_against_a_plain_loop(self):
        """Crowded cells: 50 draws with five priors against the rule written down object by object."""
        rng = random.Random(0)
        priors = ((16.0, 16.0), (32.0, 32.0), (32.0, 64.0), (96.0, 64.0), (100.0, 100.0))
        for _ in range(50):
            sizes = [(rng.choice((20, 30, 50, 90)), rng.choice((20, 30, 50, 90))) for _ in range(7)]
            cells = [(rng.randrange(2), 0) for _ in sizes]
            boxes = [centered(32 * c + 16, 32 * r + 16, w, h) for (r, c), (w, h) in zip(cells, sizes, strict=True)]
            expected = deal_by_loops(sizes, cells, priors)
            found = responsible_for(targets_of(boxes, 2, 1, priors), 1, num_priors=5)
            assert found == expected
            for cell in set(cells):
                dealt = sum(place[:2] == cell for place in found.values())
                assert dealt == min(5, cells.count(cell))

    def test_boxes_without_area_are_skipped(self):
        boxes = [(10, 10, 10, 30), (10, 10, 30, 10), (10, 10, 5, 30), centered(10, 10, 30, 30)]
        targets = targets_of(boxes, 2, 3)
        assert responsible_for(targets, 3) == {3: (0, 0, 0)}
        losses = build().loss_by_feat(as_map(blank(2, 3)), [instances(*boxes[:3])], [{}], [instances(*boxes[:3])])
        assert all(loss.isfinite() for loss in losses.values())
        assert losses['loss_coord'] == 0


def deal_by_loops(sizes, cells, priors):
    """{object: (row, column, prior)}: turn by turn, the best fit among those who ask for a prior gets it."""

    def fit(i, prior):
        return iou((0, 0, *sizes[i]), (0, 0, *priors[prior]))

    places = {}
    for _ in priors:
        asked = {}
        for i, cell in enumerate(cells):
            free = [p for p in range(len(priors)) if (*cell, p) not in places.values()]
            if i in places or not free:
                continue
            wanted = max(free, key=lambda p: (fit(i, p), -p))
            asked.setdefault((*cell, wanted), []).append(i)
        for place, candidates in asked.items():
            places[max(candidates, key=lambda i: (fit(i, place[2]), -i))] = place
    return places


class TestPriorRegularisation:
    def losses(self, head, num_images=2):
        raw = blank(2, 3, num_images=num_images)
        raw[:, 0, 0, 0, 0] = 1.0
        raw[:, 0, 0, 0, 2] = 0.3
        pred_map = as_map(raw).requires_grad_()
        gt = [instances((40, 10, 80, 60))] * num_images
        return head.loss_by_feat(pred_map, gt, [{}] * num_images)

    EXPECTED = 0.01 * ((sigmoid(1) - 0.5) ** 2 + 0.3**2)

    def test_stops_after_prior_images(self):
        head = build(prior_images=5)
        history = [self.losses(head)['loss_prior'].item() for _ in range(5)]
        # Batches of two: the counter is 0, 2 and 4 when the first three are seen.
        assert history == pytest.approx([self.EXPECTED] * 3 + [0, 0])
        assert head.images_seen == 10

    def test_weight_and_switch(self):
        assert self.losses(build(prior_images=5, prior_scale=1))['loss_prior'].item() == pytest.approx(
            100 * self.EXPECTED
        )
        assert self.losses(build(prior_images=0))['loss_prior'] == 0

    def test_predictors_with_an_object_are_left_out(self):
        raw = blank(2, 3)
        raw[0, 1, 1, 0, :4] = torch.tensor([1.0, 1.0, 0.3, 0.3])
        losses = build(prior_images=5).loss_by_feat(as_map(raw), [instances((40, 10, 80, 60))], [{}])
        assert losses['loss_prior'] == 0

    def test_count_is_saved_and_resumed(self):
        head = build(prior_images=4)
        self.losses(head)
        resumed = build(prior_images=4)
        resumed.load_state_dict(head.state_dict())
        assert resumed.images_seen == 2
        assert self.losses(resumed)['loss_prior'] > 0
        assert self.losses(resumed)['loss_prior'] == 0

    def test_evaluation_neither_counts_nor_regularises(self):
        head = build(prior_images=100)
        assert self.losses(head.eval())['loss_prior'] == 0
        head.train()
        with torch.no_grad():
            assert self.losses(head)['loss_prior'] == 0
        assert head.images_seen == 0
        assert self.losses(head)['loss_prior'] > 0
        assert head.images_seen == 2


class TestPrediction:
    META = {'img_shape': (64, 96), 'scale_factor': (0.5, 0.25)}
    CFG = {'score_thr': 0.005, 'nms_pre': 1000, 'nms': {'type': 'nms', 'iou_threshold': 0.45}, 'max_per_img': 100}

    def predict(self, raw, rescale=False, with_nms=True, **cfg):
        metas = [self.META] * len(raw)
        return build(test_cfg={**self.CFG, **cfg}).predict_by_feat(
            as_map(raw), metas, rescale=rescale, with_nms=with_nms
        )

    def test_inverts_the_targets(self):
        """A prediction equal to the targets gives the objects; its loss is zero except for the background."""
        boxes = [(40.0, 10.0, 80.0, 60.0), (1.0, 2.0, 90.0, 60.0), (65.0, 40.0, 95.0, 63.0)]
        raw = blank(2, 3, objectness=-40.0)
        for box, label in zip(boxes, (2, 0, 1), strict=True):
            cx, cy, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
            prior = max((0, 1), key=lambda p: iou((0, 0, w, h), (0, 0, *PRIORS[p])))
            column, row = int(cx // 32), int(cy // 32)
            x, y = cx / 32 - column, cy / 32 - row
            raw[0, row, column, prior, :5] = torch.tensor(
                [
                    math.log(x / (1 - x)),
                    math.log(y / (1 - y)),
                    math.log(w / PRIORS[prior][0]),
                    math.log(h / PRIORS[prior][1]),
                    20.0,
                ]
            )
            raw[0, row, column, prior, 5 + label] = 20.0
        (found,) = self.predict(raw)
        order = found.bboxes[:, 0].argsort(descending=True)
        assert found.labels[order].tolist() == [1, 2, 0]
        expected = [boxes[2], boxes[0], boxes[1]]
        assert torch.allclose(found.bboxes[order], torch.tensor(expected), atol=1e-3)
        assert torch.allclose(found.scores, torch.ones(3), atol=1e-5)

        losses = build().loss_by_feat(as_map(raw), [instances(*boxes, labels=[2, 0, 1])], [{}])
        assert all(loss.item() < 1e-6 for loss in losses.values())

        (original,) = self.predict(raw, rescale=True)
        in_original = original.bboxes * torch.tensor([0.5, 0.25, 0.5, 0.25])
        assert torch.allclose(in_original, found.bboxes, atol=1e-4)

    def test_score_is_objectness_times_softmax_for_every_class(self):
        raw = blank(2, 3, objectness=-40.0)
        raw[0, 1, 1, 0] = torch.tensor([0, 0, 0, 0, 0.5, 1.0, 2.0, -9.0])
        (found,) = self.predict(raw)
        total = math.exp(1) + math.exp(2) + math.exp(-9)
        expected = [sigmoid(0.5) * math.exp(2) / total, sigmoid(0.5) * math.exp(1) / total]
        assert found.labels.tolist() == [1, 0]  # the third class is below score_thr
        assert found.scores.tolist() == pytest.approx(expected, rel=1e-5)

    def test_nms_is_class_wise(self):
        """Predictor 0 of two cells, moved to the same place: one box of each class is left."""
        raw = blank(2, 3, objectness=-40.0)
        for column, shift, label, objectness in ((0, 4.0, 0, 3.0), (1, -4.0, 0, 2.0), (1, -4.0, 1, 2.0)):
            raw[0, 0, column, 0, 0] = shift
            raw[0, 0, column, 0, 4] = objectness
            raw[0, 0, column, 0, 5 + label] = 20.0
        (found,) = self.predict(raw)
        assert sorted(found.labels.tolist()) == [0, 1]
        assert found.scores.max().item() == pytest.approx(sigmoid(3.0), rel=1e-4)
        (without,) = self.predict(raw, with_nms=False)
        assert len(without) == 3

    def test_limits(self):
        raw = torch.randn(2, 2, 3, 2, 8, generator=torch.Generator().manual_seed(0))
        assert [len(found) for found in self.predict(raw, max_per_img=3)] == [3, 3]
        assert [len(found) for found in self.predict(raw, nms_pre=5, with_nms=False)] == [5, 5]
        everything = self.predict(raw, nms_pre=-1, score_thr=0, with_nms=False)
        assert [len(found) for found in everything] == [36, 36]
        assert [len(found) for found in self.predict(raw, score_thr=1)] == [0, 0]

    def test_boxes_are_clipped_to_the_image(self):
        raw = blank(2, 3, objectness=5.0)
        raw[..., 2:4] = 3.0
        (found,) = self.predict(raw)
        assert found.bboxes.unique(dim=0).tolist() == [[0, 0, 96, 64]]

    def test_a_wild_prediction_gives_no_nan(self):
        raw = blank(2, 3, objectness=5.0)
        raw[..., 2:4] = 1000.0
        (found,) = self.predict(raw)
        assert found.bboxes.isfinite().all()

    @pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
    def test_leaves_the_prediction_map_alone(self, memory_format):
        """With channels last, the head's view of the map shares its memory."""
        before = as_map(torch.randn(1, 2, 3, 2, 8))
        pred_map = before.clone().contiguous(memory_format=memory_format).requires_grad_()
        head = build(test_cfg=self.CFG)
        losses = head.loss_by_feat(pred_map, [instances((40, 10, 80, 60))], [{}])
        (found,) = head.predict_by_feat(pred_map, [self.META])
        assert torch.equal(pred_map, before)
        assert not found.bboxes.requires_grad
        assert not found.scores.requires_grad
        sum(losses.values()).backward()
        assert pred_map.grad.isfinite().all()

    def test_needs_a_test_cfg(self):
        with pytest.raises(ValueError, match='test_cfg'):
            build().predict_by_feat(as_map(blank(2, 3)), [self.META])


class TestConfig:
    def test_defaults_are_the_voc_priors_of_yolov2(self):
        head = MODELS.build({'type': 'resist_mm.YOLOV2Head', 'num_classes': 20, 'in_channels': 512})
        head.init_weights()
        assert head.stride == 32
        sizes = [(w / 32, h / 32) for w, h in head.prior_generator.base_sizes[0]]
        assert sizes[0] == pytest.approx((1.3221, 1.73145))
        assert sizes[4] == pytest.approx((11.2364, 10.0071))
        assert head.conv_pred.weight.shape == (125, 512, 1, 1)
        assert head.conv_pred.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert (head.conv_pred.bias == 0).all()
        assert head.prior_images == 12800

    def test_predicts_from_the_last_feature_map(self):
        (pred_map,) = build()((torch.randn(1, 9, 4, 6), torch.randn(1, 4, 2, 3)))
        assert pred_map.shape == (1, 16, 2, 3)

    @pytest.mark.parametrize(
        'wrong',
        [
            {'num_classes': 0},
            {'in_channels': 0},
            {'object_scale': -1},
            {'coord_scale': float('nan'), 'loss': 'bce'},
            {'noobject_scale': None, 'loss': 'bce'},
            {'ignore_iou_thr': '0.6'},
            {'prior_images': -1},
        ],
    )
    def test_out_of_range(self, wrong):
        with pytest.raises(ValueError, match=f'`{next(iter(wrong))}` of YOLOV2Head.*got'):
            YOLOV2Head(**{'num_classes': 3, 'in_channels': 4, **wrong})

    @pytest.mark.parametrize('strides', [[32, 16], [(32, 16)]])
    def test_one_square_stride(self, strides):
        generator = anchors(strides=strides)
        generator['base_sizes'] *= len(strides)
        with pytest.raises(ValueError, match=r'anchor_generator\.strides'):
            YOLOV2Head(num_classes=3, in_channels=4, anchor_generator=generator)


class TestCrossEntropy:
    def test_against_arithmetic(self):
        """As for squared errors: an object of 40 x 50 in an input of 96 x 64."""
        raw = blank(2, 3, num_images=2)
        raw[0, 1, 1, 0] = torch.tensor([0.3, -0.4, 0.1, -0.2, 0.7, 0.5, -1.0, 2.0])
        head = build(loss='bce', object_scale=5, noobject_scale=0.5, coord_scale=2)
        losses = head.loss_by_feat(as_map(raw), [instances((40, 10, 80, 60), labels=[2]), instances()], [{}, {}])

        coord = (sigmoid(0.3) - (60 / 32 - 1)) ** 2 + (sigmoid(-0.4) - (35 / 32 - 1)) ** 2
        coord += (0.1 - math.log(40 / 32)) ** 2 + (-0.2 - math.log(50 / 32)) ** 2
        coord *= 2 - 40 * 50 / (96 * 64)
        obj, noobj = -math.log(sigmoid(0.7)), -(11 + 12) * math.log(1 - sigmoid(-2))
        for name, value in {'coord': 2 * coord, 'obj': 5 * obj, 'noobj': 0.5 * noobj}.items():
            assert losses[f'loss_{name}'].item() == pytest.approx(value / 2, rel=1e-5), name

    def test_a_low_objectness_is_alive(self):
        """The gradient of a predictor at 0.001 that has an object, with both losses."""
        gradients = {}
        for loss in ('squared', 'bce'):
            pred_map = as_map(blank(1, 1, objectness=math.log(0.001 / 0.999))).requires_grad_()
            losses = build(loss=loss).loss_by_feat(pred_map, [instances(centered(16, 16, 32, 32))], [{}])
            losses['loss_obj'].backward()
            gradients[loss] = -pred_map.grad.view(2, 8)[0, 4].item()
        assert gradients['bce'] == pytest.approx(0.999)
        assert 0 < gradients['squared'] < 0.011

    def test_defaults(self):
        for loss, scales in {'squared': (1, 5), 'bce': (0.5, 1)}.items():
            head = build(loss=loss)
            assert (head.coord_scale, head.object_scale) == scales
        head = build(loss='bce', coord_scale=3, object_scale=4)
        assert (head.coord_scale, head.object_scale) == (3, 4)

    def test_weight_of_no_object_rises(self):
        raw, gt = as_map(blank(2, 3)), [instances()]
        head = build(loss='bce', prior_images=10)
        seen = []
        for images in (0, 5, 10, 20):
            head.images_seen.fill_(images)
            seen.append(head.loss_by_feat(raw, gt, [{}])['loss_noobj'].item())
        whole = build(loss='bce').loss_by_feat(raw, gt, [{}])['loss_noobj'].item()
        assert seen == pytest.approx([0.1 * whole, 0.55 * whole, whole, whole])
        early = build(loss='bce', prior_images=10)
        with torch.no_grad():  # evaluation
            assert early.loss_by_feat(raw, gt, [{}])['loss_noobj'].item() == whole
        squared = build(prior_images=10).loss_by_feat(raw, gt, [{}])['loss_noobj'].item()
        assert squared == pytest.approx(12 * sigmoid(-2) ** 2)

    @pytest.mark.parametrize('scale', [1, 1000])
    def test_gradients_are_finite(self, scale):
        torch.manual_seed(0)
        pred_map = (scale * torch.randn(2, 16, 2, 3)).requires_grad_()
        gt = [instances((40, 10, 80, 60)), instances((0, 0, 96, 64), (1, 1, 2, 2))]
        losses = build(loss='bce', prior_images=100).loss_by_feat(pred_map, gt, [{}, {}])
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert pred_map.grad.isfinite().all()

    def test_first_objectness(self):
        for loss, expected in {'squared': 0.5, 'bce': 0.01}.items():
            head = build(loss=loss)
            head.init_weights()
            biases = head.conv_pred.bias.view(2, 8)
            assert biases[:, 4].sigmoid().tolist() == pytest.approx([expected] * 2)
            assert biases[:, :4].abs().max() == biases[:, 5:].abs().max() == 0

    def test_pretrained_weights_keep_their_bias(self, tmp_path):
        """Those of a head with the other loss: checkpoints are the same."""
        old = build()
        old.init_weights()
        torch.save(old.state_dict(), tmp_path / 'head.pth')
        head = build(loss='bce', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'head.pth')))
        head.init_weights()
        assert torch.equal(head.conv_pred.bias, old.conv_pred.bias)
        for made in (head, old):  # nor do those of earlier versions
            assert list(made.state_dict()) == ['images_seen', 'conv_pred.weight', 'conv_pred.bias']

    @pytest.mark.parametrize('loss', ['focal', None, {'type': 'CrossEntropyLoss'}])
    def test_a_loss_that_does_not_exist(self, loss):
        with pytest.raises(ValueError, match=r"`loss` of YOLOV2Head must be one of 'squared', 'bce', got "):
            build(loss=loss)
