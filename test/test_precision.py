"""--precision fp16: the FP16 products against their specification in kernels_ref.h, the
specification against an independent one in NumPy, the same bits on every machine and grid."""
import importlib.util
import json
import re
import subprocess

import numpy as np
import pytest

from support import QEMU_CPUS, ROOT, arguments, checkpoint, fails, read_log, run, state_bytes
from test_kernels import compile_program

spec = importlib.util.spec_from_file_location("precision", ROOT / "scripts/precision.py")
precision = importlib.util.module_from_spec(spec)
spec.loader.exec_module(precision)

CHUNK = 128
EMULATED = "this CPU has no FP16 arithmetic"


@pytest.mark.parametrize("build, options", [
    ("native", {}), ("asan", dict(only="matmul_backward")), ("clang", dict(only="matmul_forward")),
    ("a64fx", dict(only="matmul_forward_no_bias")), pytest.param("a64fx", {}, marks=pytest.mark.full)])
def test_check(build, options):
    """Products equal those of the reference bit for bit, with values of any size; what follows an
    exponential stays within a bound."""
    result = run([*arguments("kernels", precision="fp16", **options), "--check"], build=build, threads=2, timeout=900)
    checked, failed = map(int, re.search(r"(\d+) checked, (\d+) failed", result.out).groups())
    assert checked >= 40 and failed == 0
    assert "matmul_" in result.out and "layernorm" not in result.out, "only products depend on the precision"


def golden(**options):
    return [*arguments("kernels", precision="fp16", **options), "--golden"]


@pytest.mark.parametrize("build, threads", [("native", 1), ("native", 2), ("native", 3), ("clang", 2)])
def test_golden(build, threads):
    run(golden(), build=build, threads=threads, timeout=600)


@pytest.mark.parametrize("build, options", [
    *((build, dict(golden_steps=1, only="gpt2")) for build in ("asan", "a64fx", "sve128")),
    *(pytest.param(cpu, dict(golden_steps=1), marks=pytest.mark.full) for cpu in QEMU_CPUS),
    pytest.param("a64fx", dict(only="gpt2"), marks=pytest.mark.full)])
def test_golden_elsewhere(build, options):
    """FP16 arithmetic of an (emulated) CPU that has it gives the bits of our emulation. All 20 steps
    are checked against the golden hash by the program itself."""
    def hashes(result):
        return re.findall(r"golden run of (\w+): ([0-9a-f]{64})", result.out)
    assert hashes(run(golden(**options), build=build, threads=2, timeout=1800)) == hashes(run(golden(**options)))


# --------------------------------------------------------------------------------------------------
# The specification

PRODUCT = """
#include <stdio.h>
#include <stdlib.h>
#include "kernels_ref.h"

int main(int argc, char **argv) {
    const size_t M = strtoul(argv[argc - 3], 0, 10), N = strtoul(argv[argc - 2], 0, 10), K = strtoul(argv[argc - 1], 0, 10);
    float *a = malloc(M * K * 4), *b = malloc(K * N * 4), *out = calloc(M * N, 4);
    if (fread(a, 4, M * K, stdin) != M * K || fread(b, 4, K * N, stdin) != K * N) {
        return 1;
    }
    add_fp16_product_ref(out, (MatrixView){a, K, 1}, (MatrixView){b, N, 1}, M, N, K);
    return fwrite(out, 4, M * N, stdout) != M * N;
}
"""


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """product(a, b): the reference's FP16 product."""
    program = compile_program(tmp_path_factory.mktemp("product"), PRODUCT)

    def multiply(a, b):
        (M, K), N = a.shape, b.shape[1]
        result = subprocess.run([program, str(M), str(N), str(K)], capture_output=True, check=True,
                                input=a.astype("<f4").tobytes() + b.astype("<f4").tobytes())
        return np.frombuffer(result.stdout, "<f4").reshape(M, N)
    return multiply


def matrices(kind):
    random = np.random.default_rng(sum(map(ord, kind)))
    a, b = (np.float32(random.standard_normal(shape)) for shape in ((13, 300), (300, 17)))
    if kind == "tiny":
        a *= np.float32(1e-12)
    elif kind == "huge":
        a, b = a * np.float32(1e15), b * np.float32(1e15)
    elif kind == "outlier":
        a[:, 100] *= 1000
    elif kind == "mixed":
        a *= np.float32(10.0) ** random.integers(-12, 12, (13, 1))
        b *= np.float32(10.0) ** random.integers(-12, 12, (1, 17))
    elif kind == "wide":  # within a chunk too
        a = np.float32(a * 10.0 ** random.integers(-20, 5, a.shape))
    elif kind == "constant":  # the largest sums that a chunk can have
        a[:], b[:] = np.float32(1.9999), np.float32(-0.9999)
    elif kind == "sparse":
        a[random.random(a.shape) < 0.95] = 0
        a[3] = 0
    return a, b


KINDS = ["normal", "tiny", "huge", "outlier", "mixed", "wide", "constant", "sparse"]


@pytest.mark.parametrize("kind", KINDS)
def test_specification(product, kind):
    """The reference equals NumPy's FP16 bit for bit, without overflow or subnormal numbers, and the
    exact product within 0.035 of |a| |b| a chunk: 64 roundings of 2^-11 each, and those of the
    entries."""
    a, b = matrices(kind)
    out = product(a, b)
    assert np.array_equal(out, precision.product(a, b))
    bound = sum(np.outer(np.linalg.norm(np.float64(a[:, k:k + CHUNK]), axis=1),
                         np.linalg.norm(np.float64(b[k:k + CHUNK]), axis=0)) for k in range(0, 300, CHUNK))
    assert (np.abs(out - np.float64(a) @ np.float64(b)) <= 0.035 * bound).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_not_finite(product, value):
    """A number that is not finite makes its row not finite, and no other."""
    a, b = matrices("normal")
    a[5, 150] = value
    out = product(a, b)
    assert not np.isfinite(out[5]).any() and np.isfinite(np.delete(out, 5, axis=0)).all()


