"""corpus/filters.h, corpus/minhash.h, corpus/duplicates.h: filters against their definitions in Python, exact
duplicates, MinHash similarities within the error bounds of the estimate, near-duplicates found at the rate that the LSH
bands promise, no document dropped that is not similar.

The C side is test/collect_tool.c, built natively and with sanitizers. Counts and fractions are compared exactly.
"""
import functools
import hashlib
import json
import math
import os
import random
import re
import struct
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings, strategies

import support
from support import SANITIZERS, build_tool

K = 256  # values in a signature
OFF = dict(min_characters=0, max_characters=2**64 - 1, min_japanese=0, max_repeated_lines=1, exact=0, near=0)


@pytest.fixture(scope="session")
def tools():
    return build_tool("collect_tool")


def call(tools, command, *args, build="asan", data=b"", threads=2, fails=False, **options):
    settings = {**OFF, **options}
    env = {**os.environ, **SANITIZERS, "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run([tools / build, command, *map(str, settings.values()), *map(str, args)], input=data,
                            capture_output=True, timeout=300, env=env)
    error = result.stderr.decode(errors="replace")
    if fails:
        assert result.returncode == 1 and len(error.splitlines()) == 1, (result.returncode, error)
        return error
    assert result.returncode == 0, error
    return result.stdout.decode()


def fingerprints(tools, texts, piece=0, records="-", **options):
    """The result of filter_end for each text (str, or bytes that need not be UTF-8), added in chunks of characters."""
    raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
    data = b"".join(struct.pack("<Q", len(text)) + text for text in raw)
    return [json.loads(line) for line in call(tools, "fingerprint", piece, records, data=data, **options).splitlines()]


def duplicates(tools, folder, texts, **options):
    """(reason, of, similarity) of each text; and the counts."""
    options = {"exact": 1, "near": 0.8, **options}
    fingerprints(tools, texts, records=folder / "records", build="native", **options)
    lines = call(tools, "duplicates", folder / "scratch", folder / "records", **options).splitlines()
    rows = [(reason, int(of), float(similarity)) for reason, of, similarity in map(str.split, lines[:-7])]
    assert not (folder / "scratch").exists()
    return rows, {reason: int(n) for reason, n in map(str.split, lines[-7:])}


@functools.cache
def documents():
    """The texts of the corpus."""
    sources = sorted((support.BUILD / "corpus").glob("*.jsonl"))
    assert sources, "build/corpus is empty: run scripts/fetch_corpus.sh build/corpus"
    return [json.loads(line)["text"] for source in sources for line in open(source, encoding="utf-8")]


# ----------------------------------------------------------------------------------------------------------------------
# The definitions once more, from the comments in filters.h

SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
EDGES = re.compile(f"^{SPACE.pattern}+|{SPACE.pattern}+$")
JAPANESE = re.compile("[\u3001-\u303f\u3040-\u309f\u30a0-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b16f"  # kana
                      "\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
                      "\ufe30-\ufe4f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]")  # punctuation


def measured(text):
    visible = len(SPACE.sub("", text))
    lines = [line for line in (trim(line) for line in text.split("\n")) if line]
    seen, repeated = set(), 0
    for line in lines:
        repeated += len(line) if line in seen else 0
        seen.add(line)
    return {"characters": len(text), "japanese": len(JAPANESE.findall(text)) / visible if visible else 0,
            "repeated_lines": repeated / sum(map(len, lines)) if lines else 0}


def trim(text):
    return re.sub(EDGES, "", text)


def grams(text):
    text = trim(re.sub(f"{SPACE.pattern}+", " ", text))
    text = "".join(c.lower() if c.isascii() else c for c in text)
    return {text[i:i + 5] for i in range(len(text) - 4)} or ({text} if text else set())


def jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 1.0


def estimate(a, b):
    return np.mean(np.array(a["signature"]) == np.array(b["signature"]))


def signature_distance(j):
    """Largest error of an estimate of j: seven standard deviations, plus three values where the variance vanishes."""
    return 7 * math.sqrt(j * (1 - j) / K) + 3 / K


# ----------------------------------------------------------------------------------------------------------------------
# Filters

