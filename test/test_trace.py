"""trace: what it says was read is what the trainer read, for every sample; what it finds in the data is what plain search
finds, and what it does not find is not there; what was altered is one line.

All comparisons are exact. The C side that answers many questions in one process is test/trace_tool.c.
"""
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from support import (ROOT, arguments, build_tool, fails, flip_bit, read_log, run, truncate, write_llmc,
                     write_pair, random_documents)

SPLIT = "train"
STEPS = int(os.environ.get("TRACE_STEPS", 48))  # of the run that is traced; several thousand for a campaign


@pytest.fixture(scope="session")
def tools():
    return build_tool("trace_tool")


def call(tools, *args, build="asan", data=b"", status=0):
    result = subprocess.run([tools / build, *map(str, args)], input=data, capture_output=True, timeout=300)
    assert result.returncode == status, result.stderr.decode(errors="replace")[-3000:]
    return result.stdout.decode()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# Data with an index, and what is in it by other means

class Documents:
    """The training documents of a prepared folder, cut from their sources as .docs says."""

    def __init__(self, folder):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        raw = (folder / f"{SPLIT}.docs").read_bytes()
        self.records = [struct.unpack_from("<QQQQII", raw, 32 + 40 * i) for i in range((len(raw) - 32) // 40)]
        self.tokens = np.fromfile(folder / f"{SPLIT}.bin", np.uint16)
        self.starts = np.concatenate([[0], np.cumsum([record[2] for record in self.records])]).tolist()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
        self.end = self.tokenizer.token_to_id("<|endoftext|>")
        self.lines = [self.cut(record) for record in self.records]
        self.texts = [json.loads(line)["text"].encode() for line in self.lines]
        self.everything = b"\xff".join(self.texts)

    def source(self, record):
        return self.manifest["sources"][record[5]]["path"]

    def cut(self, record):
        with open(self.source(record), "rb") as file:
            file.seek(record[0])
            return file.read(record[1])

    def counts(self, span):
        """How often a span stands in each document; occurrences may overlap."""
        found = {}
        if span not in self.everything:
            return found
        for number, text in enumerate(self.texts):
            at = text.find(span)
            while at >= 0:
                found[number] = found.get(number, 0) + 1
                at = text.find(span, at + 1)
        return found


@pytest.fixture(scope="session")
def indexed(prepared, tools, tmp_path_factory):
    """The prepared slice with index, chunk hashes, and metadata of each document."""
    folder = tmp_path_factory.mktemp("indexed") / "data"
    shutil.copytree(prepared, folder)
    with_metadata(folder)
    return with_index(folder, tools)


def with_index(folder, tools, *command):
    index_hash, sums_hash = call(tools, *(command or ("index", folder, SPLIT))).split()
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("index", "sums"):
        path = folder / f"{SPLIT}.{name}"
        manifest["splits"][SPLIT][name] = {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    assert [manifest["splits"][SPLIT][name]["sha256"] for name in ("index", "sums")] == [index_hash, sums_hash]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return folder


def with_metadata(folder):
    """Gives each training document an id (some the same), a url and a license of its own."""
    manifest = json.loads((folder / "manifest.json").read_text())
    docs, meta = folder / f"{SPLIT}.docs", folder / f"{SPLIT}.meta"
    raw, blob = bytearray(docs.read_bytes()), b""
    for i in range((len(raw) - 32) // 40):
        text = json.dumps({"id": f"文書-{i // 2}" if i < 4 else f"doc {i}", "source": "a collection", "number": i,
                           "url": f"https://example.org/{i}", "license": "MIT"}, ensure_ascii=False).encode()
        struct.pack_into("<QI", raw, 32 + 40 * i + 24, len(blob), len(text))
        blob += text
    docs.write_bytes(raw)
    meta.write_bytes(blob)
    for name in ("docs", "meta"):
        path = folder / f"{SPLIT}.{name}"
        manifest["splits"][SPLIT][name] = {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


@pytest.fixture(scope="session")
def documents(indexed):
    return Documents(indexed)


@pytest.fixture(scope="session")
def second(indexed, corpus, tools, tmp_path_factory):
    """A little other data with the same tokenizer, as the second source of a mixture."""
    folder = tmp_path_factory.mktemp("second")
    with open(folder / "some.jsonl", "w", encoding="utf-8") as file:
        for line in sorted(corpus.iterdir())[0].read_text(encoding="utf-8").splitlines()[:4]:
            file.write(json.dumps({**json.loads(line), "text": json.loads(line)["text"][:600]}) + "\n")
    run(arguments("prepare", input=folder / "some.jsonl", out=folder / "data", tokenizer=indexed / "tokenizer",
                  val_fraction=0))
    return with_index(folder / "data", tools)


OPTIONS = dict(layers=1, heads=1, channels=8, seq_len=48, micro_batch=1, global_batch=8, eval_every=0, keep=0)


@pytest.fixture(scope="session")
def mixed(indexed, second, tmp_path_factory):
    """A run over a mixture, several epochs of its smaller source: 2 ranks, stopped, 4 ranks, stopped, 1 rank."""
    out = tmp_path_factory.mktemp("mixed") / "run"
    for ranks, until in ((2, STEPS // 3), (4, STEPS // 3 * 2), (1, STEPS)):
        run(arguments("train", data=[f"{indexed}:3", f"{second}:1"], out=out, steps=until, save_every=STEPS // 3,
                      **OPTIONS), ranks=ranks, timeout=600)
    return out


def trace(*args, **options):
    """The objects that `trace --json` prints."""
    return [json.loads(line) for line in run(["trace", *args, "--json"], **options).out.splitlines()]


def ranks_of(step):
    return 2 if step <= STEPS // 3 else 4 if step <= STEPS // 3 * 2 else 1


# ----------------------------------------------------------------------------------------------------------------------
# Suffix sorting

@pytest.mark.parametrize("text", [b"", b"a", b"aaaaaaa", b"mississippi", b"abababababa" * 9, bytes(range(256)) * 3,
                                  bytes(256) + b"\1", b"b" * 300 + b"a"])
def test_suffix_sort(text, tools):
    assert list(map(int, call(tools, "sort", data=text).split())) == sorted(range(len(text)), key=lambda i: text[i:])


def test_suffix_sort_of_random_text(tools):
    rng = random.Random(3)
    for symbols in (1, 2, 3, 5, 256):
        for length in (*range(2, 30), 1000, 5000):
            text = bytes(rng.randrange(symbols) for _ in range(length)) * rng.choice((1, 1, 2))
            found = list(map(int, call(tools, "sort", build="native", data=text).split()))
            assert found == sorted(range(len(text)), key=lambda i: text[i:])


# ----------------------------------------------------------------------------------------------------------------------
# Spans of text

def ask(tools, folder, queries, least, build="asan"):
    data = b"".join(b"%d\n%s" % (len(query), query) for query in queries)
    return [json.loads(line) for line in call(tools, "spans", folder, least, build=build, data=data).splitlines()]


def edges(text):
    """Where the characters of some UTF-8 begin, and its end."""
    return [i for i, byte in enumerate(text) if byte & 0xC0 != 0x80] + [len(text)]


def edge(text, at):
    """The first of them from `at` on."""
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return at


def drawn(documents, rng, count, shortest=8, longest=2000):
    spans = []
    while len(spans) < count:
        text = rng.choice(documents.texts)
        start = edge(text, rng.randrange(len(text)))
        end = edge(text, start + rng.randint(shortest, longest))
        if end <= len(text) and end > start:
            spans.append(text[start:end])
    return spans


def check_occurrences(documents, span, found):
    """The occurrences of a span that was found are those of plain search."""
    starts = documents.starts
    counts = {}
    for token, offset, number in found:
        counts[number] = counts.get(number, 0) + 1
        assert starts[number] <= token < starts[number + 1]
        ids = documents.tokens[token:min(starts[number + 1] - 1, token + len(span) + 1)].tolist()
        text = b"".join(token_bytes(documents, i) for i in ids)
        assert text[offset:offset + len(span)] == span
    assert counts == documents.counts(span)
    assert len({(token, offset) for token, offset, _ in found}) == len(found)


ALPHABET = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ALPHABET = {chr(c): c for c in ALPHABET} | {chr(0x100 + i): b for i, b in
                                            enumerate(b for b in range(256) if b not in set(ALPHABET))}


def token_bytes(documents, i):
    return bytes(ALPHABET[c] for c in documents.tokenizer.id_to_token(i))


def test_drawn_spans_are_found(documents, tools):
    """1,000 spans from anywhere in the data, Japanese and English: each is found complete, with all its occurrences."""
    queries = drawn(documents, random.Random(11), 700) + drawn(documents, random.Random(12), 300, 1, 30)
    for query, spans in zip(queries, ask(tools, documents.folder, queries, 100_000, "native"), strict=True):
        assert [(span["first"], span["length"]) for span in spans] == [(0, len(query))], query.decode()
        check_occurrences(documents, query, spans[0]["places"])


def altered(documents, rng):
    """Text that is not in the data, but near it: two spans joined, a character changed, dropped or doubled."""
    while True:
        text = drawn(documents, rng, 1, 8, 400)[0].decode()
        at = rng.randrange(len(text))
        kind = rng.randrange(4)
        other = drawn(documents, rng, 1, 8, 400)[0].decode()
        text = [text + other, text[:at] + rng.choice(other) + text[at + 1:], text[:at] + text[at + 1:],
                text[:at] + text[at] + text[at:]][kind].encode()
        if not documents.counts(text):
            return text


def longest_spans(documents, query, least):
    """The spans that trace should give, by plain search."""
    ends, found, end = edges(query), [], 0
    for i, start in enumerate(ends[:-1]):
        reached = end
        for stop in ends[i + 1:]:
            if stop > reached:
                if query[start:stop] not in documents.everything:
                    break
                reached = stop
        if reached > max(end, start) and reached - start >= min(least, len(query)):
            found.append((start, reached - start))
        end = max(end, reached)
    return sorted(found, key=lambda span: (-span[1], span[0]))


def test_altered_spans_are_not_found(documents, tools):
    """1,000 spans that are not in the data are not found; of each, the longest spans that are."""
    rng = random.Random(13)
    queries, least = [altered(documents, rng) for _ in range(1000)], 12
    answers = ask(tools, documents.folder, queries, least, "native")
    for i, (query, spans) in enumerate(zip(queries, answers, strict=True)):
        assert (0, len(query)) not in [(span["first"], span["length"]) for span in spans]
        if i % 10 == 0:
            assert [(s["first"], s["length"]) for s in spans] == longest_spans(documents, query, least), query.decode()
            for span in spans:
                check_occurrences(documents, query[span["first"]:span["first"] + span["length"]], span["places"])


def test_spans_under_sanitizers(documents, tools):
    rng = random.Random(14)
    queries = drawn(documents, rng, 20) + [altered(documents, rng) for _ in range(20)] + [b"\n", "。".encode(), b" the"]
    for query, spans in zip(queries, ask(tools, documents.folder, queries, 1), strict=True):
        assert [(span["first"], span["length"]) for span in spans] == longest_spans(documents, query, 1)


@pytest.mark.parametrize("block_bytes", [2000, 40_000])
def test_spans_across_blocks(block_bytes, indexed, documents, tools, tmp_path):
    """With blocks so small that spans lie across their borders, the answers are the same."""
    folder = tmp_path / "data"
    shutil.copytree(indexed, folder)
    with_index(folder, tools, "blocks", folder, block_bytes)
    queries = drawn(documents, random.Random(15), 10 if block_bytes == 2000 else 40, 8, 3000)
    assert ask(tools, folder, queries, 32, "native") == ask(tools, indexed, queries, 32, "native")
    for query, spans in zip(queries, ask(tools, folder, queries, 1 << 30, "native"), strict=True):
        check_occurrences(documents, query, spans[0]["places"])


def test_index_is_the_same_for_any_number_of_threads(indexed, tools, tmp_path):
    folder, found = tmp_path / "data", []
    shutil.copytree(indexed, folder)
    for threads in (1, 5):
        subprocess.run([tools / "asan", "blocks", folder, "50000"], check=True, capture_output=True,
                       env={**os.environ, "OMP_NUM_THREADS": str(threads), "ASAN_OPTIONS": "detect_leaks=0"})
        found.append((folder / f"{SPLIT}.index").read_bytes())
    assert found[0] == found[1]


def test_text_command(documents, mixed, indexed, second):
    """--text over a mixture: documents, occurrences and the steps that read them; from standard input as well."""
    text = documents.texts[5][100:400].decode(errors="ignore").strip("\ufffd")
    found = trace("--run", mixed, "--text", "一二三四五 " + text + " 五四三二一", "--limit", 1000)
    other = Documents(second)
    span = found[0]["span"].encode()
    assert span.decode() in "一二三四五 " + text + " 五四三二一" and len(span) >= len(text.encode())
    expected = {(str(indexed), number) for number in documents.counts(span)} | {
        (str(second), number) for number in other.counts(span)}
    complete = [line for line in found if line["span"] == span.decode()]
    assert {(line["data"], line["document"]) for line in complete} == expected
    assert complete[0]["documents"] == len(expected)
    assert complete[0]["places"] == sum(documents.counts(span).values()) + sum(other.counts(span).values())
    for line in complete:
        data = documents if line["data"] == str(indexed) else other
        ids = data.tokens[line["shard_token"]:line["shard_token"] + line["tokens"]]
        if line["step"] is not None:
            read = trace("--run", mixed, "--step", line["step"], "--row", line["row"])
            assert any(piece["shard_token"] <= line["shard_token"] and piece["data"] == line["data"]
                       and line["shard_token"] + line["tokens"] <= piece["shard_token"] + piece["tokens"]
                       for piece in read)
        if line["tokens"] == line["matched_tokens"]:
            assert span in b"".join(token_bytes(data, i) for i in ids.tolist())
    piped = subprocess.run([ROOT / "train_gpt", "trace", "--run", mixed, "--text", "-", "--json", "--limit", "1000"],
                           input=("一二三四五 " + text + " 五四三二一").encode(), capture_output=True, check=True)
    assert [json.loads(line) for line in piped.stdout.splitlines()] == found
    assert "document" in run(["trace", "--data", indexed, "--text", text]).out


@pytest.mark.parametrize("ending", ["bin", "index"])
def test_truncated_while_mapped(indexed, ending, tmp_path):
    """A file that is truncated while trace has it mapped ends trace with one line."""
    data = tmp_path / "data"
    shutil.copytree(indexed, data)
    process = subprocess.Popen([ROOT / "train_gpt", "trace", "--data", data, "--text", "-", "--min-bytes", "3"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    path = data / f"{SPLIT}.{ending}"
    deadline = time.monotonic() + 60
    while str(path) not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.truncate(path, 0)
    _, err = process.communicate(("の" * 400).encode(), timeout=60)
    assert process.returncode == 1
    assert err.decode().splitlines() == ["train_gpt: a file was truncated while it was read"]


# ----------------------------------------------------------------------------------------------------------------------
# Steps and documents

def batch_hash(rows):
    return hashlib.sha256(b"".join(hashlib.sha256(np.asarray(row, "<i4").tobytes()).digest() for row in rows)
                          ).hexdigest()[:16]


@pytest.fixture(scope="session")
def pieces(mixed):
    """All that every step of the run read."""
    log = read_log(mixed)
    return [piece for step in log.column("step") for piece in trace("--run", mixed, "--step", step)]


def test_step_is_what_the_trainer_read(mixed, pieces, documents, second, indexed):
    """For every sample of the run: the tokens that trace points at have the hash that the trainer logged."""
    data = {str(indexed): documents, str(second): Documents(second)}
    rows = {}
    for piece in pieces:
        source = data[piece["data"]]
        first, number = piece["shard_token"], piece["document"]
        assert piece["first_token"] == first - source.starts[number]
        assert first + piece["tokens"] <= source.starts[number + 1]
        assert piece["source"] == source.source(source.records[number])
        assert (piece["offset"], piece["bytes"]) == source.records[number][:2]
        assert piece["rank"] == piece["row"] // (8 // ranks_of(piece["step"]))
        ids = source.tokens[first:first + piece["tokens"]].tolist()
        text = b"".join(token_bytes(source, i) for i in ids if i != source.end)
        assert piece["text"] == text.decode(errors="replace")
        rows.setdefault((piece["step"], piece["row"]), []).extend(ids)
    log = read_log(mixed)
    assert set(rows) == {(step, row) for step in log.column("step") for row in range(8)}
    for line in log.steps:
        batch = [rows[line["step"], row] for row in range(8)]
        assert {len(row) for row in batch} == {49}
        assert batch_hash(batch) == line["batch_sha256"]


def test_sources_encode_to_the_tokens(pieces, documents, indexed):
    """A document's bytes, cut from its source and encoded by `tokenizers`, are the tokens that a row read of it."""
    encoded = {}
    for piece in pieces:
        if piece["data"] != str(indexed):
            continue
        number = piece["document"]
        if number not in encoded:
            with open(piece["source"], "rb") as file:
                file.seek(piece["offset"])
                text = json.loads(file.read(piece["bytes"]))["text"]
            encoded[number] = documents.tokenizer.encode(text).ids + [documents.end]
        first = piece["first_token"]
        assert encoded[number][first:first + piece["tokens"]] == documents.tokens[
            piece["shard_token"]:piece["shard_token"] + piece["tokens"]].tolist()
    assert len(encoded) > 20


def test_document_is_the_inverse_of_step(mixed, pieces, documents, indexed, second):
    """--doc lists exactly the pieces of that document that the steps list, several epochs of the smaller source too."""
    fields = "step", "row", "rank", "document", "source", "offset", "bytes", "first_token", "tokens", "shard_token", "data"
    expected = {}
    for piece in pieces:
        expected.setdefault((piece["data"], piece["document"]), []).append([piece[key] for key in fields])
    assert max(len({piece[0] for piece in group if piece[7] == group[0][7]}) for group in expected.values()) > 1
    for folder in (indexed, second):
        for number in range(0, len(Documents(folder).records), 1 if folder == second else 5):
            found = trace("--run", mixed, "--doc", f"{folder}:{number}")
            read = [[piece[key] for key in fields] for piece in found if piece["step"] is not None]
            assert read == expected.get((str(folder), number), []), (folder, number)
            assert len(found) == max(len(read), 1)


def test_document_by_id(mixed, indexed, documents):
    metadata = (indexed / f"{SPLIT}.meta").read_bytes()
    ids = [json.loads(metadata[r[3]:r[3] + r[4]])["id"] for r in documents.records]
    for name in sorted(set(ids))[:6]:
        found = trace("--run", mixed, "--doc", name)
        own = [piece for piece in found if piece["data"] == str(indexed)]
        assert {piece["document"] for piece in own} == {number for number, i in enumerate(ids) if i == name}
        for piece in own:
            assert piece["id"] == name and piece["license"] == "MIT" and piece["origin"] == "a collection"
            assert piece["url"] == f"https://example.org/{piece['document']}"
    fails(["trace", "--run", mixed, "--doc", "no such id"], 1, "no such id")
    fails(["trace", "--run", mixed, "--doc", "3"], 1, "2 datasets", f"{indexed}:3")
    fails(["trace", "--run", mixed, "--doc", f"{indexed}:100000"], 1, "has the documents 0 to")


def test_people_read_it_too(mixed):
    out = run(["trace", "--run", mixed, "--step", 2, "--row", 1]).out
    assert "verified" in out and "row 1 rank 0" in out and "bytes at" in out


def test_rows_and_steps_that_are_not_there(mixed):
    last = read_log(mixed).column("step")[-1]
    fails(["trace", "--run", mixed, "--step", last + 1], 1, f"1 to {last}")
    fails(["trace", "--run", mixed, "--step", 1, "--row", 8], 1, "rows 0 to 7")
    fails(["trace", "--run", mixed], 2, "--step", "--doc", "--text")
    fails(["trace", "--run", mixed, "--doc", "x", "--step", 1], 2, "one of")
    fails(["trace", "--step", 1], 2, "--run")
    fails(["trace", "--run", mixed, "--doc", "x", "--row", 1], 2, "--row needs --step")
    fails(["trace", "--run", "nowhere", "--step", 1], 1, "nowhere/log.jsonl")


@pytest.mark.parametrize("kind", ["pair", "llmc"])
def test_bare_data(kind, tmp_path, build):
    """Without prepare there are no sources, but the tokens of a step are known and verified."""
    parts = random_documents(4, 3000, 97)
    data = write_pair(tmp_path / "t", parts) if kind == "pair" else write_llmc(tmp_path / "t.bin", np.concatenate(parts))
    out = tmp_path / "run"
    run(arguments("train", data=data, vocab_size=97, out=out, steps=5, save_every=0, **OPTIONS))
    tokens, rows = np.concatenate(parts), {}
    for step in read_log(out).steps:
        for piece in trace("--run", out, "--step", step["step"], build=build):
            assert (piece["document"] is None) == (kind == "llmc") and piece["source"] is None
            rows.setdefault((step["step"], piece["row"]), []).extend(
                tokens[piece["shard_token"]:piece["shard_token"] + piece["tokens"]])
        assert batch_hash([rows[step["step"], row] for row in range(8)]) == step["batch_sha256"]
    fails(["trace", "--run", out, "--text", "abc"], 1, "no tokenizer")
    flip_bit(tmp_path / "t.bin", 3000)
    fails(["trace", "--run", out, "--step", 1], 1, "t.bin: was altered")


# ----------------------------------------------------------------------------------------------------------------------
# Damage

@pytest.fixture
def copies(indexed, second, mixed, tmp_path):
    """Copies of run and data that a test may change; trace finds the data there by --data."""
    class Copies:
        data, other, run = tmp_path / "data", tmp_path / "other", tmp_path / "run"
        where = ["--run", run, "--data", data, other]
    shutil.copytree(indexed, Copies.data)
    shutil.copytree(second, Copies.other)
    Copies.run.mkdir()
    for name in ("log.jsonl", "restarts.jsonl"):
        shutil.copy(mixed / name, Copies.run)
    return Copies


def test_data_that_moved(copies, mixed):
    for question in (["--step", 30], ["--doc", "doc 7"]):
        def same(pieces):
            return [{key: value for key, value in piece.items() if key != "data"} for piece in pieces]
        assert same(trace(*copies.where, *question)) == same(trace("--run", mixed, *question))
    fails(["trace", "--run", copies.run, "--data", copies.data, "--step", 1], 1, "2 datasets")
    fails(["trace", "--run", copies.run, "--data", copies.other, copies.data, "--step", 1], 1, "not the data of this run")


def test_log_that_was_altered(copies, build):
    path = copies.run / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    step = json.loads(lines[7])
    assert step["step"] == 7

    def asked(change, *mentions):
        path.write_text("".join(lines[:7] + [change] + lines[8:]))
        fails(["trace", *copies.where, "--step", 7], 1, *mentions, build=build)
    asked(json.dumps({**step, "batch_sha256": "0123456789abcdef"}) + "\n", "step 7 read other tokens", "0123456789abcdef")
    asked("{\n", "log.jsonl:8", "JSON")
    asked(json.dumps({**step, "step": 6}) + "\n", "log.jsonl:8", "step")
    asked(json.dumps({**step, "tokens": 7}) + "\n", "log.jsonl:8", "tokens")
    path.write_text("")
    fails(["trace", *copies.where, "--step", 7], 1, "no step")
    path.write_text(lines[0])
    fails(["trace", *copies.where, "--step", 7], 1, "no step")
    head = json.loads(lines[0])
    for key in ("data", "seq_len", "global_batch", "ranks", "options"):
        path.write_text(json.dumps({k: v for k, v in head.items() if k != key}) + "\n" + "".join(lines[1:]))
        fails(["trace", *copies.where, "--step", 7], 1, "log.jsonl", key if key != "options" else "seed", build=build)
    head["data"][0]["manifest_sha256"] = 64 * "0"
    path.write_text(json.dumps(head) + "\n" + "".join(lines[1:]))
    fails(["trace", *copies.where, "--step", 7], 1, "not the data of this run", 64 * "0")


@pytest.mark.parametrize("name", ["bin", "idx", "docs", "meta", "index", "sums"])
def test_files_that_were_altered(name, copies, documents, build):
    """A bit flipped wherever an answer needs it, and a file cut short: one line, and never another answer."""
    path = copies.data / f"{SPLIT}.{name}"
    intact, rng = path.read_bytes(), random.Random(name)
    text = documents.texts[6][50:250].decode(errors="ignore")
    questions = [["--doc", f"{copies.data}:{6}"], ["--step", 3], ["--text", text]]
    answers = [run(["trace", *copies.where, *question], build=build).out for question in questions]
    step = next(piece for piece in trace(*copies.where, "--step", 3) if piece["data"] == str(copies.data))
    place = trace(*copies.where, "--text", text)[0]
    sequences = len(documents.records)
    needed = {"bin": [(1, 2 * step["shard_token"]), (2, 2 * place["shard_token"])],  # (question, byte)
              "idx": [(q, 34 + 12 * sequences + 8 * 6) for q in range(3)],
              "docs": [(0, 32 + 40 * 6), (1, 32 + 40 * step["document"] + 8), (2, 32 + 40 * place["document"] + 24)],
              "meta": [(0, documents.records[6][3] + 9), (1, documents.records[step["document"]][3] + 9)],
              "index": [(q, 64) for q in range(3)], "sums": [(q, 9) for q in range(3)]}[name]
    anywhere = [(i % 3, rng.randrange(len(intact))) for i in range(6 if build == "native" else 2)]
    for i, (question, at) in enumerate(needed + anywhere):
        path.write_bytes(intact)
        flip_bit(path, at, rng.randrange(8))
        result = run(["trace", *copies.where, *questions[question]], check=False, build=build)
        assert result.status or i >= len(needed), str(result)
        if result.status:
            assert result.status == 1 and len(result.errors) == 1, str(result)
            assert f"{copies.data}/{SPLIT}." in result.errors[0], str(result)
        else:
            assert result.out == answers[question]
    path.write_bytes(intact)
    truncate(path)
    for question in questions:
        fails(["trace", *copies.where, *question], 1, copies.data, build=build)
