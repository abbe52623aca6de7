# Common to all classification configs: hooks, log, environment. Needs no mmdet.
default_scope = 'mmengine'
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='resist_mm.SafeCheckpointHook',
        interval=10,
        max_keep_ckpts=1,
        save_best='accuracy/top1',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl', timeout=600),  # seconds that a worker waits for the others
)
visualizer = dict(
    type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
)
# so that workers draw different crops and flips: with in-memory sets the training process itself draws them
randomness = dict(seed=None, diff_rank_seed=True)
log_level = 'INFO'
load_from = None
resume = False
# by default mmengine averages every logged value with "loss" in its name over earlier values, even "test/loss"
log_processor = dict(
    type='LogProcessor', window_size=50, mean_pattern=r'^(train/)?(loss|time|data_time|grad_norm)'
)
