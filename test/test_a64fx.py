"""The program cross-compiled for A64FX, run under qemu's model of that CPU with two MPI ranks.

Compiler, vector length and libm's exp and tanh differ, so losses agree to within 1e-5 in float32.
"""
import shutil
import subprocess

import numpy as np
import pytest

from support import BINARIES, ROOT, arguments, checkpoint, read_log, run, stable_log, state_bytes


@pytest.fixture(scope="module", autouse=True)
def binary():
    subprocess.run(["make", "--no-print-directory", "a64fx"], cwd=ROOT, check=True)
    kind = subprocess.run(["readelf", "-h", BINARIES["a64fx"]], check=True, capture_output=True, text=True).stdout
    assert "AArch64" in kind


def test_trains_as_native(tiny, tmp_path):
    for build in "native", "a64fx":
        run(tiny(tmp_path / build, steps=6, val_data=tiny.data, eval_every=3), ranks=2, threads=2, build=build,
            timeout=300)
    native, a64fx = read_log(tmp_path / "native"), read_log(tmp_path / "a64fx")
    assert len(a64fx.steps) == 6 and [line["step"] for line in a64fx.evals] == [0, 3, 6]
    assert np.allclose([line["val_loss"] for line in a64fx.evals], [line["val_loss"] for line in native.evals], rtol=0,
                       atol=1e-5)
    assert np.allclose(a64fx.column("loss"), native.column("loss"), rtol=0, atol=1e-5)
    assert np.allclose(a64fx.column("grad_norm"), native.column("grad_norm"), rtol=1e-4, atol=0)
    assert a64fx.head != native.head


def test_resumes_and_moves(tiny, tmp_path):
    """A run resumes bit for bit on the architecture that wrote the checkpoint, and can be resumed on the other."""
    full, cut = tmp_path / "full", tmp_path / "cut"
    run(tiny(full, steps=4), build="a64fx", timeout=300)
    shutil.copytree(full, cut)
    shutil.rmtree(checkpoint(cut, 4))
    moved = tmp_path / "moved"
    shutil.copytree(cut, moved)
    run(tiny(cut, steps=4), build="a64fx", threads=2, timeout=300)
    assert stable_log(cut) == stable_log(full)
    assert state_bytes(checkpoint(cut, 4)) == state_bytes(checkpoint(full, 4))
    run(tiny(moved, steps=4))
    assert np.allclose(read_log(moved).column("loss"), read_log(full).column("loss"), rtol=0, atol=1e-5)
    out = run(arguments("eval", checkpoint=checkpoint(full, 4), data=tiny.data)).out
    assert "loss" in out
