"""plan: planned memory against the measured peak of runs, planned messages against counted MPI
calls, planned time against the benchmark tables of Fugaku-LLM.

    build/venv/bin/python test/test_plan.py /tmp [--fit]    prints the tables; --fit refits the
                                                            constants first
"""
import json
import subprocess
import sys
from pathlib import Path

import pytest

import support
from support import arguments, fails, read_log, run

# --------------------------------------------------------------------------------------------------
# Fugaku-LLM's own measurements, from the benchmark tables in the history of the DeepSpeedFugaku
# repository: 30B of 27 June 2023 and 1.3B with PyTorch 1.10. One rank per node, 2.0 GHz,
# micro-batch 1.

SIZES = {
    "30b": dict(model="30b", global_batch=1536, pp=48, recompute="layer"),
    "30b, 78 heads": dict(model="30b", channels=7176, heads=78, global_batch=1536, pp=48, recompute="layer"),
    "1.3b": dict(model="1.3b", global_batch=1024),
}
ROWS = [  # size, nodes, tp, seconds per step
    ("30b", 192, 4, 3534.9), ("30b", 384, 4, 1841.6), ("30b", 768, 4, 982.8), ("30b", 1152, 4, 701.7),
    ("30b", 1536, 4, 558.7), ("30b", 3072, 4, 353.8), ("30b", 6144, 4, 252.1),
    ("30b, 78 heads", 576, 6, 1517.0), ("30b, 78 heads", 1152, 6, 806.3), ("30b, 78 heads", 2304, 6, 465.2),
    ("30b, 78 heads", 4608, 6, 297.2),
    ("1.3b", 4, 4, 2533.0), ("1.3b", 4, 4, 2857.8), ("1.3b", 64, 4, 162.5), ("1.3b", 256, 4, 43.3),
    ("1.3b", 1024, 4, 14.5), ("1.3b", 2048, 4, 8.6), ("1.3b", 4096, 4, 5.2),
]
# Three constants, fitted by fit() below: the fraction of FP32 peak for each model size, and one
# bandwidth for all messages.
EFFICIENCY = {"30b": 0.311, "1.3b": 0.365}
BANDWIDTH = 0.8e9


def fugaku_then(efficiency, bandwidth):
    """Fugaku as in those runs: 2.0 GHz, no overlap, one effective bandwidth for all messages."""
    figures = dict(cores=48, ranks_per_node=1, peak_flops=6.144e12, efficiency=efficiency, memory=30739333120,
                   base_memory=300e6, memory_bandwidth=804e9, latency=2e-6, bandwidth=bandwidth, links=1,
                   injection=bandwidth, node_latency=1e-6, node_bandwidth=bandwidth, overlap=0)
    return {"name": "fugaku, 2023", **{name: {"value": value, "from": "test"} for name, value in figures.items()}}


def plan(folder, machine=None, **options):
    if isinstance(machine, dict):
        path = Path(folder) / "machine.json"
        path.write_text(json.dumps(machine))
        machine = path
    out = run(arguments("plan", machine=machine, **options) + ["--json"]).out
    return [json.loads(line) for line in out.splitlines()]


def planned_seconds(folder, size, nodes, tp, efficiency, bandwidth):
    return plan(folder, fugaku_then(efficiency, bandwidth), nodes=nodes, tp=tp, micro_batch=1, overlap=0,
                **SIZES[size])[0]["step_s"]


def size_of(row):
    return row[0].split(",")[0]


def test_fugaku_tables(tmp_path):
    """One efficiency per model size and one bandwidth reproduce all 18 rows within 20 %."""
    for row in ROWS:
        size, nodes, tp, seconds = row
        planned = planned_seconds(tmp_path, size, nodes, tp, EFFICIENCY[size_of(row)], BANDWIDTH)
        assert abs(planned / seconds - 1) < 0.2, (row, planned)


# --------------------------------------------------------------------------------------------------
# Memory: the prediction of `plan`, with a machine file from `plan --measure`, against the measured
# peak of runs. With 15 million parameters, the program and MPI take 5 to 20 % of a rank's memory.

