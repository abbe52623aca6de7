# Sourced by dist_*.sh and slurm_*.sh.
#
#   launch SCRIPT WORKERS ARGS...
#
# starts WORKERS processes of tools/SCRIPT on this machine. For a job on several machines set NNODES, NODE_RANK,
# MASTER_ADDR and PORT.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The active environment if it has mmengine and mmcv, otherwise the one that tools/setup_env.sh created.
choose_python() {
    local needed='import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in ("mmengine", "mmcv")))'
    if [ -x "$ROOT/.venv/bin/python" ] && ! python -c "$needed" >/dev/null 2>&1; then
        export PATH="$ROOT/.venv/bin:$PATH"
    fi
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
}

launch() {
    local script=$1 workers=$2 rendezvous cores
    shift 2
    if ! [[ $workers =~ ^[1-9][0-9]*$ ]]; then
        echo "the number of workers must be an integer of at least 1, got '$workers'" >&2
        exit 2
    fi
    choose_python
    if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
        rendezvous=(--standalone) # picks a free port, so that two jobs on one machine do not collide
    else
        rendezvous=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
            --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
    fi
    # torchrun would give every worker a single thread; without a GPU the workers share the cores
    cores=$(nproc 2>/dev/null || echo 1)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > workers ? cores / workers : 1))}"
    exec python -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$workers" \
        "$ROOT/tools/$script" "$@" --launcher pytorch
}
