"""tokenizers/train.h: Unigram training against a reference implementation in Python, its files in `sentencepiece`,
`tokenizers` and `transformers`, and untrusted texts. (Byte-level BPE: test_tokenizer.py.) Each test drives
test/train_tool.c, with and without AddressSanitizer and UndefinedBehaviorSanitizer."""
import json
import math
import os
import random
import struct
import subprocess
from collections import Counter

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from support import ROOT, build_tool

FILES = ["tokenizer.model", "tokenizer.json", "tokenizer_config.json"]
UNKNOWN, END = "<|unknown|>", "<|endoftext|>"
ALWAYS = {"\n", *map(chr, range(0x20, 0x7F))}  # characters that are always pieces

HOSTILE = [
    "", " ", "  ", "\n", " \n ", "a  b", " a", "a ", "\t\tx", "line\r\nline\r\n\r\n  \r\nend", "\x00", "a\x00b\x7f\x85",
    "\u2581", "\u2581\u2581 a\u2581b \u2581", "\u3000x\u3000", "<0x41>", "<0x41><0x42> <0xE3><0x81>", "<unk><s></s>",
    "\ufeffBOM", "\ud7ff\ue000\uffff\U00010000\U0010ffff", "e\u0301 が は\u3099", "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇯🇵", "日本語" * 300,
    " " * 1000 + "x" + "\n" * 500, "吾輩は猫である。名前はまだ無い。", "नमस्ते กำลัง 한국어 العربية עברית ελληνικά русский",
    "".join(map(chr, range(256))), "ｶﾀｶﾅ、①②③、Ⅳ、㍻、㈱、々、〆、ゝ、ー、〜、・", "⁇ \u2047", "~" * 5000,
]


# ----------------------------------------------------------------------------------------------------------------------
# The tool

@pytest.fixture(scope="module")
def tools():
    return build_tool("train_tool")


