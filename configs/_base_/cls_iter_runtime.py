# cls_runtime.py for runs whose length is given in iterations, not in epochs.
_base_ = './cls_runtime.py'
default_hooks = dict(checkpoint=dict(by_epoch=False), logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
