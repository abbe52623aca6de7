#!/usr/bin/env bash
# Train under Slurm, one task for each worker:
#
#   GPUS=8 GPUS_PER_NODE=4 tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
#
# Supervised, with one task for each machine, which starts GPUS_PER_NODE workers and restarts them (dist_train.sh):
#
#   MAX_RESTARTS=3 GPUS=8 GPUS_PER_NODE=4 tools/slurm_train.sh ...
#   NNODES=2:4 GPUS_PER_NODE=4 tools/slurm_train.sh ...
set -euo pipefail
if [ $# -lt 4 ]; then
    echo 'usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]' >&2
    exit 2
fi
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
NNODES=${NNODES:-$(((GPUS + GPUS_PER_NODE - 1) / GPUS_PER_NODE))}
read_environment
# SRUN_ARGS is a list of options, to be split
# shellcheck disable=SC2206
srun=(srun -p "$1" --job-name="$2" --gres=gpu:"$GPUS_PER_NODE" ${SRUN_ARGS:-})
if [ "$MAX_RESTARTS" = 0 ]; then
    choose_python
    exec "${srun[@]}" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        python -u "$ROOT/tools/train.py" "$3" --work-dir="$4" "${@:5}" "${MORE[@]}" --launcher=slurm
fi
nodes=${NNODES#*:}
# the machines meet at the first one; a machine that fails does not end the step
# shellcheck disable=SC2016
exec "${srun[@]}" --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 \
    --cpus-per-task="$((GPUS_PER_NODE * ${CPUS_PER_TASK:-5}))" --kill-on-bad-exit=0 --no-kill \
    bash -c 'MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)} \
        RDZV_ID=${RDZV_ID:-$SLURM_JOB_ID} exec "$@"' bash \
    "$ROOT/tools/dist_train.sh" "$3" "$GPUS_PER_NODE" --work-dir="$4" "${@:5}"
