"""Data-parallel runs over MPI, and threads within a rank.

Several ranks sum gradients in a different order than a single rank, so losses agree to within
float32 rounding carried through 20 AdamW steps: 1e-6 relative. The number of threads must not
change a single bit: each output element is computed by one thread in a fixed order.
"""
import os
import re

import numpy as np
import pytest

from support import checkpoint, read_log, run, stable_log, state_bytes

STEPS = 20


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """runs(ranks=2, micro_batch=2): a run of 20 steps with global batch 8, cached by options."""
    made = {}

    def make(ranks=1, threads=1, again=0, **options):
        key = (ranks, threads, again, *options.items())
        if key not in made:
            out = tmp_path_factory.mktemp("run") / "run"
            result = run(tiny(out, **{"micro_batch": 2, "global_batch": 8, "steps": STEPS, "save_every": STEPS,
                                      "shuffle": 1, **options}), ranks=ranks, threads=threads)
            made[key] = out, result
        return made[key]
    return make


@pytest.mark.parametrize("ranks, micro_batch, global_batch", [(2, 2, 8), (4, 2, 8), (2, 4, 8), (1, 8, 8), (3, 2, 12)])
def test_same_losses(runs, ranks, micro_batch, global_batch):
    """Losses do not depend on how a global batch of 8 (or 12) samples is divided among ranks and
    micro-batches."""
    one = read_log(runs(micro_batch=2, global_batch=global_batch)[0])
    many = read_log(runs(ranks=ranks, micro_batch=micro_batch, global_batch=global_batch)[0])
    assert len(one.steps) == len(many.steps) == STEPS
    assert np.allclose(many.column("loss"), one.column("loss"), rtol=1e-6, atol=0)
    assert many.column("tokens") == one.column("tokens")
    assert many.column("loss")[-1] < many.column("loss")[0]
    assert all(line.get("comm_ms", -1) >= 0 for line in many.steps) == (ranks > 1)
    assert not any("comm_ms" in line for line in one.steps)


@pytest.mark.parametrize("ranks, threads, again", [(1, 2, 0), (1, 3, 0), (1, 1, 1), (2, 2, 0), (2, 1, 1)])
def test_same_bits(runs, ranks, threads, again):
    """Log, weights and optimizer state are bit-identical for any number of threads and when a run
    is repeated."""
    expected, found = runs(ranks=ranks)[0], runs(ranks=ranks, threads=threads, again=again)[0]
    assert stable_log(found) == stable_log(expected)
    assert state_bytes(checkpoint(found, STEPS)) == state_bytes(checkpoint(expected, STEPS))


def test_seed_and_shuffle_change_losses(runs):
    """Otherwise the comparisons above would prove nothing."""
    assert read_log(runs()[0]).column("loss") != read_log(runs(seed=6)[0]).column("loss")
    assert read_log(runs()[0]).column("loss") != read_log(runs(shuffle=0)[0]).column("loss")


def test_placement(runs):
    """Rank 0 prints the placement of ranks and threads and warns about oversubscribed cores."""
    out = runs(ranks=2)[1].out
    assert re.search(r"(?i)numa", out), out
    cores = len(os.sched_getaffinity(0))
    assert ("warning: cores are oversubscribed" in out) == (cores < 2), out
    crowded = runs(ranks=2, threads=cores)[1].out
    assert "warning: cores are oversubscribed" in crowded, crowded


def test_two_ranks_under_sanitizers(tiny, runs, tmp_path):
    run(tiny(tmp_path / "run", global_batch=8, steps=4, shuffle=1), ranks=2, threads=2, build="asan")
    losses = read_log(tmp_path / "run").column("loss")
    assert np.allclose(losses[:2], read_log(runs()[0]).column("loss")[:2], rtol=1e-5)
