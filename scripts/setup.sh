#!/bin/bash
# Makes sure that what a purpose needs is on this machine, and says what it installs:
#
#   scripts/setup.sh build         compiler, make, MPICH
#   scripts/setup.sh quickstart    and the text converters and the plotter of the quick start
#   scripts/setup.sh test          and clang, the AArch64 cross compiler and emulator, linters, Slurm, build/venv with the
#                                  Python packages of test/requirements.txt
#
# What is missing comes from apt, which takes root or password-less sudo. Without either it names what is missing and
# stops. It looks for commands and headers, not for packages: what was installed in another way counts. When all is there
# it needs no root and no network.
set -euo pipefail

cd "$(dirname "$0")/.."
log=build/setup.log
missing=() # "PACKAGE" or "PACKAGE (what of it was looked for)"

die() { echo "setup: $*" >&2; exit 1; }

# ----------------------------------------------------------------------------------------------------------------------
# What there is

# need PACKAGE WHAT COMMAND...: PACKAGE is missing unless COMMAND succeeds.
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
    need_command gnuplot-nox gnuplot
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

# ----------------------------------------------------------------------------------------------------------------------
# Installing

# Leaves the words that give root rights in `sudo`, or says what is missing and stops.
sudo=()
need_root() {
    command -v apt-get >/dev/null || die "no apt-get on this machine: $1"
    [ "$(id -u)" = 0 ] && return 0
    sudo -n true 2>/dev/null || die "neither root nor password-less sudo: $1"
    sudo=(sudo -n)
}

# Runs apt-get as root, its output in the log.
apt_get() {
    mkdir -p "$(dirname "$log")"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -q "$@" >>"$log" 2>&1 ||
        die "failed: apt-get $* (its last lines follow, all is in $log)"$'\n'"$(tail -n 5 "$log")"
}

update_lists() {
    need_root "apt's package lists are empty or old. Have root run  apt-get update"
    echo "setup: fetches the package lists (apt-get update)"
    apt_get update
}

install_missing() {
    local packages=("${missing[@]%% *}") names
    names=$(printf ', %s' "${missing[@]}")
    need_root "missing are ${names:2}. Have root run  apt-get install ${packages[*]}  or install them in another way"
    apt_knows "${packages[@]}" || update_lists
    echo "setup: installs the Debian packages ${names:2}"
    apt_get -y --no-install-recommends -o DPkg::Lock::Timeout=300 install "${packages[@]}"
}

apt_knows() {
    local package
    for package in "$@"; do
        LC_ALL=C apt-cache policy "$package" | grep 'Candidate: [^(]' >/dev/null || return 1
    done
}

# ----------------------------------------------------------------------------------------------------------------------
# Python packages of the tests

make_venv() {
    local stamp=build/venv/requirements.sha256 wanted
    wanted=$(sha256sum <test/requirements.txt)
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
    echo "setup: makes build/venv with $(paste -sd' ' test/requirements.txt)"
    mkdir -p build
    rm -rf build/venv
    python3 -m venv build/venv
    build/venv/bin/pip --disable-pip-version-check install -qq -r test/requirements.txt ||
        die "pip could not install test/requirements.txt: see its messages above; the network or pip's configuration"
    echo "$wanted" >"$stamp"
}

# ----------------------------------------------------------------------------------------------------------------------

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
