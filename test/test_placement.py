"""Placement of ranks and threads, on this machine and on a simulated Fugaku node
(test/fake_machine.c: cores 12-59, NUMA domains 4-7 of 12 cores each). Affinity masks are compared
core by core; nothing is timed.
"""
import os
import re
import subprocess

import pytest

from support import ROOT, run

CMGS = {4 + i: (12 + 12 * i, 23 + 12 * i) for i in range(4)}


@pytest.fixture(scope="module")
def fugaku(tmp_path_factory):
    """fugaku(cores, **more): the environment of a process on a Fugaku node, restricted to these
    cores."""
    folder = tmp_path_factory.mktemp("fake")
    library = folder / "fake_machine.so"
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1", "-o", library,
                    ROOT / "test/fake_machine.c", "-ldl"], check=True)
    for domain, (first, last) in CMGS.items():
        for core in range(first, last + 1):
            (folder / f"node{domain}/cpu{core}").mkdir(parents=True)
        (folder / f"node{domain}/cpulist").touch()
    (folder / "node0").mkdir()  # the domain of the assistant cores, without compute cores

    def environment(cores="12-59", **more):
        return {"LD_PRELOAD": str(library), "FAKE_SYSFS": str(folder), "FAKE_CORES": cores, **more}
    return environment


@pytest.fixture
def placed(tiny, tmp_path):
    """placed(ranks, threads, env) -> (placement of each rank, warnings), as printed. A placement is
    a tuple (NUMA domain, cores, binding, threads, one thread per core?)."""
    def make(ranks, threads, env=None, prefix=(), **options):
        one_step = {"steps": 1, "warmup_steps": 0, "save_every": 0, "global_batch": 2 * ranks}
        result = run(tiny(tmp_path / "run", **one_step, **options), ranks=ranks, threads=threads,
                     env={"OMP_PROC_BIND": "false", **(env or {})}, prefix=prefix)
        lines = re.findall(r"^rank \d+: host \S+, NUMA domain (\S+), cores (\S+) \((.*)\), (\d+) threads?"
                           r"(, one per core)?$", result.out, re.M)
        assert len(lines) == ranks, result.out
        return ([(domain, cores, binding, int(threads), bool(each)) for domain, cores, binding, threads, each in lines],
                re.findall(r"^warning: (.*)$", result.out, re.M))
    return make


def test_cmgs(placed, fugaku):
    """Four unbound ranks of 12 threads: one rank per CMG, one thread per core, no warnings."""
    ranks, warnings = placed(4, 12, fugaku())
    assert ranks == [(str(domain), f"{first}-{last}", "bound by train_gpt", 12, True)
                     for domain, (first, last) in CMGS.items()]
    assert warnings == []


def test_two_ranks_over_four_cmgs(placed, fugaku):
    ranks, warnings = placed(2, 24, fugaku())
    assert ranks == [("4-5", "12-35", "bound by train_gpt", 24, True), ("6-7", "36-59", "bound by train_gpt", 24, True)]
    assert len(warnings) == 1 and "more than one NUMA domain (4-5)" in warnings[0]


def test_half_the_cores(placed, fugaku):
    """Fewer threads than cores: each rank is bound to its CMG; threads may migrate within it."""
    ranks, warnings = placed(4, 6, fugaku())
    assert ranks == [(str(domain), f"{first}-{last}", "bound by train_gpt", 6, False)
                     for domain, (first, last) in CMGS.items()]
    assert warnings == []


@pytest.mark.parametrize("variable, name", [("PLE_RANK_ON_NODE", "PJM"), ("SLURM_STEP_ID", "Slurm"), (None, "Hydra")])
def test_launcher(placed, fugaku, variable, name):
    """A binding by the launcher is kept; within it, each thread is pinned to a core."""
    masks = {f"FAKE_CORES_RANK{rank}": "{}-{}".format(*CMGS[7 - rank]) for rank in range(4)}
    ranks, warnings = placed(4, 12, fugaku(**masks, **({variable: "0"} if variable else {})))
    assert ranks == [(str(7 - rank), "{}-{}".format(*CMGS[7 - rank]), f"bound by {name}", 12, True) for rank in range(4)]
    assert warnings == []


def test_wrong_binding(placed, fugaku):
    """All ranks on one CMG, as after a wrong numactl command: reported, not changed."""
    ranks, warnings = placed(4, 12, fugaku("24-35"))
    assert [rank[:2] for rank in ranks] == [("5", "24-35")] * 4 and not any(each for *_, each in ranks)
    assert len(warnings) == 1 and "cores are oversubscribed: 4 ranks, first rank 0 on cores 24-35" in warnings[0]
    assert "with 36 more threads than cores" in warnings[0]


def test_binding_disabled(placed, fugaku):
    ranks, warnings = placed(4, 12, fugaku(), bind=0)
    assert ranks == [("4-7", "12-59", "not bound", 12, False)] * 4
    assert len(warnings) == 1 and "first rank 0, may run on more than one NUMA domain (4-7)" in warnings[0]


def test_threads_by_default(placed, fugaku, tiny):
    """Without OMP_NUM_THREADS, the ranks of a node share its cores evenly."""
    ranks, warnings = placed(4, 12, fugaku(), prefix=["env", "-u", "OMP_NUM_THREADS"])
    assert [rank[3] for rank in ranks] == [12] * 4 and warnings == []


def test_remote_memory(placed, fugaku):
    """Memory that a NUMA policy placed on another domain is detected after allocation."""
    ranks, warnings = placed(4, 12, fugaku(FAKE_MEMORY="4"), channels=192, heads=3, seq_len=64)
    assert len(warnings) == 1, warnings
    assert "memory is on remote NUMA domains: 3 ranks, first rank 1 with 100 % of sampled pages outside NUMA domain 5" in \
        warnings[0]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_this_machine(placed):
    """On the real machine: one rank per core is pinned to that core; with fewer ranks, none is
    bound."""
    cores = sorted(os.sched_getaffinity(0))
    ranks, _ = placed(len(cores), 1)
    assert [rank[1:3] for rank in ranks] == [(str(core), "bound by train_gpt") for core in cores]
    ranks, _ = placed(1, 1)
    assert ranks[0][2] != "bound by train_gpt" and not ranks[0][1] == str(cores[0])
    ranks, _ = placed(1, len(cores))
    assert ranks[0][3:] == (len(cores), True)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_openmp_binds(placed):
    """A binding by OpenMP (OMP_PROC_BIND) is kept and reported."""
    cores = len(os.sched_getaffinity(0))
    ranks, warnings = placed(1, cores, {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"})
    assert ranks[0][2:] == ("bound by OpenMP", cores, True) and warnings == []
    ranks, warnings = placed(2, 1, {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"})
    assert ranks[0][1] == ranks[1][1] and len(warnings) == 1 and "cores are oversubscribed" in warnings[0]