SHAPE = dict(layers=4, heads=8, channels=512, seq_len=128, micro_batch=2, vocab_size=4096)
LLAMA = dict(family="llama", kv_heads=2, mlp_channels=1400, tied=0)
QWEN3 = dict(family="qwen3", kv_heads=1, tied=1)
RUNS = {
    "one rank": (1, dict(global_batch=4)),
    "dp": (4, dict()),
    "dp by messages": (4, dict(share_memory=0)),
    "zero by messages in BF16": (4, dict(share_memory=0, zero=1, reduce_dtype="bf16")),
    "zero": (4, dict(zero=1)),
    "tp": (4, dict(tp=4)),
    "pp": (4, dict(pp=4, global_batch=8)),
    "tp, pp, recompute": (4, dict(tp=2, pp=2, recompute="layer", global_batch=4)),
    "reproducible": (2, dict(global_batch=8, reproducible=True)),
    "llama": (1, dict(**LLAMA, global_batch=4)),
    "llama, tied": (1, dict(LLAMA, tied=1, global_batch=4)),
    "llama, zero": (4, dict(**LLAMA, zero=1)),
    "llama, tp 4 of 2 KV heads": (4, dict(**LLAMA, tp=4)),
    "llama, pp": (2, dict(**LLAMA, pp=2, global_batch=8)),
    "qwen3, tp, pp": (4, dict(**QWEN3, tp=2, pp=2, recompute="layer", global_batch=4)),
}


def options_of(name):
    """The options of a run; arguments() takes a flag as an empty list."""
    return {key: [] if value is True else value for key, value in RUNS[name][1].items()}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    path = tmp_path_factory.mktemp("machine") / "here.json"
    result = run(arguments("plan", **SHAPE, out=path) + ["--measure"], ranks=2)
    assert "wrote" in result.out and result.out.count("classifier") == 1
    return path


@pytest.fixture(scope="module")
def facts(machine, tmp_path_factory):
    """facts(name) -> (plan made before the run, plan in the last line of its log, run folder)."""
    tokens = support.write_pair(tmp_path_factory.mktemp("tokens") / "tokens", support.random_documents(2, 9000, 4096))
    made = {}

    def make(name):
        if name not in made:
            ranks, out = RUNS[name][0], tmp_path_factory.mktemp("run") / "run"
            options = {**SHAPE, **options_of(name)}
            run(arguments("train", **options, data=tokens, out=out, steps=2, eval_every=0, save_every=0,
                          machine=machine), ranks=ranks)
            planned, = plan(out, machine=machine, nodes=1, ranks_per_node=ranks, **options)
            last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
            made[name] = planned, last["plan"], out
        return made[name]
    return make


@pytest.mark.parametrize("name", RUNS)
def test_memory(facts, name):
    """The planned memory of the largest rank is within 3 % of its peak, and so is the ledger of
    each rank."""
    planned, fact, _ = facts(name)
    assert abs(planned["peak_bytes"] / fact["measured_bytes"] - 1) < 0.03, (planned["stages"], fact)
    assert fact["largest_difference"] < 0.03, fact
    assert planned["step_s"] > 0 and fact["planned_step_ms"] > 0 and fact["measured_step_ms"] > 0


def test_zero_shards_the_optimizer_state(facts):
    """With ZeRO-1 on 4 ranks, each rank holds a quarter of AdamW's state, in the plan and in the
    difference of the measured peaks."""
    (all_planned, all_fact, _), (zero_planned, zero_fact, _) = facts("dp"), facts("zero")
    full, quarter = (p["stages"][0]["memory"]["AdamW's state"] for p in (all_planned, zero_planned))
    updated, sharded = (p["stages"][0]["updated"] for p in (all_planned, zero_planned))
    assert 0 <= 4 * sharded - updated < 0.001 * updated
    # two arrays, each rounded up to huge pages
    assert 0 <= 4 * quarter - full <= 4 * 2 * (2 << 20)
    planned = all_planned["peak_bytes"] - zero_planned["peak_bytes"]
    measured = all_fact["measured_bytes"] - zero_fact["measured_bytes"]
    assert planned > 0.6 * full - zero_planned["stages"][0]["memory"]["gradients, owned shard"]
    assert abs(planned / measured - 1) < 0.05, (planned, measured)


def test_plan_against_run(facts, machine, tmp_path):
    """plan --run makes a plan from the log alone and compares it with the measurements."""
    planned, fact, out = facts("tp, pp, recompute")
    text = run(arguments("plan", run=out, machine=machine)).out
    assert "tp 2, pp 2, dp 1" in text and "recompute layer" in text
    assert f"planned {planned['peak_bytes'] / 2 ** 20:12.2f} MiB, measured {fact['measured_bytes'] / 2 ** 20:12.2f}" in text
    assert f"measured {fact['measured_step_ms']:12.2f} ms" in text
    assert "give --machine" in run(arguments("plan", run=out)).out
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    for lines, word in ([[], "first line"], [["{}"], "first line"], [["[]"], "first line"],
                        [["{"], "first line"], [['{"program": "train_gpt"}', '{"step": 1, "plan": {}}'], "layers"],
                        [(out / "log.jsonl").read_text().splitlines()[:3], "not finished"]):
        (unfinished / "log.jsonl").write_text("".join(line + "\n" for line in lines))
        fails(arguments("plan", run=unfinished), 1, word)


