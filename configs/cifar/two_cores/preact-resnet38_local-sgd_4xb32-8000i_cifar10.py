# Local SGD, to be compared with preact-resnet38_resist_4xb32-8000i_cifar10.py; the same number of training images.
_base_ = ['../../_base_/cifar10_two_cores.py', '../../_base_/protocols/local_sgd.py']
