#!/usr/bin/env python3
"""What FP16 products do to a run: the measurements of docs/precision.md.

    build/venv/bin/python scripts/precision.py errors
    build/venv/bin/python scripts/precision.py gradients DATA OUT [--steps 1 100 1000]
    build/venv/bin/python scripts/precision.py quality DATA OUT [--models quickstart gpt2-30m llama-30m]
                                                                [--seeds 42 43 44] [--only fp32|fp16]
    build/venv/bin/python scripts/precision.py extremes DATA OUT [--run-steps 200]
    build/venv/bin/python scripts/precision.py plot OUT PICTURE

errors: relative error and bias of a product in NumPy, by chunk and by what the scale is chosen from,
      on several kinds of data. BF16 inputs with exact sums for comparison.
gradients: the gradients of one step in FP16 and in FP32 from the same checkpoint, after 0, 99 and 999
      steps in FP32: relative difference of each tensor. (With --beta1 0 AdamW's first moment is the
      gradient.)
quality: trains each model and seed in both precisions and compares the validation losses. Runs that
      are interrupted resume; finished ones are not repeated. On a CPU without FP16 arithmetic the
      30M models take hours per run.
extremes: a model with one channel of the embedding 1,000 times as large, and one whose gradients are
      1e-10 times as large (a program built for it), in both precisions.
plot: the difference of the training losses to FP32's by step. Requires matplotlib.

DATA: a folder made by prepare; OUT: a folder for the runs.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
# Batches of one sequence, because under emulation a token of these costs 30 ms of a core.
SMALL_BATCHES = dict(micro_batch=1, global_batch=1, steps=2000, lr=5e-4, min_lr=5e-5, warmup_steps=100, schedule="wsd",
                     init_std=0.02, seq_len=128, eval_every=1000, eval_batches=320)
MODELS = {
    # as scripts/quickstart.sh trains it
    "quickstart": dict(layers=4, heads=4, channels=192, micro_batch=4, global_batch=8, steps=2500, lr=1e-3, min_lr=1e-4,
                       warmup_steps=40, schedule="wsd", init_std=0.02, seq_len=128, eval_every=100, eval_batches=40),
    "gpt2-30m": dict(layers=8, heads=8, channels=512, **SMALL_BATCHES),
    "llama-30m": dict(family="llama", layers=8, heads=8, kv_heads=4, channels=512, mlp_channels=1408, **SMALL_BATCHES),
}


# --------------------------------------------------------------------------------------------------
# Errors of a product

def half(x):
    """x rounded to FP16 by NumPy, which must neither overflow nor give a subnormal number."""
    y = np.float64(np.float16(x))
    assert np.isfinite(y).all() and ((y == 0) | (np.abs(y) >= 2**-14)).all()
    return y


def scaled(x, rule):
    """Chunks (rows, k) as FP16 numbers and the power of two of each: "norm" is the rule of
    fp16_chunk_ref; "largest" scales the largest number below 32 instead."""
    if rule == "largest":
        power = 5 - np.frexp(np.abs(x).max(axis=1) * 1.0417)[1]
    else:
        exponent = np.maximum(np.frexp(np.abs(x).max(axis=1))[1], -102)
        squares = (np.rint(np.ldexp(x, (8 - exponent)[:, None]))**2).sum(axis=1)
        power = np.select([squares <= 59698 * 4**i for i in range(4)], [8, 7, 6, 5], 4) - exponent
    return half(np.rint(np.ldexp(x, power[:, None]) * 128) / 128), power


def product(a, b, chunk=128, rule="norm"):
    """a b as kernels_ref.h specifies FP16 products, of which each operation is exact in double
    before it is rounded; or with another chunk or rule."""
    a, b = np.float64(a), np.float64(b)
    out = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k0 in range(0, a.shape[1], chunk):
        (rows, row_power), (columns, column_power) = scaled(a[:, k0:k0 + chunk], rule), scaled(b[k0:k0 + chunk].T, rule)
        sums = [np.zeros(out.shape), np.zeros(out.shape)]
        for k in range(rows.shape[1]):
            sums[k % 2] = half(np.outer(rows[:, k], columns[:, k]) + sums[k % 2])
        total = np.float64(np.float32(sums[0] + sums[1]))
        out = np.float32(out + np.ldexp(total, -(row_power[:, None] + column_power[None, :])))
    return out


def bf16(x):
    bits = np.float32(x).view(np.uint32)
    return np.float64(((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32))


def errors(_):
    random = np.random.default_rng(1)
    normal, outlier = (random.standard_normal((96, 768)) for _ in range(2))
    other, silent = (random.standard_normal((768, 96)) for _ in range(2))
    outlier[:, 100] *= 1000
    silent[100] = 0
    softmax = np.exp(4 * random.standard_normal((96, 768)))
    softmax /= softmax.sum(axis=1, keepdims=True)
    cases = {"normal x normal": (normal, other), "positive x positive": (np.abs(normal), np.abs(other)),
             "softmax x (normal + 1)": (softmax, other + 1), "a column x 1,000": (outlier, other),
             "a column x 1,000 that meets zero": (outlier, silent)}
    print("| data | scale by | chunk | relative error | bias |\n| --- | --- | ---: | ---: | ---: |")
    for name, (a, b) in cases.items():
        exact = a @ b

        def row(kind, chunk, out):
            error = np.linalg.norm(out - exact) / np.linalg.norm(exact)
            bias = (np.sign(exact) * (out - exact)).sum() / np.abs(exact).sum()
            print(f"| {name} | {kind} | {chunk} | {error:.2e} | {bias:+.1e} |")
        row("(BF16)", "", bf16(a) @ bf16(b))
        for rule in "largest", "norm":
            for chunk in 64, 128, 256:
                row(rule, chunk, product(a, b, chunk, rule))


# --------------------------------------------------------------------------------------------------
# Runs

def train(out, data, program=ROOT / "train_gpt", **options):
    """Trains, or resumes; returns the lines of the log. A model to start from has its own shape."""
    if "init" in options or "resume_from" in options:
        options = {name: value for name, value in options.items() if name not in ("layers", "heads", "channels")}
    environment = {"OMP_NUM_THREADS": str(os.cpu_count()), **os.environ}
    words = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    with open(f"{out}.txt", "ab") as text:
        subprocess.run([program, "train", "--data", data, "--out", out, *words], check=True, env=environment, stdout=text,
                       stderr=text)
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def validation(log):
    return [line["val_loss"] for line in log if "val_loss" in line]


def quality(a):
    print("| model | seed | FP32 | FP16 | difference |\n| --- | --- | ---: | ---: | ---: |", flush=True)
    for model in a.models:
        differences, losses = [], []
        for seed in a.seeds:
            last = {}
            for precision in a.only or ("fp32", "fp16"):
                last[precision] = validation(train(a.out / f"{model}-{seed}-{precision}", a.data, **MODELS[model], seed=seed,
                                                   precision=precision, save_every=50, keep=1))[-1]
            if len(last) == 2:
                differences.append(last["fp16"] - last["fp32"])
                losses.append(last["fp32"])
                print(f"| {model} | {seed} | {last['fp32']:.4f} | {last['fp16']:.4f} | {differences[-1]:+.4f} |", flush=True)
        if len(losses) > 1:
            print(f"| {model} | mean | spread of seeds {statistics.stdev(losses):.4f} | | "
                  f"{statistics.mean(differences):+.4f} |", flush=True)


def moments(run):
    """AdamW's first moments by tensor, of the latest checkpoint."""
    found = {}
    latest = max(p for p in run.iterdir() if re.fullmatch(r"step-\d+", p.name))
    for file in latest.glob("optimizer-*.safetensors"):
        found.update({name: x for name, x in load_file(file).items() if "exp_avg" in name and "sq" not in name})
    return found


