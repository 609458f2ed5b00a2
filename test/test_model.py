"""The complete model against PyTorch: transformers' GPT2LMHeadModel with the same weights on the
same batches.

Tolerances: loss 1e-5; gradient norm 1e-4 relative; weights after 5 AdamW steps 1e-5 absolute;
logits of a checkpoint 1e-4. Both sides sum float32 values in different orders, so losses near 6
agree to about 1e-6. The AdamW update, lr * m / (sqrt(v) + eps), turns the relative error of a
gradient into the same fraction of lr. The key bias is therefore excluded: softmax does not depend
on it, so its gradient is pure rounding error and its update arbitrary. A few others among 10^5
gradients are also as small as rounding errors (1e-8): in such a weight, PyTorch in float32 differs
from PyTorch in double precision by about 5 % of lr, hence lr = 1e-4 here. The mean difference over
each tensor is not affected: it must be within 2e-8, about half a unit in the last place of a float
near 0.3, which also reveals missing weight decay.
"""
import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from support import (adamw_steps, arguments, batch_of, checkpoint, compare_weights, load_torch, mean_loss,
                     random_documents, read_log, run, torch_model, weights, write_llmc, write_pair)

STEPS = 5
ADAMW = dict(lr=1e-4, weight_decay=0.1, beta1=0.9, beta2=0.95, eps=1e-8, clip=0.8)  # clips some steps, not all

# layers, heads, channels, seq_len, vocab, micro_batch, global_batch
SHAPES = {
    "odd": (2, 3, 48, 37, 611, 2, 4),
    "one layer": (1, 1, 8, 5, 13, 3, 6),
    "powers of two": (3, 4, 64, 64, 1024, 1, 3),
    "prime lengths": (2, 5, 40, 131, 97, 4, 4),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_five_steps(shape, build, tmp_path):
    layers, heads, channels, seq_len, vocab, micro_batch, global_batch = SHAPES[shape]
    tokens = np.concatenate(random_documents(2, global_batch * STEPS * seq_len + 1, vocab))
    twin = torch_model(3, layers, heads, channels, seq_len, vocab)
    twin.save_pretrained(tmp_path / "init")
    if shape == "odd":
        data = write_llmc(tmp_path / "tokens.bin", tokens)
    else:
        data = write_pair(tmp_path / "tokens", np.array_split(tokens, 5))

    schedule, rates = dict(schedule="constant", warmup_steps=0), [1e-4] * STEPS
    if shape == "one layer":
        schedule, rates = dict(schedule="cosine", warmup_steps=2, min_lr=4e-5), [5e-5, 1e-4, 8.5e-5, 5.5e-5, 4e-5]

    run(arguments("train", data=data, out=tmp_path / "run", init=tmp_path / "init", vocab_size=vocab, shuffle=0,
                  micro_batch=micro_batch, global_batch=global_batch, steps=STEPS, eval_every=0, save_every=STEPS,
                  **{**ADAMW, **schedule}), build=build)
    losses, norms = adamw_steps(twin, tokens, seq_len, global_batch, rates, clip=ADAMW["clip"])
    log = read_log(tmp_path / "run")
    assert max(norms) > ADAMW["clip"], "no step of this test clips its gradient"
    assert log.column("step") == list(range(1, STEPS + 1))
    assert np.allclose(log.column("loss"), losses, rtol=0, atol=1e-5), (log.column("loss"), losses)
    assert np.allclose(log.column("grad_norm"), norms, rtol=1e-4, atol=0), (log.column("grad_norm"), norms)
    assert np.allclose(log.column("lr"), rates, rtol=1e-6, atol=0)
    assert log.column("tokens") == [global_batch * seq_len * step for step in range(1, STEPS + 1)]

    saved = checkpoint(tmp_path / "run", STEPS)
    compare_weights(weights(saved), dict(twin.named_parameters()), channels)
    inputs, _ = batch_of(tokens, seq_len, 0, 2)
    with torch.no_grad():
        difference = load_torch(saved)(inputs).logits - twin.eval()(inputs).logits
    assert difference.abs().max() <= 1e-4


def test_init_forms(tmp_path):
    """--init from BF16 and F16 weights, from shards, with the tensor names of a base model, and
    from old files with buffers: each gives the loss that transformers computes in float32 from the
    same directory."""
    layers, heads, channels, seq_len, vocab = 2, 3, 48, 37, 611
    tokens = np.concatenate(random_documents(4, 3 * seq_len + 1, vocab))
    data = write_pair(tmp_path / "tokens", [tokens])
    forms = {}
    for name, dtype in ("bf16", torch.bfloat16), ("f16", torch.float16):
        forms[name] = tmp_path / name
        torch_model(5, layers, heads, channels, seq_len, vocab).to(dtype).save_pretrained(forms[name])
    model = torch_model(5, layers, heads, channels, seq_len, vocab)
    forms["shards"] = tmp_path / "shards"
    model.save_pretrained(forms["shards"], max_shard_size="60KB")
    assert len(list(forms["shards"].glob("model-*-of-*.safetensors"))) > 2
    forms["base"] = tmp_path / "base"
    model.transformer.save_pretrained(forms["base"])
    assert "wte.weight" in weights(forms["base"])
    forms["buffers"] = tmp_path / "buffers"
    model.save_pretrained(forms["buffers"])
    old = weights(forms["buffers"])
    for layer in range(layers):
        old[f"transformer.h.{layer}.attn.bias"] = np.ones((1, 1, seq_len, seq_len), np.float32)
        old[f"transformer.h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    old["lm_head.weight"] = old["transformer.wte.weight"]
    from safetensors.numpy import save_file
    save_file(old, forms["buffers"] / "model.safetensors", metadata={"format": "pt"})

    losses = {}
    for name, directory in forms.items():
        out = tmp_path / f"run-{name}"
        run(arguments("train", data=data, out=out, init=directory, vocab_size=vocab, shuffle=0, micro_batch=3,
                      global_batch=3, steps=1, eval_every=0, save_every=0))
        losses[name] = read_log(out).steps[0]["loss"]
        with torch.no_grad():
            expected = float(mean_loss(load_torch(directory), *batch_of(tokens, seq_len, 0, 3)))
        assert abs(losses[name] - expected) <= 1e-5, name
    assert losses["shards"] == losses["base"] == losses["buffers"]
    assert losses["shards"] != losses["bf16"] != losses["f16"]


# --------------------------------------------------------------------------------------------------
# A run on real text: Hugging Face loads the checkpoint and generates the same text as `generate`

SEQ_LEN = 48


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A checkpoint trained long enough that rounding errors do not decide its greedy text."""
    out = tmp_path_factory.mktemp("trained") / "run"
    run(arguments("train", data=prepared, out=out, layers=2, heads=3, channels=48, seq_len=SEQ_LEN, micro_batch=8,
                  global_batch=8, steps=60, lr=3e-3, min_lr=3e-4, warmup_steps=5, eval_every=60, save_every=60, seed=1),
        threads=2)
    return checkpoint(out, 60)


def test_learns(trained):
    log = read_log(trained.parent)
    # the initial distribution over the vocabulary is nearly uniform
    assert log.steps[0]["loss"] == pytest.approx(math.log(1000), abs=0.15)
    assert log.steps[-1]["loss"] < log.steps[0]["loss"] - 0.5
    assert log.evals[-1]["step"] == 60 and abs(log.evals[-1]["val_loss"] - log.steps[-1]["loss"]) < 1


def test_tokenizer_loads(trained, prepared, corpus):
    from tokenizers import Tokenizer
    inside = AutoTokenizer.from_pretrained(trained)
    original = Tokenizer.from_file(str(prepared / "tokenizer" / "tokenizer.json"))
    texts = [json.loads(line)["text"] for path in sorted(corpus.glob("*.jsonl")) for line in open(path)]
    for text in [*texts[::5], "日本語\r\nと  English\tを 🙂 混ぜる", "か\u3099"]:
        ids = original.encode(text).ids
        assert inside(text)["input_ids"] == ids
        assert inside.decode(ids) == text
    assert inside.eos_token == "<|endoftext|>"
    assert json.loads((trained / "config.json").read_text())["eos_token_id"] == inside.eos_token_id


def torch_greedy(directory, prompt, count):
    """Greedy text from transformers' generate(), within the model's context length."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        ids = load_torch(directory).generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                             max_new_tokens=count)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def torch_greedy_windows(directory, prompt, count):
    """The same without a KV cache, token by token; when the context is full, only its second half
    is kept."""
    tokenizer, model = AutoTokenizer.from_pretrained(directory), load_torch(directory)
    ids = tokenizer(prompt)["input_ids"]
    first = 0
    for _ in range(count):
        if len(ids) - first > SEQ_LEN:
            first = len(ids) - (SEQ_LEN + 1) // 2
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids[first:]])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids, skip_special_tokens=True), len(ids)


