"""What a group resumes from that takes the place of one that was stopped."""

from __future__ import annotations

from mmengine.runner import Runner

from resist_mm.hooks import begin_run

from .saving import saving_runner


def restarted(runner: Runner) -> list[str]:
    """Begin a run as a restarted group does; returns what is said."""
    said: list[str] = []
    runner.logger.info = runner.logger.warning = lambda line, *args: said.append(str(line))  # type: ignore
    begin_run(runner, restarted=True)
    return said


def test_the_newest_checkpoint_of_this_run_and_never_an_earlier_one(tmp_path):
    saving_runner(tmp_path, 5).train()  # an earlier run
    begin_run(saving_runner(tmp_path, 9))  # killed before its first checkpoint
    runner = saving_runner(tmp_path, 3)
    assert any('Restarted before the first checkpoint' in line for line in restarted(runner))
    assert runner._load_from is None and not runner._resume
    runner.train()
    for max_iters in (6, 7):  # restarted twice without a checkpoint in between
        runner = saving_runner(tmp_path, max_iters)
        assert f'Restarted: resuming from {tmp_path / "iter_3.pth"}' in restarted(runner)
    runner.train()
    assert runner.iter == 7
    assert runner._load_from == str(tmp_path / 'iter_3.pth')


def test_a_run_that_was_to_resume_takes_the_newest_one(tmp_path):
    saving_runner(tmp_path, 2).train()
    old = str(tmp_path / 'iter_2.pth')
    begin_run(saving_runner(tmp_path, 9, resume=True))
    runner = saving_runner(tmp_path, 4, resume=True)
    restarted(runner)
    assert runner._load_from == old
    chosen = saving_runner(tmp_path, 4, resume=True)
    chosen._load_from = old  # --resume PATH
    begin_run(chosen)
    again = saving_runner(tmp_path, 4, resume=True)
    again._load_from = old
    assert any('Restarted before the first checkpoint' in line for line in restarted(again))
    assert again._load_from == old and again._resume
