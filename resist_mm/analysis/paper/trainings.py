"""The trainings behind the paper's tables and figures: a config each, with the changes to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .training import Options, SeparateTest, Training

__all__ = ['TRAININGS', 'training_of']

LOCAL_SGD: Options = {'custom_hooks.0.type': 'resist_mm.LocalSGDHook'}
TWO_WORKERS: Options = {'train_cfg.max_epochs': 80, 'param_scheduler.0.milestones': [40, 60]}
EVERY_STAGE = ('layer1', 'layer2', 'layer3', 'layer4')


def _tables_1_2_4() -> Iterator[Training]:
    """Sec. 6.1. For eight workers the paper does not say how far it reduces the number of local iterations.

    The bytes of Table 1 are those of four blocks: the paper's five include the strided one.
    """
    eight = {'resist': _hook(local_iters=25, min_blocks=4), 'local-sgd': _hook(local_iters=25)}
    for classes in (10, 100):
        for protocol in ('resist', 'local-sgd'):
            name = f'preact-resnet101_{protocol}_{{}}_cifar{classes}'
            config = f'cifar/{name.format("4xb128-160e")}.py'
            yield Training(name.format('2xb128-80e'), config, 2, TWO_WORKERS)
            yield Training(name.format('4xb128-160e'), config, 4)
            yield Training(name.format('8xb128-160e'), config, 8, eight[protocol])


def _tables_3_5() -> Iterator[Training]:
    variants = ('matched-frequency', 'threshold-0.7', 'top-images')
    tests = tuple(
        SeparateTest(
            f'imagenetv2-{variant}',
            'imagenet/preact-resnet101_imagenetv2.py',
            {'test_dataloader.dataset.variant': variant},
        )
        for variant in variants
    )
    for protocol in ('resist', 'local-sgd'):
        name = f'preact-resnet101_{protocol}_{{}}xb256-90e_in1k'
        for workers in (2, 4):
            config = f'imagenet/{name.format(4)}.py'
            yield Training(name.format(workers), config, workers, tests=tests, last_checkpoint='epoch_90.pth')


def _table_6() -> Iterator[Training]:
    for protocol in ('resist', 'local-sgd'):
        for workers in (2, 4):
            name = f'yolo_{protocol}_{workers}xb10-100e_voc'
            yield Training(name, f'yolo_{protocol}_voc.py', workers)


def _table_7() -> Iterator[Training]:
    """Members as deep as the sub-ResNets, with as many iterations as a worker has there."""
    short = {'train_cfg.max_epochs': 20, 'param_scheduler.0.milestones': [10, 15]}
    members: list[tuple[str, int, Options]] = [
        ('46-shallow2_1xb128-40e', 2, _blocks(3, 4, 12, 3)),
        ('36-shallow4_1xb128-40e', 4, {}),
        ('32-shallow8_1xb128-20e', 8, {**_blocks(3, 4, 5, 3), **short}),
    ]
    for classes in (10, 100):
        config = f'cifar/preact-resnet36-shallow4_1xb128-40e_cifar{classes}.py'
        for name, count, options in members:
            yield Training(
                f'preact-resnet{name}_cifar{classes}',
                config,
                1,
                options,
                members=count,
                last_checkpoint=f'epoch_{options.get("train_cfg.max_epochs", 40)}.pth',
            )


def _table_8() -> Iterator[Training]:
    deeper = {152: {}, 200: _blocks(3, 4, 50, 3)}
    longer = {'train_cfg.max_iters': 15600, 'param_scheduler.0.milestones': [7800, 11700]}
    for classes in (10, 100):
        config = f'cifar/preact-resnet152_resist-l100_4xb128-80e_cifar{classes}.py'
        for depth, blocks in deeper.items():
            for protocol, hook in (('resist', {}), ('local-sgd', LOCAL_SGD)):
                for workers, length in ((2, longer), (4, {})):
                    name = f'preact-resnet{depth}_{protocol}-l100_{workers}xb128-80e_cifar{classes}'
                    yield Training(name, config, workers, {**blocks, **hook, **length})


def _table_9() -> Iterator[Training]:
    for classes in (10, 100):
        name = f'preact-resnet101_resist{{}}_4xb128-160e_cifar{classes}'
        config = f'cifar/{name.format("")}.py'
        for bits in (8, 7, 6, 5, 4):
            codec = {'custom_hooks.0.codec.type': 'quantize', 'custom_hooks.0.codec.bits': bits}
            yield Training(name.format(f'-{bits}bit'), config, 4, codec)
    largest = {'custom_hooks.0.codec.type': 'topk', 'custom_hooks.0.codec.share': 0.25}
    yield Training(name.format('-top25'), config, 4, largest)


def _figure_6() -> Iterator[Training]:
    """Each step builds on those before it; the last steps, with two and with eight workers, are in Table 2.

    With eight workers an epoch has 49 iterations: a validation every ten epochs cuts one round in ten.
    """
    base = 'cifar/preact-resnet101_resist_4xb128-160e_cifar10.py'
    authors_weights = {'model.backbone.init': 'torch'}
    steps = {
        'all-blocks': {**_post_activation(EVERY_STAGE, True), **_hook(activation_scale=1)},
        'share-strided': {**_post_activation(EVERY_STAGE, False), **_hook(activation_scale=1)},
        'stage3': {**_post_activation(('layer3',), False), **_hook(activation_scale=1)},
        'scaled': _post_activation(('layer3',), False),
    }
    blocks = _blocks(3, 4, 23, 3)
    for step, options in steps.items():
        name = f'resnet101_resist-{step}_2xb128-80e_cifar10'
        yield Training(name, base, 2, {**options, **authors_weights, **blocks, **TWO_WORKERS})
    for step, least in (('no-min-depth', 0), ('min-depth', 4)):
        options = {**_hook(min_blocks=least), 'train_cfg.val_interval': 10}
        yield Training(f'preact-resnet101_resist-{step}_8xb128-160e_cifar10', base, 8, options)


def _figure_7() -> Iterator[Training]:
    """15,625 iterations, as many as 160 epochs of four workers, are a power of 5, so that no round is cut."""
    config = 'cifar/preact-resnet152_resist-l100_4xb128-80e_cifar100.py'
    length = {'train_cfg.max_iters': 15625, 'param_scheduler.0.milestones': [7812, 11718]}
    for protocol, hook in (('resist', {}), ('local-sgd', LOCAL_SGD)):
        for local_iters in (125, 625, 3125, 15625):
            every = max(3125, local_iters)  # a validation ends a round
            options = {
                **_blocks(3, 4, 23, 3),
                **hook,
                **_hook(local_iters=local_iters),
                **length,
                'train_cfg.val_interval': every,
                'default_hooks.checkpoint.interval': every,
            }
            name = f'preact-resnet101_{protocol}-l{local_iters}_4xb128-160e_cifar100'
            yield Training(name, config, 4, options)


def _figure_8() -> Iterator[Training]:
    name = 'preact-resnet101_ddp_4xb128-160e_cifar100'
    yield Training(name, f'cifar/{name}.py', 4)


def _small() -> Iterator[Training]:
    """Not in the paper: its comparisons on two CPU cores, with the ladder of Fig. 6."""
    name = '{}-small_{}_4xb32-1200i_cifar10'
    resist, local_sgd = (
        f'cifar/small/{name.format("preact-resnet", protocol)}.py' for protocol in ('resist', 'local-sgd')
    )
    small = {'model.backbone.base_channels': 16, 'model.backbone.strides': (2, 2, 2, 1), **_blocks(1, 1, 13, 1)}
    unscaled = _hook(activation_scale=1)
    batch_statistics = {
        'model.backbone.norm_cfg.type': 'BN',
        'model.backbone.norm_cfg.track_running_stats': False,
        # class folders are read class by class, and the statistics of a batch of a single class are useless
        'val_dataloader.sampler.shuffle': True,
        'test_dataloader.sampler.shuffle': True,
    }
    yield Training(name.format('preact-resnet', 'local-sgd'), local_sgd, 4)
    yield Training(name.format('preact-resnet', 'resist'), resist, 4)
    for label, options in {
        'bn-average': _hook(bn='average'),
        'bn-batch': batch_statistics,
        'no-scale': unscaled,
        'all-blocks': {**_partition(EVERY_STAGE, True), **unscaled},
    }.items():
        yield Training(name.format('preact-resnet', f'resist-{label}'), resist, 4, options)
    for label, options in {
        'all-blocks': {**_post_activation(EVERY_STAGE, True), **unscaled},
        'stage3': {**_post_activation(('layer3',), False), **unscaled},
        'scaled': _post_activation(('layer3',), False),
    }.items():
        yield Training(name.format('resnet', f'resist-{label}'), resist, 4, {**options, **small})


def _hook(**options: Any) -> Options:
    return {f'custom_hooks.0.{key}': value for key, value in options.items()}


def _blocks(*numbers: int) -> Options:
    return {'model.backbone.stage_blocks': numbers}


def _partition(stages: tuple[str, ...], first: bool) -> Options:
    return {'model.backbone.partition_stages': stages, 'model.backbone.partition_first': first}


def _post_activation(stages: tuple[str, ...], first: bool) -> Options:
    """Replace the config's backbone."""
    backbone = {'_delete_': True, 'type': 'resist_mm.CIFARResNet', 'out_indices': (3,)}
    return {**{f'model.backbone.{key}': value for key, value in backbone.items()}, **_partition(stages, first)}


TRAININGS: dict[str, Training] = {
    training.name: training
    for of_table in (
        _tables_1_2_4,
        _tables_3_5,
        _table_6,
        _table_7,
        _table_8,
        _table_9,
        _figure_6,
        _figure_7,
        _figure_8,
        _small,
    )
    for training in of_table()
}
"""All trainings by name."""


def training_of(config: str, workers: int, cfg: Mapping[str, Any]) -> Training | None:
    """The training that a run belongs to: of those that match, the one with the most options.

    Args:
        config (str): Name of the run's config file, without ``.py``.
        workers (int): The run's number of workers.
        cfg (Mapping): The run's config, with everything that was changed in it.

    Returns:
        Training: None if the run is not one of the paper's trainings. Options that none of
        the paper's trainings changes are ignored.
    """
    fitting = [training for training in TRAININGS.values() if training.fits(config, workers, cfg)]
    return max(fitting, key=lambda training: len(training.options), default=None)
