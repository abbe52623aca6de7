"""Measure for how long workers wait, with and without overlap. See ``--help``."""

import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))

from resist_mm.analysis.benchmarks.overlap import main

if __name__ == '__main__':
    main()
