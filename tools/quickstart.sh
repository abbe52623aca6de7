#!/usr/bin/env bash
# Quick start: sets up the environment, generates a small detection set, trains a small YOLOv2 under ResIST with two
# workers, evaluates it, draws the run (work_dirs/quickstart/run.png), and leaves pictures of its detections in
# work_dirs/quickstart/pictures. Takes minutes on two cores without a GPU; uses GPUs if there are any.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_env
cd "$ROOT"

config=configs/quickstart/yolo_resist_shapes.py
work_dir=work_dirs/quickstart
workers=${WORKERS:-2}
epochs=$(sed -nE 's/^train_cfg = .*max_epochs=([0-9]+).*/\1/p' "$config")
export RESIST_MM_SHAPES="$work_dir/shapes/"

step() { printf '\n== %s\n' "$*"; }
progress() { # LOG: "EPOCH LOSS ETA" of the last epoch; nothing before the first one has ended
    sed -nE 's/.*Epoch\(train\) +\[([0-9]+)\].* eta: ([0-9:]+) .* loss: ([^ ]+).*/\1 \3 \2/p' "$1" 2>/dev/null | tail -n 1
}
watch_training() { # LOG: one line that is updated if this is a terminal, else a line for each quarter
    local epoch loss eta line shown=0
    while kill -0 $training 2>/dev/null; do
        sleep 1
        read -r epoch loss eta <<<"$(progress "$1")" || true
        line="  epoch ${epoch:=0} of $epochs, loss $loss, ETA $eta"
        if [ -t 1 ]; then
            [ "$epoch" -gt 0 ] || line="  the workers are starting"
            printf '\r\033[K%s' "$line"
        elif [ $((4 * epoch / epochs)) -gt $shown ]; then
            shown=$((4 * epoch / epochs))
            echo "$line"
        fi
    done
    [ ! -t 1 ] || echo
}
failed() { # LOG
    tail -n 40 "$1"
    echo "failed; the whole log is $1" >&2
    exit 1
}

# what an earlier quickstart left
rm -rf "$work_dir"
mkdir -p "$work_dir"

step 'images: five kinds of shapes on textured backgrounds'
python tools/dataset_converters/make_shapes_voc.py "$RESIST_MM_SHAPES" --size 128 --train 400 --test 100

step "training: YOLOv2 under ResIST, $workers workers (log: $work_dir/train.log)"
setsid tools/dist_train.sh $config "$workers" --work-dir "$work_dir" --cfg-options share_gpu=True \
    >"$work_dir/train.log" 2>&1 &
training=$!
# the launcher and its workers have their own process group
trap 'kill -TERM -- -$training 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
watch_training "$work_dir/train.log"
wait $training || failed "$work_dir/train.log"
trap - EXIT

step "testing: the whole model on 100 images that it has not seen (log: $work_dir/test.log)"
tools/dist_test.sh $config "$(cat "$work_dir/last_checkpoint")" "$workers" --work-dir "$work_dir" \
    --show-dir "$work_dir/pictures" --cfg-options share_gpu=True \
    >"$work_dir/test.log" 2>&1 || failed "$work_dir/test.log"

step 'result'
python tools/analysis_tools/summarize_run.py "$work_dir" --at-least pascal_voc/mAP 0.5
python tools/analysis_tools/plot_run.py "$work_dir"
echo "detections: $(find "$work_dir/pictures" -name '*.png' -o -name '*.jpg' | sort | head -n 1) and others beside it"
