"""Train the rows of docs/results, and write what comes out. See ``--help``."""

import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))

from resist_mm.analysis.reproduce.command import main
from resist_mm.launch import quiet_libraries

if __name__ == '__main__':
    quiet_libraries()
    main()
