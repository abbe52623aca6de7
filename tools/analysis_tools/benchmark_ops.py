"""Time mmcv's compiled ops beside the stand-ins. See ``--help``."""

import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))

from resist_mm.analysis.benchmarks.ops import main

if __name__ == '__main__':
    main()
