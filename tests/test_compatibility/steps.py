"""What a user does with a converted config, step by step, each in processes of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS, DefaultScope
from mmengine.runner import CheckpointLoader, Runner, load_state_dict

import resist_mm  # noqa: F401
from resist_mm.convert import to_resist
from resist_mm.convert.plain import fold_checkpoint
from resist_mm.rounds.agreement import agree, digest
from tests.test_compatibility.cases import shrunk
from tests.workers import run_workers

__all__ = ['STEPS', 'run_case']

WORKERS = 2
LOCAL_ITERS = 2
METRIC = 'val/coco/bbox_mAP'
STEPS = ('train', 'validate', 'resume', 'test', 'infer', 'fold', 'EMA', 'AMP', 'compile')
EMA = dict(type='EMAHook', momentum=0.1)


@OPTIM_WRAPPERS.register_module()
class BF16OptimWrapper(OptimWrapper):
    """mmengine's AmpOptimWrapper refuses to work on a CPU; autocast does not."""

    def __init__(self, *args: Any, loss_scale: Any = None, dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def run_case(name: str, folder: Path, voc: Path, annotations: Path, extras: bool = True) -> dict[str, str]:
    """Convert a config and take all steps.

    Args:
        name (str): Of ``CONFIGS``.
        folder (Path): For what the runs write.
        voc (Path): The folder VOC2007.
        annotations (Path): See ``coco_of_voc``.
        extras (bool): Whether to train with EMA, AMP and compiled too.

    Returns:
        dict: For each step 'works', or the reason why not.
    """
    try:
        cfg, changes = to_resist(shrunk(name, voc, annotations), workers=WORKERS, local_iters=LOCAL_ITERS)
    except ValueError as error:
        return dict.fromkeys(STEPS, f'refused: {error}')
    found = {'stages': ' '.join(change for change in changes if change.startswith('stages: '))}
    cfg.work_dir = str(folder / 'run')
    cfg.dump(folder / 'converted.py')
    config, checkpoint, features = (str(folder / f) for f in ('converted.py', 'run/iter_4.pth', 'features.pt'))
    found['train'] = found['validate'] = _try(WORKERS, _train, config, {}, features)
    if found['train'] != 'works':
        return found | dict.fromkeys(STEPS[2:], 'not tried')
    found['resume'] = _try(WORKERS, _resume, config)
    found['test'] = _try(1, _test, config, checkpoint)
    image = sorted((voc / 'JPEGImages').glob('*.jpg'))[0]
    found['infer'] = _try(1, _infer, config, checkpoint, features, str(image))
    found['fold'] = _try(1, _fold, checkpoint, features)
    if extras:
        short = {'train_cfg.max_iters': 3, 'train_cfg.val_interval': 3}
        hooks = [hook for hook in cfg.custom_hooks if hook['type'] != 'EMAHook']
        had_one = len(hooks) < len(cfg.custom_hooks)
        ema = cfg.custom_hooks if had_one else [EMA, *hooks]
        wrapper = {**cfg.optim_wrapper, 'type': 'BF16OptimWrapper'}
        for step, change in (
            ('EMA', {'custom_hooks': ema}),
            ('AMP', {'optim_wrapper': wrapper}),
            ('compile', {'compile': dict(backend='aot_eager')}),
        ):
            change |= short | {'work_dir': str(folder / step)}
            found[step] = _try(WORKERS, _train, config, change, None)
    return found


def _try(workers: int, function: Callable, *args: Any) -> str:
    try:
        run_workers(function, workers, *args)
    except AssertionError as error:  # the traceback of a worker
        lines = [line for line in str(error).splitlines() if line.strip()]
        last = next((i for i in reversed(range(len(lines))) if not lines[i].startswith(' ')), 0)
        return lines[last] if ':' in lines[last] else f'{lines[last]}: {lines[last - 1].strip()}'
    return 'works'


def _config(path: str, changes: dict[str, Any]) -> Config:
    cfg = Config.fromfile(path)
    for key, value in changes.items():
        if '.' in key:
            cfg.merge_from_dict({key: value})
        else:
            cfg[key] = value
    cfg.launcher = 'pytorch'  # the processes and their group are there already
    return cfg


def _runner(cfg: Config) -> Runner:
    torch.manual_seed(0)
    return Runner.from_cfg(cfg)


def _trained(runner: Runner) -> torch.nn.Module:
    model = runner.train()
    model = model.module if is_model_wrapper(model) else model
    losses, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(losses) and all(math.isfinite(loss) for loss in losses), losses
    agree({'the whole model': digest(model)})
    assert runner.iter == runner.max_iters
    return model


@torch.no_grad()
def _features(model: torch.nn.Module) -> list[torch.Tensor]:
    model.eval()
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    features = model.extract_feat(images)
    return [*features] if isinstance(features, list | tuple) else [features]


def _train(path: str, changes: dict[str, Any], features: str | None) -> None:
    """Two rounds or more; validated, saved, the same on all workers."""
    cfg = _config(path, changes)
    runner = _runner(cfg)
    [hook] = [hook for hook in runner.hooks if hasattr(hook, 'local_iters')]
    model = _trained(runner)
    assert hook.round == math.ceil(runner.max_iters / LOCAL_ITERS)
    assert METRIC in runner.message_hub.log_scalars
    if features is not None and dist.get_rank() == 0:
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook._swap_ema_parameters()  # checkpoints have the average
        torch.save(_features(model), features)


def _resume(path: str) -> None:
    """From the last checkpoint, without being converted again."""
    cfg = _config(path, {'train_cfg.max_iters': 6, 'train_cfg.val_interval': 6, 'resume': True})
    runner = _runner(cfg)
    [hook] = [hook for hook in runner.hooks if hasattr(hook, 'local_iters')]
    _trained(runner)
    assert hook.round == 3, 'it began with round 2'
    losses, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(losses) == 6


def _test(path: str, checkpoint: str) -> None:
    """As tools/test.py does."""
    cfg = _config(path, {'load_from': checkpoint, 'resume': False})
    metrics = _runner(cfg).test()
    assert 'coco/bbox_mAP' in metrics


def _infer(path: str, checkpoint: str, features: str, image: str) -> None:
    """As mmdet's users do; the model computes what the trained one did."""
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    model = init_detector(path, checkpoint, palette='coco', device='cpu')
    _check_equal(_features(model), torch.load(features), exact=True)
    assert inference_detector(model, image).pred_instances.bboxes.shape[1] == 4
    inferencer = DetInferencer(model=path, weights=checkpoint, device='cpu', show_progress=False, palette='coco')
    assert len(inferencer(image, no_save_pred=True)['predictions']) == 1


def _fold(checkpoint: str, features: str) -> None:
    """The plain model, its keys strictly those of mmdet's."""
    folded = fold_checkpoint(CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu'))
    cfg = Config.fromstring(folded['meta']['cfg'], '.py')
    assert 'resist_mm' not in cfg.pretty_text
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    load_state_dict(model, folded['state_dict'], strict=True)
    _check_equal(_features(model), torch.load(features), exact=False)


def _check_equal(found: list[torch.Tensor], expected: list[torch.Tensor], exact: bool) -> None:
    tolerance = dict(rtol=0.0, atol=0.0) if exact else dict(rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found, expected, **tolerance)
