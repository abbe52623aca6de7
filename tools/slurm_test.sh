#!/usr/bin/env bash
# Evaluate under Slurm, one task for each worker:
#
#   GPUS=8 GPUS_PER_NODE=4 tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
set -euo pipefail
if [ $# -lt 4 ]; then
    echo 'usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]' >&2
    exit 2
fi
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
choose_python
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
# SRUN_ARGS is a list of options, to be split
# shellcheck disable=SC2086
exec srun -p "$1" --job-name="$2" --gres=gpu:"$GPUS_PER_NODE" --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    python -u "$ROOT/tools/test.py" "$3" "$4" --launcher=slurm "${@:5}"
