#!/usr/bin/env python3
"""Converts unpacked Debian documentation packages to plain text, one JSON Lines file per package.

    corpus_text.py UNPACKED OUT

UNPACKED/PACKAGE_VERSION/ are the trees that `dpkg-deb -x` unpacks. HTML is converted by w3m, manual
pages by mandoc. Each line of OUT/PACKAGE.jsonl is one page: {"text", "id", "source", "file",
"license", "language"}. OUT/SOURCES lists packages, versions, licences and sizes. The output is
deterministic: the same packages produce the same bytes.
"""
import concurrent.futures
import gzip
import hashlib
import html.parser
import json
import os
import pathlib
import re
import subprocess
import sys
import unicodedata

MIN_CHARACTERS = 200  # shorter pages are redirects, title pages and indexes
CJK = r"[\u3000-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff01-\uff60]"
NAVIGATION = {"navheader", "navfooter", "toc", "list-of-tables", "list-of-figures",
              "titlepage-nav", "related", "footer", "sphinxsidebar", "headerlink", "contents",
              "toctree-wrapper"}
MAN_WIDTH = 990  # columns; close to mandoc's maximum, so that few paragraphs are wrapped


# --------------------------------------------------------------------------------------------------
# HTML

class WithoutNavigation(html.parser.HTMLParser):
    """Copies an HTML page without scripts, images, table borders and NAVIGATION elements."""

    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.kept = []
        self.skipped = None  # name of the element being skipped
        self.depth = 0       # how many nested elements of that name are open

    def handle_starttag(self, tag, attributes):
        if self.skipped:
            self.depth += tag == self.skipped
            return
        classes = set((dict(attributes).get("class") or "").split())
        if tag in ("script", "style", "nav", "head") or classes & NAVIGATION:
            self.skipped, self.depth = tag, 1
        elif tag == "table":
            self.kept.append("<table>")
        elif tag not in ("img", "hr", "link"):
            self.kept.append(self.get_starttag_text())

    def handle_startendtag(self, tag, attributes):
        if not self.skipped and tag == "br":
            self.kept.append("<br>")

    def handle_endtag(self, tag):
        if not self.skipped:
            self.kept.append(f"</{tag}>")
        elif tag == self.skipped:
            self.depth -= 1
            if self.depth == 0:
                self.skipped = None

    def handle_data(self, data):
        if not self.skipped:
            self.kept.append(data)

    def handle_entityref(self, name):
        self.handle_data(f"&{name};")

    def handle_charref(self, name):
        self.handle_data(f"&#{name};")


def html_to_text(page):
    parser = WithoutNavigation()
    parser.feed(page.decode("utf-8", errors="replace"))
    parser.close()
    command = ["w3m", "-dump", "-cols", "9999", "-T", "text/html", "-I", "UTF-8", "-O", "UTF-8"]
    page = "".join(parser.kept).encode()
    dump = subprocess.run(command, input=page, stdout=subprocess.PIPE, check=True).stdout
    return dump.decode("utf-8", errors="replace")


# --------------------------------------------------------------------------------------------------
# Manual pages

