# Local SGD, the baseline of ResIST: every worker trains the whole model, averaged every 50 iterations.
custom_imports = dict(imports=['resist_mm'], allow_failed_imports=False)
model_wrapper_cfg = dict(type='resist_mm.LocalModel')
custom_hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=50)]
