# Sourced by the other scripts:
#
#   . "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
#   use_env [--dev]
#
# Afterwards $ROOT is the repository, and `python` the interpreter of an environment that has what is needed: the active
# one if it is complete (--dev: with the test tools), whatever its versions, else .venv, which is made first if needed.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

use_env() {
    local bin="$ROOT/.venv/bin"
    if [ -z "${PYTHON:-}" ] && active_is_complete "$@"; then
        export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" # resist_mm need not be installed there
        return
    fi
    bash "$ROOT/tools/setup_env.sh" >&2 || exit 1
    export VIRTUAL_ENV="$ROOT/.venv" PATH="$bin:$PATH"
    unset PYTHONHOME
}

active_is_complete() { # [--dev]
    local python missing tools=''
    python=$(command -v python) && [[ $python != "$ROOT"/.venv/* ]] || return 1
    [ "${1:-}" != --dev ] || tools='pytest xdist hypothesis ruff mypy'
    # looks for files only: importing takes seconds
    # shellcheck disable=SC2086
    missing=$("$python" -c 'import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])' \
        torch torchvision mmengine mmcv mmdet pycocotools numpy cv2 $tools 2>/dev/null) || return 1
    [ -n "$missing" ] || return 0
    [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || echo "the active environment lacks $missing: using .venv" >&2
    return 1
}