def call(tool, *args, data=b"", threads=2, status=0):
    done = subprocess.run([tool, *map(str, args)], input=data, capture_output=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    assert done.returncode == status, done.stderr.decode(errors="replace")[-3000:]
    return done


def packed(texts):
    encoded = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def train(tool, texts, vocab, folder, *more, **options):
    folder.mkdir(exist_ok=True)
    call(tool, "unigram", vocab, folder, *more, data=packed(texts), **options)
    return folder


def refused(tool, texts, vocab, folder, *more):
    """The error message of a training that must fail."""
    lines = call(tool, "unigram", vocab, folder, *more, data=packed(texts), status=1).stderr.decode().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def split():
    """(training texts, held-out Japanese texts), about 1.5 MB."""
    train_texts, held = [], []
    for path in sorted((ROOT / "build/corpus").glob("*.jsonl")):
        size = 0
        for i, line in enumerate(open(path, encoding="utf-8")):
            text = json.loads(line)["text"][:20000]
            size += len(text.encode())
            if size > 150_000:
                break
            (held if "-ja" in path.name and i % 10 == 3 else train_texts).append(text)
    assert train_texts and held, "build/corpus is empty: run scripts/fetch_corpus.sh build/corpus"
    return train_texts, held


@pytest.fixture(scope="module")
def model(tools, split, tmp_path_factory):
    return train(tools / "native", split[0], 6000, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def owners(model):
    return (sentencepiece.SentencePieceProcessor(model_file=str(model / "tokenizer.model")),
            Tokenizer.from_file(str(model / "tokenizer.json")))


# ----------------------------------------------------------------------------------------------------------------------
# Suffix array

@pytest.mark.parametrize("build", ["native", "asan"])
def test_suffix_array(tools, build):
    """The suffix array equals the suffixes sorted by Python."""
    draw = random.Random(1)
    texts = [b"", b"a", b"aa", b"ab", b"ba", b"banana", b"mississippi", bytes(range(256)), bytes(range(255, -1, -1)),
             b"ab" * 300, b"aab" * 200 + b"aabb"]
    texts += [bytes(draw.choices(range(letters), k=draw.randrange(400)))
              for letters in (1, 2, 2, 3, 4, 256) for _ in range(10 if build == "native" else 3)]
    fibonacci = [b"a", b"ab"]
    while len(fibonacci[-1]) < 1500:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    for text in texts + fibonacci[-1:]:
        order = np.frombuffer(call(tools / build, "suffixes", data=text).stdout, np.int32)
        assert order.tolist() == sorted(range(len(text) + 1), key=lambda i: text[i:])


# ----------------------------------------------------------------------------------------------------------------------
# The files, read by the libraries that define the formats

def pieces_of(folder):
    return [tuple(entry) for entry in json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]]


def test_vocabulary(model, owners, split):
    """Exact size; special tokens and bytes first; every piece follows the rules; both files agree."""
    sp, hf = owners
    pieces = pieces_of(model)
    assert len(pieces) == sp.vocab_size() == hf.get_vocab_size() == 6000
    assert [piece for piece, _ in pieces[:258]] == [UNKNOWN, END, *(f"<0x{b:02X}>" for b in range(256))]
    assert len({piece for piece, _ in pieces}) == 6000 and ALWAYS <= {piece for piece, _ in pieces}
    for i, (piece, score) in enumerate(pieces):
        assert sp.id_to_piece(i) == piece and sp.get_score(i) == score and score * 64 == round(score * 64)
        assert sp.is_unknown(i) == (i == 0) and sp.is_control(i) == (i == 1) and sp.is_byte(i) == (2 <= i < 258)
    assert (sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id()) == (0, 1, 1, -1)
    scores = [score for _, score in pieces[258:]]
    assert scores == sorted(scores, reverse=True) and max(scores) < 0 and min(scores) >= -22
    for piece, _ in pieces[258:]:
        assert 1 <= len(piece) <= 16 and "\u2581" not in piece and "\0" not in piece
        assert piece.isspace() or not any(c.isspace() for c in piece.removeprefix(" ")), repr(piece)
    assert abs(sum(math.exp(score) for score in scores) - 1) < 0.02


def test_same_ids_and_text_back(owners, split):
    sp, hf = owners
    for text in HOSTILE + split[1]:
        ids = sp.encode(text)
        assert ids == hf.encode(text, add_special_tokens=False).ids, repr(text[:100])
        assert sp.decode(ids) == text and hf.decode(ids, skip_special_tokens=False) == text
        assert 0 not in ids and 1 not in ids


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text() | st.text("aあ漢ー。1 \n\t\u2581<0xE3>", max_size=80))
def test_any_text(owners, text):
    sp, hf = owners
    ids = sp.encode(text)
    assert ids == hf.encode(text, add_special_tokens=False).ids
    assert sp.decode(ids) == text and hf.decode(ids, skip_special_tokens=False) == text


def test_transformers(model, split):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(model)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(model / "tokenizer.model"))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == (END, END, UNKNOWN)
    assert tokenizer.eos_token_id == 1 and tokenizer.unk_token_id == 0 and len(tokenizer) == 6000
    for text in HOSTILE[1:] + split[1][:20]:
        ids = tokenizer(text)["input_ids"]
        assert ids == sp.encode(text) and tokenizer.decode(ids) == text
    assert tokenizer("日本" + END + "語")["input_ids"] == sp.encode("日本") + [1] + sp.encode("語")


def test_not_worse_than_sentencepiece(model, split, tmp_path):
    """Bytes per token on held-out Japanese text, compared with sentencepiece's trainer at the same settings."""
    lines = [line for text in split[0] for line in text.split("\n")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "theirs"), vocab_size=6000, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        character_coverage=0.9995, allow_whitespace_only_pieces=True, max_sentence_length=1 << 20, minloglevel=2)
    ours, theirs = (sentencepiece.SentencePieceProcessor(model_file=str(path))
                    for path in (model / "tokenizer.model", tmp_path / "theirs.model"))
    held = [line for text in split[1] for line in text.split("\n")]
    assert sum(len(ours.encode(line)) for line in held) <= sum(len(theirs.encode(line)) for line in held)


# ----------------------------------------------------------------------------------------------------------------------
# A reference implementation in plain Python, on words without rare characters