def gradients(a):
    same = {**MODELS["quickstart"], "schedule": "constant", "warmup_steps": 0, "eval_every": 0, "keep": 0}
    for step in a.steps:
        start = {}
        if step > 1:
            train(a.out / "base", a.data, **{**same, "steps": step - 1, "save_every": step - 1})
            start = {"resume_from": a.out / f"base/step-{step - 1:06d}"}
        got = {}
        for precision in "fp32", "fp16":
            out = a.out / f"step-{step}-{precision}"
            shutil.rmtree(out, ignore_errors=True)
            train(out, a.data, **{**same, **start, "steps": step, "save_every": step, "precision": precision, "beta1": 0,
                                  "clip": 0})
            got[precision] = moments(out)
        print(f"\nstep {step}: relative difference of the gradients\n\n| tensor | |\n| --- | ---: |", flush=True)
        for name, x in got["fp32"].items():
            size = np.linalg.norm(np.float64(x))
            print(f"| {name} | {np.linalg.norm(np.float64(got['fp16'][name]) - x) / size if size else 0:.1e} |", flush=True)


def extremes(a):
    same = {**MODELS["quickstart"], "steps": a.run_steps, "warmup_steps": min(40, a.run_steps), "eval_every": a.run_steps,
            "save_every": 0}
    start = a.out / "start"
    shutil.rmtree(start, ignore_errors=True)
    train(start, a.data, **{**same, "steps": 1, "warmup_steps": 0, "save_every": 1})
    model = a.out / "outlier"  # a model folder as from the hub, not a checkpoint with checksums
    model.mkdir(exist_ok=True)
    shutil.copy(start / "step-000001/config.json", model)
    tensors = load_file(start / "step-000001/model.safetensors")
    name = next(n for n in tensors if n.endswith("wte.weight"))
    tensors[name][:, 7] *= 1000
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})

    source = (ROOT / "train_gpt.c").read_text()
    scale = "{1 / (float)(t->setup.global_batch * t->setup.seq_len),"
    assert scale in source
    (a.out / "small_gradients.c").write_text(source.replace(scale, scale.replace("{1 /", "{1e-10f /")))
    program = a.out / "small_gradients"
    subprocess.run(["mpicc", f"-I{ROOT}", "-std=c11", "-D_GNU_SOURCE", "-O3", "-ffp-contract=off", "-march=native",
                    "-fopenmp", '-DGIT_REVISION="gradients x 1e-10"', '-DCOMPILER_FLAGS=""', f"{program}.c", "-o", program,
                    "-lm"], check=True)
    cases = {"outlier": dict(init=model), "plain": dict(clip=0), "gradients x 1e-10": dict(clip=0, eps=1e-18, program=program)}
    print("| run | FP32 | FP16 | largest difference of a step's loss |\n| --- | ---: | ---: | ---: |", flush=True)
    for case, extra in cases.items():
        logs = {}
        for precision in "fp32", "fp16":
            out = a.out / f"{case.replace(' ', '-')}-{precision}"
            shutil.rmtree(out, ignore_errors=True)
            logs[precision] = train(out, a.data, **same, **extra, precision=precision)
        losses = [np.array([line["loss"] for line in log if "loss" in line]) for log in logs.values()]
        print(f"| {case} | {validation(logs['fp32'])[-1]:.4f} | {validation(logs['fp16'])[-1]:.4f} | "
              f"{np.abs(losses[1] - losses[0]).max():.4f} |", flush=True)


