"""Mixtures: proportions that hold after every step, a reproducible order, log entries.

The order is implemented a second time, in Python from its description: the schedule with fractions, the permutation
with Python's integers. From it and from the shards, read with NumPy, the hash of every batch is recomputed.
"""
import hashlib
import itertools
import json
import math
import random
import re
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest

from support import (arguments, checkpoint, checkpoints, build_tool, fails, random_documents, read_log, read_pair,
                     run, stable_log, state_bytes, write_llmc, write_pair)

PERIOD_MAX = 1 << 20


@pytest.fixture(scope="module")
def tool():
    """tool("order", ...) runs mixture_tool and returns its lines; with error=[...] it must fail with a one-line message
    that contains each of these strings."""
    folder = build_tool("mixture_tool")

    def call(*args, build="asan", error=None, **options):
        result = subprocess.run([folder / build, *map(str, args)], capture_output=True, text=True, timeout=120,
                                **options)
        assert result.returncode == (error is not None), result.stderr
        if error is not None:
            assert len(result.stderr.splitlines()) == 1 and all(word in result.stderr for word in error), result.stderr
        return result.stdout.splitlines()
    return call


# ----------------------------------------------------------------------------------------------------------------------
# A second implementation of the order

MASK = (1 << 64) - 1
ORDER, SOURCE = 0, 3  # streams of random_bits


def random_bits(seed, stream, counter):
    h = 0
    for word in seed, stream, counter:
        h = ((h ^ word) + 0x9E3779B97F4A7C15) & MASK
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & MASK
        h = (h ^ h >> 27) * 0x94D049BB133111EB & MASK
        h ^= h >> 31
    return h


def permutation(seed, epoch, position, n):
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    key = random_bits(seed, ORDER, epoch)
    while True:
        left, right = divmod(position, 1 << half)
        for round_ in range(6):
            left, right = right, left ^ random_bits(key, round_, right) & (1 << half) - 1
        position = left << half | right
        if position < n:
            return position


def tijdeman(weights):
    """The datasets of one period (Tijdeman 1980): of the eligible datasets, the one that is due first is next."""
    period, n = sum(weights), len(weights)
    shares, d = [Fraction(w, period) for w in weights], Fraction(1, 2 * n - 2) if n > 1 else Fraction(1)
    served, places = [0] * n, []
    for k in range(1, period + 1):
        ready = [i for i in range(n) if k * shares[i] - served[i] >= d]
        i = min(ready, key=lambda i: (math.ceil((served[i] + 1 - d) / shares[i]), i))
        served[i] += 1
        places.append(i)
    return places


def order(weights, samples, seed, shuffle, count):
    """(dataset, sample) of the first `count` positions."""
    places, read = tijdeman(weights), [0] * len(weights)
    for position in range(count):
        i = places[position % len(places)]
        epoch, within = divmod(read[i], samples[i])
        own = random_bits(seed, SOURCE, i) if i else seed
        yield i, permutation(own, epoch, within, samples[i]) if shuffle else within
        read[i] += 1


# ----------------------------------------------------------------------------------------------------------------------
# The schedule of a period

def check_deal(tool, weights, build="native"):
    divisor = math.gcd(*weights)
    w = np.array(weights, np.int64) // divisor
    period, n = int(w.sum()), len(w)
    places = np.array(tool("deal", *weights, build=build), np.int64)
    assert len(places) == period
    k = np.arange(1, period + 1)
    for i in range(n):
        served = np.cumsum(places == i)
        assert served[-1] == w[i]
        # |served - k w / W| <= 1 - 1 / (2 n - 2), in integers
        assert (np.abs(served * period - k * w[i]) * max(1, 2 * n - 2) <= period * max(0, 2 * n - 3)).all(), weights
    return places.tolist()


def test_all_small_weights(tool):
    """Every vector of 2 to 4 weights up to 5: the bound, and the same schedule as the second implementation."""
    for n in 2, 3, 4:
        for weights in itertools.combinations_with_replacement(range(1, 6), n):
            if math.gcd(*weights) == 1:
                assert check_deal(tool, weights[::-1]) == tijdeman(weights[::-1])


