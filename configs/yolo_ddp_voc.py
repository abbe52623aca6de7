# YOLOv2 on Pascal VOC with plain data-parallel training, for comparison; not in the paper. The optimizer sees the batch
# of all workers together; --auto-scale-lr scales the learning rate with it.
_base_ = ['./_base_/yolo_voc.py', './_base_/protocols/ddp.py']
auto_scale_lr = dict(enable=False, base_batch_size=10)
