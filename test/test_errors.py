"""Bad input: one clear error line on stderr that names the cause, the right exit status with any
number of ranks, no hang, no output written and nothing lost.

Exit status 2 means a usage error, 1 any other failure. Sanitizers use a status of their own
(support.py), so a crash or an out-of-bounds access cannot pass as an error message.
"""
import json
import random
import shutil
import struct
import subprocess

import numpy as np
import pytest

from conftest import VOCAB
from support import (arguments, checkpoint, checkpoints, checksums_hold, copied, fails, flip_bit, random_documents,
                     run, stable_log, state_bytes, torch_model, truncate, write_llmc, write_pair)


# --------------------------------------------------------------------------------------------------
# The command line

COMMAND_LINES = {
    "no command": ([], "help"),
    "unknown command": (["trian"], "trian"),
    "unknown option": (["train", "--stepz", "3"], "--stepz"),
    "unknown option with =": (["train", "--stepz=3"], "--stepz"),
    "option of another command": (["generate", "--micro-batch", "3"], "--micro-batch"),
    "no value": (["train", "--steps"], "--steps"),
    "stray argument": (["eval", "checkpoint"], "checkpoint"),
    "prepare without input": (["prepare", "--out", "OUT"], "--input"),
    "prepare without out": (["prepare", "--input", "x.txt"], "--out"),
    "prepare with both vocabularies": (["prepare", "--input", "x.txt", "--out", "OUT", "--tokenizer", "t",
                                        "--vocab-size", "300"], "--tokenizer"),
    "prepare with a fraction above 1": (["prepare", "--input", "x.txt", "--out", "OUT", "--val-fraction", "1.5"],
                                        "--val-fraction"),
    "eval without checkpoint": (["eval", "--data", "x"], "--checkpoint"),
    "generate without checkpoint": (["generate", "--prompt", "x"], "--checkpoint"),
    "generate, negative tokens": (["generate", "--checkpoint", "x", "--prompt", "x", "--tokens", "-1"], "--tokens"),
    "generate, negative temperature": (["generate", "--checkpoint", "x", "--prompt", "x", "--temperature", "-1"],
                                       "--temperature"),
    "export without checkpoint": (["export", "--out", "OUT"], "--checkpoint"),
    "export without out": (["export", "--checkpoint", "x"], "--out"),
    "export, a dtype of integers": (["export", "--checkpoint", "x", "--out", "OUT", "--dtype", "int8"], "f32|bf16|f16"),
    **{f"export, shards of {size!r}": (["export", "--checkpoint", "x", "--out", "OUT", "--max-shard-size", size],
                                       "--max-shard-size")
       for size in ("0", "5 GB", "GB", "-1", "5TB", "99999999999GB", "1.5GB", "99999999999999999999", "")},
    "generate, top-p above 1": (["generate", "--checkpoint", "x", "--prompt", "x", "--top-p", "1.5"], "--top-p"),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_command_line(name, build, tmp_path):
    args, mention = COMMAND_LINES[name]
    fails(args, 2, mention, build=build, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


TRAIN_OPTIONS = [
    ("steps", "1e3x"), ("steps", "-5"), ("steps", "0"), ("steps", ""), ("steps", "99999999999999999999"),
    ("steps", "3.5"), ("lr", "nan"), ("lr", "inf"), ("lr", "-1"), ("lr", "fast"), ("lr", "1e-3 "), ("lr", "1e999"),
    ("micro_batch", "0"), ("global_batch", "-4"), ("beta1", "1"), ("beta2", "1.5"), ("eps", "-1"), ("clip", "-1"),
    ("weight_decay", "-1"), ("schedule", "linear"), ("shuffle", "2"), ("kernels", "fastest"), ("resume", "maybe"),
    ("seed", "x"), ("seed", "-1"), ("vocab_size", "x"), ("keep", "-1"),
    ("save_every", "-1"), ("warmup_steps", "-1"), ("layers", "1000000000000"), ("model", "125m"), ("family", "bert"),
    ("tied", "2"), ("qk_norm", "yes"), ("rope_theta", "-1"), ("norm_eps", "1"), ("z_loss", "-1"), ("decay_steps", "-1"),
]


@pytest.mark.parametrize("option, value", TRAIN_OPTIONS)
def test_train_option(option, value, tiny, tmp_path):
    fails(tiny(tmp_path / "run", **{"warmup_steps": 0, option: value}), 2, "--" + option.replace("_", "-"), value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("options, mentions", [
    (dict(heads=5), ["heads", "channels"]),
    (dict(micro_batch=3, global_batch=8), ["global-batch", "micro-batch"]),
    (dict(micro_batch=4, global_batch=2), ["global-batch", "micro-batch"]),
    (dict(data=None), ["--data"]),
    (dict(out=None), ["--out"]),
    (dict(layers=None), ["--layers"]),
    (dict(heads=0), ["--heads"]),
    (dict(layers=None, heads=None, channels=None, seq_len=None), ["--model"]),
    (dict(min_lr=1), ["--min-lr", "--lr"]),
    (dict(warmup_steps=9), ["--warmup-steps", "--steps"]),
    (dict(init="model"), ["--init", "--layers"]),
    (dict(resume_from="model"), ["--resume-from", "--layers"]),
    (dict(layers=None, heads=None, channels=None, init="a", resume_from="b"), ["--init a", "--resume-from b"]),
    (dict(layers=None, heads=None, channels=None, init="a", tied=0), ["--init", "--tied"]),
    (dict(model="124m", config="x.json"), ["--model 124m", "--config x.json"]),
    (dict(family="llama", heads=4, kv_heads=3), ["4 attention heads", "3 KV heads"]),
    (dict(family="llama", qk_norm=1), ["--qk-norm 1", "--family qwen3"]),
    (dict(decay_steps=2), ["--decay-steps 2", "--schedule wsd"]),
    (dict(schedule="wsd", decay_steps=7, warmup_steps=2), ["--decay-steps 7", "--steps"]),
])
def test_invalid_combination(options, mentions, ranks, tiny, tmp_path):
    fails(tiny(**{"out": tmp_path / "run", **options}), 2, *mentions, ranks=ranks)
    assert not list(tmp_path.iterdir())


def test_global_batch_and_ranks(tiny, tmp_path):
    """6 sequences in micro-batches of 2 can be divided among 1 or 3 ranks, but not among 2."""
    options = dict(micro_batch=2, global_batch=6, steps=2, save_every=0)
    fails(tiny(tmp_path / "run", **options), 2, "global-batch", "2 data-parallel ranks", ranks=2)
    assert not list(tmp_path.iterdir())
    run(tiny(tmp_path / "run", **options), ranks=3)


@pytest.mark.parametrize("args", [["help"], ["--help"], *(["help", name] for name in
                                  ("prepare", "train", "eval", "generate"))])
def test_help(args, build):
    """Help goes to stdout with exit status 0; the help of a command lists its options."""
    result = run(args, build=build)
    assert result.err == "" and len(result.out.splitlines()) > 3
    for option in {"prepare": ["--input", "--vocab-size"], "train": ["--data", "--micro-batch", "--schedule"],
                   "eval": ["--checkpoint"], "generate": ["--prompt", "--top-k"]}.get(args[-1], []):
        assert option in result.out


def test_help_of_unknown_command():
    fails(["help", "trian"], 2, "trian")


# --------------------------------------------------------------------------------------------------
# prepare

def prepare(tmp_path, source, **options):
    return arguments("prepare", **{"input": source, "out": tmp_path / "data", "vocab_size": 300, **options})


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat. " * 20)
    return path


def test_empty_corpora(build, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text('{"text": ""}\n{"text": ""}\n')
    (tmp_path / "folder").mkdir()
    for name in "empty.txt", "empty.jsonl", "blank.jsonl", "folder":
        fails(prepare(tmp_path, tmp_path / name), 1, name, build=build)
        assert not (tmp_path / "data").exists()


def test_prepare_inputs(text, build, tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"text": "good"}\n{"text": "bad}\n')
    (tmp_path / "other.jsonl").write_text('{"content": "good"}\n')
    (tmp_path / "number.jsonl").write_text('{"text": 5}\n')
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "file").touch()
    cases = [
        (dict(input=tmp_path / "nowhere.txt"), ["nowhere.txt"]),
        (dict(input=[text, tmp_path / "nowhere.txt"]), ["nowhere.txt"]),
        (dict(input=tmp_path / "broken.jsonl"), ["broken.jsonl", "2"]),
        (dict(input=tmp_path / "other.jsonl"), ["other.jsonl", "text"]),
        (dict(input=tmp_path / "number.jsonl"), ["number.jsonl", "text"]),
        (dict(vocab_size=None, tokenizer=tmp_path / "nowhere"), ["nowhere"]),
        (dict(vocab_size=None, tokenizer=tmp_path / "tokenizer"), ["tokenizer.json"]),
        (dict(out=tmp_path / "file" / "data"), ["file"]),
        (dict(vocab_size=5000, val_fraction=0), ["--vocab-size", "at most"]),  # the text cannot fill it
        (dict(val_fraction=0.5), ["text.txt", "--val-fraction"]),  # one document cannot be split
    ]
    for options, mentions in cases:
        fails(prepare(tmp_path, text, **options), 1, *mentions, build=build)
        assert not (tmp_path / "data").exists()


def test_prepare_keeps_existing_data(text, tmp_path):
    """A second prepare into the same folder, failing or not, never mixes old and new files."""
    run(prepare(tmp_path, text, vocab_size=265, val_fraction=0))
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    fails(prepare(tmp_path, tmp_path / "nowhere.txt"), 1, "nowhere.txt")
    assert before == {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------------------------
# Shards

def pair_copy(pair, folder):
    for suffix in ".bin", ".idx":
        shutil.copy(f"{pair}{suffix}", folder / f"tokens{suffix}")
    return folder / "tokens"


def patch(path, offset, form, value):
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, value)
    path.write_bytes(data)


SHARD_DAMAGE = {
    "bin truncated": lambda prefix: truncate(prefix.with_suffix(".bin")),
    "bin empty": lambda prefix: truncate(prefix.with_suffix(".bin"), 0),
    "bin odd": lambda prefix: truncate(prefix.with_suffix(".bin"), 5999),
    "bin missing": lambda prefix: prefix.with_suffix(".bin").unlink(),
    "idx truncated": lambda prefix: truncate(prefix.with_suffix(".idx")),
    "idx of 20 bytes": lambda prefix: truncate(prefix.with_suffix(".idx"), 20),
    "idx empty": lambda prefix: truncate(prefix.with_suffix(".idx"), 0),
    "idx magic": lambda prefix: patch(prefix.with_suffix(".idx"), 0, "<B", 0),
    "idx version": lambda prefix: patch(prefix.with_suffix(".idx"), 9, "<Q", 2),
    "idx dtype": lambda prefix: patch(prefix.with_suffix(".idx"), 17, "<B", 7),
    "idx count": lambda prefix: patch(prefix.with_suffix(".idx"), 18, "<Q", 1 << 62),
    "idx length": lambda prefix: patch(prefix.with_suffix(".idx"), 34, "<i", -1),
    "idx long": lambda prefix: patch(prefix.with_suffix(".idx"), 34, "<i", 1 << 30),
    "idx pointer": lambda prefix: patch(prefix.with_suffix(".idx"), 34 + 4 * 7 + 8, "<q", 1 << 40),
    "idx document": lambda prefix: patch(prefix.with_suffix(".idx"), 34 + 12 * 7 + 8, "<q", -1),
}


@pytest.mark.parametrize("damage", SHARD_DAMAGE)
def test_damaged_pair(damage, pair, tiny, build, tmp_path):
    prefix = pair_copy(pair, tmp_path)
    SHARD_DAMAGE[damage](prefix)
    fails(tiny(tmp_path / "run", data=prefix), 1, "tokens." + damage[:3], build=build)
    assert not checkpoints(tmp_path / "run")


LLMC_DAMAGE = {
    "truncated": truncate,
    "header cut": lambda path: truncate(path, 100),
    "magic": lambda path: patch(path, 0, "<i", 5),
    "version": lambda path: patch(path, 4, "<i", 9),
    "count": lambda path: patch(path, 8, "<i", 1 << 30),
    "negative count": lambda path: patch(path, 8, "<i", -3),
}


@pytest.mark.parametrize("damage", LLMC_DAMAGE)
def test_damaged_llmc_shard(damage, tiny, build, tmp_path):
    path = write_llmc(tmp_path / "shard.bin", np.concatenate(random_documents(1, 500, VOCAB)))
    LLMC_DAMAGE[damage](path)
    fails(tiny(tmp_path / "run", data=path), 1, "shard.bin", build=build)


@pytest.mark.parametrize("ranks", [1, 2])
def test_unsuitable_data(tiny, pair, ranks, tmp_path):
    # one token less than a sample
    short = write_pair(tmp_path / "short", random_documents(1, 16, VOCAB, documents=1))
    fails(tiny(tmp_path / "run", data=short), 1, "short", "17", ranks=ranks)
    fails(tiny(tmp_path / "run", seq_len=5000), 1, pair.name, "5001", ranks=ranks)
    fails(tiny(tmp_path / "run", data=tmp_path / "nowhere"), 1, "nowhere", ranks=ranks)
    fails(tiny(tmp_path / "run", vocab_size=50), 1, pair.name, "50", ranks=ranks)  # tokens up to 96
    fails(tiny(tmp_path / "run", val_data=tmp_path / "nowhere", eval_every=1), 1, "nowhere", ranks=ranks)
    assert not checkpoints(tmp_path / "run")


@pytest.mark.parametrize("ranks", [1, 2])
def test_corrupt_prepared_data(prepared, tiny, ranks, tmp_path):
    """Files must match the hashes in the manifest."""
    def train(data):
        return tiny(tmp_path / "run", data=data, vocab_size=None, steps=2, save_every=0, resume=None)
    damages = {
        "train.bin": lambda path: flip_bit(path, 1001),
        "train.idx": lambda path: truncate(path),
        "manifest.json": lambda path: truncate(path),
        "tokenizer/tokenizer.json": lambda path: truncate(path),
    }
    for number, (name, damage) in enumerate(damages.items()):
        data = copied(prepared, tmp_path / f"data{number}")
        damage(data / name)
        fails(train(data), 1, name.split("/")[-1], ranks=ranks)
        (data / name).unlink()
        fails(train(data), 1, name.split("/")[-1], ranks=ranks)
    assert not checkpoints(tmp_path / "run")


# --------------------------------------------------------------------------------------------------
# Checkpoints and --init directories

@pytest.fixture(scope="module")
def torch_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("init") / "model"
    torch_model(1, 1, 2, 8, 8, VOCAB).save_pretrained(directory)
    return directory


@pytest.fixture
def from_init(pair, tmp_path):
    def make(directory, **options):
        return arguments("train", **{"data": pair, "vocab_size": VOCAB, "out": tmp_path / "run", "init": directory,
                                     "micro_batch": 1, "global_batch": 1, "steps": 1, "eval_every": 0,
                                     "save_every": 0, **options})
    return make


def edit_config(directory, **changes):
    config = json.loads((directory / "config.json").read_text())
    config.update(changes)
    (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "remove"}))


INIT_DAMAGE = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "safetensors"),
    "config cut": (lambda d: truncate(d / "config.json"), "config.json"),
    "weights cut": (lambda d: truncate(d / "model.safetensors"), "model.safetensors"),
    "another model": (lambda d: edit_config(d, model_type="bert"), "bert"),
    "another class": (lambda d: edit_config(d, model_type="llama"), "GPT2LMHeadModel"),
    "another activation": (lambda d: edit_config(d, activation_function="tanh"), "tanh"),
    "no layers": (lambda d: edit_config(d, n_layer=0), "n_layer"),
    "a layer too many": (lambda d: edit_config(d, n_layer=2), "h.1."),
    "heads": (lambda d: edit_config(d, n_head=3), "n_head"),
    "channels": (lambda d: edit_config(d, n_embd=10), "10"),
    "huge": (lambda d: edit_config(d, n_embd=1 << 40), "n_embd"),
    "fraction": (lambda d: edit_config(d, n_embd=8.5), "n_embd"),
    "inner": (lambda d: edit_config(d, n_inner=24), "mlp.c_fc"),
    "epsilon": (lambda d: edit_config(d, layer_norm_epsilon=0), "epsilon"),
    "untied": (lambda d: edit_config(d, tie_word_embeddings=False), "lm_head.weight"),
    "experts": (lambda d: edit_config(d, num_local_experts=8), "num_local_experts"),
}


