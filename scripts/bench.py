#!/usr/bin/env python3
"""Measures train_gpt against its peers. Runs alternate, and medians are reported. A peer that is
not installed is skipped with a message; none is installed or built.

    build/venv/bin/python scripts/bench.py [sgemm] [gemm] [fp16] [step] [ranks] [overlap] [--threads 1 2]
                                           [--rounds 3] [--library BLAS.so...] [--llmc DIR...]
                                           [--rate 1gbit] [--delay 0.2] [--short]

sgemm: finds the fastest installed sgemm at 2048^3 and its fraction of the measured FMA peak.
      Candidates are Debian's OpenBLAS (libopenblas0), OpenBLAS and MKL from PyPI in this Python
      environment (scipy-openblas32, numpy, mkl), and each --library. OpenBLAS is tried with the core
      type that it detects and with all others that this CPU supports, because on a CPU newer than
      the library it falls back to SSE kernels.
gemm: the matrix products of GPT-2 124M against the fastest sgemm.
fp16: the same products and a step of GPT-2 124M with 1 x 1024 tokens in FP16 against FP32, on a CPU
      with FP16 arithmetic.
step: a training step in FP32 against PyTorch (transformers, SDPA): GPT-2 124M with 4 x 64 and with
      1 x 1024 tokens, also against llm.c's CPU trainer, and llm-jp-3-150m (Llama) with 1 x 1024.
      Each DIR contains llm.c's train_gpt2.c, the compiled `train_gpt2` and the data files it opens.
      llm.c is compiled for a batch of 4 x 64; a second DIR may be compiled for B = 1 and T = 1024.
      Also prints peak memory, and the rate as a fraction of the fastest sgemm and of the measured
      FMA peak.
ranks: a training step of GPT-2 124M with batch 2 x 512: 2 ranks with 1 thread each against 1 rank
      with 2 threads.
overlap: 4 ranks on two hosts (scripts/two_hosts.sh, needs root), connected by a link with --rate and
      --delay: the communication time of a step without and with overlap, in FP32 and in BF16.
--short: a tiny model for `ranks` and `overlap`, to check that they run.
"""
import argparse
import ctypes.util
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VOCAB = 50257  # of GPT-2
# 29.5 million parameters: 118 MB of gradients, and each host sends as much to the other
OVERLAP_MODEL = ["--layers", 8, "--heads", 8, "--channels", 512]
SHORT_MODEL = ["--layers", 2, "--heads", 2, "--channels", 64]

# The models of `step`: vocabulary, how PyTorch makes them, operations per token of B x T.
MODELS = {
    "124m": (VOCAB, "GPT2LMHeadModel(GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))",
             lambda T: 6 * (12 * 12 * 768**2 + VOCAB * 768) + 6 * 12 * T * 768),
    "llm-jp-3-150m": (99584, "LlamaForCausalLM(LlamaConfig(vocab_size=99584, hidden_size=512, intermediate_size=2048, "
                             "num_hidden_layers=12, num_attention_heads=8, max_position_embeddings=4096, "
                             "tie_word_embeddings=False))",
                      lambda T: 6 * (12 * (4 * 512**2 + 3 * 512 * 2048) + 99584 * 512) + 6 * 12 * T * 512),
}

TORCH_STEP = """
import sys, time, torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
B, T, threads, steps, vocab = map(int, sys.argv[1:6])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = eval(sys.argv[6])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
tokens = torch.randint(0, vocab, (B, T + 1))
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

# PEAK COMMAND...: runs the command and writes its peak memory in KiB to the file PEAK.
MEASURE_MEMORY = """
import pathlib, resource, subprocess, sys
subprocess.run(sys.argv[2:], check=True)
pathlib.Path(sys.argv[1]).write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def environment(threads):
    """The environment that sets this number of threads for train_gpt and for every BLAS."""
    names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
    return {**os.environ, **dict.fromkeys(names, str(threads))}


# --------------------------------------------------------------------------------------------------
# The fastest sgemm

@dataclass(frozen=True)
class Sgemm:
    name: str
    path: str
    core_type: str = ""  # OpenBLAS core type; if empty, the library detects it

    def __str__(self):
        return f"{self.name}, OPENBLAS_CORETYPE={self.core_type}" if self.core_type else self.name

    def run(self, threads, repeats):
        """Runs build/bench_gemm with this library."""
        env = environment(threads)
        if self.core_type:
            env["OPENBLAS_CORETYPE"] = self.core_type
        else:
            env.pop("OPENBLAS_CORETYPE", None)
            env.pop("OPENBLAS_L2_SIZE", None)
        return subprocess.run([ROOT / "build/bench_gemm", self.path, str(repeats)], env=env, text=True, capture_output=True)