@pytest.mark.parametrize("seed", range(40))
def test_random_weights(seed, tool):
    source = random.Random(seed)
    weights = [source.randint(1, 10 ** source.randint(1, 3)) for _ in range(source.choice([1, 2, 3, 5, 10, 34]))]
    places = check_deal(tool, weights)
    if len(places) < 2000:
        divisor = math.gcd(*weights)
        assert places == tijdeman([w // divisor for w in weights])


def test_extreme_weights(tool):
    """One dataset that is nearly everything; 34 datasets at the longest period; the maximum number of datasets."""
    source = random.Random(1)
    corpora = [source.randint(1, 30_000) for _ in range(33)]
    for weights in [1, 1000], [1] * 33 + [100_000], [*corpora, PERIOD_MAX - sum(corpora)], [1] * 1023 + [2]:
        check_deal(tool, weights)
    assert check_deal(tool, [5, 3, 1], build="asan") == tijdeman([5, 3, 1])
    check_deal(tool, [source.randint(1, 300) for _ in range(34)], build="asan")


# ----------------------------------------------------------------------------------------------------------------------
# The order of a run

@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 17, 255, 256, 257, 4097])
def test_permutation_backwards(n, tool):
    tool("inverse", 7, 3, n)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Three Megatron pairs of 187, 62 and 31 samples of 16 tokens; one has a ':' in its name."""
    folder = tmp_path_factory.mktemp("pairs")
    return [write_pair(folder / name, random_documents(seed, tokens, 97))
            for seed, (name, tokens) in enumerate([("a", 3000), ("b", 1000), ("c:3", 500)])]


WEIGHTS = [5, 3, 1]


@pytest.mark.parametrize("shuffle", [0, 1])
def test_order(tool, pairs, shuffle):
    """Many epochs of each dataset, equal to the second implementation; the tool checks the inverse of each position."""
    found = tool("order", 16, 11, shuffle, 2000, *(f"{path}:{w}" for path, w in zip(pairs, WEIGHTS)))
    assert found == [f"{i} {sample}" for i, sample in order(WEIGHTS, [187, 62, 31], 11, shuffle, 2000)]
    sources = np.array([int(line.split()[0]) for line in found])
    for start in range(2000 - sum(WEIGHTS)):  # every window of a period has the exact proportions
        assert np.bincount(sources[start:start + sum(WEIGHTS)], minlength=3).tolist() == WEIGHTS
    for i in range(3):  # every epoch of a dataset contains all of its samples
        own = [int(line.split()[1]) for line in found if line.startswith(f"{i} ")]
        size = [187, 62, 31][i]
        for epoch in range(len(own) // size):
            assert sorted(own[epoch * size:(epoch + 1) * size]) == list(range(size))


def test_one_source(tool, pairs):
    """A single dataset has its own order, whatever its weight."""
    expected = [f"0 {permutation(11, p // 187, p % 187, 187)}" for p in range(500)]
    assert tool("order", 16, 11, 1, 500, pairs[0]) == tool("order", 16, 11, 1, 500, f"{pairs[0]}:7") == expected


# ----------------------------------------------------------------------------------------------------------------------
# Weights on the command line

@pytest.mark.parametrize("given, whole", [
    (["2", "1", "1"], [2, 1, 1]), (["0.5", "0.25", ".25"], [2, 1, 1]), (["34", "12.5", "0.50"], [68, 25, 1]),
    (["10", "10", "10"], [1, 1, 1]), (["0.1", "0.2", "0.7"], [1, 2, 7]), (["007", "1.", "3"], [7, 1, 3]),
    (["1048574", "1", "1"], [1048574, 1, 1]), (["0.000001", "0.000002", "1"], [1, 2, 1000000]),
])
def test_weights(tool, pairs, given, whole):
    lines = tool("weights", 16, *(f"{path}:{weight}" for path, weight in zip(pairs, given)), build="native")
    assert lines[0:6:2] == list(map(str, pairs))
    assert [int(line.split()[0]) for line in lines[1:6:2]] == whole
    assert [float(line.split()[1]) for line in lines[1:6:2]] == [w / sum(whole) for w in whole]
    assert int(lines[6]) == sum(whole)


def test_weights_by_samples(tool, pairs, tmp_path):
    """Without weights the proportions are those of the samples: exactly, or to about 2^-20."""
    assert tool("weights", 16, *pairs)[1::2] == [f"{n} {n / 280:.17g}" for n in (187, 62, 31)]
    assert tool("weights", 16, pairs[2])[1:] == ["1 1", "1"]  # with a ':' in the name
    for name, tokens in ("x", 4_000_001), ("y", 3_000_001), ("z", 2):  # 7,000,001 samples; by 10^6: 4, 3, 10^-6
        write_pair(tmp_path / name, [np.zeros(tokens, np.uint8)], np.uint8)
    lines = tool("weights", 1, *(tmp_path / name for name in "xyz"), build="native")
    weights = [int(line.split()[0]) for line in lines[1:6:2]]
    assert PERIOD_MAX - 10 < sum(weights) == int(lines[6]) <= PERIOD_MAX and weights[2] == 1
    assert abs(weights[0] / sum(weights) - 4 / 7) < 2 / PERIOD_MAX
    lines = tool("weights", 1, tmp_path / "x", tmp_path / "y", build="native")
    assert [line.split()[0] for line in lines[1::2]] == ["4", "3"]


def test_bad_weights(tool, pairs):
    a, b, c = pairs
    for specs, words in [([f"{a}:1", b], ["a:1", "none"]), ([a, f"{b}:2"], ["b:2", "none"]),
                         ([f"{a}:0"], ["a:0", "positive"]), ([f"{a}:0.00", f"{b}:1"], ["a:0.00", "positive"]),
                         ([f"{a}:-1"], ["a:-1", "positive"]), ([f"{a}:1e3"], ["a:1e3", "positive"]),
                         ([f"{a}:nan"], ["a:nan", "positive"]), ([f"{a}:"], ["a:", "positive"]),
                         ([f"{a}:."], ["a:.", "positive"]), ([f"{a}:1.2.3"], ["a:1.2.3", "positive"]),
                         ([f"{a}:1234567890123456789"], ["digits"]), ([f"{a}:1048576", f"{b}:1"], ["a", "digits"]),
                         ([f"{a}:0.00000000000000001", f"{b}:10000"], ["b:10000", "digits"]),
                         ([f"{a}:1", f"{a}:2"], ["a", "twice"]), ([f"{a}x:1"], ["ax: not a"]),
                         ([f"{a}x:y"], ["ax:y: not a"]), ([":1"], [": not a"]), (["1"], ["1: not a"]),
                         ([f"{c}:x"], ["c:3:x", "positive"])]:
        tool("weights", 16, *specs, error=words)
    assert tool("weights", 16, f"{c}:3", f"{a}:3")[1::2] == ["1 0.5", "1 0.5"]


# ----------------------------------------------------------------------------------------------------------------------
# Runs on three datasets with the same tokenizer: two with validation splits and one without

SEQ_LEN, GLOBAL_BATCH, STEPS, SEED = 16, 8, 24, 3
SHARES = ["0.5", "0.3", "0.2"]


@pytest.fixture(scope="module")
def sources(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for name, text, fraction in [("one", "debian-faq-ja", 0.1), ("two", "debian-faq", 0.1), ("three", "maint-guide", 0)]:
        tokenizer = {"tokenizer": folder / "one" / "tokenizer"} if name != "one" else {"vocab_size": 400}
        run(arguments("prepare", input=corpus / f"{text}.jsonl", out=folder / name, val_fraction=fraction, **tokenizer))
    return [folder / name for name in ("one", "two", "three")]


def weighted(sources, shares=SHARES):
    return [f"{path}:{share}" for path, share in zip(sources, shares)]


def options(sources, out, **changes):
    return arguments("train", **{**dict(
        data=weighted(sources), out=out, layers=1, heads=2, channels=16, seq_len=SEQ_LEN, micro_batch=2,
        global_batch=GLOBAL_BATCH, steps=STEPS, seed=SEED, lr=3e-3, warmup_steps=2, eval_every=12, eval_batches=2,
        save_every=8, keep=100), **changes})


@pytest.fixture(scope="module")
def runs(sources, tmp_path_factory):
    """runs(ranks): the run with this number of ranks, executed once."""
    made = {}

    def make(ranks=1):
        if ranks not in made:
            made[ranks] = tmp_path_factory.mktemp("mixture") / "run"
            run(options(sources, made[ranks]), ranks=ranks)
        return made[ranks]
    return make


def shards(sources, split="train"):
    return [np.concatenate([np.array(d, np.int32) for d in read_pair(path / split)]) for path in sources]


def batch_hashes(data, weights, seed, shuffle, steps):
    """batch_sha256 of every step, computed from the shards."""
    samples = [(len(tokens) - 1) // SEQ_LEN for tokens in data]
    digests = [hashlib.sha256(data[i][s * SEQ_LEN:(s + 1) * SEQ_LEN + 1].astype("<i4").tobytes()).digest()
               for i, s in order(weights, samples, seed, shuffle, steps * GLOBAL_BATCH)]
    return [hashlib.sha256(b"".join(digests[i:i + GLOBAL_BATCH])).hexdigest()[:16]
            for i in range(0, len(digests), GLOBAL_BATCH)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_what_was_read(sources, runs, ranks):
    """The hashes in the log are those of the tokens given by the order; the losses equal those of one rank."""
    log = read_log(runs(ranks))
    assert log.column("batch_sha256") == batch_hashes(shards(sources), WHOLE, SEED, 1, STEPS)
    assert np.allclose(log.column("loss"), read_log(runs()).column("loss"), rtol=1e-6, atol=0)
    assert log.column("loss")[-1] < log.column("loss")[0]


WHOLE = [5, 3, 2]  # SHARES


def test_shares_at_every_step(runs):
    for line in read_log(runs()).steps:
        read = line["step"] * GLOBAL_BATCH
        assert sum(line["source_samples"]) == read and line["tokens"] == read * SEQ_LEN
        for samples, weight in zip(line["source_samples"], WHOLE):
            assert abs(samples * 10 - read * weight) <= 10 * 3 / 4  # 1 - 1 / (2 n - 2)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_described(entry, path, split, weight, period):
    manifest = json.loads((path / "manifest.json").read_text())
    assert entry == {
        "path": str(path), "file": str((path / f"{split}.bin").resolve()), "weight": weight, "share": weight / period,
        "tokens": manifest["splits"][split]["tokens"], "documents": manifest["splits"][split]["documents"],
        "samples": (manifest["splits"][split]["tokens"] - 1) // SEQ_LEN, "sha256": sha256(path / f"{split}.bin"),
        "idx_sha256": sha256(path / f"{split}.idx"), "tokenizer_sha256": sha256(path / "tokenizer/tokenizer.json"),
        "manifest_sha256": sha256(path / "manifest.json")}


def test_logged_sources(sources, runs):
    head = read_log(runs()).head
    assert len(head["data"]) == 3 and len(head["val_data"]) == 2
    for entry, path, weight in zip(head["data"], sources, WHOLE):
        check_described(entry, path, "train", weight, 10)
    for entry, path, weight in zip(head["val_data"], sources, WHOLE):
        check_described(entry, path, "val", weight, 8)
    assert head["options"]["data"] == weighted(sources) and head["options"]["val_data"] == []
    state = json.loads((checkpoint(runs(), STEPS) / "trainer_state.json").read_text())
    assert state["data"] == head["data"]
    card = (checkpoint(runs(), STEPS) / "README.md").read_text()
    for path, share in zip(sources, (50, 30, 20)):
        row = next(line for line in card.splitlines() if sha256(path / "train.bin") in line)
        assert abs(float(re.search(r"([0-9.]+)%", row)[1]) - share) < 100 / (STEPS * GLOBAL_BATCH), row


def eval_output(text):
    """({path: loss}, {path: tokens}, loss of all)"""
    lines = re.findall(r"^(.+): loss ([0-9.]+), perplexity [0-9.]+, tokens (\d+), share", text, re.M)
    return ({path: float(loss) for path, loss, _ in lines}, {path: int(n) for path, _, n in lines},
            float(re.search(r"^loss ([0-9.]+)$", text, re.M)[1]))


def test_eval_of_each_source(sources, runs):
    """eval of several datasets reports the loss of each and their weighted mean; the log has the same."""
    model, one, two = checkpoint(runs(), STEPS), *sources[:2]

    def evaluated(*data, **changes):
        return eval_output(run(arguments("eval", checkpoint=model, data=list(data), **changes)).out)
    alone = [evaluated(path)[2] for path in (one, two)]
    assert abs(alone[0] - alone[1]) > 0.01  # otherwise the means below would prove nothing
    losses, tokens, mean = evaluated(f"{one}:5", f"{two}:3")
    assert losses == {str(one): alone[0], str(two): alone[1]}
    assert mean == pytest.approx((5 * alone[0] + 3 * alone[1]) / 8, abs=2e-6)
    losses, tokens, mean = evaluated(one, two)  # without weights: the mean over all tokens
    assert losses == {str(one): alone[0], str(two): alone[1]}
    n = [tokens[str(path)] for path in (one, two)]
    assert n == [(len(t) - 1) // SEQ_LEN * SEQ_LEN for t in shards((one, two), "val")]
    assert mean == pytest.approx((n[0] * alone[0] + n[1] * alone[1]) / sum(n), abs=2e-6)
    fails(arguments("eval", checkpoint=model, data=sources), 1, "three", "val")


def test_logged_evals(sources, runs, tmp_path):
    log = read_log(runs())
    assert [line["step"] for line in log.evals] == [0, 12, 24]
    for line in log.evals:
        losses = [line["val_losses"][str(path)] for path in sources[:2]]
        assert len(line["val_losses"]) == 2
        assert line["val_loss"] == pytest.approx((5 * losses[0] + 3 * losses[1]) / 8, rel=1e-12)
    many = read_log(runs(4)).evals[-1]["val_losses"]
    assert all(many[path] == pytest.approx(loss, rel=1e-5) for path, loss in log.evals[-1]["val_losses"].items())

    # All validation data in each eval: the result of the eval command, with the weights of --val-data.
    out = tmp_path / "run"
    run(options(sources, out, val_data=[f"{sources[0]}:1", f"{sources[1]}:2"], eval_batches=0, steps=4, eval_every=4))
    last = read_log(out).evals[-1]
    losses, _, mean = eval_output(run(arguments("eval", checkpoint=checkpoint(out, 4),
                                                data=[f"{sources[0]}:1", f"{sources[1]}:2"])).out)
    assert last["val_losses"] == pytest.approx(losses, abs=1e-6) and last["val_loss"] == pytest.approx(mean, abs=1e-6)


def test_resume(sources, runs, tmp_path):
    """Stopped after step 16 and resumed: the same bits. The datasets may have been moved in between."""
    out, moved = shutil.copytree(runs(), tmp_path / "run"), [tmp_path / path.name for path in sources]
    shutil.rmtree(checkpoint(out, 24))
    for path, to in zip(sources, moved):
        shutil.copytree(path, to)
    run(options(moved, out))
    end = [{k: v for k, v in line.items() if k != "val_losses"} for line in stable_log(out)]  # it has the paths
    assert end == [{k: v for k, v in line.items() if k != "val_losses"} for line in stable_log(runs())]
    assert state_bytes(checkpoint(out, STEPS)) == state_bytes(checkpoint(runs(), STEPS))
    restart, = map(json.loads, (out / "restarts.jsonl").read_text().splitlines())
    assert restart["from_step"] == 16 and restart["ranks"] == 1


def test_resume_on_two_ranks(sources, runs, tmp_path):
    out = shutil.copytree(runs(), tmp_path / "run")
    shutil.rmtree(checkpoint(out, 24))
    run(options(sources, out), ranks=2)
    for column in "batch_sha256", "source_samples":
        assert read_log(out).column(column) == read_log(runs()).column(column)


def test_changed_mixture(sources, runs, tmp_path):
    """A run cannot be resumed with other datasets or other weights."""
    out = shutil.copytree(runs(), tmp_path / "run")
    shutil.rmtree(checkpoint(out, 24))
    log = (out / "log.jsonl").read_bytes()
    for data, words in [(weighted(sources, ["0.5", "0.2", "0.3"]), ["step-000016", "two", "weights"]),
                        (weighted(sources[:2]), ["step-000016", "3 datasets", "2"]),
                        (weighted([sources[1], sources[0], sources[2]], ["0.3", "0.5", "0.2"]), ["other data", "two"]),
                        (sources, ["step-000016", "weights"])]:
        fails(options(sources, out, data=data), 1, *words)
    assert checkpoints(out) == [8, 16] and (out / "log.jsonl").read_bytes() == log
    run(options(sources, out, data=weighted(sources, ["50", "30", "20"])))  # the same shares


def test_unshuffled_bare_shards(pairs, tmp_path):
    """A mixture of a Megatron pair and an llm.c shard, in order, weighted by samples; and a single dataset."""
    tokens = np.concatenate(random_documents(7, 1200, 97)).astype(np.int32)
    bare = [pairs[0], write_llmc(tmp_path / "shard.bin", tokens)]
    data = [np.concatenate([np.array(d, np.int32) for d in read_pair(pairs[0])]), tokens]
    samples = [187, 1199 // SEQ_LEN]
    divisor = math.gcd(*samples)
    for name, chosen, weights in ("both", bare, [n // divisor for n in samples]), ("one", bare[1:], [1]):
        out = tmp_path / name
        run(options([], out, data=chosen, vocab_size=97, shuffle=0, steps=40, save_every=0, eval_every=0))
        log = read_log(out)
        assert log.column("batch_sha256") == batch_hashes(data[-len(chosen):], weights, SEED, 0, 40)
        assert all(("source_samples" in line) == (len(chosen) > 1) for line in log.steps)
        assert ["documents" in entry for entry in log.head["data"]] == [True, False][-len(chosen):]


@pytest.mark.parametrize("ranks", [1, 2])
def test_refused(sources, pairs, corpus, ranks, tmp_path):
    other = tmp_path / "other"
    run(arguments("prepare", input=corpus / "maint-guide.jsonl", out=other, vocab_size=400, val_fraction=0.1))
    for changes, status, words in [
            (dict(data=[sources[0], other]), 1, ["one", "other", "tokenizer"]),
            (dict(data=[sources[0], pairs[0]]), 1, ["one", str(pairs[0]), "tokenizer"]),
            (dict(val_data=other), 1, ["one", "other", "tokenizer"]),
            (dict(data=[f"{sources[0]}:0", f"{sources[1]}:1"]), 1, ["one:0", "positive"]),
            (dict(data=[sources[0], tmp_path / "nowhere"]), 1, ["nowhere"]),
            (dict(data=[]), 2, ["--data"]), (dict(val_data=sources[2]), 1, ["three", "val"])]:
        fails(options(sources, tmp_path / "run", **changes), status, *words, ranks=ranks)
    assert not (tmp_path / "run").exists()


def test_altered_source(sources, tmp_path):
    """Each dataset is verified against its manifest."""
    bad = [shutil.copytree(path, tmp_path / path.name) for path in sources]
    shard = bytearray((bad[2] / "train.bin").read_bytes())
    shard[-2] ^= 1
    (bad[2] / "train.bin").write_bytes(shard)
    fails(options(bad, tmp_path / "run"), 1, "three/train.bin", "altered")
    assert not (tmp_path / "run").exists()


def test_mixture_under_sanitizers(sources, runs, tmp_path):
    run(options(sources, tmp_path / "run", steps=4), ranks=2, build="asan")
    assert read_log(tmp_path / "run").column("batch_sha256") == read_log(runs()).column("batch_sha256")[:4]
    run(arguments("eval", checkpoint=checkpoint(tmp_path / "run", 4), data=weighted(sources[:2])), build="asan")
