#!/usr/bin/env bash
# Makes the environment of the tested set (requirements/tested.txt) in .venv, with mmcv's compiled ops.
#
#   bash tools/setup_env.sh [--dev] [--print-bin]
#
# An active environment that has everything already is used as it is. Run again, it goes on where it stopped, or does
# nothing. --dev: an active environment must have the test tools too. --print-bin: the last line on standard output is
# the folder of the interpreter; all else goes to standard error.
#
#   PYTHON           the Python to make .venv with (default: python3.11, else any of 3.10 to 3.13)
#   MMCV_WHEEL_DIR   a folder with ready-built onedl-mmcv wheels; one that fits saves the build from source
#   MAX_JOBS         compilers at once in that build (default: the number of cores)
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
PINS="$ROOT/requirements/tested.txt"
STAMP="$VENV/.resist_mm_stamp"        # written last: the set-up is complete, for these pins and this folder
UNFINISHED="$VENV/.resist_mm_install" # there while packages are written: after an interruption none can be trusted
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/resist_mm"
AGAIN='bash tools/setup_env.sh'
HEARTBEAT=''
BUILD_DIR=''

say() { printf 'setup_env: %s\n' "$*" >&2; }
die() {
    say "ERROR: $*"
    exit 1
}
pin() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" "$PINS"; }

# ---- running a step ----------------------------------------------------------------------------------------------

beat() { # the clock of a long step: every second on a terminal, else about once a minute
    local name=$1 start=$SECONDS elapsed due=15
    # a sleep that outlives the clock must not keep the caller's pipes open
    while sleep 1 >/dev/null 2>&1; do
        elapsed=$((SECONDS - start))
        if [ -t 2 ]; then
            printf '\r\033[Ksetup_env: %s ... %d s' "$name" "$elapsed" >&2
        elif [ "$elapsed" -ge "$due" ]; then
            say "$name ... $elapsed s so far"
            due=$((elapsed + 60))
        fi
    done
}

stop_beat() {
    [ -n "$HEARTBEAT" ] || return 0
    kill "$HEARTBEAT" 2>/dev/null || true
    wait "$HEARTBEAT" 2>/dev/null || true
    HEARTBEAT=''
    [ ! -t 2 ] || printf '\r\033[K' >&2
}

clean_up() {
    stop_beat
    [ -z "$BUILD_DIR" ] || rm -rf "$BUILD_DIR"
}

why() { # LOG: the one line that helps, from the log of a step that failed
    local log=$1 offline
    offline='dns error|name resolution|error sending request|failed to (connect|fetch)|NewConnectionError'
    offline+='|connection (refused|reset|timed out)|operation timed out|network is unreachable'
    if grep -qiE 'no space left|os error 28|disk quota' "$log"; then
        echo "the disk is full (the environment takes about 6 GB); make room and run '$AGAIN' again"
    elif grep -q 'ensurepip is not available' "$log"; then
        echo "this Python lacks its venv module; install it (Debian: apt install python3-venv) and run '$AGAIN' again"
    elif grep -qiE "$offline" "$log"; then
        echo "the package index cannot be reached; check the network (a mirror: UV_DEFAULT_INDEX and PIP_INDEX_URL)" \
            "and run '$AGAIN' again"
    elif grep -qiE 'no solution found|no wheels? with a matching|requires-python' "$log"; then
        echo "a pinned package does not exist for this Python or platform; use Python 3.11 on Linux x86-64" \
            "(remove .venv, then PYTHON=python3.11 $AGAIN), details: $log"
    else
        echo "$(grep -E '[^[:space:]]' "$log" | tail -n 1 | cut -c 1-160) (log: $log)"
    fi
}

try_step() { # NAME LOG COMMAND...: runs the command with its output in the log, says how long it took
    local name=$1 log=$2 start=$SECONDS rc=0
    shift 2
    beat "$name" 9>&- & # not holding the lock, fd 9
    HEARTBEAT=$!
    # in a subshell, so that what an interruption says does not go to the log
    ("$@") >"$log" 2>&1 </dev/null || rc=$?
    stop_beat
    [ "$rc" -ne 0 ] || say "$name: $((SECONDS - start)) s"
    return "$rc"
}

