# Sourced by the other scripts:
#
#   . "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
#   use_env [--dev]
#
# Afterwards $ROOT is the repository, and `python` the interpreter of its environment, which is set up first if needed.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

use_env() {
    local bin
    bin=$(bash "$ROOT/tools/setup_env.sh" --print-bin "$@") || exit 1
    if [ "$bin" = "$ROOT/.venv/bin" ]; then
        export VIRTUAL_ENV="$ROOT/.venv"
        unset PYTHONHOME
    else # the user's own environment, in which resist_mm need not be installed
        export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
    fi
    export PATH="$bin:$PATH"
}
