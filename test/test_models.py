"""config.json of each model class, in both spellings: what transformers saves is read, what we write
means the same to transformers, what is not supported is refused by name, and nothing hostile gets
through. The shapes that --model knows, and the options over them."""
import json
import random
import subprocess

import pytest
import torch
import transformers

from support import SANITIZERS, build_tool

CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
           "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
LLAMA_LIKE = [name for name in CLASSES if name != "gpt2"]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}


@pytest.fixture(scope="session")
def config_tool():
    return build_tool("config_tool")


@pytest.fixture
def tool(config_tool):
    """tool(arguments...) -> exit status, lines on stdout, and the error, which is one line."""
    def run(*args, build="asan"):
        result = subprocess.run([config_tool / build, *map(str, args)], capture_output=True, text=True, timeout=60,
                                env={**SANITIZERS, "OMP_NUM_THREADS": "1"})
        assert result.returncode in (0, 1) and len(result.stderr.splitlines()) == result.returncode, result
        return result.returncode, result.stdout.splitlines(), result.stderr.strip()
    return run


@pytest.fixture
def read(tool, tmp_path):
    """read(config) -> exit status, the config.json written again, and the error."""
    def run(config, *args, build="asan"):
        path = tmp_path / "config.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        status, lines, error = tool("read", path, *args, build=build)
        assert status == 0 or str(path) in error, error
        return status, json.loads(lines[0]) if status == 0 else None, error
    return run


@pytest.fixture
def read_all(config_tool):
    """read_all(configs) -> for each the config.json written again, and the error; by one process,
    with sanitizers."""
    def run(configs):
        text = "".join(json.dumps(config) + "\n" for config in configs)
        result = subprocess.run([config_tool / "asan", "lines"], input=text, capture_output=True, text=True,
                                timeout=60, env={**SANITIZERS, "OMP_NUM_THREADS": "1"})
        lines = result.stdout.splitlines()
        assert result.returncode == 0 and not result.stderr and len(lines) == len(configs), result
        assert all(line.startswith(("{", "stdin: ")) for line in lines)
        return [(json.loads(line), "") if line[0] == "{" else (None, line) for line in lines]
    return run


def small(family, **changes):
    """A small valid config.json, in the spelling of transformers 4."""
    if family == "gpt2":
        return {"model_type": "gpt2", "vocab_size": 97, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 3,
                **changes}
    config = {"model_type": family, "vocab_size": 97, "max_position_embeddings": 64, "hidden_size": 24,
              "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8,
              "intermediate_size": 40, "sliding_window": None, **changes}
    return config


def random_config(family, seed):
    """An odd configuration, made by its class."""
    pick = random.Random(f"{family} {seed}")
    kv_heads = pick.randint(1, 5)
    heads = kv_heads * pick.randint(1, 3)
    vocab = pick.randint(50, 700)
    ids = dict(vocab_size=vocab, bos_token_id=pick.choice([None, pick.randrange(vocab)]),
               eos_token_id=pick.choice([None, pick.randrange(vocab), pick.sample(range(vocab), 3)]),
               tie_word_embeddings=pick.random() < 0.5)
    if family == "gpt2":
        channels = heads * pick.randint(1, 9)
        return transformers.GPT2Config(
            n_positions=pick.randint(1, 99), n_embd=channels, n_layer=pick.randint(1, 5), n_head=heads,
            n_inner=pick.choice([None, pick.randint(1, 99)]), scale_attn_weights=pick.random() < 0.5,
            activation_function=pick.choice(["gelu_new", "gelu_pytorch_tanh", "gelu", "relu"]),
            scale_attn_by_inverse_layer_idx=pick.random() < 0.5, layer_norm_epsilon=pick.choice([1e-5, 1e-6, 0.1]),
            **ids)

    rope = {"rope_type": "default"} if pick.random() < 0.5 else dict(LLAMA3, factor=pick.choice([2.0, 8.5]))
    own = {"llama": dict(attention_bias=pick.random() < 0.5, mlp_bias=pick.random() < 0.5),
           "mistral": dict(sliding_window=pick.choice([None, 500])),
           "qwen2": dict(use_sliding_window=False),
           "qwen3": dict(attention_bias=pick.random() < 0.5)}[family]
    return transformers.CONFIG_MAPPING[family](
        max_position_embeddings=pick.randint(33, 500), hidden_size=heads * pick.randint(1, 9),
        num_hidden_layers=pick.randint(1, 5), num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=2 * pick.randint(1, 20), intermediate_size=pick.randint(1, 99), rms_norm_eps=pick.choice([1e-5, 1e-6]),
        rope_parameters={**rope, "rope_theta": pick.choice([1e4, 500000, 123.5])}, **ids, **own)


