#!/bin/bash
# Fetches real Japanese and English text to try train_gpt with: Debian's documentation packages, about 18 MB.
#
#   scripts/fetch_corpus.sh [DIR]        DIR (default build/corpus) gets PACKAGE.jsonl and SOURCES
#
# The packages are downloaded and unpacked in a folder, nothing is installed. Each line of a .jsonl file is a page with
# its text, package, file, licence and language. DIR appears when it is complete; if it is there, it is left alone.
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
    echo "$dir is there: $(tail -n 1 "$dir/SOURCES")"
    exit 0
fi
[ ! -e "$dir" ] || die "$dir exists and has no SOURCES: remove it, or name another folder"
for command in apt-get apt-cache dpkg-deb python3 w3m mandoc; do
    command -v "$command" >/dev/null || die "$command is missing: run scripts/setup.sh quickstart"
done

known() { LC_ALL=C apt-cache policy "$1" | grep 'Candidate: [^(]' >/dev/null; }
if ! known "${packages[0]}"; then
    echo "apt knows no ${packages[0]}: its package lists are empty or old"
    scripts/setup.sh lists
fi
found=()
for package in "${packages[@]}"; do
    if known "$package"; then
        found+=("$package")
    else
        echo "$package is not in this Debian release: left out"
    fi
done
[ "${#found[@]}" -gt 0 ] || die "apt has none of the packages ${packages[*]}"

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
echo "turning their pages into plain text (w3m, mandoc)"
python3 scripts/corpus_text.py "$work/unpacked" "$work/text"
mv -T "$work/text" "$dir"
echo "$dir: $(tail -n 1 "$dir/SOURCES")"
