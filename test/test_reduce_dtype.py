"""--reduce-dtype bf16: gradients, and with ZeRO parameters, as BF16 numbers in messages between nodes.

With --share-memory 0 each rank is a node of its own. What arrives is compared bit for bit with the
sums that parallel/gradient_buckets.h specifies: with beta1 0, AdamW's first moment is the gradient.
"""
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support import ROOT, arguments, checkpoint, fails, read_log, run, state_bytes, weights
from test_grid import needs_two_hosts

RANKS = 4
BF16 = dict(reduce_dtype="bf16", micro_batch=2, global_batch=2 * RANKS)


def bf16(x):
    """x rounded to BF16: to nearest, ties to even."""
    bits = x.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def rounded(directory, out):
    """A model folder with the weights of a checkpoint rounded to BF16."""
    out.mkdir()
    (out / "config.json").write_bytes((directory / "config.json").read_bytes())
    tensors = {name: bf16(x) for name, x in weights(directory).items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def train(command, two_hosts=False):
    """Trains on RANKS nodes of one rank, or on two hosts."""
    if two_hosts:
        run(command, prefix=[ROOT / "scripts/two_hosts.sh", str(RANKS // 2)])
    else:
        run([*command, "--share-memory", 0], ranks=RANKS)


def gradients(directory):
    found = {}
    for file in directory.glob("optimizer-*.safetensors"):
        found.update({name: x.ravel() for name, x in load_file(file).items() if name.startswith("exp_avg.")})
    return np.concatenate([found[name] for name in sorted(found)])


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    """A model whose weights are BF16 numbers."""
    folder = tmp_path_factory.mktemp("model")
    run(tiny(folder / "run", steps=1, warmup_steps=0, init_std=0.3, save_every=1))
    return rounded(checkpoint(folder / "run", 1), folder / "rounded")


def step_of(model, data, out, **options):
    """The arguments of steps that leave the weights as they are."""
    return arguments("train", init=model, data=data, out=out, lr=0, min_lr=0, beta1=0, clip=0, shuffle=0, micro_batch=2,
                     seq_len=16, save_every=1, eval_every=0, keep=0, **options)


@pytest.fixture(scope="module")
def parts(model, pair, tmp_path_factory):
    """What each rank adds to the gradient of a step: the gradients of single steps of a single rank
    on the same weights. Its loss is a mean over a quarter of the tokens."""
    out = tmp_path_factory.mktemp("parts") / "run"
    run(step_of(model, pair, out, global_batch=2, steps=RANKS))
    return [gradients(checkpoint(out, 1 + rank)) / np.float32(RANKS) for rank in range(RANKS)]


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("two_hosts", [False, pytest.param(True, marks=needs_two_hosts)])
def test_gradients(model, parts, pair, tmp_path, two_hosts, zero):
    """Every element is the sum, in FP32 and in the order of the nodes, of what the nodes have:
    rounded, but for the node that sums it. Without ZeRO the sum is rounded too."""
    nodes = [parts[0] + parts[1], parts[2] + parts[3]] if two_hosts else parts
    train(step_of(model, pair, tmp_path / "run", global_batch=2 * RANKS, steps=1, zero=zero, reduce_dtype="bf16"), two_hosts)
    found = gradients(checkpoint(tmp_path / "run", 1))
    matches = []
    for owner in range(len(nodes)):
        total = np.zeros_like(found)
        for node, part in enumerate(nodes):
            total += part if node == owner else bf16(part)
        matches.append(found == (total if zero else bf16(total)))
    assert np.all(np.any(matches, axis=0))
    for owner in matches:
        assert np.mean(owner) < 0.9 and np.any(owner & (np.sum(matches, axis=0) == 1))  # each node sums a part


def test_master_weights(tiny, prepared, tmp_path):
    """With ZeRO a checkpoint holds master weights; forward uses them rounded."""
    train(tiny(tmp_path / "run", **BF16, zero=1, steps=2, data=prepared, vocab_size=None, eval_every=2, eval_batches=0,
               init_std=0.3))
    saved = checkpoint(tmp_path / "run", 2)
    assert any(np.any(x != bf16(x)) for x in weights(saved).values())

    def loss(model):
        return float(run(arguments("eval", checkpoint=model, data=prepared, micro_batch=2)).out.split("loss")[1].split()[0])
    val_loss = read_log(tmp_path / "run").evals[-1]["val_loss"]
    assert abs(val_loss - loss(rounded(saved, tmp_path / "rounded"))) < 1e-6 < abs(val_loss - loss(saved))


@pytest.mark.parametrize("zero", [0, 1])
def test_same_bits(tiny, tmp_path, zero):
    """Threads, overlap and resuming change no bits."""
    same = dict(**BF16, zero=zero, schedule="constant")
    train(tiny(tmp_path / "run", **same))
    expected = state_bytes(checkpoint(tmp_path / "run", 8))
    run([*tiny(tmp_path / "threads", **same), "--share-memory", 0], ranks=RANKS, threads=3)
    train(tiny(tmp_path / "overlap", **same, overlap=0))
    train(tiny(tmp_path / "resumed", **same, steps=4))
    train(tiny(tmp_path / "resumed", **same))
    for name in "threads", "overlap", "resumed":
        assert state_bytes(checkpoint(tmp_path / name, 8)) == expected, name


@pytest.mark.parametrize("zero", [0, 1])
def test_several_buckets(tiny, tmp_path, zero):
    """Buckets that are on their way at the same time: their collectives must begin in one order on
    all ranks, or weights differ, which a save would find, or the ranks wait for ever."""
    same = dict(**BF16, zero=zero, layers=5, heads=4, channels=256, steps=10, save_every=10, share_memory=0)
    for overlap in 0, 1:
        run(tiny(tmp_path / str(overlap), **same, overlap=overlap), ranks=2)
    assert state_bytes(checkpoint(tmp_path / "0", 10)) == state_bytes(checkpoint(tmp_path / "1", 10))


def test_one_node_needs_no_messages(tiny, tmp_path):
    for dtype in "fp32", "bf16":
        run(tiny(tmp_path / dtype, **{**BF16, "reduce_dtype": dtype}), ranks=RANKS)
    assert state_bytes(checkpoint(tmp_path / "bf16", 8)) == state_bytes(checkpoint(tmp_path / "fp32", 8))


def test_not_with_reproducible(tiny, tmp_path):
    fails([*tiny(tmp_path / "run", **BF16), "--reproducible"], 2, "--reproducible", "--reduce-dtype bf16", ranks=RANKS)
