# Data-parallel training, to be compared with yolo-small_resist_voc2007.py; the same number of training images. The
# optimizer sees the batch of all four workers, so the learning rate is four times as high.
_base_ = ['../_base_/yolo_voc2007_small.py', '../_base_/protocols/ddp.py']
optim_wrapper = dict(optimizer=dict(lr=0.04))
