#!/usr/bin/env bash
# Fuzzes the readers of files under AddressSanitizer and UndefinedBehaviorSanitizer (test/fuzz_readers.c):
#
#     scripts/fuzz.sh [MINUTES [TARGET...]]   60 minutes over all targets by default, on JOBS cores (all of them)
#     scripts/fuzz.sh --pack [TARGET...]      the smallest part of build/fuzz/corpus that reaches the same code becomes
#                                             test/fuzz/TARGET.tar.xz, which the tests replay
#
# A run goes on from test/fuzz, test/fuzz_seeds.py and what earlier runs left in build/fuzz/corpus. The logs are
# build/fuzz/TARGET.log, inputs that broke something build/fuzz/findings/TARGET-*. The exit status is 0 without a finding.
set -euo pipefail

cd "$(dirname "$0")/.."
pack=
if [[ "${1:-}" == --pack ]]; then
    pack=yes
    shift
fi
minutes=60
if [[ -z "$pack" && $# -gt 0 ]]; then
    minutes=$1
    shift
fi
[[ "$minutes" =~ ^[1-9][0-9]*$ ]] || { echo "usage: scripts/fuzz.sh [MINUTES [TARGET...]] | --pack [TARGET...]" >&2; exit 2; }

make --no-print-directory build/fuzz_readers
mapfile -t targets < <(if [[ $# -gt 0 ]]; then printf '%s\n' "$@"; else build/fuzz_readers; fi)
jobs=${JOBS:-$(nproc)}
seconds=$((minutes * 60 * jobs / ${#targets[@]}))
memory=/tmp
[[ ! -w /dev/shm ]] || memory=/dev/shm
FUZZ_FILES=$(mktemp -d "$memory/train_gpt_fuzz.XXXXXX")
export FUZZ_FILES
trap 'rm -rf "$FUZZ_FILES"' EXIT
mkdir -p build/fuzz/findings build/fuzz/corpus
rm -rf build/fuzz/seeds
build/venv/bin/python test/fuzz_seeds.py build/fuzz/seeds

# Inputs of the repository go to build/fuzz/seeds/TARGET too.
unpack() {
    mkdir -p "build/fuzz/corpus/$1" "build/fuzz/seeds/$1"
    [[ ! -f "test/fuzz/$1.tar.xz" ]] || tar -xJf "test/fuzz/$1.tar.xz" -C "build/fuzz/seeds/$1"
    find test/fuzz/found -name "$1-*" -exec cp -t "build/fuzz/seeds/$1" {} + 2>/dev/null || true
}

# One target for its share of the time; it ends at the first finding.
fuzz() {
    FUZZ_TARGET=$1 build/fuzz_readers -max_total_time="$2" -max_len=16384 -timeout=20 -rss_limit_mb=2048 \
        -malloc_limit_mb=1024 -artifact_prefix="build/fuzz/findings/$1-" "build/fuzz/corpus/$1" "build/fuzz/seeds/$1" \
        >"build/fuzz/$1.log" 2>&1 || true
}

# Names by content and tar without times: the same inputs make the same bytes.
pack() {
    local small="$FUZZ_FILES/$1"
    mkdir "$small"
    FUZZ_TARGET=$1 build/fuzz_readers -merge=1 -max_len=16384 "$small" "build/fuzz/corpus/$1" "build/fuzz/seeds/$1" \
        >"build/fuzz/$1.merge.log" 2>&1
    tar -C "$small" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cJf "test/fuzz/$1.tar.xz" .
    echo "$1: $(find "$small" -type f | wc -l) inputs, $(stat -c %s "test/fuzz/$1.tar.xz") bytes"
}

for target in "${targets[@]}"; do
    FUZZ_TARGET=$target build/fuzz_readers -runs=0 >/dev/null 2>&1 ||
        { echo "fuzz: no target $target; there are: $(build/fuzz_readers | paste -sd' ')" >&2; exit 2; }
    unpack "$target"
    [[ -z "$pack" ]] || pack "$target"
done
[[ -z "$pack" ]] || exit 0

echo "fuzz: ${#targets[@]} targets, $seconds s each, $jobs at a time"
running=0
for target in "${targets[@]}"; do
    if [[ "$running" -ge "$jobs" ]]; then
        wait -n
        running=$((running - 1))
    fi
    fuzz "$target" "$seconds" &
    running=$((running + 1))
done
wait

# What a log says at its end: runs, seconds, edges of the code reached, inputs kept, inputs accepted and rejected.
status=0
printf '%-16s %12s %8s %8s %8s   %s\n' target runs seconds edges inputs result
for target in "${targets[@]}"; do
    log=build/fuzz/$target.log
    read -r runs took < <(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 \2/p' "$log" | tail -1) || true
    read -r edges inputs < <(sed -n 's/^#[0-9]*.* cov: \([0-9]*\) .* corp: \([0-9]*\)\/.*/\1 \2/p' "$log" | tail -1) || true
    result=$(sed -n "s/^$target: //p" "$log" | tail -1)
    if [[ -z "$runs" || -z "$result" ]]; then
        status=1
        result="FINDING: $(grep -am1 -E 'promise broken|runtime error|ERROR: ' "$log" || tail -n 1 "$log")"
        runs=$(sed -n 's/^#\([0-9]*\).* cov: .*/\1/p' "$log" | tail -1)
    fi
    printf '%-16s %12s %8s %8s %8s   %s\n' "$target" "$runs" "$took" "$edges" "$inputs" "$result"
    runs='' took='' edges='' inputs=''
done
exit "$status"
