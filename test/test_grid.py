"""The process grid: tensor, pipeline and data parallelism, ZeRO-1 and activation checkpointing give
the same results as a single rank, and checkpoints do not depend on the grid that wrote them. All
training runs use both kernel sets, with GPT-2 and with models whose KV heads are fewer than the
tensor-parallel ranks: an untied Llama of 2, a tied Qwen3 of 1.

Tolerances: several ranks sum floats in a different order, which changes a loss by about 1e-8. eps
is 1e-6 because AdamW turns the rounding errors of a gradient that is zero in theory (the key bias)
into steps as large as the learning rate.
"""
import re
import subprocess
import sys

import numpy as np
import pytest

from support import ROOT, arguments, checkpoint, fails, read_log, run, state_bytes, weights

MODEL = dict(layers=4, heads=4, channels=32, seq_len=16, micro_batch=1, global_batch=8, lr=1e-3, min_lr=1e-4, steps=12,
             warmup_steps=3, seed=3, eps=1e-6, eval_every=6, eval_batches=2, save_every=6, keep=0)
FAMILIES = {
    "gpt2": {},
    "llama": dict(family="llama", kv_heads=2, mlp_channels=90, tied=0),
    "qwen3": dict(family="qwen3", kv_heads=1, head_dim=10, mlp_channels=50, tied=1),
}
GRIDS = [(tp, pp, dp) for tp in (1, 2, 4) for pp in (1, 2, 4) for dp in (1, 2, 4, 8) if 1 < tp * pp * dp <= 8]


