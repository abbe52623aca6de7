# ResIST: every worker trains a shallow sub-ResNet, dealt anew every 50 iterations. Inherit this file, and give
# the model a backbone with a partitioned stage: resist_mm.PartitionableResNet or resist_mm.PreActResNet.
custom_imports = dict(imports=['resist_mm'], allow_failed_imports=False)
model_wrapper_cfg = dict(type='resist_mm.LocalModel')
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=50)]