def check_measures(tools, texts, piece=0):
    for text, found in zip(texts, fingerprints(tools, texts, piece), strict=True):
        assert {key: found[key] for key in ("characters", "japanese", "repeated_lines")} == measured(text), text[:200]


def test_measures_of_real_text(tools):
    check_measures(tools, documents()[::8])


ALPHABET = strategies.one_of(
    strategies.sampled_from("aA \n\n\t\r\u3000\u2028あアｱ漢。、！Ａ１々ー〇\u00a0\x1c\x00"),
    strategies.characters(exclude_categories=["Cs"]))


@settings(max_examples=12, deadline=None)
@given(texts=strategies.lists(strategies.text(ALPHABET, max_size=60), min_size=40, max_size=60),
       piece=strategies.integers(0, 5))
def test_measures_of_random_text(tools, texts, piece):
    check_measures(tools, texts, piece)


def test_every_character_has_its_class(tools):
    """Each code point is white space, Japanese or neither, according to Python's Unicode tables."""
    kana_and_han = re.compile("(HALFWIDTH )?(HIRAGANA|KATAKANA|HENTAIGANA)|"
                              "CJK (UNIFIED IDEOGRAPH|COMPATIBILITY IDEOGRAPH|RADICAL)")
    others = re.compile("(FULLWIDTH )?(LATIN|DIGIT)|HANGUL (SYLLABLE|LETTER)|BOPOMOFO")
    for c in map(chr, range(sys.maxunicode + 1)):
        assert bool(SPACE.match(c)) == (c.isspace() and c not in "\x1c\x1d\x1e\x1f"), ascii(c)
        name = unicodedata.name(c, "")
        assert JAPANESE.match(c) or not kana_and_han.match(name), name
        assert not (JAPANESE.match(c) and others.match(name)), name
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    blocks = ["".join(points[i:i + 61]) + "x" for i in range(0, len(points), 61)]
    for text, found in zip(blocks, fingerprints(tools, blocks, build="native"), strict=True):
        assert found["japanese"] == measured(text)["japanese"], ascii(text)


@pytest.mark.parametrize("options, text, reason, value", [
    (dict(min_characters=4), "日本語", "short", 3),
    (dict(min_characters=3), "日本語", "kept", 0),
    (dict(max_characters=3), "日本語。", "long", 4),
    (dict(max_characters=4), "日本語。", "kept", 0),
    (dict(min_japanese=0.5), "日本 abc", "japanese", 2 / 5),
    (dict(min_japanese=0.4), "日本 abc", "kept", 0),
    (dict(min_japanese=0.01), " \n", "japanese", 0),
    (dict(max_repeated_lines=0.2), "ab\n cd\nab\r\nab  \n", "repeated_lines", 4 / 8),
    (dict(max_repeated_lines=0.5), "ab\n cd\nab\r\nab", "kept", 0),
    (dict(max_repeated_lines=0), "ab\n\n\n \nabc", "kept", 0),
    (dict(min_characters=9, min_japanese=1, max_repeated_lines=0), "a\na", "short", 3),
    (dict(min_japanese=1, max_repeated_lines=0), "a\na", "japanese", 0),
    (dict(), "", "kept", 0),
])
def test_first_filter_that_objects(tools, options, text, reason, value):
    found, = fingerprints(tools, [text], **options)
    assert (found["reason"], found["value"]) == (reason, value)


def test_repeated_lines_beyond_the_table(tools):
    """The first 2^20 distinct lines are remembered; a line that first occurs later never counts as repeated."""
    lines = [f"{i:07d}" for i in range(2**20 + 50)]
    text = "\n".join(lines + lines[:100] + lines[-100:])
    found, = fingerprints(tools, [text], build="native")
    assert found["repeated_lines"] == 150 / (len(lines) + 200)


@pytest.mark.parametrize("options, word", [
    (dict(min_characters=5, max_characters=4), "5"), (dict(min_japanese=1.5), "1.5"), (dict(min_japanese="nan"), "nan"),
    (dict(max_repeated_lines=-0.5), "-0.5"), (dict(near=0.4), "0.4"), (dict(near=1.01), "1.01"),
    (dict(near="nan"), "nan")])
