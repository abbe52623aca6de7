#!/usr/bin/env bash
# Train with several workers on this machine:
#
#   tools/dist_train.sh CONFIG WORKERS [arguments of tools/train.py]
#
# With several machines, on each of them:
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_train.sh CONFIG WORKERS
#
# Restarted up to three times if a worker is lost, and resumed; on 2 to 4 machines, as many as are there:
#
#   MAX_RESTARTS=3 tools/dist_train.sh CONFIG WORKERS
#   NNODES=2:4 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_train.sh CONFIG WORKERS
#
# tools/_launch.sh lists all that can be set; docs/reliability.md explains it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
if [ $# -lt 2 ]; then
    echo 'usage: tools/dist_train.sh CONFIG WORKERS [arguments of tools/train.py]' >&2
    exit 2
fi
launch train.py "$2" "$1" "${@:3}"