@pytest.mark.parametrize("damage", INIT_DAMAGE)
def test_damaged_init(damage, torch_directory, from_init, build, tmp_path):
    directory = copied(torch_directory, tmp_path / "model")
    change, mention = INIT_DAMAGE[damage]
    change(directory)
    fails(from_init(directory), 1, "model", mention, build=build)
    assert not checkpoints(tmp_path / "run")


def test_mismatched_init(torch_directory, from_init, tmp_path):
    fails(from_init(tmp_path / "nowhere"), 1, "nowhere")
    fails(from_init(torch_directory, vocab_size=VOCAB + 1), 1, str(VOCAB))
    fails(from_init(torch_directory, seq_len=9), 1, "9")


def header_mutations(path):
    """Invalid safetensors headers, each of which must be rejected."""
    data = path.read_bytes()
    size = struct.unpack_from("<Q", data)[0]
    header, tensors = json.loads(data[8:8 + size]), data[8 + size:]
    name = "transformer.ln_f.weight"

    def pack(head, rest=tensors):
        text = head if isinstance(head, bytes) else json.dumps(head).encode()
        return struct.pack("<Q", len(text)) + text + rest

    def with_entry(**changes):
        return pack({**header, name: {**header[name], **changes}})
    begin, end = header[name]["data_offsets"]
    first = json.dumps(header[name])
    return {
        "seven bytes": data[:7],
        "size past the end": struct.pack("<Q", len(data)) + data[8:],
        "size with all bits set": b"\xff" * 8 + data[8:],
        "size zero": struct.pack("<Q", 0) + data[8:],
        "not JSON": pack(b"x" * size),
        "an array": pack(b"[]"),
        "not UTF-8": pack(b'{"\xff":1}'),
        "deep": pack(b'{"a":' * 100_000),
        "trailing bytes": data + b"\0\0\0\0",
        "one byte short": data[:-1],
        "hole": with_entry(data_offsets=[begin + 4, end + 4]),
        "end before begin": with_entry(data_offsets=[end, begin]),
        "past the end": with_entry(data_offsets=[begin, 1 << 62]),
        "negative": with_entry(data_offsets=[-4, end]),
        "fraction": with_entry(data_offsets=[begin + 0.5, end]),
        "three offsets": with_entry(data_offsets=[begin, end, end]),
        "no offsets": pack({**header, name: {"dtype": "F32", "shape": [8]}}),
        "no dtype": pack({**header, name: {"shape": [8], "data_offsets": [begin, end]}}),
        "unknown dtype": with_entry(dtype="F33"),
        "integers": with_entry(dtype="I32"),
        "wrong size": with_entry(shape=[9]),
        "wrong shape": with_entry(shape=[2, 4]),
        "negative shape": with_entry(shape=[-8]),
        "product that overflows": with_entry(shape=[1 << 32, 1 << 32, 8]),
        "bits that overflow": with_entry(shape=[1 << 61]),
        "shape of many": with_entry(shape=[1] * 1000 + [8]),
        "overlap": with_entry(data_offsets=header["transformer.ln_f.bias"]["data_offsets"]),
        "unused tensor of wrong size": pack(
            {**header, "x": {"dtype": "F32", "shape": [3], "data_offsets": [len(tensors), len(tensors) + 16]}},
            tensors + bytes(16)),
        "duplicate name": pack(json.dumps(header).encode()[:-1] + f', "{name}": {first}}}'.encode()),
        "metadata not strings": pack({**header, "__metadata__": {"format": 1}}),
        "missing tensor": pack({k: v for k, v in header.items() if k != name}),
    }