def test_closing_line_of_log(tiny, tmp_path):
    """A finished run has one closing line. It is removed when the run resumes, and kept if there is
    nothing left to do."""
    def ends():
        return [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()[1:]
                if "plan" in json.loads(line)]
    run(tiny(tmp_path / "run", steps=4))
    assert ends() == [4]
    run(tiny(tmp_path / "run", steps=8))
    assert ends() == [8]
    log = (tmp_path / "run/log.jsonl").read_bytes()
    run(tiny(tmp_path / "run", steps=8))
    assert (tmp_path / "run/log.jsonl").read_bytes() == log
    assert len(read_log(tmp_path / "run").steps) == 8


# --------------------------------------------------------------------------------------------------
# Messages: planned counts against MPI calls counted by a preloaded library

@pytest.fixture(scope="session")
def counter(tmp_path_factory):
    library = tmp_path_factory.mktemp("counter") / "count_messages.so"
    subprocess.run(["mpicc", "-shared", "-fPIC", "-o", library, support.ROOT / "test/count_messages.c"], check=True)
    return library


GRIDS = {
    "tp": (4, dict(tp=4)),
    "tp, recompute": (4, dict(tp=2, recompute="layer", heads=4, global_batch=4)),
    "pp": (4, dict(pp=4, micro_batch=1, global_batch=4)),
    "pp 2": (4, dict(pp=2, tp=2, global_batch=6)),
    "dp": (4, dict(share_memory=0, global_batch=8)),
    "zero": (4, dict(share_memory=0, zero=1, global_batch=8)),
    "dp, bf16": (4, dict(share_memory=0, reduce_dtype="bf16", global_batch=8)),
    "zero, bf16": (4, dict(share_memory=0, zero=1, reduce_dtype="bf16", global_batch=8)),
    "shared": (4, dict(zero=1, global_batch=8)),
    "llama, tp": (4, dict(tp=4, family="llama", kv_heads=2, tied=0)),
    "llama, pp 2": (4, dict(tp=2, pp=2, family="llama", kv_heads=1, tied=0, global_batch=6)),
    "qwen3, tp": (4, dict(tp=4, family="qwen3", kv_heads=2)),
}
CALLS = {  # MPI function: kinds of messages in the plan
    "MPI_Iallreduce": ["tp: sums of the stream", "tp: shared KV heads", "tp: QK-norm gradients", "dp: sum of gradients",
                       "pp: tied embedding"],
    "MPI_Iallgather": ["tp: softmax sums"],
    "MPI_Isend": ["pp: stream, gradient"],
    "MPI_Ireduce_scatter": ["dp: gradients scattered"],
    "MPI_Iallgatherv": ["dp: weights gathered"],
}
CALLS_BF16 = {  # chunks are exchanged, then, without ZeRO, their sums gathered
    "MPI_Ialltoallv": ["dp: sum of gradients", "dp: gradients scattered"],
    "MPI_Iallgatherv": ["dp: sum of gradients", "dp: weights gathered"],
}


def counted(tiny, counter, folder, ranks, steps, options):
    """For each rank of a run: {MPI function: (calls, bytes)}."""
    counts = folder / f"counts-{steps}"
    counts.mkdir()
    run(tiny(folder / f"run-{steps}", **{"layers": 5, "heads": 4, **options, "steps": steps, "save_every": 0}),
        ranks=ranks, env={"LD_PRELOAD": str(counter), "COUNT_MESSAGES": str(counts)})
    return [{call: (int(n), int(size)) for call, n, size in
             (line.split() for line in (counts / str(rank)).read_text().splitlines())} for rank in range(ranks)]


