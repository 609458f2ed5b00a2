"""The `prepare` and `eval` commands on real text: no document is lost, added or split, every token
id matches the `tokenizers` library, and eval's loss matches PyTorch.

Ids and counts are compared exactly; eval's loss within 1e-5, as in test_model.py.
"""
import collections
import gzip
import hashlib
import json
import math
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from support import (arguments, batch_of, checkpoint, load_torch, mean_loss, read_pair, run)

# Latin, Japanese, emoji with joiners, combining marks, CRLF, long runs of spaces, other scripts,
# rare white space
SAMPLES = [
    "Hello world, it's 2024 -- don't SHOUT!",
    "日本語の文書を、英語と mixed にする。全角　空白も。",
    "👩‍👩‍👧‍👦 🇯🇵 🏳️‍🌈 ok🙂ok",
    "か\u3099き\u3099 e\u0301 n\u0303 \u0e17\u0e35\u0e48",
    "line one\r\nline two\r\n\r\n\tindented\rold mac",
    "a" + " " * 300 + "b" + "\n" * 70 + "  c   ",
    "Ünïcödé Ελληνικά русский العربية हिन्दी 한국어 ½ ² Ⅷ ٣",
    "\u00a0\u2003\u200b\ufeff\u0085 x\u2028y\u3000 z\x1f\x00",
    "<|endoftext|> inside a text",
]


def texts_of(folder):
    return [json.loads(line)["text"] for path in sorted(folder.glob("*.jsonl")) for line in open(path)]


def documents_of(data):
    return [document for split in ("train", "val") for document in read_pair(data / split)]


def end_of_document(data):
    return Tokenizer.from_file(str(data / "tokenizer" / "tokenizer.json")).token_to_id("<|endoftext|>")


def encoded(data, texts):
    """The expected shard contents: the ids of each text according to `tokenizers`, followed by the
    end-of-document token."""
    tokenizer = Tokenizer.from_file(str(data / "tokenizer" / "tokenizer.json"))
    return [tuple(encoding.ids) + (end_of_document(data),) for encoding in
            tokenizer.encode_batch([text for text in texts if text], add_special_tokens=False)]


def test_real_text(prepared, corpus):
    """The training and the validation split together contain each document of the corpus exactly
    once."""
    train, val = read_pair(prepared / "train"), read_pair(prepared / "val")
    expected = encoded(prepared, texts_of(corpus))
    assert collections.Counter(map(tuple, train + val)) == collections.Counter(expected)
    assert 0.02 * len(expected) < len(val) < 0.25 * len(expected)
    # documents keep the order of the corpus: each split is a subsequence of it
    for split in train, val:
        rest = iter(expected)
        assert all(tuple(document) in rest for document in split)


def test_manifest(prepared, corpus):
    manifest = json.loads((prepared / "manifest.json").read_text())
    text = json.dumps(manifest)
    for source in corpus.glob("*.jsonl"):
        assert source.name in text
        assert hashlib.sha256(source.read_bytes()).hexdigest() in text
    for name in "train.bin", "train.idx", "val.bin", "val.idx", "tokenizer/tokenizer.json":
        assert hashlib.sha256((prepared / name).read_bytes()).hexdigest() in text, name


def test_command(corpus, tmp_path):
    """The manifest records the command line as given, for each way to write a list of inputs."""
    files = sorted(corpus.glob("*.jsonl"))[:2]
    for name, inputs in ("equals", [f"--input={files[0]}"]), ("list", ["--input", *map(str, files)]):
        out = tmp_path / name
        options = ["prepare", *inputs, f"--out={out}", "--vocab-size=300", "--val-fraction", "0.1"]
        run(options)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["command"][1:] == options
        assert [source["path"] for source in manifest["sources"]] == list(map(str, files[:len(inputs) - 1 or 1]))


