# Local SGD, to be compared with yolo-small_resist_voc2007.py; the same number of training images.
_base_ = ['../_base_/yolo_voc2007_small.py', '../_base_/protocols/local_sgd.py']
