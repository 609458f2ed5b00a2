#!/usr/bin/env bash
# Installs what the tests need, builds all variants of the program and runs the test suite:
#
#     ./scripts/test.sh [pytest arguments]        for example: ./scripts/test.sh -k resume -x
#
# Two workers share the test files; `-n 0` runs them one after another in this process.
#
# The last line is always `N passed, N failed` (errors count as failures). The exit status is 0 only
# if at least one test ran and none failed.
set -euo pipefail

summary=build/test-summary # test/conftest.py writes the last line there

finish() {
    status=$?
    # A failed step before the tests, or a pytest that does not finish, counts as one failure.
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
make --no-print-directory -j"$(nproc)" tests asan clang a64fx train_gpt
scripts/fetch_corpus.sh build/corpus
build/venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --summary "$summary" test "$@"
