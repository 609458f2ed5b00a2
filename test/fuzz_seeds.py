"""Seed inputs for the fuzz targets, one folder each: python test/fuzz_seeds.py FOLDER. Each is a valid file that its
target must accept, written by the library that owns the format where there is one."""
import hashlib
import io
import json
import re
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from safetensors.numpy import save as save_numpy
from safetensors.torch import save as save_torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from support import ROOT, write_llmc, write_pair

END = b"\n~~~~\n"  # between the files of one input
TEXT = "the cat's mat, the dog's log: 12 345 words\n\n  and 日本語の文 with café  "


def pair(dtype, documents):
    with tempfile.TemporaryDirectory() as folder:
        prefix = write_pair(Path(folder) / "x", documents, dtype)
        return Path(f"{prefix}.idx").read_bytes() + END + Path(f"{prefix}.bin").read_bytes()


def shard(tokens):
    with tempfile.TemporaryDirectory() as folder:
        return write_llmc(Path(folder) / "x", tokens).read_bytes()


def wide_shard(tokens):
    header = np.zeros(256, np.int32)
    header[:3] = 20240801, 7, len(tokens)
    return header.tobytes() + np.asarray(tokens, np.uint32).tobytes()


def bpe(vocab_size, added=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([TEXT * 3], trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens([AddedToken(text, normalized=normalized) for text, normalized in added])
    return json.loads(tokenizer.to_str())


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def gpt2_model(dtype):
    random = torch.Generator().manual_seed(1)
    return {"transformer.wte.weight": torch.randn(5, 4, generator=random).to(dtype),
            "transformer.ln_f.bias": torch.randn(4, generator=random).to(dtype),
            "transformer.h.0.attn.c_attn.weight": torch.randn(4, 12, generator=random).to(dtype)}


def json_seeds():
    yield b'{"a": [1, -2.5e+3, true, false, null], "b": {"c": "\\u00e9\\ud83d\\ude00\\n\\"\\\\ \xe6\x97\xa5"}, "a": ""}'
    yield b" [ [ ] , { } , 0 , -0.0 , 1E9 , 18446744073709551615 , 0.1 ] "
    yield b'"text"'
    yield b"[" * 40 + b"]" * 40


def safetensors_seeds():
    random = np.random.default_rng(1)
    yield save_numpy({"a": random.normal(size=(2, 3)).astype(np.float32), "b": np.zeros((4,), np.float16)})
    yield save_torch({"x": (torch.arange(6.0).reshape(3, 2) / 7).to(torch.bfloat16), "y": torch.zeros(0), "z": torch.tensor(1.5)},
                     {"format": "pt"})
    yield save_numpy({"i": np.arange(4), "b": np.array([True, False]), "d": np.ones((1, 2, 2))})
    yield save_numpy({})


def weights_seeds():
    model = gpt2_model(torch.float32)
    yield END + save_torch(model)
    yield END + save_torch({name.removeprefix("transformer."): tensor.half() for name, tensor in model.items()})
    tied = {**model, "lm_head.weight": model["transformer.wte.weight"].clone()}
    yield END + save_torch(tied)
    names = sorted(model)
    files = {name: "b.safetensors" if name == names[0] else "model.safetensors" for name in names}
    yield (compact({"metadata": {"total_size": 272}, "weight_map": files}) + END
           + save_torch({name: model[name] for name in names[1:]}) + END + save_torch({names[0]: model[names[0]]}))


def config_seeds():
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 97, "n_positions": 16,
              "n_embd": 24, "n_layer": 2, "n_head": 3, "n_inner": None, "activation_function": "gelu_new",
              "layer_norm_epsilon": 1e-5, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
              "tie_word_embeddings": True, "eos_token_id": 96}
    yield compact(config)
    yield compact({**config, "n_inner": 96, "activation_function": "gelu_pytorch_tanh", "eos_token_id": None})
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8}
    llama = {"vocab_size": 97, "max_position_embeddings": 16, "hidden_size": 24, "num_hidden_layers": 2,
             "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8, "intermediate_size": 40,
             "hidden_act": "silu", "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": [2, 3]}
    yield compact({**llama, "model_type": "llama", "attention_bias": True, "mlp_bias": True, "rope_theta": 5e5,
                   "rope_scaling": scaling, "pretraining_tp": 1})
    yield compact({**llama, "model_type": "mistral", "sliding_window": 16})
    yield compact({**llama, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2})
    yield compact({**llama, "model_type": "qwen3", "layer_types": ["full_attention"] * 2,
                   "rope_parameters": {"rope_theta": 1e6, **scaling}})


