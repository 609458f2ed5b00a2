#!/bin/bash
# Draws the loss curve of a run with gnuplot: training loss of each step, validation loss where it was measured.
#
#   scripts/plot_loss.sh OUT/log.jsonl PNG
set -euo pipefail

[ $# = 2 ] || { echo "usage: scripts/plot_loss.sh OUT/log.jsonl PNG" >&2; exit 2; }
log=$1 png=$2
die() { echo "plot_loss: $*" >&2; exit 1; }
[ -r "$log" ] || die "cannot read $log: give the log.jsonl of a run"
command -v gnuplot >/dev/null || die "gnuplot is missing: run scripts/setup.sh quickstart"

points() { sed -nE "s/.*\"step\": *([0-9]+).*\"$1\": *([0-9.eE+-]+).*/\\1 \\2/p" "$log"; }
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
points loss >"$data/train"
points val_loss >"$data/validation"
[ -s "$data/train" ] || die "$log holds no step with a loss"

curves="'$data/train' with lines linewidth 1 linecolor '#9ecae1' title 'training, each step'"
if [ "$(wc -l <"$data/train")" -ge 40 ]; then
    curves+=", '$data/train' smooth bezier linewidth 2 linecolor '#08519c' title 'training, smoothed'"
fi
if [ -s "$data/validation" ]; then
    curves+=", '$data/validation' with linespoints pointtype 7 linewidth 2 linecolor '#d94801' title 'validation'"
fi
gnuplot <<PLOT
set terminal pngcairo size 1000,600 font 'sans,12' noenhanced
set output '$png.part'
set title 'Loss of $(dirname "$log")'
set xlabel 'optimizer step'
set ylabel 'loss (nats per token)'
set grid linecolor '#dddddd'
set key top right
plot $curves
PLOT
mv "$png.part" "$png"
