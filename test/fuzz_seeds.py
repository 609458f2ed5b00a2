"""First inputs for the fuzz targets, one folder each: python test/fuzz_seeds.py FOLDER. Every one is a valid file that
its target must accept, made by the library that owns the format where there is one."""
import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save as save_numpy
from safetensors.torch import save as save_torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from support import write_llmc, write_pair

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


def state_seeds():
    yield compact({"format": 1, "step": 4, "samples": 16, "seed": 42, "shuffle": 1, "seq_len": 64,
                   "data": {"path": "x", "tokens": 1000, "samples": 15}})


def sums_seeds():
    files = {"config.json": b"{}", "model.safetensors": b"weights", "trainer_state.json": b"{}",
             "optimizer-00000.safetensors": b"moments"}
    yield "".join(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in files.items()).encode()


def log_seeds():
    lines = [{"run": {"steps": 5}}, *({"step": n, "loss": 3.5 / n, "lr": 1e-3} for n in range(1, 6)),
             {"step": 5, "val_loss": 1.25}]
    yield b"".join(compact(line) + b"\n" for line in lines)


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
    """The pair is the one of run_manifest in fuzz_readers.c."""
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
    yield compact(bpe(270, added)) + END + config + END + b"<|im_start|>the <|im log x x <|endoftext|>"


def vocab_merges_seeds():
    for text in texts()[:2]:
        model = bpe(300)["model"]
        merges = "\n".join(["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]).encode()
        yield compact(model["vocab"]) + END + merges + END + compact({"eos_token": "<|endoftext|>"}) + END + text


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
