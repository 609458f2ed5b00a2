"""dataloader.h and corpus/: token shards match other readers and the `tokenizers` library, every
document can be traced back to its source, a corrupt file gives a one-line error, and memory stays
bounded.

All comparisons are exact. The C side is test/data_tool.c, built natively and with sanitizers.
"""
import collections
import fcntl
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from tokenizers import Tokenizer

from support import SANITIZERS, build_tool, kill_all

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="session")
def tools():
    return build_tool("data_tool")


def environment(env=None):
    return {**os.environ, **SANITIZERS, "OMP_NUM_THREADS": "2", **(env or {})}


@pytest.fixture
def tool(tools):
    """tool("dump", path, ...) runs the sanitizer build of data_tool and returns its output."""
    def call(*args, build="asan", env=None, **options):
        result = subprocess.run([tools / build, *map(str, args)], capture_output=True, timeout=300,
                                env=environment(env), **options)
        assert result.returncode == 0, result.stderr.decode(errors="replace")
        return result.stdout.decode()
    return call


@pytest.fixture
def fails(tools):
    """Runs data_tool, which must fail with one line on stderr that contains all `mentions`."""
    def call(args, *mentions, build="asan", prefix=(), env=None, **options):
        result = subprocess.run([*prefix, tools / build, *map(str, args)], capture_output=True, timeout=300,
                                env=environment(env), **options)
        text = result.stderr.decode(errors="replace")
        assert result.returncode == 1 and len(text.splitlines()) == 1, (result.returncode, text)
        for word in mentions:
            assert str(word) in text, (word, text)
        return text
    return call


# --------------------------------------------------------------------------------------------------
# Hashes and random numbers

def test_sha256(tool, fails, tmp_path):
    data = random.Random(1).randbytes(200_000)
    lengths = [*range(130), 65535, 65536, 65537, 200_000]
    for length in lengths:
        (tmp_path / str(length)).write_bytes(data[:length])
    found = tool("sha256", *(tmp_path / str(length) for length in lengths)).split()
    assert found == [hashlib.sha256(data[:length]).hexdigest() for length in lengths]
    assert tool("sha256-chunks", input=data).strip() == hashlib.sha256(data).hexdigest()
    assert tool("sha256-blocks", input=data[:1 << 16]).strip() == "same"
    fails(["sha256", tmp_path / "nowhere"], "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for special in tmp_path, tmp_path / "pipe", Path("/dev/zero"):
        fails(["sha256", special], f"{special}: is not a regular file")


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 97, 255, 256, 257, 1021, 4095, 4096, 4097,
                               65537])
def test_permutation(n, tool):
    """Every epoch is a bijection, and no two epochs use the same one."""
    epochs = [list(map(int, line.split())) for line in tool("permutation", 7, 3, n).splitlines()]
    for epoch in epochs:
        assert sorted(epoch) == list(range(n))
    if n > 8:
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        assert epochs[0] != list(map(int, tool("permutation", 8, 1, n).split()))


@pytest.mark.parametrize("n", [2, 3, 5, 16, 17])
def test_permutation_is_uniform(n, tool):
    """Over 8,000 epochs, every value is equally likely at every position: the chi-square statistic
    is below its mean + 6 sigma."""
    epochs = 8000
    values = np.array(tool("permutation", 3, epochs, n, build="native").split(), int).reshape(epochs, n)
    for position in range(n):
        counts = np.bincount(values[:, position], minlength=n)
        chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
        assert chi2 < (n - 1) + 6 * np.sqrt(2 * (n - 1)), (position, counts)


def test_uniform(tool):
    draws = {key: np.array(tool("uniform", *key, 20000, build="native").split(), float)
             for key in ((1, 20), (1, 21), (2, 20))}
    for u in draws.values():
        assert u.min() >= 0 and u.max() < 1
        assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * len(u)) and abs(u.var() - 1 / 12) < 0.005
    for a, b in ((1, 20), (1, 21)), ((1, 20), (2, 20)):
        assert abs(np.corrcoef(draws[a], draws[b])[0, 1]) < 5 / np.sqrt(20000)


# --------------------------------------------------------------------------------------------------
# Foreign token data: Megatron pairs written by NumPy, llm.c shards

CODES = {np.uint8: 1, np.int8: 2, np.int16: 3, np.int32: 4, np.int64: 5, np.uint16: 8}


