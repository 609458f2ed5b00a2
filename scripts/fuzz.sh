#!/usr/bin/env bash
# Fuzzes the file readers under AddressSanitizer and UndefinedBehaviorSanitizer
# (test/fuzz_readers.c):
#
#     scripts/fuzz.sh [MINUTES [TARGET...]]   default: 60 minutes in total for all targets, on JOBS
#                                             cores (default: all)
#     scripts/fuzz.sh --pack [TARGET...]      minimizes build/fuzz/corpus to inputs that reach the
#                                             same code and writes test/fuzz/TARGET.tar.xz, which
#                                             the tests replay
#
# A run starts from test/fuzz, test/fuzz_seeds.py and the corpus of earlier runs in
# build/fuzz/corpus. Logs go to build/fuzz/TARGET.log, failing inputs to
# build/fuzz/findings/TARGET-*. The exit status is 0 if there was no finding.
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
if [[ ! "$minutes" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: scripts/fuzz.sh [MINUTES [TARGET...]] | --pack [TARGET...]" >&2
    exit 2
fi

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

# Adds the inputs in the repository to build/fuzz/seeds/TARGET.
unpack() {
    mkdir -p "build/fuzz/corpus/$1" "build/fuzz/seeds/$1"
    [[ ! -f "test/fuzz/$1.tar.xz" ]] || tar -xJf "test/fuzz/$1.tar.xz" -C "build/fuzz/seeds/$1"
    find test/fuzz/found -name "$1-*" -exec cp -t "build/fuzz/seeds/$1" {} + 2>/dev/null || true
}

# Runs one target for $2 seconds; it stops at the first finding.
fuzz() {
    FUZZ_TARGET=$1 build/fuzz_readers -max_total_time="$2" -max_len=16384 -timeout=20 \
        -rss_limit_mb=2048 -malloc_limit_mb=1024 -artifact_prefix="$PWD/build/fuzz/findings/$1-" \
        "build/fuzz/corpus/$1" "build/fuzz/seeds/$1" >"build/fuzz/$1.log" 2>&1 || true
}

# Files are named by content and tar stores no times, so the same inputs give the same archive.
pack() {
    local small="$FUZZ_FILES/$1"
    mkdir "$small"
    FUZZ_TARGET=$1 build/fuzz_readers -merge=1 -max_len=16384 "$small" "build/fuzz/corpus/$1" \
        "build/fuzz/seeds/$1" >"build/fuzz/$1.merge.log" 2>&1
    tar -C "$small" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
        -cJf "test/fuzz/$1.tar.xz" .
    echo "$1: $(find "$small" -type f | wc -l) inputs, $(stat -c %s "test/fuzz/$1.tar.xz") bytes"
}

for target in "${targets[@]}"; do
    FUZZ_TARGET=$target build/fuzz_readers -runs=0 >/dev/null 2>&1 ||
        {
            echo "fuzz: unknown target $target; there are $(build/fuzz_readers | paste -sd' ')" >&2
            exit 2
        }
    unpack "$target"
    [[ -z "$pack" ]] || pack "$target"
done
[[ -z "$pack" ]] || exit 0

echo "fuzz: ${#targets[@]} targets, $seconds s each, $jobs in parallel"
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

# From the end of each log: runs, seconds, edges covered, inputs kept, inputs accepted and rejected.
status=0
print_row() { printf '%-16s %12s %8s %8s %8s   %s\n' "$@"; }
problem='promise broken|runtime error|ERROR: '
last_match() { sed -n "$1" "$log" | tail -1; }
print_row target runs seconds edges inputs result
for target in "${targets[@]}"; do
    log=build/fuzz/$target.log
    read -r runs took < <(
        last_match 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 \2/p') || true
    read -r edges inputs < <(
        last_match 's/^#[0-9]*.* cov: \([0-9]*\) .* corp: \([0-9]*\)\/.*/\1 \2/p') || true
    result=$(last_match "s/^$target: //p")
    if [[ -z "$runs" || -z "$result" ]]; then
        status=1
        result="FINDING: $(grep -am1 -E "$problem" "$log" || tail -n 1 "$log")"
        runs=$(last_match 's/^#\([0-9]*\).* cov: .*/\1/p')
    fi
    print_row "$target" "$runs" "$took" "$edges" "$inputs" "$result"
    runs='' took='' edges='' inputs=''
done
exit "$status"
