"""YOLOv2 detector."""

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.bbox import get_box_tensor, scale_boxes
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from mmengine.structures import InstanceData
from torch import Tensor

from resist_mm.registry import MODELS


@MODELS.register_module()
class YOLOV2(SingleStageDetector):
    """YOLOv2, `YOLO9000: Better, Faster, Stronger <https://arxiv.org/abs/1612.08242>`_.

    The detector of the `ResIST paper <https://arxiv.org/abs/2107.00961>`_ (Table 6): a ResNet and one
    convolution on its last feature map that predicts the boxes. The paper reports the loss on the test set;
    the switch ``with_loss`` makes it available to :class:`LossMetric`.

    Args:
        backbone (:obj:`ConfigDict` or dict): Config of the backbone.
        neck (:obj:`ConfigDict` or dict, optional): Config of the neck. Defaults to None.
        bbox_head (:obj:`ConfigDict` or dict): Config of the head, usually :class:`YOLOV2Head`.
        train_cfg (:obj:`ConfigDict` or dict, optional): Passed to the head. Defaults to None.
        test_cfg (:obj:`ConfigDict` or dict, optional): Post-processing, passed to the head, and one key for
            the detector itself: with ``with_loss=True``, :meth:`predict` also attaches the loss of every
            annotated image to its data sample. Defaults to None.
        data_preprocessor (:obj:`ConfigDict` or dict, optional): Config of the data preprocessor.
            Defaults to None.
        init_cfg (:obj:`ConfigDict` or dict, optional): Initialization config. Defaults to None.

    Raises:
        TypeError: ``with_loss`` is not a bool, or is set with a head that has no ``loss_per_image``.
    """

    def __init__(
        self,
        backbone: ConfigType,
        neck: OptConfigType = None,
        bbox_head: OptConfigType = None,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        data_preprocessor: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        if bbox_head is None:
            raise TypeError('`bbox_head` of YOLOV2 is None; it must be a config such as resist_mm.YOLOV2Head.')
        super().__init__(backbone, neck, bbox_head, train_cfg, test_cfg, data_preprocessor, init_cfg)
        self.with_loss = (test_cfg or {}).get('with_loss', False)
        if not isinstance(self.with_loss, bool):
            raise TypeError(f'`test_cfg.with_loss` must be True or False, got {self.with_loss!r}.')
        if self.with_loss and not hasattr(self.bbox_head, 'loss_per_image'):
            raise TypeError(
                '`test_cfg.with_loss=True` needs a head with `loss_per_image`, such as '
                f'resist_mm.YOLOV2Head, got {type(self.bbox_head).__name__}.'
            )

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """Predict boxes and, with ``test_cfg.with_loss=True``, attach the loss of every image.

        The loss and the boxes come from the same forward pass. The loss is a float, the field ``loss`` of
        the data sample's metainfo. It is attached where annotations were loaded. (mmdet's
        ``inference_detector`` runs ``LoadAnnotations`` without any: it gets the loss of an empty image.)

        mmdet's test pipelines load annotations after resizing, so that the metric compares in the
        coordinates of the original image. For the loss only, the boxes are scaled to the resized image by
        ``scale_factor``; those in the data samples are not changed. Keep that order in other pipelines:
        boxes loaded before the resizing would be scaled twice.

        Args:
            batch_inputs (Tensor): (N, 3, H, W) images.
            batch_data_samples (list[:obj:`DetDataSample`]): N data samples.
            rescale (bool): Whether to return boxes in the coordinates of the original image. Defaults to
                True.

        Returns:
            list[:obj:`DetDataSample`]: The data samples with ``pred_instances`` (scores, labels, bboxes).
        """
        outs = self.bbox_head(self.extract_feat(batch_inputs))
        batch_img_metas = [sample.metainfo for sample in batch_data_samples]
        results = self.bbox_head.predict_by_feat(*outs, batch_img_metas=batch_img_metas, rescale=rescale)
        if self.with_loss and all(_is_annotated(sample) for sample in batch_data_samples):
            self._attach_losses(outs, batch_data_samples)
        return self.add_pred_to_datasample(batch_data_samples, results)

    @torch.no_grad()
    def _attach_losses(self, outs: tuple[Tensor, ...], batch_data_samples: SampleList) -> None:
        """Set ``loss`` of every data sample to the sum of that image's losses.

        Args:
            outs (tuple[Tensor, ...]): Output of the head's forward.
            batch_data_samples (list[:obj:`DetDataSample`]): Annotated, in coordinates of the original image.
        """
        losses = self.bbox_head.loss_per_image(
            *outs,
            [_resized(sample, 'gt_instances') for sample in batch_data_samples],
            [_resized(sample, 'ignored_instances') for sample in batch_data_samples],
        )
        totals = torch.stack(list(losses.values())).sum(dim=0).tolist()
        for sample, total in zip(batch_data_samples, totals, strict=True):
            sample.set_metainfo({'loss': total})


def _is_annotated(sample: DetDataSample) -> bool:
    """Whether annotations were loaded, even if the image has no object."""
    return 'gt_instances' in sample and 'bboxes' in sample.gt_instances


def _resized(sample: DetDataSample, key: str) -> InstanceData:
    """Copy instances with their boxes scaled from the original image to the network's input.

    Args:
        sample (:obj:`DetDataSample`): An annotated data sample with ``scale_factor`` (w, h).
        key (str): ``gt_instances`` or ``ignored_instances``.

    Returns:
        :obj:`InstanceData`: Boxes (n, 4) and labels (n, ); empty where the sample has none.
    """
    instances = sample.get(key)
    if instances is None or 'bboxes' not in instances:
        return InstanceData()
    if 'scale_factor' not in sample.metainfo:
        raise KeyError(
            '`test_cfg.with_loss=True` needs `scale_factor` of every image: put a `Resize` into the test '
            f"pipeline and 'scale_factor' into `PackDetInputs.meta_keys`. Found {sorted(sample.metainfo)}."
        )
    boxes = scale_boxes(get_box_tensor(instances.bboxes), sample.metainfo['scale_factor'])
    return InstanceData(bboxes=boxes, labels=instances.labels)
