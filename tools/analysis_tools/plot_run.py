"""Draw a run from its logs. See ``--help``."""

import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))

from resist_mm.analysis.pictures.run import main

if __name__ == '__main__':
    main()