def test_hostile_safetensors(torch_directory, from_init, tmp_path):
    path = copied(torch_directory, tmp_path / "model") / "model.safetensors"
    for name, data in header_mutations(path).items():
        path.write_bytes(data)
        try:
            fails(from_init(path.parent), 1, "model.safetensors", build="asan")
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_fuzzed_safetensors(torch_directory, from_init, tmp_path):
    """With random bytes in the header, the file loads or gives a one-line error; there is never a
    sanitizer report."""
    path = copied(torch_directory, tmp_path / "model") / "model.safetensors"
    data = path.read_bytes()
    size = 8 + struct.unpack_from("<Q", data)[0]
    source, refused = random.Random(7), 0
    for attempt in range(40):
        mutant = bytearray(data)
        for _ in range(source.choice([1, 1, 2, 8])):
            mutant[source.randrange(size)] = source.choice(b'0123456789-.eE{}[],:"\\ \0\xff') \
                if source.random() < 0.8 else source.randrange(256)
        path.write_bytes(mutant)
        result = run(from_init(path.parent, out=tmp_path / f"run{attempt}"), build="asan", check=False)
        assert result.status in (0, 1), f"attempt {attempt}\n{result}"
        assert len(result.errors) == result.status, f"attempt {attempt}\n{result}"
        refused += result.status
    assert refused > 20


