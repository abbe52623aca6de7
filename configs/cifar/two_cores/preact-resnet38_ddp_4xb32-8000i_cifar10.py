# Data-parallel training, to be compared with preact-resnet38_resist_4xb32-8000i_cifar10.py; the same number of training
# images. The optimizer sees the batch of all four workers, so the learning rate is four times as high.
_base_ = ['../../_base_/cifar10_two_cores.py', '../../_base_/protocols/ddp.py']
optim_wrapper = dict(optimizer=dict(lr=0.2))
