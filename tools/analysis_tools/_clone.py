"""Makes resist_mm importable where it is not installed: from the clone that this file is in."""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]

if find_spec('resist_mm') is None:
    sys.path.append(str(ROOT))
