"""The kernels: the reference against central differences, the fast ones against the reference, and their bits.

test_kernels.c has the gradients, with its bounds. `train_gpt kernels --check` compares the two tables within a bound that
follows from the length of each sum. `kernels --golden` hashes 20 training steps: one hash for every machine.
"""
import os
import re
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
    closing = result.stdout.strip().splitlines()[-1]
    assert re.search(r"[1-9]\d* passed, 0 failed", closing), closing


@pytest.mark.parametrize("build", NATIVE + list(QEMU_CPUS))
def test_check(build):
    result = run(["kernels", "--check"], build=build, threads=2, timeout=600)
    checked, failed = map(int, re.search(r"(\d+) checked, (\d+) failed", result.out).groups())
    assert checked >= 300 and failed == 0
    if build.startswith("sve"):
        assert f"vectors of {build[3:]} bits" in result.out, "qemu ran another vector length"


@pytest.mark.parametrize("build, threads", [("native", 1), ("native", 2), ("native", 3), ("asan", 2), ("clang", 2),
                                            *((cpu, 2) for cpu in QEMU_CPUS)])
def test_golden(build, threads):
    """The same bits for any number of threads, vector length, compiler and instruction set."""
    run(["kernels", "--golden"], build=build, threads=threads, timeout=300)


def compile_program(folder, *flags):
    """A program from the sources in `folder`, where it has them, else from the repository's."""
    for source in [*ROOT.glob("*.h"), ROOT / "train_gpt.c"]:
        if not (folder / source.name).exists():
            (folder / source.name).write_text(source.read_text())
    subprocess.run(["mpicc", "-I", str(ROOT), "-std=c11", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", "-march=native", "-fopenmp", "-Wno-psabi",
                    *flags, "train_gpt.c", "-o", "train_gpt", "-lm"], cwd=folder, check=True)
    return folder / "train_gpt"


@pytest.mark.parametrize("flags", [["-DSHIM_BYTES=16"], ["-DSHIM_BYTES=256"], ["-march=x86-64-v3"], ["-march=x86-64"]])
def test_shim(flags, tmp_path):
    """The shim at other vector lengths, and on lesser x86 machines (AVX2; no FMA), gives the same bits too."""
    program = compile_program(tmp_path, *flags)
    result = subprocess.run([program, "kernels", "--golden", "--check"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr


def test_check_can_fail(tmp_path):
    """A coefficient of exp that is off in the fourth digit is found, with status 1."""
    source = (ROOT / "kernels_sve.h").read_text()
    assert "4.99999851e-1f" in source
    (tmp_path / "kernels_sve.h").write_text(source.replace("4.99999851e-1f", "4.999e-1f"))
    program = compile_program(tmp_path)
    result = subprocess.run([program, "kernels", "--check", "--only", "attention_forward"], capture_output=True, text=True,
                            timeout=300)
    assert result.returncode == 1 and "FAIL" in result.stdout and "failed" in result.stderr


def test_usage():
    fails(["kernels"], 2, "--check")
    fails(["kernels", "--check", "--only", "frob"], 1, "frob")
    fails(["kernels", "--check=1"], 2, "no value")
    out = run(["kernels", "--bench", "--only", "sum_of_squares"]).out
    assert re.search(r"sum_of_squares .* GB/s .* of peak, .* x ref", out)
