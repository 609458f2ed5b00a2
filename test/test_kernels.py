"""Runs the C unit tests of the kernels (test_kernels.c): every gradient against central differences in double.

The bounds stand in test_kernels.c beside each check. Run once as users build it and once under sanitizers.
"""
import os
import re
import subprocess

import pytest

import support


@pytest.mark.parametrize("target", ["test_kernels", "test_kernels.asan"])
def test_kernels(target):
    subprocess.run(["make", "--no-print-directory", f"build/{target}"], cwd=support.ROOT, check=True)
    result = subprocess.run([support.BUILD / target], env={**os.environ, **support.SANITIZERS}, text=True,
                            capture_output=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    closing = result.stdout.strip().splitlines()[-1]
    assert re.search(r"[1-9]\d* passed, 0 failed", closing), closing