def reference_best(word, score, without=None):
    """The pieces of the most probable segmentation; ties go to the longest last piece."""
    best = [(0.0, None)] + [None] * len(word)
    for start in range(len(word)):
        for end in range(start + 1, min(start + 16, len(word)) + 1):
            piece = word[start:end]
            if piece in score and piece != without:
                total = best[start][0] + score[piece]
                if best[end] is None or total > best[end][0]:
                    best[end] = total, start
    pieces, at = [], len(word)
    while at:
        pieces.append(word[best[at][1]:at])
        at = best[at][1]
    return pieces


def reference_expect(words, score):
    expected = Counter()
    for word, count in words.items():
        n = len(word)
        edges = [(a, b, math.exp(score[word[a:b]])) for a in range(n) for b in range(a + 1, min(a + 16, n) + 1)
                 if word[a:b] in score]
        forward, backward = [1.0] + [0.0] * n, [0.0] * n + [1.0]
        for a, b, p in edges:
            forward[b] += forward[a] * p
        for a, b, p in reversed(edges):
            backward[a] += p * backward[b]
        for a, b, p in edges:
            expected[word[a:b]] += count * forward[a] * p * backward[b] / forward[n]
    return expected


def digamma(x):
    return float(torch.digamma(torch.tensor(x, dtype=torch.float64)))


def reference_learn(words, pieces, score, last):
    """Two iterations of EM; `score` contains the pieces in use."""
    for i in range(2):
        expected = reference_expect(words, score)
        everything = last and i == 1
        counts = {p: max(expected[p], 0.5) if len(p) == 1 or everything else expected[p] for p in pieces}
        counts = {p: c for p, c in counts.items() if c >= 0.5}
        total = digamma(sum(counts.values()))
        score = {p: digamma(c) - total for p, c in counts.items()}
    return score


