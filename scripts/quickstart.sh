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
minutes=${QUICKSTART_MINUTES:-4} # of training in one call

# Small enough to see some two million tokens in that time on two cores.
vocabulary=4096
model=(--layers 4 --heads 4 --channels 192 --seq-len 128)
batch=(--micro-batch 4 --global-batch 8)
rates=(--lr 1e-3 --min-lr 1e-4 --warmup-steps 40 --schedule wsd --init-std 0.02)
saving=(--eval-every 100 --eval-batches 10 --save-every 100 --keep 2)
prompts=("ユーザーは、" "この関数は、" "このオプションを指定すると、")

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
    [ ! -d "$run" ] || find "$run" -maxdepth 1 -name 'step-*' -not -name '*.*' | sort | tail -n 1
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

train() {
    OMP_NUM_THREADS=$threads mpirun -n 2 ./train_gpt train --data "$data" "${model[@]}" "${batch[@]}" "${rates[@]}" "$@"
}

# The steps that fit in the minutes, by the median time of a step in a log; a multiple of 100, as evals are.
steps_that_fit() {
    sed -nE 's/.*"step_ms": *([0-9.]+).*/\1/p' "$1" | sort -n | awk -v minutes="$minutes" '
        { ms[NR] = $1 }
        END {
            if (NR == 0) exit 1
            steps = 100 * int(minutes * 60000 / ms[int((NR + 1) / 2)] / 100)
            print (steps < 100 ? 100 : steps > 3000 ? 3000 : steps)
        }' || die "$1 holds no step times"
}

# All values of a key in the log, in its order.
logged() { sed -nE "s/.*\"$1\": *([0-9.eE+-]+).*/\1/p" "$run/log.jsonl"; }

# ----------------------------------------------------------------------------------------------------------------------

choose
if [ "$choice" = --fresh ]; then
    echo "Starts over: removes $run and $data"
    rm -rf "$run" "$data"
fi

section "Set-up (compiler, MPICH, text converters, plotter)"
scripts/setup.sh quickstart

section "Build"
make

section "Text: Debian documentation in Japanese and English"
scripts/fetch_corpus.sh "$corpus"

section "Tokenizer and token shards"
if [ -e "$data/manifest.json" ]; then
    echo "$data is there"
else
    rm -rf "$data" "$run"
    ./train_gpt prepare --input "$corpus" --out "$data" --vocab-size "$vocabulary" --val-fraction 0.02
fi

section "Training on 2 MPI ranks of $threads thread(s), about $minutes minutes"
# The target of a run that was broken off stands; a finished run gets as many steps again as fit.
reached=$(newest_checkpoint | sed 's/.*step-0*//')
reached=${reached:-0}
target=$(cat "$data/target_steps" 2>/dev/null || echo 0)
if [ "$reached" -ge "$target" ]; then
    log=$run/log.jsonl
    if [ "$reached" = 0 ]; then
        echo "Timing a few steps to see how many fit ..."
        rm -rf "$data/timing"
        train --out "$data/timing" --steps 40 --eval-every 0 --save-every 0 >"$data/timing.txt" 2>&1 ||
            die "training failed: $(tail -n 1 "$data/timing.txt")"
        log=$data/timing/log.jsonl
    fi
    more=$(steps_that_fit "$log")
    target=$((reached + more))
    echo "$target" >"$data/target_steps"
fi
[ "$reached" = 0 ] || echo "Goes on from step $reached."
echo "Trains to step $target."
train --out "$run" --steps "$target" "${saving[@]}"
checkpoint=$(newest_checkpoint)

section "Result"
scripts/plot_loss.sh "$run/log.jsonl" "$run/loss.png"
echo "Loss curve:      $run/loss.png"
echo "Checkpoint:      $checkpoint (opens with transformers.AutoModelForCausalLM.from_pretrained)"
printf 'Validation loss: %.3f before training, %.3f after (nats per token)\n' \
    "$(logged val_loss | head -n 1)" "$(logged val_loss | tail -n 1)"
for prompt in "${prompts[@]}"; do
    printf '\n-- text after "%s":\n' "$prompt"
    OMP_NUM_THREADS=$threads ./train_gpt generate --checkpoint "$checkpoint" --prompt "$prompt" \
        --tokens 60 --temperature 0.8 --top-k 0 --top-p 0.8
done
close_section
printf '\nAll done in %d:%02d. Again: scripts/quickstart.sh --continue trains it further, --fresh starts over.\n' \
    $((SECONDS / 60)) $((SECONDS % 60))
