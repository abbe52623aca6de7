# YOLOv2 on Pascal VOC under local SGD, the baseline of Table 6 (best test loss 6.15 with two workers, 6.22 with
# four), from scratch. Everything except the protocol is the same as in yolo_resist_voc.py.
_base_ = ['./_base_/yolo_voc.py', './_base_/protocols/local_sgd.py']
