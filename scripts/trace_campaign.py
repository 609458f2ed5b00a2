#!/usr/bin/env python3
"""Measures trace on a large data set of real text, and checks it there:

    build/venv/bin/python scripts/trace_campaign.py WORK [MEGABYTES] [QUERIES]

WORK gets the text (once), the prepared data (once) and its index. The text is what this machine holds: build/corpus,
manual pages, documentation, headers, sources of Python and Perl packages; files equal byte for byte are taken once. 400
megabytes make some 110 million tokens of a vocabulary of 32,000. Spans drawn from the data must be found, with the right
number of occurrences; changed ones must not; both are checked by plain search over all of the text.
"""
import gzip
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test"))
from support import build_tool

FOLDERS = ["/usr/share/man", "/usr/share/doc", "/usr/lib/python3", "/usr/share/perl", "/usr/include", "/root/.pyenv",
           ROOT / "build/venv"]
ENDINGS = {".py", ".pyi", ".h", ".hpp", ".c", ".txt", ".md", ".rst", ".pm", ".pl", ".html", ".gz", ".js", ".json"}


def texts():
    for path in sorted((ROOT / "build/corpus").glob("*.jsonl")):
        for line in open(path, encoding="utf-8"):
            yield path.name, json.loads(line)["text"]
    for folder in FOLDERS:
        for path, folders, names in os.walk(os.path.realpath(folder)):
            folders.sort()
            for name in sorted(names):
                full = os.path.join(path, name)
                if os.path.splitext(name)[1] in ENDINGS or name == "copyright":
                    try:
                        data = gzip.open(full).read() if name.endswith(".gz") else open(full, "rb").read()
                        yield full, data.decode()
                    except (OSError, UnicodeDecodeError, EOFError, gzip.zlib.error):
                        pass


def collect(out, limit):
    seen, size = set(), 0
    with open(out, "w", encoding="utf-8") as file:
        for name, text in texts():
            raw = text.encode()
            digest = hashlib.sha256(raw).digest()
            if digest not in seen and len(raw) > 200:
                seen.add(digest)
                file.write(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n")
                size += len(raw)
            if size > limit:
                break
    print(f"text: {size / 1e6:.1f} MB in {len(seen)} documents")


def timed(command, **options):
    """Runs a command; returns its output, seconds, seconds of CPU, and largest resident megabytes."""
    began = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, **options)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return (out.decode(), time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def edge(text, at):
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return at


def draw(everything, rng, shortest=24, longest=2000):
    while True:
        start = edge(everything, rng.randrange(len(everything)))
        span = everything[start:edge(everything, start + rng.randint(shortest, longest))]
        if b"\xff" not in span and len(span) >= shortest:
            return span


def occurrences(everything, span):
    count, at = 0, everything.find(span)
    while at >= 0:
        count, at = count + 1, everything.find(span, at + 1)
    return count


def forget(folder):
    """Asks the kernel to drop the data from its cache."""
    for path in folder.iterdir():
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def index(tool, data, size):
    """Makes the index and enters it in the manifest."""
    hashes, seconds, used, memory = timed([tool, "index", data, "train"], stderr=subprocess.DEVNULL)
    print(f"index and hashes: {seconds:.1f} s, {used:.1f} s of CPU, {size / seconds / 1e6:.1f} MB/s, "
          f"{size / used / 1e6:.1f} MB per CPU second, {memory:.0f} MB of memory, "
          f"{(data / 'train.index').stat().st_size / 1e6:.0f} MB of index, "
          f"{(data / 'train.sums').stat().st_size / 1e6:.1f} MB of hashes")
    manifest = json.loads((data / "manifest.json").read_text())
    for name, digest in zip(("index", "sums"), hashes.split(), strict=True):
        manifest["splits"]["train"][name] = {"file": f"train.{name}", "bytes": (data / f"train.{name}").stat().st_size,
                                             "sha256": digest}
    (data / "manifest.json").write_text(json.dumps(manifest, indent=2))


def main():
    work, megabytes = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 400
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
    work.mkdir(parents=True, exist_ok=True)
    source, data, tool = work / "text.jsonl", work / "data", build_tool("trace_tool") / "native"
    if not source.exists():
        collect(source, megabytes * 1_000_000)
    if not data.exists():
        _, seconds, _, _ = timed([ROOT / "train_gpt", "prepare", "--input", source, "--out", data, "--vocab-size", 32000,
                               "--tokenizer-sample", 16 << 20, "--val-fraction", 0])
        print(f"prepared in {seconds:.0f} s")
    tokens = (data / "train.bin").stat().st_size // 2
    with open(source, encoding="utf-8") as file:
        everything = b"\xff".join(json.loads(line)["text"].encode() for line in file)
    print(f"{tokens / 1e6:.1f} million tokens, {len(everything) / 1e6:.1f} MB of text")

    if not (data / "train.sums").exists():
        index(tool, data, len(everything))
    rng = random.Random(1)
    present = [draw(everything, rng) for _ in range(count)]
    absent = []
    while len(absent) < count:
        span, other = draw(everything, rng, 24, 400), draw(everything, rng, 24, 400)
        at = edge(span, rng.randrange(1, len(span) - 4))
        text = rng.choice([span + other, span[:at] + "寿限無"[rng.randrange(3)].encode() + span[at:], span[:at] + other])
        if text not in everything:
            absent.append(text)
    for name, queries, least in (("drawn", present, 1 << 30), ("changed", absent, 32)):
        began = time.monotonic()
        answers = subprocess.run([tool, "spans", data, str(least)], capture_output=True, check=True,
                                 input=b"".join(b"%d\n%s" % (len(query), query) for query in queries)).stdout
        seconds = time.monotonic() - began
        answers = [json.loads(line) for line in answers.splitlines()]
        assert len(answers) == len(queries)
        for i, (query, spans) in enumerate(zip(queries, answers)):
            complete = [span for span in spans if (span["first"], span["length"]) == (0, len(query))]
            if name == "drawn":
                assert len(spans) == 1 and complete, query
                if i < 100:
                    assert len(complete[0]["places"]) == occurrences(everything, query), query
            else:
                assert not complete, query
                for span in spans[:3] if i < 100 else []:
                    found = query[span["first"]:span["first"] + span["length"]]
                    assert len(span["places"]) == occurrences(everything, found), found
        print(f"{count} {name} spans of {statistics.mean(map(len, queries)):.0f} bytes on average: right, "
              f"{1000 * seconds / count:.1f} ms each in one process")

    for name, queries in (("drawn", present[:20]), ("changed", absent[:20])):
        for cache in ("warm", "cold"):
            times, used = [], []
            for query in queries:
                if cache == "cold":
                    forget(data)
                _, seconds, cpu, _ = timed([ROOT / "train_gpt", "trace", "--data", data, "--text", query.decode().replace("\0", ""),
                                         "--json"], stderr=subprocess.DEVNULL)
                times.append(seconds)
                used.append(cpu)
            print(f"the command, {name} spans, {cache}: median {1000 * statistics.median(times):.0f} ms, "
                  f"slowest {1000 * max(times):.0f} ms; of CPU median {1000 * statistics.median(used):.0f} ms, "
                  f"largest {1000 * max(used):.0f} ms")


main()
