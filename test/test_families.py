"""Every model class against transformers, at odd sizes: losses, gradient norms and weights of
training, logits, folders in both directions, generated text, export.

Tolerances as in test_model.py: losses of 20 AdamW steps 1e-4 relative, weights after 5 steps at a
learning rate of 1e-4 within 1e-5, logits 1e-4 (float32, eager attention). With ReLU a hidden unit
may be active in few tokens; the gradients of its weights are as small as rounding errors, which
AdamW turns into a fraction of the learning rate: within 5e-5 there, with the same mean.
"""
import json

import numpy as np
import pytest
import torch
import transformers

from support import (adamw_steps, arguments, batch_of, checkpoint, compare_weights, fails, load_torch, mean_loss,
                     random_documents, randomize, read_log, run, weights, write_pair)

SEQ_LEN, VOCAB = 37, 611
SIZES = dict(vocab_size=VOCAB, hidden_size=54, intermediate_size=77, num_hidden_layers=2, num_attention_heads=6,
             num_key_value_heads=3, head_dim=24, max_position_embeddings=SEQ_LEN, bos_token_id=0, eos_token_id=0)
GPT2 = dict(vocab_size=VOCAB, n_positions=SEQ_LEN, n_embd=48, n_layer=2, n_head=3, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}


def qwen2_sizes():
    return {**{key: value for key, value in SIZES.items() if key != "head_dim"}, "hidden_size": 72}