step() { # NAME LOG COMMAND...: the same, and a failure ends the set-up
    try_step "$@" || die "$1 failed: $(why "$2")"
}

# ---- which Python ------------------------------------------------------------------------------------------------

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10 to 3.13; 3.11 is the tested one"
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3 python python3.12 python3.13 python3.10; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.10 to 3.13 found; install Python 3.11, the tested one, or name it:" \
        "PYTHON=/path/to/python3.11 $AGAIN"
}

stamp() { (cat "$PINS" "$ROOT/setup.cfg" && echo "$ROOT") | cksum; }
is_done() { [ -x "$VENV/bin/python" ] && [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(stamp)" ]; }

# Prints the folder of the active environment's interpreter if the tested modules are all there, whatever their
# versions: whoever made that environment knows why.
active_bin() { # [--dev]
    local python missing tools=''
    [ -z "${PYTHON:-}" ] || return 1
    python=$(command -v python) || return 1
    case "$python" in "$VENV"/*) return 1 ;; esac
    [ "${1:-}" != --dev ] || tools='pytest hypothesis ruff mypy'
    # looks for files only: importing takes seconds
    # shellcheck disable=SC2086
    missing=$("$python" - $tools 2>/dev/null <<'PY'
import glob, importlib.util as util, sys
names = 'torch torchvision mmengine mmcv mmdet pycocotools numpy cv2'.split() + sys.argv[1:]
missing = [name for name in names if util.find_spec(name) is None]
if 'mmcv' not in missing:
    folder = util.find_spec('mmcv').submodule_search_locations[0]
    missing += [] if glob.glob(f'{folder}/_ext*') else ['mmcv.ops']
print(*(['Python 3.10'] if sys.version_info < (3, 10) else []), *missing)
PY
    ) || return 1
    if [ -z "$missing" ] && ! "$python" -c 'import mmcv.ops, mmdet' >/dev/null 2>&1; then
        missing='an mmcv.ops and mmdet that can be imported'
    fi
    if [ -n "$missing" ]; then
        [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || is_done ||
            say "the active environment lacks $missing: using .venv"
        return 1
    fi
    dirname "$python"
}

# ---- the steps ---------------------------------------------------------------------------------------------------

make_venv() { # PYTHON: an environment with pip; what an interruption left of one is completed or replaced
    local version
    if ! fits "$VENV/bin/python"; then
        version=$("$1" -c 'import platform; print(platform.python_version())')
        case "$version" in 3.11.*) ;; *) say "using Python $version; the tested one is 3.11" ;; esac
        rm -rf "${VENV:?}/bin" "${VENV:?}/lib" "${VENV:?}/lib64" "$VENV/include" "$VENV/pyvenv.cfg"
        step "environment with Python $version" "$LOGS/venv.log" "$1" -m venv "$VENV"
    elif ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        step 'pip' "$LOGS/venv.log" "$VENV/bin/python" -m ensurepip --upgrade
    fi
}

install_uv() {
    [ "$("$VENV/bin/uv" --version 2>/dev/null | cut -d ' ' -f 2)" != "$(pin uv)" ] || return 0
    step "uv $(pin uv)" "$LOGS/uv.log" "$VENV/bin/python" -m pip install --disable-pip-version-check "uv==$(pin uv)"
}

set_link_mode() { # uv warns where it cannot link from its cache; copying is what it would do then
    [ -z "${UV_LINK_MODE:-}" ] || return 0
    local cache probe
    cache=$("$VENV/bin/uv" cache dir) && mkdir -p "$cache" && probe=$(mktemp "$cache/.probe.XXXXXX") || return 0
    ln -f "$probe" "$VENV/.probe" 2>/dev/null || export UV_LINK_MODE=copy
    rm -f "$probe" "$VENV/.probe"
}

uv_install() { "$VENV/bin/uv" pip install --python "$VENV/bin/python" "$@"; }

install_packages() {
    local again=''
    [ ! -e "$UNFINISHED" ] || again=--reinstall
    touch "$UNFINISHED"
    grep -v '^onedl-mmcv==' "$PINS" >"$VENV/.pins.txt"
    # opencv-python and opencv-python-headless write the same files; only the latter works without libGL
    echo 'opencv-python ; python_version < "0"' >"$VENV/.overrides.txt"
    step 'torch, mmengine, mmdet and their packages' "$LOGS/packages.log" \
        uv_install $again -r "$VENV/.pins.txt" --override "$VENV/.overrides.txt"
    rm -f "$UNFINISHED"
}

# Sets TORCH, TAG (cp311), OS_ARCH ("linux x86_64") and CUDA (cu130, or empty where mmcv can only have CPU ops).
describe_environment() {
    local described warning=''
    described=$("$VENV/bin/python" - <<'PY'
import re, subprocess, sys, sysconfig
import torch
platform = sysconfig.get_platform().split('-')
cuda = warning = ''
if torch.cuda.is_available() and torch.version.cuda:
    from torch.utils.cpp_extension import CUDA_HOME
    try:
        nvcc = subprocess.run([f'{CUDA_HOME}/bin/nvcc', '--version'], capture_output=True, text=True).stdout
    except OSError:
        nvcc = ''
    found = re.search(r'release (\d+)', nvcc)
    if found and found[1] == torch.version.cuda.split('.')[0]:
        cuda = 'cu' + torch.version.cuda.replace('.', '')
    else:
        warning = torch.version.cuda
print(torch.__version__.split('+')[0], f'cp{sys.version_info[0]}{sys.version_info[1]}', platform[0], platform[-1],
      cuda or '-', warning)
PY
    ) || die "torch cannot be imported; remove .venv and run '$AGAIN' again"
    read -r TORCH TAG OS ARCH CUDA warning <<<"$described"
    [ "$CUDA" != - ] || CUDA=''
    [ -z "$warning" ] || say "a GPU, but no nvcc of CUDA $warning to build mmcv's CUDA ops with: unless a ready-built wheel" \
        "has them, detectors train on the GPU but cannot be evaluated there (NMS)"
}

mmcv_works() { # a GPU and nvcc are there: CPU ops will not do
    "$VENV/bin/python" - "$(pin onedl-mmcv)" "$CUDA" >"$LOGS/mmcv_import.log" 2>&1 <<'PY'
import sys
import mmcv
version, cuda = sys.argv[1:]
if mmcv.__version__ != version:
    sys.exit(f'mmcv {mmcv.__version__} is not {version}')
import torch
from mmcv.ops import get_compiling_cuda_version
compiled_for = get_compiling_cuda_version()
if cuda and compiled_for.split('.')[0] != torch.version.cuda.split('.')[0]:
    sys.exit(f'its ops are compiled for CUDA "{compiled_for}", torch for {torch.version.cuda}')
PY
}

wheels_in() { # FOLDER VERSION TAG OS ARCH: its mmcv wheels for this Python and platform, one a line
    local wheel
    for wheel in "$1"/onedl_mmcv-"$2"-"$3"-*"$4"*"$5".whl; do
        [ ! -f "$wheel" ] || echo "$wheel"
    done
}

install_wheel() { # WHEEL: true if mmcv works afterwards
    try_step "mmcv from $(basename "$1")" "$LOGS/mmcv_wheel.log" \
        uv_install --no-deps --reinstall-package onedl-mmcv "$1" || {
        cp "$LOGS/mmcv_wheel.log" "$LOGS/mmcv_import.log" && return 1
    }
    mmcv_works
}

install_mmcv() {
    local wheel version folder
    version=$(pin onedl-mmcv)
    describe_environment
    ! mmcv_works || return 0
    folder="$CACHE/wheels/$TORCH-$TAG${CUDA:+-$CUDA}"
    while IFS= read -r wheel; do
        [ -n "$wheel" ] || continue
        ! install_wheel "$wheel" || return 0
        say "that wheel does not work here ($(tail -n 1 "$LOGS/mmcv_import.log" | cut -c 1-120)): not used"
    done <<<"$([ -z "$WHEEL_DIR" ] || wheels_in "$WHEEL_DIR" "$version" "$TAG" "$OS" "$ARCH"
        wheels_in "$folder" "$version" "$TAG" "$OS" "$ARCH")"
    build_mmcv "$version" "$folder"
    install_wheel "$BUILT" ||
        die "the mmcv built from source does not work: $(tail -n 1 "$LOGS/mmcv_import.log") (log: $LOGS/mmcv_build.log)"
}

build_mmcv() { # VERSION FOLDER: builds a wheel from source, keeps it in the folder, sets BUILT
    local version=$1 folder=$2 jobs visible=()
    command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null ||
        die "mmcv has to be built and there is no C++ compiler; install one (Debian: apt install g++) and run '$AGAIN' again"
    [ -f "$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
        die "mmcv has to be built and Python.h is missing; install it (Debian: apt install python3-dev) and run '$AGAIN' again"
    mkdir -p "$folder" 2>/dev/null || die "cannot write to $folder; set XDG_CACHE_HOME to a folder that can be written"
    jobs=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
    # without a fitting nvcc mmcv's build must not see the GPU, or it fails
    [ -n "$CUDA" ] || visible=(CUDA_VISIBLE_DEVICES=)
    say "building mmcv $version from source with $jobs job(s), 10 to 25 minutes on 2 cores; log: $LOGS/mmcv_build.log"
    find "$folder" -maxdepth 1 -name '.build.*' -mmin +1440 -exec rm -rf {} + # of builds that were killed
    BUILD_DIR=$(mktemp -d "$folder/.build.XXXXXX")
    mkdir "$BUILD_DIR/tmp"
    # pip's own cache may hold an mmcv without ops: --no-cache-dir
    step "mmcv $version built from source" "$LOGS/mmcv_build.log" env ${visible[@]+"${visible[@]}"} \
        PATH="$VENV/bin:$PATH" TMPDIR="$BUILD_DIR/tmp" MMCV_WITH_OPS=1 MAX_JOBS="$jobs" \
        "$VENV/bin/python" -m pip wheel -v --disable-pip-version-check --no-cache-dir --no-deps --no-build-isolation \
        --no-binary onedl-mmcv --wheel-dir "$BUILD_DIR" "onedl-mmcv==$version"
    BUILT="$folder/$(basename "$BUILD_DIR"/*.whl)"
    mv "$BUILD_DIR"/*.whl "$BUILT" # one folder, one file system: there at once or not at all
    rm -rf "$BUILD_DIR"
    BUILD_DIR=''
}

install_resist_mm() {
    step 'resist_mm itself, editable' "$LOGS/resist_mm.log" uv_install --no-deps --no-build-isolation -e "$ROOT"
}

lock() { # two scripts started together: the second waits
    command -v flock >/dev/null || return 0
    exec 9>"$VENV/.resist_mm_lock"
    flock -n 9 && return
    say 'another set-up of this .venv is running: waiting for it'
    flock 9
}

set_up_venv() {
    local python=''
    WHEEL_DIR=${MMCV_WHEEL_DIR:-}
    [ -z "$WHEEL_DIR" ] || [ -d "$WHEEL_DIR" ] || die "MMCV_WHEEL_DIR=$WHEEL_DIR is no folder; correct or unset it"
    fits "$VENV/bin/python" || python=$(find_python)
    LOGS="$VENV/setup_logs"
    mkdir -p "$LOGS" 2>/dev/null || die "cannot write to $LOGS; make the folder writable"
    lock
    ! is_done || return 0
    make_venv "$python"
    install_uv
    export UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
    set_link_mode
    install_packages
    install_mmcv
    install_resist_mm
    step 'check: import mmcv.ops and mmdet' "$LOGS/check.log" "$VENV/bin/python" -c 'import mmcv.ops, mmdet'
    stamp >"$STAMP"
}

main() {
    local dev='' print_bin='' bin option
    for option in "$@"; do
        case "$option" in
            --dev) dev=--dev ;;
            --print-bin) print_bin=1 ;;
            -h | --help) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}" && return ;;
            *) die "unknown option $option; known: --dev, --print-bin" ;;
        esac
    done
    trap clean_up EXIT
    trap "say 'interrupted: run it again to go on'; exit 130" INT
    trap 'exit 143' TERM
    if ! bin=$(active_bin $dev); then
        bin="$VENV/bin"
        is_done || set_up_venv
    fi
    if [ -n "$print_bin" ]; then
        echo "$bin"
    else
        say "ready: $bin/python ($SECONDS s)"
    fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    main "$@"
fi
