"""tokenizer.h on all kinds of tokenizer files against the reference library of each (a short form
of test/tokenizer_campaign.py), and untrusted .model and tokenizer.json files."""
import json
import random
import shutil
import struct
import subprocess

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenizer_campaign as campaign
from support import build_tool
from tokenizer_campaign import HUGGING_FACE, SENTENCEPIECE, SPACE, packed, unpacked, varint

KINDS = [*SENTENCEPIECE, "bpe-unused", "own", *HUGGING_FACE]


@pytest.fixture(scope="module")
def tools():
    return build_tool("tokenizer_tool")


@pytest.fixture(scope="module")
def folders(tools, tmp_path_factory):
    return campaign.make_all(tmp_path_factory.mktemp("vocabularies"), tools / "native", training_bytes=15_000,
                             vocab_size=1500)


@pytest.fixture(scope="module")
def texts():
    return list(campaign.corpus_texts(10_000)) + list(campaign.hostile_texts(11, 50_000))


@pytest.mark.parametrize("kind", KINDS)
def test_matches_reference_library(tools, folders, texts, kind):
    more = list(campaign.ill_formed_texts(3, 20_000)) if (folders[kind] / "tokenizer.model").exists() else []
    differ, wrong, cuts = campaign.compare(tools / "native", folders[kind], texts + more, chunks=(150, 5000))
    assert (differ, wrong) == (0, 0)
    assert (cuts > 200) == (kind != "bpe-unused")
    short = [text[:400] for text in texts[::7]] + [text[:400] for text in more[::7]]
    assert campaign.compare(tools / "asan", folders[kind], short, chunks=(40,))[:2] == (0, 0)


def test_scores_of_long_texts(tools, folders):
    """sentencepiece resets its single-precision path scores below -100000."""
    texts = ["\n".join(campaign.corpus_texts(100_000))[:300_000]]
    for kind in "unigram", "unigram-identity", "llm-jp":
        assert campaign.compare(tools / "native", folders[kind], texts, chunks=(1 << 15,))[:2] == (0, 0)


def test_single_word_token_beside_every_character(tools, folders):
    """An added token "x" with single_word matches only between characters that are not part of a
    word. Of the planes without assigned characters, one in 61 is tried."""
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000
              and (point < 0x40000 or 0xE0000 <= point < 0xE1000 or point % 61 == 0)]
    texts = ["".join(f"{chr(point)}x! x{chr(point)} " for point in points[first:first + 2000])
             for first in range(0, len(points), 2000)]
    assert campaign.compare(tools / "native", folders["llama"], texts)[:2] == (0, 0)


CHARACTERS = st.one_of(st.sampled_from(campaign.ODD), st.characters(exclude_categories=["Cs"]))


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(st.lists(CHARACTERS, max_size=25).map("".join), min_size=40, max_size=60))
@pytest.mark.parametrize("kind", ["unigram-user", "unigram-suffix", "bpe-identity", "llm-jp", "llama", "gpt2-prefix", "gpt4"])
def test_random_text(tools, folders, kind, texts):
    assert campaign.compare(tools / "native", folders[kind], texts, chunks=(20,))[:2] == (0, 0)


# --------------------------------------------------------------------------------------------------
# Files

