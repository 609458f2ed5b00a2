#!/bin/bash
# Checks that this machine has what a task needs, and installs what is missing:
#
#   scripts/setup.sh build         compiler, make, MPICH
#   scripts/setup.sh quickstart    the same, and the text converters of the quick start
#   scripts/setup.sh test          the same, and clang, the AArch64 cross compiler and emulator,
#                                  linters, Slurm, and build/venv with the Python packages listed in
#                                  test/requirements.txt
#
# Missing packages come from apt, which requires root or passwordless sudo. Without either, the
# script lists what is missing and stops. It looks for commands and headers, not for packages, so
# software installed by other means counts. When nothing is missing it needs no root and no network.
set -euo pipefail

cd "$(dirname "$0")/.."
log=build/setup.log
missing=() # "PACKAGE" or "PACKAGE (the command or header that was not found)"

die() { echo "setup: $*" >&2; exit 1; }

# --------------------------------------------------------------------------------------------------
# Checks

# need PACKAGE WHAT COMMAND...: PACKAGE, which provides WHAT, is missing unless COMMAND succeeds.
need() {
    local package=$1 what=$2
    shift 2
    "$@" >/dev/null 2>&1 && return 0
    [ "$package" = "$what" ] || package+=" ($what)"
    missing+=("$package")
}

need_command() { need "$1" "$2" command -v "$2"; }
has_header() { echo "#include <$1>" | "${@:2}" -E - ; }
has_fuzzer() { [ -e "$(clang -print-file-name="lib/linux/libclang_rt.fuzzer-$(uname -m).a")" ]; }
has_venv() { python3 -c 'import ensurepip, venv'; }

look_for_build() {
    need_command gcc gcc
    need_command make make
    need libc6-dev stdlib.h has_header stdlib.h gcc
    need_command mpich mpirun
    need_command libmpich-dev mpicc
}

look_for_quickstart() {
    look_for_build
    need_command python3 python3
    need_command w3m w3m
    need_command mandoc mandoc
}

look_for_test() {
    look_for_quickstart
    need_command clang clang
    need libomp-dev "omp.h of clang" has_header omp.h clang -fopenmp
    need libclang-rt-dev "libFuzzer of clang" has_fuzzer
    need_command clang-format clang-format
    need_command llvm llvm-mca
    need_command gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc
    need libc6-dev-arm64-cross "stdlib.h for AArch64" has_header stdlib.h aarch64-linux-gnu-gcc
    need_command qemu-user qemu-aarch64
    need_command shellcheck shellcheck
    need_command gzip gzip
    need_command zstd zstd
    need_command chromium chromium
    need_command iproute2 ip
    need_command munge munged
    need_command slurmctld slurmctld
    need_command slurmd slurmd
    need_command slurm-client sbatch
    need python3-venv "Python modules venv and ensurepip" has_venv
}

# --------------------------------------------------------------------------------------------------
# Installation

# Sets `sudo` to the prefix that gives root rights, or fails with the reason ($1).
sudo=()
need_root() {
    command -v apt-get >/dev/null || die "no apt-get on this machine: $1"
    [ "$(id -u)" = 0 ] && return 0
    sudo -n true 2>/dev/null || die "neither root nor passwordless sudo: $1"
    sudo=(sudo -n)
}

# Runs apt-get as root; its output goes to the log.
apt_get() {
    mkdir -p "$(dirname "$log")"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -q "$@" >>"$log" 2>&1 ||
        die "apt-get $* failed; full output in $log, last lines:"$'\n'"$(tail -n 5 "$log")"
}

update_lists() {
    need_root "apt's package lists are empty or outdated; as root, run: apt-get update"
    echo "setup: updating the package lists (apt-get update)"
    apt_get update
}

install_missing() {
    local packages=("${missing[@]%% *}") names
    names=$(printf ', %s' "${missing[@]}")
    need_root "missing: ${names:2}; as root, run: apt-get install ${packages[*]}"
    apt_knows "${packages[@]}" || update_lists
    echo "setup: installing Debian packages: ${names:2}"
    apt_get -y --no-install-recommends -o DPkg::Lock::Timeout=300 install "${packages[@]}"
}

apt_knows() {
    local package
    for package in "$@"; do
        LC_ALL=C apt-cache policy "$package" | grep 'Candidate: [^(]' >/dev/null || return 1
    done
}

# --------------------------------------------------------------------------------------------------
# Python packages for the tests

make_venv() {
    local stamp=build/venv/requirements.sha256 wanted
    wanted=$(sha256sum <test/requirements.txt)
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
    echo "setup: creating build/venv with $(paste -sd' ' test/requirements.txt)"
    mkdir -p build
    rm -rf build/venv
    python3 -m venv build/venv
    # without --no-compile, half the time goes into modules that no test imports
    build/venv/bin/pip --disable-pip-version-check install -qq --no-compile -r test/requirements.txt ||
        die "pip could not install test/requirements.txt (see above);" \
            "check the network and pip's configuration"
    echo "$wanted" >"$stamp"
}

# --------------------------------------------------------------------------------------------------

case "${1:-}" in
build | quickstart | test) "look_for_$1" ;;
lists) update_lists && exit ;;
*) echo "usage: scripts/setup.sh build|quickstart|test" >&2 && exit 2 ;;
esac
[ "${#missing[@]}" = 0 ] || install_missing
missing=()
"look_for_$1"
[ "${#missing[@]}" = 0 ] || die "still missing after apt-get install: ${missing[*]}"
[ "$1" != test ] || make_venv