MODELS = {
    "llama": ("Llama", dict(SIZES, rope_theta=10000.0, tie_word_embeddings=False)),
    "llama, tied": ("Llama", dict(SIZES, num_attention_heads=9, rope_theta=500.0, tie_word_embeddings=True)),
    "llama 3": ("Llama", dict(SIZES, rope_parameters=LLAMA3, tie_word_embeddings=False, rms_norm_eps=1e-5)),
    "llama, biases": ("Llama", dict(SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "llama, one head": ("Llama", dict(SIZES, num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=False)),
    "mistral": ("Mistral", dict(SIZES, sliding_window=None, tie_word_embeddings=False)),
    "qwen2": ("Qwen2", dict(qwen2_sizes(), tie_word_embeddings=True)),
    "qwen2, untied": ("Qwen2", dict(qwen2_sizes(), tie_word_embeddings=False)),
    "qwen3": ("Qwen3", dict(SIZES, tie_word_embeddings=True)),
    "qwen3, untied": ("Qwen3", dict(SIZES, num_attention_heads=9, attention_bias=True, tie_word_embeddings=False)),
    "gpt2, relu": ("GPT2", dict(GPT2, n_inner=101, activation_function="relu", scale_attn_by_inverse_layer_idx=True)),
    "gpt2, gelu": ("GPT2", dict(GPT2, activation_function="gelu", scale_attn_weights=False)),
    "gpt2, untied": ("GPT2", dict(GPT2, tie_word_embeddings=False, layer_norm_epsilon=1e-6)),
}
CLASSES = {"GPT2": "GPT2LMHeadModel", **{name: f"{name}ForCausalLM" for name in ("Llama", "Mistral", "Qwen2", "Qwen3")}}


def create(name, seed=3):
    """A model of transformers with random parameters."""
    family, options = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**options, attn_implementation="eager")
    torch.manual_seed(seed)
    return randomize(getattr(transformers, CLASSES[family])(config))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Tokens, and a shard of them."""
    stream = np.concatenate(random_documents(2, 80 * SEQ_LEN + 1, VOCAB))
    return stream, write_pair(tmp_path_factory.mktemp("tokens") / "tokens", [stream])


def train(tokens, out, steps, build="native", ranks=1, **options):
    run(arguments("train", data=tokens[1], out=out, vocab_size=VOCAB, shuffle=0, micro_batch=2, global_batch=4, steps=steps,
                  eval_every=0, save_every=steps, lr=1e-4, schedule="constant", weight_decay=0.1, beta2=0.95, clip=0.8,
                  **options), build=build, ranks=ranks)
    return checkpoint(out, steps)


@pytest.mark.parametrize("name", MODELS)
def test_training_matches(name, tokens, tmp_path, build):
    twin = create(name)
    twin.save_pretrained(tmp_path / "init")
    steps = 5 if build == "asan" else 20
    saved = train(tokens, tmp_path / "run", steps, build, init=tmp_path / "init")
    losses, norms = adamw_steps(twin, tokens[0], SEQ_LEN, 4, [1e-4] * steps, clip=0.8)

    log = read_log(tmp_path / "run")
    assert np.allclose(log.column("loss"), losses, rtol=1e-4, atol=0)
    assert np.allclose(log.column("loss")[:5], losses[:5], rtol=0, atol=1e-5)
    assert np.allclose(log.column("grad_norm")[:5], norms[:5], rtol=1e-4, atol=0)
    if steps == 5:
        compare_weights(weights(saved), dict(twin.named_parameters()), channels=48,
                        largest=5e-5 if "relu" in name else 1e-5)

    loaded = load_torch(saved)
    assert type(loaded).__name__ == type(twin).__name__
    inputs, _ = batch_of(tokens[0], SEQ_LEN, 0, 2)
    with torch.no_grad():
        assert (loaded(inputs).logits - twin.eval()(inputs).logits).abs().max() <= (1e-4 if steps == 5 else 1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_both_folders(name, tokens, tmp_path):
    """A folder of transformers loads here, the folder written here loads there: both give the
    loss that transformers computes, and the same logits to the bit, as the weights are the same."""
    model = create(name)
    model.save_pretrained(tmp_path / "theirs")
    saved = train(tokens, tmp_path / "run", 1, init=tmp_path / "theirs", kernels="ref")
    inputs, targets = batch_of(tokens[0], SEQ_LEN, 0, 4)
    with torch.no_grad():
        expected = float(mean_loss(model.eval(), inputs, targets))
    assert abs(read_log(tmp_path / "run").steps[0]["loss"] - expected) <= 1e-5

    run(arguments("export", checkpoint=saved, out=tmp_path / "export"))
    with torch.no_grad():
        one, other = (load_torch(folder)(inputs).logits for folder in (saved, tmp_path / "export"))
    assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2, untied"])
def test_export(name, dtype, tokens, tmp_path):
    """Weights in another number format, in several files with an index, are those that PyTorch
    rounds to; --init and eval read them again."""
    create(name).save_pretrained(tmp_path / "init")
    saved = train(tokens, tmp_path / "run", 1, init=tmp_path / "init")
    out = tmp_path / "export"
    run(arguments("export", checkpoint=saved, out=out, dtype=dtype, max_shard_size="100KB"))

    files = sorted(out.glob("*.safetensors"))
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(files) > 1 and not list(out.glob("*optimizer*")) and not (out / "trainer_state.json").exists()
    assert sum(file.stat().st_size for file in files) >= index["metadata"]["total_size"]
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    original, exported = load_torch(saved), transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert exported.dtype == kind
    for (key, want), (other, got) in zip(original.named_parameters(), exported.named_parameters(), strict=True):
        assert key == other and torch.equal(want.to(kind), got), key

    run(arguments("eval", checkpoint=out, data=tokens[1], val_data=tokens[1]))
    train(tokens, tmp_path / "again", 1, init=out)
    fails(arguments("export", checkpoint=saved, out=out), 1, "exists")


def test_export_beyond_half(tokens, tmp_path):
    model = create("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = 1e6
    model.save_pretrained(tmp_path / "init")
    fails(arguments("export", checkpoint=tmp_path / "init", out=tmp_path / "out", dtype="f16"), 1, "norm.weight", "bf16")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.new").exists()
    run(arguments("export", checkpoint=tmp_path / "init", out=tmp_path / "out", dtype="bf16"))


@pytest.mark.parametrize("tp,pp", [(3, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2, untied"])
def test_init_on_a_grid(name, tp, pp, tokens, tmp_path):
    """The weights of a folder, in BF16 and sharded, over tensor-parallel ranks and stages."""
    create(name, seed=7).to(torch.bfloat16).save_pretrained(tmp_path / "init", max_shard_size="60KB")
    losses = []
    for out, grid in ("one", dict()), ("grid", dict(tp=tp, pp=pp, ranks=tp * pp)):
        train(tokens, tmp_path / out, 3, init=tmp_path / "init", **grid)
        losses.append(read_log(tmp_path / out).column("loss"))
    assert np.allclose(*losses, rtol=1e-6)


def test_z_loss(tokens, tmp_path):
    """z-loss adds X * log(Z)^2 to the loss of each token."""
    twin = create("llama")
    twin.save_pretrained(tmp_path / "init")
    saved = train(tokens, tmp_path / "run", 5, init=tmp_path / "init", z_loss=0.01)

    def loss_of(model, inputs, targets):
        logits = model(inputs).logits
        return mean_loss_of(logits, targets) + 0.01 * torch.logsumexp(logits, -1).square().mean()

    def mean_loss_of(logits, targets):
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    losses, _ = adamw_steps(twin, tokens[0], SEQ_LEN, 4, [1e-4] * 5, clip=0.8, loss_of=loss_of)
    assert np.allclose(read_log(tmp_path / "run").column("loss"), losses, rtol=0, atol=2e-5)
    compare_weights(weights(saved), dict(twin.named_parameters()))


def test_heads_and_ranks(tokens, tmp_path):
    """KV heads must divide among the tensor-parallel ranks, or ranks among them."""
    create("llama").save_pretrained(tmp_path / "init")
    fails(arguments("train", data=tokens[1], out=tmp_path / "run", init=tmp_path / "init", vocab_size=VOCAB, tp=2, steps=1),
          1, "KV heads", ranks=2)


def test_decay_branches(tokens, tmp_path):
    """Two decays from one stable run; the branch with the run's own options gives its bits."""
    sizes = dict(family="llama", layers=2, heads=4, kv_heads=2, channels=32, seq_len=16)
    options = dict(data=tokens[1], vocab_size=VOCAB, micro_batch=2, global_batch=2, lr=1e-3, min_lr=1e-5, schedule="wsd",
                   eval_every=0, save_every=4, keep=0)
    run(arguments("train", out=tmp_path / "stable", steps=12, decay_steps=4, **sizes, **options))
    start = checkpoint(tmp_path / "stable", 8)
    run(arguments("train", out=tmp_path / "same", resume_from=start, steps=12, decay_steps=4, **options))
    run(arguments("train", out=tmp_path / "longer", resume_from=start, steps=16, decay_steps=8, **options))
    rates = [read_log(tmp_path / out).column("lr") for out in ("stable", "same", "longer")]
    assert rates[0][8:] == rates[1] and len(rates[2]) == 8
    assert rates[1] == pytest.approx(list(np.linspace(1e-3, 1e-5, 5)[1:]))
    assert rates[2] == pytest.approx(list(np.linspace(1e-3, 1e-5, 9)[1:]))
    for file in ("model.safetensors", "optimizer-00000.safetensors"):
        assert (checkpoint(tmp_path / "stable", 12) / file).read_bytes() == (checkpoint(tmp_path / "same", 12) / file).read_bytes()
    fails(arguments("train", out=tmp_path / "short", resume_from=start, steps=8, decay_steps=4, **options), 1, "step 8")


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_greedy_text(family, prepared, tmp_path):
    """50 tokens from a key-value cache of the KV heads are those of transformers' generate()."""
    run(arguments("train", data=prepared, out=tmp_path / "run", family=family, layers=2, heads=4, kv_heads=2, channels=48,
                  seq_len=64, micro_batch=8, global_batch=8, steps=60, lr=3e-3, min_lr=3e-4, warmup_steps=5, eval_every=0,
                  save_every=60, seed=1), threads=2)
    saved = checkpoint(tmp_path / "run", 60)
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(saved), load_torch(saved)
    for prompt in "Debian ", "日本語の文書", "The package":
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            ids = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=50)
        expected = tokenizer.decode(ids[0], skip_special_tokens=True)
        assert len(expected) > len(prompt)
        assert run(arguments("generate", checkpoint=saved, prompt=prompt, tokens=50, temperature=0)).out == expected + "\n"