@dataclass(frozen=True)
class Rate:
    flops: float  # at 2048^3, FLOP/s
    peak: float   # measured FMA peak, FLOP/s


# Relevant OpenBLAS core types, and the flag in /proc/cpuinfo that each requires.
CORE_TYPES = {"SapphireRapids": "amx_tile", "Cooperlake": "avx512_bf16", "SkylakeX": "avx512f", "Zen": "avx2",
              "Haswell": "avx2"}


def cpu_flags():
    match = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return set(match.group(1).split()) if match else set()


def core_types(flags, chosen=""):
    """The core types to try on a CPU with these flags, and the one set in the environment."""
    types = [name for name, flag in CORE_TYPES.items() if flag in flags]
    return types + [chosen] * (chosen != "" and chosen not in types)


def find_libraries():
    """(name, path) of each installed BLAS, from Debian and from this Python environment."""
    debian = ctypes.util.find_library("openblas")
    found = [("Debian's OpenBLAS", debian)] if debian else []
    for package, name, pattern in (("scipy_openblas32", "OpenBLAS of scipy-openblas32", "lib/libscipy_openblas*.so*"),
                                   ("numpy", "OpenBLAS of numpy", "../numpy.libs/libscipy_openblas*.so*")):
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            found += [(name, str(path)) for path in sorted(Path(spec.origin).parent.glob(pattern))[:1]]
    found += [("MKL", str(path)) for path in sorted((Path(sys.prefix) / "lib").glob("libmkl_rt.so*"))[:1]]
    return found


def sgemm_candidates(libraries, types):
    """Each library with its defaults, and each OpenBLAS with every core type."""
    candidates = []
    for name, path in libraries:
        openblas = "openblas" in name.lower() or "openblas" in Path(path).name
        candidates += [Sgemm(name, path, core_type) for core_type in ["", *(types if openblas else [])]]
    return candidates


def measure_sgemm(candidate, threads):
    """The Rate of a candidate, or the reason why it cannot be measured, as text."""
    result = candidate.run(threads, 0)
    if result.returncode < 0:
        return f"ended by signal {-result.returncode}"
    if result.returncode > 0:
        return (result.stderr.strip().splitlines() or ["failed"])[-1].removeprefix("bench_gemm: ")
    return parse_rate(result.stdout)


def parse_rate(text):
    rate, peak = re.search(r"2048\^3: ([0-9.]+) GFLOP/s, .* peak, ([0-9.]+) GFLOP/s", text).groups()
    return Rate(1e9 * float(rate), 1e9 * float(peak))


def fastest_sgemm(candidates, measure):
    """Prints the rate of each candidate and the fastest one, and returns the latter; None if no
    candidate works."""
    best, best_rate, peak = None, None, 0
    for candidate in candidates:
        rate = measure(candidate)
        if isinstance(rate, str):
            print(f"sgemm  {candidate}: skipped: {rate}", flush=True)
            continue
        print(f"sgemm  {candidate}: {1e-9 * rate.flops:.1f} GFLOP/s", flush=True)
        peak = max(peak, rate.peak)
        if best is None or rate.flops > best_rate.flops:
            best, best_rate = candidate, rate
    if best is None:
        print("no library with sgemm is installed (Debian: libopenblas0, PyPI: scipy-openblas32, mkl): skipped")
        return None
    print(f"fastest sgemm: {best}: {1e-9 * best_rate.flops:.1f} GFLOP/s, {100 * best_rate.flops / peak:.1f} % of "
          f"the measured FMA peak, {1e-9 * peak:.1f} GFLOP/s", flush=True)
    return best


def choose_sgemm(threads, more_libraries):
    """The fastest installed sgemm."""
    subprocess.run(["make", "-s", "build/bench_gemm"], cwd=ROOT, check=True)
    print(f"-- sgemm at 2048^3, {threads} thread(s)", flush=True)
    libraries = find_libraries() + [(Path(path).name, str(Path(path).resolve())) for path in more_libraries]
    candidates = sgemm_candidates(libraries, core_types(cpu_flags(), os.environ.get("OPENBLAS_CORETYPE", "")))
    return fastest_sgemm(candidates, lambda candidate: measure_sgemm(candidate, threads))


