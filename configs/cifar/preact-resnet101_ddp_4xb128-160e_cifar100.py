# CIFAR-100, data-parallel training with 4 workers, for comparison (Fig. 4: about 20,000 GB in all). The optimizer
# sees the batch of all workers, so the learning rate is four times as high.
_base_ = [
    '../_base_/models/preact-resnet101_cifar100.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_160e.py',
    '../_base_/cls_runtime.py',
    '../_base_/protocols/ddp.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.12))
auto_scale_lr = dict(enable=False, base_batch_size=512)
