"""Sphinx builds the site from the pages in this folder and the docstrings: see CONTRIBUTING.md."""

from __future__ import annotations

import resist_mm
from resist_mm.version import __version__

project = 'resist_mm'
author = 'The resist_mm contributors'
copyright = '2026, The resist_mm contributors'
release = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
html_theme = 'furo'
html_title = f'resist_mm {__version__}'
exclude_patterns = ['_build']

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # docstrings give the types
autodoc_default_options = dict(members=True, show_inheritance=True)
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def in_the_packages(app, env, node, contnode):
    """Resolve a name such as ``Engine``, wherever in the package it is documented."""
    if node.get('refdomain') != 'py':
        return None
    name = node['reftarget'].lstrip('.').rpartition('.')[2]
    domain = env.get_domain('py')
    found = {key: entry for key, entry in domain.objects.items() if key.rpartition('.')[2] == name}
    if len(found) != 1:
        return None
    ((key, entry),) = found.items()
    from sphinx.util.nodes import make_refnode

    return make_refnode(app.builder, node['refdoc'], entry.docname, entry.node_id, contnode, key)


def setup(app):
    """Called by Sphinx."""
    app.connect('missing-reference', in_the_packages)
    # mmdet is imported by parts of the package: with the ops that resist_mm puts in place of mmcv's
    assert resist_mm.__version__ == release