def write_pair(prefix, tokens, lengths, first_sequences, dtype):
    """Writes a Megatron .bin/.idx pair."""
    tokens = np.asarray(tokens).astype(dtype)
    lengths = np.asarray(lengths, np.int32)
    pointers = (np.cumsum(lengths, dtype=np.int64) - lengths) * tokens.itemsize
    with open(f"{prefix}.bin", "wb") as file:
        file.write(tokens.tobytes())
    with open(f"{prefix}.idx", "wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, CODES[dtype], len(lengths), len(first_sequences)))
        file.write(lengths.tobytes() + pointers.tobytes() + np.asarray(first_sequences, np.int64).tobytes())
    return prefix


def read_pair(prefix):
    """The documents of a Megatron pair: a reader independent of the program's own."""
    index = open(f"{prefix}.idx", "rb").read()
    assert index[:9] == b"MMIDIDX\0\0"
    version, code, sequences, entries = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1 and len(index) == 34 + 12 * sequences + 8 * entries
    dtype = {code: dtype for dtype, code in CODES.items()}[code]
    lengths = np.frombuffer(index, np.int32, sequences, 34)
    pointers = np.frombuffer(index, np.int64, sequences, 34 + 4 * sequences)
    documents = np.frombuffer(index, np.int64, entries, 34 + 12 * sequences)
    assert documents[0] == 0 and documents[-1] == sequences
    data = np.fromfile(f"{prefix}.bin", dtype)
    assert len(data) == lengths.sum()
    parts = [data[p // data.itemsize:][:n].tolist() for p, n in zip(pointers, lengths)]
    return [sum(parts[a:b], []) for a, b in zip(documents, documents[1:])]


def write_llmc(path, tokens, magic=20240520, version=1, dtype=np.uint16, count=None):
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + np.asarray(tokens, dtype).tobytes())
    return path


def dump(tool, path, seq_len, vocab=1 << 31, split="train", command="dump"):
    head, *samples = map(json.loads, tool(command, path, split, seq_len, vocab).splitlines())
    return head, samples


@pytest.mark.parametrize("seq_len", [1, 7, 5000])
@pytest.mark.parametrize("dtype", CODES)
def test_read_pair(dtype, seq_len, tool, tmp_path):
    """Several sequences per document, including empty sequences and empty documents."""
    tokens = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, 20011, endpoint=dtype != np.int64)
    tokens %= 1 << 31
    lengths = [3, 0, 10000, 1, 2, 0, 10005]
    prefix = write_pair(tmp_path / "x.y", tokens, lengths, [0, 0, 2, 3, 3, 7], dtype)
    head, samples = dump(tool, prefix, seq_len)
    assert (head["tokens"], head["documents"], head["samples"]) == (20011, 5, 20010 // seq_len)
    expected = [tokens[i:i + seq_len + 1].tolist() for i in range(0, 20011 - seq_len, seq_len)]
    assert samples == expected


def test_read_many_documents(tool, tmp_path):
    """More sequences than fit in one read of the index."""
    lengths = np.random.default_rng(2).integers(0, 4, 20000)
    prefix = write_pair(tmp_path / "x", np.arange(lengths.sum()) % 60000, lengths, np.arange(20001), np.uint16)
    head, samples = dump(tool, prefix, 1000)
    assert head["documents"] == 20000 and samples[-1][-1] == (len(samples) * 1000) % 60000


@pytest.mark.parametrize("magic, version, dtype", [(20240520, 1, np.uint16), (20240801, 7, np.uint32)])
def test_read_llmc(magic, version, dtype, tool, tmp_path):
    tokens = np.random.default_rng(1).integers(0, 60000, 1000)
    path = write_llmc(tmp_path / "shard_000001.bin", tokens, magic, version, dtype)
    head, samples = dump(tool, path, 100, 60000)
    assert head["tokens"] == 1000 and head["bin_hash"] == "" and not head["has_val"]
    assert samples == [tokens[i:i + 101].tolist() for i in range(0, 899, 100)]
    assert (dump(tool, path, 100, 60000, command="verify")[0]["bin_hash"]
            == hashlib.sha256(path.read_bytes()).hexdigest())


def test_token_ids_out_of_range(tool, fails, tmp_path):
    for dtype, worst in (np.uint16, 65535), (np.int32, -1), (np.int8, -128), (np.int64, 2 ** 40), (np.int64, -5):
        tokens = np.full(50, 9)
        tokens[30] = worst
        prefix = write_pair(tmp_path / "x", tokens, [50], [0, 1], dtype)
        text = fails(["dump", prefix, "train", 10, 10], "x.bin", "token 30", worst, 10)
        assert len(text) < 300
    tool("dump", write_pair(tmp_path / "y", np.full(50, 9), [50], [0, 1], np.int32), "train", 10, 10)
    fails(["dump", tmp_path / "y", "train", 10, 9], "y.bin", "token 0")


def test_too_short(tool, fails, tmp_path):
    prefix = write_pair(tmp_path / "x", range(16), [16], [0, 1], np.uint16)
    tool("dump", prefix, "train", 15, 100)
    fails(["dump", prefix, "train", 16, 100], "16 tokens", "17")
    fails(["dump", write_pair(tmp_path / "none", [], [], [0], np.uint16), "train", 1, 100], "0 tokens")


def test_order(tool, tmp_path):
    prefix = write_pair(tmp_path / "x", range(101), [101], [0, 1], np.uint16)  # 10 samples
    assert tool("order", prefix, 10, 1, 0, 30).split() == [str(i % 10) for i in range(30)]
    shuffled = tool("order", prefix, 10, 1, 1, 30).split()
    for epoch in shuffled[:10], shuffled[10:20], shuffled[20:]:
        assert sorted(epoch) == [str(i) for i in range(10)]
    assert shuffled[:10] != shuffled[10:20]
    assert shuffled == tool("permutation", 1, 3, 10).split()


# --------------------------------------------------------------------------------------------------
# Hostile files: a one-line error, exit status 1, no sanitizer report

@pytest.fixture
def broken(tmp_path):
    """A fresh pair, with its index as a bytearray."""
    prefix = write_pair(tmp_path / "x", range(60), [10, 20, 30], [0, 1, 3], np.uint16)
    return prefix, tmp_path / "x.bin", tmp_path / "x.idx", bytearray((tmp_path / "x.idx").read_bytes())


INDEX_FIELDS = {"magic": (0, "B"), "magic's end": (8, "B"), "version": (9, "<Q"), "type": (17, "B"),
                "sequences": (18, "<Q"), "entries": (26, "<Q"), "length": (38, "<i"), "first pointer": (46, "<q"),
                "pointer": (54, "<q"), "last pointer": (62, "<q"), "first document": (70, "<q"),
                "document": (78, "<q"), "last document": (86, "<q")}


@pytest.mark.parametrize("field", INDEX_FIELDS)
def test_broken_index_field(field, broken, fails):
    prefix, _, path, index = broken
    offset, form = INDEX_FIELDS[field]
    size = struct.calcsize(form)
    good = int.from_bytes(index[offset:offset + size], "little")
    bits = 8 * size
    values = {0, 1, good + 1, good - 1, 2 ** bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 2 ** bits // 12,
              2 ** bits // 13 * 5 % 2 ** bits, 7, 9, 200}
    if field == "document":
        values -= {0, 1, 2, 3}  # each of these gives a valid index
    if field == "type":
        values -= {3}  # int16 has the same size
    for value in values - {good}:
        index[offset:offset + size] = (value % 2 ** bits).to_bytes(size, "little")
        path.write_bytes(index)
        fails(["dump", prefix, "train", 5, 60], "x.")


def test_truncated_pair(broken, fails):
    prefix, tokens, path, index = broken
    for length in range(len(index)):
        path.write_bytes(index[:length])
        fails(["dump", prefix, "train", 5, 60], "x.")
    for extra in 1, 3, 8:  # 3 bytes: the size of the modes of 3 sequences
        path.write_bytes(index + bytes(extra))
        assert ("modes" in fails(["dump", prefix, "train", 5, 60], "x.idx")) == (extra == 3)
    path.write_bytes(index)
    data = tokens.read_bytes()
    for wrong in b"", data[:1], data[:119], data[:118], data + b"\0", data + b"\0\0":
        tokens.write_bytes(wrong)
        fails(["dump", prefix, "train", 5, 60], "x.bin")
    tokens.unlink()
    fails(["dump", prefix, "train", 5, 60], "x.bin")
    tokens.mkdir()
    fails(["dump", prefix, "train", 5, 60], "x.bin")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=strategies.lists(strategies.tuples(strategies.integers(0, 93), strategies.integers(0, 255)), min_size=1,
                                max_size=6))
def test_random_index_damage(changes, broken, tools):
    """Any bytes are either read or rejected with a one-line error."""
    prefix, _, path, index = broken
    damaged = bytearray(index)
    for offset, value in changes:
        damaged[offset] = value
    path.write_bytes(damaged)
    result = subprocess.run([tools / "asan", "dump", prefix, "train", "5", "60"], capture_output=True)
    assert result.returncode == 0 or (result.returncode == 1 and len(result.stderr.splitlines()) == 1)


def test_broken_llmc(fails, tmp_path):
    path = tmp_path / "shard.bin"
    for options in (dict(magic=20240521), dict(magic=0), dict(version=2), dict(version=7), dict(count=0),
                    dict(count=99), dict(count=101), dict(count=-1), dict(count=2 ** 31 - 1),
                    dict(magic=20240801), dict(magic=20240801, version=7)):
        write_llmc(path, range(100), **options)
        fails(["dump", path, "train", 10, 1000], "shard.bin")
    good = write_llmc(path, range(100)).read_bytes()
    for length in 0, 1, 11, 12, 1023, 1024, 1025, 1223, 1225:
        path.write_bytes((good + b"\0")[:length])
        fails(["dump", path, "train", 10, 1000], "shard.bin")


def test_no_data_at_all(fails, tmp_path):
    fails(["dump", tmp_path / "nowhere", "train", 10, 1000], "nowhere")
    fails(["dump", tmp_path, "train", 10, 1000], tmp_path, "prepare")
    fails(["dump", tmp_path / ("x" * 5000), "train", 10, 1000], "longer")
    (tmp_path / "pair.bin").write_bytes(bytes(2000))
    fails(["dump", tmp_path / "pair.bin", "train", 10, 1000], "pair.bin", "without its .bin")
    os.mkfifo(tmp_path / "fifo")
    fails(["dump", tmp_path / "fifo", "train", 10, 1000], "fifo")


def test_truncated_while_open(tools, tmp_path):
    """An error line, where a memory map would be a bus error."""
    prefix = write_pair(tmp_path / "x", range(60), [60], [0, 1], np.uint16)
    process = subprocess.Popen([tools / "asan", "read-twice", prefix, "50"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"read\n"
    os.truncate(tmp_path / "x.bin", 20)
    _, err = process.communicate(b"\n", timeout=60)
    assert process.returncode == 1 and b"x.bin" in err and b"truncated" in err


# --------------------------------------------------------------------------------------------------
# prepare

HARD = ("Hello world, it's 2024!\r\n日本語の文書を、英語と mixed にする。全角　空白も。\n👩‍👩‍👧‍👦 🇯🇵 か\u3099 e\u0301  \t x\x00y"
        + " " * 300 + "z\n<|endoftext|> inside\n\u2028\u0085\ufeff ½ ٣ العربية\r\r\n   ")


def prepare(**options):
    args = ["prepare"]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            args += ["--" + name.replace("_", "-"), one]
    return args


def manifest_of(data):
    return json.loads((data / "manifest.json").read_text())


def records_of(path):
    raw = path.read_bytes()
    magic, version, size, count, zero = struct.unpack_from("<8sIIQQ", raw)
    assert (magic, version, size, zero) == (b"TGPTDOCS", 2, 40, 0) and len(raw) == 32 + 40 * count
    records = [struct.unpack_from("<QQQQII", raw, 32 + 40 * i) for i in range(count)]
    return records


def check_provenance(data, folder, key="text"):
    """Extracts every document of every split from its source by its record and encodes it again
    with `tokenizers`: the tokens must match. The manifest's counts and hashes must match the files.
    Returns the texts by split."""
    manifest = manifest_of(data)
    tokenizer = Tokenizer.from_file(str(data / "tokenizer" / "tokenizer.json"))
    assert manifest["tokenizer"]["vocab_size"] == tokenizer.get_vocab_size()
    files = [data / "tokenizer" / name for name in ("tokenizer.model", "tokenizer.json")]
    main = next(path for path in files if path.exists())
    assert manifest["tokenizer"]["sha256"] == hashlib.sha256(main.read_bytes()).hexdigest()
    end = manifest["tokenizer"]["end_of_document"]
    assert end == tokenizer.token_to_id("<|endoftext|>")
    texts, totals = {}, [[0, 0] for _ in manifest["sources"]]
    raw = [(folder / source["path"]).read_bytes() for source in manifest["sources"]]
    for source, content in zip(manifest["sources"], raw):
        assert (source["bytes"], source["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    raw = [decompress(source["path"], content) for source, content in zip(manifest["sources"], raw)]
    ranges = {source["path"]: [] for source in manifest["sources"]}  # (offset, length) of documents
    for split, entry in manifest["splits"].items():
        documents, records = read_pair(data / split), records_of(data / f"{split}.docs")
        assert len(documents) == len(records) == entry["documents"]
        assert sum(map(len, documents)) == entry["tokens"]
        for kind in "bin", "idx", "docs", "meta", "sums":
            content = (data / f"{split}.{kind}").read_bytes()
            assert entry[kind] == {"file": f"{split}.{kind}", "bytes": len(content),
                                   "sha256": hashlib.sha256(content).hexdigest()}
        texts[split] = []
        metadata, at = (data / f"{split}.meta").read_bytes(), 0
        for document, (offset, length, tokens, begin, meta_length, number) in zip(documents, records):
            text, path = raw[number][offset:offset + length].decode(errors="replace"), manifest["sources"][number]["path"]
            ranges[path].append((offset, length))
            assert begin == at
            at += meta_length + (meta_length > 0)
            known = json.loads(metadata[begin:begin + meta_length] or "{}")
            if ".json" in path:
                object = json.loads(text)
                assert known == metadata_of(object)
                text = object[key].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            else:
                assert known == {}
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert document == ids + [end] and len(document) == tokens
            texts[split].append(text)
            totals[number][0] += 1
            totals[number][1] += tokens
    assert totals == [[source["documents"], source["tokens"]] for source in manifest["sources"]]
    counts = manifest["counts"]
    for name in set(counts) - {"skipped_files"}:
        assert counts[name] == sum(source[name] for source in manifest["sources"]), name
    content = (data / "dropped.jsonl").read_bytes()
    assert manifest["dropped"] == {"file": "dropped.jsonl", "bytes": len(content),
                                   "sha256": hashlib.sha256(content).hexdigest()}
    reasons = collections.Counter()
    for dropped in map(json.loads, content.splitlines()):
        ranges[dropped["source"]].append((dropped["offset"], dropped["bytes"]))
        reasons[dropped["reason"]] += 1
    plural = {"blank_lines": "blank_line", "rejected_lines": "rejected_line"}
    for name in set(counts) - {"documents", "tokens", "text_bytes", "replaced", "skipped_files"}:
        assert counts[name] == reasons.pop(plural.get(name, name), 0), name
    assert not reasons
    # every line (JSON Lines) or file (plain text) is either a document or listed as dropped
    for source, content in zip(manifest["sources"], raw):
        start = 3 * content.startswith(b"\xef\xbb\xbf")
        if ".json" not in source["path"]:
            assert ranges[source["path"]] == [(start, len(content) - start)]
            continue
        expected = []
        for line in content[start:].split(b"\n"):
            expected.append((start, len(line) - line.endswith(b"\r")))
            start += len(line) + 1
        assert sorted(ranges[source["path"]]) == expected[:-1 if content.endswith(b"\n") or not content else None]
    return texts


def decompress(path, content):
    if path.endswith(".gz"):
        return gzip.decompress(content)
    if path.endswith(".zst"):
        return subprocess.run(["zstd", "-dc"], input=content, capture_output=True, check=True).stdout
    return content


METADATA = {"id": ["id", "hexsha"], "source": ["source", "package", "pile_set_name"], "url": ["url"],
            "license": ["license", "licence"], "created": ["created"], "added": ["added"], "date": ["date"],
            "timestamp": ["timestamp"], "language": ["language", "lang"], "title": ["title"], "dump": ["dump"],
            "file_path": ["file_path"]}


def metadata_of(object):
    """The metadata that prepare keeps of a JSON Lines object: for each field the first string, else
    the first number. The top level comes first, then "meta", then "metadata"."""
    places = [object, *(object[name] for name in ("meta", "metadata") if isinstance(object.get(name), dict))]
    found = {}
    for name, keys in METADATA.items():
        values = [place[key] for place in places for key in keys if key in place]
        values = ([value for value in values if isinstance(value, str)]
                  or [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)])
        if values:
            found[name] = values[0]
    return found


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """A folder with every kind of source, including difficult ones."""
    folder = tmp_path_factory.mktemp("mixed") / "in"
    (folder / "b/deep").mkdir(parents=True)
    (folder / "a.txt").write_bytes(HARD.encode())
    (folder / "b" / "bom.md").write_bytes(b"\xef\xbb\xbf\xef\xbb\xbf" + HARD.encode())  # the second one is text
    (folder / "b" / "bad.text").write_bytes(b"good \xff text \xe6\x97 cut \xc0\xaf \xed\xa0\x80 \xf4\x90\x80\x80"
                                            b" \xf0\x9f")
    (folder / "b" / "nothing.txt").write_bytes(b"")
    (folder / "b" / "only_bom.txt").write_bytes(b"\xef\xbb\xbf")
    lines = [json.dumps({"text": f"{HARD[i:]} {i}", "source": f"s{i % 3}", "meta": {"license": "MIT"}},
                        ensure_ascii=i % 2 == 0) for i in range(40)]
    (folder / "b" / "deep" / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    (folder / "c.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[:11]).encode() + b"\n"))
    (folder / "d.TXT.gz").write_bytes(gzip.compress(HARD.encode() * 50))
    (folder / "ignored.bin").write_bytes(b"x")
    (folder / ".hidden.txt").write_bytes(b"x")
    (folder / "b" / "circle").symlink_to("../b")
    return folder


def tokens_of(data, number, holds):
    """Number of tokens in the documents of a source whose metadata satisfies `holds`."""
    total = 0
    for split in manifest_of(data)["splits"]:
        metadata = (data / f"{split}.meta").read_bytes()
        for _, _, tokens, begin, length, source in records_of(data / f"{split}.docs"):
            total += tokens if source == number and holds(json.loads(metadata[begin:begin + length])) else 0
    return total


@pytest.mark.parametrize("fraction", [0, 0.2])
def test_prepare_mixed(fraction, mixed, tool, tmp_path):
    out = tmp_path / "data"
    tool(*prepare(input="in", out=out, vocab_size=400, val_fraction=fraction, seed=5), cwd=mixed.parent)
    texts = check_provenance(out, mixed.parent)
    assert len(texts.get("val", [])) in ([0] if fraction == 0 else range(3, 25))
    bad = (mixed / "b" / "bad.text").read_bytes().decode(errors="replace")
    lines = [f"{HARD[i:]} {i}" for i in range(40)]
    assert (collections.Counter(sum(texts.values(), []))
            == collections.Counter([HARD, "\ufeff" + HARD, bad, HARD * 50, *lines, *lines[:11]]))
    manifest = manifest_of(out)
    assert [source["path"] for source in manifest["sources"]] == [
        "in/a.txt", "in/b/bad.text", "in/b/bom.md", "in/b/deep/x.jsonl", "in/b/nothing.txt", "in/b/only_bom.txt",
        "in/c.jsonl.gz", "in/d.TXT.gz"]
    counts = manifest["counts"]
    assert (counts["skipped_files"], counts["empty"], counts["replaced"]) == (3, 2, bad.count("\ufffd"))
    assert manifest["sources"][3]["origin"] == {
        "source": [{"value": f"s{i}", "documents": n, "tokens": tokens_of(out, 3, lambda o: o["source"] == f"s{i}")}
                   for i, n in enumerate((14, 13, 13))],
        "license": [{"value": "MIT", "documents": 40, "tokens": manifest["sources"][3]["tokens"]}]}
    assert manifest["command"][:2] == ["--input", "in"]
    for split in manifest["splits"]:
        head, samples = dump(tool, out, 16, manifest["tokenizer"]["vocab_size"], split, "verify")
        stream = sum(read_pair(out / split), [])
        assert samples == [stream[i:i + 17] for i in range(0, len(stream) - 16, 16)]
        assert head["tokenizer"] == str(out / "tokenizer") and head["has_val"] == (fraction > 0)


def test_deterministic_output(mixed, tool, tmp_path):
    """Two runs of two builds produce identical files."""
    files = []
    for build in "native", "asan":
        (tmp_path / build).mkdir()
        (tmp_path / build / "in").symlink_to(mixed)
        tool(*prepare(input="in", out="data", vocab_size=400, val_fraction=0.2), cwd=tmp_path / build, build=build)
        files.append({path.relative_to(tmp_path / build): path.read_bytes()
                      for path in (tmp_path / build / "data").rglob("*") if path.is_file()})
    assert files[0] == files[1] and len(files[0]) == 16


def test_given_tokenizer(mixed, tool, tmp_path):
    tool(*prepare(input=mixed, out=tmp_path / "a", vocab_size=333))
    tool(*prepare(input=mixed, out=tmp_path / "b", tokenizer=tmp_path / "a/tokenizer"))
    for name in "train.bin", "train.idx", "train.docs", "tokenizer/tokenizer.json":
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_int32_shards(tool, tmp_path):
    """Token ids are int32 from a vocabulary size of 65,500 on."""
    tool(*prepare(input=write_text(tmp_path), out=tmp_path / "small", vocab_size=270))
    path = tmp_path / "small/tokenizer/tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for size, code in (65499, 8), (65500, 4):
        have = len(tokenizer["model"]["vocab"])
        extra = dict(special=False, single_word=False, lstrip=False, rstrip=False, normalized=False)
        tokenizer["added_tokens"] = tokenizer["added_tokens"][:1] + [
            {"id": i, "content": f"<extra{i}>", **extra} for i in range(have, size)]
        (tmp_path / str(size)).mkdir()
        (tmp_path / str(size) / "tokenizer.json").write_text(json.dumps(tokenizer))
        tool(*prepare(input=tmp_path / "text.txt", out=tmp_path / f"out{size}", tokenizer=tmp_path / str(size)))
        assert (tmp_path / f"out{size}" / "train.idx").read_bytes()[17] == code
        check_provenance(tmp_path / f"out{size}", tmp_path)
        assert dump(tool, tmp_path / f"out{size}", 8)[0]["vocab_size"] == size


def write_text(folder, name="text.txt", text="the cat sat on the mat, the dog on the log. " * 40):
    (folder / name).write_text(text)
    return folder / name


def test_long_documents(tool, tmp_path):
    """Long documents are encoded in chunks: the ids match those of the complete text, with invalid
    bytes anywhere. Long runs without a safe place to cut stay in one chunk."""
    generator = random.Random(4)
    words = [HARD, "日本語の文書", " the", "\n", "don't ", "x" * 50, "🙂", "１２３ 4 "]
    text = "".join(generator.choice(words) for _ in range(40000)).encode()
    raw = bytearray(text)
    for _ in range(200):
        raw[generator.randrange(len(raw))] = generator.randrange(128, 256)
    (tmp_path / "x.txt").write_bytes(raw)
    (tmp_path / "run.txt").write_bytes(b"start " + b"a" * 700_000 + b" end" + b"\xe3\x81\x82" * 300_000 + b"\xe3")
    (tmp_path / "y.jsonl").write_text(json.dumps({"text": text.decode()}) + "\n")
    assert len(raw) > 2_000_000
    tool(*prepare(input=["x.txt", "run.txt", "y.jsonl"], out="data", vocab_size=600), cwd=tmp_path, build="native")
    check_provenance(tmp_path / "data", tmp_path)
    assert manifest_of(tmp_path / "data")["sources"][0]["replaced"] == raw.decode(errors="replace").count("\ufffd")


def test_unigram(tool, tmp_path):
    """A Unigram tokenizer trained by prepare. Ids match those of `tokenizers` for the complete
    text: for a document longer than a batch, encoded in chunks, and for many shorter ones."""
    generator = random.Random(5)
    words = ["日本語の文書", " the", "\n", "don't ", "x" * 20, "🙂", "１２３ 4 ", "文書を", " quick fox", "\u3000"]
    text = "".join(generator.choice(words) for _ in range(300_000))
    (tmp_path / "x.txt").write_text(text)
    (tmp_path / "y.jsonl").write_text("".join(
        json.dumps({"text": text[i:i + generator.randrange(1, 200_000)]}, ensure_ascii=False) + "\n"
        for i in range(0, 1_000_000, 50_000)))
    tool(*prepare(input=["x.txt", "y.jsonl"], out="data", vocab_size=400, unigram=1), cwd=tmp_path, build="native")
    check_provenance(tmp_path / "data", tmp_path)
    assert {"tokenizer.json", "tokenizer.model"} <= set(os.listdir(tmp_path / "data/tokenizer"))
    # The first place to cut is beyond the first batch, which is 1 MiB per thread.
    (tmp_path / "run.txt").write_text("日本語の文書を" * 150_000 + " the")
    tool(*prepare(input="run.txt", out="run", tokenizer="data/tokenizer"), cwd=tmp_path, build="native")
    check_provenance(tmp_path / "run", tmp_path)


def test_several_sequences_per_document(tool, tmp_path):
    """A document with more tokens than an int32 can count is stored as several sequences; here the
    limit is 7 tokens."""
    lines = "".join(json.dumps({"text": "x" * i + " y"}) + "\n" for i in range(30))
    (tmp_path / "x.jsonl").write_text(lines)
    tool(*prepare(input=tmp_path / "x.jsonl", out=tmp_path / "data", vocab_size=260))
    data = tmp_path / "data"
    documents = read_pair(data / "train")
    tool("index", data / "train.idx", data / "train.docs", 2, 7)
    index = (data / "train.idx").read_bytes()
    assert struct.unpack_from("<QQ", index, 18) == (sum((len(d) + 6) // 7 for d in documents), 31)
    assert np.frombuffer(index, np.int32, struct.unpack_from("<Q", index, 18)[0], 34).max() == 7
    assert read_pair(data / "train") == documents
    head, _ = dump(tool, data / "train", 7)
    assert head["documents"] == 30


def test_rejected_lines(tool, fails, tmp_path):
    """Lines without a document are counted and reported; half of a file or more is an error."""
    good = [json.dumps({"text": f"line {i}"}) for i in range(20)]
    bad = ["{", '{"text": 5}', '{"content": "x"}', "[]", '"text"', '{"text": ["a"]}', '{"text": "a"} x']
    lines = [*good[:3], "", "  \t", *bad, *good[3:], '{"text": ""}', "\r"]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    shown = tool(*prepare(input="x.jsonl", out="data", vocab_size=260), cwd=tmp_path)
    texts = check_provenance(tmp_path / "data", tmp_path)
    assert texts["train"] == [f"line {i}" for i in range(20)]
    source = manifest_of(tmp_path / "data")["sources"][0]
    assert (source["rejected_lines"], source["blank_lines"], source["empty"]) == (7, 3, 1)
    notes = manifest_of(tmp_path / "data")["rejected_examples"]
    assert [note.split(": ")[0] for note in notes] == [f"x.jsonl:{i}" for i in range(6, 11)]
    assert shown.splitlines() == notes
    (tmp_path / "x.jsonl").write_text("\n".join(good[:7] + bad))
    fails(prepare(input="x.jsonl", out="bad", vocab_size=260), "x.jsonl:8", "7 of 14", cwd=tmp_path)
    (tmp_path / "y.jsonl").write_text('{"body": "one two"}\n{"body": "three", "text": 1}')
    fails(prepare(input="y.jsonl", out="bad", vocab_size=260), "y.jsonl:1", "--text-key", cwd=tmp_path)
    tool(*prepare(input="y.jsonl", out="body", vocab_size=257, text_key="body"), cwd=tmp_path)
    assert check_provenance(tmp_path / "body", tmp_path, "body")["train"] == ["one two", "three"]
    assert sorted(os.listdir(tmp_path)) == ["body", "data", "x.jsonl", "y.jsonl"]


def test_lines_with_invalid_utf8(tool, tmp_path):
    """Replaced bytes and lone surrogate escapes are counted; truncated notes remain valid UTF-8."""
    folder = tmp_path / ("語" * 60) / ("語" * 60) / ("語" * 60) / ("語" * 60) / ("語" * 60) / ("語" * 60)
    folder.mkdir(parents=True)
    (folder / "x.jsonl").write_bytes(b'{"text": "a \xff b \xe3\x81"}\n{"text": "\\ud800 x \\udc00\\ud83d\\ude00"}\n'
                                     b'{"te\xffxt": "no"}\n')
    relative = (folder / "x.jsonl").relative_to(tmp_path)
    tool(*prepare(input=relative, out="data", vocab_size=260), cwd=tmp_path)
    texts = check_provenance(tmp_path / "data", tmp_path)
    assert texts["train"] == ["a \ufffd b \ufffd", "\ufffd x \ufffd\U0001f600"]
    counts = manifest_of(tmp_path / "data")["counts"]
    assert (counts["replaced"], counts["rejected_lines"]) == (4, 1)


def test_origins(tool, tmp_path):
    """Origin tables are bounded: 32 values per source; any others, and values that are too long,
    are counted under null."""
    def line(i):
        return json.dumps({"text": "x", "package": f"p{i // 2}", "licence": "L" * (300 if i == 3 else 3), "lang": i,
                           "metadata": {"language": "ja" if i % 2 else "en"}, "source": None})
    (tmp_path / "x.jsonl").write_text("\n".join(map(line, range(80))))
    tool(*prepare(input=tmp_path / "x.jsonl", out=tmp_path / "data", vocab_size=260 - 3))
    origin = manifest_of(tmp_path / "data")["sources"][0]["origin"]
    assert origin["source"] == [*({"value": f"p{i}", "documents": 2, "tokens": 4} for i in range(32)),
                                {"value": None, "documents": 16, "tokens": 32}]
    assert origin["license"] == [{"value": "LLL", "documents": 79, "tokens": 158},
                                 {"value": None, "documents": 1, "tokens": 2}]
    assert origin["language"] == [{"value": "en", "documents": 40, "tokens": 80},
                                  {"value": "ja", "documents": 40, "tokens": 80}]


def test_split(tool, fails, tmp_path):
    """The validation fraction is met within 5 sigma. Each split gets at least one document, and a
    single document cannot be split."""
    (tmp_path / "x.jsonl").write_text("".join(f'{{"text": "document {i}"}}\n' for i in range(4000)))
    options = dict(input="x.jsonl", vocab_size=260)
    tool(*prepare(**options, out="a", val_fraction=0.1), cwd=tmp_path)
    tool(*prepare(**options, out="b", val_fraction=0.1, seed=1), cwd=tmp_path)
    a, b = (check_provenance(tmp_path / name, tmp_path)["val"] for name in "ab")
    for val in a, b:
        assert abs(len(val) - 400) < 5 * np.sqrt(4000 * 0.1 * 0.9)
    assert a != b
    (tmp_path / "few.jsonl").write_text("".join(f'{{"text": "document {i}"}}\n' for i in range(3)))
    for fraction, sizes in (1e-9, (2, 1)), (0.999999999, (1, 2)):
        out = f"few{sizes[0]}"
        tool(*prepare(input="few.jsonl", vocab_size=260, out=out, val_fraction=fraction), cwd=tmp_path)
        texts = check_provenance(tmp_path / out, tmp_path)
        assert (len(texts["train"]), len(texts["val"])) == sizes
        assert sorted(texts["train"] + texts["val"]) == [f"document {i}" for i in range(3)]
    (tmp_path / "one.jsonl").write_text('{"text": "only this"}\n{"text": ""}\n')
    fails(prepare(input="one.jsonl", out="one", vocab_size=257, val_fraction=0.1), "--val-fraction 0", cwd=tmp_path)
    tool(*prepare(input="one.jsonl", out="one", vocab_size=257), cwd=tmp_path)
    fails(["dump", tmp_path / "one", "val", 4, 260], "val", "validation")


def test_tokenizer_sample_covers_the_corpus(tool, tmp_path):
    """The tokenizer sample covers the start, the middle and the end of the text, in one file and in
    many. A vocabulary size of 278 is exactly what all four words together can fill."""
    parts = ["alpha ", "bravo ", "charlie ", "delta "]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.txt").write_text("".join(part * 400_000 for part in parts))
    (tmp_path / "many").mkdir()
    for i, part in enumerate(parts):
        (tmp_path / "many" / f"{i}.jsonl").write_text((json.dumps({"text": part * 400}) + "\n") * 1000)
    for name, sample in ("one", 6_000_000), ("many", 1_000_000):
        tool(*prepare(input=name, out=f"{name}.data", vocab_size=278, tokenizer_sample=sample), cwd=tmp_path,
             build="native")
        vocabulary = json.loads((tmp_path / f"{name}.data/tokenizer/vocab.json").read_text())
        assert {"Ġ" + part.strip() for part in parts} <= set(vocabulary)


def test_bounded_memory(tool, tools, tmp_path):
    """Files several times larger than the memory limit of the process: one document, and many."""
    text = ("The quick brown fox jumps over the lazy dog. 日本語の文書を英語と混ぜる。\n" * 20).encode()
    with open(tmp_path / "x.txt", "wb") as x, open(tmp_path / "y.jsonl", "wb") as y:
        line = json.dumps({"text": text.decode()}, ensure_ascii=False).encode() + b"\n"
        for _ in range(60_000_000 // len(text)):
            x.write(text)
            y.write(line)
    tool(*prepare(input=["x.txt", "y.jsonl"], out="data", vocab_size=320, tokenizer_sample=1_000_000,
                  memory_limit=40 << 20), cwd=tmp_path, build="native")
    counts = manifest_of(tmp_path / "data")["counts"]
    assert counts["text_bytes"] == 2 * (60_000_000 // len(text)) * len(text)
    first, *rest = read_pair(tmp_path / "data" / "train")
    assert len(first) == 1 + sum(len(document) - 1 for document in rest)


def test_limits(fails, tool, tmp_path):
    """Extremely long lines, and text without a safe place to cut, are rejected. The files are
    sparse."""
    tool(*prepare(input=write_text(tmp_path), out=tmp_path / "ok", vocab_size=260))
    for name in "line.jsonl", "text.md":
        with open(tmp_path / name, "wb") as file:
            file.truncate(300 << 20)
        fails(prepare(input=tmp_path / name, out=tmp_path / "data", tokenizer=tmp_path / "ok/tokenizer"), name,
              build="native")
        (tmp_path / name).unlink()


# --------------------------------------------------------------------------------------------------
# prepare: published corpora, metadata, ranks, resuming, collection

def test_metadata(tool, tmp_path):
    """Dolma, FineWeb (both forms) and llm-jp-corpus in their published formats, also compressed."""
    lines = {
        "dolma.json.gz": {"id": "d\u30001", "text": "one\n", "source": "wiki", "added": "2024-01-02", "created": "1999",
                          "metadata": {"url": "http://x/?\"q\"", "license": "CC-BY-SA", "ids": [1, 2]}, "version": "v1"},
        "fineweb.jsonl.zst": {"text": "two", "id": "<urn:uuid:1>", "metadata": {
            "url": "http://y", "date": "2020-05-01T00:00:00Z", "dump": "CC-MAIN-2020", "file_path": "s3://a/b.warc.gz",
            "language": "en", "language_score": 0.9, "token_count": 3}},
        "expanded.jsonl": {"text": "three", "id": "<urn:uuid:2>", "url": "http://z", "date": None, "language": "ja",
                           "token_count": 3},
        "llmjp.jsonl": {"text": "四", "meta": {"id": 17, "title": "題\u0000名", "url": "http://w", "licence": "CC0"}},
        "mc4.jsonl": {"text": "five", "timestamp": 1580000000.5, "url": "http://v", "id": True, "lang": ["x"]},
        "bare.jsonl": {"text": "six"},
    }
    expected = {
        "dolma.json.gz": {"id": "d\u30001", "source": "wiki", "url": "http://x/?\"q\"", "license": "CC-BY-SA",
                          "created": "1999", "added": "2024-01-02"},
        "fineweb.jsonl.zst": {"id": "<urn:uuid:1>", "url": "http://y", "date": "2020-05-01T00:00:00Z", "language": "en",
                              "dump": "CC-MAIN-2020", "file_path": "s3://a/b.warc.gz"},
        "expanded.jsonl": {"id": "<urn:uuid:2>", "url": "http://z", "language": "ja"},
        "llmjp.jsonl": {"id": 17, "url": "http://w", "license": "CC0", "title": "題\u0000名"},
        "mc4.jsonl": {"url": "http://v", "timestamp": 1580000000.5},
        "bare.jsonl": {},
    }
    (tmp_path / "in").mkdir()
    for name, line in lines.items():
        write_compressed(tmp_path / "in" / name, (json.dumps(line, ensure_ascii=False) + "\n").encode())
    tool(*prepare(input="in", out="data", vocab_size=257), cwd=tmp_path)
    check_provenance(tmp_path / "data", tmp_path)
    sources = [source["path"].split("/")[1] for source in manifest_of(tmp_path / "data")["sources"]]
    metadata = (tmp_path / "data/train.meta").read_bytes()
    found = {sources[number]: json.loads(metadata[begin:begin + length] or "{}")
             for _, _, _, begin, length, number in records_of(tmp_path / "data/train.docs")}
    assert found == expected
    assert metadata.count(b"\n") == 5 and json.loads(metadata.splitlines()[0])["id"] == "d\u30001"


def write_compressed(path, content):
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = subprocess.run(["zstd", "-qc"], input=content, capture_output=True, check=True).stdout
    path.write_bytes(content)


def files_of(folder):
    """The bytes of every file; the manifest as parsed JSON without its command."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {**files, "manifest.json": {**json.loads(files["manifest.json"]), "command": None}}


@pytest.fixture(scope="session")
def varied(corpus, mixed, tmp_path_factory):
    """A folder `in` with documents of every kind and with duplicates, so that some are dropped."""
    folder = tmp_path_factory.mktemp("varied") / "in"
    shutil.copytree(mixed, folder, symlinks=True)
    lines = [line for path in sorted(corpus.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    for document in map(json.loads, lines[::7]):  # near-duplicates: a few characters are changed
        document["text"] = document["text"].replace("a", "e", 3)
        lines.append(json.dumps(document).encode())
    lines += lines[3::9]
    random.Random(7).shuffle(lines)
    for i, name in enumerate(["m.jsonl", "n.jsonl.zst", "o.jsonl.gz"]):
        write_compressed(folder / name, b"\n".join(lines[i::3]) + b"\n\n{\n")
    (folder / "long.txt").write_bytes(HARD.encode() * 3000)
    return folder


COLLECT = dict(min_characters=300, max_characters=400_000, max_repeated_lines=0.9, dedup="exact", near_duplicates=0.8)


@pytest.mark.parametrize("collect", [{}, COLLECT], ids=["all", "collected"])
def test_ranks_and_threads(collect, varied, tools, tool, tmp_path):
    """The output does not depend on the number of ranks and threads, nor on unit boundaries."""
    options = dict(input="in", vocab_size=300, tokenizer_sample=300_000, val_fraction=0.1, **collect)
    os.symlink(varied, tmp_path / "in")
    tool(*prepare(out="one", **options), cwd=tmp_path)
    check_provenance(tmp_path / "one", tmp_path)
    expected = files_of(tmp_path / "one")
    for ranks, threads, unit in (1, 4, 5_003), (2, 1, 30_000), (3, 2, 100_001), (2, 2, 0):
        out = f"{ranks}-{threads}-{unit}"
        result = subprocess.run(["mpirun", "-n", str(ranks), tools / "native", *map(str, prepare(
            out=out, unit_bytes=unit, **options))], cwd=tmp_path, capture_output=True,
            env=environment({"OMP_NUM_THREADS": str(threads)}), timeout=120)
        assert result.returncode == 0, result.stderr
        assert files_of(tmp_path / out) == expected, out


def test_resume(varied, tools, tmp_path):
    """Killed in each pass and while the units are merged, prepare resumes and leaves the same bytes
    as an uninterrupted run."""
    command = ["mpirun", "-n", "2", tools / "native", *map(str, prepare(
        input="in", out="data", vocab_size=300, val_fraction=0.1, unit_bytes=8000, progress=1, **COLLECT))]
    moments = [("parts/*.scan.json", 5), ("parts/*.scan.json", 40), ("verdicts", 1), ("parts/*.sample.json", 10),
               ("data/tokenizer", 1), ("parts/*.encode.json", 5), ("parts/*.encode.json", 40), ("data/train.bin", 1)]
    for name in "uninterrupted", "killed":
        (tmp_path / name).mkdir()
        os.symlink(varied, tmp_path / name / "in")
    subprocess.run(command, cwd=tmp_path / "uninterrupted", check=True, capture_output=True, env=environment(), timeout=120)
    kills, shown = 0, ""
    for pattern, count in moments:
        process = subprocess.Popen(command, cwd=tmp_path / "killed", stdout=subprocess.PIPE, text=True, env=environment())
        work = tmp_path / "killed/.data.preparing"
        while process.poll() is None and len(list(work.glob(pattern))) < count:
            time.sleep(0.0005)
        kills += process.poll() is None
        kill_all(process)
        shown += process.stdout.read()
        if (tmp_path / "killed/data").exists():
            break
        assert [path.name for path in (tmp_path / "killed").iterdir() if path.name != "in"] == [".data.preparing"]
    assert kills >= 5
    if not (tmp_path / "killed/data").exists():
        shown += subprocess.run(command, cwd=tmp_path / "killed", check=True, capture_output=True, env=environment(),
                                text=True, timeout=120).stdout
    assert "scanning documents: resuming with" in shown and "tokenizing: resuming with" in shown
    assert sorted(os.listdir(tmp_path / "killed")) == ["data", "in"]
    assert ([files_of(tmp_path / "killed/data"), (tmp_path / "killed/data/manifest.json").read_bytes()]
            == [files_of(tmp_path / "uninterrupted/data"),
                (tmp_path / "uninterrupted/data/manifest.json").read_bytes()])


def test_changed_command_starts_over(varied, tools, tool, tmp_path):
    """A run with a different seed or a changed source uses nothing of a killed run."""
    shutil.copytree(varied, tmp_path / "in", symlinks=True)
    options = dict(input="in", vocab_size=300, val_fraction=0.3, unit_bytes=8000, progress=1)
    for seed, touched in (1, None), (2, tmp_path / "in/m.jsonl"):
        process = subprocess.Popen([tools / "native", *map(str, prepare(out="data", seed=1 if touched else 0, **options))],
                                   cwd=tmp_path, stdout=subprocess.PIPE, env=environment())
        while len(list(tmp_path.glob(".data.preparing/parts/*.encode.json"))) < 10:
            assert process.poll() is None
            time.sleep(0.0005)
        kill_all(process)
        if touched:
            touched.write_bytes(touched.read_bytes() + b'{"text": "one more"}\n')
        shown = tool(*prepare(out="data", seed=1, **options), cwd=tmp_path)
        assert "starting over" in shown and "resuming" not in shown
        check_provenance(tmp_path / "data", tmp_path)
        shutil.rmtree(tmp_path / "data")
    assert sorted(os.listdir(tmp_path)) == ["in"]


def grams(text):
    text = " ".join(re.sub("[A-Z]", lambda m: m[0].lower(), text).split())
    return {text[i:i + 5] for i in range(max(1, len(text) - 4))}


def test_collection(varied, tool, tmp_path):
    """Dropped documents and reasons against a direct computation: filters and exact duplicates must
    match; the similarity of near-duplicates must be within 5 standard deviations of the true
    similarity of their 5-grams."""
    tool(*prepare(input="in", out="data", vocab_size=300, **COLLECT), cwd=varied.parent, build="native")
    data = varied.parent / "data"
    check_provenance(data, varied.parent)
    texts = {}
    for path in sorted(varied.rglob("*"), key=lambda path: os.fsencode(path)):
        name = str(path.relative_to(varied.parent))
        if path.is_dir() or path.is_symlink() or name.count("circle") or path.name[0] == "." or path.suffix == ".bin":
            continue
        content = decompress(name, path.read_bytes())
        start = 3 * content.startswith(b"\xef\xbb\xbf")
        if ".json" not in name:
            texts[name, start] = content[start:].decode(errors="replace")
            continue
        for line in content[start:].splitlines(keepends=True):
            if line.startswith(b'{"'):
                texts[name, start] = json.loads(line)["text"]
            start += len(line)
    texts = {place: text for place, text in texts.items() if text}
    dropped = {(line["source"], line["offset"]): line
               for line in map(json.loads, (data / "dropped.jsonl").read_bytes().splitlines())}
    seen, kept, counts = {}, [], collections.Counter()
    for place, text in texts.items():
        line = dropped.get(place, {"reason": None})
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        repeated = sum(len(line) for i, line in enumerate(lines) if line in lines[:i]) / max(1, sum(map(len, lines)))
        expected = ("short" if len(text) < 300 else "long" if len(text) > 400_000 else
                    "repeated_lines" if repeated > 0.9 else "exact_duplicate" if text in seen else None)
        if expected is None and line["reason"] == "near_duplicate":
            of = line["duplicate_of"]["source"], line["duplicate_of"]["offset"]
            a, b = grams(text), grams(texts[of])
            similarity = len(a & b) / len(a | b)
            assert abs(similarity - line["value"]) < 5 * np.sqrt(0.25 / 256) and line["value"] >= 0.8
            assert of not in dropped
        else:
            assert line["reason"] == expected, place
        if expected in ("short", "long"):
            assert line["value"] == len(text)
        elif expected == "repeated_lines":
            assert line["value"] == pytest.approx(repeated)
        elif expected == "exact_duplicate":
            assert (line["duplicate_of"]["source"], line["duplicate_of"]["offset"]) == seen[text]
        if expected is None:
            seen[text] = place
            if line["reason"] is None:
                kept.append(grams(text))
        counts[line["reason"]] += 1
    assert min(counts[reason] for reason in ("short", "repeated_lines", "exact_duplicate", "near_duplicate")) >= 1, counts
    for i, a in enumerate(kept):  # no two of the kept documents are similar
        assert all(len(a & b) < 0.97 * len(a | b) for b in kept[:i])
    shutil.rmtree(data)


def test_everything_dropped(fails, tmp_path):
    write_text(tmp_path)
    fails(prepare(input="text.txt", out="data", vocab_size=260, min_characters=1_000_000), "the filters drop all",
          cwd=tmp_path)
    fails(prepare(input="text.txt", out="data", vocab_size=260, near_duplicates=0.2), "0.5", cwd=tmp_path)
    assert os.listdir(tmp_path) == ["text.txt"]


# --------------------------------------------------------------------------------------------------
# prepare: errors

def test_bad_inputs(fails, tool, tmp_path):
    write_text(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.bin").touch()
    for name in "x.pdf", "x.json", "x.txt.xz", "x.bin", "empty.txt", "empty.jsonl":
        (tmp_path / name).touch()
    (tmp_path / "blank.jsonl").write_text('\n\n{"text": ""}\n')
    os.mkfifo(tmp_path / "pipe.txt")
    odd = os.fsdecode(b"odd\xff.txt")
    (tmp_path / odd).write_text("text")
    options = dict(out="data", vocab_size=260)
    for name, mention in {"nowhere.txt": "nowhere.txt", "x.pdf": ".jsonl", "x.json": ".jsonl", "x.txt.xz": ".gz", "x.bin": "train --data",
                          "empty.txt": "no document", "empty.jsonl": "no document", "blank.jsonl": "no document",
                          "pipe.txt": "pipe.txt", "folder": "skipped: 1", odd: "UTF-8"}.items():
        fails(prepare(input=["text.txt", name] if name.startswith(("x.", "no", "pipe", "odd")) else name, **options),
              mention, cwd=tmp_path)
    fails(prepare(input="text.txt", out="data", vocab_size=100_000), "--vocab-size", cwd=tmp_path)
    fails(prepare(input="text.txt", out="data", tokenizer="folder"), "folder", cwd=tmp_path)
    fails(prepare(input="text.txt", out="data", tokenizer="nowhere"), "nowhere", cwd=tmp_path)
    fails(prepare(input="text.txt", out="data", vocab_size=260, val_fraction=1), "--val-fraction", cwd=tmp_path)
    fails(prepare(out="data", vocab_size=260), "--input", cwd=tmp_path)
    for out in "", "/", "no/such/folder/data", "text.txt", "text.txt/data", ".", "folder":
        fails(prepare(input="text.txt", out=out, vocab_size=260), out, cwd=tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.startswith((".", "data"))]
    (tmp_path / "data").mkdir()  # an existing empty folder is accepted
    tool(*prepare(input="text.txt", out="data/", vocab_size=260), cwd=tmp_path)
    before = (tmp_path / "data/manifest.json").read_bytes()
    fails(prepare(input="text.txt", **options), "already holds prepared data", cwd=tmp_path)
    assert (tmp_path / "data/manifest.json").read_bytes() == before


def test_unreadable(fails, tmp_path):
    write_text(tmp_path).chmod(0)
    (tmp_path / "folder").mkdir(mode=0)
    rights = "-dac_override,-dac_read_search"  # capabilities that let root read everything
    without = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    for name in "text.txt", "folder":
        fails(prepare(input=name, out="data", vocab_size=260), name, "ermission", cwd=tmp_path, prefix=without)


def test_damaged_gzip(fails, tmp_path):
    good = gzip.compress(random.Random(1).randbytes(300_000).hex().encode())
    for damage in good[:200_000], good[:-4] + b"abcd", b"text", good[:100_000] + b"\0" * 99 + good[100_000:]:
        (tmp_path / "x.txt.gz").write_bytes(damage)
        fails(prepare(input="x.txt.gz", out="data", vocab_size=260), "x.txt.gz", "gzip", cwd=tmp_path)
    fails(prepare(input="x.txt.gz", out="data", vocab_size=260), "gzip", "started", cwd=tmp_path,
          env={"PATH": "/nowhere"})
    assert os.listdir(tmp_path) == ["x.txt.gz"]


def test_failure_on_one_rank(tools, tmp_path):
    """A corrupt source gives a one-line error and ends all ranks, whichever rank reads it; no files
    are left behind."""
    (tmp_path / "in").mkdir()
    for i in range(6):
        write_text(tmp_path / "in", f"{i}.txt", f"some words {i} " * 100_000)
    for bad in 0, 5:
        (tmp_path / "in" / f"{bad}.txt.zst").write_bytes(b"no zstd" * (bad + 1))
        result = subprocess.run(["mpirun", "-n", "3", tools / "native", *map(str, prepare(
            input="in", out="data", vocab_size=260))], cwd=tmp_path, capture_output=True, text=True, env=environment(),
            timeout=120)
        assert result.returncode != 0 and result.stderr.count("train_gpt: ") == 1
        assert f"in/{bad}.txt.zst: zstd -dc ended with status" in result.stderr
        (tmp_path / "in" / f"{bad}.txt.zst").unlink()
    assert os.listdir(tmp_path) == ["in"]


def test_source_changes_during_run(fails, tmp_path):
    """A wrapper around `gzip` modifies a source: another one between the passes, or the one that is
    being read."""
    (tmp_path / "bin").mkdir()
    for victim in "a.txt", "b.txt.gz":
        write_text(tmp_path, "a.txt")
        (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"some text " * 100))
        (tmp_path / "bin/gzip").write_text(f"#!/bin/sh\necho more >> {tmp_path}/{victim}\n"
                                           f"exec {shutil.which('gzip')} -dc\n")
        (tmp_path / "bin/gzip").chmod(0o755)
        fails(prepare(input=["a.txt", "b.txt.gz"], out="data", vocab_size=260), victim, "changed", cwd=tmp_path,
              env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt.gz", "bin"]


@pytest.mark.parametrize("limit", [1000, 20_000, 40_000, 80_000, "last byte"])
def test_full_disk(limit, fails, tool, tmp_path):
    """A file size limit makes the same calls fail as a full disk, even if only the last byte of the
    largest file does not fit. No partial output is left behind."""
    (tmp_path / "x.jsonl").write_text("".join(f'{{"text": "{"many words " * 9}{i}"}}\n' for i in range(3000)))
    if limit == "last byte":
        tool(*prepare(input="x.jsonl", out="complete", vocab_size=260), cwd=tmp_path)
        limit = max(path.stat().st_size for path in (tmp_path / "complete").iterdir()) - 1
        shutil.rmtree(tmp_path / "complete")
    fails(prepare(input="x.jsonl", out="data", vocab_size=260, file_limit=limit), "cannot be written", cwd=tmp_path)
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_leftovers_and_concurrent_runs(fails, tool, tmp_path):
    """Leftovers of a killed run are removed; a folder in use by another run is not touched."""
    write_text(tmp_path)
    left = tmp_path / ".data.preparing"
    (left / "tokenizer" / "x").mkdir(parents=True)
    (left / "tokenizer" / "x" / "old").write_text("old")
    (left / "stray.bin").write_text("old")
    descriptor = os.open(left, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    fails(prepare(input="text.txt", out="data", vocab_size=260), "another prepare", cwd=tmp_path)
    assert (left / "stray.bin").exists()
    os.close(descriptor)
    tool(*prepare(input="text.txt", out="data", vocab_size=260), cwd=tmp_path)
    assert not left.exists()
    assert sorted(os.listdir(tmp_path / "data")) == ["dropped.jsonl", "manifest.json", "tokenizer", "train.bin",
                                                     "train.docs", "train.idx", "train.meta", "train.sums"]


@pytest.fixture
def small(tool, tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(f'{{"text": "some words {i}"}}\n' for i in range(50)))
    tool(*prepare(input="x.jsonl", out="data", vocab_size=260, val_fraction=0.2), cwd=tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["train.bin", "train.idx", "tokenizer/tokenizer.json"])
def test_altered_files(name, small, tool, fails):
    """A single flipped bit is found by the format checks or by the hash."""
    tool("verify", small, "train", 8, 260)
    good = (small / name).read_bytes()
    for place in 0, len(good) // 2, len(good) - 1:
        damaged = bytearray(good)
        damaged[place] ^= 1
        (small / name).write_bytes(damaged)
        fails(["verify", small, "train", 8, 1 << 20], os.path.basename(name))


def test_altered_manifest(small, fails, tool):
    """Any corrupt manifest gives a one-line error that names the file."""
    manifest = manifest_of(small)
    entry = manifest["splits"]["train"]
    changes = [{"version": 2}, {"version": None}, {"splits": {}}, {"splits": []}, {"tokenizer": {}}, {"tokenizer": 5},
               {"tokenizer": {**manifest["tokenizer"], "vocab_size": 0}},
               {"tokenizer": {**manifest["tokenizer"], "vocab_size": 1 << 40}},
               {"tokenizer": {**manifest["tokenizer"], "sha256": "x" * 65}},
               *({"splits": {"train": {**entry, **change}}} for change in (
                   {"tokens": 1}, {"documents": 1}, {"tokens": -1}, {"bin": None}, {"idx": {"sha256": 5}}))]
    for change in changes:
        (small / "manifest.json").write_text(json.dumps({**manifest, **change}))
        fails(["dump", small, "train", 8, 260], "manifest.json")
    text = json.dumps(manifest)
    for cut in 0, 1, 100, len(text) // 2, len(text) - 1:
        (small / "manifest.json").write_text(text[:cut])
        fails(["dump", small, "train", 8, 260], "manifest.json")
    (small / "manifest.json").unlink()
    fails(["dump", small, "train", 8, 260], "manifest.json")


def test_progress(tool, tmp_path):
    (tmp_path / "x.txt").write_bytes(random.Random(1).randbytes(6_000_000).hex().encode())
    shown = tool(*prepare(input="x.txt", out="data", vocab_size=2000, progress=1), cwd=tmp_path).splitlines()
    assert "sampling" in shown[0] and "training a tokenizer" in "".join(shown)
    assert re.fullmatch(r"tokenizing: 100 % of 12.0 MB, 12.0 MB of text, [\d.]+ MB/s, 1 documents", shown[-1])
    assert all(re.fullmatch(r"[a-z ]+: \d+ % of 12.0 MB, [\d.]+ MB of text, [\d.]+ MB/s, [01] documents(, \d+ s left)?",
                            line) for line in shown if not line.startswith("training"))