def test_impossible_options(tools, options, word):
    assert word in call(tools, "bands", fails=True, **options)


# ----------------------------------------------------------------------------------------------------------------------
# Fingerprints

def test_exact_hash(tools):
    texts = documents()[::100] + ["", "a", "日本語"]
    for text, found in zip(texts, fingerprints(tools, texts, piece=1000, exact=1), strict=True):
        assert found["exact"] == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_normalisation(tools):
    """The case of ASCII letters and the amount of white space do not matter, other characters do."""
    same = ["Tom &  jerry\n run ", "tom & JERRY run", "\u3000tom\t&\r\njerry\u00a0run\n"]
    other = ["tom & jerry ran", "tom&jerryrun", "TÖM & jerry run"]
    signatures = [found["signature"] for found in fingerprints(tools, same + other, near=0.8)]
    assert signatures[0] == signatures[1] == signatures[2]
    assert all(signature != signatures[0] for signature in signatures[3:])
    upper, lower = fingerprints(tools, ["ÄÖÜÉÈ" * 3, "äöüéè" * 3], near=0.8)
    assert estimate(upper, lower) < 0.05


def mutated(text, share, rng):
    """Replaces a span of the text by other characters of it, so that about 1 - share of the shingles remain."""
    count = int(len(text) * share)
    begin = rng.randrange(len(text) - count + 1)
    new = "".join(rng.choice("abcdefghijあいうえおかきくけこ漢字") for _ in range(count))
    return text[:begin] + new + text[begin + count:]


@pytest.mark.parametrize("size", [1, 2, 10, 60, 300, 1500, 6000, 50000])
def test_similarity_estimate(tools, size):
    """Unbiased, with the variance of K independent draws, for sets both smaller and larger than the signature."""
    rng = random.Random(size)
    pairs = []
    for i in range(200 if size < 5000 else 60 if size < 50000 else 12):
        text = "".join(rng.choice("abcdefghijklmnopqrstuvwxyzあいうえおかきくけこ漢字") for _ in range(size + 4))
        pairs += [text, mutated(text, rng.random(), rng)]
    found = fingerprints(tools, pairs, near=0.8, build="native")
    errors, variances = [], []
    for i in range(0, len(pairs), 2):
        j = jaccard(grams(pairs[i]), grams(pairs[i + 1]))
        error = estimate(found[i], found[i + 1]) - j
        assert abs(error) <= signature_distance(j), (size, j, error)
        errors.append(error)
        variances.append(j * (1 - j) / K)
    assert abs(np.mean(errors)) <= 5 * math.sqrt(sum(variances)) / len(errors) + 1e-4
    assert sum(np.square(errors)) <= 1.5 * sum(variances) + len(errors) * 1e-5


def test_similarity_of_real_text(tools):
    texts = [text for text in documents() if len(text) < 30000][::25]
    found = fingerprints(tools, texts, near=0.8, build="native")
    sets = [grams(text) for text in texts]
    for i in range(len(texts)):
        for k in range(i):
            j = jaccard(sets[i], sets[k])
            assert abs(estimate(found[i], found[k]) - j) <= signature_distance(j)


@settings(max_examples=12, deadline=None)
@given(texts=strategies.lists(strategies.text(ALPHABET, max_size=40), min_size=20, max_size=40),
       piece=strategies.integers(1, 9))
def test_pieces_change_nothing(tools, texts, piece):
    options = dict(exact=1, near=0.8)
    assert fingerprints(tools, texts, piece, **options) == fingerprints(tools, texts, **options)


def test_pieces_of_real_text_change_nothing(tools):
    texts = documents()[::120]
    whole = fingerprints(tools, texts, exact=1, near=0.8, build="native")
    for piece in 1, 3, 4097:
        assert fingerprints(tools, texts, piece, exact=1, near=0.8) == whole


