# Data-parallel training: gradients are averaged in every iteration. mmengine's own, no hook needed.
custom_imports = dict(imports=['resist_mm'], allow_failed_imports=False)
# device_ids=None: mmengine's default, one GPU a worker, fails on a CPU and where workers share a GPU
model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