def generate(directory, prompt, count, build="native", **options):
    return run(arguments("generate", checkpoint=directory, prompt=prompt, tokens=count, **options), build=build).out


PROMPTS = ["Debian ", "日本語の文書", "The package"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_equals_transformers(trained, prompt, build):
    expected = torch_greedy(trained, prompt, 30)
    assert len(expected) > len(prompt)
    assert generate(trained, prompt, 30, build, temperature=0) == expected + "\n"


def test_greedy_past_the_context(trained, build):
    """More tokens than the model has positions, in the prompt or in the generated text."""
    lengths = []
    for prompt in *PROMPTS, PROMPTS[0] * 12, PROMPTS[1] * 20:
        expected, length = torch_greedy_windows(trained, prompt, 2 * SEQ_LEN)
        assert generate(trained, prompt, 2 * SEQ_LEN, build, temperature=0) == expected + "\n"
        lengths.append(length)
    assert max(lengths) > 2 * SEQ_LEN


def test_sampling(trained):
    greedy = generate(trained, PROMPTS[0], 30, temperature=0)
    sampled = generate(trained, PROMPTS[0], 30, temperature=1, seed=1)
    assert sampled == generate(trained, PROMPTS[0], 30, temperature=1, seed=1)
    assert sampled != generate(trained, PROMPTS[0], 30, temperature=1, seed=2)
    assert greedy == generate(trained, PROMPTS[0], 30, temperature=1, top_k=1, seed=1)
    assert greedy == generate(trained, PROMPTS[0], 30, temperature=1, top_p=1e-6, seed=1)
    assert greedy == generate(trained, PROMPTS[0], 30, temperature=1e-3, seed=1)