def plot(a):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    runs = sorted(p.parent for p in a.out.glob("*-fp16/log.jsonl"))
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for run in runs:
        pair = [run.with_name(run.name[:-4] + p) for p in ("fp32", "fp16")]
        loss = [{line["step"]: line["loss"] for line in map(json.loads, (p / "log.jsonl").read_text().splitlines())
                 if "loss" in line} for p in pair]
        steps = sorted(loss[0].keys() & loss[1].keys())
        difference = np.array([loss[1][s] - loss[0][s] for s in steps])
        window = min(50, len(steps))
        axes.plot(steps[window - 1:], np.convolve(difference, np.ones(window) / window, "valid"), label=run.name[:-5])
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(xlabel="step", ylabel="training loss, FP16 minus FP32 (nats)", title="mean of 50 steps")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(a.picture, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for function in errors, gradients, quality, extremes, plot:
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        if function in (gradients, quality, extremes):
            command.add_argument("data", type=lambda p: Path(p).resolve())
        if function is not errors:
            command.add_argument("out", type=lambda p: Path(p).resolve())
    commands.choices["gradients"].add_argument("--steps", type=int, nargs="+", default=[1, 100, 1000])
    commands.choices["quality"].add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    commands.choices["quality"].add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    commands.choices["quality"].add_argument("--only", type=lambda p: [p], choices=[["fp32"], ["fp16"]])
    commands.choices["extremes"].add_argument("--run-steps", type=int, default=200)
    commands.choices["plot"].add_argument("picture")
    a = parser.parse_args()
    if "out" in a:
        a.out.mkdir(parents=True, exist_ok=True)
    a.function(a)


if __name__ == "__main__":
    sys.exit(main())