def reference_train(words, wanted):
    """{piece: score} from {word: count}."""
    characters = sorted(ALWAYS | {c for word in words for c in word})
    places = Counter()
    follow = {}  # substring -> the characters that follow it; None is the end of a word
    for word, count in words.items():
        for a in range(len(word)):
            for b in range(a + 1, min(a + 16, len(word)) + 1):
                places[word[a:b]] += count
                after = word[b] if b < len(word) else (word, "end")
                follow.setdefault(word[a:b], set()).add(after if b - a < 16 else "any")
    # As in a suffix tree: a substring that is always followed by the same character is not maximal.
    ends = {s: f for s, f in follow.items() if len(s) > 1 and places[s] >= 3}
    seeds = {s: places[s] * len(s) for s, f in ends.items()
             if len(f) > 1 or len(s) == 16 or isinstance(next(iter(f)), tuple)}
    weights = {c: max(places[c], 0.5) for c in characters} | seeds
    total = sum(weights.values())
    score = {s: math.log(w / total) for s, w in weights.items()}
    pieces = set(score)
    score = reference_learn(words, pieces, score, False)
    assert len(score) >= wanted
    while len(pieces) > wanted + wanted // 10:
        counts = Counter()
        for word, count in words.items():
            for piece in reference_best(word, score):
                counts[piece] += count
        total, worth = sum(counts.values()), {}
        for p in pieces:
            if len(p) == 1:
                worth[p] = (2, 0)
            elif p not in score or not counts[p]:
                worth[p] = (0, score.get(p, -math.inf))
            else:
                parts = reference_best(p, score, without=p)
                worth[p] = (1, counts[p] * (math.log(counts[p] / total) - sum(
                    math.log(counts[q] + counts[p]) - math.log(total + counts[p] * (len(parts) - 1)) for q in parts)
                    + 8 * (len(parts) - 1)))
        target = max(wanted + wanted // 10, int(0.75 * sum(rank > 0 for rank, _ in worth.values())))
        pieces = set(sorted(pieces, key=worth.get, reverse=True)[:target])
        score = reference_learn(words, pieces, {p: s for p, s in score.items() if p in pieces}, False)
    pieces = set(sorted(pieces, key=lambda p: (len(p) == 1, score.get(p, -math.inf)), reverse=True)[:wanted])
    return reference_learn(words, pieces, {p: s for p, s in score.items() if p in pieces}, True)


def test_method(tools, tmp_path):
    """The same pieces as the Python implementation, and the same scores except for rounding."""
    draw = random.Random(3)
    stems = ["".join(draw.choices("abcdeいろはにほ", k=draw.randrange(2, 6))) for _ in range(40)]
    words = Counter("".join(draw.choices(stems, k=draw.randrange(1, 4))) for _ in range(1500))
    text = "\n".join(word for word, count in words.items() for _ in range(count)) + "\n"
    counted = words + Counter({"\n": sum(words.values())})
    for extra in (60, 90, 150):
        wanted = len(ALWAYS | set(text)) + extra
        out = train(tools / "native", [text], 258 + wanted, tmp_path / str(extra), 1)
        ours, theirs = dict(pieces_of(out)[258:]), reference_train(counted, wanted)
        assert len(ours) == wanted and ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
        assert all(abs(ours[p] - theirs[p]) < 1 / 128 + 1e-5 for p in ours)


# ----------------------------------------------------------------------------------------------------------------------
# Determinism and untrusted texts

def test_same_files_for_any_number_of_threads(tools, split, tmp_path):
    texts = split[0][::4]
    made = [train(tools / "native", texts, 4000, tmp_path / str(threads), threads=threads) for threads in (1, 2, 5)]
    for name in FILES:
        assert len({(folder / name).read_bytes() for folder in made}) == 1, name


@pytest.mark.parametrize("build", ["native", "asan"])
def test_hostile_texts(tools, tmp_path, build):
    """Any bytes can be trained on; bytes that are not valid UTF-8 are ignored."""
    draw = random.Random(7)
    texts = [*HOSTILE, draw.randbytes(20000), b"\xff\xfe\xe3\x81" * 50, "漢" * 5000, "ab" * 3000, "\U0010ffff" * 20]
    texts += ["".join(map(chr, draw.choices([*range(0xD800), *range(0xE000, 0x110000)], k=2000)))]
    largest = int(refused(tools / build, texts, 100_000, tmp_path, 0.9).rsplit(" ", 1)[1])
    out = train(tools / build, texts, largest - 20, tmp_path / build, 0.9)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    assert sp.vocab_size() == largest - 20
    for text in HOSTILE:
        assert sp.decode(sp.encode(text)) == text


@pytest.mark.parametrize("build", ["native", "asan"])
def test_largest_vocabulary(tools, tmp_path, build):
    """A vocabulary that is too large: the error names the largest possible size, with which training succeeds."""
    text = "東京都と京都府。東京都庁は東京にある。京都は京都府にある。\n" * 5
    line = refused(tools / build, [text], 5000, tmp_path)
    largest = int(line.rsplit(" ", 1)[1])
    assert line == f"the text yields only {largest} tokens: --vocab-size must be at most {largest}"
    refused(tools / build, [text], largest + 1, tmp_path)
    assert len(pieces_of(train(tools / build, [text], largest, tmp_path / "out"))) == largest


@pytest.mark.parametrize("build", ["native", "asan"])
def test_refused(tools, tmp_path, build):
    text = "いろはにほへと ちりぬるを\n" * 10
    least = 258 + len(ALWAYS | set(text))
    line = refused(tools / build, [text], least - 1, tmp_path, 1)
    assert line.startswith(f"--vocab-size {least - 1}: must be {least} (2 special tokens, 256 bytes, the ")
    assert len(pieces_of(train(tools / build, [text], least, tmp_path / "out", 1))) == least
    assert "must be" in refused(tools / build, [text], 1 << 21, tmp_path)
    for coverage in ("0", "-1", "1.5", "nan"):
        assert "coverage" in refused(tools / build, [text], 1000, tmp_path, coverage)
    assert "must be at most 354" in refused(tools / build, [], 400, tmp_path)
    line = refused(tools / build, [text], least, tmp_path / "missing", 1)
    assert "missing/tokenizer.model: cannot be created: " in line
