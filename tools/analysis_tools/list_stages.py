"""List the chains of blocks of a config's model that ResIST can deal out. See ``--help``."""

import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))

from resist_mm.analysis.list_stages import main
from resist_mm.launch import quiet_libraries

if __name__ == '__main__':
    quiet_libraries()
    main()
