"""Who may import whom, read from the imports of every file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'resist_mm'
# folder: which other folders of this package it may import, and whether it may import mmengine
LAYERS: dict[str, tuple[set[str], bool]] = {
    'ops': (set(), False),
    'partition': (set(), False),
    'exchange': ({'partition'}, False),
    'models': ({'registry', 'datasets'}, True),
    'rounds': ({'partition', 'exchange', 'models'}, False),
    'checkpoint': (set(), True),
    'launch': ({'config_hooks'}, True),
    'convert': ({'models', 'partition', 'registry', 'config_hooks', 'config_values', 'checkpoint'}, True),
    'inference': ({'checkpoint', 'convert', 'datasets', 'registry'}, True),
    'datasets': ({'registry'}, True),
    'evaluation': ({'registry'}, True),
    'analysis': (
        {
            *('partition', 'exchange', 'models', 'rounds', 'convert', 'checkpoint', 'datasets'),
            *('registry', 'builders', 'config_hooks', 'ops', 'version'),
        },
        True,
    ),
    'hooks': ({'rounds', 'exchange', 'models', 'datasets', 'registry', 'builders', 'checkpoint'}, True),
}


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, in full."""
    package = ['resist_mm', *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            found |= {f'{module}.{alias.name}' for alias in node.names} if module == 'mmengine' else {module}
    return found


@pytest.mark.parametrize('layer', LAYERS)
def test_layer(layer: str):
    allowed, mmengine = LAYERS[layer]
    files = list((PACKAGE / layer).rglob('*.py'))
    assert files
    for path in files:
        for name in imports_of(path):
            top, _, rest = name.partition('.')
            if top == 'resist_mm':
                assert rest.split('.')[0] in {layer, *allowed}, f'{path} imports {name}'
            if top in ('mmengine', 'mmcv', 'mmdet'):
                assert mmengine, f'{path} imports {name}'
            if name.startswith('mmengine.runner') and name != 'mmengine.runner.checkpoint':
                assert layer in ('hooks', 'analysis', 'launch'), f'{path} knows the Runner'