def man_to_text(page):
    if re.search(rb"^\.so\s", page, re.MULTILINE):
        return ""  # an alias of another page
    command = ["mandoc", "-K", "utf-8", "-T", "utf8", "-O", f"width={MAN_WIDTH}"]
    dump = subprocess.run(command, input=page, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout
    text = re.sub(r".\x08", "", dump.decode("utf-8", errors="replace"))  # bold by overstriking
    lines = text.rstrip().split("\n")[1:-1]  # drop page header and footer
    lines = [line[7:] if line.startswith(7 * " ") else line.strip() for line in lines]
    text = "\n".join(join_broken(lines))

    # Drop the colophon, which is the same on all pages, and table frames.
    text = re.sub(r"^(COLOPHON|この文書について)\n.*", "", text, flags=re.M | re.S)
    text = re.sub(r"^[─-╿]+$\n?", "", text, flags=re.M).replace("│", " | ")

    # Normalize spaces: two after a full stop become one; between Japanese characters a space is a
    # line break of the source.
    text = re.sub(r"(?<=\S)  (?=\S)", " ", text)
    return re.sub(rf"(?<={CJK}) (?={CJK})", "", text)


def join_broken(lines):
    """Rejoins the lines of paragraphs that are wider than MAN_WIDTH."""
    joined = []
    room = 0  # columns left over in the previous line
    for line in lines:
        text = line.lstrip()
        first_word = columns(text.split(" ", 1)[0])
        if joined and joined[-1] and text and room < first_word + 1:
            joined[-1] += " " + text
        else:
            joined.append(line)
        room = MAN_WIDTH - 9 - columns(line)
    return joined


def columns(text):
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


# --------------------------------------------------------------------------------------------------
# Documents

def clean(text):
    text = unicodedata.normalize("NFC", text).replace("\u00a0", " ").replace("\x1b", "")
    text = re.sub(r"(?<=\S) {3,}", "   ", text)  # table columns
    # Unindent running text in lists; code keeps its indentation.
    text = re.sub(rf"^ +(?={CJK})", "", text, flags=re.MULTILINE)
    return re.sub(r"[ \t]*\n\s*\n|[ \t]+\n", "\n", text).strip()  # one line per paragraph


def language(text):
    letters = sum(character.isalpha() for character in text)
    japanese = len(re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]", text))
    return "ja" if japanese * 5 >= letters else "en"


def is_page(path):
    name = path.name
    if "/man/" in str(path):
        # groff's own pages are left out: they show its syntax.
        return re.search(r"/man/(ja/)?man\d/(?!groff)[^/]*\.gz$", str(path)) is not None
    if name.startswith(("genindex", "search.", "index-", "copyright", "apa", "footnotes")):
        return False
    return re.fullmatch(r"[\w-]+(\.ja|\.en)?\.html", name) is not None


def convert(path):
    page = path.read_bytes()
    if path.suffix == ".gz":
        return clean(man_to_text(gzip.decompress(page)))
    return clean(html_to_text(page))


def licence(tree, package):
    """Short licence names from the License: fields of the package's copyright file."""
    path = next(iter(sorted((tree / "usr/share/doc").glob("*/copyright"))), None)
    if path is None:
        return f"see the copyright file of {package}"
    text = path.read_text(encoding="utf-8", errors="replace")
    names = []
    for name in re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE):
        if name.strip() not in names:
            names.append(name.strip())
    if names:
        return ", ".join(names)
    return f"see the copyright file of {package}"


def main():
    unpacked, out = map(pathlib.Path, sys.argv[1:])
    trees = sorted(unpacked.iterdir())
    seen = set()  # digests of the texts written so far
    rows = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for tree in trees:
            package, version = tree.name.split("_", 1)
            name = licence(tree, package)
            paths = [path for path in sorted(tree.rglob("*"))
                     if path.is_file() and not path.is_symlink() and is_page(path)]
            row = {"package": package, "version": version, "license": name,
                   "documents": 0, "ja": 0, "en": 0}
            with open(out / f"{package}.jsonl", "w", encoding="utf-8") as file:
                for path, text in zip(paths, pool.map(convert, paths)):
                    digest = hashlib.sha256(text.encode()).digest()
                    if len(text) < MIN_CHARACTERS or digest in seen:
                        continue
                    seen.add(digest)
                    where = str(path.relative_to(tree))
                    spoken = language(text)
                    document = {"text": text, "id": f"{package}:{where}",
                                "source": f"{package} {version}", "file": where, "license": name,
                                "language": spoken}
                    json.dump(document, file, ensure_ascii=False)
                    file.write("\n")
                    row["documents"] += 1
                    row[spoken] += len(text.encode())
            rows.append(row)
    write_sources(out / "SOURCES", rows)


def write_sources(path, rows):
    lines = ["# Sources of this text", "",
             "Debian documentation packages, converted to plain text by `scripts/fetch_corpus.sh`.",
             "`license` is what the package's copyright file states for the entire source package;",
             "a single page may fall under one of several licences.", "",
             "| package | version | licence | documents | Japanese, KB | English, KB |",
             "| --- | --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        lines.append(f"| {row['package']} | {row['version']} | {row['license']} "
                     f"| {row['documents']} | {row['ja'] // 1000} | {row['en'] // 1000} |")
    total = {key: sum(row[key] for row in rows) for key in ("documents", "ja", "en")}
    size = (total["ja"] + total["en"]) / 1e6
    lines += ["", f"Total: {total['documents']} documents, {size:.1f} MB of text: "
              f"{total['ja'] / 1e6:.1f} MB Japanese, {total['en'] / 1e6:.1f} MB English.", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


main()