def test_model_is_copied_and_converted_for_transformers(tools, folders, tmp_path):
    from transformers import AutoTokenizer
    for kind in SENTENCEPIECE:
        out = tmp_path / kind
        out.mkdir()
        campaign.run_tool(tools / "asan", "copy", folders[kind], out)
        assert (out / "tokenizer.model").read_bytes() == (folders[kind] / "tokenizer.model").read_bytes()
        config = json.loads((out / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and "tokenizer.model" in config["ids_follow"]
        theirs, owner = AutoTokenizer.from_pretrained(out), sentencepiece.SentencePieceProcessor()
        owner.load(str(out / "tokenizer.model"))
        assert theirs.eos_token_id == owner.eos_id() and len(theirs) == owner.get_piece_size()
        if kind in ("unigram", "bpe", "unigram-identity"):  # ids of ordinary text match
            for text in ["Hello world", "日本語の文章です。", "a b  c", "1234 + 5678"]:
                assert theirs(text, add_special_tokens=False)["input_ids"] == owner.encode(text), (kind, text)
                assert theirs.decode(owner.encode(text)) == owner.decode(owner.encode(text))
        data = packed(["Hello 日本 world"])
        assert campaign.run_tool(tools / "native", "encode", out, data=data)[0] == \
            campaign.run_tool(tools / "native", "encode", folders[kind], data=data)[0]


def test_tokenizer_json_is_copied_unchanged(tools, folders, tmp_path):
    from transformers import AutoTokenizer
    for kind in "llm-jp", "metaspace", "gpt4", "qwen2":
        out = tmp_path / kind
        out.mkdir()
        campaign.run_tool(tools / "native", "copy", folders[kind], out)
        assert (out / "tokenizer.json").read_bytes() == (folders[kind] / "tokenizer.json").read_bytes()
        ours, = unpacked(campaign.run_tool(tools / "native", "encode", out, data=packed(["It's 日本 12"]))[0])
        assert AutoTokenizer.from_pretrained(out)("It's 日本 12", add_special_tokens=False)["input_ids"] == ours


def test_file_precedence(tools, folders, tmp_path):
    """A .model file can be given by its path or be alone in its folder, and tokenizer.model takes
    precedence over tokenizer.json. The end-of-document token comes from the config."""
    text = packed(["Hello 日本"])
    model = campaign.run_tool(tools / "native", "encode", folders["unigram"], data=text)[0]
    shutil.copy(folders["unigram"] / "tokenizer.model", tmp_path / "some.model")
    shutil.copy(folders["llm-jp"] / "tokenizer.json", tmp_path)
    shutil.copy(folders["llm-jp"] / "tokenizer_config.json", tmp_path)
    other = campaign.run_tool(tools / "native", "encode", folders["llm-jp"], data=text)[0]
    assert campaign.run_tool(tools / "native", "encode", tmp_path, data=text)[0] == other
    assert campaign.run_tool(tools / "native", "encode", tmp_path / "tokenizer.json", data=text)[0] == other
    (tmp_path / "tokenizer_config.json").unlink()
    assert campaign.run_tool(tools / "native", "encode", tmp_path / "some.model", data=text)[0] == model
    (tmp_path / "some.model").rename(tmp_path / "tokenizer.model")
    assert campaign.run_tool(tools / "native", "encode", tmp_path, data=text)[0] == model


def piece(text, score=-1.0, kind=1):
    text = text if isinstance(text, bytes) else text.encode()
    message = b"\x0a" + varint(len(text)) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind)
    return b"\x0a" + varint(len(message)) + message


def message(tag, content):
    return bytes([tag]) + varint(len(content)) + content


GOOD = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("a") + piece(SPACE)
BYTES = b"".join(piece(f"<0x{b:02X}>", 0, 6) for b in range(256))
CHARSMAP = struct.pack("<I", 8) + struct.pack("<II", 0x500, 0x61) + b"x\0"
MODELS = {
    "empty": (b"", "SentencePiece"),
    "text": (b"hello world, this is no model", "SentencePiece"),
    "cut off": (GOOD[:-3], "SentencePiece"),
    "length beyond the end": (GOOD + b"\x0a\xff\xff\xff\xff\x0f", "SentencePiece"),
    "endless number": (GOOD + b"\x80" * 12, "SentencePiece"),
    "group": (GOOD + b"\x0b", "SentencePiece"),
    "field 0": (GOOD + b"\x00\x00", "SentencePiece"),
    "piece cut off": (GOOD + b"\x0a\x02\x0a\x09", "damaged"),
    "empty piece": (GOOD + piece(""), "empty"),
    "NUL": (GOOD + piece("a\0b"), "NUL"),
    "not UTF-8": (GOOD + piece(b"\xe3\x81"), "UTF-8"),
    "NaN": (GOOD + piece("b", float("nan")), "finite"),
    "infinite": (GOOD + piece("b", float("-inf")), "finite"),
    "repeated": (GOOD + piece("a"), "spelled like piece 3"),
    "repeated control": (GOOD + piece("<s>", 0, 3), "spelled like piece 1"),
    "no unknown": (GOOD[len(piece("<unk>", 0, 2)):], "UNKNOWN"),
    "two unknown": (GOOD + piece("<unk2>", 0, 2), "UNKNOWN"),
    "byte without fallback": (GOOD + piece("<0x41>", 0, 6), "BYTE"),
    "byte in lower case": (GOOD + BYTES + piece("<0xaa>", 0, 6) + message(0x12, b"\x98\x02\x01"), "BYTE"),
    "fallback without bytes": (GOOD + message(0x12, b"\x98\x02\x01"), "<0x00>"),
    "words": (GOOD + message(0x12, b"\x18\x03"), "WORD"),
    "no end": (piece("<unk>", 0, 2) + piece("a"), "end-of-document"),
    "one-character control in BPE": (GOOD + piece("b", 0, 3) + message(0x12, b"\x18\x02"), "one character"),
    "spelled like a control in BPE": (GOOD + piece("<s>") + message(0x12, b"\x18\x02"), "spelled like"),
    "charsmap too short": (GOOD + message(0x1A, message(0x12, b"\x01")), "charsmap"),
    "charsmap cut off": (GOOD + message(0x1A, message(0x12, CHARSMAP[:-2])), "charsmap"),
    "charsmap without end": (GOOD + message(0x1A, message(0x12, CHARSMAP[:-1])), "charsmap"),
    "charsmap of odd size": (GOOD + message(0x1A, message(0x12, b"\x07" + CHARSMAP[1:])), "charsmap"),
    "charsmap outside itself": (GOOD + message(0x1A, message(0x12, CHARSMAP[:4] + struct.pack("<II", 0x100 | 1 << 30, 0) + b"x\0")), "outside"),
    "charsmap text no UTF-8": (GOOD + message(0x1A, message(0x12, CHARSMAP[:-2] + b"\xff\0")), "UTF-8"),
    "denormalizer": (GOOD + message(0x2A, message(0x12, CHARSMAP)), "denormalizer"),
    "long unk_surface": (GOOD + message(0x12, b"\xe2\x02" + varint(100) + b"x" * 100), "unk_surface"),
}


def refuses(tools, folder, mention):
    result = subprocess.run([tools / "asan", "encode", folder], input=packed(["a b"]), capture_output=True)
    error = result.stderr.decode()
    assert result.returncode == 1 and error.count("\n") == 1 and mention in error and str(folder) in error, error


@pytest.mark.parametrize("case", MODELS)
def test_rejected_models(tools, case, tmp_path):
    data, mention = MODELS[case]
    (tmp_path / "tokenizer.model").write_bytes(data)
    refuses(tools, tmp_path, mention)


def test_smallest_model(tools, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(GOOD)
    texts = ["", " ", "a", "a a", "b", "aab  ba"]
    assert campaign.compare(tools / "asan", tmp_path, texts)[:2] == (0, 0)


def unigram_json(folders, change):
    root = json.loads((folders["llm-jp"] / "tokenizer.json").read_text())
    change(root)
    return json.dumps(root)


def put(*path):
    *keys, last, value = path

    def change(root):
        for key in keys:
            root = root[key]
        root[last] = value
    return change


JSONS = {
    "vocab is an object": (put("model", "vocab", {"a": 1}), "array"),
    "entry of one": (put("model", "vocab", 9, ["a"]), "entry 9"),
    "empty piece": (put("model", "vocab", 9, ["", 1]), "entry 9"),
    "score is text": (put("model", "vocab", 9, ["a", "1"]), "entry 9"),
    "no unk_id": (put("model", "unk_id", None), "unk_id"),
    "unk_id outside": (put("model", "unk_id", 10**6), "unk_id"),
    "Nmt": (put("normalizer", {"type": "Nmt"}), "Nmt"),
    "Precompiled": (put("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}), "Precompiled"),
    "other expression": (put("normalizer", {"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}), "a+"),
    "empty pattern": (put("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": ""}), "empty"),
    "long pattern": (put("normalizer", {"type": "Replace", "pattern": {"String": "a" * 99}, "content": ""}), "32"),
    "many steps": (put("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "a"}] * 9}), "8 steps"),
    "strip of nothing": (put("normalizer", {"type": "Strip"}), "strip_left"),
    "whitespace": (put("pre_tokenizer", {"type": "WhitespaceSplit"}), "pre_tokenizer"),
    "metaspace of two": (put("pre_tokenizer", {"type": "Metaspace", "replacement": "ab"}), "one character"),
    "metaspace scheme": (put("pre_tokenizer", {"type": "Metaspace", "replacement": "a", "prepend_scheme": "b"}), "prepend_scheme"),
    "decoder": (put("decoder", {"type": "CTC"}), "CTC"),
    "two byte steps": (put("decoder", {"type": "Sequence", "decoders": [{"type": "ByteFallback"}] * 2}), "ByteFallback"),
    "end not there": (put("added_tokens", []), None),
}


@pytest.mark.parametrize("case", JSONS)
def test_rejected_unigram(tools, folders, case, tmp_path):
    change, mention = JSONS[case]
    shutil.copy(folders["llm-jp"] / "tokenizer_config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_text(unigram_json(folders, change))
    if mention:
        refuses(tools, tmp_path, mention)
    else:
        assert campaign.compare(tools / "asan", tmp_path, ["a b", "日本 <unk|LLM-jp> é\U0001F600"])[:2] == (0, 0)


@pytest.mark.parametrize("kind, rounds", [("unigram", 60), ("bpe", 30), ("llm-jp", 30), ("llama", 20)])
def test_corrupt_files_never_crash(tools, folders, kind, rounds, tmp_path):
    """With bytes changed, removed or duplicated, a file loads or gives a one-line error."""
    source = random.Random(kind)
    name = next(name for name in ("tokenizer.model", "tokenizer.json") if (folders[kind] / name).exists())
    original = (folders[kind] / name).read_bytes()
    head = 3000 if name == "tokenizer.json" else len(original)
    for _ in range(rounds):
        data = bytearray(original)
        for _ in range(source.randint(1, 6)):
            at, n = source.randrange(source.choice([head, len(data)])), source.randint(1, 30)
            data[at:at + n] = source.choice([b"", bytes([source.randrange(256)]), bytes(data[at:at + n]) * 2, b"\xff" * n,
                                             b"\0\0\0\0", b"9", b'"', b"null", b"[["])
        (tmp_path / name).write_bytes(data)
        result = subprocess.run([tools / "asan", "chunks", tmp_path, "30"], capture_output=True, timeout=60,
                                input=packed(["Hello 日本語  world.\n\u3000ｶﾞ e\u0301 12", "x" * 100]))
        error = result.stderr.decode(errors="replace")
        assert result.returncode in (0, 1) and error.count("\n") == 1, error[-2000:]
