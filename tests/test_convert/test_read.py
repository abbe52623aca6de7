"""Config files that cannot be read: the error names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from resist_mm.convert import read_config


@pytest.mark.parametrize(
    ('text', 'error', 'message'),
    [
        ('model = dict(', ValueError, r"'\(' was never closed"),
        ("_base_ = ['a.py', 'b.py']", ValueError, 'Duplicate key'),
        ("_base_ = ['./nothing.py']", FileNotFoundError, r'nothing\.py'),
        ('model = dict(type=resnet)', ValueError, "NameError: name 'resnet' is not defined"),
        ("custom_imports = dict(imports=['no_such_package'])", ValueError, "'no_such_package'"),
        ("a = 1\nb = a['x']", ValueError, 'TypeError: .*not subscriptable'),
    ],
)
def test_the_file_is_named(tmp_path: Path, text: str, error: type[Exception], message: str):
    for name in ('a.py', 'b.py'):
        (tmp_path / name).write_text('key = 1')
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(error, match=rf'mine\.py cannot be read: .*{message}') as raised:
        read_config(tmp_path / 'mine.py')
    assert '\n' not in str(raised.value)


def test_a_file_that_is_no_config(tmp_path: Path):
    (tmp_path / 'mine.md').write_text('text')
    with pytest.raises(ValueError, match=r'mine\.md cannot be read: Only py/yml/yaml/json'):
        read_config(tmp_path / 'mine.md')