def test_hostile_text(tools):
    """Empty texts, one character, one shingle repeated for 10 MB, bytes that are not UTF-8."""
    texts = ["", "a", " ", "\n" * 1000, "abcd", "abcde", "a" * 10_000_000, "a\n" * 100_000, "\0" * 100, b"\xff" * 1000,
             b"\xe3\x81", b"\x80a\xf4\xbf\xbf\xbf\xed\xa0\x80", "\U0010ffff" * 7]
    found = fingerprints(tools, texts, exact=1, near=0.8)
    assert [f["characters"] for f in found[:6]] == [0, 1, 1, 1000, 4, 5]
    assert [f["characters"] for f in found[9:12]] == [1000, 2, 9]
    assert found[0]["signature"] == found[2]["signature"] == found[3]["signature"] == [0] * K
    assert estimate(found[0], found[1]) <= 3 / K and estimate(found[4], found[5]) <= 3 / K
    assert estimate(found[6], fingerprints(tools, ["aaaaa"], near=0.8)[0]) == 1
    assert found[7]["repeated_lines"] == 1 - 1e-5


# ----------------------------------------------------------------------------------------------------------------------
# Duplicates

def test_exact_duplicates(tools, tmp_path):
    """All but the first of equal texts are dropped; a filtered document is not the original of any duplicate."""
    texts = ["one", "two", "one", "One", "", "one", "", "drei vier", "drei vier"]
    rows, counts = duplicates(tools, tmp_path, texts, near=0)
    assert [of for _, of, _ in rows] == [-1, -1, 0, -1, -1, 0, 4, -1, 7]
    assert all((reason, value) == ("exact_duplicate", 1) for reason, of, value in rows if of >= 0)
    assert counts["kept"] == 5 and counts["exact_duplicate"] == 4
    rows, counts = duplicates(tools, tmp_path, texts, near=0, max_characters=3)
    assert rows[7] == rows[8] == ("long", -1, 0) and counts["long"] == 2


def test_no_documents(tools, tmp_path):
    rows, counts = duplicates(tools, tmp_path, [])
    assert rows == [] and counts["kept"] == 0


def test_options_that_are_off(tools, tmp_path):
    texts = ["one two three four"] * 3
    assert {row[0] for row in duplicates(tools, tmp_path, texts, exact=0, near=0)[0]} == {"kept"}
    rows = duplicates(tools, tmp_path, texts, exact=0)[0]
    assert rows == [("kept", -1, 0), ("near_duplicate", 0, 1), ("near_duplicate", 0, 1)]


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1])
def test_bands(tools, threshold):
    """The most rows with which a pair at the threshold becomes a candidate with probability 0.98."""
    rows, bands = map(int, call(tools, "bands", near=threshold).split())
    def met(rows):
        return 1 - (1 - threshold**rows) ** (K // rows)
    assert bands == K // rows and met(rows) >= 0.98
    assert all(met(more) < 0.98 for more in range(rows + 1, K + 1))


def test_planted_duplicates(tools, tmp_path):
    """Edited copies of real documents among all others: found at the rate that bands and estimate predict, and no
    dissimilar document is dropped."""
    threshold, rng = 0.8, random.Random(8)
    originals = [text for text in documents() if 600 < len(text) < 8000]
    planted = [mutated(text, rng.uniform(0, 0.25), rng) for text in rng.sample(originals, 400)]
    texts = originals + planted
    found = fingerprints(tools, texts, near=threshold, build="native")
    signatures = np.array([f["signature"] for f in found], np.uint16)
    sets = [grams(text) for text in texts]
    rows, _ = duplicates(tools, tmp_path, texts)
    band_rows, bands = map(int, call(tools, "bands", near=threshold).split())
    expected = variance = 0
    dropped = 0
    for i, (reason, of, similarity) in enumerate(rows):
        kept = [k for k in range(i) if rows[k][0] == "kept"]
        estimates = (signatures[kept] == signatures[i]).mean(axis=1) if kept else np.zeros(0)
        if reason == "near_duplicate":
            assert rows[of][0] == "kept" and of < i and similarity == np.float32(estimates[kept.index(of)])
            assert similarity >= threshold
            j = jaccard(sets[i], sets[of])
            assert j >= threshold - signature_distance(threshold), (i, of, j, similarity)
        elif reason == "exact_duplicate":
            assert texts[i] == texts[of]
        else:
            # Kept: there is no earlier kept document that shares a band and reaches the threshold.
            shares = (signatures[kept][:, :band_rows * bands].reshape(-1, bands, band_rows) ==
                      signatures[i][:band_rows * bands].reshape(1, bands, band_rows)).all(2).any(1)
            assert not (shares & (estimates >= threshold)).any(), i
        if len(originals) <= i and estimates.size and reason != "exact_duplicate":
            best = estimates.max()
            if best >= threshold:
                met = 1 - (1 - best**band_rows) ** bands
                expected, variance = expected + met, variance + met * (1 - met)
                dropped += reason == "near_duplicate"
    assert expected > 100
    assert abs(dropped - expected) <= 5 * math.sqrt(variance) + 1, (dropped, expected)


def test_unrelated_documents_stay(tools, tmp_path):
    """At the lowest threshold allowed, only documents of the corpus with similar sets are dropped."""
    texts = documents()[::2]
    rows, _ = duplicates(tools, tmp_path, texts, near=0.5)
    near = [(i, of) for i, (reason, of, _) in enumerate(rows) if reason == "near_duplicate"]
    assert near
    for i, of in near:
        j = jaccard(grams(texts[i]), grams(texts[of]))
        assert j >= 0.5 - signature_distance(0.5), (i, of, j)


@pytest.mark.parametrize("seed", range(6))
def test_chains(tools, tmp_path, seed):
    """b is similar to a, c to b but not to a: c is kept, as its match b is dropped; d duplicates c."""
    rng = random.Random(seed)
    words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(40)) for _ in range(100)]
    texts = [" ".join(words[i:i + 60]) for i in range(0, 31, 6)]  # J of neighbours 54/66, of the next 48/72
    rows, _ = duplicates(tools, tmp_path, texts, near=0.75)
    assert [row[0] for row in rows] == ["kept", "near_duplicate"] * 3
    assert [row[1] for row in rows] == [-1, 0, -1, 2, -1, 4]


