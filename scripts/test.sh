#!/usr/bin/env bash
# Installs what the tests need, builds every variant of the program and runs all tests:
#
#     ./scripts/test.sh [pytest arguments]        for example: ./scripts/test.sh -k resume -x
#
# The last line is always `N passed, N failed` (errors count as failed); the exit status is 0 only if something ran
# and nothing failed.
set -euo pipefail

summary=build/test-summary # pytest leaves the closing line there (test/conftest.py)

finish() {
    status=$?
    # A step before the tests that fails, or a pytest that does not get to its end, is one failure.
    if [[ ! -s "$summary" ]]; then
        echo "0 passed, 1 failed"
        exit $((status == 0 ? 1 : status))
    fi
    line=$(<"$summary")
    echo "$line"
    if [[ $status -eq 0 && ! "$line" =~ ^[1-9][0-9]*\ passed,\ 0\ failed$ ]]; then
        status=1
    fi
    exit "$status"
}
trap finish EXIT

cd "$(dirname "$0")/.."
mkdir -p build
rm -f "$summary"
scripts/setup.sh test
make --no-print-directory -j"$(nproc)" train_gpt asan clang a64fx
scripts/fetch_corpus.sh build/corpus
build/venv/bin/python -m pytest --summary "$summary" test "$@"