@pytest.fixture(scope="module", params=["sve-gpt2", "ref-gpt2", "sve-llama", pytest.param("ref-qwen3", marks=pytest.mark.full)])
def train(pair, request):
    """train(out, tp, pp, dp, **options) trains on tp * pp * dp ranks, on one host or split evenly
    between two."""
    kernels, family = request.param.split("-")

    def make(out, tp=1, pp=1, dp=1, two_hosts=False, **options):
        args = {**MODEL, **FAMILIES[family], "data": pair, "val_data": pair, "vocab_size": 97, "out": out, "tp": tp,
                "pp": pp, "kernels": kernels, **options}
        flags = [f"--{flag}" for flag in args.pop("flags", [])]
        ranks = tp * pp * dp
        launcher = dict(prefix=[ROOT / "scripts/two_hosts.sh", str(ranks // 2)]) if two_hosts else dict(ranks=ranks)
        return run([*arguments("train", **args), *flags], timeout=300, **launcher)
    return make


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    train(out)
    return out


def assert_same_training(one, other, step=MODEL["steps"]):
    a, b = read_log(one), read_log(other)
    for column in "loss", "grad_norm":
        assert np.allclose(a.column(column)[-len(b.steps):], b.column(column), rtol=1e-5, atol=0)
    assert np.allclose([line["val_loss"] for line in a.evals], [line["val_loss"] for line in b.evals], rtol=1e-5)
    assert [line["batch_sha256"] for line in a.steps] == [line["batch_sha256"] for line in b.steps]
    mine, theirs = weights(checkpoint(one, step)), weights(checkpoint(other, step))
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert np.allclose(mine[name], theirs[name], rtol=0, atol=1e-5), name


ALL = [(*grid, zero, recompute) for grid in GRIDS for zero in ((0, 1) if grid[2] > 1 else (0,))
       for recompute in ("none", "layer")]
SHORT = {(2, 1, 1, 0, "none"), (4, 1, 2, 1, "layer"), (1, 2, 1, 0, "layer"), (1, 4, 2, 1, "none"), (2, 2, 2, 1, "layer"),
         (2, 2, 2, 0, "none"), (1, 1, 8, 1, "none"), (1, 1, 4, 0, "none"), (4, 2, 1, 0, "none"), (2, 4, 1, 0, "layer")}


@pytest.mark.parametrize("tp,pp,dp,zero,recompute", [
    pytest.param(*case, marks=() if case in SHORT else pytest.mark.full) for case in ALL])
def test_grid_matches_one_rank(train, alone, tmp_path, tp, pp, dp, zero, recompute):
    train(tmp_path / "run", tp, pp, dp, zero=zero, recompute=recompute)
    assert_same_training(alone, tmp_path / "run")


def test_recompute_gives_the_same_bits(train, alone, tmp_path):
    train(tmp_path / "run", recompute="layer")
    assert state_bytes(checkpoint(tmp_path / "run", MODEL["steps"])) == state_bytes(checkpoint(alone, MODEL["steps"]))


def test_recompute_on_first_stages(train, alone, tmp_path):
    train(tmp_path / "run", pp=4, recompute="layer", recompute_stages=2)
    assert_same_training(alone, tmp_path / "run")


@pytest.mark.parametrize("zero", [0, 1])
def test_overlap_changes_no_bits(train, tmp_path, zero):
    for overlap in 0, 1:
        train(tmp_path / str(overlap), dp=4, overlap=overlap, zero=zero)
    assert state_bytes(checkpoint(tmp_path / "0", MODEL["steps"])) == state_bytes(checkpoint(tmp_path / "1", MODEL["steps"]))


@pytest.mark.parametrize("zero", [0, 1])
def test_sums_by_messages(train, alone, tmp_path, zero):
    """Gradients are summed by messages; in the other tests all ranks share a host and use shared
    memory."""
    train(tmp_path / "run", pp=2, dp=4, zero=zero, share_memory=0)
    assert_same_training(alone, tmp_path / "run")


def has_network_namespaces():
    made = subprocess.run(["ip", "netns", "add", "train_gpt_probe"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "train_gpt_probe"], capture_output=True)
    return made.returncode == 0


needs_two_hosts = pytest.mark.skipif(not has_network_namespaces(), reason="network namespaces need root")


@needs_two_hosts
@pytest.mark.parametrize("tp,pp,dp,zero", [(1, 1, 4, 0), (1, 1, 4, 1), (2, 1, 2, 0), (1, 4, 1, 0), (4, 1, 1, 0), (2, 2, 2, 1)])
def test_two_hosts(train, alone, tmp_path, tp, pp, dp, zero):
    """Two hosts: shared memory within each, messages between them."""
    ran = train(tmp_path / "run", tp, pp, dp, zero=zero, two_hosts=True)
    assert "host host-a" in ran.out and "host host-b" in ran.out
    assert_same_training(alone, tmp_path / "run")


@needs_two_hosts
def test_benchmark_of_ranks_and_overlap():
    """scripts/bench.py runs and prints its measurements; their values are not checked."""
    result = subprocess.run([sys.executable, ROOT / "scripts/bench.py", "ranks", "overlap", "--short", "--rounds", "1"],
                            capture_output=True, text=True, check=True, timeout=200)
    assert re.search(r"1 rank x 2 threads \d+\.\d+ s, 2 ranks x 1 thread \d+\.\d+ s", result.stdout), result.stdout
    for case in "without overlap", "with overlap", "in BF16 without overlap", "in BF16 with overlap":
        assert re.search(rf"a step {case} \d+\.\d+ s, \d+\.\d+ s of it waiting", result.stdout), result.stdout


@pytest.fixture(scope="module")
def reproducible(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("reproducible") / "run"
    train(out, flags=["reproducible"])
    return out


@pytest.mark.parametrize("dp,zero", [(2, 0), (4, 0), (8, 0), (4, 1)])
def test_reproducible(train, reproducible, tmp_path, dp, zero):
    """1, 2, 4 and 8 DP ranks with 8, 4, 2 and 1 micro-batches each give bit-identical weights,
    losses, gradient norms and validation losses."""
    train(tmp_path / "run", dp=dp, zero=zero, flags=["reproducible"])
    assert state_bytes(checkpoint(tmp_path / "run", MODEL["steps"])) == state_bytes(checkpoint(reproducible, MODEL["steps"]))
    for key in "loss", "grad_norm":
        assert read_log(tmp_path / "run").column(key) == read_log(reproducible).column(key)
    assert read_log(tmp_path / "run").evals == read_log(reproducible).evals


@needs_two_hosts
def test_reproducible_on_two_hosts(train, reproducible, tmp_path):
    train(tmp_path / "run", dp=4, two_hosts=True, flags=["reproducible"])
    assert state_bytes(checkpoint(tmp_path / "run", MODEL["steps"])) == state_bytes(checkpoint(reproducible, MODEL["steps"]))


def test_reproducible_with_odd_batches(train, tmp_path):
    """12 micro-batches: each leaf of the summation tree has 3 micro-batches."""
    for dp in 1, 2, 4:
        train(tmp_path / str(dp), dp=dp, global_batch=12, flags=["reproducible"])
        assert state_bytes(checkpoint(tmp_path / str(dp), MODEL["steps"])) == state_bytes(checkpoint(tmp_path / "1", MODEL["steps"]))


@pytest.mark.parametrize("tp,pp,dp,zero", [(1, 1, 4, 1), (4, 1, 1, 0)])
def test_checkpoint_of_another_grid(train, alone, tmp_path, tp, pp, dp, zero):
    """A checkpoint saved on a 2 x 2 x 2 grid with ZeRO-1 resumes on another grid."""
    out = tmp_path / "run"
    train(out, 2, 2, 2, zero=1, steps=6, schedule="constant", lr=1e-3, warmup_steps=3)
    train(out, tp, pp, dp, zero=zero, schedule="constant")
    train(tmp_path / "uninterrupted", schedule="constant")
    assert_same_training(tmp_path / "uninterrupted", out)


def test_36_heads_on_6_tp_ranks(train, tmp_path):
    options = dict(heads=36, channels=72, layers=2, global_batch=2, steps=4, eval_every=4, save_every=4)
    train(tmp_path / "one", **options)
    train(tmp_path / "run", tp=6, pp=2, **options)
    assert_same_training(tmp_path / "one", tmp_path / "run", step=4)


def test_layers_not_divisible_by_stages(train, tmp_path):
    options = dict(layers=5, steps=6, save_every=6, eval_every=6)
    train(tmp_path / "one", **options)
    train(tmp_path / "run", pp=3, dp=2, **options)
    assert_same_training(tmp_path / "one", tmp_path / "run", step=6)


def test_one_micro_batch_on_four_stages(train, tmp_path):
    options = dict(global_batch=1, steps=6, save_every=6, eval_every=6)
    train(tmp_path / "one", **options)
    train(tmp_path / "run", pp=4, **options)
    assert_same_training(tmp_path / "one", tmp_path / "run", step=6)


@pytest.mark.parametrize("family", FAMILIES)
def test_eval_and_generate_on_a_grid(family, prepared, tmp_path):
    args = {**MODEL, **FAMILIES[family], "data": prepared, "out": tmp_path / "run", "steps": 4, "save_every": 4, "eval_every": 0}
    run(arguments("train", **args))
    model = checkpoint(tmp_path / "run", 4)
    for command in (arguments("eval", checkpoint=model, data=prepared),
                    arguments("generate", checkpoint=model, prompt="Debian", tokens=20, temperature=0)):
        one = run(command).out
        for tp, pp, ranks in (2, 2, 4), (4, 1, 4), (1, 2, 4):
            assert run([*command, "--tp", tp, "--pp", pp], ranks=ranks).out == one


@pytest.mark.parametrize("options,ranks,mention", [
    (dict(tp=3), 3, "4 heads"), (dict(family="llama", channels=48, heads=6, kv_heads=3, tp=2), 2, "KV heads"), (dict(pp=5), 5, "4 layers"), (dict(tp=2), 3, "multiple of 2"),
    (dict(global_batch=3), 2, "global-batch"), (dict(flags=["reproducible"], global_batch=6), 3, "reproducible"),
    (dict(zero=2), 1, "--zero 2")])
def test_invalid_grids(pair, tmp_path, options, ranks, mention):
    flags = [f"--{flag}" for flag in options.pop("flags", [])]
    args = {**MODEL, "data": pair, "vocab_size": 97, "out": tmp_path / "run", **options}
    status = 1 if "heads" in mention or "layers" in mention or "reproducible" in mention else 2
    fails([*arguments("train", **args), *flags], status, mention, ranks=ranks)
