#!/bin/bash
# Creates an AArch64 Debian sysroot for building and running train_gpt for A64FX on any Debian
# machine (only once), and prints its path:
#
#   aarch64-linux-gnu-gcc --sysroot="$(scripts/a64fx_sysroot.sh)" -mcpu=a64fx -fopenmp ...
#   mpirun -n 2 qemu-aarch64 -cpu a64fx -L "$(scripts/a64fx_sysroot.sh)" ./train_gpt.a64fx ...
#
# apt resolves and downloads the arm64 packages in a private state directory, and dpkg-deb unpacks
# them. This needs no root rights and no foreign architecture on the host (with `dpkg
# --add-architecture arm64`, `apt-get install libmpich-dev:arm64` would replace the host's own tool
# chain). Packages come from the host's Debian sources, so that both sides have the same MPICH
# version. Progress goes to stderr; stdout gets only the path.
set -euo pipefail

packages=(libmpich-dev libc6-dev libgomp1)
root=${A64FX_SYSROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/train_gpt/a64fx-sysroot}

say() { echo "a64fx_sysroot: $*" >&2; }
die() { say "$*"; exit 1; }

if [ -d "$root" ]; then
    [ -e "$root/usr/include/aarch64-linux-gnu/mpich/mpi.h" ] ||
        die "$root has no AArch64 MPICH (usr/include/aarch64-linux-gnu/mpich/mpi.h):" \
            "remove the directory so that it is created again"
    echo "$root"
    exit 0
fi
for command in apt-get apt-config dpkg-deb; do
    command -v "$command" >/dev/null || die "$command not found (this script needs Debian);" \
        "on other systems set A64FX_SYSROOT to an AArch64 root with ${packages[*]}"
done
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$suite" ] || die "/etc/os-release: no VERSION_CODENAME, so the Debian suite is unknown"

mkdir -p "$(dirname "$root")"
root=$(realpath -m "$root")
work=$(mktemp -d "$root.XXXXXX")
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/apt/{lists/partial,cache/archives/partial,sources.d}
mkdir -p "$work"/root/usr/{bin,lib,sbin}

# The host's own package sources for its suite, -updates and -security; no third-party sources.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] && option="[signed-by=$keyring] " || option=""
apt-get indextargets --format "\$(REPO_URI) \$(RELEASE) \$(COMPONENT)" 'Created-By: Packages' |
    awk -v suite="$suite" -v option="$option" '
        $2 ~ "^" suite "(-updates|-security)?$" && !seen[$0]++ { print "deb " option $0 }' \
        >"$work/apt/sources.list"
[ -s "$work/apt/sources.list" ] || die "/etc/apt: no package source for $suite; add one"

: >"$work/apt/status"
cat >"$work/apt/apt.conf" <<CONF
#clear APT::Architectures;
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "$work/apt/sources.d";
Dir::State "$work/apt";
Dir::State::status "$work/apt/status";
Dir::State::extended_states "$work/apt/extended_states";
Dir::Cache "$work/apt/cache";
CONF
export APT_CONFIG=$work/apt/apt.conf LC_ALL=C.UTF-8

# Only libraries and headers are needed: leave out the arm64 compilers and tools among the
# dependencies.
say "fetching ${packages[*]} and the libraries they need (arm64, $suite) ..."
apt-get -qq update >&2
apt-get -qq --simulate install "${packages[@]}" |
    awk '$1 == "Inst" && $2 ~ /^(lib|linux-libc-dev)/ { print $2 }' >"$work/apt/needed"
cd "$work/apt/cache/archives"
xargs apt-get -qq download <"$work/apt/needed" >&2

# Since Debian 12 /lib, /bin and /sbin are symbolic links into /usr. tar keeps them where a package
# has directories.
for folder in bin lib sbin; do
    ln -s "usr/$folder" "$work/root/$folder"
done
for package in *.deb; do
    dpkg-deb --fsys-tarfile "$package" |
        tar -x -C "$work/root" --keep-directory-symlink --no-same-owner --exclude=./usr/share
done
cd /
# An absolute link would point outside the root, for the linker and for qemu-aarch64 alike.
find "$work/root" -type l -lname '/*' -printf '%p\t%l\n' | while IFS=$'\t' read -r link target; do
    ln -sfrT "$work/root$target" "$link"
done

# The final name appears only when the root is complete. If another process was faster, keep its
# root.
mv -T "$work/root" "$root" 2>/dev/null || [ -d "$root" ] || die "cannot rename $work/root to $root"
say "$(wc -l <"$work/apt/needed") packages, $(du -sh "$root" | cut -f1) in $root"
echo "$root"