def bench_gemm(threads, more_libraries):
    library = choose_sgemm(threads, more_libraries)
    if library:
        print(f"-- matrix products against {library}, {threads} thread(s)", flush=True)
        print(library.run(threads, 11).stdout, end="", flush=True)


def bench_fp16(threads, rounds):
    subprocess.run(["make", "-s", "build/bench_gemm"], cwd=ROOT, check=True)
    print(f"-- FP16 products against FP32, {threads} thread(s)", flush=True)
    env = environment(threads)
    peak = subprocess.run([ROOT / "build/bench_gemm", "fp16", "0"], env=env, text=True, capture_output=True, check=True).stdout
    print(peak, end="", flush=True)
    if "emulated" in peak:
        print("this CPU has no FP16 arithmetic: skipped")
        return
    print(subprocess.run([ROOT / "build/bench_gemm", "fp16", "11"], env=env, text=True, capture_output=True).stdout, end="")
    times = {precision: [] for precision in ("fp32", "fp16")}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        data = Path(folder) / "tokens.bin"
        make_tokens(data, 20_000, VOCAB)
        for _ in range(rounds):
            for precision, seconds in times.items():
                seconds += step_ours("124m", data, Path(folder), 1, 1024, threads, 4, "--precision", precision)[0]
    medians = {precision: statistics.median(seconds) for precision, seconds in times.items()}
    print(f"step of 124m, 1 x 1024: FP32 {medians['fp32']:.2f} s, FP16 {medians['fp16']:.2f} s, "
          f"{medians['fp32'] / medians['fp16']:.2f} times as fast", flush=True)


# --------------------------------------------------------------------------------------------------
# Training steps

def make_tokens(path, count, vocab):
    """A shard of random tokens, of llm.c where they fit; step times do not depend on the data."""
    import numpy as np
    if vocab > 65536:
        sys.path.insert(0, str(ROOT / "test"))
        from support import write_pair
        write_pair(path, [np.random.default_rng(0).integers(0, vocab, count)], np.int32)
        return
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, count
    tokens = np.random.default_rng(0).integers(0, vocab, count).astype(np.uint16)
    path.write_bytes(header.tobytes() + tokens.tobytes())


def train(data, out, *options, launcher=(), threads=1):
    """The log lines of all steps after the first."""
    command = [*launcher, ROOT / "train_gpt", "train", "--data", data, "--out", out, "--eval-every", 0, "--save-every", 0,
               *options]
    subprocess.run(list(map(str, command)), env=environment(threads), check=True, stdout=subprocess.DEVNULL)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in log if "loss" in line][1:]


def step_ours(model, data, folder, B, T, threads, steps, *options):
    """Seconds per step, without the first step, and the peak memory in GiB."""
    peak = folder / "peak"
    lines = train(data, Path(tempfile.mkdtemp(dir=folder)), "--model", model, "--vocab-size",
                  MODELS[model][0], "--seq-len", T, "--micro-batch", B, "--steps", steps,
                  *options, launcher=(sys.executable, "-c", MEASURE_MEMORY, peak), threads=threads)
    return [line["step_ms"] / 1e3 for line in lines], int(peak.read_text()) / 2**20


def step_torch(model, B, T, threads, steps):
    vocab, code, _ = MODELS[model]
    result = subprocess.run([sys.executable, "-c", TORCH_STEP, *map(str, (B, T, threads, steps, vocab, code))],
                            env=environment(threads), check=True, text=True, capture_output=True)
    return [float(line) for line in result.stdout.split()][1:]


def llmc_batch(folder):
    """The batch size (B, T) in the source of the llm.c in a folder."""
    source = (Path(folder) / "train_gpt2.c").read_text()
    return tuple(int(re.search(rf"int {name} = (\d+);", source).group(1)) for name in "BT")


def step_llmc(folder, threads, steps):
    """Seconds per step as printed by llm.c, which is killed after `steps` steps. stdbuf enables
    line buffering."""
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


