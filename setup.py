"""Everything is in pyproject.toml, except what ``mim`` looks for inside an installed package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithMim(build_py):
    """Puts configs, tools and the model index into ``resist_mm/.mim``, where ``mim`` finds them.

    In the repository ``resist_mm/.mim`` has links, which serve an editable install. There too mmengine looks
    for ``resist_mm::`` configs.
    """

    def run(self) -> None:
        """Builds the package, then copies what belongs to ``mim``."""
        super().run()
        if getattr(self, 'editable_mode', False):
            return
        root = Path(__file__).resolve().parent
        mim = Path(self.build_lib, 'resist_mm', '.mim')
        for name in ('configs', 'tools'):
            shutil.copytree(
                root / name, mim / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns('__pycache__')
            )
        shutil.copy2(root / 'model-index.yml', mim)


setup(cmdclass={'build_py': BuildWithMim})
