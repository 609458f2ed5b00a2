#!/bin/bash
# Downloads about 18 MB of real Japanese and English text for trying train_gpt: Debian's
# documentation packages.
#
#   scripts/fetch_corpus.sh [DIR]     writes PACKAGE.jsonl and SOURCES to DIR (default build/corpus)
#
# The packages are downloaded and unpacked into a temporary directory; nothing is installed. Each
# line of a .jsonl file is one page with its text, package, file, licence and language. DIR appears
# only when it is complete. An existing DIR is left alone.
set -euo pipefail

cd "$(dirname "$0")/.."
dir=${1:-build/corpus}
packages=(
    debian-reference-ja debian-reference-en developers-reference-ja developers-reference
    debian-faq-ja debian-faq maint-guide-ja maint-guide
    manpages-ja manpages-ja-dev manpages
)

die() { echo "fetch_corpus: $*" >&2; exit 1; }

if [ -e "$dir/SOURCES" ]; then
    echo "$dir already exists: $(tail -n 1 "$dir/SOURCES")"
    exit 0
fi
[ ! -e "$dir" ] || die "$dir exists but has no SOURCES file: remove it or choose another directory"
for command in apt-get apt-cache dpkg-deb python3 w3m mandoc; do
    command -v "$command" >/dev/null || die "$command not found: run scripts/setup.sh quickstart"
done

known() { LC_ALL=C apt-cache policy "$1" | grep 'Candidate: [^(]' >/dev/null; }
if ! known "${packages[0]}"; then
    echo "apt does not know ${packages[0]}: its package lists are empty or outdated"
    scripts/setup.sh lists
fi
found=()
for package in "${packages[@]}"; do
    if known "$package"; then
        found+=("$package")
    else
        echo "$package is not in this Debian release: skipped"
    fi
done
[ "${#found[@]}" -gt 0 ] || die "apt has none of these packages: ${packages[*]}"

mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/debs" "$work/unpacked" "$work/text"
echo "downloading ${found[*]} (nothing is installed)"
(cd "$work/debs" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "${found[@]}")
for deb in "$work"/debs/*.deb; do
    name=$(dpkg-deb --show --showformat "\${Package}_\${Version}" "$deb")
    dpkg-deb --extract "$deb" "$work/unpacked/$name"
done
echo "converting their pages to plain text (w3m, mandoc)"
python3 scripts/corpus_text.py "$work/unpacked" "$work/text"
mv -T "$work/text" "$dir"
echo "$dir: $(tail -n 1 "$dir/SOURCES")"
