#!/bin/bash
# From a fresh clone to a small Japanese language model in under ten minutes on two cores: sets up, builds, fetches text,
# prepares it, trains on 2 MPI ranks, then shows the loss curve, the validation loss and text that the model writes.
#
#   scripts/quickstart.sh               the first time; later asks whether to go on (without a terminal it goes on)
#   scripts/quickstart.sh --continue    trains the model that is there further
#   scripts/quickstart.sh --fresh       starts over (the downloaded text is kept)
#
# Text is in build/corpus, token shards and tokenizer in build/quickstart, the run in runs/quickstart.
set -euo pipefail

cd "$(dirname "$0")/.."
corpus=build/corpus
data=build/quickstart
run=runs/quickstart
minutes=4 # of training in one call
max_steps=600

model=(--layers 4 --heads 4 --channels 192 --seq-len 128)
batch=(--micro-batch 4 --global-batch 16)
rates=(--lr 2e-3 --min-lr 1e-4 --warmup-steps 20 --schedule wsd)
evals=(--eval-every 50 --eval-batches 8)
vocabulary=4096
prompts=("Debian は" "このコマンドは、" "ファイルを")

die() { echo "quickstart: $*" >&2; exit 1; }

choice=${1:-}
case "$choice" in
"" | --continue | --fresh) ;;
*) echo "usage: scripts/quickstart.sh [--continue | --fresh]" >&2 && exit 2 ;;
esac
[ $# -le 1 ] || die "takes one argument at most"

# ----------------------------------------------------------------------------------------------------------------------
# Headed sections with the time they took

part=0 part_start=0
section() {
    close_section
    part=$((part + 1)) part_start=$SECONDS
    printf '\n== %d/6  %s\n' "$part" "$*"
}
close_section() { [ "$part" = 0 ] || echo "   ($((SECONDS - part_start)) s)"; }

# ----------------------------------------------------------------------------------------------------------------------
# What is there

newest_checkpoint() {
    find "$run" -maxdepth 1 -name 'step-*' -not -name '*.*' 2>/dev/null | sort | tail -n 1
}

choose() {
    local checkpoint answer
    checkpoint=$(newest_checkpoint)
    [ -n "$checkpoint" ] || return 0
    echo "There is a trained model already: $checkpoint ($(du -sh "$checkpoint" | cut -f1)), loss curve $run/loss.png."
    if [ -z "$choice" ] && [ -t 0 ] && [ -t 1 ]; then
        read -r -p "Train it further (c), or start over (f)? [c] " answer
        case "$answer" in
        [fF]*) choice=--fresh ;;
        *) choice=--continue ;;
        esac
    elif [ -z "$choice" ]; then
        echo "Trains it further (--continue); to start over: scripts/quickstart.sh --fresh"
        choice=--continue
    fi
}

# ----------------------------------------------------------------------------------------------------------------------
# Training

threads=$(($(nproc) / 2))
[ "$threads" -ge 1 ] || threads=1

train() { OMP_NUM_THREADS=$threads mpirun -n 2 ./train_gpt train --data "$data" "${model[@]}" "${batch[@]}" "$@"; }

# Median time of a step in a log, in milliseconds.
step_ms() { sed -nE 's/.*"step_ms": *([0-9]+).*/\1/p' "$1" | sort -n | awk '{ t[NR] = $1 } END { print t[int((NR + 1) / 2)] }'; }

# Steps that fit in the minutes, from a log of some.
steps_that_fit() {
    local ms steps
    ms=$(step_ms "$1")
    [ -n "$ms" ] && [ "$ms" -gt 0 ] || die "$1 holds no step times"
    steps=$((minutes * 60000 / ms / 10 * 10))
    [ "$steps" -le "$max_steps" ] || steps=$max_steps
    [ "$steps" -ge 50 ] || steps=50
    echo "$steps"
}

# ----------------------------------------------------------------------------------------------------------------------

choose
if [ "$choice" = --fresh ]; then
    rm -rf "$run" "$data"
fi

section "Set-up: compiler, MPICH, text converters, plotter"
scripts/setup.sh quickstart

section "Build: make"
make