INDEX_DAMAGE = {
    "a path": lambda index: index["weight_map"].update({"transformer.wte.weight": "../x.safetensors"}),
    "a missing shard": lambda index: index["weight_map"].update({"transformer.wte.weight": "model-x.safetensors"}),
    "a number": lambda index: index["weight_map"].update({"transformer.wte.weight": 5}),
    "no map": lambda index: index.pop("weight_map"),
    "a tensor missing": lambda index: index["weight_map"].pop("transformer.wte.weight"),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
def test_damaged_shard_index(damage, from_init, tmp_path):
    torch_model(1, 1, 2, 8, 8, VOCAB).save_pretrained(tmp_path / "model", max_shard_size="2KB")
    path = tmp_path / "model" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    INDEX_DAMAGE[damage](index)
    path.write_text(json.dumps(index))
    fails(from_init(tmp_path / "model"), 1, "model", build="asan")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_damaged_checkpoint(finished, pair, file, build, tmp_path):
    """eval and generate verify the checksums of a checkpoint. test_resume.py covers `train` and
    every file."""
    directory = copied(checkpoint(finished, 8), tmp_path / "step-000008")
    flip_bit(directory / file, (directory / file).stat().st_size // 2)
    fails(arguments("eval", checkpoint=directory, data=pair), 1, "step-000008", build=build)
    fails(arguments("generate", checkpoint=directory, prompt="x"), 1, "step-000008", build=build)
    fails(arguments("eval", checkpoint=tmp_path / "nowhere", data=pair), 1, "nowhere", build=build)


def test_generate_without_tokenizer(finished):
    """A checkpoint of a run on a bare pair has no tokenizer."""
    fails(arguments("generate", checkpoint=checkpoint(finished, 8), prompt="x"), 1, "tokenizer")


# --------------------------------------------------------------------------------------------------
# A full disk: a small tmpfs where mounting is allowed, else a file size limit

@pytest.fixture
def small_disk(tmp_path):
    """small_disk(size) -> (folder, options for run): a folder that holds at most `size` bytes or,
    without tmpfs, files of at most `size` bytes."""
    mounted = []

    def make(size):
        folder = tmp_path / "disk"
        folder.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if mount.returncode == 0:
            mounted.append(folder)
            return folder, {}
        return folder, {"prefix": ["bash", "-c", f'trap "" XFSZ; ulimit -f {size // 1024}; exec "$0" "$@"']}
    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_full_disk_prepare(corpus, small_disk, build):
    folder, limit = small_disk(64 << 10)
    fails(arguments("prepare", input=corpus, out=folder / "data", vocab_size=300), 1, folder, build=build, timeout=120,
          **limit)
    assert not (folder / "data" / "manifest.json").exists()
    fails(["train", *arguments("train", data=folder / "data", out=folder / "run", model="124m", micro_batch=1,
                               global_batch=1, steps=1)[1:]], 1, "data", build=build)


@pytest.mark.parametrize("ranks", [1, 2])
def test_full_disk_log(tiny, small_disk, ranks):
    folder, limit = small_disk(8 << 10)
    fails(tiny(folder / "run", steps=500, save_every=0), 1, "log.jsonl", ranks=ranks, **limit)


@pytest.mark.parametrize("ranks", [1, 2])
def test_full_disk_checkpoint(tiny, finished, small_disk, ranks, build, tmp_path):
    """The checkpoint of step 6 does not fit. Earlier checkpoints stay intact, and with more space
    the run resumes from them."""
    size = sum(file.stat().st_size for file in checkpoint(finished, 8).iterdir())
    folder, limit = small_disk(int(2.6 * size))
    if limit:
        pytest.skip("needs tmpfs: a file size limit cannot allow one checkpoint and fail the next")
    result = fails(tiny(folder / "run"), 1, "step-", ranks=ranks, build=build)
    saved = checkpoints(folder / "run")
    assert saved == [2, 4], str(result)
    assert all(checksums_hold(checkpoint(folder / "run", step)) for step in saved)
    roomy = copied(folder / "run", tmp_path / "roomy")
    run(tiny(roomy), ranks=ranks, build=build)
    assert checkpoints(roomy) == [2, 4, 6, 8]
    if ranks == 1 and build == "native":
        assert stable_log(roomy) == stable_log(finished)
        assert state_bytes(checkpoint(roomy, 8)) == state_bytes(checkpoint(finished, 8))