@pytest.mark.parametrize("grid", GRIDS)
def test_messages(tiny, counter, tmp_path, grid):
    """Calls and bytes of one step, as the difference between a run of 3 steps and one of 2, match
    the plan on every stage."""
    ranks, options = GRIDS[grid]
    shape = {key: tiny.shape[key] for key in ("heads", "channels", "seq_len", "micro_batch", "global_batch")}
    planned, = plan(tmp_path, nodes=1, ranks_per_node=ranks, vocab_size=tiny.shape["vocab_size"],
                    **{**shape, "layers": 5, "heads": 4, **options})
    two, three = (counted(tiny, counter, tmp_path, ranks, steps, options) for steps in (2, 3))
    tp, pp = options.get("tp", 1), options.get("pp", 1)
    assert grid == "shared" or any(stage["messages"] for stage in planned["stages"])
    for rank in range(ranks):
        messages = planned["stages"][rank // tp % pp]["messages"]
        for call, kinds in (CALLS_BF16 if "bf16" in grid else CALLS).items():
            found = [three[rank].get(call, (0, 0))[i] - two[rank].get(call, (0, 0))[i] for i in (0, 1)]
            # the plan describes the last tensor-parallel rank, whose vocabulary shard may be one
            # token larger than the others
            expected = [sum(messages[kind][what] for kind in kinds if kind in messages) for what in ("calls", "bytes")]
            if grid == "shared":
                expected = [0, 0]  # all data-parallel ranks share one host: no messages
            spare = 4 * 24 * (call == "MPI_Iallreduce" and "pp" in grid and rank % tp < tp - 1)
            assert found[0] == expected[0] and abs(found[1] - expected[1]) <= spare, (rank, call, found, expected)


# --------------------------------------------------------------------------------------------------
# The command

def test_search(tmp_path):
    """Proposals fit in memory, are sorted by time, and equal the plan of the same options."""
    size = dict(model="1.3b", nodes=64, global_batch=1024, machine="fugaku")
    found = plan(tmp_path, **size, search=[])
    assert len(found) == 10
    assert [p["step_s"] for p in found] == sorted(p["step_s"] for p in found)
    for proposal in found:
        assert proposal["tp"] * proposal["pp"] * proposal["dp"] == 256 and 32 % proposal["tp"] == 0
        assert proposal["peak_bytes"] <= proposal["rank_bytes"] == 30739333120 / 4
        same, = plan(tmp_path, **size, **{key: proposal[key] for key in
                                          ("tp", "pp", "micro_batch", "recompute", "recompute_stages", "zero")})
        assert same == proposal
    fails(arguments("plan", **{**size, "nodes": 1, "model": "30b", "search": []}), 1, "fits")


def test_budget_and_sources():
    text = run(arguments("plan", model="13b", nodes=288, machine="fugaku", tp=9, pp=8, global_batch=1152,
                         tokens_budget=380e9, micro_batch=1, recompute="layer", recompute_stages=4, zero=1)).out
    assert "days" in text and "MFU" in text and "bubble" in text
    assert "assumed" in text and "IMB on Fugaku" in text
    assert "[counted by the allocation code]" in text and "critical stage" in text
    assert "DOES NOT FIT" not in text
    assert "DOES NOT FIT" in run(arguments("plan", model="30b", machine="fugaku")).out
    assert "no times: give --machine" in run(arguments("plan", model="124m")).out


def test_efficiency_scales_compute(tmp_path):
    """Doubling the efficiency halves the compute time. With equal stages, the 1F1B bubble is
    (pp - 1) slots."""
    shape = dict(layers=8, heads=8, channels=512, seq_len=256, vocab_size=2, nodes=4, pp=4, micro_batch=1,
                 global_batch=8, machine=fugaku_then(0.5, 1e15))
    slow, = plan(tmp_path, **shape)
    fast, = plan(tmp_path, **shape, efficiency=1)
    assert fast["compute_s"] == pytest.approx(slow["compute_s"] / 2)
    assert slow["bubble_s"] == pytest.approx(3 / 8 * slow["compute_s"], rel=0.05)
    tokens = 8 * 256
    operations = (6 * 12 * 8 * 512 ** 2 + 6 * 8 * 256 * 512) * tokens / 4  # of a stage
    assert slow["compute_s"] == pytest.approx(operations / (0.5 * 6.144e12), rel=0.01)


def test_measured_file(machine, tmp_path):
    figures = json.loads(machine.read_text())
    for name in "peak_flops", "efficiency", "memory_bandwidth", "base_memory", "node_bandwidth":
        assert figures[name]["value"] > 0 and figures[name]["from"].startswith("measured"), name
    assert len(figures["sums_inside"]) == 8 and len(figures["gemm"]) == 12
    for change, word in [({"efficiency": None}, "efficiency"), ({"efficiency": {"value": 2, "from": ""}}, "efficiency"),
                         ({"links": {"value": 1}}, "links"), ({"name": 5}, "name"), ({"cores": 3}, "cores"),
                         ({"bandwidth": {"value": "1", "from": ""}}, "bandwidth")]:
        broken = tmp_path / "broken.json"
        broken.write_text(json.dumps({**figures, **change}))
        fails(arguments("plan", model="124m", machine=broken), 2, "broken.json", word)
    (tmp_path / "broken.json").write_text('{"name":')
    fails(arguments("plan", model="124m", machine=tmp_path / "broken.json"), 2, "broken.json")


@pytest.mark.parametrize("options, words", [
    (dict(), ["plan needs --model"]),
    (dict(model="124m", machine="k"), ["k", "fugaku", "--measure"]),
    (dict(model="124m", tp=5), ["--tp 5"]),
    (dict(model="124m", tp=8, nodes=8), ["--tp 8", "12 heads"]),
    (dict(model="124m", pp=13, nodes=13), ["--pp 13", "12 layers"]),
    (dict(model="124m", global_batch=6, nodes=4, micro_batch=1), ["--global-batch 6"]),
    (dict(model="124m", search=[]), ["--global-batch"]),
    (dict(model="124m", measure=[]), ["--out"]),
    (dict(model="124m", efficiency=1.5), ["--efficiency"]),
])
def test_rejected_options(options, words):
    status = 1 if "measure" in options else 2
    fails(arguments("plan", **options), status, *words)


# --------------------------------------------------------------------------------------------------

def fit(folder):
    """The constants that minimize the largest relative error. For a given bandwidth, the time of a
    row is a / efficiency + b, known from two plans; the best efficiency of a model size balances
    its two worst rows."""
    best = None
    for bandwidth in [0.4e9 * 1.08 ** i for i in range(22)]:
        lines = []
        for size, nodes, tp, seconds in ROWS:
            fast, slow = (planned_seconds(folder, size, nodes, tp, e, bandwidth) for e in (1, 0.2))
            a = (slow - fast) / 4
            lines.append((a / seconds, (fast - a) / seconds))
        efficiencies, worst = {}, 0
        for name in EFFICIENCY:
            mine = [line for line, row in zip(lines, ROWS) if size_of(row) == name]
            errors = {x / 1000: max(abs(a * 1000 / x + b - 1) for a, b in mine) for x in range(100, 700)}
            efficiencies[name] = min(errors, key=errors.get)
            worst = max(worst, errors[efficiencies[name]])
        print(f"bandwidth {bandwidth / 1e9:.3f} GB/s: efficiencies {efficiencies}, largest error {worst:.3f}")
        if best is None or worst < best[0]:
            best = worst, bandwidth, efficiencies
    return best


def print_tables(folder, bandwidth, efficiencies):
    """Prints Fugaku-LLM's measurements, the plan of the same runs, and this program's fastest grid
    that fits: 4 ranks per node, 2.2 GHz, at an assumed 0.6 of peak (`plan --machine fugaku` lists
    all assumptions)."""
    print("size           nodes  tp  measured s   planned s   error    this program s  times  grid")
    for row in ROWS:
        size, nodes, tp, seconds = row
        planned = planned_seconds(folder, size, nodes, tp, efficiencies[size_of(row)], bandwidth)
        options = {key: value for key, value in SIZES[size].items() if key not in ("pp", "recompute")}
        line = f"{size:14s} {nodes:5d} {tp:3d} {seconds:11.1f} {planned:11.1f} {planned / seconds - 1:+7.1%} "
        for per_node in 4, 2, 1:  # with fewer ranks, each has more memory
            own = run(arguments("plan", **options, nodes=nodes, machine="fugaku", ranks_per_node=per_node)
                      + ["--search", "--json"], check=False, timeout=600)
            if own.status == 0:
                break
        best = json.loads(own.out.splitlines()[0])
        grid = "tp {tp} pp {pp} dp {dp} micro-batch {micro_batch} recompute {recompute} {recompute_stages} zero {zero}"
        print(line, f"{best['step_s']:13.2f} {seconds / best['step_s']:6.1f} ", grid.format(**best),
              f"{per_node} ranks per node")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp")
    if "--fit" in sys.argv:
        _, BANDWIDTH, EFFICIENCY = fit(folder)
    print_tables(folder, BANDWIDTH, EFFICIENCY)
