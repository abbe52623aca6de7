#!/usr/bin/env bash
# Makes the environment of the tested set (uv.lock) in .venv. Nothing is compiled: see resist_mm/ops.
#
#   bash tools/setup_env.sh [--with-ops]
#
# Run again, it goes on where it stopped, or does nothing. --with-ops: with mmcv's own ops, from a wheel that fits, else
# from source, which takes 10 to 25 minutes on 2 cores, and nvcc for a GPU.
#
#   PYTHON           the Python to make .venv with (default: python3.11, else any of 3.10 to 3.13)
#   MMCV_WHEEL_DIR   a folder with onedl-mmcv wheels; one that fits gives a new .venv its ops, without --with-ops too
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
STAMP="$VENV/.resist_mm_stamp"        # written last: the set-up is complete, for this lock file and this folder
UNFINISHED="$VENV/.resist_mm_install" # there while packages are written: after an interruption none can be trusted
WITH_OPS=''

say() { printf 'setup_env: %s\n' "$*" >&2; }
die() { say "ERROR: $*" && exit 1; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }
stamp() { (cat "$ROOT/uv.lock" "$ROOT/pyproject.toml" && echo "$ROOT$1") | cksum; }
is_done() { # an environment with ops will do where none are asked for
    [ -x "$VENV/bin/python" ] || return 1
    grep -qxF -e "$(stamp "$WITH_OPS")" -e "$(stamp --with-ops)" "$STAMP" 2>/dev/null
}

find_python() {
    local candidate
    [ -z "${PYTHON:-}" ] || fits "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10 to 3.13; 3.11 is the tested one"
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python python3.12 python3.13 python3.10; do
        ! fits "$candidate" || { echo "$candidate" && return; }
    done
    die 'no Python 3.10 to 3.13 found; install Python 3.11, the tested one, or name it: PYTHON=/path/to/python3.11'
}

uv() { env -u VIRTUAL_ENV UV_PYTHON="$VENV/bin/python" "$VENV/bin/uv" --project "$ROOT" "$@"; }
sync_packages() { uv sync --frozen --inexact --reinstall-package onedl-mmcv "$@"; }

ops_work() { # compiled, and for the GPU if there is one
    "$VENV/bin/python" -c 'import sys, torch, mmcv._ext, mmcv.ops
compiled, needed = mmcv.ops.get_compiling_cuda_version(), torch.version.cuda
if torch.cuda.is_available() and compiled.split(".")[0] != needed.split(".")[0]:
    sys.exit(f"CUDA of its ops: {compiled}, of torch: {needed}")' 2>"$VENV/ops.log"
}

reason() { grep . "$VENV/ops.log" | tail -n 1; }

install_ops() {
    local wheel version tag
    version=$(sed -n '/^name = "onedl-mmcv"$/{n;s/.*"\(.*\)"/\1/p;}' "$ROOT/uv.lock")
    tag=$("$VENV/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    for wheel in "${MMCV_WHEEL_DIR:-/nowhere}"/onedl_mmcv-"$version-$tag"-*.whl; do
        [ -f "$wheel" ] || continue
        ! { uv pip install --no-deps --reinstall-package onedl-mmcv "$wheel" 2>"$VENV/ops.log" && ops_work; } || return 0
        say "$(basename "$wheel") does not work here ($(reason)): not used"
        sync_packages -q
    done
    [ -n "$WITH_OPS" ] || return 0
    say "building mmcv $version from source"
    sync_packages -q --group ops
    PATH="$VENV/bin:$PATH" uv pip install --no-cache --no-deps --no-build-isolation --no-binary onedl-mmcv \
        --reinstall-package onedl-mmcv "onedl-mmcv==$version" || die 'mmcv cannot be built, see above'
    ops_work || die "the mmcv built from source does not work: $(reason)"
}

set_up() {
    local python again='' failed="failed, see above; 'bash tools/setup_env.sh' goes on from there"
    [ -d "${MMCV_WHEEL_DIR:-/}" ] || die "MMCV_WHEEL_DIR=$MMCV_WHEEL_DIR is no folder; correct or unset it"
    python=$(find_python)
    mkdir -p "$VENV" && exec 9>"$VENV/.resist_mm_lock" # of two set-ups started together, the second waits
    ! command -v flock >/dev/null || flock 9
    ! is_done || return 0
    { fits "$VENV/bin/python" && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; } ||
        "$python" -m venv --clear "$VENV" || die "making .venv with $python $failed"
    "$VENV/bin/python" -m pip install -q --disable-pip-version-check uv==0.13.9 || die "installing uv $failed"
    # compiled at once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every process would do it again
    export UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
    [ ! -e "$UNFINISHED" ] || again=--reinstall
    touch "$UNFINISHED"
    sync_packages $again || die "installing the packages $failed"
    install_ops
    "$VENV/bin/python" -c 'import resist_mm, mmcv.ops, mmdet' || die "the environment is not complete, see above"
    rm "$UNFINISHED"
    stamp "$WITH_OPS" >"$STAMP"
}

[ "${1:-}" != --with-ops ] || { WITH_OPS=--with-ops && shift; }
[ $# -eq 0 ] || die "unknown option $1; known: --with-ops"
trap "say 'interrupted: run it again to go on'; exit 130" INT
is_done || set_up
say "ready: $VENV/bin/python ($SECONDS s)"