def spelling_of_4(config):
    """The same config.json as transformers 4 spells it."""
    config = dict(config)
    if "rope_parameters" in config:
        rope = dict(config.pop("rope_parameters"))
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype", "float32")
    return config


def head_dim(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def meaning(config):
    """What a configuration of transformers means to the model, in comparable form."""
    def known(token):
        return token if token is not None and token < config.vocab_size else None
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    common = [config.vocab_size, config.tie_word_embeddings, known(config.bos_token_id),
              [known(token) for token in ends if known(token) is not None]]
    if config.model_type == "gpt2":
        activation = config.activation_function.replace("gelu_pytorch_tanh", "gelu_new")
        return common + [config.n_positions, config.n_embd, config.n_layer, config.n_head,
                         config.n_inner or 4 * config.n_embd, activation, config.layer_norm_epsilon,
                         config.scale_attn_weights, config.scale_attn_by_inverse_layer_idx]
    return common + [config.max_position_embeddings, config.hidden_size, config.num_hidden_layers,
                     config.num_attention_heads, config.num_key_value_heads, head_dim(config), config.intermediate_size,
                     config.hidden_act, config.rms_norm_eps, getattr(config, "attention_bias", None),
                     getattr(config, "mlp_bias", None), dict(config.rope_parameters)]


def auto_config(config, folder):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return transformers.AutoConfig.from_pretrained(folder)


def parameters_of(config):
    """Parameters of the model, a tied head counted once, and those in matrix products, the head among them."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    products = sum(module.weight.numel() for module in model.modules()
                   if isinstance(module, (torch.nn.Linear, transformers.pytorch_utils.Conv1D)))
    return sum(p.numel() for p in model.parameters()), products


# --------------------------------------------------------------------------------------------------
# Configurations of transformers

@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spelling", [4, 5])
@pytest.mark.parametrize("family", CLASSES)
def test_round_trip(family, spelling, seed, tool, tmp_path):
    """Read, written and read again by transformers it is the same model; so it is for us. The number
    of parameters is that of the model of transformers, and operations follow from its matrices."""
    original = random_config(family, seed)
    original.architectures = [CLASSES[family]]
    original.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    if spelling == 4:
        saved = spelling_of_4(saved)
        (tmp_path / "config.json").write_text(json.dumps(saved))

    status, lines, error = tool("read", tmp_path / "config.json", "BF16")
    assert status == 0, error
    written, generation, parameters = json.loads(lines[0]), json.loads(lines[1]), int(lines[2])
    again = auto_config(written, tmp_path / "again")
    assert meaning(again) == meaning(original)
    assert written["torch_dtype"] == written["dtype"] == "bfloat16" and again.dtype == torch.bfloat16
    assert written["architectures"] == [CLASSES[family]]
    assert generation.get("eos_token_id") == written["eos_token_id"]
    assert generation.get("bos_token_id") == written["bos_token_id"]
    assert tool("same", tmp_path / "config.json", tmp_path / "again" / "config.json")[1] == ["1"]

    total, products = parameters_of(original)
    assert parameters == total
    attention = 6 * 37 * original.num_hidden_layers * original.num_attention_heads * head_dim(original)
    assert float(tool("flops", tmp_path / "config.json", 37)[1][0]) == 6 * products + attention


@pytest.mark.parametrize("family", CLASSES)
def test_spelling_of_4_is_complete(family, read):
    """The fields that transformers 4 reads are all there, beside those of transformers 5."""
    rope = {"rope_theta": 5e5, "rope_scaling": LLAMA3} if family != "gpt2" else {}
    _, written, error = read(small(family, **rope))
    assert not error and "transformers_version" not in written
    if family != "gpt2":
        assert written["rope_theta"] == 5e5 and written["rope_scaling"] == LLAMA3
        assert written["rope_parameters"] == {"rope_theta": 5e5, **LLAMA3}


@pytest.mark.parametrize("family", CLASSES)
def test_defaults(family, read, tmp_path):
    """An absent field has the default of its class."""
    config = {"model_type": family, **({"sliding_window": None} if family == "mistral" else {})}
    status, written, error = read(config)
    assert status == 0, error
    assert meaning(auto_config(written, tmp_path / "again")) == meaning(auto_config(config, tmp_path / "config"))


@pytest.mark.parametrize("family", LLAMA_LIKE)
def test_null_means_default(family, read):
    """null KV heads: as many as heads; null head_dim: channels / heads; no rope scaling."""
    config = small(family, num_key_value_heads=None, head_dim=None, rope_scaling=None, rope_parameters=None)
    _, written, error = read(config)
    assert not error
    assert (written["num_key_value_heads"], written["head_dim"]) == (6, 4) and written["rope_scaling"] is None


def test_gpt2_of_llm_jp(read):
    """llm-jp-1.3b-v1.0: exact GELU, n_inner, an n_ctx that nobody reads."""
    status, written, error = read(
        {"activation_function": "gelu", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 7,
         "embd_pdrop": 0.1, "eos_token_id": 7, "gradient_checkpointing": False, "initializer_range": 0.02,
         "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 2048, "n_head": 16,
         "n_inner": 8192, "n_layer": 24, "n_positions": 2048, "reorder_and_upcast_attn": False, "resid_pdrop": 0.1,
         "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "summary_activation": None,
         "summary_first_dropout": 0.1, "summary_type": "cls_index", "torch_dtype": "bfloat16", "vocab_size": 50688})
    assert status == 0, error
    assert written["activation_function"] == "gelu" and written["eos_token_id"] == 7 and written["n_positions"] == 2048


@pytest.mark.parametrize("family", CLASSES)
def test_class_names(family, read):
    name = CLASSES[family]
    base = name.replace("LMHead", "").replace("ForCausalLM", "Model")
    for good in [name], [base], [], None:
        assert read(small(family, architectures=good))[2] == ""
    other = CLASSES["llama" if family != "llama" else "qwen3"]
    for bad in [other], [name, other], [name + "x"], [5], name, [None], [[name]]:
        assert "architectures" in read(small(family, architectures=bad))[2]
    without = small(family, architectures=[name])
    del without["model_type"]
    assert read(without)[1]["model_type"] == family
    del without["architectures"]
    assert "model_type" in read(without)[2]
    for other in "mixtral", "qwen3_moe", "gpt_neox", "", 5, None, ["llama"]:
        assert "model_type" in read(small(family, model_type=other))[2]


@pytest.mark.parametrize("family", CLASSES)
def test_token_ids(family, read, read_all):
    presets = {"gpt2": (None, None), "llama": (1, 2), "mistral": (1, 2), "qwen2": (None, None), "qwen3": (None, None)}
    _, written, _ = read(small(family))  # GPT-2's 50256 is outside of this vocabulary
    assert (written["bos_token_id"], written["eos_token_id"]) == presets[family]
    good = [(5, 5), (None, None), ([5], 5), ([7, 5, 7], [7, 5]), ([], None), (97, None), ([97, 3], 3),
            (list(range(8)), list(range(8)))]
    answers = read_all([small(family, eos_token_id=given) for given, _ in good])
    assert [written["eos_token_id"] for written, _ in answers] == [expected for _, expected in good]
    bad = [-1, "2", 2.5, True, {}, [[1]], ["a"], list(range(9))]
    assert all('"eos_token_id"' in error for _, error in read_all([small(family, eos_token_id=ends) for ends in bad]))
    answers = read_all([small(family, bos_token_id=given) for given in (0, 96, 97, None)])
    assert [written["bos_token_id"] for written, _ in answers] == [0, 96, None, None]
    bad = [-1, "2", [1], 1.0]
    assert all('"bos_token_id"' in error for _, error in read_all([small(family, bos_token_id=begin) for begin in bad]))


# --------------------------------------------------------------------------------------------------
# What is not supported

UNSUPPORTED = {
    "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 64, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 96, "shared_expert_intermediate_size": 96, "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.5, "rotary_pct": 0.25, "original_max_position_embeddings": 4096,
    "no_rope_layers": [1, 0], "no_rope_layer_interval": 4, "attention_chunk_size": 8192, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "attention_multiplier": 0.0078125, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
    "logits_scaling": 8.0, "logit_scale": 0.0625, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "qk_norm": True, "use_qk_norm": True, "qk_layernorm": True, "parallel_attn": True, "use_parallel_residual": True,
    "add_cross_attention": True, "is_encoder_decoder": True, "pretraining_tp": 2,
    "quantization_config": {"bits": 4, "quant_method": "awq"},
}


@pytest.mark.parametrize("family", CLASSES)
def test_unsupported(family, read_all):
    answers = read_all([small(family, **{key: value}) for key, value in UNSUPPORTED.items()])
    for key, (_, error) in zip(UNSUPPORTED, answers):
        assert f'"{key}"' in error, (key, error)
    neutral = {key: {bool: False, list: []}.get(type(value)) for key, value in UNSUPPORTED.items()}
    ones = ("partial_rotary_factor", "rotary_pct", "embedding_multiplier", "residual_multiplier", "logits_scaling",
            "logit_scale", "pretraining_tp")
    answers = read_all([small(family, **neutral, unknown={"deep": [1, {"x": None}]}),
                        small(family, **{**neutral, **dict.fromkeys(ones, 1)})])
    assert [error for _, error in answers] == ["", ""]


@pytest.mark.parametrize("family, field", [("mistral", "attention_bias"), ("mistral", "mlp_bias"),
                                           ("qwen2", "mlp_bias"), ("qwen3", "mlp_bias")])
def test_biases_that_the_class_ignores(family, field, read):
    assert f'"{field}"' in read(small(family, **{field: True}))[2]
    assert read(small(family, **{field: False}))[2] == ""


@pytest.mark.parametrize("family", CLASSES)
def test_activations(family, read):
    key = "activation_function" if family == "gpt2" else "hidden_act"
    good = ["gelu_new", "gelu_pytorch_tanh", "gelu", "relu"] if family == "gpt2" else ["silu"]
    for name in good:
        assert read(small(family, **{key: name}))[2] == ""
    for name in "gelu_fast", "tanh", "silu" if family == "gpt2" else "gelu", "", 5, None, ["gelu"]:
        assert f'"{key}"' in read(small(family, **{key: name}))[2]


@pytest.mark.parametrize("family", LLAMA_LIKE)
def test_rope(family, read_all):
    default = {"rope_theta": 5e5, "rope_type": "default"}
    good = [({}, 1e4), ({"rope_theta": 7}, 7), ({"rope_scaling": {}}, 1e4), ({"rope_scaling": LLAMA3}, 1e4),
            ({"rope_scaling": {"type": "default"}}, 1e4), ({"rope_parameters": default}, 5e5),
            ({"rope_parameters": default, "rope_theta": 5e5, "rope_scaling": None}, 5e5),
            ({"rope_theta": 5e5, "rope_scaling": LLAMA3, "rope_parameters": {"rope_theta": 5e5, **LLAMA3}}, 5e5),
            ({"rope_scaling": {**LLAMA3, "partial_rotary_factor": 1.0}}, 1e4)]
    for (fields, theta), (written, error) in zip(good, read_all([small(family, **fields) for fields, _ in good])):
        assert written and written["rope_theta"] == theta, (fields, error)
        assert written["rope_scaling"] == (LLAMA3 if "llama3" in json.dumps(fields) else None)

    # transformers 5 puts the model's positions in for those of before
    short = {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}
    written = read_all([small(family, rope_scaling=short)])[0][0]
    assert written["rope_scaling"]["original_max_position_embeddings"] == 64
    bad = [({name: {key: kind, "factor": 4.0, "rope_theta": 1e4}}, f'"{name}" is of rope_type')
           for kind in ("yarn", "linear", "dynamic", "longrope", "su", "mrope", "proportional", 5, None)
           for name, key in (("rope_scaling", "type"), ("rope_scaling", "rope_type"), ("rope_parameters", "rope_type"))]
    bad += [({"rope_theta": value}, "theta") for value in (0, -1, 1e16, "1e4", None, [1e4], True)]
    bad += [({"rope_scaling": value}, "rope_scaling") for value in (5, "llama3", [LLAMA3])]
    bad += [({"rope_scaling": {**LLAMA3, key: value}}, key) for key in ("factor", "low_freq_factor", "high_freq_factor")
            for value in (0, -1, "2", None, 1e9)]
    bad += [({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "low_freq_factor"),
            ({"rope_scaling": {**LLAMA3, "type": "yarn"}}, "differ"),
            ({"rope_scaling": {**LLAMA3, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
            ({"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 0}}, "original_max_position_embeddings"),
            ({"rope_parameters": {"full_attention": default, "sliding_attention": default}}, "full_attention"),
            ({"rope_parameters": default, "rope_theta": 1e4}, "rope_parameters"),
            ({"rope_parameters": default, "rope_theta": 5e5, "rope_scaling": LLAMA3}, "rope_parameters")]
    for (fields, mention), (_, error) in zip(bad, read_all([small(family, **fields) for fields, _ in bad])):
        assert mention in error, (fields, error)


@pytest.mark.parametrize("family, fields, refused", [
    ("mistral", {"sliding_window": 63}, True), ("mistral", {"sliding_window": 64}, False),
    ("mistral", {"sliding_window": None}, False), ("mistral", {"sliding_window": "no"}, True),
    ("mistral", {"sliding_window": -5}, True), ("llama", {"sliding_window": 32}, True),
    *[case for family in ("qwen2", "qwen3") for case in (
        (family, {"sliding_window": 32}, False), (family, {"sliding_window": 32, "use_sliding_window": False}, False),
        (family, {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 2}, False),
        (family, {"sliding_window": 32, "use_sliding_window": True}, False),  # max_window_layers is 28
        (family, {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 1}, True),
        (family, {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}, False),
        (family, {"sliding_window": 32, "layer_types": ["full_attention"] * 2}, False),
        (family, {"sliding_window": 32, "layer_types": ["full_attention", "sliding_attention"]}, True),
        (family, {"use_sliding_window": True, "sliding_window": "x"}, True))]])
def test_sliding_windows(family, fields, refused, read):
    status, _, error = read(small(family, **fields))
    assert status == refused, error
    assert not refused or '"sliding_window"' in error


def test_mistral_without_a_field_has_a_window(read):
    config = small("mistral", max_position_embeddings=4097)
    del config["sliding_window"]
    assert '"sliding_window" is 4096' in read(config)[2]
    assert read({**config, "max_position_embeddings": 4096})[2] == ""


@pytest.mark.parametrize("types", [["full_attention"], ["chunked_attention"] * 2, "full_attention", [None, None], {}])
def test_layer_types(types, read):
    assert "layer_types" in read(small("qwen3", layer_types=types))[2]


# --------------------------------------------------------------------------------------------------
# Hostile files

HOSTILE = [0, -1, 1.5, 1e300, 10 ** 30, 2 ** 31, 2 ** 32, 2 ** 63, 2 ** 64, True, "12", "", "\0", "\n\x1b[2J", [],
           [1], {}, {"a": {"b": [None]}}, None]


@pytest.mark.parametrize("family", CLASSES)
def test_hostile_values(family, read_all):
    """Any value in any field is read or is an error that names the field."""
    sizes = {"gpt2": ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"]}.get(family, [
        "vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "intermediate_size"])
    others = {"gpt2": ["layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"]}.get(family, [
        "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "hidden_act", "sliding_window"])
    about = {"rms_norm_eps": "epsilon", "layer_norm_epsilon": "epsilon", "rope_theta": "theta", "rope_scaling": "rope",
             "rope_parameters": "rope"}
    for key in sizes + others + ["tie_word_embeddings", "architectures", "bos_token_id", "eos_token_id"]:
        answers = read_all([small(family, **{key: value}) for value in HOSTILE])
        for value, (_, error) in zip(HOSTILE, answers):
            assert not error or about.get(key, key) in error or f'"{key}"' in error, (key, value, error)
            assert "\x1b" not in error
        assert sum(bool(error) for _, error in answers) > 8, key


@pytest.mark.parametrize("family", LLAMA_LIKE)
def test_impossible_sizes(family, read):
    for changes, mentions in [
            ({"num_key_value_heads": 4}, ["6", "4 KV heads"]), ({"head_dim": 7}, ["head dim 7"]),
            ({"num_attention_heads": 9999, "num_key_value_heads": 1, "head_dim": 4000}, ["9999", "4000"]),
            ({"head_dim": None, "hidden_size": 25}, ["hidden_size 25", "num_attention_heads 6"]),
            *[({"rms_norm_eps": epsilon}, ["epsilon"]) for epsilon in (0, -1e-5, 2)]]:
        status, _, error = read(small(family, **changes))
        assert status == 1 and all(word in error for word in mentions), error
    status, _, error = read(small(family, hidden_size=25))  # transformers 5 has a Llama like this neither
    assert (status == 1 and "6 heads" in error) == (family == "llama"), error


def test_documents(read):
    deep = '{"a":' * 200 + "1" + "}" * 200
    for text in "", "[]", "5", '"llama"', "null", "{}", "{", '{"model_type": "llama"', deep, "\ufeff{}", \
            '{"model_type": "llama", "hidden_size": NaN}':
        assert read(text)[0] == 1
    assert read(json.dumps(small("llama")) + " " * (1 << 20))[0] == 1  # larger than a configuration is
    twice = json.dumps(small("llama"))[:-1] + ', "vocab_size": 98}'  # the last one counts, as in Python
    assert read(twice)[1]["vocab_size"] == 98


@pytest.mark.parametrize("family", CLASSES)
def test_same(family, tool, tmp_path):
    """Every field that changes tensors or mathematics makes another model; token ids do not."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps(small(family)))
    changes = {"gpt2": [("n_layer", 3), ("n_embd", 27), ("n_head", 2), ("n_positions", 17), ("n_inner", 95),
                        ("activation_function", "relu"), ("layer_norm_epsilon", 1e-6), ("scale_attn_weights", False),
                        ("scale_attn_by_inverse_layer_idx", True), ("tie_word_embeddings", False)]}.get(family, [
        ("num_hidden_layers", 3), ("hidden_size", 30), ("num_attention_heads", 3), ("num_key_value_heads", 6),
        ("head_dim", 4), ("intermediate_size", 41), ("max_position_embeddings", 65), ("rms_norm_eps", 1e-5),
        ("rope_theta", 1e5), ("rope_scaling", LLAMA3), ("tie_word_embeddings", True),
        *[("attention_bias", True)] * (family in ("llama", "qwen3")), *[("mlp_bias", True)] * (family == "llama")])
    for key, value in [("vocab_size", 98), *changes]:
        second.write_text(json.dumps(small(family, **{key: value})))
        assert tool("same", first, second)[1] == ["0"], key
    second.write_text(json.dumps(small(family, eos_token_id=[5, 6], bos_token_id=None, torch_dtype="float16")))
    assert tool("same", first, second)[1] == ["1"]


# --------------------------------------------------------------------------------------------------
# Names, options, grids

NAMES = "124m 350m 774m 1.3b 1.5b 13b 30b llm-jp-3-150m llm-jp-3-440m llm-jp-3-980m llm-jp-3-1.8b llm-jp-3-3.7b " \
        "llm-jp-3-7.2b llm-jp-3-13b llm-jp-4-8b llama-3.2-1b llama-3.2-3b llama-3.1-8b qwen3-0.6b qwen3-1.7b " \
        "qwen3-4b qwen3-8b".split()
PUBLISHED = {  # parameters of the published models, a tied head counted once
    "124m": 124_439_808, "774m": 774_030_080, "1.5b": 1_557_611_200, "llm-jp-4-8b": 8_590_200_832,
    "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b": 3_212_749_824, "llama-3.1-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360}


@pytest.mark.parametrize("name", NAMES)
def test_named_models(name, tool, tmp_path):
    _, lines, error = tool("shape", "--model", name)
    assert not error
    config = auto_config(json.loads(lines[0]), tmp_path / "config")
    assert int(lines[2]) == PUBLISHED.get(name, int(lines[2])) == parameters_of(config)[0]


def shape(tool, *options):
    status, lines, error = tool("shape", *options)
    return error if status else json.loads(lines[0])


def test_options_alone(tool):
    sizes = ["--layers", 2, "--channels", 48, "--heads", 6, "--seq-len", 37]
    gpt2 = shape(tool, *sizes, "--vocab-size", 611)
    assert gpt2["model_type"] == "gpt2" and gpt2["n_inner"] == 192 and gpt2["tie_word_embeddings"]
    for family, eps in ("llama", 1e-5), ("mistral", 1e-5), ("qwen2", 1e-6), ("qwen3", 1e-6):
        config = shape(tool, *sizes, "--family", family)
        assert config["model_type"] == family and config["rms_norm_eps"] == eps and config["rope_theta"] == 1e4
        assert (config["num_key_value_heads"], config["head_dim"], config["intermediate_size"]) == (6, 8, 128)
        assert not config["tie_word_embeddings"]
    config = shape(tool, *sizes, "--family", "qwen3", "--kv-heads", 3, "--head-dim", 24, "--mlp-channels", 99,
                   "--rope-theta", "5e5", "--norm-eps", "1e-4", "--tied", 1, "--qk-norm", 1)
    assert (config["num_key_value_heads"], config["head_dim"], config["intermediate_size"]) == (3, 24, 99)
    assert (config["rope_theta"], config["rms_norm_eps"], config["tie_word_embeddings"]) == (5e5, 1e-4, True)


def test_options_over_a_model(tool, tmp_path):
    config = shape(tool, "--model", "llama-3.2-1b", "--seq-len", 4096, "--layers", 3, "--tied", 0)
    assert (config["num_hidden_layers"], config["head_dim"], config["max_position_embeddings"]) == (3, 64, 4096)
    assert not config["tie_word_embeddings"] and config["rope_scaling"]["factor"] == 32
    config = shape(tool, "--model", "30b", "--channels", 7176, "--heads", 78)
    assert (config["n_head"], config["n_inner"]) == (78, 4 * 7176)
    config = shape(tool, "--model", "124m", "--family", "llama")
    assert (config["hidden_size"], config["intermediate_size"], config["tie_word_embeddings"]) == (768, 2048, False)
    config = shape(tool, "--model", "qwen3-0.6b", "--family", "llama")
    assert (config["num_key_value_heads"], config["head_dim"], config["intermediate_size"]) == (8, 128, 3072)

    path = tmp_path / "any.json"
    path.write_text(json.dumps(small("qwen2", rope_theta=1e6)))
    config = shape(tool, "--config", path, "--layers", 5, "--vocab-size", 120)
    assert (config["num_hidden_layers"], config["vocab_size"], config["rope_theta"]) == (5, 120, 1e6)


@pytest.mark.parametrize("options, mentions", [
    (["--model", "125m"], ["--model 125m", "llm-jp-4-8b"]),
    (["--family", "bert", "--model", "124m"], ["--family bert", "qwen3"]),
    (["--model", "124m", "--config", "x"], ["--model 124m", "--config x"]),
    (["--config", "nowhere.json"], ["nowhere.json"]),
    (["--family", "llama", "--layers", 2], ["--model", "--config", "--heads"]),
    (["--model", "llama-3.2-1b", "--qk-norm", 1], ["--qk-norm 1", "LlamaForCausalLM", "--family qwen3"]),
    (["--model", "124m", "--qk-norm", 1], ["--qk-norm 1", "--family qwen3"]),
    (["--model", "qwen3-4b", "--qk-norm", 0], ["--qk-norm 0", "Qwen3ForCausalLM", "--family llama"]),
    (["--model", "124m", "--rope-theta", "1e4"], ["--rope-theta", "--family llama"]),
    (["--model", "124m", "--kv-heads", 4], ["4 KV heads"]),
    (["--model", "124m", "--head-dim", 63], ["12 x 63"]),
    (["--model", "124m", "--heads", 5], ["--channels 768", "--heads 5"]),
    (["--model", "llama-3.1-8b", "--heads", 12], ["12 attention heads", "8 KV heads"]),
    (["--model", "llama-3.1-8b", "--head-dim", 127], ["head dim 127"]),
    (["--model", "llama-3.1-8b", "--tied", 2], ["--tied 2", "0 or 1"]),
    (["--model", "llama-3.1-8b", "--tied", "yes"], ["--tied yes", "0 or 1"]),
    (["--model", "llama-3.1-8b", "--norm-eps", 0.7], ["--norm-eps"]),
])
def test_impossible_options(options, mentions, tool):
    error = shape(tool, *options)
    assert isinstance(error, str) and all(word in error for word in mentions), error


@pytest.mark.parametrize("heads, kv_heads, mlp, tp, mention", [
    (6, 3, 40, 1, ""), (6, 3, 40, 3, ""), (6, 3, 40, 6, ""), (6, 3, 40, 2, "3 KV heads"), (6, 3, 40, 4, "6 heads"),
    (6, 1, 40, 2, ""), (6, 1, 40, 6, ""), (6, 2, 40, 6, ""), (6, 2, 40, 3, "2 KV heads"), (6, 6, 40, 2, ""),
    (6, 3, 2, 3, "2 hidden channels"), (6, 3, 3, 3, "")])
def test_grids(heads, kv_heads, mlp, tp, mention, tool, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small("qwen3", num_attention_heads=heads, num_key_value_heads=kv_heads,
                                     intermediate_size=mlp)))
    status, _, error = tool("grid", path, tp, 2)
    assert status == bool(mention) and mention in error, error
    assert "--pp 3" in tool("grid", path, 1, 3)[2]
