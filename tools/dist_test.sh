#!/usr/bin/env bash
# Evaluate with several workers on this machine:
#
#   tools/dist_test.sh CONFIG CHECKPOINT WORKERS [arguments of tools/test.py]
#
# On several machines, and what can be set: like tools/dist_train.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
if [ $# -lt 3 ]; then
    echo 'usage: tools/dist_test.sh CONFIG CHECKPOINT WORKERS [arguments of tools/test.py]' >&2
    exit 2
fi
launch test.py "$3" "$1" "$2" "${@:4}"
