#!/usr/bin/env python3
"""Measures train_gpt beside its peers, alternating in one run, medians; installs and builds no peer.

    build/venv/bin/python scripts/bench.py [gemm] [step] [ranks] [overlap] [--threads 1 2] [--rounds 3] [--llmc DIR...]
                                           [--rate 1gbit] [--delay 0.2]

gemm: the matrix products of GPT-2 124M against OpenBLAS (Debian's libopenblas0).
step: a training step of GPT-2 124M, FP32, of 4 x 64 and of 1 x 1024 tokens, against PyTorch (transformers) and llm.c's CPU
      trainer: each DIR holds its train_gpt2.c, the built `train_gpt2` and the data files it opens. It has the batch
      4 x 64 built in; a second DIR may have B = 1 and T = 1024 put in their place. Also peak memory, and the rate as
      a share of OpenBLAS's own 2048^3 product.
ranks: a step of GPT-2 124M, batch 2 x 512: 2 ranks of 1 thread against 1 rank of 2 threads.
overlap: 4 ranks, two on each of two hosts (scripts/two_hosts.sh, for root) with a cable of --rate and --delay milliseconds
      between them: the time that a step waits for messages, with --overlap 0 and with --overlap 1.
--short takes a tiny model for these two, to see that they run.
A peer that is not there is skipped with a word.
"""
import argparse
import ctypes.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS, CHANNELS, VOCAB = 12, 768, 50257
# 29.5 million parameters: gradients of 118 MB; each host sends as much to the other.
OVERLAP_MODEL = ["--layers", 8, "--heads", 8, "--channels", 512]
SHORT_MODEL = ["--layers", 2, "--heads", 2, "--channels", 64]

TORCH_STEP = """
import sys, time, torch, transformers
B, T, threads, steps = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
tokens = torch.randint(0, 50257, (B, T + 1))
for step in range(steps):
    start = time.perf_counter()
    logits = model(tokens[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(B * T, -1), tokens[:, 1:].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    print(time.perf_counter() - start, flush=True)
"""

# PEAK COMMAND...: runs the command and writes its peak memory in KiB.
MEASURE_MEMORY = """
import pathlib, resource, subprocess, sys
subprocess.run(sys.argv[2:], check=True)
pathlib.Path(sys.argv[1]).write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def environment(threads):
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}


def openblas():
    return ctypes.util.find_library("openblas")


def bench_gemm(threads):
    """Runs build/bench_gemm; returns OpenBLAS's 2048^3 rate in FLOP/s, None without OpenBLAS."""
    library = openblas()
    if not library:
        print("OpenBLAS is not there (Debian: libopenblas0): skipped")
        return None
    subprocess.run(["make", "-s", "build/bench_gemm"], cwd=ROOT, check=True)
    print(f"-- matrix products, {threads} thread(s)", flush=True)
    result = subprocess.run([ROOT / "build/bench_gemm", library], env=environment(threads), check=True, text=True,
                            capture_output=True)
    print(result.stdout, end="", flush=True)
    return square_rate(result.stdout)


def square_rate(text):
    return 1e9 * float(re.search(r"2048\^3: ([0-9.]+)", text).group(1))


def make_tokens(path, count, vocab):
    """An llm.c shard of made-up tokens: the step's time does not depend on what they say."""
    import numpy as np
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, count
    tokens = np.random.default_rng(0).integers(0, vocab, count).astype(np.uint16)
    path.write_bytes(header.tobytes() + tokens.tobytes())


def train(data, out, *options, launcher=(), threads=1):
    """The lines of the log of each step after the first."""
    command = [*launcher, ROOT / "train_gpt", "train", "--data", data, "--out", out, "--eval-every", 0, "--save-every", 0,
               *options]
    subprocess.run(list(map(str, command)), env=environment(threads), check=True, stdout=subprocess.DEVNULL)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in log if "loss" in line][1:]


def step_ours(data, folder, B, T, threads, steps):
    """Seconds of each step after the first, and the peak memory in GiB."""
    peak = folder / "peak"
    lines = train(data, Path(tempfile.mkdtemp(dir=folder)), "--model", "124m", "--seq-len", T, "--micro-batch", B, "--steps",
                  steps, launcher=(sys.executable, "-c", MEASURE_MEMORY, peak), threads=threads)
    return [line["step_ms"] / 1e3 for line in lines], int(peak.read_text()) / 2**20


def step_torch(B, T, threads, steps):
    result = subprocess.run([sys.executable, "-c", TORCH_STEP, *map(str, (B, T, threads, steps))], env=environment(threads),
                            check=True, text=True, capture_output=True)
    return [float(line) for line in result.stdout.split()][1:]


def llmc_batch(folder):
    """The batch that a folder's llm.c was built with, as its source says."""
    source = (Path(folder) / "train_gpt2.c").read_text()
    return tuple(int(re.search(rf"int {name} = (\d+);", source).group(1)) for name in "BT")


def step_llmc(folder, threads, steps):
    """llm.c prints the time of each step; it is stopped after some. stdbuf: line by line, though into a pipe."""
    with subprocess.Popen(["stdbuf", "-oL", Path(folder).resolve() / "train_gpt2"], cwd=folder, env=environment(threads),
                          text=True, stdout=subprocess.PIPE) as process:
        seconds = []
        for line in process.stdout:
            seconds += [float(ms) / 1e3 for ms in re.findall(r"took ([0-9.]+) ms", line)]
            if len(seconds) >= steps:
                process.kill()
                break
    return seconds[1:]


def has_torch():
    return subprocess.run([sys.executable, "-c", "import torch, transformers"], capture_output=True).returncode == 0


