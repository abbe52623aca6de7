"""What the commands add to mmengine's Runner: the process group, the launcher, how a run ends."""

from .checks import check_wrapper
from .ending import end_with, record_failures
from .pictures import draw_on_all_workers
from .process_group import DEFAULT_TIMEOUT_SEC, check_timeout, finish_distributed, init_distributed
from .quiet import quiet_libraries
from .scale import scale_lr_by_one_worker
from .supervised import begin_worker, resumes_by_itself
from .worker_loss import continue_if_asked

__all__ = [
    'DEFAULT_TIMEOUT_SEC',
    'begin_worker',
    'check_timeout',
    'check_wrapper',
    'continue_if_asked',
    'draw_on_all_workers',
    'end_with',
    'finish_distributed',
    'init_distributed',
    'quiet_libraries',
    'record_failures',
    'resumes_by_itself',
    'scale_lr_by_one_worker',
]