def test_repeated_run(prepared, corpus, build, tmp_path):
    """The same command gives the same bytes; a different seed gives a different split."""
    options = dict(input=corpus, vocab_size=1000, val_fraction=0.1)
    run(arguments("prepare", out=tmp_path / "again", **options), build=build, threads=2)
    for name in "train.bin", "train.idx", "train.docs", "val.bin", "tokenizer/tokenizer.json":
        assert (tmp_path / "again" / name).read_bytes() == (prepared / name).read_bytes(), name
    if build == "native":
        run(arguments("prepare", out=tmp_path / "other", seed=99, **options))
        assert (tmp_path / "other" / "val.bin").read_bytes() != (prepared / "val.bin").read_bytes()


def test_difficult_text(prepared, build, tmp_path):
    """Plain text, JSON Lines and gzip, with a newly trained tokenizer and with an existing one."""
    (tmp_path / "in").mkdir()
    for i, text in enumerate(SAMPLES):
        (tmp_path / "in" / f"{i}.txt").write_bytes(text.encode())
    lines = "".join(json.dumps({"text": text}, ensure_ascii=i % 2 == 0) + "\n" for i, text in enumerate(SAMPLES * 3))
    (tmp_path / "in" / "x.jsonl").write_bytes(lines.encode())
    (tmp_path / "in" / "y.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name, options in ("trained", dict(vocab_size=400)), ("given", dict(tokenizer=prepared / "tokenizer")):
        data = tmp_path / name
        run(arguments("prepare", input=tmp_path / "in", out=data, val_fraction=0.2, **options), build=build)
        found = collections.Counter(map(tuple, documents_of(data)))
        assert found == collections.Counter(encoded(data, SAMPLES * 7))
    assert ((tmp_path / "given/tokenizer/tokenizer.json").read_bytes()
            == (prepared / "tokenizer/tokenizer.json").read_bytes())


def test_invalid_utf8(build, tmp_path):
    """Invalid bytes become U+FFFD as in Python's decoder, and their number is reported."""
    raw = b"good \xff text \xe6\x97 cut \xc0\xaf \xed\xa0\x80 \xf4\x90\x80\x80 end " * 10
    (tmp_path / "text.txt").write_bytes(raw)
    result = run(arguments("prepare", input=tmp_path / "text.txt", out=tmp_path / "data", vocab_size=270,
                           val_fraction=0), build=build)
    text = raw.decode(errors="replace")
    assert read_pair(tmp_path / "data" / "train") == [list(ids) for ids in encoded(tmp_path / "data", [text])]
    assert re.search(rf"\b{text.count(chr(0xfffd))}\b.*(UTF-8|invalid)|(UTF-8|invalid).*\b{text.count(chr(0xfffd))}\b",
                     result.out + result.err), str(result)


def test_text_key(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"body": "one two three", "text": "no"}\n{"text": "no", "body": "four five"}\n')
    run(arguments("prepare", input=tmp_path / "x.jsonl", out=tmp_path / "data", vocab_size=257, text_key="body",
                  val_fraction=0))
    assert (collections.Counter(map(tuple, read_pair(tmp_path / "data" / "train")))
            == collections.Counter(encoded(tmp_path / "data", ["one two three", "four five"])))


@pytest.fixture(scope="module")
def evaluated(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "run"
    run(arguments("train", data=prepared, out=out, layers=1, heads=2, channels=32, seq_len=40, micro_batch=4,
                  global_batch=8, steps=10, lr=1e-2, warmup_steps=2, eval_every=10, eval_batches=3, save_every=10,
                  seed=3))
    return checkpoint(out, 10)


@pytest.mark.parametrize("build, micro_batch", [("native", 1), ("native", 7), ("asan", 7)])
def test_eval(evaluated, prepared, build, micro_batch):
    """Loss and perplexity over all samples of the validation split, in order."""
    result = run(arguments("eval", checkpoint=evaluated, data=prepared, micro_batch=micro_batch), build=build)
    loss, perplexity = (float(re.search(rf"^{name} ([\d.]+)$", result.out, re.M)[1]) for name in ("loss", "perplexity"))
    tokens = np.concatenate([np.array(document) for document in read_pair(prepared / "val")])
    samples = (len(tokens) - 1) // 40
    with torch.no_grad():
        expected = float(mean_loss(load_torch(evaluated), *batch_of(tokens, 40, 0, samples)))
    assert abs(loss - expected) <= 1e-5
    assert perplexity == pytest.approx(math.exp(expected), rel=1e-4)