def test_threads_change_nothing(tools, tmp_path):
    rng = random.Random(5)
    texts = [text for text in documents() if len(text) < 5000][:300]
    texts += [mutated(text, rng.uniform(0, 0.2), rng) for text in texts]
    rng.shuffle(texts)
    one = duplicates(tools, tmp_path, texts, threads=1)
    assert one == duplicates(tools, tmp_path, texts, threads=3)
    assert one[1]["near_duplicate"] > 50


def test_crowded_bucket(tools, tmp_path):
    """Thousands of copies of one text, without exact matching, and of empty texts: fast, one of each remains."""
    texts = [f"{'x' * i} the same words again and again in every one of these documents" for i in range(3)]
    rows, _ = duplicates(tools, tmp_path, (texts + [""]) * 2000, exact=0, near=0.9)
    assert sum(row[0] == "kept" for row in rows) == len({row[1] for row in rows} - {-1})
    assert all(row[0] == "near_duplicate" for row in rows[4:])


@pytest.mark.parametrize("damage, word", [
    (lambda data: data[:-1], "not a multiple"), (lambda data: data[:24] + b"\x05" + data[25:], "reason"),
    (lambda data: data[:24 + 544] + b"\xff" * 8 + data[576:], "reason")])
def test_broken_records(tools, tmp_path, damage, word):
    path = tmp_path / "records"
    fingerprints(tools, documents()[:5], records=path, exact=1, near=0.8)
    path.write_bytes(damage(path.read_bytes()))
    error = call(tools, "duplicates", tmp_path / "scratch", path, exact=1, near=0.8, fails=True)
    assert str(path) in error and word in error
    assert not (tmp_path / "scratch").exists()


def test_missing_files(tools, tmp_path):
    nowhere = tmp_path / "nowhere" / "file"
    fingerprints(tools, ["a"], records=tmp_path / "records", exact=1)
    assert str(nowhere) in call(tools, "duplicates", tmp_path / "scratch", nowhere, exact=1, fails=True)
    assert str(nowhere) in call(tools, "duplicates", nowhere, tmp_path / "records", exact=1, fails=True)
