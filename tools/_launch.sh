# Sourced by dist_train.sh and dist_test.sh:
#
#   launch SCRIPT WORKERS ARGS...
#
# starts so many workers of tools/SCRIPT on this machine, and takes part in a job of several machines if NNODES,
# NODE_RANK, MASTER_ADDR and PORT say so.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

launch() {
    local script=$1 workers=$2 rendezvous cores
    shift 2
    if ! [[ $workers =~ ^[1-9][0-9]*$ ]]; then
        echo "the number of workers must be an integer from 1 on, got '$workers'" >&2
        exit 2
    fi
    # the environment that tools/setup_env.sh made, unless the user has activated another
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$ROOT/.venv/bin/python" ]; then
        export PATH="$ROOT/.venv/bin:$PATH"
    fi
    if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
        rendezvous=(--standalone) # picks a free port, so that two jobs on one machine do not collide
    else
        rendezvous=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
            --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
    fi
    # torchrun would give every worker one thread; without a GPU they share the cores
    cores=$(nproc 2>/dev/null || echo 1)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > workers ? cores / workers : 1))}"
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
    exec python -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$workers" \
        "$ROOT/tools/$script" "$@" --launcher pytorch
}