def bench_step(threads, rounds, folders, more_libraries):
    subprocess.run(["make", "-s", "train_gpt"], cwd=ROOT, check=True)
    library = choose_sgemm(threads, more_libraries)
    torch = has_torch()
    if not torch:
        print("PyTorch with transformers is not installed: skipped")
    if not folders:
        print("llm.c: no --llmc DIR given: skipped")
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    data = {"124m": folder / "tokens.bin", "llm-jp-3-150m": folder / "pair"}
    for model, path in data.items():
        make_tokens(path, 200_000, MODELS[model][0])
    peers = {("124m", *llmc_batch(llmc)): llmc for llmc in folders}
    for model, B, T in ("124m", 4, 64), ("124m", 1, 1024), ("llm-jp-3-150m", 1, 1024):
        times, memory, rates = {"train_gpt": [], "PyTorch": [], "llm.c": []}, 0, []
        for _ in range(rounds):
            seconds, gib = step_ours(model, data[model], folder, B, T, threads, 4)
            times["train_gpt"] += seconds
            memory = max(memory, gib)
            if torch:
                times["PyTorch"] += step_torch(model, B, T, threads, 3)
            if (model, B, T) in peers:
                times["llm.c"] += step_llmc(peers[model, B, T], threads, 3)
            if library:
                rates.append(parse_rate(library.run(threads, 0).stdout))
        ours = statistics.median(times["train_gpt"])
        flops = B * T * MODELS[model][2](T)
        print(f"-- step of {model}, batch {B} x {T}, {threads} threads")
        print(f"train_gpt  {ours:8.3f} s  {1e-9 * flops / ours:6.1f} model GFLOP/s  peak memory {memory:.2f} GiB")
        if rates:
            rate, peak = (statistics.median(getattr(rate, name) for rate in rates) for name in ("flops", "peak"))
            print(f"           {100 * flops / ours / rate:.1f} % of the fastest sgemm, {1e-9 * rate:.1f} GFLOP/s ({library}), "
                  f"{100 * flops / ours / peak:.1f} % of the measured FMA peak, {1e-9 * peak:.1f} GFLOP/s")
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
        cases = {"without overlap": (0, "fp32"), "with overlap": (1, "fp32"), "in BF16 without overlap": (0, "bf16"),
                 "in BF16 with overlap": (1, "bf16")}
        steps = {case: [] for case in cases}
        for round_ in range(rounds):
            for case, (overlap, dtype) in cases.items():
                steps[case] += train(data, Path(folder) / f"{overlap}-{dtype}-{round_}", *model, "--vocab-size", 8192,
                                     "--seq-len", 256, "--micro-batch", 4, "--global-batch", 16, "--steps", 6,
                                     "--overlap", overlap, "--reduce-dtype", dtype,
                                     launcher=[ROOT / "scripts/two_hosts.sh", "--rate", rate, "--delay", delay, 2])
    print(f"-- 4 ranks on two hosts, {rate} and {delay} ms between them")
    for case, lines in steps.items():
        step, wait = (statistics.median(line[name] / 1e3 for line in lines) for name in ("step_ms", "comm_ms"))
        print(f"a step {case} {step:.3f} s, {wait:.3f} s of it waiting for messages")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="sgemm, gemm, fp16, step, ranks, overlap; all but the first by default")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="for sgemm and gemm; step uses the maximum")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--library", nargs="+", default=[], metavar="BLAS.so", help="additional BLAS libraries to try")
    parser.add_argument("--llmc", nargs="+", default=[], metavar="DIR", help="folders with a compiled llm.c")
    parser.add_argument("--rate", default="1gbit", help="bandwidth between the two hosts, in tc syntax")
    parser.add_argument("--delay", type=float, default=0.2, help="latency between the two hosts in ms")
    parser.add_argument("--short", action="store_true", help="tiny model for ranks and overlap")
    args = parser.parse_args()
    known = ["sgemm", "gemm", "fp16", "step", "ranks", "overlap"]
    what = args.what or known[1:]
    if not set(what) <= set(known):
        parser.error(f"the benchmarks are {', '.join(known)}")
    if "sgemm" in what:
        for threads in args.threads:
            choose_sgemm(threads, args.library)
    if "gemm" in what:
        for threads in args.threads:
            bench_gemm(threads, args.library)
    if "fp16" in what:
        for threads in args.threads:
            bench_fp16(threads, args.rounds)
    if "step" in what:
        bench_step(max(args.threads), args.rounds, args.llmc, args.library)
    if "ranks" in what:
        bench_ranks(args.rounds, SHORT_MODEL if args.short else ["--model", "124m"])
    if "overlap" in what:
        bench_overlap(args.rounds, SHORT_MODEL if args.short else OVERLAP_MODEL, args.rate, args.delay)


if __name__ == "__main__":
    main()
