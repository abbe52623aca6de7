# Like the CIFAR-10 model, with 100 classes: exactly the published 41,396,900 parameters.
_base_ = './preact-resnet101_cifar10.py'
model = dict(num_classes=100)
