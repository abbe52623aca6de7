# Sourced by dist_*.sh and slurm_*.sh.
#
#   launch SCRIPT WORKERS ARGS...
#
# starts WORKERS processes of tools/SCRIPT on this machine, and restarts them if asked. Set in the environment:
#
#   MAX_RESTARTS   how often a group that has lost a worker is restarted; 0, or 3 if NNODES is a range
#   NNODES         number of machines, or MIN:MAX (elastic: goes on while MIN are there); 1
#   MASTER_ADDR, PORT          where the machines meet, one of them; 127.0.0.1, 29500
#   NODE_RANK                  of this machine, if NNODES is a number and MAX_RESTARTS is 0
#   RDZV_ID, RDZV_BACKEND, RDZV_ENDPOINT, RDZV_CONF    torchrun's --rdzv-...: name of the job, c10d,
#                              MASTER_ADDR:PORT, none
#   ON_WORKER_LOSS  'continue' (experimental, one machine): the others go on without a worker that is lost; stop
#   DIST_TIMEOUT   seconds that a worker waits for the others; env_cfg.dist_cfg.timeout of the config
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

wrong() {
    echo "$1 must be $2, got '$3'" >&2
    exit 2
}

# Checks the environment; sets NNODES, MAX_RESTARTS and the array MORE of arguments for the script.
read_environment() {
    NNODES=${NNODES:-1}
    if ! [[ $NNODES =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || ((${NNODES%:*} > ${NNODES#*:})); then
        wrong NNODES 'a number of machines or MIN:MAX' "$NNODES"
    fi
    [ -n "${MAX_RESTARTS:-}" ] || case $NNODES in *:*) MAX_RESTARTS=3 ;; *) MAX_RESTARTS=0 ;; esac
    [[ $MAX_RESTARTS =~ ^[0-9]+$ ]] || wrong MAX_RESTARTS 'an integer of at least 0' "$MAX_RESTARTS"
    case ${ON_WORKER_LOSS:-stop} in
        stop) ;;
        continue) [ "$NNODES" = 1 ] || wrong 'NNODES with ON_WORKER_LOSS=continue' 1 "$NNODES" ;;
        *) wrong ON_WORKER_LOSS "'stop' or 'continue'" "$ON_WORKER_LOSS" ;;
    esac
    export NNODES MAX_RESTARTS ON_WORKER_LOSS="${ON_WORKER_LOSS:-}"
    MORE=()
    if [ -n "${DIST_TIMEOUT:-}" ]; then
        MORE=(--cfg-options env_cfg.dist_cfg.timeout="$DIST_TIMEOUT")
    fi
}

# Sets the array RENDEZVOUS: torchrun's options for how the workers meet.
choose_rendezvous() {
    local address=${MASTER_ADDR:-127.0.0.1} port=${PORT:-29500}
    if [ "$NNODES" = 1 ] && [ -z "${PORT:-}${RDZV_BACKEND:-}${RDZV_ENDPOINT:-}" ]; then
        RENDEZVOUS=(--standalone) # picks a free port, so that two jobs on one machine do not collide
    elif [[ $NNODES != *:* ]] && [ "$MAX_RESTARTS" = 0 ] && [ -z "${RDZV_BACKEND:-}${RDZV_ENDPOINT:-}" ]; then
        RENDEZVOUS=(--nnodes="$NNODES" --node_rank="${NODE_RANK:-0}" --master_addr="$address" --master_port="$port")
    else
        RENDEZVOUS=(--nnodes="$NNODES" --rdzv-id="${RDZV_ID:-resist_mm}" --rdzv-backend="${RDZV_BACKEND:-c10d}"
            --rdzv-endpoint="${RDZV_ENDPOINT:-$address:$port}")
    fi
    if [ -n "${RDZV_CONF:-}" ]; then
        RENDEZVOUS+=(--rdzv-conf="$RDZV_CONF")
    fi
    RENDEZVOUS+=(--max-restarts="$MAX_RESTARTS")
}

launch() {
    local script=$1 workers=$2 cores
    shift 2
    [[ $workers =~ ^[1-9][0-9]*$ ]] || wrong 'the number of workers' 'an integer of at least 1' "$workers"
    read_environment
    choose_rendezvous
    choose_python
    # torchrun would give every worker a single thread; without a GPU the workers share the cores
    cores=$(nproc 2>/dev/null || echo 1)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > workers ? cores / workers : 1))}"
    exec python "$ROOT/tools/_supervise.py" "${RENDEZVOUS[@]}" --nproc_per_node="$workers" \
        "$ROOT/tools/$script" "$@" "${MORE[@]}" --launcher pytorch
}
