# YOLOv2 on Pascal VOC under ResIST (Table 6 of the paper), from scratch:
#
#   tools/dist_train.sh configs/yolo_resist_voc.py 4
#
# The paper reports the best loss on VOC2007 test, 5.99 with two workers and 6.69 with four. The exact form of its loss
# is not known; here pascal_voc/loss is the sum of the loss_* of the training log. The mAP is reported too.
#
# Learning rate: 1e-3 from scratch (this file), 1e-4 from ImageNet weights (yolo_resist_pretrained_voc.py).
_base_ = ['./_base_/yolo_voc.py', './_base_/protocols/resist.py']