def test_tokenizer_files_are_kept(prepared, tmp_path):
    """A run from a published model, on data of its tokenizer, and its export have the tokenizer
    files of that model as they were; a run on data of another tokenizer has the data's."""
    init = tmp_path / "init"
    config = transformers.LlamaConfig(**dict(SIZES, vocab_size=1003, eos_token_id=[5, 0]))
    randomize(transformers.LlamaForCausalLM(config)).save_pretrained(init)
    published = {"special_tokens_map.json": b'{"eos_token": "<|endoftext|>"}', "chat_template.jinja": b"{{ messages }}"}
    for path in (prepared / "tokenizer").iterdir():
        published[path.name] = path.read_bytes() + b"\n"
    for name, data in published.items():
        (init / name).write_bytes(data)

    options = dict(data=prepared, init=init, micro_batch=1, steps=1, eval_every=0)
    run(arguments("train", out=tmp_path / "run", **options))
    run(arguments("export", checkpoint=checkpoint(tmp_path / "run", 1), out=tmp_path / "export"))
    for folder in checkpoint(tmp_path / "run", 1), tmp_path / "export":
        assert {name: (folder / name).read_bytes() for name in published} == published
        assert json.loads((folder / "config.json").read_text())["vocab_size"] == 1003

    tokenizer = json.loads((init / "tokenizer.json").read_text())
    a, b = (text for text, id_ in tokenizer["model"]["vocab"].items() if id_ in (300, 301))
    tokenizer["model"]["vocab"][a], tokenizer["model"]["vocab"][b] = 301, 300
    (init / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    run(arguments("train", out=tmp_path / "other", **options))
    assert ((checkpoint(tmp_path / "other", 1) / "tokenizer.json").read_bytes()
            == (prepared / "tokenizer/tokenizer.json").read_bytes())