def state_seeds():
    yield compact({"format": 1, "step": 4, "samples": 16, "seed": 42, "shuffle": 1, "seq_len": 64,
                   "data": [{"path": "x", "tokens": 1000, "samples": 15, "weight": 1}]})


def sums_seeds():
    files = {"config.json": b"{}", "model.safetensors": b"weights", "trainer_state.json": b"{}",
             "optimizer-00000.safetensors": b"moments"}
    yield "".join(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in files.items()).encode()


def log_seeds():
    lines = [{"run": {"steps": 5}}, *({"step": n, "loss": 3.5 / n, "lr": 1e-3} for n in range(1, 6)),
             {"step": 5, "val_loss": 1.25}]
    yield json_lines(*lines)


def idx_seeds():
    documents = [np.arange(5) + 1, np.arange(7) % 3, np.array([200, 100])]
    for dtype in np.uint8, np.uint16, np.int32:
        yield pair(dtype, documents)
    yield (b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 5, 1, 2) + struct.pack("<iqqq", 6, 0, 0, 1) + END
           + np.arange(6, dtype=np.int64).tobytes())


def llmc_seeds():
    yield shard(np.arange(9))
    yield wide_shard(np.arange(7) * 20000)


def manifest_seeds():
    """The pair is the one of run_manifest in test/fuzz_targets."""
    idx = (b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 2, 3) + struct.pack("<ii", 4, 6) + struct.pack("<qq", 0, 8)
           + struct.pack("<qqq", 0, 0, 2))
    yield compact({
        "format": "train_gpt prepared data", "version": 1,
        "tokenizer": {"path": "tokenizer", "sha256": hashlib.sha256(b"{}").hexdigest(), "vocab_size": 300},
        "splits": {"train": {"documents": 2, "tokens": 10, "bin": {"sha256": hashlib.sha256(bytes(20)).hexdigest()},
                             "idx": {"sha256": hashlib.sha256(idx).hexdigest()}}},
        "sources": []})


def texts():
    return [TEXT.encode(), ("don't " * 20 + "aaaaaaaa" * 12).encode(), b"", b"\xe6\x97 bad \xff utf-8"]


def tokenizer_json_seeds():
    config = compact({"eos_token": {"content": "<|endoftext|>"}})
    added = [("<|im_start|>", False), ("log", True), (" x ", False), ("<|im", False)]
    for text in texts():
        yield compact(bpe(300)) + END + END + text + b"<|endoftext|>"
    yield from unigram_seeds_of_tokenizer_json()
    yield compact(bpe(270, added)) + END + config + END + b"<|im_start|>the <|im log x x <|endoftext|>"


def sentencepiece_model(kind, vocab_size, **options):
    """Trained on TEXT; a few rules of normalization of its own."""
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text("41\t61\nFF41\t61\n33A5\t6D 33\n20 20\t20\n")
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([TEXT, TEXT.upper(), TEXT[10:]] * 4), model_writer=out, model_type=kind,
            vocab_size=vocab_size, hard_vocab_limit=False, normalization_rule_tsv=str(rules), minloglevel=2,
            num_threads=1, **options)
        return out.getvalue()


