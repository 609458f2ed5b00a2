"""The kernels: reference kernels against central differences, fast kernels against reference
kernels, and bit-identical results.

test_kernels.c checks the gradients and states its bounds. `train_gpt kernels --check` compares the
two kernel sets within bounds derived from the length of each sum. `kernels --golden` hashes 20
training steps; the hash is the same on every machine.
"""
import os
import re
import shutil
import subprocess

import pytest

from support import BUILD, QEMU_CPUS, ROOT, SANITIZERS, fails, run

NATIVE = ["native", "asan", "clang"]


def built(make_target):
    subprocess.run(["make", "--no-print-directory", make_target], cwd=ROOT, check=True)


@pytest.mark.parametrize("target", ["test_kernels", "test_kernels.asan"])
def test_gradients(target):
    built(f"build/{target}")
    result = subprocess.run([BUILD / target], env={**os.environ, **SANITIZERS}, text=True, capture_output=True,
                            timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = result.stdout.strip().splitlines()[-1]
    assert re.search(r"[1-9]\d* passed, 0 failed", summary), summary


@pytest.mark.parametrize("build", [*NATIVE, "a64fx", pytest.param("sve128", marks=pytest.mark.full)])
def test_check(build):
    result = run(["kernels", "--check"], build=build, threads=2, timeout=600)
    checked, failed = map(int, re.search(r"(\d+) checked, (\d+) failed", result.out).groups())
    assert checked >= 300 and failed == 0
    for kernel in "embedding_forward_shard", "matmul_forward_no_bias", "matmul_backward_weight_no_bias":
        assert kernel in result.out, "a kernel that only TP ranks above 0 call is not checked"
    if build.startswith("sve"):
        assert f"vectors of {build[3:]} bits" in result.out, "qemu ran with a different vector length"


@pytest.mark.parametrize("build, threads", [("native", 1), ("native", 2), ("native", 3), ("asan", 2), ("clang", 2)])
def test_golden(build, threads):
    """The golden hash matches for any number of threads, compiler and instruction set."""
    run(["kernels", "--golden"], build=build, threads=threads, timeout=600)


FIRST_STEP = ["kernels", "--golden", "--golden-steps", 1]  # all 20 take minutes under emulation


def golden_hashes(output):
    hashes = re.findall(r"golden run of (\w+): ([0-9a-f]{64}), \d steps", output)
    assert [family for family, _ in hashes] == ["gpt2", "llama", "qwen3"]
    return hashes


@pytest.mark.full
def test_golden_on_a64fx():
    """All 20 steps under emulation."""
    run(["kernels", "--golden"], build="a64fx", threads=2, timeout=1200)


@pytest.mark.parametrize("build", [pytest.param(cpu, marks=[pytest.mark.full] if cpu == "sve1024" else [])
                                   for cpu in QEMU_CPUS])
def test_golden_at_every_vector_length(build):
    assert golden_hashes(run(FIRST_STEP, build=build, threads=2, timeout=600).out) == golden_hashes(run(FIRST_STEP).out)


# -O0: compiling takes longer than running, and the bits are the same.
CFLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O0", "-ffp-contract=off", "-march=native", "-fopenmp", "-Wno-psabi"]


def compile_program(folder, source):
    """Compiles a program against the repository's headers; headers in `folder` take precedence."""
    (folder / "program.c").write_text(source)
    subprocess.run(["gcc", "-I.", "-I", ROOT, *CFLAGS, "program.c", "-o", "program", "-lm"], cwd=folder, check=True)
    return folder / "program"


@pytest.mark.parametrize("check", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize("flags", ["-DSHIM_BYTES=256", "-march=x86-64", "-march=x86-64-v3"])
def test_shim(flags, check, tmp_path):
    """The SVE shim gives the same bits at other vector lengths and on older x86 machines: without
    FMA and with vectors of 128 bits; with AVX2."""
    program = tmp_path / "train_gpt"
    subprocess.run(["mpicc", "-I.", *CFLAGS, flags, "train_gpt.c", "-o", program, "-lm"], cwd=ROOT, check=True)
    args = FIRST_STEP + ["--check"] * check
    result = subprocess.run([program, *map(str, args)], capture_output=True, text=True, timeout=600,
                            env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert golden_hashes(result.stdout) == golden_hashes(run(FIRST_STEP).out)

    half = [*map(str, FIRST_STEP), "--precision", "fp16", "--only", "gpt2"]
    result = subprocess.run([program, *half], capture_output=True, text=True, timeout=600, check=True)
    assert result.stdout.split()[4] == run(half).out.split()[4]


CHECK = """
#include "kernels/check.h"

int main(void) {
    return !check_kernels("attention_forward", PRECISION_FP32, &(Error){0});
}
"""


def test_check_can_fail(tmp_path):
    """The check detects a coefficient of exp that is wrong in the fourth digit. (test_check shows
    that it passes with the right one.)"""
    (tmp_path / "kernels").mkdir()
    for source in [*ROOT.glob("kernels/*.h"), *ROOT.glob("kernels_*.h")]:
        shutil.copy(source, tmp_path / source.relative_to(ROOT))
    maths = tmp_path / "kernels/vector_math_sve.h"
    assert "4.99999851e-1f" in maths.read_text()
    maths.write_text(maths.read_text().replace("4.99999851e-1f", "4.999e-1f"))

    wrong = subprocess.run([compile_program(tmp_path, CHECK)], capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 1 and "FAIL" in wrong.stdout


RESERVE = """
#include "kernels_sve.h"

int main(void) {
    static float a[4] = {1, 2, 3, 4}, out[4];
    if (pack_scratch_reserve(SIZE_MAX / 8) || pack_scratch_reserve((size_t)1 << 60)) {
        return 1;
    }
    matmul_forward_sve(out, a, a, NULL, NULL, IN_OUT, PRECISION_FP32, 2, 2, 2);
    return out[0] != 7 || out[3] != 22;
}
"""


def test_oversized_scratch(tmp_path):
    """Reserving too much packing memory returns an error instead of ending the process."""
    assert subprocess.run([compile_program(tmp_path, RESERVE)], timeout=60).returncode == 0


def test_usage():
    fails(["kernels"], 2, "--check")
    fails(["kernels", "--check", "--only", "frob"], 1, "frob")
    fails(["kernels", "--check=1"], 2, "no value")
    out = run(["kernels", "--bench", "--only", "sum_of_squares"]).out
    assert re.search(r"sum_of_squares .* GB/s .* of peak, .* x ref", out)
