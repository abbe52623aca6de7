"""The settings in the text of a config, read without running it."""

from __future__ import annotations

import ast
from typing import Any

__all__ = ['settings_of']


def settings_of(text: str) -> dict[str, Any]:
    """Read the settings of a config that mmengine has written, such as the one in a checkpoint.

    The text of a config is Python; whoever runs it runs what a checkpoint says. Here only plain values are read,
    and the ``dict(...)`` of them that mmengine writes. Any other expression stays the text that it is.

    Args:
        text (str): A whole config, with no base.

    Returns:
        dict[str, Any]: The settings; empty if the text is no Python.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return {}
    assigned = [node for node in body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {node.targets[0].id: _value(node.value) for node in assigned}  # type: ignore[attr-defined]


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        values: dict[Any, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                return ast.unparse(node)
            values[keyword.arg] = _value(keyword.value)
        return values
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except (TypeError, ValueError):
        return ast.unparse(node)