def model_seeds():
    config = compact({"eos_token": "</s>", "unk_token": "<unk>"})
    for kind, options in [("unigram", {"byte_fallback": True, "vocab_size": 330}), ("unigram", {"vocab_size": 60}),
                          ("bpe", {"byte_fallback": True, "vocab_size": 320}), ("char", {"vocab_size": 60}),
                          ("bpe", {"vocab_size": 80, "user_defined_symbols": ["<sep>", "dog"],
                                   "remove_extra_whitespaces": False}),
                          ("unigram", {"vocab_size": 60, "treat_whitespace_as_suffix": True, "pad_id": 3})]:
        yield sentencepiece_model(kind, **options) + END + END + (TEXT + "A　ａ㎥ <sep> </s> 🙂").encode()
    yield sentencepiece_model("unigram", 60, add_dummy_prefix=False) + END + config + END + "日本 the\ufffd".encode()


def unigram(steps, pre, decoder):
    pieces = [("<unk>", 0.0), ("<|endoftext|>", 0.0), *((f"<0x{b:02X}>", -9.0) for b in range(256)), ("▁", -2.0),
              ("▁the", -2.5), ("a", -3.0), ("t", -3.0), ("at", -3.5), ("▁c", -4.0), ("cat", -4.5), ("日本", -5.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, True))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = steps, pre, decoder
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer.to_str().encode()


def unigram_seeds_of_tokenizer_json():
    text = TEXT.encode() + b"<|endoftext|> cat"
    replace = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("▁", " "), decoders.Fuse(),
                                 decoders.Strip(" ", 1, 0)])
    yield unigram(replace, None, decoder) + END + END + text
    yield unigram(None, pre_tokenizers.Metaspace(), decoders.Metaspace()) + END + END + text


