"""Pictures from all workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from unittest.mock import patch

from mmengine.runner import Runner

__all__ = ['draw_on_all_workers']


def draw_on_all_workers(runner: Runner) -> None:
    """Let each worker draw the images that it tests.

    mmengine's visualizer draws on worker 0 alone: of a test with four workers, only every fourth image would be in
    the folder.

    Args:
        runner (Runner): Whose hooks that draw in testing, those with a ``test_out_dir``, are changed.
    """
    for hook in runner.hooks:
        if getattr(hook, 'test_out_dir', None):
            hook.after_test_iter = _on_any_worker(hook.after_test_iter)  # type: ignore[method-assign]


def _on_any_worker(draw: Callable[..., None]) -> Callable[..., None]:
    @wraps(draw)
    def drawing(runner: Runner, *args: Any, **kwargs: Any) -> None:
        with patch('mmengine.dist.utils.is_main_process', lambda group=None: True):  # what master_only asks
            # the names of the classes; when the loop sets them, only worker 0 takes them
            runner.visualizer.dataset_meta = runner.test_loop.dataloader.dataset.metainfo
            draw(runner, *args, **kwargs)

    return drawing