def bench_step(threads, rounds, folders):
    subprocess.run(["make", "-s", "train_gpt", "build/bench_gemm"], cwd=ROOT, check=True)
    torch = has_torch()
    if not torch:
        print("PyTorch with transformers is not there: skipped")
    if not folders:
        print("llm.c: no --llmc DIR given: skipped")
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    make_tokens(folder / "tokens.bin", 200_000, VOCAB)
    peers = {llmc_batch(llmc): llmc for llmc in folders}
    for B, T in (4, 64), (1, 1024):
        times, memory, rates = {"train_gpt": [], "PyTorch": [], "llm.c": []}, 0, []
        for _ in range(rounds):
            seconds, gib = step_ours(folder / "tokens.bin", folder, B, T, threads, 4)
            times["train_gpt"] += seconds
            memory = max(memory, gib)
            if torch:
                times["PyTorch"] += step_torch(B, T, threads, 3)
            if (B, T) in peers:
                times["llm.c"] += step_llmc(peers[B, T], threads, 3)
            if openblas():
                rates.append(square_rate(subprocess.run([ROOT / "build/bench_gemm", openblas(), "0"], text=True,
                                                        env=environment(threads), capture_output=True).stdout))
        ours = statistics.median(times["train_gpt"])
        flops = B * T * (6 * (12 * LAYERS * CHANNELS**2 + VOCAB * CHANNELS) + 6 * LAYERS * T * CHANNELS)
        print(f"-- step of GPT-2 124M, batch {B} x {T}, {threads} threads")
        print(f"train_gpt  {ours:8.3f} s  {1e-9 * flops / ours:6.1f} model GFLOP/s  peak memory {memory:.2f} GiB")
        if rates:
            print(f"           {100 * flops / ours / statistics.median(rates):.1f} % of OpenBLAS's 2048^3 rate, "
                  f"{1e-9 * statistics.median(rates):.1f} GFLOP/s")
        for peer in "PyTorch", "llm.c":
            if times[peer]:
                print(f"{peer:10s} {statistics.median(times[peer]):8.3f} s  train_gpt is "
                      f"{statistics.median(times[peer]) / ours:.2f} times as fast", flush=True)
    shutil.rmtree(folder)


def bench_ranks(rounds, model):
    subprocess.run(["make", "-s", "train_gpt"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        data = Path(folder) / "tokens.bin"
        make_tokens(data, 200_000, VOCAB)
        ways = {(1, 2): [], (2, 1): []}
        for round_ in range(rounds):
            for (ranks, threads), seconds in ways.items():
                launcher = ["mpirun", "-bind-to", f"core:{threads}", "-n", ranks] if ranks > 1 else []
                lines = train(data, Path(folder) / f"{ranks}-{round_}", *model, "--vocab-size", VOCAB, "--seq-len", 512,
                              "--micro-batch", 2 // ranks, "--global-batch", 2, "--steps", 5, launcher=launcher,
                              threads=threads)
                seconds += [line["step_ms"] / 1e3 for line in lines]
    one, two = map(statistics.median, ways.values())
    print(f"-- step of batch 2 x 512, {' '.join(map(str, model))}: 1 rank x 2 threads {one:.3f} s, "
          f"2 ranks x 1 thread {two:.3f} s, {one / two:.3f} times as fast")


def bench_overlap(rounds, model, rate, delay):
    subprocess.run(["make", "-s", "train_gpt"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        data = Path(folder) / "tokens.bin"
        make_tokens(data, 200_000, 8192)
        steps = {0: [], 1: []}
        for round_ in range(rounds):
            for overlap, lines in steps.items():
                lines += train(data, Path(folder) / f"{overlap}-{round_}", *model, "--vocab-size", 8192, "--seq-len", 256,
                               "--micro-batch", 4, "--global-batch", 16, "--steps", 6, "--overlap", overlap,
                               launcher=[ROOT / "scripts/two_hosts.sh", "--rate", rate, "--delay", delay, 2])
    waits, times = ([statistics.median(line[name] / 1e3 for line in steps[overlap]) for overlap in (0, 1)]
                    for name in ("comm_ms", "step_ms"))
    print(f"-- 4 ranks on two hosts, {rate} and {delay} ms between them; a step without overlap {times[0]:.3f} s, "
          f"{waits[0]:.3f} s of it waiting for messages; with overlap {times[1]:.3f} s, {waits[1]:.3f} s: "
          f"{100 * (1 - waits[1] / waits[0]):.0f} % of the wait is hidden, "
          f"{100 * (times[0] - times[1]) / waits[0]:.0f} % of it taken off the step")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="gemm, step, ranks, overlap; all by default")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="for gemm; step takes the largest")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llmc", nargs="+", default=[], metavar="DIR", help="folders of a built llm.c")
    parser.add_argument("--rate", default="1gbit", help="of the network between two hosts, as tc writes it")
    parser.add_argument("--delay", type=float, default=0.2, help="milliseconds from host to host")
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    known = ["gemm", "step", "ranks", "overlap"]
    what = args.what or known
    if not set(what) <= set(known):
        parser.error(f"the benchmarks are {', '.join(known)}")
    if "gemm" in what:
        for threads in args.threads:
            bench_gemm(threads)
    if "step" in what:
        bench_step(max(args.threads), args.rounds, args.llmc)
    if "ranks" in what:
        bench_ranks(args.rounds, SHORT_MODEL if args.short else ["--model", "124m"])
    if "overlap" in what:
        bench_overlap(args.rounds, SHORT_MODEL if args.short else OVERLAP_MODEL, args.rate, args.delay)


if __name__ == "__main__":
    main()