def vocab_merges_seeds():
    for text in texts()[:2]:
        model = bpe(300)["model"]
        merges = "\n".join(["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]).encode()
        yield compact(model["vocab"]) + END + merges + END + compact({"eos_token": "<|endoftext|>"}) + END + text


def run_lines():
    """The first line of a run and its steps, as train writes them."""
    head = {"program": "train_gpt", "ranks": 2, "tp": 1, "pp": 1, "dp": 2, "threads": 1, "from_step": 0, "parameters": 1000, "vocab_size": 264,
            "layers": 2, "heads": 2, "channels": 8, "seq_len": 8, "global_batch": 4, "peak_flops": 1e9,
            "data": [{"path": "data", "weight": 2, "share": 0.5, "tokens": 500}, {"path": "<b>&|", "weight": 2}],
            "val_data": [], "options": {"seed": 42, "shuffle": 1, "lr": 3e-4}}
    steps = [{"step": n, "loss": 5 / n, "grad_norm": 1.5, "lr": 1e-3, "tokens": 32 * n, "step_ms": 2.5,
              "tokens_per_s": 1e4, "mfu": 0.25, "skipped": n == 3, "batch_sha256": "0123456789abcdef",
              "source_samples": [2 * n, 2 * n]} for n in range(1, 7)]
    evals = [{"step": 6, "val_loss": 1.25, "val_losses": {"data": 1.5, "<b>&|": 1}}]
    return head, [*steps, *evals]


def json_lines(*objects):
    return b"".join(compact(line) + b"\n" for line in objects)


def run_seeds():
    head, lines = run_lines()
    yield json_lines(head, *lines) + END
    yield json_lines(head, *lines) + END + json_lines({**head, "from_step": 4})


def log_resume_seeds():
    head, lines = run_lines()
    closing = {"step": 6, "plan": {"rank": 0}}
    yield json_lines(head, *lines, closing) + END + END + b"\x06"
    yield json_lines(head, *lines, closing) + b'{"step": 7, "lo' + END + json_lines({**head, "from_step": 2}) + END + b"\x04"


def manifest_copy_seeds():
    entry = {"bytes": 20, "sha256": "0" * 64}
    split = {"documents": 2, "tokens": 10, "bin": entry, "idx": entry, "docs": entry, "meta": entry, "sums": entry}
    origin = {"license": [{"value": "MIT", "documents": 1, "tokens": 4}, {"value": None, "documents": 1, "tokens": 6}]}
    manifest = {"version": 1, "tokenizer": {"sha256": "1" * 64, "vocab_size": 264}, "splits": {"train": split}}
    yield compact(manifest)
    yield compact({**manifest, "splits": {"train": split, "val": {**split, "index": entry}}, "sources": [
        {"path": "a.jsonl", "sha256": "2" * 64, "documents": 2, "tokens": 10, "origin": origin}, {"path": "日本.txt"}]})


def report_seeds():
    head, lines = run_lines()
    manifest = {"version": 1, "splits": {"train": {"bin": {"sha256": "0" * 64}}}, "sources": [
        {"path": "a.jsonl", "documents": 3, "tokens": 90, "sha256": "1" * 64, "origin": {
            "license": [{"value": "<i>|", "documents": 2, "tokens": 60}, {"value": None, "documents": 1, "tokens": 30}],
            "language": [{"value": "ja", "documents": 3, "tokens": 90}]}}]}
    yield json_lines(head, *lines) + END + END + compact(manifest)
    yield json_lines(head, *lines, {"step": 7}) + b'{"step": 8, "lo' + END + json_lines({**head, "from_step": 4}) + END
    with tempfile.TemporaryDirectory() as folder:
        from torch.utils.tensorboard import SummaryWriter
        with SummaryWriter(folder) as writer:
            for step in 1, 2, 3:
                writer.add_scalar("train/loss", 1.5, step, walltime=1.7e9 + step)
        events, = Path(folder).glob("*tfevents*")
        yield json_lines(head, *lines) + END + END + END + events.read_bytes()


def mixture_seeds():
    yield b"a:0.5\nb:0.3\nc:.2"
    yield b"a\nb"
    yield b"c"


TRACED = [15, 15, 11, 6, 9]  # tokens of each document of traced_text in test/fuzz_targets/trace.h


def docs_seeds():
    records = [struct.pack("<QQQQII", 40 * i, 40, tokens, 12 * i if i < 3 else 0, 11 if i < 3 else 0, 0)
               for i, tokens in enumerate(TRACED)]
    docs = struct.pack("<8sIIQQ", b"TGPTDOCS", 2, 40, len(records), 0) + b"".join(records)
    meta = b"".join(b'{"id": "%d"}\n' % i for i in range(3))
    yield docs + END + meta + END
    yield docs + END + meta + END + b"\0"


def index_seeds():
    entries = np.arange(sum(TRACED), dtype=np.uint32)
    index = (struct.pack("<8sIIQQQ24x", b"TGPTINDX", 1, 1 << 16, sum(TRACED), len(entries), 1) + bytes(16)
             + entries.tobytes())
    yield END + b"the cat sat on a mat and dogs"
    yield END + "x cats の mat mat".encode()
    yield index + END + b"the cat sat on"


def unit_seeds():
    names = (ROOT / "corpus/counts.h").read_text().split("define COUNTS_LIST_(X)")[1].split("// clang-format on")[0]
    counts = {name: i for i, name in enumerate(re.findall(r"X\((\w+)\)", names))}
    yield json.dumps({"counts": counts, "rejected": [], "origin": {}}).encode()
    yield json.dumps({"counts": counts, "rejected": [{"line": 3, "why": "is no JSON"}, {"line": 7, "why": "日本"}],
                      "origin": {"license": [{"value": "MIT", "documents": 3, "tokens": 90},
                                             {"value": None, "documents": 1, "tokens": 2}]}}).encode()


def prepare_seeds():
    lines = [{"text": "the cat sat", "source": "a", "license": "MIT"}, {"meta": {"language": "ja"}, "text": "日本 dog"},
             {"text": ""}, {"text": "words \ud83d\n of \x00 this"}]
    yield b"\n".join([*(json.dumps(line).encode() for line in lines), b"", b"  \r"]) + END + TEXT.encode()
    yield b'\xef\xbb\xbf{"text": "a \xff b"}\r\n{"text": "b"}\n{"text": "cut' + END + b"\xef\xbb\xbf\xe6\x97 plain"


def main(folder):
    for name, seeds in list(globals().items()):
        if name.endswith("_seeds"):
            target = Path(folder) / name.removesuffix("_seeds")
            target.mkdir(parents=True, exist_ok=True)
            for i, seed in enumerate(seeds()):
                (target / f"seed-{i}").write_bytes(seed)


if __name__ == "__main__":
    main(sys.argv[1])
