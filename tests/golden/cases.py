"""Small distributed runs that cover what an exchange can do; their traces are kept in ``traces.json``."""

from __future__ import annotations

from typing import Any, NamedTuple

from mmengine.registry import HOOKS

from tests.toy import ToyData, ToyModel

__all__ = ['CASES', 'Case']

NUM_ITERS = 9
SAVED_EVERY = 5  # not a multiple of a round, so that rounds end early


class Case(NamedTuple):
    """A run.

    Attributes:
        workers: Number of workers.
        hook: Config of the protocol's hook; rounds have 2 iterations.
        optimizer: Config of the optimizer.
        backbone: Arguments of the toy model's backbone.
    """

    workers: int
    hook: dict[str, Any]
    optimizer: dict[str, Any] = dict(type='SGD', lr=0.05, momentum=0.9)
    backbone: dict[str, Any] = {}

    def build_hook(self) -> Any:
        """The protocol's hook."""
        return HOOKS.build(dict(local_iters=2, **self.hook))

    def build_model(self) -> ToyModel:
        """The toy model."""
        return ToyModel(**self.backbone)


def resist(workers: int, case: dict | None = None, **hook: Any) -> Case:
    """A run of ResIST."""
    return Case(workers, dict(type='resist_mm.ResISTHook', **hook), **(case or {}))


def local_sgd(workers: int, case: dict | None = None, **hook: Any) -> Case:
    """A run of local SGD."""
    return Case(workers, dict(type='resist_mm.LocalSGDHook', **hook), **(case or {}))


ADAMW = dict(optimizer=dict(type='AdamW', lr=0.01))
TWO_STAGES = dict(
    backbone=dict(stage_blocks=(1, 3, 4), partition_stages=('layer2', 'layer3'), partition_first=True)
)
CODECS: dict[str, dict] = dict(
    bf16=dict(type='bf16'),
    quantize_8=dict(type='quantize', bits=8),
    quantize_4_stochastic=dict(type='quantize', bits=4, stochastic=True, chunk=64),
    topk=dict(type='topk', share=0.25),
    topk_largest=dict(type='topk', share=0.25, new_holders='largest'),
    topk_error_feedback=dict(type='topk', share=0.1, error_feedback=True),
    changes_2=dict(type='changes', bits=2),
    changes_3_largest=dict(type='changes', bits=3, share=0.1),
)
OUTER = dict(type='SGD', lr=0.7, momentum=0.9, nesterov=True)
CASES: dict[str, Case] = dict(
    resist_2=resist(2, min_blocks=0),
    resist_3=resist(3, min_blocks=0),
    resist_4_sharing=resist(4, min_blocks=4),
    resist_1=resist(1),
    resist_full=resist(2, min_blocks=6),
    resist_bn_average=resist(3, min_blocks=3, bn='average'),
    resist_bn_average_interval=resist(2, min_blocks=3, bn='average', bn_interval=2),
    resist_momentum_2=resist(3, min_blocks=3, momentum_restart_interval=2),
    resist_momentum_none=resist(4, min_blocks=3, momentum_restart_interval=None),
    resist_momentum_none_bn_average=resist(2, min_blocks=4, momentum_restart_interval=None, bn='average'),
    resist_warm_up=resist(3, min_blocks=2, warmup_rounds=2),
    resist_warm_up_momentum_none=resist(2, min_blocks=2, warmup_rounds=2, momentum_restart_interval=None),
    resist_scale=resist(2, min_blocks=2, activation_scale=0.8, seed=5),
    resist_two_stages=resist(3, TWO_STAGES, min_blocks=2),
    resist_two_stages_momentum_none=resist(2, TWO_STAGES, min_blocks=4, momentum_restart_interval=None),
    resist_adamw=resist(2, ADAMW, min_blocks=3),
    resist_adamw_momentum_none=resist(3, ADAMW, min_blocks=3, momentum_restart_interval=None),
    local_sgd_3=local_sgd(3),
    local_sgd_4_bn_average=local_sgd(4, bn='average'),
    local_sgd_bn_average_interval=local_sgd(2, bn='average', bn_interval=3),
    local_sgd_momentum_2=local_sgd(2, momentum_restart_interval=2),
    local_sgd_momentum_none=local_sgd(3, momentum_restart_interval=None),
    local_sgd_adamw_momentum_none=local_sgd(2, ADAMW, momentum_restart_interval=None),
    **{f'resist_{name}': resist(3, min_blocks=3, codec=codec) for name, codec in CODECS.items()},
    resist_4_topk=resist(4, min_blocks=5, codec=CODECS['topk']),
    resist_quantize_momentum_none=resist(
        3, min_blocks=3, codec=CODECS['quantize_8'], momentum_restart_interval=None, bn='average'
    ),
    resist_warm_up_topk=resist(2, min_blocks=2, warmup_rounds=2, codec=CODECS['topk_error_feedback']),
    resist_outer=resist(3, min_blocks=3, outer=OUTER),
    resist_outer_blocks=resist(3, min_blocks=3, outer=dict(OUTER, blocks=True)),
    resist_outer_changes=resist(3, min_blocks=3, outer=OUTER, codec=CODECS['changes_2']),
    resist_own_momentum=resist(3, min_blocks=3, keep_shared_momentum=True),
    resist_blocks=resist(3, blocks=[4, 2, 1]),
    resist_overlap=resist(3, min_blocks=3, overlap_iters=1),
    resist_overlap_outer_changes=resist(3, min_blocks=3, overlap_iters=1, outer=OUTER, codec=CODECS['changes_2']),
    local_sgd_outer=local_sgd(3, outer=OUTER),
    local_sgd_own_momentum=local_sgd(2, keep_shared_momentum=True),
    local_sgd_overlap=local_sgd(3, overlap_iters=1),
    # who holds everything has the old value of everything: topk_largest is topk
    **{f'local_sgd_{name}': local_sgd(2, codec=codec) for name, codec in CODECS.items() if name != 'topk_largest'},
)


def overrides(case: Case) -> dict[str, Any]:
    """Arguments of the Runner."""
    return dict(
        train_cfg=dict(by_epoch=False, max_iters=NUM_ITERS),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=ToyData(32),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=dict(optimizer=dict(case.optimizer)),
        log_level='ERROR',
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=SAVED_EVERY)),
    )
