#!/usr/bin/env bash
# Train with several workers on this machine:
#
#   tools/dist_train.sh CONFIG WORKERS [arguments of tools/train.py]
#
# With several machines, on each of them:
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_train.sh CONFIG WORKERS
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
if [ $# -lt 2 ]; then
    echo 'usage: tools/dist_train.sh CONFIG WORKERS [arguments of tools/train.py]' >&2
    exit 2
fi
launch train.py "$2" "$1" "${@:3}"
