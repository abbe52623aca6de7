# Data-parallel training: gradients are averaged in every iteration, by mmengine's own wrapper; no hook is needed.
custom_imports = dict(imports=['resist_mm'], allow_failed_imports=False)
# device_ids=None: mmengine's default, one GPU per worker, fails on a CPU and if workers share a GPU
model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
