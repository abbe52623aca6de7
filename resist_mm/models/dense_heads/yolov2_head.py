"""YOLOv2 head."""

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import filter_scores_and_topk
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import ConfigType, InstanceList, OptConfigType, OptInstanceList, OptMultiConfig
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from resist_mm.registry import MODELS

from .voc_priors import VOC_ANCHOR_GENERATOR
from .yolov2_losses import Predictions, logit, loss_kind, objectness_errors, rising_weight, size_weights
from .yolov2_targets import YOLOV2Targets, boxes_of, build_targets

BBOX_CODER = {'type': 'mmdet.YOLOBBoxCoder'}
INIT_CFG = {'type': 'Normal', 'layer': 'Conv2d', 'std': 0.01}
# exp(10) priors are larger than any image; beyond, a wild prediction would overflow and its IoU be NaN.
MAX_LOG_SIZE = 10.0


@MODELS.register_module()
class YOLOV2Head(BaseDenseHead):
    """Head of YOLOv2, `YOLO9000: Better, Faster, Stronger <https://arxiv.org/abs/1612.08242>`_, section 2.

    One 1x1 convolution on the last feature map predicts, for every cell and prior, a box, its objectness
    and the classes. The losses are sums over an image, averaged over the images of the batch:

    - ``loss_coord``: squared error of sigmoid offsets and log sizes, at responsible predictors.
    - ``loss_obj``: squared error between the objectness of a responsible predictor and the IoU of its box.
    - ``loss_noobj``: squared objectness of all others, except for those whose box overlaps any object, or any
      ignored one (``difficult`` in VOC), by more than ``ignore_iou_thr``.
    - ``loss_cls``: softmax cross entropy at responsible predictors.
    - ``loss_prior``: squared distance of all others from their prior, in the first ``prior_images``
      training images and zero from then on. It belongs to training, so it is zero in evaluation and without
      gradients.

    That is ``loss='squared'``, the paper's. It learns nothing of objects that are rare for their prior. With
    ``loss='bce'``, as in YOLOv3, ``loss_obj`` and ``loss_noobj`` are binary cross entropies with targets 1 and
    0, and coordinates weigh more the smaller an object is, from 1 to 2. Objectness begins at 0.01 and the weight
    of ``loss_noobj`` at a tenth, from where it rises over the first ``prior_images`` (in evaluation it is whole).
    ``docs/detection.md`` compares the two, and Darknet. Checkpoints are the same for both.

    The number of training images seen is the buffer ``images_seen``, so that a resumed run continues correctly.

    Args:
        num_classes (int): Number of classes, without background.
        in_channels (int): Channels of the last feature map.
        anchor_generator (:obj:`ConfigDict` or dict): Config of mmdet's ``YOLOAnchorGenerator`` with one
            level; it also gives the stride. Defaults to stride 32 with the five VOC priors of YOLOv2.
        bbox_coder (:obj:`ConfigDict` or dict): Config of the box coder. Defaults to mmdet's
            ``YOLOBBoxCoder``.
        loss (str): ``'squared'`` or ``'bce'``. Defaults to ``'squared'``.
        object_scale (float, optional): Weight of ``loss_obj``. Defaults to None: 5, or 1 with ``'bce'``.
        noobject_scale (float): Weight of ``loss_noobj``. Defaults to 1.
        coord_scale (float, optional): Weight of ``loss_coord``. Defaults to None: 1, or 0.5 with ``'bce'``.
        class_scale (float): Weight of ``loss_cls``. Defaults to 1.
        ignore_iou_thr (float): IoU above which a predictor without an object is not penalised. Defaults to
            0.6.
        prior_images (int): Number of training images, seen by this worker, with ``loss_prior`` and, with
            ``'bce'``, a lower weight of ``loss_noobj``; 0 switches both off. Defaults to 12800.
        prior_scale (float): Weight of ``loss_prior``. Defaults to 0.01.
        train_cfg (:obj:`ConfigDict` or dict, optional): Not used; mmdet's detectors pass it.
        test_cfg (:obj:`ConfigDict` or dict, optional): Post-processing: ``score_thr``, ``nms_pre``, ``nms``,
            ``max_per_img``. For the mAP of VOC: 0.005, 1000, ``dict(type='nms', iou_threshold=0.45)``, 100.
        init_cfg (:obj:`ConfigDict` or dict, optional): Initialization config. Defaults to normal, std 0.01.

    Raises:
        ValueError: An argument is out of range, or the anchor generator has several levels or a non-square
            stride.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        anchor_generator: ConfigType = VOC_ANCHOR_GENERATOR,
        bbox_coder: ConfigType = BBOX_CODER,
        loss: str = 'squared',
        object_scale: float | None = None,
        noobject_scale: float = 1.0,
        coord_scale: float | None = None,
        class_scale: float = 1.0,
        ignore_iou_thr: float = 0.6,
        prior_images: int = 12800,
        prior_scale: float = 0.01,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        init_cfg: OptMultiConfig = INIT_CFG,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.kind = loss_kind(loss)
        object_scale = self.kind.object_scale if object_scale is None else object_scale
        coord_scale = self.kind.coord_scale if coord_scale is None else coord_scale
        _check_at_least(1, num_classes=num_classes, in_channels=in_channels)
        _check_at_least(
            0,
            object_scale=object_scale,
            noobject_scale=noobject_scale,
            coord_scale=coord_scale,
            class_scale=class_scale,
            ignore_iou_thr=ignore_iou_thr,
            prior_images=prior_images,
            prior_scale=prior_scale,
        )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.object_scale = object_scale
        self.noobject_scale = noobject_scale
        self.coord_scale = coord_scale
        self.class_scale = class_scale
        self.ignore_iou_thr = ignore_iou_thr
        self.prior_images = prior_images
        self.prior_scale = prior_scale
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.prior_generator = TASK_UTILS.build(anchor_generator)
        strides = self.prior_generator.strides
        if len(strides) != 1 or strides[0][0] != strides[0][1]:
            raise ValueError(
                f'`anchor_generator.strides` of YOLOV2Head is {strides}; '
                'it must be one square stride such as [32].'
            )
        self.stride = strides[0][0]
        self.num_base_priors = self.prior_generator.num_base_priors[0]
        self.conv_pred = nn.Conv2d(in_channels, self.num_base_priors * (5 + num_classes), 1)
        self.images_seen: Tensor
        self.register_buffer('images_seen', torch.zeros((), dtype=torch.long))

    def init_weights(self) -> None:
        """Initialise the weights, and the bias of the objectness as the loss needs it."""
        first = not self.is_init
        super().init_weights()
        if first and self.kind.cross_entropy and not _is_pretrained(self.init_cfg):
            biases = self.conv_pred.get_parameter('bias').data.view(self.num_base_priors, -1)
            biases[:, 4] = logit(self.kind.first_objectness)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Predict from the last feature map.

        Args:
            x (tuple[Tensor]): Feature maps, the last (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: One prediction map (N, num_priors * (5 + num_classes), H, W). The channels of a
            prior are x, y, w, h, objectness and the classes.
        """
        return (self.conv_pred(x[-1]),)

    def loss_by_feat(
        self,
        pred_map: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch and, in training, count its images.

        Args:
            pred_map (Tensor): Prediction map as returned by :meth:`forward`.
            batch_gt_instances (list[:obj:`InstanceData`]): N times ``bboxes`` (n, 4) and ``labels`` (n, ),
                in pixels of the network's input.
            batch_img_metas (list[dict]): Meta information of each image.
            batch_gt_instances_ignore (list[:obj:`InstanceData`], optional): N times ``bboxes`` (n, 4) that
                are neither learned nor penalised. Defaults to None.

        Returns:
            dict[str, Tensor]: The mean over the images of each loss of :meth:`loss_per_image`.
        """
        self._check_stride(pred_map, batch_img_metas)
        losses = self.loss_per_image(pred_map, batch_gt_instances, batch_gt_instances_ignore)
        if self._learns:
            self.images_seen += pred_map.size(0)
        return {name: loss.mean() for name, loss in losses.items()}

    def loss_per_image(
        self,
        pred_map: Tensor,
        batch_gt_instances: InstanceList,
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of every image.

        Args:
            pred_map (Tensor): As for :meth:`loss_by_feat`.
            batch_gt_instances (list[:obj:`InstanceData`]): As for :meth:`loss_by_feat`.
            batch_gt_instances_ignore (list[:obj:`InstanceData`], optional): As for :meth:`loss_by_feat`.

        Returns:
            dict[str, Tensor]: The losses named in the class docstring, each (N, ), fp32.
        """
        preds = self._decode(pred_map)
        boxes = [boxes_of(instances, preds.boxes) for instances in batch_gt_instances]
        labels = [
            instances.labels if len(box) else box.new_zeros(0)
            for instances, box in zip(batch_gt_instances, boxes, strict=True)
        ]
        known = boxes
        if batch_gt_instances_ignore is not None:
            ignored = [boxes_of(instances, preds.boxes) for instances in batch_gt_instances_ignore]
            known = [torch.cat(pair) for pair in zip(boxes, ignored, strict=True)]
        height, width = pred_map.shape[-2:]
        targets = build_targets(boxes, labels, preds.priors, (height, width), self.stride)
        return {
            **self._box_losses(preds, targets, (width * self.stride, height * self.stride)),
            **self._objectness_losses(preds, targets, known),
            'loss_cls': self._class_loss(preds, targets),
        }

    def _box_losses(
        self, preds: Predictions, targets: YOLOV2Targets, input_size: tuple[float, float]
    ) -> dict[str, Tensor]:
        """Squared error of the box coordinates.

        The target of a predictor without an object is its own prior: that is the early regularisation. The
        paper does not mention it; it is in its authors' code (Darknet, ``region_layer.c``: weight 0.01,
        12800 images).
        """
        priors = preds.priors.repeat(len(targets.boxes), 1)
        coords = self.bbox_coder.encode(priors, targets.boxes.flatten(0, 1), self.stride)
        error = (preds.coords - coords.view_as(preds.coords)).square().sum(dim=-1)
        coord_error = error.masked_fill(~targets.responsible, 0)
        if self.kind.cross_entropy:
            coord_error = coord_error * size_weights(targets.boxes, *input_size)
        early = self.images_seen < self.prior_images  # stays a tensor: no synchronisation with the device
        regularises = early & self._learns
        prior_error = error.masked_fill(targets.responsible | ~regularises, 0)
        return {
            'loss_coord': self.coord_scale * coord_error.sum(dim=1),
            'loss_prior': self.prior_scale * prior_error.sum(dim=1),
        }

    def _objectness_losses(
        self, preds: Predictions, targets: YOLOV2Targets, known: list[Tensor]
    ) -> dict[str, Tensor]:
        """Errors of the objectness; ``known`` are boxes (n, 4) per image that excuse a predictor."""
        iou = bbox_overlaps(preds.boxes, targets.boxes, is_aligned=True).clamp(0, 1)
        # A padding box has no area and so overlaps nothing.
        overlaps = bbox_overlaps(preds.boxes, pad_sequence(known, batch_first=True))
        excused = (overlaps > self.ignore_iou_thr).any(dim=-1)
        obj_error, noobj_error = objectness_errors(self.kind, preds.objectness, iou)
        obj_error = obj_error.masked_fill(~targets.responsible, 0)
        noobj_error = noobj_error.masked_fill(targets.responsible | excused, 0)
        noobject_scale: float | Tensor = self.noobject_scale
        if self.kind.cross_entropy and self._learns:
            noobject_scale = noobject_scale * rising_weight(self.images_seen, self.prior_images)
        return {
            'loss_obj': self.object_scale * obj_error.sum(dim=1),
            'loss_noobj': noobject_scale * noobj_error.sum(dim=1),
        }

    def _class_loss(self, preds: Predictions, targets: YOLOV2Targets) -> Tensor:
        """Cross entropy of the classes at responsible predictors, (N, )."""
        error = F.cross_entropy(preds.classes.transpose(1, 2), targets.labels, reduction='none')
        return self.class_scale * error.masked_fill(~targets.responsible, 0).sum(dim=1)

    def predict_by_feat(
        self,
        pred_map: Tensor,
        batch_img_metas: list[dict],
        cfg: OptConfigType = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceList:
        """Turn a prediction map into boxes.

        The score of a class is objectness times its softmax probability; a predictor may give boxes of
        several classes. Boxes are clipped to the image.

        Args:
            pred_map (Tensor): Prediction map as returned by :meth:`forward`; it is not changed.
            batch_img_metas (list[dict]): Meta information of each image.
            cfg (:obj:`ConfigDict` or dict, optional): Post-processing. Defaults to None: ``test_cfg``.
            rescale (bool): Whether to return boxes in the coordinates of the original image. Defaults to
                False.
            with_nms (bool): Whether to run NMS. Defaults to True.

        Returns:
            list[:obj:`InstanceData`]: N times ``scores`` (n, ), ``labels`` (n, ), ``bboxes`` (n, 4).
        """
        cfg = self.test_cfg if cfg is None else cfg
        if cfg is None:
            raise ValueError(
                '`test_cfg` of YOLOV2Head is None; predicting needs score_thr, nms_pre, nms, max_per_img.'
            )
        cfg = ConfigDict(cfg)
        preds = self._decode(pred_map.detach())
        batch_scores = preds.objectness.sigmoid()[..., None] * preds.classes.softmax(dim=-1)
        batch_results = []
        for boxes, scores, img_meta in zip(preds.boxes, batch_scores, batch_img_metas, strict=True):
            nms_pre = cfg.get('nms_pre', -1)
            scores, labels, keep, _ = filter_scores_and_topk(
                scores, cfg.get('score_thr', 0), nms_pre if nms_pre > 0 else scores.numel()
            )
            height, width = img_meta['img_shape'][:2]
            limit = boxes.new_tensor([width, height, width, height])
            results = InstanceData(scores=scores, labels=labels, bboxes=boxes[keep].clamp(min=0).minimum(limit))
            batch_results.append(self._bbox_post_process(results, cfg, rescale, with_nms, img_meta))
        return batch_results

    @property
    def _learns(self) -> bool:
        """Whether this is training: losses of an evaluation must not depend on how early it is."""
        return self.training and torch.is_grad_enabled()

    def _decode(self, pred_map: Tensor) -> Predictions:
        """Decode a prediction map (N, num_priors * (5 + num_classes), H, W), in fp32 also under AMP."""
        num_images, _, height, width = pred_map.shape
        raw = pred_map.float().permute(0, 2, 3, 1).reshape(num_images, -1, 5 + self.num_classes)
        coords = torch.cat([raw[..., :2].sigmoid(), raw[..., 2:4]], dim=-1)
        (priors,) = self.prior_generator.grid_priors([(height, width)], device=raw.device)
        with torch.no_grad():
            finite = torch.cat([coords[..., :2], coords[..., 2:].clamp(max=MAX_LOG_SIZE)], dim=-1)
            boxes = self.bbox_coder.decode(priors, finite, self.stride)
        return Predictions(coords, boxes, raw[..., 4], raw[..., 5:], priors)

    def _check_stride(self, pred_map: Tensor, batch_img_metas: list[dict]) -> None:
        """Raise ValueError where the feature map cannot have the anchor generator's stride."""
        cells = tuple(pred_map.shape[-2:])
        input_shape = batch_img_metas[0].get('batch_input_shape', [side * self.stride for side in cells])
        if any(abs(c * self.stride - p) >= self.stride for c, p in zip(cells, input_shape, strict=True)):
            raise ValueError(
                f'`anchor_generator.strides` of YOLOV2Head is [{self.stride}], but an input of '
                f'{tuple(input_shape)} pixels gave a feature map of {cells} cells; set the stride that the '
                'feature map has.'
            )


def _check_at_least(minimum: float, **arguments: float) -> None:
    """Raise ValueError naming the first argument that is not a number or below the minimum."""
    for name, value in arguments.items():
        if not isinstance(value, int | float) or not value >= minimum:  # NaN too
            raise ValueError(f'`{name}` of YOLOV2Head must be a number of at least {minimum}, got {value!r}.')


def _is_pretrained(init_cfg: OptMultiConfig) -> bool:
    """Whether weights are loaded, and the bias of the objectness with them."""
    cfgs = init_cfg if isinstance(init_cfg, list) else [init_cfg or {}]
    return any(cfg.get('type') == 'Pretrained' for cfg in cfgs)