def test_error_and_bias(product):
    """Relative error as measured when the chunk was chosen, and no bias: docs/precision.md."""
    random = np.random.default_rng(7)
    a, b = np.float32(random.standard_normal((64, 768))), np.float32(random.standard_normal((768, 64)))
    out, exact = product(a, b), np.float64(a) @ np.float64(b)
    assert 1.1e-3 < np.linalg.norm(out - exact) / np.linalg.norm(exact) < 1.4e-3
    assert abs((np.sign(exact) * (out - exact)).sum() / np.abs(exact).sum()) < 1e-4


# --------------------------------------------------------------------------------------------------
# Training

@pytest.fixture(scope="module")
def half_run(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("half") / "run"
    return out, run([*tiny(out, precision="fp16", global_batch=8), "--reproducible"])


def test_trains(tiny, half_run, tmp_path):
    """Losses close to those of FP32, but not the same; everything on record."""
    out, result = half_run
    run(tiny(tmp_path / "run", global_batch=8))
    a, b = read_log(out), read_log(tmp_path / "run")
    assert np.allclose(a.column("loss"), b.column("loss"), rtol=1e-3) and a.column("loss") != b.column("loss")
    first = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    assert first["options"]["precision"] == "fp16" and "fp16 products" in result.out
    assert "block-scaled float16" in (checkpoint(out, 8) / "README.md").read_text()
    assert result.err.count(EMULATED) <= 1


@pytest.mark.parametrize("ranks, threads", [(1, 2), (1, 3), (2, 1), (4, 1)])
def test_same_bits(tiny, half_run, ranks, threads, tmp_path):
    run([*tiny(tmp_path / "run", precision="fp16", global_batch=8), "--reproducible"], ranks=ranks, threads=threads)
    assert state_bytes(checkpoint(tmp_path / "run", 8)) == state_bytes(checkpoint(half_run[0], 8))


def test_resume(tiny, half_run, tmp_path):
    flags = dict(precision="fp16", global_batch=8)
    run([*tiny(tmp_path / "run", **flags, steps=4, schedule="constant"), "--reproducible"])
    run([*tiny(tmp_path / "one", **flags, schedule="constant"), "--reproducible"])
    run([*tiny(tmp_path / "run", **flags, schedule="constant"), "--reproducible"])
    assert state_bytes(checkpoint(tmp_path / "run", 8)) == state_bytes(checkpoint(tmp_path / "one", 8))


@pytest.mark.parametrize("tp, pp, zero", [(3, 1, 0), (1, 2, 0), (1, 1, 1)])
def test_grids(tiny, half_run, tp, pp, zero, tmp_path):
    """Other grids cut sums elsewhere: losses within FP16's rounding."""
    run(tiny(tmp_path / "run", precision="fp16", global_batch=8, tp=tp, pp=pp, zero=zero), ranks=max(2, tp))
    assert np.allclose(read_log(tmp_path / "run").column("loss"), read_log(half_run[0]).column("loss"), rtol=1e-3)


def test_reference_kernels(tiny, half_run, tmp_path):
    run(tiny(tmp_path / "run", precision="fp16", global_batch=8, kernels="ref"))
    assert np.allclose(read_log(tmp_path / "run").column("loss"), read_log(half_run[0]).column("loss"), rtol=1e-4)


def test_eval_and_generate(tiny, half_run):
    model = checkpoint(half_run[0], 8)
    losses = [float(re.search(r"loss (\d+\.\d+)", run(arguments(
        "eval", checkpoint=model, data=tiny.data, val_data=tiny.data, micro_batch=2, precision=p)).out)[1])
        for p in ("fp32", "fp16")]
    assert np.isclose(*losses, rtol=1e-3)


def test_usage():
    fails(["train", "--precision", "fp8"], 2, "--precision", "fp32|fp16")
    fails(["kernels", "--golden", "--only", "frob"], 1, "frob")


def test_plan(tmp_path):
    """Half the arithmetic time at the same efficiency; a machine without the figures is refused."""
    shape = dict(model="13b", nodes=288, tp=6, pp=8, machine="fugaku", micro_batch=1, global_batch=1152)
    def plan(**options):
        return json.loads(run([*arguments("plan", **shape, **options), "--json"]).out.splitlines()[0])
    slow, fast = plan(efficiency=0.5), plan(efficiency=0.5, precision="fp16")
    assert np.isclose(slow["compute_s"], 2 * fast["compute_s"])
    assert plan()["compute_s"] > fast["compute_s"]

    text = run(arguments("plan", **shape)).out
    figures = {"name": "old", **{m[1]: {"value": float(m[2]), "from": "x"} for m in
                                 re.finditer(r"^  (\w+) +([\d.e+-]+) .*\[.*\]$", text[text.index("machine fugaku"):], re.M)
                                 if not m[1].startswith("fp16")}}
    (tmp_path / "old.json").write_text(json.dumps(figures))
    old = {**shape, "machine": tmp_path / "old.json"}
    run(arguments("plan", **old))
    fails(arguments("plan", **old, precision="fp16"), 2, "old.json", "fp16_peak_flops")
